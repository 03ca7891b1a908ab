"""Action os-resetState: an operator says what a server's state is, and ends what task it shows."""

from typing import Literal

import msgspec

from kilonova.compute.api.servers import find
from kilonova.compute.errors import NoHost
from kilonova.compute.service import ComputeService
from kilonova.compute.store import servers
from kilonova.core.context import Context
from kilonova.core.http import Reply, Request


class State(msgspec.Struct, forbid_unknown_fields=True):
    state: Literal["active", "error"]


class Reset(msgspec.Struct, forbid_unknown_fields=True):
    reset: State = msgspec.field(name="os-resetState")


async def reset(c: ComputeService, ctx: Context, req: Request, server_id: str, body: Reset) -> Reply:
    server = await find(c, req, server_id)
    state = body.reset.state
    cell = await c.cells.of(server.id)
    if cell is None or not await cell.db.transact(lambda tx: servers.update(tx, server.id, c.runtime.now_us(), state=state, task=None)):
        # Its row is made when a host has been found.
        raise NoHost(server=server.id)
    return Reply(b"", 202)
