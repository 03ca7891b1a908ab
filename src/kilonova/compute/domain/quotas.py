"""Quota as the API names it. The service says which limits hold (`quota_limits`); here is what a view shows of them."""

from kilonova.compute.service import ComputeService
from kilonova.compute.store import mappings, tallies
from kilonova.core.http import Version

NETWORK = ("fixed_ips", "floating_ips", "security_group_rules", "security_groups")
"""Limits of another service that old views still name; -1 here."""
API_NAME = {"injected_file_path_length": "injected_file_path_bytes"}
OURS = {shown: name for name, shown in API_NAME.items()}
_FILES = ("injected_files", "injected_file_content_bytes", "injected_file_path_bytes")
_GROUPS = ("server_groups", "server_group_members")
_ALWAYS = ("cores", "instances", "key_pairs", "metadata_items", "ram")


def of_project(version: Version) -> tuple[str, ...]:
    """Names in a quota set."""
    names = [*_ALWAYS, *_GROUPS]
    if version < (2, 57):
        names += _FILES
    if version < (2, 36):
        names += NETWORK
    return tuple(sorted(names))


def of_class(version: Version) -> tuple[str, ...]:
    """Names in a quota class set."""
    names = list(_ALWAYS)
    if version < (2, 57):
        names += _FILES
    names += NETWORK if version < (2, 50) else _GROUPS
    return tuple(sorted(names))


def shown(limits: dict[str, int], names: tuple[str, ...]) -> dict[str, int]:
    return {name: -1 if name in NETWORK else limits[OURS.get(name, name)] for name in names}


async def limits(c: ComputeService, project_id: str, user_id: str | None = None) -> dict[str, int]:
    """By our names; a user's own limits win over his project's."""
    found = await c.quota_limits(project_id)
    if user_id:
        scope = f"{project_id}:{user_id}"
        found |= (await mappings.limits(c.api_db, [scope]))[scope]
    return found


async def defaults(c: ComputeService) -> dict[str, int]:
    """What a project without limits of its own has."""
    return await c.quota_limits("")


async def in_use(c: ComputeService, project_id: str, user_id: str | None = None) -> dict[str, int]:
    """instances, cores, ram; the rest is not counted for a whole project."""
    if user_id:
        answers = await c.cells.gather("quota of a user", lambda cell: tallies.flavors_of_user(cell.db, project_id, user_id))
        flavors = [flavor for found in answers.all for flavor in found]
        flavors += [s.flavor for s in await mappings.requests(c.api_db, project_id) if s.user_id == user_id]
        return {"instances": len(flavors), "cores": sum(f.vcpus for f in flavors), "ram": sum(f.ram_mb for f in flavors)}
    used = await mappings.usage(c.api_db, project_id)
    return {"instances": used["instances"], "cores": used["cores"], "ram": used["ram_mb"]}
