"""Which port has which address, and which port is in which security group."""

from collections.abc import Sequence

import sqlalchemy as sa

from kilonova.core.db import Reader, Transaction
from kilonova.core.db.statements import inserted, prepared
from kilonova.network.store.tables import ip_allocations, port_security_groups, ports, subnets

a = ip_allocations.c
g = port_security_groups.c
_bind = sa.bindparam
_INSERT = inserted(ip_allocations)
_DELETE = prepared(sa.delete(ip_allocations).where(a.subnet_id == _bind("subnet"), a.ip_key == _bind("key")))
_OWNER = prepared(sa.select(a.port_id).where(a.subnet_id == _bind("subnet"), a.ip_key == _bind("key")))
_TAKEN = prepared(
    sa.select(a.ip_key)
    .where(a.subnet_id == _bind("subnet"), a.ip_key >= _bind("first"), a.ip_key <= _bind("last"))
    .order_by(a.ip_key)
    .limit(_bind("most", type_=sa.Integer))
)
_OF_SUBNET = prepared(
    sa.select(a.port_id, ports.c.device_owner)
    .select_from(ip_allocations.join(ports, ports.c.id == a.port_id))
    .where(a.subnet_id == _bind("subnet"))
    .order_by(a.ip_key)
    .limit(20)
)
_COUNTS = prepared(
    sa.select(a.subnet_id, sa.func.count())
    .select_from(ip_allocations.join(subnets, subnets.c.id == a.subnet_id))
    .group_by(a.subnet_id)
    .order_by(a.subnet_id)
)
_ON_NETWORK = prepared(
    sa.select(a.port_id)
    .select_from(subnets.join(ip_allocations, a.subnet_id == subnets.c.id))
    .where(subnets.c.network_id == _bind("network"), a.ip_key == _bind("key"))
    .order_by(a.subnet_id)
)
_JOIN = inserted(port_security_groups)
_PART = prepared(sa.delete(port_security_groups).where(g.security_group_id == _bind("group_key"), g.port_id == _bind("port")))
_MEMBER = prepared(sa.select(g.port_id).where(g.security_group_id == _bind("group_key")).order_by(g.port_id).limit(1))
_MEMBERS = prepared(sa.select(g.port_id).where(g.security_group_id == _bind("group_key")).order_by(g.port_id))


async def insert(tx: Transaction, subnet_id: str, ip_key: str, port_id: str) -> None:
    """Raises Duplicate."""
    await tx.later(_INSERT, {"subnet_id": subnet_id, "ip_key": ip_key, "port_id": port_id})


async def delete(tx: Transaction, subnet_id: str, ip_key: str) -> int:
    return await tx.run(_DELETE, {"subnet": subnet_id, "key": ip_key})


async def owner(reader: Reader, subnet_id: str, ip_key: str) -> str | None:
    row = await reader.one(_OWNER, {"subnet": subnet_id, "key": ip_key})
    return row[0] if row else None


async def taken(reader: Reader, subnet_id: str, first: str, last: str, most: int) -> list[int]:
    """Addresses in use from `first` to `last` as numbers, ascending, at most `most`."""
    return [int(row[0], 16) for row in await reader.all(_TAKEN, {"subnet": subnet_id, "first": first, "last": last, "most": most})]


async def owners_in(reader: Reader, subnet_id: str) -> list[tuple[str, str]]:
    """(port, device owner) of some addresses of a subnet."""
    return [(row[0], row[1]) for row in await reader.all(_OF_SUBNET, {"subnet": subnet_id})]


async def counts(reader: Reader) -> dict[str, int]:
    """subnet -> addresses in use"""
    return {row[0]: row[1] for row in await reader.all(_COUNTS)}


async def port_at(reader: Reader, network_id: str, ip_key: str) -> str | None:
    row = await reader.one(_ON_NETWORK, {"network": network_id, "key": ip_key})
    return row[0] if row else None


async def join_groups(tx: Transaction, port_id: str, group_ids: Sequence[str]) -> None:
    for group_id in group_ids:
        await tx.later(_JOIN, {"security_group_id": group_id, "port_id": port_id})


async def part_groups(tx: Transaction, port_id: str, group_ids: Sequence[str]) -> None:
    for group_id in group_ids:
        await tx.run(_PART, {"group_key": group_id, "port": port_id})


async def has_members(reader: Reader, group_id: str) -> bool:
    return await reader.one(_MEMBER, {"group_key": group_id}) is not None


async def members(reader: Reader, group_id: str) -> list[str]:
    return [row[0] for row in await reader.all(_MEMBERS, {"group_key": group_id})]
