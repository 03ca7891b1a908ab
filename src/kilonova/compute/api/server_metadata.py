"""Metadata of a server, whole and by item. images have the same forms (image_metadata.py)."""

from collections.abc import Callable
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from kilonova.compute.api.servers import find
from kilonova.compute.errors import NoHost, ServerNotFound
from kilonova.compute.model import Server
from kilonova.compute.ops.verbs import guard
from kilonova.compute.service import ComputeService
from kilonova.compute.store import server_items, servers
from kilonova.core.context import Context
from kilonova.core.db import Transaction, attempts
from kilonova.core.errors import BadRequest, Conflict, Forbidden, NotFound
from kilonova.core.http import Reply, Request

Name = Annotated[str, Meta(min_length=1, max_length=255, pattern=r"^[a-zA-Z0-9\-_:. ]*$")]
Value = Annotated[str, Meta(max_length=255)]
Metadata = dict[str, str]


class Whole(msgspec.Struct, forbid_unknown_fields=True):
    metadata: dict[Name, Value]


class Item(msgspec.Struct, forbid_unknown_fields=True):
    meta: Annotated[dict[Name, Value], Meta(min_length=1, max_length=1)]


async def change(
    c: ComputeService, ctx: Context, server: Server, column: str, verb: str, shown: str, changed: Callable[[Server], Any]
) -> Any:
    """Write what `changed` makes of the server, while its state allows; again when somebody else was quicker. The new value."""

    async def body(tx: Transaction) -> Any:
        now_is = await servers.get(tx, server.id)
        if now_is is None:
            # Its row is made when a host has been found.
            guard(ctx, server, verb, shown)
            raise NoHost(server=server.id)
        if now_is.deleted:
            raise ServerNotFound(server=server.id)
        guard(ctx, now_is, verb, shown)
        value = changed(now_is)
        if value == getattr(now_is, column) or await server_items.put(tx, column, server.id, now_is.revision, value, c.runtime.now_us()):
            return value
        return None

    cell = await c.cells.of(server.id)
    if cell is None:
        guard(ctx, server, verb, shown)
        raise NoHost(server=server.id)
    async for _ in attempts(c.runtime):
        value = await cell.db.transact(body)
        if value is not None:
            return value
    raise Conflict(f"Instance {server.id} is being changed by others at the same moment; try again.")


async def _write(c: ComputeService, ctx: Context, server: Server, shown: str, changed: Callable[[Metadata], Metadata]) -> Metadata:
    limit = (await c.quota_limits(server.project_id))["metadata_items"]

    def checked(now_is: Server) -> Metadata:
        wanted = changed(now_is.metadata)
        if 0 <= limit < len(wanted):
            raise Forbidden(f"Maximum number of metadata items exceeds {limit}")
        return wanted

    value: Metadata = await change(c, ctx, server, "metadata", "update_metadata", shown, checked)
    return value


async def index(c: ComputeService, ctx: Context, req: Request, server_id: str) -> Any:
    return {"metadata": (await find(c, req, server_id)).metadata}


async def create(c: ComputeService, ctx: Context, req: Request, server_id: str, body: Whole) -> Any:
    """Add and replace items."""
    server = await find(c, req, server_id)
    return {"metadata": await _write(c, ctx, server, "update metadata", lambda was: {**was, **body.metadata})}


async def replace(c: ComputeService, ctx: Context, req: Request, server_id: str, body: Whole) -> Any:
    server = await find(c, req, server_id)
    return {"metadata": await _write(c, ctx, server, "update metadata", lambda was: dict(body.metadata))}


async def show(c: ComputeService, ctx: Context, req: Request, server_id: str, key: str) -> Any:
    server = await find(c, req, server_id)
    if key not in server.metadata:
        raise NotFound("Metadata item was not found")
    return {"meta": {key: server.metadata[key]}}


async def update(c: ComputeService, ctx: Context, req: Request, server_id: str, key: str, body: Item) -> Any:
    server = await find(c, req, server_id)
    if key not in body.meta:
        raise BadRequest("Request body and URI mismatch")
    await _write(c, ctx, server, "update metadata", lambda was: {**was, **body.meta})
    return {"meta": body.meta}


async def delete(c: ComputeService, ctx: Context, req: Request, server_id: str, key: str) -> Reply:
    server = await find(c, req, server_id)

    def without(was: Metadata) -> Metadata:
        if key not in was:
            raise NotFound("Metadata item was not found")
        return {k: v for k, v in was.items() if k != key}

    await _write(c, ctx, server, "delete metadata", without)
    return Reply(None, 204)
