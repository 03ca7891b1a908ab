"""Start: run the guest of a stopped server again, from its disk."""

from kilonova.compute import rpc
from kilonova.compute.domain.guests import guest_of
from kilonova.compute.model import Server
from kilonova.compute.ops.verbs import VerbArgs, fence, give_up, server_of, settle
from kilonova.compute.ops.verbs import begin as begin_verb
from kilonova.compute.service import ComputeService
from kilonova.core.context import Context
from kilonova.core.errors import Error, Unavailable
from kilonova.core.operations import Operation

__all__ = ["begin", "give_up", "recover", "run"]


async def begin(c: ComputeService, ctx: Context, server: Server) -> None:
    await begin_verb(c, ctx, server, "start", action="start")


async def run(c: ComputeService, op: Operation) -> None:
    args = op.arguments(VerbArgs)
    server = await server_of(c, op, args)
    if server is None or server.host is None:
        await settle(c, op, args)
        return
    try:
        done = await c.send(server.host, rpc.PowerOn(fence=fence(op, args), guest=await guest_of(c, server)), timeout_s=300)
    except Unavailable:
        raise
    except Error as error:
        await settle(c, op, args, error=error, host=server.host)
        return
    await settle(c, op, args, host=server.host, state="active", power_state=done.power_state)


recover = run
