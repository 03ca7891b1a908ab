"""Rebuild: the same server, with its addresses and size, on a fresh disk of an image.

begin    the server's new image, name and the like stand in its row from here on.
run      asks the scheduler's filters whether a new image suits the host; if not, the server has its old image again and is in ERROR, as
         Nova leaves it. Then the host replaces the disk and boots it; a server that was stopped is stopped again.
recover  is run: the disk is made anew once more, which nobody has been told of yet.
"""

from typing import Any

import msgspec

from kilonova.compute import rpc
from kilonova.compute.domain.guests import guest_of
from kilonova.compute.errors import NoValidHost
from kilonova.compute.model import SHUTDOWN, Server
from kilonova.compute.ops.stop import GRACE_S
from kilonova.compute.ops.verbs import VerbArgs, claim, fault_of, fence, give_up, server_of, settle, start
from kilonova.compute.service import ComputeService
from kilonova.core.context import Context
from kilonova.core.errors import Error, Unavailable
from kilonova.core.operations import Operation

__all__ = ["begin", "give_up", "recover", "run"]


class OldImage(msgspec.Struct, frozen=True, kw_only=True):
    image_id: str | None
    image_properties: dict[str, str]


class RebuildArgs(VerbArgs, frozen=True, kw_only=True):
    image: rpc.GuestImage
    stopped: bool
    """The server was, so it shall be again."""
    was: OldImage | None = None
    """None: it is the same image again."""


async def begin(c: ComputeService, ctx: Context, server: Server, image: rpc.GuestImage, changes: dict[str, Any]) -> None:
    stopped = server.state == "stopped"
    claimed = {**changes, "fault": None}
    was = None
    if changes.get("image_id") != server.image_id:
        was = OldImage(image_id=server.image_id, image_properties=server.image_properties)
    op = await claim(
        c, ctx, server, "rebuild", action="rebuild", changes=claimed, arguments=RebuildArgs, image=image, stopped=stopped, was=was
    )
    await start(c, op)


async def run(c: ComputeService, op: Operation) -> None:
    args = op.arguments(RebuildArgs)
    server = await server_of(c, op, args)
    if server is None or server.host is None:
        await settle(c, op, args)
        return
    if args.was is not None:
        refused = await c.hosts.refuses_image(server)
        if refused:
            error = NoValidHost(summary=refused)
            await settle(
                c,
                op,
                args,
                error=error,
                host=server.host,
                state="error",
                fault=fault_of(c, error),
                image_id=args.was.image_id,
                image_properties=args.was.image_properties,
            )
            return
    try:
        guest = await guest_of(c, server, image=args.image)
        done = await c.send(server.host, rpc.Spawn(fence=fence(op, args), guest=guest, replace_disk=True), timeout_s=900)
        if args.stopped:
            command = rpc.PowerOff(fence=fence(op, args, 2), server_id=server.id, timeout_s=GRACE_S)
            await c.send(server.host, command, timeout_s=GRACE_S + 60)
    except Unavailable:
        raise
    except Error as error:
        await settle(c, op, args, error=error, host=server.host, state="error", fault=fault_of(c, error))
        return
    power_state = SHUTDOWN if args.stopped else done.power_state
    now = c.runtime.now_us()
    state = "stopped" if args.stopped else "active"
    await settle(c, op, args, host=server.host, state=state, power_state=power_state, launched_at=now)


recover = run
