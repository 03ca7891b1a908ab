"""From a request to a running guest.

begin    quota, number, mapping, build request and operation in one transaction of the api side; then the client has its 202.
run      pick a host, claim its resources in placement; write the server into the host's cell, and meanwhile make and bind ports and
         wait until the dataplane has wired them; start the guest, and settle it ACTIVE. A host that fails is undone and the next one is
         tried, in the same cell: its row is there. A server that found no host is written into cell0.
recover  is run: each step finds what an earlier life has done already (row, claim, ports, guest) and goes on from there.

A delete that arrives meanwhile raises the server's generation; this verb notices at its next step and leaves the cleaning to the delete.
"""

from collections.abc import Awaitable, Callable
from typing import Any

import msgspec

from kilonova.compute import rpc
from kilonova.compute.cells import Cell
from kilonova.compute.domain import notices
from kilonova.compute.domain.guests import guest_of
from kilonova.compute.errors import BuildFailed, CellAway, GuestLeft, HostSilent, NoValidHost, OverQuota, Overtaken, Superseded
from kilonova.compute.model import Action, Event, Host, NicWish, Scheduling, Server
from kilonova.compute.ops.verbs import fault_of, superseded
from kilonova.compute.scheduler.snapshot import Request
from kilonova.compute.service import ComputeService, nic_of
from kilonova.compute.store import actions, mappings, servers
from kilonova.core.bus import NoBroker, Undelivered, Unreachable
from kilonova.core.context import Context
from kilonova.core.db import Duplicate, Lost, OutcomeUnknown, Transaction, Unmatched
from kilonova.core.errors import Error, Unavailable
from kilonova.core.operations import LostLease, Operation
from kilonova.core.undo import Undo
from kilonova.network.contract import Allocate, InterfacesReleased, NicRequest
from kilonova.placement.contract import ConsumerGone, NoCapacity

GENERATION = 1
SETTLING_S = 15.0
"""After the broker's return, until all hosts listen again."""
EVENT = "compute__do_build_and_run_instance"


class CreateArgs(msgspec.Struct, frozen=True, kw_only=True):
    networks: tuple[NicWish, ...] = ()
    auto: str = ""
    image: rpc.GuestImage | None = None
    host: str | None = None
    hypervisor_hostname: str | None = None


async def begin(c: ComputeService, ctx: Context, wanted: list[Server], args: CreateArgs, limits: dict[str, int]) -> list[Server]:
    """Accept servers: all of them or none. limits: the project's quota. Raises OverQuota."""
    flavor = wanted[0].flavor
    asked = {"instances": len(wanted), "cores": flavor.vcpus * len(wanted), "ram_mb": flavor.ram_mb * len(wanted)}
    bounds = {"instances": limits["instances"], "cores": limits["cores"], "ram_mb": limits["ram"]}

    reserved = await c.numbers.take(len(wanted)) if c.numbers is not None else None

    async def body(tx: Transaction) -> tuple[list[Server], list[Operation]]:
        first = reserved if reserved is not None else await mappings.numbers(tx, "server", len(wanted))
        made = [msgspec.structs.replace(server, number=first + i) for i, server in enumerate(wanted)]
        ops = []
        for server in made:
            await mappings.insert(tx, server)
            ops.append(await c.api_ops.open(tx, "create", server.id, ctx, args))
        # Last, since all requests of the project write that row and wait for each other's commit.
        if joins and tx.joins:
            await mappings.take_quota_later(tx, ctx.project_id or "", asked, bounds)
        elif not await mappings.take_quota(tx, ctx.project_id or "", asked, bounds):
            raise await _over_quota(tx, ctx.project_id or "", asked, bounds)
        return made, ops

    joins = True
    try:
        made, ops = await c.api_db.transact(body)
    except mappings.QuotaRefused:
        joins = False
        made, ops = await c.api_db.transact(body)
    for server, op in zip(made, ops, strict=True):
        if c.conducts:
            c.accepted[op.id] = server
        c.api_ops.start(op)
    return made


