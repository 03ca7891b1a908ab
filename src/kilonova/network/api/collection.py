"""Lists and single objects of any resource: filters, sorting, paging, `fields`, and who may see what.

Filters on columns, the default order and limits are SQL; the rest (tags, other orders with a marker) is done on the rows. What a caller may
see is bounded twice: by the statement (own project, shared, …) and by the policy rule get_<resource> on each row.
"""

import re
import urllib.parse
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Generic, TypeVar

import msgspec
import sqlalchemy as sa

from kilonova.core import times
from kilonova.core.context import Context
from kilonova.core.db import Reader
from kilonova.core.errors import Error, PolicyForbids
from kilonova.core.http import Request
from kilonova.network.api.attributes import Attributes, shown
from kilonova.network.errors import BadBody, RevisionNumberConstraintFailed
from kilonova.network.policies import RULES
from kilonova.network.store.rows import Rows

S = TypeVar("S", bound=msgspec.Struct)
RULE_NAMES = frozenset(rule.name for rule in RULES)
View = dict[str, Any]
Views = list[View]
TAG_FILTERS = ("tags", "tags-any", "not-tags", "not-tags-any")
_NOT_FILTERS = frozenset(("fields", "sort_key", "sort_dir", "limit", "marker", "page_reverse", "changed_since", *TAG_FILTERS))


class Resource(Generic[S]):
    """views: rows as documents, in bulk. `private` are keys of a document that only policy sees. `scope` is the SQL condition under which
    somebody who is no admin sees a row (its parameter is scope_project). `custom`: filters that are not columns, name ->
    (values) -> SQL condition. `sieve`: a filter on rows for what SQL cannot say."""

    def __init__(
        self,
        attributes: Attributes,
        rows: Rows[S],
        *,
        missing: type[Error],
        views: Callable[[Reader, Sequence[S]], Awaitable[list[View]]],
        scope: Callable[[], Any] | None = None,
        private: Sequence[str] = (),
        custom: Mapping[str, Callable[[list[str]], Any]] | None = None,
        collection: str = "",
        sieve: Callable[[Request], Callable[[S], bool] | None] | None = None,
    ) -> None:
        self.attributes = attributes
        self.name = attributes.name
        self.plural = attributes.plural
        self.collection = collection or attributes.plural
        self.rows = rows
        self.missing = missing
        self.views = views
        self.private = tuple(private)
        self.custom = dict(custom or {})
        self.sieve = sieve or (lambda req: None)
        self.scope = scope or (lambda: rows.table.c.project_id == sa.bindparam("scope_project"))
        self.get_rule = f"get_{self.name}"
        self.hiding = [(a.name, f"get_{self.name}:{a.name}") for a in attributes.guarded if f"get_{self.name}:{a.name}" in RULE_NAMES]


def sees_all(ctx: Context) -> bool:
    return ctx.is_admin or "service" in ctx.roles or "advsvc" in ctx.roles


# ---- documents


def trimmed(req: Request, res: Resource[S], views: list[View], fields: Sequence[str]) -> list[View]:
    """Documents without what this caller may not see, and only with the fields asked for."""
    hidden: dict[Any, list[str]] = {}
    for view in views:
        project = view.get("project_id")
        names = hidden.get(project)
        if names is None:
            names = hidden[project] = [name for name, rule in res.hiding if not req.allowed(rule, view)]
        for name in names:
            view.pop(name, None)
        for name in res.private:
            view.pop(name, None)
    if fields:
        return [{name: view[name] for name in fields if name in view} for view in views]
    return views


async def shown_one(c: Any, req: Request, res: Resource[S], row: S) -> View:
    """The document of a resource that the caller has just made or changed."""
    views = await res.views(c.db, [row])
    return trimmed(req, res, views, [name for name in req.every("fields") if name])[0]


async def found(c: Any, req: Request, res: Resource[S], row_id: str) -> tuple[S, View]:
    """A row that the caller may see, and its whole document. Raises the resource's NotFound otherwise."""
    row = await res.rows.get(c.db, row_id)
    if row is None:
        req.authorized = True
        raise res.missing(id=shown(row_id))
    view = (await res.views(c.db, [row]))[0]
    req.authorize(res.get_rule, view, res.missing(id=shown(row_id)))
    return row, view


async def changeable(c: Any, req: Request, res: Resource[S], row_id: str, rule: str) -> tuple[S, View]:
    """A row that the caller may change or delete: 404 when it is not his to see, 403 when it is."""
    row, view = await found(c, req, res, row_id)
    if not req.allowed(rule, view):
        raise PolicyForbids(rule=rule)
    check_revision(req, row)
    return row, view


