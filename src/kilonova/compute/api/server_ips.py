"""Addresses of a server by network name."""

from typing import Any

from kilonova.compute.api.server_views import addresses
from kilonova.compute.api.servers import find
from kilonova.compute.model import Server
from kilonova.compute.service import ComputeService
from kilonova.core.context import Context
from kilonova.core.errors import NotFound
from kilonova.core.http import Request


def _plain(server: Server) -> dict[str, Any]:
    return {label: [{"version": a["version"], "addr": a["addr"]} for a in there] for label, there in addresses(server).items()}


async def index(c: ComputeService, ctx: Context, req: Request, server_id: str) -> Any:
    return {"addresses": _plain(await find(c, req, server_id))}


async def show(c: ComputeService, ctx: Context, req: Request, server_id: str, network_label: str) -> Any:
    there = _plain(await find(c, req, server_id))
    if network_label not in there:
        raise NotFound("Instance is not a member of specified network")
    return {network_label: there[network_label]}
