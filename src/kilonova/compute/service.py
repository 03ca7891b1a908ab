"""The compute service: its collaborators, its lifetime, what hosts report to it, and the contract that other services use."""

import functools
from typing import Any, NamedTuple

from kilonova.compute import rpc
from kilonova.compute.cells import REFRESH_S, Cell, Cells, Opener
from kilonova.compute.contract import GuestMetadata
from kilonova.compute.domain import guest_metadata
from kilonova.compute.domain import hosts as host_domain
from kilonova.compute.domain.hosts import Hosts
from kilonova.compute.domain.notice_payloads import service_payload
from kilonova.compute.model import CRASHED, NOSTATE, PAUSED, RUNNING, SHUTDOWN, Daemon, Fault, FixedIp, Flavor, Nic, Server
from kilonova.compute.store import api_tables, cell_tables, claims, mappings, servers
from kilonova.compute.store import hosts as host_store
from kilonova.compute.store.cell_mappings import CELL0
from kilonova.core.bus import Bus, never_waits
from kilonova.core.bus.notifications import Notifier
from kilonova.core.config import Settings
from kilonova.core.context import Context, service_context
from kilonova.core.db import Database, Duplicate, Transaction
from kilonova.core.errors import Error, PolicyForbids
from kilonova.core.log import Log
from kilonova.core.operations import RENEW_S, LostLease, Operation, Operations, Verb
from kilonova.core.runtime import Runtime
from kilonova.core.tasks import Tasks
from kilonova.identity.contract import Identity
from kilonova.image.contract import Images
from kilonova.network import contract as network_contract
from kilonova.placement.contract import Placement

FACTS = "compute.facts"
CONDUCTORS = "compute.conductor"
LOCAL = "kilonova"
UNSYNCED = ("building", "rescued", "resized", "suspended", "error")
"""States that a guest does not leave by itself: a verb brings the server out of them."""
QUOTAS = (
    "instances",
    "cores",
    "ram",
    "metadata_items",
    "injected_files",
    "injected_file_content_bytes",
    "injected_file_path_length",
    "key_pairs",
    "server_groups",
    "server_group_members",
)


class View(NamedTuple):
    """A document of a server. settled: no verb was under way in it."""

    revision: int
    host_status: str | None
    document: bytes
    settled: bool