def check_revision(req: Request, row: Any) -> None:
    """If-Match: revision_number=N"""
    text = req.header("if-match")
    if text is None:
        return
    for part in text.split(","):
        name, _, value = part.strip().partition("=")
        if name.strip() != "revision_number":
            continue
        if not re.fullmatch("[0-9]{1,18}", value.strip()):
            raise BadBody(f"Invalid If-Match value '{shown(value)}': revision_number must be an integer")
        if int(value) != row.revision:
            raise RevisionNumberConstraintFailed(wanted=value.strip(), have=row.revision)


def enforce(req: Request, rules: Sequence[str], target: Mapping[str, Any]) -> None:
    """Every rule that exists must allow; a name that policy does not know guards nothing."""
    for rule in rules:
        if rule in RULE_NAMES:
            req.authorize(rule, target)


async def show(c: Any, req: Request, res: Resource[S], row_id: str) -> View:
    _, view = await found(c, req, res, row_id)
    return {res.name: trimmed(req, res, [view], [name for name in req.every("fields") if name])[0]}


# ---- lists


class _Page(msgspec.Struct, frozen=True):
    keys: tuple[tuple[str, bool], ...]
    """(column, descending)"""
    limit: int
    marker: str | None
    reverse: bool
    in_sql: bool
    """Whether the statement can cut the page: the default order, forwards, and no filter that looks at rows."""


def _page(c: Any, req: Request, res: Resource[S]) -> _Page:
    sort_keys, sort_dirs = req.every("sort_key"), req.every("sort_dir")
    if sort_dirs and len(sort_dirs) != len(sort_keys):
        raise BadBody("The number of sort_keys and sort_dirs must be same")
    keys = []
    for i, name in enumerate(sort_keys):
        known = res.attributes.by_name.get(name)
        if known is None or not known.sort:
            raise BadBody(f"['{shown(name)}'] is invalid attribute for sort key")
        way = sort_dirs[i] if sort_dirs else "asc"
        if way not in ("asc", "desc"):
            raise BadBody(f"'{shown(way)}' is an invalid sort direction; use asc or desc")
        keys.append((known.column, way == "desc"))
    text = req.one("limit")
    limit = 0
    if text is not None and text != "":
        try:
            limit = min(int(text), 1_000_000_000)
        except ValueError:
            limit = -1
        if limit < 0:
            raise BadBody(f"Bad request: Limit must be an integer 0 or greater and not '{shown(text)}'.")
    bound = c.settings["DEFAULT"].pagination_max_limit
    if bound > 0:
        limit = min(limit or bound, bound)
    reverse = (req.one("page_reverse") or "").lower() == "true"
    marker = req.one("marker") or None
    tagged = any(key in TAG_FILTERS for key, _ in req.query)
    in_sql = not reverse and not tagged and res.sieve(req) is None and (marker is None or not keys)
    return _Page(tuple(keys), limit, marker, reverse, in_sql)


def _converted(column: Any, values: list[str]) -> list[Any]:
    """Filter values in the column's type; what cannot be in such a column matches nothing."""
    out: list[Any] = []
    for value in values:
        if isinstance(column.type, sa.Boolean):
            out.append(value.lower() in ("true", "1"))
        elif isinstance(column.type, sa.Integer):
            if re.fullmatch("-?[0-9]{1,9}", value):
                out.append(int(value))
        else:
            out.append(value)
    return out


