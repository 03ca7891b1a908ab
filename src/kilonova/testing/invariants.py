"""What must be true of a cloud: at every moment (`Watch.look`), and once everything has come to rest (`at_rest`).

Each function returns sentences about what is wrong; an empty list is health. They read the tables, since no API shows all of it.
"""

from collections.abc import Iterator
from typing import Any

import msgspec
import sqlalchemy as sa

from kilonova.app import Cloud
from kilonova.compute.drivers import PowerState
from kilonova.compute.store import api_tables, cell_tables
from kilonova.core.db.statements import prepared
from kilonova.hypervisor import Machines
from kilonova.image.drivers import IMAGE
from kilonova.image.drivers.memory import MemoryStore
from kilonova.image.store.tables import images
from kilonova.network import rpc
from kilonova.network.service import topology_of
from kilonova.network.store import tables as network
from kilonova.placement.store.tables import allocations, inventories
from kilonova.testing.workload import Told

LONGEST_S = 600.0
"""A transitional state may last that long."""
_s, _m, _u = cell_tables.servers.c, api_tables.server_mappings.c, api_tables.quota_usages.c
_BUSY = prepared(sa.select(_s.id, _s.task, _s.generation).where(_s.task.is_not(None), _s.deleted == sa.false()).order_by(_s.id))
_REQUESTS = prepared(sa.select(api_tables.build_requests.c.server_id).order_by(api_tables.build_requests.c.server_id))
_API_OPS = prepared(sa.select(api_tables.operations.c.resource_id, api_tables.operations.c.verb).order_by(api_tables.operations.c.id))
_CELL_OPS = prepared(sa.select(cell_tables.operations.c.resource_id, cell_tables.operations.c.verb).order_by(cell_tables.operations.c.id))
_COUNTED = prepared(
    sa.select(_m.project_id, sa.func.count(), sa.func.sum(_m.vcpus), sa.func.sum(_m.ram_mb)).group_by(_m.project_id).order_by(_m.project_id)
)
_USED = prepared(sa.select(_u.project_id, _u.instances, _u.cores, _u.ram_mb).order_by(_u.project_id))
SERVERS = prepared(
    sa.select(_s.id, _s.name, _s.state, _s.task, _s.host, _s.power_state, _s.fault, _s.nics, _s.flavor)
    .where(_s.deleted == sa.false())
    .order_by(_s.id)
)
_MAPPED = prepared(sa.select(_m.server_id, _m.deleting).order_by(_m.server_id))
_ENDLESS = prepared(
    sa.select(cell_tables.actions.c.server_id, cell_tables.actions.c.action)
    .where(
        ~sa.exists().where(cell_tables.events.c.action_id == cell_tables.actions.c.id),
        sa.exists().where(_s.id == cell_tables.actions.c.server_id, _s.deleted == sa.false()),
    )
    .order_by(cell_tables.actions.c.id)
)
_EMPTY_HANDED = prepared(
    sa.select(_s.id, _s.state, _s.host)
    .where(
        _s.deleted == sa.false(),
        _s.task.is_(None),
        _s.state.in_(("active", "stopped", "paused")),
        ~sa.exists().where(allocations.c.consumer_id == _s.id),
    )
    .order_by(_s.id)
)
_HOSTS = prepared(sa.select(cell_tables.hosts.c.id, cell_tables.hosts.c.host).order_by(cell_tables.hosts.c.id))
_HELD = prepared(
    sa.select(allocations.c.consumer_id, allocations.c.provider_id, allocations.c.resource_class, allocations.c.amount).order_by(
        allocations.c.consumer_id, allocations.c.provider_id, allocations.c.resource_class
    )
)
_INVENTORIES = prepared(
    sa.select(inventories.c.provider_id, inventories.c.resource_class, inventories.c.used, inventories.c.capacity).order_by(
        inventories.c.provider_id, inventories.c.resource_class
    )
)
_p = network.ports.c
_PORTS = prepared(sa.select(_p.id, _p.network_id, _p.device_id, _p.device_owner, _p.fixed_ips, _p.status, _p.host).order_by(_p.id))
_ADDRESSES = prepared(
    sa.select(network.ip_allocations.c.subnet_id, network.ip_allocations.c.ip_key, network.ip_allocations.c.port_id).order_by(
        network.ip_allocations.c.subnet_id, network.ip_allocations.c.ip_key
    )
)
_FLOATING = prepared(
    sa.select(
        network.floating_ips.c.id,
        network.floating_ips.c.floating_ip_address,
        network.floating_ips.c.port_id,
        network.floating_ips.c.floating_port_id,
        network.floating_ips.c.fixed_ip_address,
    ).order_by(network.floating_ips.c.id)
)
_IMAGES = prepared(sa.select(images.c.id, images.c.status, images.c.upload).order_by(images.c.id))


