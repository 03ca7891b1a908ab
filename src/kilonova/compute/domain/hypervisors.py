"""Hypervisors with what is used of them: hosts from the cell, usage from placement, counts of servers."""

import msgspec

from kilonova.compute.cells import Cell
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

    async def both(cell: Cell) -> tuple[dict[str, tallies.Load], list[Host]]:
        return await tallies.by_host(cell.db), await store.every(cell.db)

    answers = await c.cells.gather("hypervisors", both)
    c.cells.complain(answers.silent, skip=c.settings["api"].list_records_by_skipping_down_cells)
    out = []
    for loads, host in ((loads, host) for loads, found in answers.all for host in found):
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


async def names_by_host(c: ComputeService) -> dict[str, list[tuple[str, str]]]:
    """host -> (server id, name), of every cell that answers."""
    answers = await c.cells.gather("servers by host", lambda cell: tallies.names_by_host(cell.db))
    return {host: found for names in answers.all for host, found in names.items()}
