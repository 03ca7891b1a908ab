"""Several processes over one database, each with the topology in memory: how each hears of what the others have committed.

A transaction that changes what the topology is made of writes which rows it changed into the journal (`store/changes.py`). A Follower
reads the journal, its own process's entries among them, reads those rows as they are now, and puts or drops them. So nothing depends on the
order of two commits, nor on whether a commit that broke off took effect: what is applied last to a row was read after its last change.

A hint makes it quick, a poll makes it certain. A Follower that finds numbers missing (they were swept while it slept) or going back (a
database that lost commits in a fail-over) derives everything from the rows anew.
"""

import asyncio
import collections
from collections.abc import Callable, Iterable
from typing import Any

import msgspec

from kilonova.core.db import Database, Reader, Transaction
from kilonova.core.log import Log
from kilonova.core.runtime import Runtime
from kilonova.network import model
from kilonova.network.domain import work
from kilonova.network.domain.topology import Topology
from kilonova.network.errors import NotLeading
from kilonova.network.store import changes, rows
from kilonova.network.store.changes import Change

POLL_S = 1.0
CALM_S = 0.2
"""How long hints are collected by a process that nobody waits for."""
RETRY_S = 1.0
KEEP_S = 600.0
"""How long entries are kept."""
REBUILD_OVER = 20_000
"""Transactions behind: from here on it is quicker to read everything."""
AT_ONCE = 500
PUT_ORDER = ("Host", "Network", "Subnet", "SecurityGroupRule", "Port", "Router", "FloatingIp")
DROP_FIRST = ("FloatingIp", "Port", "Router")
DROP_LAST = ("SecurityGroupRule", "Subnet", "Network", "SecurityGroup", "Host")
_TABLES: dict[str, rows.Rows[Any]] = {
    "Host": rows.hosts,
    "Network": rows.networks,
    "Subnet": rows.subnets,
    "SecurityGroupRule": rows.security_group_rules,
    "SecurityGroup": rows.security_groups,
    "Port": rows.ports,
    "Router": rows.routers,
    "FloatingIp": rows.floating_ips,
}
Loaded = dict[str, dict[str, tuple[str, Any]]]
"""kind -> id -> (id of what it belongs to, the row or None)"""


class Applied(msgspec.Struct, frozen=True, kw_only=True):
    """What a round found that wants doing, besides telling hosts."""

    homeless: bool = False
    """A router has no host, and there are hosts."""
    misbound: tuple[str, ...] = ()
    """Hosts that are known, and have ports which were bound before that was known."""
    gone: tuple[str, ...] = ()
    """Hosts that were forgotten."""
    orphans: tuple[str, ...] = ()
    """Ports whose network is gone. (`Rows.hold` prevents it; a fail-over that loses commits may not.)"""


