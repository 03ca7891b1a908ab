"""Stop: ask the guest to shut down, then end it; its disk stays."""

from kilonova.compute import rpc
from kilonova.compute.model import SHUTDOWN, Server
from kilonova.compute.ops.verbs import VerbArgs, fence, give_up, server_of, settle
from kilonova.compute.ops.verbs import begin as begin_verb
from kilonova.compute.service import ComputeService
from kilonova.core.context import Context
from kilonova.core.errors import Error, Unavailable
from kilonova.core.operations import Operation

GRACE_S = 60.0

__all__ = ["begin", "give_up", "recover", "run"]


async def begin(c: ComputeService, ctx: Context, server: Server) -> None:
    await begin_verb(c, ctx, server, "stop", action="stop")


async def run(c: ComputeService, op: Operation) -> None:
    args = op.arguments(VerbArgs)
    server = await server_of(c, op, args)
    if server is None or server.host is None:
        await settle(c, op, args)
        return
    try:
        await c.send(server.host, rpc.PowerOff(fence=fence(op, args), server_id=server.id, timeout_s=GRACE_S), timeout_s=GRACE_S + 60)
    except Unavailable:
        raise
    except Error as error:
        await settle(c, op, args, error=error, host=server.host)
        return
    await settle(c, op, args, host=server.host, state="stopped", power_state=SHUTDOWN)


recover = run
