"""Query parameters as data on a route: `query=` is a list of versions [(since, Query), …]; the edge calls `check` before the handler.

Nova lets unknown parameters pass at first (`others`) and refuses them from 2.75 or 2.102 on, by route.
"""

import re
import urllib.parse
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec

from kilonova.core import times
from kilonova.core.errors import BadRequest
from kilonova.core.http import Request, Version

Check = Callable[[str], str]
"""What is wrong with a value, as the rest of a sentence; empty when nothing is."""

_DIGITS = re.compile(r"^[0-9]*$")
TRUE = ("True", "TRUE", "true", "1", "ON", "On", "on", "YES", "Yes", "yes")
FALSE = ("False", "FALSE", "false", "0", "OFF", "Off", "off", "NO", "No", "no")


def anything(value: str) -> str:
    return ""


def number(value: str) -> str:
    return "" if value and len(value) < 10 and _DIGITS.match(value) else f"'{value}' does not match '^[0-9]*$'"


def flag(value: str) -> str:
    return "" if value in TRUE or value in FALSE else f"'{value}' is not one of {[*TRUE, *FALSE]}"


def date_time(value: str) -> str:
    try:
        times.parse(value)
    except (ValueError, OverflowError):
        return f"'{value}' is not a 'date-time'"
    return ""


def one_of(values: Sequence[str]) -> Check:
    return lambda value: "" if value in values else f"'{value}' is not one of {list(values)}"


def matches(pattern: str) -> Check:
    compiled = re.compile(pattern)
    return lambda value: "" if compiled.match(value) else f"'{value}' does not match '{pattern}'"


class Query(msgspec.Struct, frozen=True):
    """once: a parameter given twice is refused."""

    known: Mapping[str, Check] = {}
    others: bool = False
    once: bool = False


Queries = list[tuple[Version, Query]]
NONE: Queries = [((2, 1), Query(others=True)), ((2, 102), Query())]
"""No parameters; stray ones are refused from 2.102 on."""
PAGE: Mapping[str, Check] = {"limit": number, "marker": anything}


def growing(*steps: tuple[Version, Mapping[str, Check]], strict: Version) -> Queries:
    """Each step adds parameters; from `strict` on others are refused."""
    out: Queries = []
    known: dict[str, Check] = {}
    for first, more in steps:
        known = {**known, **more}
        out.append((first, Query(known=known, others=first < strict)))
        if first < strict and all(not first < s <= strict for s, _ in steps):
            out.append((strict, Query(known=known)))
    return out


def check(req: Request) -> None:
    """Raise BadRequest when the query of a request is not what its route declares. For Edge(check=…)."""
    queries: Queries | None = req.route.query
    if not queries or not req.raw_query:
        return
    found: Query | None = None
    for first, query in queries:
        if req.version >= first:
            found = query
    if found is None:
        return
    seen: set[str] = set()
    for name, value in req.query:
        rule = found.known.get(name)
        if rule is None:
            if not found.others:
                raise BadRequest(f"Additional properties are not allowed ('{name[:50]}' was unexpected)")
            continue
        if found.once and name in seen:
            raise BadRequest(f"Invalid input for query parameters {name}. It is given more than once.")
        seen.add(name)
        wrong = rule(value[:255])
        if wrong:
            raise BadRequest(f"Invalid input for query parameters {name}. Value: {value[:255]}. {wrong}")


def limit(req: Request, most: int) -> int:
    """Rows of a page; 0 and none mean the most there may be."""
    text = req.one("limit")
    return min(int(text) or most, most) if text else most


def page(req: Request, rows: list[Any], key: Callable[[Any], str], most: int, marker: Callable[[str], Any] | None = None) -> list[Any]:
    """The rows after the marker. Raises BadRequest when no row is the marker's."""
    wanted = req.one("marker")
    if wanted is not None:
        at = next((i for i, row in enumerate(rows) if key(row) == wanted), None)
        if at is None:
            raise BadRequest(f"marker [{wanted[:255]}] not found")
        rows = rows[at + 1 :]
    return rows[: limit(req, most)]


def next_link(req: Request, rows: list[Any], key: Callable[[Any], str], most: int) -> list[dict[str, str]]:
    """The link to the next page, when this one is full."""
    if not rows or len(rows) < limit(req, most):
        return []
    query = [(k, v) for k, v in req.query if k != "marker"] + [("marker", key(rows[-1]))]
    return [{"rel": "next", "href": f"{req.base_url}{req.path}?{urllib.parse.urlencode(query)}"}]
