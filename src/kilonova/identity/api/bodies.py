"""Request bodies. Keystone keeps attributes that it does not know ("extra"), so a body is a struct plus the rest."""

from collections.abc import Sequence
from typing import Annotated, Any, Literal, TypeVar

import msgspec
from msgspec import UNSET, Meta, UnsetType

from kilonova.core.edge import invalid
from kilonova.core.errors import BadRequest

S = TypeVar("S", bound=msgspec.Struct)
Body = dict[str, Any]
Name = Annotated[str, Meta(min_length=1, max_length=255, pattern=r"\S")]
ProjectName = Annotated[str, Meta(min_length=1, max_length=64, pattern=r"\S")]
Ident = Annotated[str, Meta(min_length=1, max_length=64, pattern="^[a-zA-Z0-9-]+$")]
Tag = Annotated[str, Meta(min_length=1, max_length=255, pattern="^[^,/]*$")]
Tags = Annotated[list[Tag], Meta(max_length=80)]
_YES = Literal["True", "TRUE", "true", "1", "y", "Y", "on", "ON", "yes"]
_NO = Literal["False", "FALSE", "false", "0", "n", "N", "off", "OFF", "no", ""]
Flag = bool | _YES | _NO | None
"""A boolean as Keystone takes it: also as a word. It is stored as a boolean."""


class Immutable(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """Options of a role, a project or a domain."""

    immutable: bool | None | UnsetType = UNSET


def flag(value: Flag | UnsetType, default: bool) -> bool:
    if value is None or value is UNSET:
        return default
    return value if isinstance(value, bool) else value in ("True", "TRUE", "true", "1", "y", "Y", "on", "ON", "yes")


def entity(body: Body, key: str, kind: type[S]) -> tuple[S, dict[str, Any]]:
    """body[key] as `kind`, and the attributes that `kind` does not have. Raises BadRequest naming the field."""
    inner = body.get(key)
    if not isinstance(inner, dict):
        raise BadRequest(f"Invalid input for field/attribute {key}. The body must hold an object called {key}.")
    try:
        known = msgspec.convert(inner, kind)
    except msgspec.ValidationError as error:
        raise BadRequest(invalid(str(error).replace("`$", f"`$.{key}", 1))) from None
    fields = set(kind.__struct_encode_fields__)
    return known, {k: v for k, v in inner.items() if k not in fields and k not in ("id", "links")}


def required(body: Body, key: str, struct: msgspec.Struct, *names: str) -> None:
    """Raises BadRequest when one of these fields was not sent."""
    for name in names:
        if getattr(struct, name) is UNSET:
            shown = msgspec.json.encode(body.get(key)).decode()[:200]
            raise BadRequest(f"Invalid input for field/attribute {key}. Value: {shown}. '{name}' is a required property")


def given(struct: msgspec.Struct) -> dict[str, Any]:
    """The fields that the client sent."""
    return {name: value for name in struct.__struct_fields__ if (value := getattr(struct, name)) is not UNSET}


def sent(body: Body, key: str) -> dict[str, Any]:
    """Every attribute that the client sent; `entity` has made sure that this is an object."""
    inner: dict[str, Any] = body[key]
    return inner


def distinct_tags(tags: Sequence[str]) -> tuple[str, ...]:
    """Raises BadRequest for a tag that is named twice."""
    if len(set(tags)) != len(tags):
        raise BadRequest("Invalid input for field/attribute tags. A tag may be named once.")
    return tuple(sorted(tags))
