"""/os-hosts, up to 2.42: an older view of services, and of a host's resources by project."""

from typing import Any, Literal

import msgspec

from kilonova.compute.api import queries
from kilonova.compute.domain import hypervisors, services
from kilonova.compute.model import Host
from kilonova.compute.service import ComputeService
from kilonova.compute.store import hosts as store
from kilonova.compute.store import tallies
from kilonova.core.context import Context
from kilonova.core.errors import BadRequest, NotFound, NotImplementedHere
from kilonova.core.http import Request

LIST = queries.growing(((2, 1), {"zone": queries.anything}), strict=(2, 102))
Switch = Literal["enable", "disable", "Enable", "Disable", "ENABLE", "DISABLE"]


class Update(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    status: Switch | None = None
    maintenance_mode: Switch | None = None


async def index(c: ComputeService, ctx: Context, req: Request) -> Any:
    zone = req.one("zone")
    found = [s for s in await services.every(c) if zone in (None, "", s.zone)]
    return {"hosts": [{"host_name": s.host, "service": s.binary.removeprefix("nova-"), "zone": s.zone} for s in found]}


async def _find(c: ComputeService, host_name: str) -> Host:
    host = await store.by_host((await c.hosts.cell_of(host_name)).db, host_name)
    if host is None:
        raise NotFound(f"Compute host {host_name[:255]} could not be found.")
    return host


def _row(host: str, project: str, vcpus: int, ram_mb: int, disk_gb: int) -> dict[str, Any]:
    return {"resource": {"host": host, "project": project, "cpu": vcpus, "memory_mb": ram_mb, "disk_gb": disk_gb}}


async def show(c: ComputeService, ctx: Context, req: Request, host_name: str) -> Any:
    """(total), (used_now) with what is reserved, (used_max) as servers asked for it, then each project."""
    host = await _find(c, host_name)
    now = next(h for h in await hypervisors.every(c) if h.host.id == host.id)
    projects: dict[str, tuple[int, int, int]] = {}
    for project_id, f in await tallies.flavors_of_host((await c.hosts.cell_of(host.host)).db, host.host):
        vcpus, ram_mb, disk_gb = projects.get(project_id, (0, 0, 0))
        projects[project_id] = (vcpus + f.vcpus, ram_mb + f.ram_mb, disk_gb + f.root_gb + f.ephemeral_gb)
    rows = [
        _row(host.host, "(total)", host.vcpus, host.ram_mb, host.disk_gb),
        _row(host.host, "(used_now)", now.vcpus_used, now.ram_mb_used, now.disk_gb_used),
        _row(host.host, "(used_max)", *(sum(p[i] for p in projects.values()) for i in range(3))),
    ]
    return {"host": rows + [_row(host.host, project_id, *used) for project_id, used in projects.items()]}


async def update(c: ComputeService, ctx: Context, req: Request, host_name: str, body: Update) -> Any:
    host = await _find(c, host_name)
    if body.status is None and body.maintenance_mode is None:
        raise BadRequest("Invalid input for the request body. Give status or maintenance_mode.")
    if body.maintenance_mode is not None:
        raise NotImplementedHere("Virt driver does not implement host maintenance mode.")
    disabled = (body.status or "").lower() == "disable"
    await c.hosts.change(ctx, host, disabled=disabled, disabled_reason=None)
    return {"host": host.host, "status": "disabled" if disabled else "enabled"}


async def power(c: ComputeService, ctx: Context, req: Request, host_name: str) -> Any:
    """reboot, shutdown, startup: no driver of ours switches its host."""
    await _find(c, host_name)
    raise NotImplementedHere("Virt driver does not implement host power management.")
