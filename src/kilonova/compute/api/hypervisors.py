"""/os-hypervisors. Ids are numbers before 2.53, UUIDs from then on; usage left with 2.88, uptime came."""

from typing import Any

import msgspec

from kilonova.compute.api import queries, values
from kilonova.compute.domain import hypervisors
from kilonova.compute.domain.hypervisors import Hypervisor
from kilonova.compute.domain.services import number_of
from kilonova.compute.service import ComputeService
from kilonova.core.context import Context
from kilonova.core.errors import BadRequest, NotFound, NotImplementedHere
from kilonova.core.http import Request

Names = dict[str, list[tuple[str, str]]]
_WITH = {"with_servers": queries.flag}
_PATTERN = {"hypervisor_hostname_pattern": queries.matches(r"^[a-zA-Z0-9\-._]{1,255}$")}
LIST: queries.Queries = [
    ((2, 1), queries.Query(others=True)),
    ((2, 33), queries.Query(queries.PAGE, others=True)),
    ((2, 53), queries.Query({**queries.PAGE, **_PATTERN, **_WITH}, once=True)),
]
SHOW: queries.Queries = [((2, 1), queries.Query(others=True)), ((2, 53), queries.Query(_WITH, once=True))]


def brief(req: Request, h: Hypervisor, names: Names | None) -> dict[str, Any]:
    """names: the servers of each host, when they are asked for."""
    document: dict[str, Any] = {
        "id": h.host.id if req.version >= (2, 53) else h.host.number,
        "hypervisor_hostname": h.host.hypervisor_hostname,
        "state": "up" if h.up else "down",
        "status": "disabled" if h.host.disabled else "enabled",
    }
    if names is not None:
        servers = [{"uuid": ident, "name": name} for ident, name in names.get(h.host.host, ())]
        if servers or req.version >= (2, 75):
            document["servers"] = servers
    return document


def detailed(req: Request, h: Hypervisor, names: Names | None) -> dict[str, Any]:
    host = h.host
    document = {
        **brief(req, h, names),
        "hypervisor_type": host.hypervisor_type,
        "hypervisor_version": host.hypervisor_version,
        "host_ip": host.host_ip,
        "service": {
            "id": host.id if req.version >= (2, 53) else number_of(host),
            "host": host.host,
            "disabled_reason": host.disabled_reason,
        },
    }
    if req.version >= (2, 88):
        return {**document, "uptime": None}
    return {
        **document,
        "vcpus": host.vcpus,
        "memory_mb": host.ram_mb,
        "local_gb": host.disk_gb,
        "vcpus_used": h.vcpus_used,
        "memory_mb_used": h.ram_mb_used,
        "local_gb_used": h.disk_gb_used,
        "free_ram_mb": host.ram_mb - h.ram_mb_used,
        "free_disk_gb": host.disk_gb - h.disk_gb_used,
        "current_workload": h.busy,
        "running_vms": h.servers,
        "disk_available_least": host.disk_gb - h.disk_gb_used,
        "cpu_info": host.cpu_info if req.version >= (2, 28) else msgspec.json.encode(host.cpu_info).decode(),
    }


def _key(req: Request) -> Any:
    return (lambda h: h.host.id) if req.version >= (2, 53) else (lambda h: str(h.host.number))


async def _names(c: ComputeService, req: Request) -> Names | None:
    asked = req.version >= (2, 53) and values.flag("with_servers", req.one("with_servers") or False)
    return await hypervisors.names_by_host(c) if asked else None


async def _list(c: ComputeService, req: Request, view: Any) -> dict[str, Any]:
    rows = await hypervisors.every(c)
    names = await _names(c, req)
    pattern = req.one("hypervisor_hostname_pattern") if req.version >= (2, 53) else None
    if pattern is not None:
        if req.one("limit") is not None or req.one("marker") is not None:
            raise BadRequest("Paging over hypervisors with the hypervisor_hostname_pattern query parameter is not supported.")
        rows = _matching(rows, pattern)
    elif req.version >= (2, 33):
        rows = queries.page(req, rows, _key(req), c.settings["api"].max_limit)
    out: dict[str, Any] = {"hypervisors": [view(req, h, names) for h in rows]}
    if req.version >= (2, 33) and pattern is None and req.one("limit"):
        following = queries.next_link(req, rows, _key(req), c.settings["api"].max_limit)
        if following:
            out["hypervisors_links"] = following
    return out


def _matching(rows: list[Hypervisor], pattern: str) -> list[Hypervisor]:
    found = [h for h in rows if pattern in h.host.hypervisor_hostname]
    if not found:
        raise NotFound(f"No hypervisor matching '{pattern[:255]}' could be found.")
    return found


async def index(c: ComputeService, ctx: Context, req: Request) -> Any:
    return await _list(c, req, brief)


async def detail(c: ComputeService, ctx: Context, req: Request) -> Any:
    return await _list(c, req, detailed)


async def _find(c: ComputeService, req: Request, hypervisor_id: str) -> Hypervisor:
    if req.version >= (2, 53) and not values.UUID.match(hypervisor_id):
        raise BadRequest(f"Invalid uuid {hypervisor_id[:64]}")
    key = _key(req)
    found = next((h for h in await hypervisors.every(c) if key(h) == hypervisor_id), None)
    if found is None:
        raise NotFound(f"Hypervisor with ID '{hypervisor_id[:255]}' could not be found.")
    return found


async def show(c: ComputeService, ctx: Context, req: Request, hypervisor_id: str) -> Any:
    return {"hypervisor": detailed(req, await _find(c, req, hypervisor_id), await _names(c, req))}


async def uptime(c: ComputeService, ctx: Context, req: Request, hypervisor_id: str) -> Any:
    """No host reports it yet."""
    await _find(c, req, hypervisor_id)
    raise NotImplementedHere("Virt driver does not implement uptime function.")


async def search(c: ComputeService, ctx: Context, req: Request, hypervisor_id: str) -> Any:
    return {"hypervisors": [brief(req, h, None) for h in _matching(await hypervisors.every(c), hypervisor_id)]}


async def servers(c: ComputeService, ctx: Context, req: Request, hypervisor_id: str) -> Any:
    found = _matching(await hypervisors.every(c), hypervisor_id)
    names = await hypervisors.names_by_host(c)
    return {"hypervisors": [brief(req, h, names) for h in found]}


async def statistics(c: ComputeService, ctx: Context, req: Request) -> Any:
    """Over hosts that are not disabled."""
    rows = [h for h in await hypervisors.every(c) if not h.host.disabled]
    totals = {
        "vcpus": sum(h.host.vcpus for h in rows),
        "memory_mb": sum(h.host.ram_mb for h in rows),
        "local_gb": sum(h.host.disk_gb for h in rows),
        "vcpus_used": sum(h.vcpus_used for h in rows),
        "memory_mb_used": sum(h.ram_mb_used for h in rows),
        "local_gb_used": sum(h.disk_gb_used for h in rows),
    }
    free_gb = totals["local_gb"] - totals["local_gb_used"]
    more = {
        "count": len(rows),
        "free_ram_mb": totals["memory_mb"] - totals["memory_mb_used"],
        "free_disk_gb": free_gb,
        "disk_available_least": free_gb,
        "current_workload": sum(h.busy for h in rows),
        "running_vms": sum(h.servers for h in rows),
    }
    return {"hypervisor_statistics": {**totals, **more}}
