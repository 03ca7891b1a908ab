"""What a project has and may have. A project's count and its bound are compared by the statement that raises the count."""

from typing import Any

import sqlalchemy as sa

from kilonova.core.db import Reader, Transaction
from kilonova.core.db.statements import inserted, prepared
from kilonova.network.store.tables import networks, quotas

c = quotas.c
_bind = sa.bindparam
_mine = sa.and_(c.project_id == _bind("project"), c.resource == _bind("what"))
_bound = sa.func.coalesce(c.hard_limit, _bind("bound", type_=sa.Integer))
_INSERT = inserted(quotas)
_TAKE = prepared(
    sa.update(quotas)
    .where(_mine, sa.or_(_bound < 0, c.used + _bind("more", type_=sa.Integer) <= _bound))
    .values(used=c.used + _bind("more", type_=sa.Integer))
)
_GIVE = prepared(sa.update(quotas).where(_mine).values(used=c.used - _bind("less", type_=sa.Integer)))
_GET = prepared(sa.select(c.used, c.hard_limit).where(_mine))
_SET = prepared(sa.update(quotas).where(_mine).values(hard_limit=_bind("new_limit", type_=sa.Integer)))
_OF = prepared(sa.select(c.resource, c.used, c.hard_limit).where(c.project_id == _bind("project")).order_by(c.resource))
_BESIDE_NETWORK = prepared(
    sa.select(networks.c.revision, c.used, c.hard_limit)
    .select_from(networks.outerjoin(quotas, _mine))
    .where(networks.c.id == _bind("network"))
)
_RESET = prepared(sa.update(quotas).where(c.project_id == _bind("project")).values(hard_limit=sa.null()))
_SET_ONES = prepared(sa.select(c.project_id, c.resource, c.hard_limit).where(c.hard_limit.is_not(None)).order_by(c.project_id, c.resource))


def _take(project_id: str, resource: str, count: int, default: int) -> dict[str, Any]:
    return {"project": project_id, "what": resource, "bound": default, "more": count}


async def take_later(tx: Transaction, project_id: str, resource: str, count: int, default: int, otherwise: Exception) -> None:
    """As `take`, in one exchange with what else is put off. Raises `otherwise` there: over its bound, or not counted before."""
    await tx.later(_TAKE, _take(project_id, resource, count, default), rows=1, otherwise=otherwise)


async def take(tx: Transaction, project_id: str, resource: str, count: int, default: int) -> bool:
    """Raise what the project has, unless that is over its bound (-1: none)."""
    values = _take(project_id, resource, count, default)
    if await tx.run(_TAKE, values):
        return True
    if await tx.one(_GET, values) is not None:  # perhaps it has come only just now, from another process
        return bool(await tx.run(_TAKE, values))
    if 0 <= default < count:
        return False
    await tx.run(_INSERT, {"project_id": project_id, "resource": resource, "used": count, "hard_limit": None})
    return True


async def add(tx: Transaction, project_id: str, resource: str, count: int) -> None:
    """Raise what the project has, whatever its bound."""
    if not await tx.run(_GIVE, {"project": project_id, "what": resource, "less": -count}):
        await tx.run(_INSERT, {"project_id": project_id, "resource": resource, "used": count, "hard_limit": None})


async def give(tx: Transaction, project_id: str, resource: str, count: int = 1) -> None:
    await tx.run(_GIVE, {"project": project_id, "what": resource, "less": count})


async def set_limit(tx: Transaction, project_id: str, resource: str, limit: int) -> None:
    values = {"project": project_id, "what": resource, "new_limit": limit}
    if not await tx.run(_SET, values):
        await tx.run(_INSERT, {"project_id": project_id, "resource": resource, "used": 0, "hard_limit": limit})


async def reset(tx: Transaction, project_id: str) -> int:
    return await tx.run(_RESET, {"project": project_id})


async def of(reader: Reader, project_id: str) -> dict[str, tuple[int, int | None]]:
    """resource -> (used, own limit)"""
    return {resource: (used, limit) for resource, used, limit in await reader.all(_OF, {"project": project_id})}


async def beside_network(reader: Reader, project_id: str, resource: str, network_id: str) -> tuple[int | None, int | None, int | None]:
    """(revision of the network, used, own limit), each None if there is none."""
    row = await reader.one(_BESIDE_NETWORK, {"project": project_id, "what": resource, "network": network_id})
    return (row[0], row[1], row[2]) if row else (None, None, None)


async def own_limits(reader: Reader) -> dict[str, dict[str, int]]:
    """project -> resource -> limit, of the projects that have limits of their own."""
    out: dict[str, dict[str, int]] = {}
    for project_id, resource, limit in await reader.all(_SET_ONES):
        out.setdefault(project_id, {})[resource] = limit
    return out
