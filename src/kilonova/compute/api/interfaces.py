"""Ports of a server, as attachments."""

from typing import Any

from kilonova.compute.api.servers import find
from kilonova.compute.service import ComputeService
from kilonova.core.context import Context
from kilonova.core.errors import NotFound
from kilonova.core.http import Request
from kilonova.network.contract import Nic


def _view(req: Request, nic: Nic) -> dict[str, Any]:
    document: dict[str, Any] = {
        "net_id": nic.network_id,
        "port_id": nic.port_id,
        "mac_addr": nic.mac,
        "port_state": nic.status,
        "fixed_ips": [{"ip_address": f.ip, "subnet_id": f.subnet_id} for f in nic.fixed_ips],
    }
    if req.version >= (2, 70):
        document["tag"] = nic.tag
    return document


async def index(c: ComputeService, ctx: Context, req: Request, server_id: str) -> Any:
    server = await find(c, req, server_id)
    return {"interfaceAttachments": [_view(req, nic) for nic in await c.network.nics(ctx, server.id)]}


async def show(c: ComputeService, ctx: Context, req: Request, server_id: str, port_id: str) -> Any:
    server = await find(c, req, server_id)
    for nic in await c.network.nics(ctx, server.id):
        if nic.port_id == port_id:
            return {"interfaceAttachment": _view(req, nic)}
    raise NotFound(f"Instance {server.id} does not have a port with id {port_id[:64]}")