class Lanes:
    """Lends each transaction under way a lane that no other transaction of this process has."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._busy: dict[int, int] = {}

    def take(self) -> int:
        free = [lane for lane in range(changes.LANES) if lane not in self._busy] or list(range(changes.LANES))
        lane = free[self._runtime.random.randrange(len(free))]
        self._busy[lane] = self._busy.get(lane, 0) + 1
        return lane

    def give(self, lane: int) -> None:
        self._busy[lane] -= 1
        if not self._busy[lane]:
            del self._busy[lane]


class Follower:
    """Keeps `topology` as the rows are. `applied` is called after rows were applied, `replaced` when there is a new topology."""

    def __init__(
        self,
        *,
        db: Database,
        runtime: Runtime,
        log: Log,
        hurried: Callable[[], bool],
        applied: Callable[[Applied], None],
        replaced: Callable[[Topology], None],
    ) -> None:
        self.db = db
        self.runtime = runtime
        self.log = log
        self.topology = Topology()
        self.rebuilds = 0
        self.rounds = 0
        self._hurried = hurried
        self._applied = applied
        self._replaced = replaced
        self._known: dict[int, int] | None = None
        """lane -> the last number that has been applied; None: nothing is known."""
        self._postponed: dict[Change, None] = {}
        self._again: dict[str, None] = {}
        """Networks that were postponed in the round before."""
        self._awake = asyncio.Event()
        self._waiting: list[asyncio.Future[None]] = []

    # ---- when

    def wake(self) -> None:
        """Something may have been committed."""
        self._awake.set()

    async def caught_up(self) -> None:
        """Return when everything that is committed now has been applied."""
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(done)
        self._awake.set()
        await done

    async def run(self) -> None:
        """For ever. When it is ended, so are those who wait."""
        try:
            await self._run()
        finally:
            for done in self._waiting:
                if not done.done():
                    done.set_exception(NotLeading())

    async def _run(self) -> None:
        while True:
            await self._until_woken()
            if not self._waiting and not self._hurried():
                await self.runtime.sleep(CALM_S)
            self._awake.clear()
            waiting = len(self._waiting)
            try:
                await self.round()
            except Exception as error:
                self.log.warning("changes of other processes could not be read; it is tried again", error=error)
                await self.runtime.sleep(RETRY_S)
                self._awake.set()
                continue
            for done in self._waiting[:waiting]:
                if not done.done():
                    done.set_result(None)
            del self._waiting[:waiting]

    async def _until_woken(self) -> None:
        try:
            async with asyncio.timeout(POLL_S):
                await self._awake.wait()
        except TimeoutError:
            return

    # ---- what

    async def round(self) -> None:
        """Apply what has been committed since the last round."""
        self.rounds += 1
        clocks = await changes.clocks(self.db)
        read = None if self._known is None else await self._read(self._known, clocks)
        if read is None:
            await self._rebuild()
            return
        read.update(self._postponed)
        if read:
            loaded = await _load(self.db, read)
            self._postponed = {}
            self._apply(loaded)
        self._known = clocks

    async def _read(self, known: dict[int, int], clocks: dict[int, int]) -> dict[Change, None] | None:
        """What has changed; None when that cannot be said."""
        if any(number < known.get(lane, 0) for lane, number in clocks.items()) or any(lane not in clocks for lane in known):
            self.log.warning("the journal of network changes has gone back; everything is read anew")
            return None
        if sum(clocks.values()) - sum(known.values()) > REBUILD_OVER:
            return None
        pieces = [(lane, known.get(lane, 0), last) for lane, last in clocks.items() if last != known.get(lane, 0)]
        entries = await changes.since(self.db, pieces) if pieces else []
        read = collections.Counter(lane for lane, _ in entries)
        for lane, first, last in pieces:
            if read[lane] != last - first:
                self.log.warning("changes were swept before they were read here; everything is read anew", lane=lane)
                return None
        return {change: None for _, items in entries for change in items}

    async def _rebuild(self) -> None:
        """Rows that change while they are read are read again: what is swapped in is as consistent as after a round."""
        while True:
            before = await changes.clocks(self.db)
            topology = await topology_of(self.db)
            clocks = await changes.clocks(self.db)
            read = await self._read(before, clocks)
            if read is not None:
                break
        loaded = await _load(self.db, read)
        self.topology, self._known, self._postponed = topology, clocks, {}
        self.rebuilds += 1
        self._replaced(topology)
        self._apply(loaded)

    def _apply(self, loaded: Loaded) -> None:
        """All at once: nobody sees half of it."""
        topology = self.topology
        again, self._again = self._again, {}
        gone = tuple(host for host, (_, row) in loaded.get("Host", {}).items() if row is None)
        for kind in DROP_FIRST:
            for row_id, (_, row) in loaded.get(kind, {}).items():
                old = topology.ports.get(row_id)
                if kind == "Port" and (row is None or (old is not None and old.mac_address != row.mac_address)):
                    topology.drop_port(row_id)  # a MAC may have gone from one port to another
                elif row is None:
                    _drop(topology, kind, row_id, "")
        for kind in PUT_ORDER:
            for row_id, (parent, row) in loaded.get(kind, {}).items():
                if row is not None and not _has(topology, kind, row_id, parent, row):
                    _put(topology, row)
        for kind in DROP_LAST:
            for row_id, (parent, row) in loaded.get(kind, {}).items():
                if row is not None:
                    continue
                if kind == "Network" and topology.in_use(row_id) and row_id not in again:
                    self._postpone(row_id)
                else:
                    _drop(topology, kind, row_id, parent)
        ports = [row for _, row in loaded.get("Port", {}).values() if row is not None]
        homeless = any(row is not None and not row.host for _, row in loaded.get("Router", {}).values())
        orphans = tuple(port.id for port in ports if port.network_id not in topology.networks)
        misbound = dict.fromkeys(port.host for port in ports if port.vif_type == "binding_failed" and port.host in topology.vteps)
        self._applied(Applied(homeless=homeless and bool(topology.vteps), misbound=tuple(misbound), gone=gone, orphans=orphans))

    def _postpone(self, network_id: str) -> None:
        """A network has gone, and so has what was on it: that is looked at first, in a round of its own."""
        self._postponed["Network", network_id, ""] = None
        for port in self.topology.ports.values():
            if port.network_id == network_id:
                self._postponed["Port", port.id, ""] = None
        self._again[network_id] = None
        self._awake.set()


def _has(topology: Topology, kind: str, row_id: str, parent: str, row: Any) -> bool:
    """Whether it is there just so. Of two changes that came close together the second finds nothing to do."""
    known: object = None
    if kind == "Network":
        known = topology.networks.get(row_id)
    elif kind == "Subnet":
        known = topology.subnets.get(parent, {}).get(row_id)
    elif kind == "SecurityGroupRule":
        known = topology.rules.get(parent, {}).get(row_id)
    return bool(known == row)


def _put(topology: Topology, row: Any) -> None:
    """Several changes may have become one: what went away and came back looks unchanged, but its status says that a host must act."""
    if isinstance(row, model.Host):
        topology.put_host(row.host, row.vtep_ip)
        return
    work.put(topology, row)
    if isinstance(row, model.Port) and row.is_guest and row.host and row.admin_state_up and row.status != "ACTIVE":
        topology.tell_port(row.id)
    elif isinstance(row, model.FloatingIp) and row.router_id and row.status != "ACTIVE":
        topology.tell_router(row.router_id)


def _drop(topology: Topology, kind: str, row_id: str, parent: str) -> None:
    match kind:
        case "Host":
            topology.drop_host(row_id)
        case "Network":
            topology.drop_network(row_id)
        case "Subnet":
            subnet = topology.subnets.get(parent, {}).get(row_id)
            if subnet is not None:
                topology.drop_subnet(subnet)
        case "SecurityGroupRule":
            rule = topology.rules.get(parent, {}).get(row_id)
            if rule is not None:
                topology.drop_rule(rule)
        case "SecurityGroup":
            topology.drop_group(row_id)
        case "Router":
            topology.drop_router(row_id)
        case "FloatingIp":
            topology.drop_floating_ip(row_id)


async def _load(reader: Reader, read: Iterable[Change]) -> Loaded:
    """Each changed row as it is now."""
    parents: dict[str, dict[str, str]] = {}
    for kind, row_id, parent in read:
        if kind in _TABLES:  # a newer program may know more of them
            parents.setdefault(kind, {})[row_id] = parent
    loaded: Loaded = {}
    for kind, wanted in parents.items():
        table, ids = _TABLES[kind], list(wanted)
        found: dict[str, Any] = {}
        for at in range(0, len(ids), AT_ONCE):
            for row in await table.among(reader, ids[at : at + AT_ONCE]):
                found[getattr(row, table.key)] = row
        loaded[kind] = {row_id: (parent, found.get(row_id)) for row_id, parent in wanted.items()}
    return loaded


async def sweep(db: Database) -> int:
    """Delete entries that everybody has read, or must do without."""
    before = db.now_us() - int(KEEP_S * 1_000_000)
    total = 0
    for lane in range(changes.LANES):

        async def body(tx: Transaction, lane: int = lane) -> int:
            return await changes.sweep(tx, lane, before)

        total += await db.transact(body)
    return total


async def topology_of(db: Database) -> Topology:
    """The topology that the rows say, from scratch."""
    topology = Topology()
    for host in await rows.hosts.where(db):
        topology.put_host(host.host, host.vtep_ip)
    for network in await rows.networks.where(db):
        topology.put_network(network)
    for subnet in await rows.subnets.where(db):
        topology.put_subnet(subnet)
    for rule in await rows.security_group_rules.where(db):
        topology.put_rule(rule)
    for port in await rows.ports.where(db):
        topology.put_port(port)
    for router in await rows.routers.where(db):
        topology.put_router(router)
    for floating_ip in await rows.floating_ips.where(db):
        topology.put_floating_ip(floating_ip)
    return topology
