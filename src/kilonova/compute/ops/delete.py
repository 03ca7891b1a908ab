"""Deleting a server, in whatever state it is.

begin    marks the mapping and writes the intent (api side), then shows `deleting` (cell side); the client has its 204.
run      waits for a create that is still under way to notice, ends the guest, frees ports and resources, marks the row deleted, and
         last forgets the mapping, which gives the quota back.
         A server that has no row yet gets one that says that it is deleted: a create that was asleep writes none after that.
recover  is run: every step may be done twice. A host that is down is passed over: its agent removes guests that belong to nobody
         when it comes back. While its guest may run the server keeps addresses and resources, so a host that is up is asked again.
"""

import msgspec

from kilonova.compute import rpc
from kilonova.compute.cells import Cell
from kilonova.compute.domain import notices
from kilonova.compute.errors import Locked, ServerNotFound
from kilonova.compute.model import Event, Server
from kilonova.compute.ops.verbs import fault_of, new_action
from kilonova.compute.service import ComputeService
from kilonova.compute.store import actions, mappings, servers
from kilonova.compute.store import hosts as host_store
from kilonova.core.bus import Unreachable
from kilonova.core.context import Context
from kilonova.core.db import Database, Transaction
from kilonova.core.errors import Error, Unavailable
from kilonova.core.operations import Operation
from kilonova.network.contract import LAST_TURN

POLL_S = 0.02
POLL_MAX_S = 1.0
LEFT_BEHIND = "host is down; its agent will remove the guest"


class DeleteArgs(msgspec.Struct, frozen=True, kw_only=True):
    action_id: str


async def begin(c: ComputeService, ctx: Context, server: Server) -> None:
    """Raises Locked. Deleting what is being deleted already is no error."""
    if server.locked_by is not None and not ctx.is_admin:
        raise Locked(server=server.id)
    record = new_action(c, ctx, server.id, "delete")

    async def intent(tx: Transaction) -> Operation | None:
        if not await mappings.mark_deleting(tx, server.id):
            if await mappings.get(tx, server.id) is None:
                raise ServerNotFound(server=server.id)
            return None
        return await c.api_ops.open(tx, "delete", server.id, ctx, DeleteArgs(action_id=record.id))

    op = await c.api_db.transact(intent)
    if op is None:
        return

    async def show(tx: Transaction) -> None:
        if await servers.supersede(tx, server.id, c.runtime.now_us(), "deleting"):
            await actions.insert(tx, record)

    for cell in await _candidates(c, server.id):
        try:
            await cell.db.transact(show)
        except Unavailable as error:  # the intent is written: `run` comes to it
            c.log.warning("a delete is not shown yet", server=server.id, cell=cell.title, error=error)
    c.api_ops.start(op)
    notices.tell(c, ctx, msgspec.structs.replace(server, task="deleting"), "delete", "start")


async def _candidates(c: ComputeService, server_id: str) -> list[Cell]:
    """The server's cell; each database, when it has none yet: its row may be written at this moment."""
    cell = await c.cells.of(server_id)
    return [cell] if cell is not None else c.cells.faces


async def run(c: ComputeService, op: Operation) -> None:
    args = op.arguments(DeleteArgs)
    await _wait_for_create(c, op)
    cell, server = await c.cells.locate(op.resource_id) or await _forestalled(c, op) or (None, None)
    if cell is not None and server is not None and not server.deleted:
        db = cell.db
        if server.task != "deleting":
            await db.transact(lambda tx: servers.supersede(tx, op.resource_id, c.runtime.now_us(), "deleting"))
            server = await servers.get(db, op.resource_id) or server
        await _end_guest(c, op, db, server)
    await c.network.release(op.ctx, op.resource_id, up_to=LAST_TURN)
    await c.placement.release(op.ctx, op.resource_id, for_good=True)
    if cell is not None and server is not None and not server.deleted:
        await _mark(c, op, args, cell.db, server)
        if server.host is not None:
            c.hosts.give(server.host, server.flavor)
    await _forget(c, op)


