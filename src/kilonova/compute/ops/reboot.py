"""Reboot: soft asks the guest (and turns hard when it does not listen); hard starts a new process from the same disk.

recover is run: whether the guest was rebooted is not known, and twice is better than not at all.
"""

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


async def begin(c: ComputeService, ctx: Context, server: Server, *, hard: bool) -> None:
    verb = "reboot_hard" if hard else "reboot_soft"
    await begin_verb(c, ctx, server, verb, action="reboot", hard=hard)


async def run(c: ComputeService, op: Operation) -> None:
    args = op.arguments(VerbArgs)
    server = await server_of(c, op, args)
    if server is None or server.host is None:
        await settle(c, op, args)
        return
    try:
        command = rpc.Reboot(fence=fence(op, args), guest=await guest_of(c, server), hard=args.hard)
        done = await c.send(server.host, command, timeout_s=300)
    except Unavailable:
        raise
    except Error as error:
        await settle(c, op, args, error=error, host=server.host)
        return
    await settle(c, op, args, host=server.host, state="active", power_state=done.power_state)


recover = run
