"""Tags of any resource that has them. Rules are those of the resource: get_network:tags, update_network:tags, …"""

from collections.abc import Callable
from typing import Any

import msgspec

from kilonova.core.context import Context
from kilonova.core.errors import PolicyForbids
from kilonova.core.http import Reply, Request
from kilonova.network.api import attributes as a
from kilonova.network.api import collection
from kilonova.network.api.attributes import shown
from kilonova.network.api.collection import Resource
from kilonova.network.domain.work import Work
from kilonova.network.errors import BadBody, Invalid, TagNotFound
from kilonova.network.service import NetworkService

LIMIT = 50
_CHECK = a.list_of(a.tag, unique=False, limit=LIMIT)
Handler = Callable[..., Any]


class Tags:
    """The handlers of one resource's tags; `variable` is the name of its id in the path."""

    def __init__(self, res: Resource[Any], variable: str) -> None:
        self.res = res
        self.variable = variable

    async def _found(self, c: NetworkService, req: Request, ids: dict[str, str], verb: str) -> Any:
        row, view = await collection.found(c, req, self.res, ids[self.variable])
        rule = f"{verb}_{self.res.name}:tags"
        if not req.allowed(rule, view):
            raise PolicyForbids(rule=rule)
        return row

    async def _change(
        self, c: NetworkService, ctx: Context, row_id: str, change: Callable[[tuple[str, ...]], tuple[str, ...]]
    ) -> tuple[str, ...]:
        async def run(w: Work) -> tuple[str, ...]:
            row: Any = await self.res.rows.get(w.tx, row_id)
            if row is None:
                raise self.res.missing(id=row_id)
            tags = tuple(sorted(dict.fromkeys(change(row.tags))))
            if len(tags) > LIMIT:
                raise BadBody(f"A resource has at most {LIMIT} tags")
            if tags != row.tags:
                new = msgspec.structs.replace(row, tags=tags, updated_at=w.now, revision=row.revision + 1)
                await self.res.rows.save(w.tx, row, new)
                if hasattr(new, "fixed_ips") or self.res.name in ("network", "subnet", "router", "floatingip"):
                    w.wrote(new)
            return tags

        return await c.write(ctx, run)

    def _given(self, body: Any) -> tuple[str, ...]:
        if not isinstance(body, dict) or "tags" not in body:
            raise BadBody("Invalid tags body")
        try:
            found: tuple[str, ...] = _CHECK(body["tags"])
        except ValueError as error:
            raise Invalid(str(error), field="tags") from None
        return found

    async def list(self, c: NetworkService, ctx: Context, req: Request, **ids: str) -> Any:
        row = await self._found(c, req, ids, "get")
        return {"tags": row.tags}

    async def show(self, c: NetworkService, ctx: Context, req: Request, tag: str, **ids: str) -> Reply:
        row = await self._found(c, req, ids, "get")
        if tag not in row.tags:
            raise TagNotFound(tag=shown(tag))
        return Reply(None, 204)

    async def replace(self, c: NetworkService, ctx: Context, req: Request, body: Any, **ids: str) -> Any:
        row = await self._found(c, req, ids, "update")
        given = self._given(body)
        return {"tags": await self._change(c, ctx, row.id, lambda _: given)}

    async def add(self, c: NetworkService, ctx: Context, req: Request, body: Any, **ids: str) -> Any:
        row = await self._found(c, req, ids, "create")
        given = self._given(body)
        return {"tags": await self._change(c, ctx, row.id, lambda have: (*have, *given))}

    async def put(self, c: NetworkService, ctx: Context, req: Request, tag: str, **ids: str) -> Reply:
        row = await self._found(c, req, ids, "update")
        try:
            a.tag(tag)
        except ValueError as error:
            raise Invalid(str(error), field="tag") from None
        await self._change(c, ctx, row.id, lambda have: (*have, tag))
        return Reply(None, 201)

    async def delete(self, c: NetworkService, ctx: Context, req: Request, tag: str, **ids: str) -> Reply:
        row = await self._found(c, req, ids, "delete")
        if tag not in row.tags:
            raise TagNotFound(tag=shown(tag))
        await self._change(c, ctx, row.id, lambda have: tuple(t for t in have if t != tag))
        return Reply(None, 204)

    async def clear(self, c: NetworkService, ctx: Context, req: Request, **ids: str) -> Reply:
        row = await self._found(c, req, ids, "delete")
        await self._change(c, ctx, row.id, lambda _: ())
        return Reply(None, 204)
