"""PATCH of an image: JSON-patch as Glance understands it, in its 2.0 and 2.1 spelling, and only for whole attributes."""

from typing import Any

import msgspec

from kilonova.core.errors import BadRequest, UnsupportedMediaType
from kilonova.image.api.bodies import CHECKS, checked, guard
from kilonova.image.errors import FormatFixed, NoSuchProperty, NotRemovable, PropertyExists, ReadOnly
from kilonova.image.model import Image

TYPES = ("application/openstack-images-v2.0-json-patch", "application/openstack-images-v2.1-json-patch")
VERBS = ("add", "remove", "replace")
MAX_CHANGES = 1000


class WrongPatchType(UnsupportedMediaType):
    code = "image.patch_type"
    title = "The request media type {given} is not supported by this server. Image PATCH expects Content-Type one of: {accepted}"

    @property
    def headers(self) -> dict[str, str]:
        return {"accept-patch": ", ".join(TYPES)}


class Change(msgspec.Struct, frozen=True):
    verb: str
    name: str
    value: Any
    strict: bool
    """2.0: adding what is there already is a conflict."""


def kind_of(content_type: str | None) -> str:
    """One of TYPES. Raises WrongPatchType."""
    kind = (content_type or "").partition(";")[0].strip().lower()
    if kind not in TYPES:
        raise WrongPatchType(given=kind or "(none)", accepted=", ".join(TYPES))
    return kind


def changes(kind: str, body: Any) -> list[Change]:
    """Raises BadRequest, and what `checked` raises for values."""
    if not isinstance(body, list):
        raise BadRequest("Request body must be a JSON array of operation objects.")
    if len(body) > MAX_CHANGES:
        raise BadRequest(f"Request body must be a JSON array of at most {MAX_CHANGES} operation objects.")
    return [_change(each, old=kind == TYPES[0]) for each in body]


def _change(each: Any, *, old: bool) -> Change:
    if not isinstance(each, dict):
        raise BadRequest("Operations must be JSON objects.")
    verb, pointer = _old_verb(each) if old else _verb(each)
    name = _name(pointer)
    if name == "id":
        raise ReadOnly(name=name)
    guard(name, verb)
    if verb == "remove":
        return Change(verb, name, None, old)
    if "value" not in each:
        raise BadRequest(f'Operation "{verb}" requires a member named "value".')
    return Change(verb, name, checked(name, each["value"]), old)


def _old_verb(each: dict[str, Any]) -> tuple[str, Any]:
    found = [verb for verb in VERBS if verb in each]
    if len(found) != 1:
        raise BadRequest('Operation objects must contain exactly one member named "add", "remove", or "replace".')
    return found[0], each[found[0]]


def _verb(each: dict[str, Any]) -> tuple[str, Any]:
    verb = each.get("op")
    if verb is None:
        raise BadRequest("Unable to find 'op' in JSON Schema change. It must be one of the following: add, remove, replace.")
    if verb not in VERBS:
        raise BadRequest(f"Invalid operation: `{str(verb)[:80]}`. It must be one of the following: add, remove, replace.")
    if "path" not in each:
        raise BadRequest("Unable to find 'path' in JSON Schema change")
    return verb, each["path"]


def _name(pointer: Any) -> str:
    """The attribute that a JSON pointer names."""
    if not isinstance(pointer, str):
        raise BadRequest("A JSON pointer is a text.")
    shown = pointer[:200]
    if not pointer.startswith("/"):
        raise BadRequest(f'Pointer `{shown}` does not start with "/".')
    if "//" in pointer or pointer.endswith("/"):
        raise BadRequest(f"Pointer `{shown}` contains an empty part.")
    if "~" in pointer.replace("~0", "").replace("~1", ""):
        raise BadRequest(f'Pointer `{shown}` contains "~" not part of a recognized escape sequence.')
    first, slash, _ = pointer[1:].partition("/")
    name = first.replace("~1", "/").replace("~0", "~")
    if slash and name != "locations":
        raise BadRequest(f"Invalid JSON pointer for this resource: '{shown}'")
    return name


def applied(image: Image, patch: list[Change]) -> Image:
    """The image with all changes, in order. Raises what Glance raises for each."""
    attributes: dict[str, Any] = {}
    properties = dict(image.properties)
    for change in patch:
        if change.name in CHECKS:
            _base(image, change, attributes)
        elif change.verb == "remove":
            if properties.pop(change.name, None) is None:
                raise NoSuchProperty(name=change.name)
        elif change.verb == "replace" and change.name not in properties:
            raise NoSuchProperty(name=change.name)
        elif change.verb == "add" and change.strict and change.name in properties:
            raise PropertyExists(name=change.name)
        else:
            properties[change.name] = change.value
    return msgspec.structs.replace(image, **attributes, properties=properties)


def _base(image: Image, change: Change, attributes: dict[str, Any]) -> None:
    if change.verb == "remove":
        raise NotRemovable(name=change.name)
    if change.verb == "add" and change.strict:
        raise PropertyExists(name=change.name)
    if change.name in ("disk_format", "container_format") and image.status != "queued":
        raise FormatFixed(name=change.name)
    attributes[change.name] = change.value
