"""What a resource's attributes are: one table each, which drives decoding, errors, filters, sorting, `fields` and policy.

A check takes a value as it came and returns it as it is kept; it raises ValueError with Neutron's reason.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec

from kilonova.core.context import Context
from kilonova.network.domain import ipam
from kilonova.network.errors import BadBody, Invalid

Check = Callable[[Any], Any]
ABSENT = msgspec.UNSET
"""The default of an attribute that is left out when the client does not give it."""


class _Required:
    pass


REQUIRED = _Required()
_UUID = re.compile(r"^[0-9a-fA-F]{8}-?[0-9a-fA-F]{4}-?[0-9a-fA-F]{4}-?[0-9a-fA-F]{4}-?[0-9a-fA-F]{12}$")
_MAC = re.compile(r"^([0-9a-fA-F]{2}[:-]){5}[0-9a-fA-F]{2}$")


def shown(value: Any) -> str:
    """A value in a sentence, never long."""
    out = str(value)
    return out if len(out) <= 100 else out[:100] + "…"


# ---- checks


def text(limit: int = 255) -> Check:
    def check(value: Any) -> str:
        if not isinstance(value, str):
            raise ValueError(f"'{shown(value)}' is not a valid string")
        if len(value) > limit:
            raise ValueError(f"'{shown(value)}' exceeds maximum length of {limit}")
        return value

    return check


def name_text(value: Any) -> str:
    found: str = text()(value)
    if found != found.strip() or "\n" in found or "\r" in found:
        raise ValueError(f"'{shown(value)}' has leading or trailing white space or a line break")
    return found


def not_empty_name(value: Any) -> str:
    if not name_text(value).strip():
        raise ValueError(f"'{shown(value)}' Blank strings are not permitted")
    return str(value)


def or_none(check: Check) -> Check:
    return lambda value: None if value is None else check(value)


def boolean(value: Any) -> bool:
    if isinstance(value, bool):
        return value
    if value in (0, 1):
        return bool(value)
    if isinstance(value, str) and value.lower() in ("true", "1"):
        return True
    if isinstance(value, str) and value.lower() in ("false", "0"):
        return False
    raise ValueError(f"'{shown(value)}' cannot be converted to boolean")


def integer(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, (int, str)):
        raise ValueError(f"'{shown(value)}' is not an integer")
    try:
        found = int(value)
    except ValueError:
        raise ValueError(f"'{shown(value)}' is not an integer") from None
    if not -(2**31) <= found < 2**31:
        raise ValueError(f"'{shown(value)}' is out of range")
    return found


def non_negative(value: Any) -> int:
    found = integer(value)
    if found < 0:
        raise ValueError(f"'{found}' should be non-negative")
    return found


def one_of(*allowed: Any) -> Check:
    def check(value: Any) -> Any:
        if not isinstance(value, (str, int, type(None))) or value not in allowed:
            raise ValueError(f"'{shown(value)}' is not in {list(allowed)}")
        return value

    return check


def uuid(value: Any) -> str:
    if not isinstance(value, str) or not _UUID.match(value):
        raise ValueError(f"'{shown(value)}' is not a valid UUID")
    return value


def ip_address(value: Any) -> str:
    try:
        if not isinstance(value, str) or "%" in value:
            raise ValueError
        return ipam.text(ipam.number(value), ipam.version_of(value))
    except ValueError:
        raise ValueError(f"'{shown(value)}' is not a valid IP address") from None


def subnet(value: Any) -> str:
    """A prefix in its canonical form."""
    try:
        if not isinstance(value, str) or "/" not in value or "%" in value:
            raise ValueError
        return str(ipam.cidr_of(value))
    except ValueError:
        raise ValueError(f"'{shown(value)}' is not a valid IP subnet") from None


def mac_address(value: Any) -> str:
    if not isinstance(value, str) or not _MAC.match(value):
        raise ValueError(f"'{shown(value)}' is not a valid MAC address")
    found = value.lower().replace("-", ":")
    if int(found[:2], 16) & 1 or found == "00:00:00:00:00:00":
        raise ValueError(f"'{shown(value)}' is not a valid MAC address")
    return found


def list_of(check: Check, *, unique: bool = True, limit: int = 1000) -> Check:
    def checked(value: Any) -> tuple[Any, ...]:
        if not isinstance(value, list):
            raise ValueError(f"'{shown(value)}' is not a list")
        if len(value) > limit:
            raise ValueError(f"The list has {len(value)} items, more than {limit}")
        found = [check(item) for item in value]
        for i, item in enumerate(found):
            if unique and item in found[:i]:
                raise ValueError(f"Duplicate items in the list: '{shown(item)}'")
        return tuple(found)

    return checked


def struct(kind: type[Any], required: Sequence[str], **checks: Check) -> Check:
    """An object with these members as a msgspec struct."""

    def check(value: Any) -> Any:
        found = members(value, required, **checks)
        return kind(**found)

    return check


def members(value: Any, required: Sequence[str], **checks: Check) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError(f"'{shown(value)}' is not a dictionary")
    extra = [name for name in value if name not in checks]
    if extra:
        raise ValueError(f"Invalid data format: unexpected keys {', '.join(shown(name) for name in extra)}")
    missing = [name for name in required if name not in value]
    if missing:
        raise ValueError(f"Invalid data format: expected keys not found: {', '.join(missing)}")
    return {name: checks[name](value[name]) for name in checks if name in value}


def none_to_empty(check: Check) -> Check:
    return lambda value: () if value is None else check(value)


def dictionary(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError(f"'{shown(value)}' is not a dictionary")
    return value


# ---- the tables


class Attr(msgspec.Struct, frozen=True, kw_only=True):
    """check None: never written by clients. column: where it is kept, when a filter or a sort may use it. policy: there are rules
    verb_resource:name for it."""

    name: str
    check: Check | None = None
    post: bool = False
    put: bool = False
    default: Any = ABSENT
    column: str = ""
    filter: bool = False
    sort: bool = False
    visible: bool = True
    policy: bool = False
    boolean: bool = False
    parts: tuple[str, ...] = ()
    """Members of the value that have policy rules of their own."""


def attr(name: str, check: Check | None = None, use: str = "", default: Any = ABSENT, **more: Any) -> Attr:
    """`use`: c created with, u updated, f filter, s sort, p policy, h hidden (write only)."""
    column = more.pop("column", name if "f" in use or "s" in use else "")
    return Attr(
        name=name, check=check, post="c" in use, put="u" in use, filter="f" in use, sort="s" in use, policy="p" in use,
        visible="h" not in use, default=default, column=column, boolean=check is boolean, **more,
    )  # fmt: skip


def standard() -> tuple[Attr, ...]:
    """What every resource with standard attributes has."""
    return (
        attr("description", text(), "cuf", ""),
        attr("created_at", None, "s"),
        attr("updated_at", None, "s"),
        attr("revision_number", None, "fs", column="revision"),
    )


ID = attr("id", None, "fs")
PROJECT = attr("project_id", text(255), "cfs")
TENANT = attr("tenant_id", text(255), "cfs", column="project_id")


def tag(value: Any) -> str:
    found: str = text(60)(value)
    if not found or "\n" in found or "," in found:
        raise ValueError(f"'{shown(value)}' is not a valid tag; a tag is 1 to 60 characters without commas and line breaks")
    return found


TAGS = attr("tags", list_of(tag, limit=50), "cp", ())


class Attributes:
    """The attributes of one resource by name."""

    def __init__(self, name: str, plural: str, *attrs: Attr) -> None:
        self.name = name
        self.plural = plural
        self.by_name: dict[str, Attr] = {a.name: a for a in attrs}
        self.required = [a.name for a in attrs if a.default is REQUIRED]
        self.defaults = {a.name: a.default for a in attrs if a.post and a.default is not ABSENT and a.default is not REQUIRED}
        self.visible = [a.name for a in attrs if a.visible]
        self.guarded = [a for a in attrs if a.policy]

    def _items(self, item: Any) -> dict[str, Any]:
        if not isinstance(item, dict):
            raise BadBody(f"Resource body required: {self.name} must be an object.")
        unknown = [name for name in item if name not in self.by_name]
        if unknown:
            raise BadBody(f"Unrecognized attribute(s) '{', '.join(shown(name) for name in unknown)}'")
        return item

    def created(self, ctx: Context, item: Any) -> tuple[dict[str, Any], list[str]]:
        """Values of a new resource with defaults filled in, and the names of those that differ from their defaults."""
        given = self._items(item)
        for name in given:
            if not self.by_name[name].post:
                raise BadBody(f"Attribute '{name}' not allowed in POST")
        for name in self.required:
            if name not in given:
                raise BadBody(f"Failed to parse request. Required attribute '{name}' not specified")
        values = dict(self.defaults)
        explicit = []
        for name, value in given.items():
            values[name] = self._checked(name, value)
            if values[name] != self.by_name[name].default:
                explicit.append(name)
        if "project_id" in self.by_name:
            values["project_id"] = _project(ctx, values)
            values.pop("tenant_id", None)
        return values, explicit

    def updated(self, item: Any) -> dict[str, Any]:
        given = self._items(item)
        for name in given:
            if not self.by_name[name].put:
                raise BadBody(f"Cannot update read-only attribute {name}")
        return {name: self._checked(name, value) for name, value in given.items()}

    def _checked(self, name: str, value: Any) -> Any:
        check = self.by_name[name].check
        if check is None:
            return value
        try:
            return check(value)
        except ValueError as error:
            raise Invalid(str(error), field=name) from None

    def rules(self, verb: str, values: Mapping[str, Any], names: Sequence[str]) -> list[str]:
        """Policy rules of the attributes that a request sets."""
        out = []
        for a in self.guarded:
            if a.name in names:
                out.append(f"{verb}_{self.name}:{a.name}")
                value = values[a.name]
                items = value if isinstance(value, (tuple, list)) else (value,)
                for part in a.parts:
                    if any(_has(item, part) for item in items):
                        out.append(f"{verb}_{self.name}:{a.name}:{part}")
        return out


def _has(item: Any, part: str) -> bool:
    return part in item if isinstance(item, dict) else getattr(item, part, None) is not None


def _project(ctx: Context, values: Mapping[str, Any]) -> str:
    """The project of a new resource: the caller's, unless an admin (or a service) names another."""
    one, two = values.get("project_id"), values.get("tenant_id")
    if one is not None and two is not None and one != two:
        raise BadBody("'project_id' and 'tenant_id' do not match")
    wanted = one if one is not None else two
    if wanted is None:
        if ctx.project_id is None:
            if ctx.is_admin and ctx.service:
                return ""
            raise BadBody("Running without keystone AuthN requires that tenant_id is specified")
        return ctx.project_id
    if wanted != ctx.project_id and not ctx.is_admin and "service" not in ctx.roles:
        raise BadBody("Specifying 'project_id' or 'tenant_id' other than the authenticated project in request requires admin privileges")
    return str(wanted)


def wrapped(body: Any, key: str) -> Any:
    if not isinstance(body, dict) or key not in body:
        raise BadBody(f"Unable to find '{key}' in request body")
    return body[key]
