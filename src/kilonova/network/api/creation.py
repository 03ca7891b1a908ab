"""POST of one resource or several: decode all, ask policy for all, make all in one transaction or none."""

from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import msgspec

from kilonova.core.context import Context
from kilonova.core.http import Reply, Request
from kilonova.network.api import collection
from kilonova.network.api.attributes import wrapped
from kilonova.network.api.collection import Resource
from kilonova.network.domain.work import Work
from kilonova.network.errors import BadBody

S = TypeVar("S", bound=msgspec.Struct)
Values = dict[str, Any]
MAX_BULK = 500


async def _nothing(values: Values) -> Values:
    return {}


async def create(
    c: Any,
    ctx: Context,
    req: Request,
    res: Resource[S],
    body: Any,
    make: Callable[[Work, Values], Awaitable[S]],
    target: Callable[[Values], Awaitable[Values]] = _nothing,
) -> Reply:
    """`target`: what policy is told beside the values (a parent's owner); it raises NotFound for a parent that is not there."""
    many = isinstance(body, dict) and res.plural in body
    items = body[res.plural] if many else [wrapped(body, res.name)]
    if not isinstance(items, list) or not items:
        raise BadBody("Resources required")
    if len(items) > MAX_BULK:
        raise BadBody(f"At most {MAX_BULK} resources can be created with one request")
    decoded = []
    for item in items:
        values, explicit = res.attributes.created(ctx, item)
        about = {**values, "tenant_id": values.get("project_id"), **await target(values)}
        req.authorize(f"create_{res.name}", about)
        collection.enforce(req, res.attributes.rules("create", values, explicit), about)
        decoded.append(values)

    async def run(w: Work) -> list[S]:
        made = []
        for values in decoded:
            made.append(await make(w, values))
            w.now += 1  # so that a list shows them in this order
        return made

    rows = await c.write(ctx, run)
    views = collection.trimmed(req, res, await res.views(c.db, rows), [])
    return Reply({res.plural: views} if many else {res.name: views[0]}, 201)


async def update(
    c: Any, ctx: Context, req: Request, res: Resource[S], row_id: str, body: Any, change: Callable[[Work, S, Values], Awaitable[S]]
) -> Any:
    row, view = await collection.found(c, req, res, row_id)
    values = res.attributes.updated(wrapped(body, res.name))
    wanted_rules = [f"update_{res.name}", *res.attributes.rules("update", values, list(values))]
    collection.enforce(req, wanted_rules, view)
    collection.check_revision(req, row)
    conditional = req.header("if-match") is not None

    async def run(w: Work) -> S:
        now = await res.rows.get(w.tx, row_id)
        if now is None:
            raise res.missing(id=row_id)
        if conditional:
            collection.check_revision(req, now)
        return await change(w, now, values)

    changed = await c.write(ctx, run)
    return {res.name: await collection.shown_one(c, req, res, changed)}


async def delete(c: Any, ctx: Context, req: Request, res: Resource[S], row_id: str, remove: Callable[[Work, S], Awaitable[Any]]) -> None:
    await collection.changeable(c, req, res, row_id, f"delete_{res.name}")

    async def run(w: Work) -> None:
        now = await res.rows.get(w.tx, row_id)
        if now is None:
            raise res.missing(id=row_id)
        collection.check_revision(req, now)
        await remove(w, now)

    await c.write(ctx, run)