class Watch:
    """The invariants of every moment. `seen` outlives a process: a transitional state is bounded over all lives."""

    def __init__(self, machines: Machines) -> None:
        self.machines = machines
        self.seen: dict[tuple[str, str, int], float] = {}
        self.left_behind: dict[str, str] = {}
        """Servers that were deleted while their host was down, which goes on without asking it -> that host. Until its agent ends the guest
        nobody can, and the server's port, if it was its user's own, may be given to another server. The guest may run, but once only."""

    async def look(self, cloud: Cloud, now: float) -> list[str]:
        out = [*self.twice(), *await self._owned(cloud, now), *await _quota(cloud)]
        return out + [f"server {row[0]} is {row[1]} on {row[2]} and holds nothing" for row in await cloud.db.all(_EMPTY_HANDED)]

    def twice(self) -> Iterator[str]:
        """No server's guest runs on two hosts, and no two guests that run have a NIC in common, but for what was left behind."""
        where: dict[str, str] = {}
        taps: dict[str, str] = {}
        for host in sorted(self.machines.guests):
            for server_id, guest in self.machines.guests[host].guests.items():
                if guest.power_state is not PowerState.RUNNING:
                    continue
                if server_id in where:
                    yield f"server {server_id} runs on {where[server_id]} and on {host}"
                where[server_id] = host
                if self.left_behind.get(server_id) == host:
                    continue
                for nic in guest.spec.nics:
                    # By its port: two networks may have one MAC, and chance has given it (seed 80229).
                    if taps.setdefault(nic.port_id, server_id) != server_id:
                        yield f"servers {taps[nic.port_id]} and {server_id} both have the port {nic.port_id}"

    async def _owned(self, cloud: Cloud, now: float) -> list[str]:
        """Every transitional state is owned by an operation and does not last."""
        db = cloud.db
        busy: list[tuple[str, str, int]] = [(r[0], r[1], r[2]) for r in await db.all(_BUSY)]
        busy += [(r[0], "requested", 0) for r in await db.all(_REQUESTS)]
        owned = {r[0] for r in await db.all(_API_OPS)} | {r[0] for r in await db.all(_CELL_OPS)}
        self.seen = {key: self.seen.get(key, now) for key in busy}
        out = [f"server {ident} is {task} and no operation owns it" for ident, task, _ in busy if ident not in owned]
        return out + [f"server {k[0]} is {k[1]} since {now - at:.0f} s" for k, at in self.seen.items() if now - at > LONGEST_S]


async def _quota(cloud: Cloud) -> list[str]:
    """What is counted is what is there: both change in one transaction."""
    counted = {row[0]: tuple(int(n) for n in row[1:]) for row in await cloud.db.all(_COUNTED)}
    used = {row[0]: tuple(row[1:]) for row in await cloud.db.all(_USED)}
    return [
        f"project {project} uses (servers, cores, MiB) {counted.get(project, (0, 0, 0))}, its quota counts {used.get(project, (0, 0, 0))}"
        for project in sorted({*counted, *used})
        if counted.get(project, (0, 0, 0)) != used.get(project, (0, 0, 0))
    ]


# ---- at rest


class Row(msgspec.Struct):
    id: str
    name: str
    state: str
    task: str | None
    host: str | None
    power_state: int
    fault: Any
    nics: Any
    flavor: Any


async def open_operations(cloud: Cloud) -> list[str]:
    return [f"{verb} of {server}" for statement in (_API_OPS, _CELL_OPS) for server, verb in await cloud.db.all(statement)]


async def at_rest(cloud: Cloud, machines: Machines, store: MemoryStore, told: Told) -> list[str]:
    rows = [Row(*row) for row in await cloud.db.all(SERVERS)]
    out = [*told.broken, *[f"operation left: {op}" for op in await open_operations(cloud)]]
    out += await servers_at_rest(cloud, machines, told, rows)
    out += await _dataplane(cloud)
    out += await _images(cloud, store, told)
    out += await _things(cloud, told)
    return out


