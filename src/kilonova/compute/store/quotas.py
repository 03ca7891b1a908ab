"""Quota limits that somebody has set, on the api side. Usage is in mappings.py.

A scope is a project's id, "<project>:<user>", or "class:<name>".
"""

import sqlalchemy as sa

from kilonova.compute.store.api_tables import quota_limits as q
from kilonova.core.db import Transaction
from kilonova.core.db.statements import inserted, prepared

_SET = prepared(
    sa.update(q).where(q.c.scope == sa.bindparam("key"), q.c.resource == sa.bindparam("name")).values(maximum=sa.bindparam("to_maximum"))
)
_INSERT = inserted(q)
_DELETE = prepared(sa.delete(q).where(q.c.scope == sa.bindparam("scope")))
_prefix = sa.bindparam("prefix", type_=sa.String)
_DELETE_USERS = prepared(sa.delete(q).where(sa.func.substr(q.c.scope, 1, sa.func.length(_prefix)) == _prefix))


async def put(tx: Transaction, scope: str, limits: dict[str, int]) -> None:
    for name, maximum in limits.items():
        if not await tx.run(_SET, {"key": scope, "name": name, "to_maximum": maximum}):
            await tx.run(_INSERT, {"scope": scope, "resource": name, "maximum": maximum})


async def delete(tx: Transaction, scope: str) -> None:
    await tx.run(_DELETE, {"scope": scope})


async def delete_users(tx: Transaction, project_id: str) -> None:
    """Limits of single users of a project."""
    await tx.run(_DELETE_USERS, {"prefix": f"{project_id}:"})