class ComputeService:
    name = "compute"

    def __init__(
        self,
        *,
        api_db: Database,
        cell_db: Database | None = None,
        open_cell: Opener | None = None,
        runtime: Runtime,
        log: Log,
        settings: dict[str, Settings],
        bus: Bus,
        identity: Identity,
        placement: Placement,
        network: network_contract.Network,
        images: Images,
        owner: str,
        exclusive: bool = True,
        conducts: bool = True,
        node: str = LOCAL,
    ) -> None:
        """owner: this life of this process. exclusive: the databases are ours alone, so operations of earlier lives are dead. conducts:
        verbs are carried out here; else they are left to the conductors. node: this machine's name in service lists.

        cell_db: where the cloud makes cell0 and cell1 by itself. open_cell: how to reach the cells that an operator has mapped."""
        self.api_db = api_db
        self.runtime = runtime
        self.log = log
        self.settings = settings
        self.bus = bus
        self.identity = identity
        self.placement = placement
        self.network = network
        self.images = images
        self.exclusive = exclusive
        self._alone = exclusive
        self.numbers = None if exclusive else mappings.Numbers(api_db, "server")
        self.tasks = Tasks(runtime, log)
        self.conducts = conducts
        self.node = node
        self.cell_verbs: dict[str, Verb] = {}
        """Verbs on a server that has a cell: their operations are rows of it."""
        hand_over = None if conducts else self._hand_over
        self.api_ops = Operations(api_db, api_tables.operations, runtime, self.tasks, log, owner, hand_over)

        def operations(db: Database) -> Operations:
            made = Operations(db, cell_tables.operations, runtime, self.tasks, log, owner, hand_over)
            made.verbs = self.cell_verbs
            return made

        self.cells = Cells(
            api_db,
            runtime,
            log,
            self.tasks,
            cell_db=cell_db,
            open_cell=open_cell,
            make_ops=operations,
            timeout_s=settings["api"].cell_timeout,
        )
        self.hosts = Hosts(self.cells, runtime, placement, settings)
        self.broker_back_at = float("-inf")
        self.accepted: dict[str, Server] = {}
        """Operation -> the server that its create is about to make: saves the first run from reading what was just written."""
        self.views: dict[tuple[Any, ...], View] = {}
        self.notifier = Notifier(runtime, log)
        """Nobody listens, unless the composition root puts another here."""

    # ---- lifetime

    async def start(self) -> None:
        """Listen for facts, then finish what earlier lives began (after the agents are there: `recover`)."""
        if self.conducts:
            self.bus.serve(CONDUCTORS, {rpc.OperationReady: self._take_up, rpc.HostClaim: self._claimed})
        own = [cell for cell in self.cells.every if cell.own and self.conducts]
        for cell in own:
            if cell.uuid != CELL0:
                self._listen(cell, self.bus)
        await self.cells.refresh(self._cell_opened)
        for cell in own:
            if cell.uuid == CELL0:
                await self._introduce_daemons(cell.db)
        self.tasks.every("cells", REFRESH_S if self.cells.only else RENEW_S, lambda: self.cells.refresh(self._cell_opened))
        if not self.conducts:
            return
        self.bus.subscribe("network.server_changed", self.addresses_changed)
        self.tasks.every("operation leases", RENEW_S, self._renew)
        self.tasks.every("operations that nobody runs", RENEW_S, self._adopt)
        self.tasks.every("conductor's heartbeat", RENEW_S, self._beat)

    async def holds(self, claim: rpc.HostClaim) -> bool:
        """Whether a host has what it says that it has. False when its cell does not know it."""
        cell = await self.hosts.cell_of(claim.host)
        if claim.server_id:
            return await claims.has_server(cell.db, claim.host, claim.server_id)
        if claim.image_id:
            return await claims.uses_image(cell.db, claim.host, claim.image_id)
        return bool(claim.fills_image) and await claims.fills_image(cell.db, claim.host, claim.fills_image)

    async def _claimed(self, claim: rpc.HostClaim) -> rpc.ClaimHolds:
        return rpc.ClaimHolds(holds=await self.holds(claim))

    def _hand_over(self, operation: str) -> None:
        self.bus.cast(CONDUCTORS, rpc.OperationReady(operation=operation))

    async def _take_up(self, told: rpc.OperationReady) -> None:
        """Whose database it is in is found by asking: a cell's operations are few."""
        if await self.api_ops.take_up(told.operation):
            return
        await self.cells.gather("an operation", lambda cell: cell.ops.take_up(told.operation))

    async def recover(self) -> int:
        """Take over operations whose runner died. Called once the hosts have reported, and every now and then."""
        taken = await self.api_ops.adopt(everything=self.exclusive)
        for cell in self.cells.faces:
            if not cell.why:
                taken += await cell.ops.adopt(everything=self.exclusive)
        self.exclusive = False
        return taken

    async def broker_is_back(self) -> None:
        """Operations that wait for the broker go on, and those that nobody could be told of are found."""
        self.broker_back_at = self.runtime.monotonic()
        for operations in (self.api_ops, *(cell.ops for cell in self.cells.faces if not cell.why)):
            operations.wake()
        await self.recover()

    async def stop(self) -> None:
        for cell in self.cells.every:
            if cell.uuid != CELL0:
                (cell.bus or self.bus).silence(FACTS)
        under_way = [] if self._alone else [(o, list(o.running)) for o in (self.api_ops, *(c.ops for c in self.cells.faces if not c.why))]
        await self.tasks.stop()
        await self._give_back([(operations, ids) for operations, ids in under_way if ids])
        await self.cells.stop()

    async def _give_back(self, under_way: list[tuple[Operations, list[str]]]) -> None:
        """What ran here is taken up by other conductors, at once."""
        for operations, ids in under_way:
            try:
                await operations.give_back(ids)
            except Error as error:
                self.log.warning("operations are left until their leases run out", count=len(ids), error=error)
                continue
            for operation in ids:
                self.bus.cast(CONDUCTORS, rpc.OperationReady(operation=operation))

    async def _cell_opened(self, cell: Cell) -> None:
        """Listen to the hosts of a cell that is none of our own, and keep its operations. One that cannot be reached makes no other wait:
        each has its own series."""
        if not self.conducts:
            return
        if cell.uuid == CELL0:
            await self._introduce_daemons(cell.db)
        else:
            self._listen(cell, cell.bus or self.bus)
        if not cell.tasks:
            cell.tasks.append(self.tasks.every(f"operation leases of {cell.title}", RENEW_S, cell.ops.renew))
            adopt = functools.partial(self._adopt_in, cell)
            cell.tasks.append(self.tasks.every(f"operations of {cell.title} that nobody runs", RENEW_S, adopt, at_once=True))
        self.hosts.stale()

    def _listen(self, cell: Cell, bus: Bus) -> None:
        async def host_reported(told: rpc.HostReport) -> rpc.HostAccepted:
            return await self.host_reported(cell, told)

        @never_waits
        async def hosts_alive(told: rpc.Alive) -> None:
            await self.hosts.alive(cell, told.hosts)

        async def guest_changed(told: rpc.GuestChanged) -> None:
            await self.guest_changed(cell, told)

        bus.serve(FACTS, {rpc.HostReport: host_reported, rpc.Alive: hosts_alive, rpc.GuestChanged: guest_changed})

    @property
    def cell_db(self) -> Database:
        """The database of the first cell: for those who look at a small cloud from outside."""
        return self.cells.first.db

    @property
    def cell_ops(self) -> Operations:
        return self.cells.first.ops

    def _own_operations(self) -> list[Operations]:
        return [self.api_ops, *(cell.ops for cell in self.cells.faces if cell.own)]

    async def _renew(self) -> None:
        for operations in self._own_operations():
            await operations.renew()

    async def _adopt(self) -> None:
        for operations in self._own_operations():
            await operations.adopt()

    async def _adopt_in(self, cell: Cell) -> None:
        """While it does not answer there is nothing to be found in it; that has been said."""
        if not cell.why:
            await cell.ops.adopt()

    async def _beat(self) -> None:
        now = self.runtime.now_us()
        await self.cells.cell0.db.transact(lambda tx: host_store.daemons_seen(tx, self.node, now))

    async def _introduce_daemons(self, db: Database) -> None:
        have = {d.binary for d in await host_store.daemons(db) if d.host == self.node}
        now = self.runtime.now_us()
        for binary in ("nova-scheduler", "nova-conductor"):
            if binary not in have:
                daemon = Daemon(
                    id=self.runtime.uuid(),
                    number=0,
                    binary=binary,
                    host=self.node,
                    disabled=False,
                    disabled_reason=None,
                    seen_at=now,
                    created_at=now,
                )
                try:
                    await db.transact(lambda tx, daemon=daemon: host_store.insert_daemon(tx, daemon))  # type: ignore[misc]
                except Duplicate:
                    continue
        await db.transact(lambda tx: host_store.daemons_seen(tx, self.node, now))

    # ---- commands down

    async def send(self, host: str, command: Any, timeout_s: float = 120.0) -> Any:
        """To the agent on a host. Raises LostLease when the command's operation may be somebody else's by now, Unreachable, or what the
        agent says went wrong."""
        fence: rpc.Fence | None = getattr(command, "fence", None)
        if fence is not None and not (self.api_ops.valid(fence.operation) or any(cell.valid(fence.operation) for cell in self.cells.every)):
            raise LostLease(operation=fence.operation)
        bus = (await self.hosts.cell_of(host)).bus or self.bus
        return await bus.call(f"compute.{host}", command, timeout_s)

    # ---- facts up

    async def host_reported(self, cell: Cell, told: rpc.HostReport) -> rpc.HostAccepted:
        host = await self.hosts.report(cell, told)
        if host.created_at == host.seen_at:
            self.notifier.emit(service_context("compute"), "service.create", f"nova-compute:{host.host}", service_payload(host))
        there = await servers.of_host(cell.db, told.host)
        try:
            await self._look_at_addresses(cell, [s for s in there if s.task is None])
        except Exception as error:
            self.log.warning("addresses were not compared", host=told.host, error=error)
        settled = {s.id: (s.generation, s.power_state) for s in there if s.task is None}
        return rpc.HostAccepted(host_id=host.id, servers=tuple(s.id for s in there), complete=True, settled=settled)

    async def _look_at_addresses(self, cell: Cell, there: list[Server]) -> None:
        """Mend the addresses of servers of which a change was not told."""
        true = await self.network.nics_of(service_context("compute"), tuple(s.id for s in there)) if there else {}
        for server in there:
            nics = tuple(nic_of(n) for n in true.get(server.id, ()))
            if nics != server.nics and server.state != "error":
                self.log.info("addresses have changed unnoticed", server=server.id)

                async def body(tx: Transaction, server: Server = server, nics: tuple[Nic, ...] = nics) -> None:
                    await servers.update_at(tx, server.id, server.generation, server.updated_at, nics=nics)

                await cell.db.transact(body)

    async def guest_changed(self, cell: Cell, told: rpc.GuestChanged) -> None:
        """A guest did something by itself. A verb under way settles the server itself; otherwise the row follows the truth."""
        server = await servers.get(cell.db, told.server_id)
        if server is None or server.deleted or server.host != told.host or server.task is not None:
            return
        if told.generation and told.generation != server.generation:
            return
        state = {SHUTDOWN: "stopped", NOSTATE: "stopped", PAUSED: "paused", RUNNING: "active", CRASHED: "error"}.get(told.power_state)
        if state is None or (state == server.state and told.power_state == server.power_state) or server.state in UNSYNCED:
            return
        self.log.warning("guest changed by itself", server=server.id, host=told.host, was=server.state, now=state, reason=told.reason)

        async def body(tx: Transaction) -> None:
            now = self.runtime.now_us()
            changes: dict[str, Any] = {"state": state, "power_state": told.power_state}
            if state == "error":
                changes["fault"] = Fault(code=500, message=told.reason or "The guest crashed.", created=now)
            await servers.update_at(tx, server.id, server.generation, now, **changes)

        await cell.db.transact(body)

    async def addresses_changed(self, told: network_contract.ServerAddressesChanged) -> None:
        """A port or a floating IP of a server has changed: remember its addresses anew."""
        cell = await self.cells.of(told.server_id)
        server = await servers.get(cell.db, told.server_id) if cell is not None else None
        if cell is None or server is None or server.deleted or server.state == "building":
            return
        nics = tuple(nic_of(n) for n in await self.network.nics(service_context("compute"), server.id))
        if nics != server.nics:
            await cell.db.transact(lambda tx: servers.update(tx, server.id, server.updated_at, nics=nics))

    # ---- what the verbs ask

    def disk_gb(self, flavor: Flavor) -> int:
        return host_domain.disk_gb(flavor)

    def resources(self, flavor: Flavor) -> dict[str, int]:
        return host_domain.resources(flavor)

    async def unclaim(self, op: Operation, server: Server, host: str) -> None:
        """What this runner claimed. A later one, which took the claim over while this one was asleep, keeps it."""
        await self.placement.release(op.ctx, server.id, up_to=op.epoch)
        self.hosts.give(host, server.flavor)

    async def quota_limits(self, project_id: str) -> dict[str, int]:
        """Limits of a project: its own, else the default class's, else the configuration's."""
        set_by = await mappings.limits(self.api_db, [project_id, "class:default"])
        configured = self.settings["quota"]
        return {name: set_by[project_id].get(name, set_by["class:default"].get(name, getattr(configured, name))) for name in QUOTAS}

    async def guest_metadata(self, ctx: Context, server_id: str) -> GuestMetadata | None:
        """For services only: the files hold user data and whatever else was meant for the guest alone. Raises PolicyForbids."""
        if not (ctx.is_admin or "service" in ctx.service_roles):
            raise PolicyForbids(rule="service_or_admin")
        server = await self.find(server_id)
        if server is None:
            return None
        network = await self.network.network_data(service_context("compute"), server.id)
        return GuestMetadata(server_id=server.id, files=guest_metadata.files(server, network, self.runtime.token_bytes(512)))

    async def find(self, server_id: str) -> Server | None:
        """A server that is not deleted, from its cell or from its build request. Raises CellSilent."""
        if self.cells.only:  # then its row says all
            there = await servers.get(self.cells.first.db, server_id)
            if there is not None:
                return None if there.deleted else there
        mapping = await mappings.get(self.api_db, server_id)
        if mapping is not None and not mapping.cell:
            waiting = await mappings.request(self.api_db, server_id)
            if waiting is not None:
                return waiting
            mapping = await mappings.get(self.api_db, server_id)  # a host was found at this moment
        if mapping is None or not mapping.cell:
            return None
        cell = self.cells.get(mapping.cell)
        self.cells.remember(server_id, cell)
        server = await self.cells.within(cell, lambda db: servers.get(db, server_id))
        return None if server is None or server.deleted else server


def nic_of(nic: network_contract.Nic) -> Nic:
    return Nic(
        port_id=nic.port_id,
        network_id=nic.network_id,
        network_name=nic.network_name,
        mac=nic.mac,
        device_name=nic.device_name,
        mtu=nic.mtu,
        fixed_ips=tuple(
            FixedIp(ip=f.ip, version=f.version, floating_ips=tuple(x.floating_ip for x in nic.floating_ips if x.fixed_ip == f.ip))
            for f in nic.fixed_ips
        ),
        tag=nic.tag,
    )
