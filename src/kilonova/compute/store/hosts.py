"""Hosts (hypervisors) and daemons, on the cell side."""

from typing import Any

import msgspec
import sqlalchemy as sa

from kilonova.compute.model import Daemon, Host
from kilonova.compute.store.cell_tables import daemons as d
from kilonova.compute.store.cell_tables import hosts as h
from kilonova.core.db import Reader, Transaction
from kilonova.core.db.statements import inserted, prepared

_FIELDS = Host.__struct_fields__
_INSERT = inserted(h)
_ALL = prepared(sa.select(*(h.c[name] for name in _FIELDS)).order_by(h.c.number))
_BY_HOST = prepared(sa.select(*(h.c[name] for name in _FIELDS)).where(h.c.host == sa.bindparam("host")))
_FACTS = ("hypervisor_hostname", "hypervisor_type", "hypervisor_version", "vcpus", "ram_mb", "disk_gb", "cpu_info", "host_ip", "seen_at")
_REPORT = prepared(
    sa.update(h)
    .where(h.c.host == sa.bindparam("key"))
    .values(**{name: sa.bindparam("to_" + name, type_=h.c[name].type) for name in _FACTS})
)
_SEEN = prepared(sa.update(h).where(h.c.host.in_(sa.bindparam("hosts", expanding=True))).values(seen_at=sa.bindparam("now")))
_LAST = prepared(sa.select(sa.func.max(h.c.number)))
_DELETE = prepared(sa.delete(h).where(h.c.id == sa.bindparam("id")))
_INSERT_DAEMON = inserted(d)
_DAEMONS = prepared(sa.select(d).order_by(d.c.number))
_DAEMON_SEEN = prepared(sa.update(d).where(d.c.host == sa.bindparam("key")).values(seen_at=sa.bindparam("now")))
_DELETE_DAEMON = prepared(sa.delete(d).where(d.c.id == sa.bindparam("id")))
_LAST_DAEMON = prepared(sa.select(sa.func.max(d.c.number)))


def _host(row: tuple[Any, ...]) -> Host:
    return Host(**dict(zip(_FIELDS, row, strict=True)))


async def every(reader: Reader) -> list[Host]:
    return [_host(row) for row in await reader.all(_ALL)]


async def by_host(reader: Reader, host: str) -> Host | None:
    row = await reader.one(_BY_HOST, {"host": host})
    return _host(row) if row else None


async def insert(tx: Transaction, host: Host) -> Host:
    """Numbers are given here: the one after the last."""
    last = await tx.one(_LAST)
    numbered = msgspec.structs.replace(host, number=(last[0] if last and last[0] else 0) + 1)
    await tx.run(_INSERT, msgspec.structs.asdict(numbered))
    return numbered


async def report(tx: Transaction, host: Host) -> int:
    """What a host says of itself; what an operator decided (disabled, zone) stays."""
    return await tx.run(_REPORT, {"key": host.host, **{"to_" + name: getattr(host, name) for name in _FACTS}})


async def seen(tx: Transaction, hosts: list[str], now: int) -> int:
    return await tx.run(_SEEN, {"hosts": hosts, "now": now})


async def change(tx: Transaction, host_id: str, **changes: Any) -> int:
    """disabled, disabled_reason, forced_down, availability_zone."""
    return await tx.run(sa.update(h).where(h.c.id == host_id).values(**changes))


async def delete(tx: Transaction, host_id: str) -> int:
    return await tx.run(_DELETE, {"id": host_id})


async def daemons(reader: Reader) -> list[Daemon]:
    return [Daemon(**dict(zip(Daemon.__struct_fields__, row, strict=True))) for row in await reader.all(_DAEMONS)]


async def insert_daemon(tx: Transaction, daemon: Daemon) -> None:
    last = await tx.one(_LAST_DAEMON)
    numbered = msgspec.structs.replace(daemon, number=(last[0] if last and last[0] else 0) + 1)
    await tx.run(_INSERT_DAEMON, msgspec.structs.asdict(numbered))


async def daemons_seen(tx: Transaction, host: str, now: int) -> int:
    return await tx.run(_DAEMON_SEEN, {"key": host, "now": now})


async def change_daemon(tx: Transaction, daemon_id: str, **changes: Any) -> int:
    return await tx.run(sa.update(d).where(d.c.id == daemon_id).values(**changes))


async def delete_daemon(tx: Transaction, daemon_id: str) -> int:
    return await tx.run(_DELETE_DAEMON, {"id": daemon_id})
