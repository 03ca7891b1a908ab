"""Hypervisors with what is used of them: hosts from the cell, usage from placement, counts of servers."""

import msgspec

from kilonova.compute.model import Host
from kilonova.compute.service import ComputeService
from kilonova.compute.store import hosts as store
from kilonova.compute.store import tallies
from kilonova.core.context import service_context


class Hypervisor(msgspec.Struct, frozen=True, kw_only=True):
    """Used memory counts what is reserved for the host, as Nova does."""

    host: Host
    up: bool
    vcpus_used: int
    ram_mb_used: int
    disk_gb_used: int
    servers: int
    busy: int


async def every(c: ComputeService) -> list[Hypervisor]:
    usages = {u.provider_id: u for u in await c.placement.usages(service_context("compute"))}
    loads = await tallies.by_host(c.cell_db)
    out = []
    for host in await store.every(c.cell_db):
        usage = usages.get(host.id)
        used = {i.resource_class: i.used + i.reserved for i in usage.inventories} if usage else {}
        load = loads.get(host.host) or tallies.Load(0, 0)
        out.append(
            Hypervisor(
                host=host,
                up=c.hosts.is_up(host),
                vcpus_used=used.get("VCPU", 0),
                ram_mb_used=used.get("MEMORY_MB", 0),
                disk_gb_used=used.get("DISK_GB", 0),
                servers=load.servers,
                busy=load.busy,
            )
        )
    return out
