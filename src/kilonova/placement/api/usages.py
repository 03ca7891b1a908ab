"""/usages: what a project uses in all."""

import re
from typing import Any

from kilonova.core.context import Context
from kilonova.core.http import Request
from kilonova.placement.api import query, views
from kilonova.placement.errors import InvalidQuery
from kilonova.placement.service import PlacementService
from kilonova.placement.store import allocations

_TYPE = re.compile(r"[A-Z0-9_]+|all|unknown")


def _one(req: Request, name: str) -> str | None:
    value = req.one(name)
    if value is not None and not 1 <= len(value) <= 255:
        raise InvalidQuery(f"{name} has 1 to 255 characters.")
    return value


async def list(c: PlacementService, ctx: Context, req: Request) -> Any:
    typed = req.version >= (1, 38)
    query.only(req, ("project_id", "user_id", *(("consumer_type",) if typed else ())))
    project_id, user_id, wanted = _one(req, "project_id"), _one(req, "user_id"), _one(req, "consumer_type")
    req.authorize("placement:usages", {"project_id": project_id})
    if project_id is None:
        raise InvalidQuery("'project_id' is a required property")
    if wanted is not None and _TYPE.fullmatch(wanted) is None:
        raise InvalidQuery(f"'{wanted[:80]}' does not match '^[A-Z0-9_]+$|^all|^unknown$'")
    views.dated(req, c.runtime.now_us())
    rows = await allocations.usages(c.db, project_id, user_id)
    if not typed:
        totals: dict[str, int] = {}
        for _, name, amount in rows:
            totals[name] = totals.get(name, 0) + amount
        return {"usages": totals}
    grouped: dict[str, dict[str, int]] = {}
    for kind, count in await allocations.consumer_counts(c.db, project_id, user_id):
        _add(grouped, kind, wanted, "consumer_count", count)
    for kind, name, amount in rows:
        _add(grouped, kind, wanted, name, amount)
    return {"usages": grouped}


def _add(grouped: dict[str, dict[str, int]], kind: str | None, wanted: str | None, name: str, amount: int) -> None:
    """Under the consumer's type, or under `all` when everything is asked for in one."""
    label = kind or "unknown"
    if wanted not in (None, "all", label):
        return
    totals = grouped.setdefault("all" if wanted == "all" else label, {})
    totals[name] = totals.get(name, 0) + amount