async def _over_quota(tx: Transaction, project_id: str, asked: dict[str, int], bounds: dict[str, int]) -> OverQuota:
    used = await mappings.usage(tx, project_id)
    names = {"instances": "instances", "cores": "cores", "ram_mb": "ram"}
    over = [name for name in names if 0 <= bounds[name] < used[name] + asked[name]]

    def text(values: dict[str, int]) -> str:
        return ", ".join(str(values[name]) for name in over)

    return OverQuota(resources=", ".join(names[name] for name in over), requested=text(asked), used=text(used), limit=text(bounds))


async def run(c: ComputeService, op: Operation) -> None:
    args = op.arguments(CreateArgs)
    try:
        server, cell = await _wanted(c, op)
        if server.state != "active":
            if await _build(c, op, args, server, cell):
                return
        elif not _first(op):
            await _confirm(c, op, args, server)
    except Superseded as error:
        await _end_action(c, op, error)
    await c.api_ops.end(op)


recover = run


async def _end_action(c: ComputeService, op: Operation, error: Error) -> None:
    """Overtaken by a delete: the create's action ends as an error, whatever becomes of the delete. An action that an earlier life has
    ended stays as it is."""
    c.log.info("create overtaken", server=op.resource_id)
    cell, server = await c.cells.locate(op.resource_id) or (None, None)
    if cell is None or server is None or await actions.events(cell.db, op.id):
        return

    async def body(tx: Transaction) -> None:
        now = c.runtime.now_us()
        await actions.end(tx, op.id, now, "Error")
        await actions.add_event(tx, _event(c, op, server.host, error, now))

    await cell.db.transact(body)


async def _confirm(c: ComputeService, op: Operation, args: CreateArgs, server: Server) -> None:
    """An earlier runner has settled the server. If it was asleep before it did, a later one may have ended the guest meanwhile: spawn,
    which changes nothing where the guest is."""
    if server.host is None:
        return
    guest = await guest_of(c, server, image=args.image)
    try:
        await c.send(server.host, rpc.Spawn(fence=_fence(op, 1), guest=guest), timeout_s=900)
    except Overtaken:
        raise Superseded(server=server.id) from None


async def _wanted(c: ComputeService, op: Operation) -> tuple[Server, Cell | None]:
    """The server as the client asked for it, or as an earlier life left it, with the cell that its row is in: found in whichever it is,
    since an earlier life may have died between the row and the mapping that points to it."""
    fresh = c.accepted.pop(op.id, None)
    if fresh is not None:
        return fresh, None
    mapping, request = await mappings.wanted(c.api_db, op.resource_id)
    if mapping is None or mapping.deleting:
        raise Superseded(server=op.resource_id)
    found = await c.cells.locate(op.resource_id) if mapping.cell or not _first(op) else None
    cell, server = found if found is not None else (None, request)
    if server is None or server.deleted or server.generation != GENERATION:
        raise Superseded(server=op.resource_id)
    if server.state == "error" and cell is not None:  # an earlier life has failed it, and may have died before it told the api side
        if not mapping.cell:
            homeless = server.host is None and cell in c.cells.beside(c.cells.cell0)
            await _map(c, server.id, c.cells.cell0 if homeless else cell)
        if server.host is None:  # or one that was asleep has, after its claim was taken over
            await _free(c, op)
            await _close(c, op)
        raise Superseded(server=op.resource_id)
    return server, cell


def _first(op: Operation) -> bool:
    """Nobody has run it before: there is nothing of the server yet. (An attempt that had to wait for a database does not count as one.)"""
    return op.epoch == 1


