"""Which network and router were made for a project that asked for a topology."""

import sqlalchemy as sa

from kilonova.core.db import Reader, Transaction
from kilonova.core.db.statements import inserted, prepared
from kilonova.network.store.tables import auto_topologies

_mine = auto_topologies.c.project_id == sa.bindparam("project")
_GET = prepared(sa.select(auto_topologies.c.network_id, auto_topologies.c.router_id).where(_mine))
_INSERT = inserted(auto_topologies)
_DELETE = prepared(sa.delete(auto_topologies).where(_mine))


async def get(reader: Reader, project_id: str) -> tuple[str, str] | None:
    """(network, router)"""
    row = await reader.one(_GET, {"project": project_id})
    return (row[0], row[1]) if row else None


async def insert(tx: Transaction, project_id: str, network_id: str, router_id: str) -> None:
    """Raises Duplicate."""
    await tx.run(_INSERT, {"project_id": project_id, "network_id": network_id, "router_id": router_id})


async def delete(tx: Transaction, project_id: str) -> int:
    return await tx.run(_DELETE, {"project": project_id})
