"""What clients may send: attributes of an image, checked one by one, so that create and each line of a PATCH share the checks."""

import re
from collections.abc import Callable
from typing import Any

import msgspec

from kilonova.core.errors import BadRequest
from kilonova.core.http import Request
from kilonova.image.errors import Invalid, LocationsForbidden, ReadOnly, Reserved
from kilonova.image.model import ID_PATTERN, VISIBILITIES
from kilonova.image.schemas import CONTAINER_FORMATS, DISK_FORMATS

READ_ONLY = (
    "created_at",
    "updated_at",
    "status",
    "checksum",
    "size",
    "virtual_size",
    "os_hash_algo",
    "os_hash_value",
    "direct_url",
    "self",
    "file",
    "schema",
    "stores",
)
RESERVED = ("location", "deleted", "deleted_at")
MAX_INTEGER = 2**31 - 1
MAX_PROPERTY_NAME, MAX_PROPERTY_VALUE = 255, 65535
_decode = msgspec.json.decode


async def document(req: Request) -> Any:
    """The JSON body, whatever its content type says (Glance does not look). Raises BadRequest."""
    raw = await req.body()
    if not raw:
        raise BadRequest("Body expected in request.")
    try:
        return _decode(raw)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        raise BadRequest("Malformed JSON in request body.") from None


async def entity(req: Request) -> dict[str, Any]:
    found = await document(req)
    if not found:
        raise BadRequest("Body expected in request.")
    if not isinstance(found, dict):
        raise BadRequest("The request body must be a JSON object.")
    return found


class Wrong(Exception):
    """Why a value is not acceptable."""


def _text(longest: int, *, null: bool) -> Callable[[Any], Any]:
    def check(value: Any) -> Any:
        if value is None and null:
            return value
        if not isinstance(value, str):
            raise Wrong(f"{_shown(value)} is not of type 'string'")
        if len(value) > longest:
            raise Wrong(f"the text is longer than {longest} characters")
        if not value.isprintable() and "\0" in value:
            raise Wrong("the text holds a NUL character")
        return value

    return check


def _one_of(values: tuple[str, ...], *, null: bool) -> Callable[[Any], Any]:
    def check(value: Any) -> Any:
        if (value is None and null) or (isinstance(value, str) and value in values):
            return value
        raise Wrong(f"{_shown(value)} is not one of {[None, *values] if null else list(values)}")

    return check


def _integer(value: Any) -> Any:
    if not isinstance(value, int) or isinstance(value, bool):
        raise Wrong(f"{_shown(value)} is not of type 'integer'")
    if not 0 <= value <= MAX_INTEGER:
        raise Wrong(f"{value} is not between 0 and {MAX_INTEGER}")
    return value


def _boolean(value: Any) -> Any:
    if not isinstance(value, bool):
        raise Wrong(f"{_shown(value)} is not of type 'boolean'")
    return value


def _id(value: Any) -> Any:
    if not isinstance(value, str) or re.fullmatch(ID_PATTERN, value) is None:
        raise Wrong(f"{_shown(value)} does not match '{ID_PATTERN}'")
    return value


def _tags(value: Any) -> Any:
    if not isinstance(value, list):
        raise Wrong(f"{_shown(value)} is not of type 'array'")
    return tuple(dict.fromkeys(tag(each) for each in value))


def _shown(value: Any) -> str:
    return repr(value)[:200]


tag = _text(255, null=False)
_property = _text(MAX_PROPERTY_VALUE, null=False)
CHECKS: dict[str, Callable[[Any], Any]] = {
    "id": _id,
    "name": _text(255, null=True),
    "visibility": _one_of(VISIBILITIES, null=False),
    "owner": _text(255, null=True),
    "disk_format": _one_of(DISK_FORMATS, null=True),
    "container_format": _one_of(CONTAINER_FORMATS, null=True),
    "min_disk": _integer,
    "min_ram": _integer,
    "protected": _boolean,
    "os_hidden": _boolean,
    "tags": _tags,
}


def guard(name: str, verb: str = "add") -> None:
    """Raise unless clients may write an attribute of this name at all."""
    if name in READ_ONLY:
        raise ReadOnly(name=name)
    if name in RESERVED or name.startswith("os_glance_"):
        raise Reserved(name=name[:80])
    if name == "locations":
        raise LocationsForbidden(verb=verb)


def checked(name: str, value: Any) -> Any:
    """The value as the model keeps it. Raises ReadOnly, Reserved, Invalid."""
    guard(name)
    try:
        if name in CHECKS:
            return CHECKS[name](value)
        if not name or len(name) > MAX_PROPERTY_NAME:
            raise Wrong(f"the name of a property has 1 to {MAX_PROPERTY_NAME} characters")
        return _property(value)
    except Wrong as error:
        raise Invalid(schema="image", name=name[:80], reason=str(error)) from None
