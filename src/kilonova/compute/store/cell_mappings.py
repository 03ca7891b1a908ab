"""Which cells there are, and which host is in which: the api side. `identity` on the cell side says whose servers a database holds."""

from collections.abc import Sequence
from typing import Any

import msgspec
import sqlalchemy as sa

from kilonova.compute.store.api_tables import cell_mappings, host_mappings
from kilonova.compute.store.cell_tables import identity
from kilonova.core.db import Duplicate, Reader, Transaction
from kilonova.core.db.statements import inserted, prepared

CELL0 = "00000000-0000-0000-0000-000000000000"
"""Holds servers that found no host; has no hosts and no bus."""
CELL1 = "00000000-0000-0000-0000-000000000001"
"""The cell that a cloud makes by itself. Others get random UUIDs."""
NO_BUS = "none:/"


class CellMapping(msgspec.Struct, frozen=True, kw_only=True):
    """An empty `database_connection` is the database of the api side, an empty `transport_url` the control plane's own bus."""

    uuid: str
    name: str
    database_connection: str
    transport_url: str
    disabled: bool
    created_at: int

    @property
    def title(self) -> str:
        return self.name or self.uuid


def own_mapping(uuid: str, name: str, now: int) -> CellMapping:
    """Of a cell in the database of the api side."""
    transport_url = NO_BUS if uuid == CELL0 else ""
    return CellMapping(uuid=uuid, name=name, database_connection="", transport_url=transport_url, disabled=False, created_at=now)


_c, _h = cell_mappings.c, host_mappings.c
_FIELDS = CellMapping.__struct_fields__
_ALL = prepared(sa.select(*(_c[name] for name in _FIELDS)).order_by(_c.created_at, _c.uuid))
_INSERT = inserted(cell_mappings)
_DELETE = prepared(sa.delete(cell_mappings).where(_c.uuid == sa.bindparam("uuid")))
_INSERT_HOST = inserted(host_mappings)
_HOST = prepared(sa.select(_h.cell).where(_h.host == sa.bindparam("host")))
_HOSTS = prepared(sa.select(_h.host, _h.cell).order_by(_h.host))
_HOSTS_OF = prepared(sa.select(_h.host, _h.cell).where(_h.cell.in_(sa.bindparam("cells", expanding=True))).order_by(_h.host))
_DELETE_HOST = prepared(sa.delete(host_mappings).where(_h.host == sa.bindparam("host")))
_DELETE_HOSTS = prepared(sa.delete(host_mappings).where(_h.cell == sa.bindparam("cell")))
_WHOSE = prepared(sa.select(identity.c.cell).order_by(identity.c.cell))
_INSERT_IDENTITY = inserted(identity)
_FORGET_IDENTITY = prepared(sa.delete(identity).where(identity.c.cell == sa.bindparam("cell")))


async def every(reader: Reader) -> list[CellMapping]:
    """In the order they were made."""
    return [CellMapping(**dict(zip(_FIELDS, row, strict=True))) for row in await reader.all(_ALL)]


async def insert(tx: Transaction, mapping: CellMapping) -> None:
    await tx.run(_INSERT, msgspec.structs.asdict(mapping))


async def update(tx: Transaction, uuid: str, **changes: Any) -> int:
    return await tx.run(sa.update(cell_mappings).where(_c.uuid == uuid).values(**changes))


async def delete(tx: Transaction, uuid: str) -> None:
    """The cell and what is known of its hosts."""
    await tx.run(_DELETE_HOSTS, {"cell": uuid})
    await tx.run(_DELETE, {"uuid": uuid})


async def cell_of_host(reader: Reader, host: str) -> str | None:
    row = await reader.one(_HOST, {"host": host})
    return row[0] if row else None


async def hosts(reader: Reader, cells: Sequence[str] | None = None) -> dict[str, str]:
    """host -> the cell's UUID, by name of the host."""
    rows = await reader.all(_HOSTS) if cells is None else await reader.all(_HOSTS_OF, {"cells": list(cells)})
    return {row[0]: row[1] for row in rows}


async def map_host(tx: Transaction, host: str, cell: str, now: int) -> str:
    """The cell that the host is in: this one, unless it is mapped to another already."""
    try:
        await tx.run(_INSERT_HOST, {"host": host, "cell": cell, "created_at": now})
    except Duplicate:
        return await cell_of_host(tx, host) or cell
    return cell


async def forget_host(tx: Transaction, host: str) -> None:
    await tx.run(_DELETE_HOST, {"host": host})


async def whose(reader: Reader) -> list[str]:
    """UUIDs of the cells whose servers are in this database."""
    return [row[0] for row in await reader.all(_WHOSE)]


async def claim(tx: Transaction, cell: str, now: int) -> None:
    """This database is a cell's from here on."""
    try:
        await tx.run(_INSERT_IDENTITY, {"cell": cell, "created_at": now})
    except Duplicate:
        return


async def release(tx: Transaction, cell: str) -> None:
    await tx.run(_FORGET_IDENTITY, {"cell": cell})
