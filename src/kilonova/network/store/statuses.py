"""What agents report, written to rows. Each statement changes only what is not so yet."""

from collections.abc import Sequence

import sqlalchemy as sa

from kilonova.core.db import Database, Reader, Transaction
from kilonova.core.db.statements import prepared
from kilonova.network.model import DHCP, ROUTER_GATEWAY, ROUTER_INTERFACE
from kilonova.network.store.tables import floating_ips, hosts, ports, routers

_bind = sa.bindparam
p = ports.c
f = floating_ips.c


def _ports_active(*conditions: "sa.ColumnElement[bool]") -> "sa.Update":
    return (
        sa.update(ports)
        .where(*conditions, p.status != "ACTIVE")
        .values(status=_bind("active"), wiring_error=_bind("no_error"), updated_at=_bind("at"), revision=p.revision + _bind("one"))
    )


_WIRED = prepared(_ports_active(p.id == _bind("port"), p.host == _bind("on_host"), p.admin_state_up.is_(True)))
_DHCP_READY = prepared(_ports_active(p.network_id == _bind("network"), p.device_owner == DHCP))
_ROUTER_READY = prepared(_ports_active(p.device_id == _bind("router"), p.device_owner.in_((ROUTER_INTERFACE, ROUTER_GATEWAY))))
_FAILED = prepared(
    sa.update(ports)
    .where(p.id == _bind("port"), p.host == _bind("on_host"))
    .values(status=_bind("down"), wiring_error=_bind("why"), updated_at=_bind("at"), revision=p.revision + _bind("one"))
)
_FLOATING_READY = prepared(
    sa.update(floating_ips)
    .where(f.router_id == _bind("router"), f.status != "ACTIVE")
    .values(status=_bind("active"), updated_at=_bind("at"), revision=f.revision + _bind("one"))
)
_KNOWN = prepared(
    sa.update(ports)
    .where(p.host == _bind("on_host"), p.vif_type == _bind("was_type"))
    .values(vif_type=_bind("bound"), updated_at=_bind("at"), revision=p.revision + _bind("one"))
)
_BEAT = prepared(sa.update(hosts).where(hosts.c.host.in_(_bind("names", expanding=True))).values(heartbeat_at=_bind("at")))
_BEATS = 500
"""Hosts in one statement."""
_HOMELESS = prepared(sa.select(routers.c.id).where(routers.c.host == "").order_by(routers.c.created_at, routers.c.id))
_DEVICE = prepared(sa.select(p.device_id, p.network_id).where(p.id == _bind("port")))


def _values(at: int, **more: object) -> dict[str, object]:
    return {"active": "ACTIVE", "no_error": "", "one": 1, "at": at, **more}


async def port_wired(tx: Transaction | Database, port_id: str, host: str, at: int) -> int:
    """1: it is bound to this host, and was not known to be wired."""
    return await tx.run(_WIRED, _values(at, port=port_id, on_host=host))


async def port_failed(tx: Transaction, port_id: str, host: str, reason: str, at: int) -> None:
    await tx.later(_FAILED, {"port": port_id, "on_host": host, "down": "DOWN", "why": reason[:2000] or "unknown", "at": at, "one": 1})


async def host_known(tx: Transaction, host: str, at: int) -> int:
    """Ports that were bound to the host before its agent had ever reported are bound well after all."""
    return await tx.run(_KNOWN, {"on_host": host, "was_type": "binding_failed", "bound": "bridge", "at": at, "one": 1})


async def dhcp_ready(tx: Transaction, network_id: str, at: int) -> int:
    return await tx.run(_DHCP_READY, _values(at, network=network_id))


async def router_ready(tx: Transaction, router_id: str, at: int) -> None:
    await tx.run(_ROUTER_READY, _values(at, router=router_id))
    await tx.run(_FLOATING_READY, {"router": router_id, "active": "ACTIVE", "at": at, "one": 1})


async def beat(tx: Transaction, names: Sequence[str], at: int) -> None:
    ordered = sorted(names)  # in one order, whoever writes
    for first in range(0, len(ordered), _BEATS):
        await tx.run(_BEAT, {"names": ordered[first : first + _BEATS], "at": at})


async def homeless_routers(reader: Reader) -> list[str]:
    return [row[0] for row in await reader.all(_HOMELESS)]


async def device_of(reader: Reader, port_id: str) -> tuple[str, str] | None:
    """(device, network) of a port."""
    row = await reader.one(_DEVICE, {"port": port_id})
    return (row[0], row[1]) if row else None
