"""Snapshot: a server's root disk, as it is at one moment, becomes an image. The server goes on running.

begin    claims the server, then makes the empty image, so that the client can look at it as soon as it has its answer.
run      the host copies the disk and hands it to the image service. A failure removes the image; the server is as it was.
recover  makes the image if the earlier life did not come to that (step ""), is content with one that is complete, and copies again
         otherwise. An image that was deleted meanwhile ends the verb in peace.
"""

from typing import Any

from kilonova.compute import rpc
from kilonova.compute.model import CRASHED, SHUTDOWN, Server
from kilonova.compute.ops.verbs import VerbArgs, cell_of, claim, fence, server_of, settle, start
from kilonova.compute.service import ComputeService
from kilonova.core.context import Context
from kilonova.core.errors import Error, NotFound, Unavailable
from kilonova.core.operations import Operation
from kilonova.image.contract import NewImage

MADE = "image made"
TIMEOUT_S = 6 * 3600.0


class SnapshotArgs(VerbArgs, frozen=True, kw_only=True):
    image: NewImage


async def begin(c: ComputeService, ctx: Context, server: Server, image: NewImage) -> None:
    """`image` has an id. Raises Locked, WrongState, NeverActive, and what the image service has against the image."""
    op = await claim(c, ctx, server, "snapshot", action="createImage", arguments=SnapshotArgs, image=image)
    try:
        await _make_image(c, op, image)
    except Error as error:
        await settle(c, op, op.arguments(SnapshotArgs), error=error, host=server.host)
        raise
    await start(c, op)


async def _make_image(c: ComputeService, op: Operation, image: NewImage) -> None:
    try:
        await c.images.get(op.ctx, image.id or "")
    except NotFound:
        await c.images.create(op.ctx, image)
    cell = cell_of(c, op.arguments(SnapshotArgs))
    await cell.db.transact(lambda tx: cell.ops.step(tx, op, MADE))


async def run(c: ComputeService, op: Operation) -> None:
    await _copy(c, op, op.arguments(SnapshotArgs))


async def recover(c: ComputeService, op: Operation) -> None:
    args = op.arguments(SnapshotArgs)
    if op.step != MADE:
        try:
            await _make_image(c, op, args.image)
        except Unavailable:
            raise
        except Error as error:
            await settle(c, op, args, error=error)
            return
    await _copy(c, op, args)


async def _copy(c: ComputeService, op: Operation, args: SnapshotArgs) -> None:
    server, image_id = await server_of(c, op, args), args.image.id or ""
    if server is None or server.host is None:
        await _drop_image(c, op, image_id)
        await settle(c, op, args)
        return
    changes: dict[str, Any] = {}
    try:
        if (await c.images.get(op.ctx, image_id)).status != "active":
            command = rpc.Snapshot(fence=fence(op, args), server_id=server.id, image_id=image_id)
            done = await c.send(server.host, command, timeout_s=TIMEOUT_S)
            if server.state == "active" and done.power_state in (SHUTDOWN, CRASHED):
                changes = {"state": "stopped", "power_state": done.power_state}
    except Unavailable:
        raise
    except Error as error:
        await _drop_image(c, op, image_id)
        await settle(c, op, args, error=error, host=server.host)
        return
    await settle(c, op, args, host=server.host, **changes)


async def give_up(c: ComputeService, op: Operation, error: Error) -> None:
    """The server is as it was; there is no image."""
    args = op.arguments(SnapshotArgs)
    await _drop_image(c, op, args.image.id or "")
    await settle(c, op, args, error=error)


async def _drop_image(c: ComputeService, op: Operation, image_id: str) -> None:
    """It would stay empty."""
    try:
        await c.images.delete(op.ctx, image_id)
    except NotFound:
        return
    except Error as error:
        c.log.warning("the image of a failed snapshot was not removed", image=image_id, error=error)
