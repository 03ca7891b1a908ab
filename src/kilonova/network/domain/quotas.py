"""Taking and giving back what a project may have. What belongs to no project ("") is not counted.

A project's count is one row that all its requests write, so it is written at the end of the transaction: nobody waits for long.
"""

from kilonova.network.domain.work import Work
from kilonova.network.errors import OverQuota
from kilonova.network.store import quotas
from kilonova.network.store.rows import Stale


def default_of(w: Work, resource: str) -> int:
    return int(getattr(w.settings["network_quotas"], f"quota_{resource}"))


def take(w: Work, project_id: str, resource: str, count: int = 1) -> None:
    """`settle` raises OverQuota when it is too much."""
    if project_id:
        w.counted[(project_id, resource)] = w.counted.get((project_id, resource), 0) + count


def give(w: Work, project_id: str, resource: str, count: int = 1) -> None:
    take(w, project_id, resource, -count)


async def settle(w: Work) -> None:
    """The last thing that a transaction does. Raises OverQuota; in a first attempt Stale, for which a second one finds the reason."""
    for (project_id, resource), count in sorted(w.counted.items()):
        if count > 0 and w.joins:
            await quotas.take_later(w.tx, project_id, resource, count, default_of(w, resource), Stale())
        elif count > 0 and not await quotas.take(w.tx, project_id, resource, count, default_of(w, resource)):
            raise OverQuota(resource=resource)
        if count < 0:
            await quotas.give(w.tx, project_id, resource, -count)
