"""POST /servers/{id}/action for power and console. Other actions live with their resource."""

import re
from typing import Any

from kilonova.compute import rpc
from kilonova.compute.api.server_bodies import ConsoleOutputAction, RebootAction
from kilonova.compute.api.servers import find
from kilonova.compute.errors import NoHost
from kilonova.compute.ops import reboot as reboot_op
from kilonova.compute.ops import start as start_op
from kilonova.compute.ops import stop as stop_op
from kilonova.compute.service import ComputeService
from kilonova.core.context import Context
from kilonova.core.errors import BadRequest
from kilonova.core.http import Request


async def start(c: ComputeService, ctx: Context, req: Request, server_id: str, body: Any) -> None:
    await start_op.begin(c, ctx, await find(c, req, server_id))


async def stop(c: ComputeService, ctx: Context, req: Request, server_id: str, body: Any) -> None:
    await stop_op.begin(c, ctx, await find(c, req, server_id))


async def reboot(c: ComputeService, ctx: Context, req: Request, server_id: str, body: RebootAction) -> None:
    kind = body.reboot.type.upper()
    if kind not in ("SOFT", "HARD"):
        raise BadRequest(f"Invalid input for field/attribute type. Value: {body.reboot.type[:20]}. It is HARD or SOFT.")
    await reboot_op.begin(c, ctx, await find(c, req, server_id), hard=kind == "HARD")


async def console_output(c: ComputeService, ctx: Context, req: Request, server_id: str, body: ConsoleOutputAction) -> Any:
    server = await find(c, req, server_id)
    length = body.output.length if body.output is not None else None
    if isinstance(length, str):
        if not re.fullmatch("-?[0-9]{1,9}", length):
            raise BadRequest(f"Invalid input for field/attribute length. Value: {length[:20]}. It is a whole number.")
        length = int(length)
    if length is not None and length < -1:
        raise BadRequest(f"Invalid input for field/attribute length. Value: {length}. {length} is less than the minimum of -1")
    if server.host is None:
        raise NoHost(server=server.id)
    console: rpc.Console = await c.send(server.host, rpc.ReadConsole(server_id=server.id, lines=None if length in (None, -1) else length))
    return {"output": console.text}