async def servers_at_rest(cloud: Cloud, machines: Machines, told: Told, rows: list[Row]) -> list[str]:
    """The part that needs of `cloud` only its database and what a flavor takes: also for clouds of other processes."""
    out = await _quota(cloud)
    out += [f"build request left: {row[0]}" for row in await cloud.db.all(_REQUESTS)]
    out += _promises(rows, told)
    mapped = {row[0]: bool(row[1]) for row in await cloud.db.all(_MAPPED)}
    out += [f"server {row.id} has no mapping" for row in rows if row.id not in mapped]
    out += [f"mapping {ident} has no server" for ident in sorted(set(mapped) - {row.id for row in rows})]
    out += [f"server {ident} is marked as being deleted" for ident, deleting in mapped.items() if deleting]
    out += [f"{action} of {server} never ended" for server, action in await cloud.db.all(_ENDLESS)]
    out += _guests(rows, machines)
    out += await _placement(cloud, rows)
    out += await _ports(cloud, rows)
    return out


def _promises(rows: list[Row], told: Told) -> Iterator[str]:
    there = {row.name: row for row in rows}
    for row in rows:
        if row.task is not None:
            yield f"server {row.id} is still {row.task}"
        if row.state == "error" and row.fault is None:
            yield f"server {row.id} is in ERROR without a fault"
        if row.state not in ("active", "stopped", "paused", "error"):
            yield f"server {row.id} is {row.state}"
        if row.name not in told.servers:
            yield f"nobody asked for server {row.name}"
    for asked in told.servers.values():
        found = there.get(asked.name)
        if asked.accepted and not asked.deleting and found is None:
            yield f"server {asked.name} {asked.id} was accepted and is gone"
        if asked.deleting == "told" and found is not None and found.state != "error":
            yield f"server {asked.name} was deleted and is {found.state}"


def _guests(rows: list[Row], machines: Machines) -> Iterator[str]:
    by_id = {row.id: row for row in rows}
    for host in sorted(machines.guests):
        for server_id, guest in machines.guests[host].guests.items():
            row = by_id.pop(server_id, None)
            if row is None:
                yield f"guest {server_id} on {host} belongs to no server, or is there twice"
            elif row.host != host:
                yield f"guest {server_id} is on {host}, its server on {row.host}"
            elif row.state != "error" and int(guest.power_state) != row.power_state:
                yield f"guest {server_id} on {host} is {guest.power_state.name}, its server {row.state} with power state {row.power_state}"
    for row in by_id.values():
        if row.state != "error":
            yield f"server {row.id} is {row.state} on {row.host} and has no guest"


async def _placement(cloud: Cloud, rows: list[Row]) -> list[str]:
    host_of = {row[0]: row[1] for row in await cloud.db.all(_HOSTS)}
    held: dict[str, dict[str, dict[str, int]]] = {}
    sums: dict[tuple[str, str], int] = {}
    for consumer, provider, kind, amount in await cloud.db.all(_HELD):
        held.setdefault(consumer, {}).setdefault(str(host_of.get(provider, provider)), {})[kind] = amount
        sums[(provider, kind)] = sums.get((provider, kind), 0) + amount
    out = []
    assert cloud.compute is not None
    for row in rows:
        has = held.pop(row.id, {})
        wanted = {str(row.host): cloud.compute.resources(row.flavor)} if row.host is not None else {}
        if has != wanted:
            out.append(f"server {row.id} ({row.state}) on {row.host} holds {has}, not {wanted}")
    out += [f"{consumer} holds {has} and is no server" for consumer, has in held.items()]
    for provider, kind, used, capacity in await cloud.db.all(_INVENTORIES):
        if used != sums.get((provider, kind), 0) or used > capacity:
            out.append(f"{kind} of {host_of.get(provider)}: {used} of {capacity} are counted, {sums.get((provider, kind), 0)} are held")
    return out