async def _build(c: ComputeService, op: Operation, args: CreateArgs, server: Server, cell: Cell | None) -> bool:
    """True when the operation is ended. cell: where the server's row is; None as long as there is none."""
    tried: dict[str, str] = {}
    last: Error | None = None
    if _first(op):
        notices.tell(c, op.ctx, server, "create", "start")
    while len(tried) < c.settings["scheduler"].max_attempts:
        try:
            host, scheduling = await _choose(c, op, args, server, cell, tried)
        except NoValidHost as error:
            if tried or not _first(op):
                await _free(c, op)
            await _fail(c, op, server, cell or c.cells.cell0, last or error, error.details["scheduling"])
            return False
        there = cell or await c.hosts.cell_of(host.host)
        try:
            turn = _turn(op, len(tried))
            first = _first(op) and not tried
            return await _build_on(c, op, args, server, there, host, scheduling, turn=turn, first=first, new=cell is None)
        except CellAway as error:
            c.log.warning("the cell of the host does not answer", server=server.id, host=host.host, cell=there.title)
            c.cells.suspect(there)
            c.hosts.stale()
            await _still_ours(c, op)
            tried[host.host], last = error.message, error
            continue
        except Overtaken:
            raise Superseded(server=server.id) from None
        except (Superseded, HostSilent, LostLease):
            raise
        except GuestLeft as error:
            tried[host.host] = error.message
            await _fail(c, op, server, there, error, _refused(tried), gone=False)
            return False
        except Error as error:
            if _elsewhere(c, error, host.host):
                raise
            c.log.warning("build failed on host", server=server.id, host=host.host, error=error)
            await _still_ours(c, op)
            cell = there
            tried[host.host] = error.message
            last = BuildFailed(server=server.id, host=host.host, why=error.message, unreachable=isinstance(error, Unreachable))
    assert last is not None
    await _free(c, op)
    await _fail(c, op, server, cell or c.cells.cell0, last, _refused(tried))
    return False


def _refused(tried: dict[str, str]) -> Scheduling:
    return Scheduling(considered=len(tried), rejected={host: ("build", why) for host, why in tried.items()})


async def _choose(
    c: ComputeService, op: Operation, args: CreateArgs, server: Server, cell: Cell | None, tried: dict[str, str]
) -> tuple[Host, Scheduling]:
    """A host (of the cell, if there is one) whose resources are claimed. Raises NoValidHost with a reason for each host."""
    flavor = server.flavor
    request = Request(
        server_id=server.id,
        vcpus=flavor.vcpus,
        ram_mb=flavor.ram_mb,
        disk_gb=c.disk_gb(flavor),
        availability_zone=server.pinned_availability_zone,
        host=args.host,
        hypervisor_hostname=args.hypervisor_hostname,
        image_properties=server.image_properties,
        exclude=tried if cell is None else {**await c.hosts.outside(cell), **tried},
    )
    resources = c.resources(flavor)
    if not _first(op) and not tried:
        held = await c.placement.allocation(op.ctx, server.id)
        host = await c.hosts.by_id(held.provider_id) if held is not None else None
        if host is not None and await _claimed(c, op, server, host, resources):  # ours from now on: who held it can give it back no more
            return host, server.scheduling if server.scheduling.chosen else Scheduling(chosen=host.host)
    for _ in range(64):
        found, scheduling = await c.hosts.choose(request)
        if found is None:
            raise NoValidHost(summary=scheduling.summary, server=server.id, scheduling=scheduling)
        if not await _claimed(c, op, server, found, resources):
            continue
        c.hosts.take(found.host, request)
        return found, scheduling
    raise NoValidHost(
        summary="Every host was taken by other requests at the same moment; try again.", server=server.id, scheduling=scheduling
    )


async def _claimed(c: ComputeService, op: Operation, server: Server, host: Host, resources: dict[str, int]) -> bool:
    """False when they are not there any more."""
    try:
        await c.placement.claim(op.ctx, server.id, host.id, resources, server.project_id, server.user_id, generation=op.epoch)
    except NoCapacity:
        c.hosts.stale()
        return False
    except ConsumerGone:  # by the server's delete, while we were asleep
        raise LostLease(operation=op.id) from None
    if not c.api_ops.valid(op.id) and not await c.api_ops.held(op):  # we may have been asleep: whoever came after us may be done already
        await c.placement.release(op.ctx, server.id, up_to=op.epoch)
        raise LostLease(operation=op.id)
    return True


