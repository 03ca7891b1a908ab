"""Availability zones: those of the hosts, and the one of services without hypervisor."""

from typing import Any

from kilonova.compute.domain import services
from kilonova.compute.service import ComputeService
from kilonova.core import times
from kilonova.core.context import Context
from kilonova.core.http import Request


async def index(c: ComputeService, ctx: Context, req: Request) -> Any:
    internal = c.settings["DEFAULT"].internal_service_availability_zone
    available: dict[str, bool] = {}
    for service in await services.every(c):
        if service.zone != internal:
            available[service.zone] = available.get(service.zone, False) or not service.disabled
    return {"availabilityZoneInfo": [{"zoneName": zone, "zoneState": {"available": on}, "hosts": None} for zone, on in available.items()]}


async def detail(c: ComputeService, ctx: Context, req: Request) -> Any:
    """Hosts of a zone that has nothing enabled are not shown."""
    hosts: dict[str, dict[str, dict[str, Any]]] = {}
    available: dict[str, bool] = {}
    for service in await services.every(c):
        available[service.zone] = available.get(service.zone, False) or not service.disabled
        hosts.setdefault(service.zone, {}).setdefault(service.host, {})[service.binary] = {
            "available": service.up,
            "active": not service.disabled,
            "updated_at": times.iso_us(service.seen_at),
        }
    return {
        "availabilityZoneInfo": [
            {"zoneName": zone, "zoneState": {"available": available[zone]}, "hosts": shown if available[zone] else None}
            for zone, shown in hosts.items()
        ]
    }