recover = run


async def _wait_for_create(c: ComputeService, op: Operation) -> None:
    """Until no create of this server is under way: it ends at its next step, since the mapping says `deleting`."""
    pause_s = POLL_S
    while any(other.verb == "create" for other in await c.api_ops.of(op.resource_id)):
        await c.runtime.sleep(pause_s)
        pause_s = min(pause_s * 1.5, POLL_MAX_S)


async def _forestalled(c: ComputeService, op: Operation) -> tuple[Cell, Server] | None:
    """No cell has a row. A create that was asleep may still write one, in whichever cell, when all of this is over: it shall find it there,
    deleted. The row, if it was quicker than we are."""
    request = await mappings.request(c.api_db, op.resource_id)
    if request is None:
        return None
    now = c.runtime.now_us()
    gone = msgspec.structs.replace(
        request, state="deleted", task=None, deleted=True, terminated_at=now, updated_at=now, revision=request.revision + 1
    )

    async def body(tx: Transaction) -> Server | None:
        there = await servers.get(tx, gone.id)
        if there is None:
            await servers.insert(tx, gone)
        return there if there is not None and not there.deleted else None

    written = [(cell, await cell.db.transact(body)) for cell in c.cells.faces]
    return next(((cell, server) for cell, server in written if server is not None), None)


async def _end_guest(c: ComputeService, op: Operation, db: Database, server: Server) -> None:
    if server.host is None:
        return
    fence = rpc.Fence(operation=op.id, generation=server.generation, epoch=op.epoch, number=1)
    try:
        await c.send(server.host, rpc.Destroy(fence=fence, server_id=server.id))
    except Unreachable:
        host = await host_store.by_host(db, server.host)
        if host is not None and c.hosts.is_up(host):
            raise
        c.log.warning(LEFT_BEHIND, server=server.id, host=server.host)


async def _mark(c: ComputeService, op: Operation, args: DeleteArgs, db: Database, server: Server) -> None:
    async def body(tx: Transaction) -> None:
        now = c.runtime.now_us()
        await servers.update(tx, server.id, now, state="deleted", task=None, power_state=0, terminated_at=now, deleted=True, nics=())
        await actions.end(tx, args.action_id, now, None)
        await actions.add_event(tx, _event(c, op, args, server, None))

    await db.transact(body)
    await notices.settled(c, op.ctx, db, server.id, "delete")


async def _forget(c: ComputeService, op: Operation) -> None:
    async def body(tx: Transaction) -> None:
        mapping = await mappings.get(tx, op.resource_id)
        if mapping is not None:
            await mappings.drop(tx, mapping)
        await c.api_ops.finish(tx, op)

    await c.api_db.transact(body)


async def give_up(c: ComputeService, op: Operation, error: Error) -> None:
    """In ERROR; the client may ask for the delete again. A server without a row has nothing that could be shown so: it is forgotten."""
    args = op.arguments(DeleteArgs)
    cell, server = await c.cells.locate(op.resource_id) or (None, None)
    if cell is None or server is None or server.deleted:
        await _forget(c, op)
        return

    async def show(tx: Transaction) -> None:
        now = c.runtime.now_us()
        await servers.update(tx, op.resource_id, now, state="error", task=None, fault=fault_of(c, error))
        await actions.end(tx, args.action_id, now, "Error")
        await actions.add_event(tx, _event(c, op, args, server, error))

    async def unmark(tx: Transaction) -> None:
        await mappings.unmark_deleting(tx, op.resource_id)
        await c.api_ops.finish(tx, op)

    await cell.db.transact(show)
    await c.api_db.transact(unmark)


def _event(c: ComputeService, op: Operation, args: DeleteArgs, server: Server, error: Error | None) -> Event:
    return Event(
        id=c.runtime.uuid(),
        action_id=args.action_id,
        event="compute_terminate_instance",
        host=server.host,
        start_at=op.created_at,
        finish_at=c.runtime.now_us(),
        result="Success" if error is None else "Error",
        details=None if error is None else error.message,
    )
