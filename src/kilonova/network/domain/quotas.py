"""Taking and giving back what a project may have. What belongs to no project ("") is not counted."""

from kilonova.network.domain.work import Work
from kilonova.network.errors import OverQuota
from kilonova.network.store import quotas


def default_of(w: Work, resource: str) -> int:
    return int(getattr(w.settings["network_quotas"], f"quota_{resource}"))


async def take(w: Work, project_id: str, resource: str, count: int = 1) -> None:
    """Raises OverQuota."""
    if project_id and not await quotas.take(w.tx, project_id, resource, count, default_of(w, resource)):
        raise OverQuota(resource=resource)


async def give(w: Work, project_id: str, resource: str, count: int = 1) -> None:
    if project_id:
        await quotas.give(w.tx, project_id, resource, count)
