"""Volumes of a server. This cloud has no volumes yet, so no server has one, and none can be attached."""

from typing import Any

from kilonova.compute.api import queries
from kilonova.compute.api.servers import find
from kilonova.compute.service import ComputeService
from kilonova.core.context import Context
from kilonova.core.errors import NotFound
from kilonova.core.http import Request

LIST = queries.growing(((2, 1), {"limit": queries.number, "offset": queries.number}), strict=(2, 75))


async def index(c: ComputeService, ctx: Context, req: Request, server_id: str) -> Any:
    await find(c, req, server_id)
    return {"volumeAttachments": []}


async def show(c: ComputeService, ctx: Context, req: Request, server_id: str, volume_id: str) -> Any:
    server = await find(c, req, server_id)
    raise NotFound(f"Instance {server.id} is not attached to volume {volume_id[:64]}")


async def delete(c: ComputeService, ctx: Context, req: Request, server_id: str, volume_id: str) -> Any:
    return await show(c, ctx, req, server_id, volume_id)