async def _build_on(
    c: ComputeService,
    op: Operation,
    args: CreateArgs,
    server: Server,
    cell: Cell,
    host: Host,
    scheduling: Scheduling,
    *,
    turn: int,
    first: bool,
    new: bool,
) -> bool:
    """True when the operation is ended. first: no earlier life and no other host has made anything for this server. new: no cell has its
    row. Raises CellAway."""
    touched = not _first(op) and server.host == host.host  # an earlier attempt may have got as far as the guest
    sent = False
    async with Undo(c.log, lambda: c.api_ops.held(op)) as undo:
        undo.push(c.unclaim, op, server, host.host)
        try:
            undo.push(_unwire, c, op, turn)
            both = [_place(c, op, server, cell, host, scheduling, new=new), _wired(c, op, args, server, host, turn=turn, first=first)]
            revision, placed = await c.tasks.gather(f"create {server.id}", both)
            await superseded(cell, server.id, GENERATION)
            guest = await guest_of(c, placed, image=args.image)
            sent = True
            done = await c.send(host.host, rpc.Spawn(fence=_fence(op, 1), guest=guest), timeout_s=900)
        except (Superseded, Overtaken, LostLease):
            undo.keep()
            raise
        except Exception as error:
            if _elsewhere(c, error, host.host):
                undo.keep()  # the next attempt goes on from here
                raise
            maybe = touched or (sent and not isinstance(error, Undelivered))
            try:
                left = await _left(c, op, server, host.host, error) if maybe else None
            except Superseded:
                undo.keep()  # a late runner has settled it, and another verb has come since: all of it is the server's
                raise
            if left is not None:
                undo.keep()
                raise left from error
            raise
        undo.keep()
    return await _settle(c, op, placed, revision, cell, done.power_state)


def _elsewhere(c: ComputeService, error: Exception, host: str) -> bool:
    """Whether a service, the broker or a database is away: not the host's fault, and nothing that another host would do better. Nor is it
    the host's fault when the broker has been back for a moment only."""
    if not isinstance(error, Unavailable):
        return False
    if isinstance(error, Undelivered) and c.runtime.monotonic() - c.broker_back_at < SETTLING_S:
        return True
    return isinstance(error, NoBroker) or error.details.get("address") != f"compute.{host}"


async def _still_ours(c: ComputeService, op: Operation) -> None:
    """Before another host is tried, or the server is given up: a runner that was overtaken must not, whatever the clocks say. Raises
    LostLease."""
    if not await c.api_ops.held(op):
        raise LostLease(operation=op.id)


def _turn(op: Operation, tries: int) -> int:
    """By which network tells which allocate or release of this server is the later one. tries: hosts that this runner has tried before."""
    return (op.epoch << 32) + tries


def _all_turns(op: Operation) -> int:
    return _turn(op, (1 << 32) - 1)


async def _unwire(c: ComputeService, op: Operation, turn: int) -> None:
    """What a later runner, or a later try, has allocated it keeps."""
    await c.network.release(op.ctx, op.resource_id, up_to=turn)


async def _wired(c: ComputeService, op: Operation, args: CreateArgs, server: Server, host: Host, *, turn: int, first: bool) -> Server:
    """The server on its host, with ports that the dataplane has wired."""
    request = Allocate(
        server_id=server.id,
        project_id=server.project_id,
        host=host.host,
        availability_zone=host.availability_zone,
        hostname=server.hostname,
        networks=tuple(NicRequest(network_id=n.network_id, port_id=n.port_id, fixed_ip=n.fixed_ip, tag=n.tag) for n in args.networks),
        auto=args.auto,
        security_groups=server.security_groups,
        first=first,
        turn=turn,
    )
    wait_s = c.settings["DEFAULT"].vif_plugging_timeout or None
    try:
        found = await c.network.allocate(op.ctx, request, wait_s)
    except InterfacesReleased:  # by a later runner or the server's delete
        raise LostLease(operation=op.id) from None
    if not c.api_ops.valid(op.id):
        await _still_ours(c, op)
    if wait_s is not None and any(nic.status != "ACTIVE" for nic in found):  # an older release does not wait in `allocate`
        await c.network.wait_wired(op.ctx, server.id, wait_s)
    nics = tuple(nic_of(nic) for nic in found)
    return msgspec.structs.replace(
        server, nics=nics, host=host.host, node=host.hypervisor_hostname, availability_zone=host.availability_zone
    )


async def overtaken(c: ComputeService, op: Operation) -> None:
    """A step that a sleeper made when it woke may have come after another runner, and even the server's delete, were done. What is of a
    server that is on a host, or may get there, is the other runner's too."""
    mapping = await mappings.get(c.api_db, op.resource_id)
    if mapping is not None and not mapping.deleting:
        found = await c.cells.locate(op.resource_id)
        if found is None or found[1].state != "error" or found[1].host is not None:
            return
    await _free(c, op)


