"""The network service: its collaborators, its lifetime, what agents tell it, and the contract that other services use."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

import msgspec

from kilonova.core.bus import Bus, agents, never_waits, sender
from kilonova.core.config import Settings
from kilonova.core.context import Context, service_context
from kilonova.core.db import Database, Duplicate, Lost, Transaction, attempts
from kilonova.core.errors import Conflict, Error, fail
from kilonova.core.leases import Lease
from kilonova.core.log import Log
from kilonova.core.runtime import Runtime
from kilonova.core.tasks import Tasks
from kilonova.network import contract, rpc
from kilonova.network.contract import Allocate, Nic, NicRequest, ServerOfAddress, WiringFailed
from kilonova.network.dispatch import Dispatcher
from kilonova.network.domain import networks, ports, quotas, security_groups, servers, subnets
from kilonova.network.domain.journal import Applied, Follower, Lanes, sweep
from kilonova.network.domain.journal import topology_of as topology_of
from kilonova.network.domain.topology import Topology
from kilonova.network.domain.work import Work
from kilonova.network.errors import DefaultExternalNetworkExists, FlatNetworkInUse, NotLeading, ServerGroupNotFound, ServerHasNoPorts
from kilonova.network.leadership import Leadership
from kilonova.network.model import Agent, Host, Port
from kilonova.network.store import changes, fences, rows, statuses
from kilonova.network.store.rows import Stale
from kilonova.network.store.tables import leases, metadata

T = TypeVar("T")
POLL_S = 1.0
GRACE_S = 5.0
BACK_S = (0.0, 1.0, 2.0, 3.0)
BEAT_WINDOW_S = 2.0
ANEW_S = 1.0
HINT_S = 0.01
"""Between two hints at commits of this process."""
CALM_HINT_S = 0.25
"""How long a process that leads collects its commits before it tells of them: nobody waits for that."""
SWEEP_S = 60.0
PRUNE_S = 600.0
LATE_S = 3600
"""How long a release is remembered: what was asked for before it does not come later than that."""
CALL_AT_ONCE = 50
SERVED_S = 0.1
"""After which an address that is served stands on the broker, as a rule."""
AGENT_TYPES = ("DHCP agent", "L3 agent", "Metadata agent", "Open vSwitch agent")
NO_HOST = "the port is not bound to a host"
PUBLIC = "public"
PUBLIC_CIDR = "203.0.113.0/24"
PUBLIC_GATEWAY = "203.0.113.1"


class _Wiring:
    """Somebody waits for a server's ports."""

    __slots__ = ("missing", "told")

    def __init__(self) -> None:
        self.told = asyncio.Event()
        """Something has happened to them."""
        self.missing: set[str] | None = None
        """Those that are not known to be wired; None: only their rows tell. For asking only: it has no order."""