async def _ports(cloud: Cloud, rows: list[Row]) -> list[str]:
    out: list[str] = []
    servers = {row.id: row for row in rows}
    ports = await cloud.db.all(_PORTS)
    addresses = {(subnet, key): port for subnet, key, port in await cloud.db.all(_ADDRESSES)}
    counted: dict[str, int] = {}
    seen: dict[tuple[str, str], str] = {}
    nics: dict[str, dict[str, tuple[str, ...]]] = {}
    for ident, network_id, device, owner, fixed_ips, status, host in ports:
        counted[ident] = len(fixed_ips)
        for fixed in fixed_ips:
            if seen.setdefault((str(network_id), fixed.ip_address), str(ident)) != ident:
                out.append(f"ports {seen[(network_id, fixed.ip_address)]} and {ident} both have {fixed.ip_address}")
        if owner.startswith("compute:"):
            row = servers.get(device)
            if row is None:
                out.append(f"port {ident} is of server {device}, which is not there")
                continue
            nics.setdefault(device, {})[ident] = tuple(f.ip_address for f in fixed_ips)
            if row.state != "error" and (host != row.host or status != "ACTIVE"):
                out.append(f"port {ident} is {status} on {host}, its server {row.id} {row.state} on {row.host}")
    for port in addresses.values():
        counted[port] = counted.get(port, 0) - 1
    out += [f"port {port}: {count:+d} addresses without a record" for port, count in counted.items() if count]
    floating = await cloud.db.all(_FLOATING)
    outside = {(row[2], row[4]): row[1] for row in floating if row[2]}
    for row in rows:
        told = {nic.port_id: tuple((f.ip, *f.floating_ips) for f in nic.fixed_ips) for nic in row.nics}
        true = {
            port: tuple((ip, outside[(port, ip)]) if (port, ip) in outside else (ip,) for ip in ips)
            for port, ips in nics.get(row.id, {}).items()
        }
        if row.state != "error" and told != true:
            out.append(f"server {row.id} shows the addresses {told}, its ports have {true}")
    port_ids = {row[0] for row in ports}
    if len({row[1] for row in floating}) != len(floating):
        out.append("a floating IP has two owners")
    out += [f"floating IP {row[0]} points at port {row[2]}, which is not there" for row in floating if row[2] and row[2] not in port_ids]
    out += [f"floating IP {row[0]} has lost its own port {row[3]}" for row in floating if row[3] not in port_ids]
    return out


async def _dataplane(cloud: Cloud) -> list[str]:
    """What each host has realised is what the rows want of it."""
    wanted = await topology_of(cloud.db)
    out: list[str] = []
    for agent in cloud.network_agents:
        desired, have = _by_id(wanted.told(agent.host)), _by_id(agent.driver.state)  # type: ignore[attr-defined]
        for kind in desired:
            if desired[kind] != have[kind]:
                keys = [k for k in sorted({*desired[kind], *have[kind]}) if desired[kind].get(k) != have[kind].get(k)]
                detail = f"{desired[kind].get(keys[0])} / {have[kind].get(keys[0])}"
                out.append(f"dataplane of {agent.host}: {kind} {keys[:3]} differ: wanted / have: {detail}")
    return out


def _by_id(state: rpc.HostState) -> dict[str, dict[str, Any]]:
    return {
        "networks": {n.id: n for n in state.networks},
        "subnets": {s.id: s for s in state.subnets},
        "ports": {p.id: p for p in state.ports},
        "remote ports": {f"{r.network_id} {r.mac}": r for r in state.remote_ports},
        "peers": {str(p): p for p in state.peers},
        "groups": {g.id: g for g in state.security_groups},
        "routers": {r.id: r for r in state.routers},
    }


async def _images(cloud: Cloud, store: MemoryStore, told: Told) -> list[str]:
    out: list[str] = []
    with_bytes: set[str] = set()
    for ident, status, upload in await cloud.db.all(_IMAGES):
        if status not in ("queued", "active", "deactivated", "deleted") or upload:
            out.append(f"image {ident} is {status} and waits for {upload or 'nobody'}")
        if status in ("active", "deactivated"):
            with_bytes.add(ident)
        elif ident in told.filled and ident in told.things["images"]:
            out.append(f"image {ident} was uploaded and is {status}")
        elif ident in told.copies:
            out.append(f"image {ident} of a snapshot is {status}")
    entries = await store.entries()
    out += [
        f"image {entry.image_id} is {entry.kind} on the disk and no image has it" for entry in entries if entry.image_id not in with_bytes
    ]
    out += [f"image {ident} has lost its bytes" for ident in sorted(with_bytes - {e.image_id for e in entries if e.kind == IMAGE})]
    return out


_THINGS = {
    "ports": network.ports,
    "networks": network.networks,
    "images": images,
    "floating_ips": network.floating_ips,
    "routers": network.routers,
    "groups": network.security_groups,
}


async def _things(cloud: Cloud, told: Told) -> list[str]:
    """What was made is there, until somebody asks for its delete."""
    out: list[str] = []
    for kind, table in _THINGS.items():
        there = {row[0] for row in await cloud.db.all(sa.select(table.c.id).order_by(table.c.id))}
        gone = [ident for ident in told.things[kind] if ident not in there and ident not in told.copies]
        out += [f"one of the {kind}, {ident}, was made and is gone" for ident in gone]
    return out