async def rows_for(c: Any, ctx: Context, req: Request, res: Resource[S], page: _Page | None = None) -> list[S]:
    """Rows that match the query's filters, as far as SQL decides. With a page that SQL can cut, at most limit + 1 of them."""
    wanted: dict[str, list[str]] = {}
    for key, value in req.query:
        if key not in _NOT_FILTERS:
            wanted.setdefault(key, []).append(value)
    table = res.rows.table
    shape: list[Any] = ["list"]
    clauses: list[Callable[[], Any]] = []
    parameters: dict[str, Any] = {}
    cacheable = True
    for name in sorted(wanted):
        values = wanted[name]
        if name in res.custom:
            condition = res.custom[name](values)
            if condition is not None:
                clauses.append(lambda condition=condition: condition)  # type: ignore[misc]
                cacheable = False
            continue
        known = res.attributes.by_name.get(name)
        if known is None or not known.filter or not known.column:
            continue
        column = table.c[known.column]
        converted = _converted(column, values)
        if not converted:
            return []
        names = [f"f_{name.replace(':', '_')}_{i}" for i in range(len(converted))]
        parameters.update(zip(names, converted, strict=True))
        shape.append((name, len(names)))
        clauses.append(lambda column=column, names=names: _equal(column, names))  # type: ignore[misc]
    since = req.one("changed_since")
    if since is not None:
        try:
            parameters["since"] = times.parse(since)
        except ValueError:
            raise BadBody(f"The input changed_since '{shown(since)}' must be in the format YYYY-MM-DDTHH:MM:SS") from None
        shape.append("since")
        clauses.append(lambda: table.c.updated_at >= sa.bindparam("since"))
    if not sees_all(ctx):
        parameters["scope_project"] = ctx.project_id or ""
        shape.append("scoped")
        clauses.append(res.scope)
    order = page.keys if page else ()
    shape.append(order)
    limit = page.limit if page and page.in_sql else 0
    if page and page.in_sql and page.marker is not None:
        last: Any = await res.rows.get(c.db, page.marker)
        if last is None:
            raise BadBody(f"The marker {shown(page.marker)} could not be found")
        parameters["marker_at"], parameters["marker_id"] = last.created_at, last.id
        shape.append("marker")
        clauses.append(
            lambda: sa.or_(
                table.c.created_at > sa.bindparam("marker_at"),
                sa.and_(table.c.created_at == sa.bindparam("marker_at"), table.c.id > sa.bindparam("marker_id")),
            )
        )
    if limit:
        parameters["page_limit"] = limit + 1
        shape.append("limited")

    def build() -> Any:
        by = [table.c[name].desc() if down else table.c[name] for name, down in order]
        if not by:
            by = [table.c.created_at]
        query = sa.select(*res.rows.columns).where(*(clause() for clause in clauses)).order_by(*by, table.c.id)
        return query.limit(sa.bindparam("page_limit")) if limit else query

    if cacheable:
        return await res.rows.query(c.db, tuple(shape), build, parameters)
    kind = res.rows.kind
    return [kind(*row) for row in await c.db.all(build(), parameters)]


def _equal(column: Any, names: list[str]) -> Any:
    binds = [sa.bindparam(name, type_=column.type) for name in names]
    return column == binds[0] if len(binds) == 1 else column.in_(binds)


def _tagged(req: Request, res: Resource[S], rows: list[S]) -> list[S]:
    """What the tag filters leave; a resource without tags has no such filter."""
    if "tags" not in res.attributes.by_name:
        return rows
    for key in TAG_FILTERS:
        for text in req.every(key):
            asked = [tag for tag in text.split(",") if tag]
            every = key in ("tags", "not-tags")
            keep = not key.startswith("not-")
            rows = [row for row in rows if (all if every else any)(tag in row.tags for tag in asked) is keep]  # type: ignore[attr-defined]
    return rows


def _cut(page: _Page, rows: list[S]) -> tuple[list[S], bool, bool]:
    """The page, and whether there is one after and one before it."""
    if page.marker is not None and not page.in_sql:
        at = next((i for i, row in enumerate(rows) if row.id == page.marker), None)  # type: ignore[attr-defined]
        if at is None:
            raise BadBody(f"The marker {shown(page.marker)} could not be found")
        rows = rows[:at] if page.reverse else rows[at + 1 :]
    if not page.limit or len(rows) <= page.limit:
        return rows, False, page.marker is not None and not page.reverse
    if page.reverse:
        return rows[-page.limit :], page.marker is not None, True
    return rows[: page.limit], True, page.marker is not None


def _links(req: Request, rows: list[Any], following: bool, before: bool) -> list[dict[str, str]]:
    kept = [(key, value) for key, value in req.query if key not in ("marker", "page_reverse")]
    out = []
    for rel, there, row, extra in (("next", following, rows[-1], []), ("previous", before, rows[0], [("page_reverse", "True")])):
        if there:
            query = urllib.parse.urlencode([*kept, ("marker", row.id), *extra])
            out.append({"rel": rel, "href": f"{req.base_url}{req.path}?{query}"})
    return out


async def listing(c: Any, ctx: Context, req: Request, res: Resource[S]) -> dict[str, Any]:
    req.authorized = True
    page = _page(c, req, res)
    rows = _tagged(req, res, await rows_for(c, ctx, req, res, page))
    sieve = res.sieve(req)
    if sieve is not None:
        rows = [row for row in rows if sieve(row)]
    rows, following, before = _cut(page, rows)
    fields = [name for name in req.every("fields") if name]
    views = await res.views(c.db, rows)
    seen = [view for view in views if req.allowed(res.get_rule, view)]
    out: dict[str, Any] = {res.plural: trimmed(req, res, seen, fields)}
    if page.limit and rows:
        links = _links(req, rows, following, before)
        if links:
            out[f"{res.plural}_links"] = links
    return out