def _fence(op: Operation, number: int) -> rpc.Fence:
    return rpc.Fence(operation=op.id, generation=GENERATION, epoch=op.epoch, number=number)


async def _left(c: ComputeService, op: Operation, server: Server, host: str, failure: Exception) -> Error | None:
    """None when the host says that it has no guest of this server (any more), else why that is not so. Raises Superseded, LostLease."""
    try:
        await c.send(host, rpc.Destroy(fence=_fence(op, 2), server_id=server.id))
    except Overtaken:
        raise Superseded(server=server.id) from None
    except LostLease:
        raise
    except Unavailable as error:
        c.log.warning("whether a guest is left is not known", server=server.id, host=host, error=error)
        return HostSilent(server=server.id)
    except Error as error:
        c.log.warning("a guest may be left", server=server.id, host=host, error=error)
        why = failure.message if isinstance(failure, Error) else "An unexpected error came."
        return GuestLeft(server=server.id, host=host, why=why, unreachable=False)
    return None


async def give_up(c: ComputeService, op: Operation, error: Error) -> None:
    """In ERROR; its host, ports and claim stay the server's while a guest may still be there, or who frees them is away: its delete
    does it."""
    try:
        server, cell = await _wanted(c, op)
        if server.state != "active":
            gone = server.host is None or await _left(c, op, server, server.host, error) is None
            gone = gone and await _freed(c, op)
            await _fail(c, op, server, cell or c.cells.cell0, error, server.scheduling, gone=gone)
    except Superseded as overtaken:
        await _end_action(c, op, overtaken)
    await c.api_ops.end(op)


async def _free(c: ComputeService, op: Operation) -> None:
    """Ports and claim, before the row says that nothing is held: an undo may have come to nothing, since its steps may fail."""
    await _unwire(c, op, _all_turns(op))
    await c.placement.release(op.ctx, op.resource_id, up_to=op.epoch)


async def _close(c: ComputeService, op: Operation) -> None:
    """The server is in ERROR and on no host, which only its delete ends: nobody claims anything for it any more, whoever was asleep."""
    await c.placement.release(op.ctx, op.resource_id, for_good=True)


async def _freed(c: ComputeService, op: Operation) -> bool:
    """Whether the server's ports and claim could be given back."""
    try:
        await _free(c, op)
    except Lost:
        raise  # it may be done all the same
    except Error as error:
        c.log.warning("ports and claim stay until the server is deleted", server=op.resource_id, error=error)
        return False
    return True


async def _map(c: ComputeService, server_id: str, cell: Cell) -> None:
    """The mapping points to the cell that the server's row is in, from here on."""
    await c.api_db.transact(lambda tx: mappings.place(tx, server_id, cell.uuid))
    c.cells.remember(server_id, cell)


async def _place(c: ComputeService, op: Operation, server: Server, cell: Cell, host: Host, scheduling: Scheduling, *, new: bool) -> int:
    """The server's row in the host's cell, and then the mapping that points there; both at once where one database has both. Returns the
    row's revision."""

    fresh = new and _first(op)

    async def row(tx: Transaction) -> int:
        now = c.runtime.now_us()
        changes: dict[str, Any] = {
            "host": host.host,
            "node": host.hypervisor_hostname,
            "availability_zone": host.availability_zone,
            "task": "spawning",
            "scheduling": scheduling,
        }
        if cell.is_on(c.api_db):
            await mappings.place(tx, server.id, cell.uuid)
        if fresh or await servers.get(tx, server.id) is None:
            await servers.insert(tx, msgspec.structs.replace(server, revision=server.revision + 1, updated_at=now, **changes))
            await actions.insert(tx, _action(op, server))
            return server.revision + 1
        if not await servers.place(tx, server.id, GENERATION, now, **changes):
            found = await servers.get(tx, server.id)
            if found is not None and not found.deleted and found.generation == GENERATION and found.state in ("active", "error"):
                raise LostLease(operation=op.id)  # by a late runner: who adopts this sees to the guest (_confirm) or the claim (_wanted)
            raise Superseded(server=server.id)
        now_is = await servers.outline(tx, server.id)
        return now_is.revision if now_is is not None else -1

    try:
        try:
            revision = await cell.db.transact(row)
        except Duplicate:  # we were asleep: a delete, or another runner, was here
            fresh = False
            revision = await cell.db.transact(row)
    except Lost as error:
        if new and c.cells.only is None and not isinstance(error, OutcomeUnknown):
            raise CellAway(cell=cell.uuid) from error
        raise
    if cell.is_on(c.api_db):
        c.cells.remember(server.id, cell)
    else:
        await _map(c, server.id, cell)
    return revision


