"""The query string of GET /v2/images."""

import csv
from typing import Any

from kilonova.core import times
from kilonova.core.errors import BadRequest
from kilonova.core.http import Request
from kilonova.image.model import MEMBER_STATUSES, VISIBILITIES, ListQuery

SORT_KEYS = ("name", "status", "container_format", "disk_format", "size", "id", "created_at", "updated_at")
IN_KEYS = ("id", "name", "status", "container_format", "disk_format")
TEXTS = ("checksum", "os_hash_algo", "os_hash_value", "owner")
INTEGERS = ("min_disk", "min_ram", "size", "virtual_size")
OPERATORS = ("gt", "gte", "lt", "lte", "eq", "neq")
PAGING = ("limit", "marker", "sort", "sort_key", "sort_dir")
MAX_INTEGER = 2**63 - 1


def parsed(req: Request, default_limit: int, most: int) -> ListQuery:
    """Raises BadRequest naming the parameter."""
    equal: dict[str, Any] = {}
    among: dict[str, tuple[str, ...]] = {}
    moments: list[tuple[str, str, int]] = []
    properties: dict[str, str] = {}
    tags: list[str] = []
    known: dict[str, Any] = {}
    for name, value in req.query:
        if name in PAGING:
            continue
        if name == "changes-since":
            raise BadRequest('The "changes-since" filter is no longer available on v2.')
        if name == "tag":
            tags.append(value)
        elif name in IN_KEYS:
            among[name] = _alternatives(name, value)
        elif name in TEXTS:
            equal[name] = value
        elif name in INTEGERS:
            equal[name] = _number(value)
        elif name in ("size_min", "size_max"):
            known[name] = _number(value)
        elif name in ("created_at", "updated_at"):
            moments.append((name, *_moment(name, value)))
        elif name in ("protected", "os_hidden"):
            known[name] = _boolean(name, value)
        elif name == "visibility":
            known[name] = _visibility(value)
        elif name == "member_status":
            known[name] = _member_status(value)
        else:
            properties[name] = value
    hidden = known.pop("os_hidden", False)
    if "protected" in known:
        equal["protected"] = known.pop("protected")
    return ListQuery(
        equal=tuple(equal.items()),
        among=tuple(among.items()),
        times=tuple(moments),
        tags=tuple(dict.fromkeys(tags)),
        properties=tuple(properties.items()),
        hidden=hidden,
        sort=_sort(req),
        limit=_limit(req.one("limit"), default_limit, most),
        marker=req.one("marker"),
        **known,
    )


def _alternatives(name: str, value: str) -> tuple[str, ...]:
    """`in:a,"b,c"` is several values; anything else is one."""
    if not value.startswith("in:"):
        return (value,)
    rows = list(csv.reader([value[3:]], skipinitialspace=True))
    if len(rows) != 1 or value[3:].count('"') % 2:
        raise BadRequest(f"Invalid filter value {value[:100]}. There is no comma after closing quotation mark in filter {name}.")
    return tuple(rows[0])


def _number(value: str) -> int:
    if not value.isdecimal() or len(value) > 19 or int(value) > MAX_INTEGER:
        raise BadRequest("Unable to filter on a range with a non-numeric value.")
    return int(value)


def _moment(name: str, value: str) -> tuple[str, int]:
    op, colon, text = value.partition(":")
    if op not in OPERATORS or not colon:
        op, text = "eq", value
    try:
        second = times.parse(text) // 1_000_000 * 1_000_000
    except (ValueError, OverflowError):
        raise BadRequest(f'Bad "{name}" query filter format. Use ISO 8601 DateTime notation.') from None
    return op, second


def _boolean(name: str, value: str) -> bool:
    lower = value.lower()
    if lower not in ("true", "false"):
        raise BadRequest(f"Invalid value '{value[:80]}' for '{name}' filter. Valid values are 'true' or 'false'.")
    return lower == "true"


def _visibility(value: str) -> str:
    if value not in (*VISIBILITIES, "all"):
        raise BadRequest(f"Invalid visibility value: {value[:80]}")
    return value


def _member_status(value: str) -> str:
    if value not in (*MEMBER_STATUSES, "all"):
        raise BadRequest(f"Invalid status: {value[:80]}")
    return value


def _limit(value: str | None, default: int, most: int) -> int:
    if value is None:
        return min(default, most)
    if not value.lstrip("-").isdecimal() or len(value) > 19:
        raise BadRequest("limit param must be an integer")
    if int(value) < 0:
        raise BadRequest("limit param must be positive")
    return min(int(value), most)


def _sort(req: Request) -> tuple[tuple[str, str], ...]:
    keys, directions = req.every("sort_key"), req.every("sort_dir")
    new = req.one("sort")
    if new is not None:
        if keys or directions:
            raise BadRequest("Old and new sorting syntax cannot be combined")
        pairs = [part.strip().partition(":") for part in new.split(",")]
        keys, directions = [key for key, _, _ in pairs], [direction or "desc" for _, _, direction in pairs]
    if len(directions) > 1 and len(directions) != len(keys):
        raise BadRequest("Number of sort dirs does not match the number of sort keys")
    for direction in directions:
        if direction not in ("asc", "desc"):
            raise BadRequest(f"Invalid sort direction: {direction[:80]}")
    for key in keys:
        if key not in SORT_KEYS:
            raise BadRequest(f"Invalid sort key: {key[:80]}. It must be one of the following: {', '.join(SORT_KEYS)}.")
    common = directions[0] if len(directions) == 1 else "desc"
    out = dict(zip(keys, directions if len(directions) > 1 else [common] * len(keys), strict=True))
    for last in ("created_at", "id"):
        out.setdefault(last, common)
    return tuple(out.items())
