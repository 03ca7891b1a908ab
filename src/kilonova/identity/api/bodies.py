"""Request bodies. Keystone keeps attributes that it does not know ("extra"), so a body is a struct plus the rest."""

from typing import Any, TypeVar

import msgspec

from kilonova.core.edge import invalid
from kilonova.core.errors import BadRequest

S = TypeVar("S", bound=msgspec.Struct)
Body = dict[str, Any]


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


def given(struct: msgspec.Struct) -> dict[str, Any]:
    """The fields that the client sent."""
    return {name: value for name in struct.__struct_fields__ if (value := getattr(struct, name)) is not msgspec.UNSET}