class NetworkService:
    """Implements contract.Network.

    `exclusive`: no other process serves this database. Otherwise any number may: each keeps its topology by the journal, and the one that
    has the lease commands the agents (docs/internals/network-processes.md)."""

    name = "network"
    metadata = metadata

    def __init__(
        self, *, db: Database, runtime: Runtime, log: Log, settings: Mapping[str, Settings], bus: Bus, exclusive: bool = True
    ) -> None:
        self.db = db
        self.runtime = runtime
        self.log = log
        self.settings = settings
        self.bus = bus
        self.tasks = Tasks(runtime, log)
        self.hints: dict[str, int] = {}
        self.default_groups: dict[str, str] = {}
        self.free_runs: dict[tuple[str, int], range] = {}
        self.topology = Topology()
        self.dispatcher = Dispatcher(
            topology=self.topology, bus=bus, tasks=self.tasks, runtime=runtime, log=log, window_s=settings["network_agent"].batch_window
        )
        self._wiring: dict[str, _Wiring] = {}
        self.beat_window_s = BEAT_WINDOW_S
        self._beats: dict[str, int] = {}
        self._beating = False
        self._dhcp_ready: dict[str, str] = {}
        """network -> its DHCP port that is known to be ready"""
        self._doubtful = False
        self._commits = 0
        self.exclusive = exclusive
        self.life = runtime.uuid_hex() if not exclusive else ""
        self._lanes = Lanes(runtime)
        self._hinting = False
        self._hint_due = False
        self._housing = False
        self.follower = Follower(
            db=db, runtime=runtime, log=log, hurried=lambda: self.leading, applied=self._applied, replaced=self._replaced
        )  # fmt: skip
        self.leadership = Leadership(
            lease=Lease(db, leases, runtime, name="network.dispatch", owner=self.life),
            runtime=runtime, tasks=self.tasks, log=log,
            prepare=self.follower.caught_up, take=self._take_office, leave=self._leave_office,
        )  # fmt: skip
        self._candidacy: asyncio.Task[Any] | None = None
        if not exclusive:
            self.dispatcher.leading = False
            self.dispatcher.acting = self.leadership.acting

    # ---- lifetime

    async def start(self) -> None:
        """Read the rows, then listen to agents."""
        self.tasks.every("forget released servers", PRUNE_S, self._prune)
        if not self.exclusive:
            await self._join()
            return
        await self.rebuild()
        self.bus.serve(rpc.FACTS, self._handlers())
        if self.topology.vteps:
            self.tasks.start("call network agents", self._call_agents())

    def _handlers(self) -> dict[type[Any], Callable[[Any], Awaitable[Any]]]:
        return {
            rpc.AgentStarted: self._agent_started,
            rpc.StateWanted: self._state_wanted,
            rpc.HostFacts: self._facts,
            rpc.Heartbeat: self._heartbeat,
        }

    async def _join(self) -> None:
        """Beside other processes."""
        await changes.make_lanes(self.db)
        await self.follower.round()
        self.bus.subscribe(rpc.CHANGED, self._hinted)
        self.bus.subscribe(rpc.WIRED, self._wired_elsewhere)
        self.tasks.start("follow the journal of network changes", self.follower.run())
        self._candidacy = self.tasks.start("leadership of network agents", self.leadership.run())
        self.tasks.every("sweep of network changes", SWEEP_S, self._sweep)

    async def stop(self) -> None:
        if self.exclusive:
            self.bus.silence(rpc.FACTS)
        else:
            await self.retire()
        await self.tasks.stop()

    async def retire(self) -> None:
        """Another process may lead from now on; the rest goes on until `stop`."""
        if self._candidacy is None:
            return
        candidacy, self._candidacy = self._candidacy, None
        await self.tasks.end(candidacy)
        self.leadership.leave()
        await self.leadership.release()

    async def _call_agents(self) -> None:
        """Agents that outlived this service are asked to register anew; those that start with it do so by themselves."""
        await self.runtime.sleep(GRACE_S)
        for host in list(self.topology.vteps):
            if host not in self.dispatcher.online:
                self.dispatcher.call_in(host)

    async def broker_is_back(self) -> None:
        """Hosts that were given up while it was away are called in, as they come back themselves."""
        for pause_s in BACK_S:
            await self.runtime.sleep(pause_s)
            for host in list(self.topology.vteps):
                if self.leading and host not in self.dispatcher.online:
                    self.dispatcher.call_in(host)

    async def rebuild(self) -> None:
        """Derive the topology from the rows anew."""
        topology = await topology_of(self.db)
        self.topology = self.dispatcher.topology = topology

    # ---- beside other processes

    @property
    def leading(self) -> bool:
        """Whether agents are told and heard by this process."""
        return self.dispatcher.may_act()

    def _take_office(self, epoch: int) -> None:
        self._dhcp_ready.clear()
        address = rpc.leader_address(self.life)
        self.dispatcher.lead(epoch, address)
        for where in (address, rpc.FACTS):  # who hears of us through the second is sent to the first
            self.bus.serve(where, self._handlers())
        self.tasks.start("call network agents", self._call_all(list(self.topology.vteps)))

    async def _call_all(self, hosts: list[str]) -> None:
        """A few at a time: each takes its whole state. Not before they can reach us."""
        await self.runtime.sleep(SERVED_S)
        for number, host in enumerate(hosts, 1):
            if host not in self.dispatcher.online and self.leading:
                self.dispatcher.call_in(host)
            if number % CALL_AT_ONCE == 0:
                await self.runtime.sleep(CALL_AT_ONCE / 1000)

    def _leave_office(self) -> None:
        for where in (rpc.FACTS, rpc.leader_address(self.life)):
            self.bus.silence(where)
        self.dispatcher.rest()
        self._beats.clear()

    def _replaced(self, topology: Topology) -> None:
        """The rows were read anew."""
        self.topology = self.dispatcher.topology = topology
        if self.leading:
            for host in self.dispatcher.forget_told():
                self.dispatcher.call_in(host)

    def _applied(self, found: Applied) -> None:
        if not self.leading:
            self.topology.forget_news()
            return
        for host in found.gone:
            self.dispatcher.online.pop(host, None)
        self.dispatcher.kick()
        if (found.homeless or found.misbound or found.orphans) and not self._housing and not self.tasks.closed:
            self._housing = True
            self.tasks.start("network rows that two processes wrote past each other", self._house(found))

    async def _house(self, found: Applied) -> None:
        try:
            for port_id in found.orphans:
                await self.write(service_context("network"), lambda w, port_id=port_id: ports.remove_orphan(w, port_id))  # type: ignore[misc]
            now = self.runtime.now_us()
            for host in found.misbound:
                await self.db.transact(lambda tx, host=host: statuses.host_known(tx, host, now))  # type: ignore[misc]
            await self._house_routers()
        finally:
            self._housing = False

    async def _hinted(self, message: rpc.TopologyChanged) -> None:
        self.follower.wake()

    def _hint(self) -> None:
        """Tell other processes that there is something in the journal; many commits of a moment are one hint."""
        self.follower.wake()
        self._hint_due = True
        if not self._hinting and not self.tasks.closed:
            self._hinting = True
            self.tasks.start("hint at network changes", self._publish_hints())

    async def _publish_hints(self) -> None:
        try:
            while self._hint_due:
                if self.leading:
                    await self.runtime.sleep(CALM_HINT_S)
                self._hint_due = False
                self.bus.publish(rpc.CHANGED, rpc.TopologyChanged())
                await self.runtime.sleep(HINT_S)
        finally:
            self._hinting = False

    async def _sweep(self) -> None:
        if self.leading:
            await sweep(self.db)

    async def _prune(self) -> None:
        if self.leading:
            before = self.runtime.now_us() - LATE_S * 1_000_000
            await self.db.transact(lambda tx: fences.prune(tx, before))

    async def _wired_elsewhere(self, told: rpc.ServersWired) -> None:
        self._wake(told.server_ids, told.port_ids)

    def _wake(self, server_ids: Iterable[str], wired: Sequence[str]) -> None:
        for server_id in server_ids:
            waiting = self._wiring.get(server_id)
            if waiting is not None:
                if waiting.missing is not None:
                    waiting.missing.difference_update(wired)
                waiting.told.set()

    async def bootstrap(self, *, project_id: str) -> None:
        """The shared external network `public`, of the admin's project, if there is no external network yet."""
        if await rows.networks.where(self.db, external=True):
            return
        common: dict[str, Any] = {"project_id": project_id, "description": "", "availability_zone_hints": ()}

        async def body(w: Work) -> None:
            network = await networks.create(
                w,
                {
                    **common, "name": PUBLIC, "admin_state_up": True, "shared": True, "router:external": True, "is_default": True, "mtu": 0,
                    "port_security_enabled": True, "provider:network_type": "flat", "provider:physical_network": PUBLIC,
                },
            )  # fmt: skip
            await subnets.create(
                w,
                network,
                {
                    **common,
                    "name": "public-subnet",
                    "cidr": PUBLIC_CIDR,
                    "ip_version": 4,
                    "gateway_ip": PUBLIC_GATEWAY,
                    "enable_dhcp": False,
                },
            )

        try:
            await self.write(service_context("network"), body)
        except (FlatNetworkInUse, DefaultExternalNetworkExists):
            if self.exclusive or not await rows.networks.where(self.db, external=True):
                raise  # otherwise: another process was quicker

    # ---- writing

    async def write(self, ctx: Context, body: Callable[[Work], Awaitable[T]], *, notify: bool = True) -> T:
        """Run `body` as one transaction; then tell hosts and other services. A lost race is run again with fresh rows."""
        made: list[Work] = []
        elevated = ctx.is_admin or "service" in ctx.roles
        lane = -1
        attempt = 0

        async def run(tx: Transaction) -> T:
            w = Work(
                tx, self.runtime, self.settings, self.hints, self.topology, elevated=elevated, exclusive=self.exclusive, attempt=attempt,
                default_groups=self.default_groups, free_runs=self.free_runs,
            )  # fmt: skip
            made.append(w)
            result = await body(w)
            if lane >= 0:
                changed = w.changes()
                if changed and w.joins:
                    await changes.record_later(tx, lane, self.db.now_us(), changed, Stale())
                elif changed:
                    await changes.record(tx, lane, self.db.now_us(), changed)
            await quotas.settle(w)
            return result

        async for number in attempts(self.runtime):
            attempt = number
            if not self.exclusive:
                lane = self._lanes.take()
            try:
                result = await self.db.transact(run)
            except (Stale, Duplicate) as error:
                self.free_runs.clear()
                if isinstance(error, Stale):  # nobody else has the addresses that it picked
                    self.hints.update(made[-1].hints_before)
                continue
            except (Lost, asyncio.CancelledError):  # who is cancelled while he waits for the commit does not hear of it
                self._doubt()
                raise
            except Error:
                if made[-1].guessed:
                    continue
                raise
            finally:
                if lane >= 0:
                    self._lanes.give(lane)
            self._committed(made[-1], notify=notify)
            return result
        raise Conflict("The resource is being changed by too many requests at once; try again.")

    def _doubt(self) -> None:
        """What became of a commit is not known: the topology may lack what the rows say. (The journal would tell of it.)"""
        if not self.exclusive:
            self.follower.wake()
        elif not self._doubtful and not self.tasks.closed:
            self._doubtful = True
            self.tasks.start("network topology anew", self._derive_anew())

    async def _derive_anew(self) -> None:
        """Until it is known that nothing was committed between reading and use. Then every host asks for its state."""
        while True:
            await self.runtime.sleep(ANEW_S)
            before = self._commits
            try:
                topology = await topology_of(self.db)
            except Exception as error:
                self.log.warning("the topology could not be read; it is tried again", error=error)
                continue
            if before == self._commits:
                break
        self._doubtful = False
        self.topology = self.dispatcher.topology = topology
        for host in self.dispatcher.forget_told():
            self.dispatcher.call_in(host)
        for network_id in [n for n in self._dhcp_ready if n not in topology.networks]:
            del self._dhcp_ready[network_id]

    def _committed(self, w: Work, *, notify: bool) -> None:
        self._commits += 1
        if not self.exclusive:
            if w.put or w.dropped or w.dropped_groups or w.hosts:
                self._hint()
        elif w.put or w.dropped or w.dropped_groups:
            w.tell(self.topology)
            self.dispatcher.kick()
        if notify:
            for server_id in w.servers:
                self.bus.publish(contract.SERVER_CHANGED, contract.ServerAddressesChanged(server_id=server_id))

    # ---- what agents tell

    def _check_leading(self) -> None:
        if not self.leading:
            raise NotLeading

    async def _agent_started(self, told: rpc.AgentStarted) -> None:
        self._check_leading()
        now = self.runtime.now_us()
        configurations: dict[str, object] = {"driver": told.description.driver, "capabilities": told.description.capabilities}

        async def body(w: Work) -> None:
            old = await rows.hosts.get(w.tx, told.host)
            new = Host(
                host=told.host, vtep_ip=told.vtep_ip, availability_zone=told.availability_zone, driver=told.description.driver,
                configurations=configurations, created_at=old.created_at if old else now,
                started_at=old.started_at if old and now - old.heartbeat_at < 90_000_000 else now, heartbeat_at=now,
            )  # fmt: skip
            if old is not None:
                await rows.hosts.save(w.tx, old, new)
            else:
                await rows.hosts.insert(w.tx, new)
            if old is None or old.vtep_ip != new.vtep_ip:
                w.hosts[told.host] = None
            have = [agent.agent_type for agent in await rows.agents.where(w.tx, host=told.host)]
            for kind in AGENT_TYPES:
                if kind in have:
                    continue
                await rows.agents.insert(
                    w.tx, Agent(id=self.runtime.uuid(), host=told.host, agent_type=kind, admin_state_up=True, description=None)
                )
            await statuses.host_known(w.tx, told.host, now)

        await self.write(service_context("network"), body)
        if self.exclusive:
            self.topology.put_host(told.host, told.vtep_ip)
        else:
            await self.follower.caught_up()
        await self._house_routers()
        self.dispatcher.kick()

    def forget_host(self, host: str) -> None:
        """Its rows are gone. It comes back when its agent registers. (Where others write too, the journal tells of it.)"""
        if not self.exclusive:
            return
        self.topology.drop_host(host)
        self.dispatcher.online.pop(host, None)
        self.dispatcher.kick()

    async def _house_routers(self) -> None:
        """Routers made before any host was known get one."""
        for router_id in await statuses.homeless_routers(self.db):

            async def body(w: Work, router_id: str = router_id) -> None:
                router = await rows.routers.get(w.tx, router_id)
                host = w.topology.router_host()
                if router is not None and not router.host and host:
                    new = msgspec.structs.replace(router, host=host, updated_at=w.now, revision=router.revision + 1)
                    await rows.routers.save(w.tx, router, new)
                    w.wrote(new)

            await self.write(service_context("network"), body)

    async def _state_wanted(self, asked: rpc.StateWanted) -> rpc.HostState:
        self._check_leading()
        return self.dispatcher.whole(asked.host)

    @never_waits
    async def _heartbeat(self, beat: rpc.Heartbeat) -> None:
        """Heartbeats of a moment are written together."""
        self._beats[beat.host] = self.runtime.now_us()
        if beat.host not in self.dispatcher.online and self.leading:
            self.dispatcher.call_in(beat.host)
        if not self._beating and not self.tasks.closed:
            self._beating = True
            self.tasks.start("network heartbeats", self._write_beats())

    async def _write_beats(self) -> None:
        await self.runtime.sleep(self.beat_window_s)
        self._beating = False
        beats, self._beats = self._beats, {}
        now = self.runtime.now_us()
        await self.db.transact(lambda tx: statuses.beat(tx, list(beats), now))

    async def _facts(self, told: rpc.HostFacts) -> None:
        """Write what has become true. A fact about a port that is bound elsewhere by now changes nothing."""
        wired: dict[str, None] = {}
        failed: dict[str, str] = {}
        networks_ready: dict[str, None] = {}
        routers_ready: dict[str, None] = {}

        def take(fact: rpc.Fact) -> None:
            match fact:
                case rpc.PortWired():
                    wired[fact.port_id] = None
                    failed.pop(fact.port_id, None)
                case rpc.PortFailed():
                    failed[fact.port_id] = fact.reason
                    wired.pop(fact.port_id, None)
                case rpc.PortUnplugged():
                    wired.pop(fact.port_id, None)
                case rpc.NetworkReady():
                    networks_ready[fact.network_id] = None
                case rpc.RouterReady():
                    routers_ready[fact.router_id] = None
                case rpc.HostSynced():
                    wired.update(dict.fromkeys(fact.wired))
                    networks_ready.update(dict.fromkeys(fact.networks))
                    routers_ready.update(dict.fromkeys(fact.routers))
                    for failure in fact.failed:
                        take(failure)
                case rpc.NetworkFailed() | rpc.RouterFailed():
                    self.log.warning("not realised", host=told.host, fact=str(fact))

        for fact in told.facts:
            take(fact)
        if agents.host_of(sender.get()) is not None:  # a joined host: nothing but what is on it
            is_on = self.topology.is_on
            networks_ready = {found: None for found in networks_ready if is_on(told.host, network_id=found)}
            routers_ready = {found: None for found in routers_ready if is_on(told.host, router_id=found)}
            wired = {found: None for found in wired if is_on(told.host, port_id=found)}
            failed = {found: why for found, why in failed.items() if is_on(told.host, port_id=found)}
        for port_id in wired:
            port = self.topology.ports.get(port_id)
            if port is not None:
                networks_ready[port.network_id] = None
        dhcp_ports = {network_id: self.topology.dhcp_port_id(network_id) for network_id in networks_ready}
        fresh = [network_id for network_id, port_id in dhcp_ports.items() if self._dhcp_ready.get(network_id) != port_id]
        now = self.runtime.now_us()

        async def body(tx: Transaction) -> list[str]:
            bound = [port_id for port_id in wired if await statuses.port_wired(tx, port_id, told.host, now)]
            for port_id, reason in failed.items():
                await statuses.port_failed(tx, port_id, told.host, reason, now)
            for network_id in fresh:
                await statuses.dhcp_ready(tx, network_id, now)
            for router_id in routers_ready:
                await statuses.router_ready(tx, router_id, now)
            return bound

        bound: list[str] = []
        if len(wired) == 1 and not (failed or fresh or routers_ready):
            bound = [port_id for port_id in wired if await statuses.port_wired(self.db, port_id, told.host, now)]
        elif wired or failed or fresh or routers_ready:
            bound = await self.db.transact(body)
        self._dhcp_ready.update({n: dhcp_ports[n] for n in fresh if n in self.topology.networks})
        ports = [self.topology.ports.get(port_id) for port_id in (*wired, *failed)]
        server_ids = dict.fromkeys(port.device_id for port in ports if port is not None)
        self._wake(server_ids, bound)
        if not self.exclusive and server_ids:
            self.bus.publish(rpc.WIRED, rpc.ServersWired(server_ids=tuple(server_ids), port_ids=tuple(bound)))

    # ---- the contract

    async def validate(
        self, ctx: Context, networks: tuple[NicRequest, ...], auto: str, security_groups: tuple[str, ...], count: int
    ) -> None:
        port_quota = self.settings["network_quotas"].quota_port
        heard = None if self.exclusive else self.topology  # alone, rows are kept in memory
        await servers.validate(self.db, ctx, networks, auto, security_groups, count, port_quota, heard)

    async def allocate(self, ctx: Context, request: Allocate, timeout_s: float | None = None) -> tuple[Nic, ...]:
        try:
            found = await self._allocate(ctx, request, waits=timeout_s is not None)
        except BaseException:
            self._wiring.pop(request.server_id, None)
            raise
        if timeout_s is None or all(nic.status == "ACTIVE" for nic in found):
            return found
        await self.wait_wired(ctx, request.server_id, timeout_s)
        return tuple(msgspec.structs.replace(nic, status="ACTIVE") for nic in found)

    async def attach(self, ctx: Context, request: Allocate) -> tuple[Nic, ...]:
        return await self._allocate(ctx, request, more=True)

    async def _allocate(self, ctx: Context, request: Allocate, *, more: bool = False, waits: bool = False) -> tuple[Nic, ...]:
        """waits: the caller is in this process, and about to wait for the wiring."""

        async def body(w: Work) -> tuple[Nic, ...]:
            found = await servers.allocate(w, request, more=more)
            if waits and any(port.status != "ACTIVE" for port in found):
                # Before the host hears of it: then the one who waits need not look first.
                waiting = self._wiring.setdefault(request.server_id, _Wiring())
                waiting.missing = {port.id for port in found if port.status != "ACTIVE" and port.admin_state_up}
            return (await servers.nics(w.tx, found, new=True, known=w.networks)).get(request.server_id, ())

        return await self.write(_as_user(ctx), body, notify=False)

    async def wait_wired(self, ctx: Context, server_id: str, timeout_s: float) -> None:
        until = self.runtime.monotonic() + timeout_s
        waiting = self._wiring.get(server_id)
        if waiting is None:
            waiting = self._wiring[server_id] = _Wiring()
        else:
            await self._until_told(waiting.told, min(timeout_s, POLL_S))
        try:
            while waiting.missing is None or waiting.missing:
                waiting.told.clear()
                found = await servers.of(self.db, server_id)
                failed = [port for port in found if port.wiring_error]
                if failed:
                    raise WiringFailed(server=server_id, reason=failed[0].wiring_error)
                if all(port.status == "ACTIVE" or not port.admin_state_up for port in found):
                    return
                homeless = next((port for port in found if not port.host), None)
                if homeless is not None:
                    raise WiringFailed(server=server_id, reason=f"port {homeless.id}: {NO_HOST}")
                left = until - self.runtime.monotonic()
                if left <= 0:
                    late = next(port for port in found if port.status != "ACTIVE")
                    raise WiringFailed(server=server_id, reason=f"host {late.host} did not report port {late.id} within {timeout_s:g} s")
                await self._until_told(waiting.told, min(left, POLL_S))
        finally:
            if self._wiring.get(server_id) is waiting:
                del self._wiring[server_id]

    async def _until_told(self, event: asyncio.Event, seconds: float) -> None:
        """Also when the seconds have passed: whoever waits looks again. (A timer that sets the event is cheaper than a timeout.)"""
        timer = asyncio.get_running_loop().call_later(seconds, event.set)
        try:
            await event.wait()
        finally:
            timer.cancel()

    async def release(self, ctx: Context, server_id: str, *, up_to: int | None = None) -> None:
        await self.write(ctx, lambda w: servers.release_all(w, server_id, up_to), notify=False)
        self._wiring.pop(server_id, None)

    async def detach(self, ctx: Context, server_id: str, port_id: str) -> bool:
        return await self.write(ctx, lambda w: servers.release(w, server_id, only=port_id)) > 0

    async def rebind(self, ctx: Context, server_id: str, host: str) -> tuple[Nic, ...]:
        async def body(w: Work) -> None:
            for port in await servers.of(w.tx, server_id):
                await servers.bind(w, port, host)

        await self.write(ctx, body, notify=False)
        return await self.nics(ctx, server_id)

    async def nics(self, ctx: Context, server_id: str) -> tuple[Nic, ...]:
        return (await servers.nics(self.db, await servers.of(self.db, server_id))).get(server_id, ())

    async def nics_of(self, ctx: Context, server_ids: tuple[str, ...]) -> dict[str, tuple[Nic, ...]]:
        found: list[Port] = []
        for at in range(0, len(server_ids), 500):
            found += await servers.of(self.db, *server_ids[at : at + 500])
        return await servers.nics(self.db, found)

    async def server_of(
        self, ctx: Context, *, ip: str, network_id: str | None = None, router_id: str | None = None
    ) -> ServerOfAddress | None:
        port = await servers.at_address(self.db, ip, network_id, router_id)
        return ServerOfAddress(server_id=port.device_id, project_id=port.project_id) if port is not None else None

    async def network_data(self, ctx: Context, server_id: str) -> dict[str, Any]:
        return await servers.network_data(self.db, server_id)

    async def server_security_groups(self, ctx: Context, server_id: str) -> tuple[dict[str, Any], ...]:
        found = await servers.groups_of(self.db, server_id)
        rules = await rows.security_group_rules.where(self.db, security_group_id=tuple(group.id for group in found))
        return tuple(
            {
                "id": group.id,
                "name": group.name,
                "description": group.description,
                "project_id": group.project_id,
                "rules": tuple(msgspec.structs.asdict(rule) for rule in rules if rule.security_group_id == group.id),
            }
            for group in found
        )

    async def add_security_group(self, ctx: Context, server_id: str, name: str) -> None:
        async def body(w: Work) -> None:
            group_id = await self._group_id(w, ctx, name)
            for port in await _ports_of(w, server_id):
                if port.port_security_enabled and port.fixed_ips and group_id not in port.security_groups:
                    await _set_groups(w, port, (*port.security_groups, group_id))

        await self.write(ctx, body)

    async def remove_security_group(self, ctx: Context, server_id: str, name: str) -> None:
        async def body(w: Work) -> None:
            group_id = await self._group_id(w, ctx, name)
            found = [port for port in await _ports_of(w, server_id) if group_id in port.security_groups]
            if not found:
                raise ServerGroupNotFound(name=name, project=ctx.project_id)
            for port in found:
                await _set_groups(w, port, tuple(g for g in port.security_groups if g != group_id))

        await self.write(ctx, body)

    async def _group_id(self, w: Work, ctx: Context, name: str) -> str:
        if name == "default":
            return (await security_groups.default(w, ctx.project_id or "")).id
        found = await servers.group_ids(w.tx, ctx.project_id or "", (name,))
        return found[0] if found else fail(ServerGroupNotFound(name=name, project=ctx.project_id))


def _as_user(ctx: Context) -> Context:
    """The user's own rights: that a service acts for him does not make him more."""
    return (
        msgspec.structs.replace(ctx, roles=tuple(role for role in ctx.roles if role != "service"))
        if ctx.service and not ctx.is_admin
        else ctx
    )


async def _ports_of(w: Work, server_id: str) -> list[Port]:
    return await servers.of(w.tx, server_id) or fail(ServerHasNoPorts(server=server_id))


async def _set_groups(w: Work, port: Port, group_ids: tuple[str, ...]) -> None:
    new = msgspec.structs.replace(port, security_groups=group_ids, updated_at=w.now, revision=port.revision + 1)
    await ports.save(w, port, new)