def _action(op: Operation, server: Server) -> Action:
    """The id is the operation's, so that a create that is resumed ends the action that it began."""
    return Action(
        id=op.id,
        server_id=server.id,
        action="create",
        request_id=op.ctx.request_id,
        user_id=op.ctx.user_id,
        project_id=op.ctx.project_id,
        start_at=op.created_at,
        updated_at=op.created_at,
        message=None,
    )


def _event(c: ComputeService, op: Operation, host: str | None, error: Error | None, now: int) -> Event:
    return Event(
        id=c.runtime.uuid(),
        action_id=op.id,
        event=EVENT,
        host=host,
        start_at=op.created_at,
        finish_at=now,
        result="Success" if error is None else "Error",
        details=None if error is None else error.message,
    )


async def _settle(c: ComputeService, op: Operation, server: Server, revision: int, cell: Cell, power_state: int) -> bool:
    """True when the operation is ended, too: one database has both. A row that is not as this runner has left it, being built on this host,
    is another verb's, or has been written by another runner or by its user: then the one that holds the operation is right."""
    surely, together = False, cell.is_on(c.api_db)

    async def body(tx: Transaction) -> bool:
        now = c.runtime.now_us()
        changes = {"state": "active", "task": None, "power_state": power_state, "launched_at": now, "nics": server.nics}
        if surely:
            # Whatever a late runner wrote.
            where = {"host": server.host, "node": server.node, "availability_zone": server.availability_zone}
            if not await servers.update_unchanged(tx, server.id, GENERATION, revision, now, **changes, **where):
                return False
        else:
            await servers.built(tx, server.id, GENERATION, revision, server.host or "", now, **changes)
        await actions.end(tx, op.id, now, None)
        await actions.add_event(tx, _event(c, op, server.host, None, now))
        if together:
            await c.api_ops.finish(tx, op)
        return True

    while not await _done(cell, body):
        await superseded(cell, server.id, GENERATION)
        there = await servers.outline(cell.db, server.id)
        revision, surely = there.revision if there is not None else -1, True
        await _still_ours(c, op)
    await notices.settled(c, op.ctx, cell.db, server.id, "create")
    return together


async def _done(cell: Cell, body: Callable[[Transaction], Awaitable[bool]]) -> bool:
    try:
        return await cell.db.transact(body)
    except Unmatched:
        return False


async def _fail(
    c: ComputeService, op: Operation, server: Server, cell: Cell, error: Error, scheduling: Scheduling, *, gone: bool = True
) -> None:
    """ERROR with the reason. gone: what the attempts held has been undone. The row is read before the question whether the operation is
    still ours, and written only as it was read: who falls asleep after the answer writes over nothing of a later runner."""

    async def body(tx: Transaction) -> bool:
        now = c.runtime.now_us()
        changes: dict[str, Any] = {"state": "error", "task": None, "fault": fault_of(c, error), "scheduling": scheduling}
        if gone:
            changes |= {"host": None, "node": None, "nics": ()}
        if before is not None:
            if not await servers.update_unchanged(tx, server.id, GENERATION, before.revision, now, **changes):
                return False
        elif await servers.outline(tx, server.id) is None:
            await servers.insert(tx, msgspec.structs.replace(server, revision=server.revision + 1, updated_at=now, **changes))
            await actions.insert(tx, _action(op, server))
        else:
            return False
        await actions.end(tx, op.id, now, "Error")
        await actions.add_event(tx, _event(c, op, None, error, now))
        return True

    while True:
        before = await servers.outline(cell.db, server.id)
        await _still_ours(c, op)
        if await cell.db.transact(body):
            break
        await superseded(cell, server.id, GENERATION)
    await notices.settled(c, op.ctx, cell.db, server.id, "create", error)
    await _map(c, server.id, cell)
    if gone:
        await _close(c, op)
