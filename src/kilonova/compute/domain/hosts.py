"""The hosts as the scheduler sees them: reports and heartbeats in, a snapshot out."""

from collections.abc import Sequence
from typing import Any

from kilonova.compute import rpc
from kilonova.compute.cells import Cell, Cells
from kilonova.compute.errors import CellSilent, ElsewhereMapped
from kilonova.compute.model import Flavor, Host, Scheduling, Server
from kilonova.compute.scheduler.choose import choose, explain
from kilonova.compute.scheduler.filters import BUILTIN as FILTERS
from kilonova.compute.scheduler.filters import Filter
from kilonova.compute.scheduler.snapshot import HostFacts, Request, Snapshot
from kilonova.compute.scheduler.weighers import BUILTIN as WEIGHERS
from kilonova.compute.scheduler.weighers import Weigher
from kilonova.compute.store import cell_mappings, hosts
from kilonova.core import plugins
from kilonova.core.config import Settings
from kilonova.core.context import Context, service_context
from kilonova.core.db import Duplicate, Transaction, attempts
from kilonova.core.runtime import Runtime
from kilonova.placement.contract import Inventory, Placement

MAX_AGE_S = 5.0
BEAT_WINDOW_S = 0.5
"""Heartbeats of so long are written by one statement."""


class Hosts:
    """Reads all hosts and usages at most every few seconds; between two reads it keeps the snapshot near the truth itself. Hosts of a cell
    that is disabled, or does not answer, are not seen."""

    def __init__(self, cells: Cells, runtime: Runtime, placement: Placement, settings: dict[str, Settings]) -> None:
        self.cells = cells
        self.runtime = runtime
        self.placement = placement
        self.settings = settings
        names = settings["filter_scheduler"]
        self.filters: dict[str, Filter] = {n: plugins.load("kilonova.compute.filter", n, FILTERS)() for n in names.enabled_filters}
        self.weighers: list[Weigher] = [plugins.load("kilonova.compute.weigher", n, WEIGHERS)() for n in names.weight_classes]
        self._snapshot: Snapshot | None = None
        self._read_at = 0.0
        self._cell_of: dict[str, Cell] = {}
        self._silent: list[Cell] = []
        self._beats: dict[str, dict[str, None]] = {}
        """cell -> hosts that said that they are alive, and are not written down yet"""

    # ---- what hosts say

    async def report(self, cell: Cell, told: rpc.HostReport) -> Host:
        """A host introduces itself to its cell, or its resources have changed. Raises ElsewhereMapped."""
        db, now = cell.db, self.runtime.now_us()
        default = self.settings["DEFAULT"]
        host = Host(
            id=self.runtime.uuid(),
            number=0,
            host=told.host,
            hypervisor_hostname=told.hypervisor_hostname,
            hypervisor_type=told.hypervisor_type,
            hypervisor_version=told.hypervisor_version,
            vcpus=told.vcpus,
            ram_mb=told.ram_mb,
            disk_gb=told.disk_gb,
            cpu_info=told.cpu_info,
            host_ip=told.host_ip,
            availability_zone=default.default_availability_zone,
            disabled=False,
            disabled_reason=None,
            forced_down=False,
            seen_at=now,
            created_at=now,
        )

        async def body(tx: Transaction) -> None:
            if not await hosts.report(tx, host):
                await hosts.insert(tx, host)

        await self._map(cell, told.host, now)
        async for _ in attempts(self.runtime):
            try:
                await db.transact(body)
                break
            except Duplicate:  # another host took the number, or the host came twice
                continue
        known = await hosts.by_host(db, told.host)
        assert known is not None
        reserved = min(default.reserved_host_memory_mb, known.ram_mb // 4)
        inventories = (
            _inventory("VCPU", known.vcpus, 0, default.initial_cpu_allocation_ratio),
            _inventory("MEMORY_MB", known.ram_mb, reserved, default.initial_ram_allocation_ratio),
            _inventory("DISK_GB", known.disk_gb, 0, default.initial_disk_allocation_ratio),
        )
        await self.placement.put_provider(service_context("compute"), known.id, known.hypervisor_hostname, inventories, ())
        self.stale()
        return known

    async def _map(self, cell: Cell, host: str, now: int) -> None:
        """A host is in the cell whose bus it came over."""
        if self._cell_of.get(host) is cell:
            return
        known = await cell_mappings.cell_of_host(self.cells.api_db, host)
        if known is None:
            known = await self.cells.api_db.transact(lambda tx: cell_mappings.map_host(tx, host, cell.uuid, now))
        if known != cell.uuid:
            raise ElsewhereMapped(host=host, cell=cell.title, known=known)
        self._cell_of[host] = cell

    async def cell_of(self, host: str) -> Cell:
        """Raises CellSilent when it is in none that is known."""
        found = self._cell_of.get(host)
        if found is None:
            uuid = await cell_mappings.cell_of_host(self.cells.api_db, host)
            found = self.cells.get(uuid) if uuid else self.cells.first
        return found

    async def alive(self, cell: Cell, names: Sequence[str]) -> None:
        waiting = self._beats.get(cell.uuid)
        if waiting is not None:
            waiting.update(dict.fromkeys(names))
            return
        self._beats[cell.uuid] = dict.fromkeys(names)
        self.cells.tasks.start("heartbeats of hosts", self._write_beats(cell))

    async def _write_beats(self, cell: Cell) -> None:
        await self.runtime.sleep(BEAT_WINDOW_S)
        names, now = sorted(self._beats.pop(cell.uuid)), self.runtime.now_us()
        await cell.db.transact(lambda tx: hosts.seen(tx, names, now))

    def is_up(self, host: Host) -> bool:
        return not host.forced_down and self.runtime.now_us() - host.seen_at <= self.settings["DEFAULT"].service_down_time * 1_000_000

    # ---- what the scheduler sees

    def stale(self) -> None:
        """Read everything again before the next choice."""
        self._read_at = float("-inf")

    async def snapshot(self) -> Snapshot:
        now = self.runtime.monotonic()
        if self._snapshot is None or now - self._read_at > MAX_AGE_S:
            self._read_at = now
            usages = {u.provider_id: u for u in await self.placement.usages(service_context("compute"))}
            facts = []
            for host in await self._everywhere():
                usage = usages.get(host.id)
                free: dict[str, float] = {}
                for inventory in usage.inventories if usage else ():
                    free[inventory.resource_class] = (inventory.total - inventory.reserved) * inventory.allocation_ratio - inventory.used
                facts.append(
                    HostFacts(
                        host=host,
                        up=self.is_up(host),
                        free_vcpus=free.get("VCPU", 0),
                        free_ram_mb=free.get("MEMORY_MB", 0),
                        free_disk_gb=free.get("DISK_GB", 0),
                        total_ram_mb=host.ram_mb,
                    )
                )
            self._snapshot = Snapshot(facts)
        return self._snapshot

    async def _everywhere(self) -> list[Host]:
        answers = await self.cells.gather("hosts", lambda cell: hosts.every(cell.db))
        self._silent = answers.silent
        self._cell_of |= {host.host: cell for cell, found in answers.found for host in found}
        return [host for cell, found in answers.found if not cell.mapping.disabled for host in found]

    async def choose(self, request: Request) -> tuple[Host | None, Scheduling]:
        found, why = choose(request, await self.snapshot(), self.filters, self.weighers, self.runtime.random)
        if found is None and self._read_at + 0.05 < self.runtime.monotonic():
            self.stale()
            found, why = choose(request, await self.snapshot(), self.filters, self.weighers, self.runtime.random)
        return found, why

    async def explain(self, request: Request) -> Scheduling:
        return explain(request, await self.snapshot(), self.filters)

    async def refuses_image(self, server: Server) -> str:
        """Why the server's host may not run it with the image that its row names now; empty when it may. Only filters that look at images
        are asked: what the server holds of its host it keeps."""
        request = Request(server_id=server.id, vcpus=0, ram_mb=0, disk_gb=0, image_properties=server.image_properties)
        snapshot = await self.snapshot()
        at = snapshot.index.get(server.host or "")
        if at is None:
            return f"{server.host}: it is not known."
        for name, one in self.filters.items():
            mask = one.mask(request, snapshot) if one.on_rebuild else None
            if mask is not None and not mask[at]:
                return f"{name} refused {server.host}: {one.reason(request, snapshot, at)}."
        return ""

    def take(self, host: str, request: Request) -> None:
        if self._snapshot is not None:
            self._snapshot.take(host, request.vcpus, request.ram_mb, request.disk_gb)

    def give(self, host: str, flavor: Flavor) -> None:
        if self._snapshot is not None:
            self._snapshot.give(host, flavor.vcpus, flavor.ram_mb, disk_gb(flavor))

    async def by_id(self, host_id: str) -> Host | None:
        """Raises CellSilent when it may be in a cell that does not answer."""
        found = next((h for h in (await self.snapshot()).hosts if h.id == host_id), None)
        if found is None and self._silent:
            raise CellSilent(cell=self._silent[0].uuid, why=self._silent[0].why)
        return found

    async def outside(self, cell: Cell) -> dict[str, str]:
        """Hosts of other cells, with the reason that a server of this one may not go there."""
        if self.cells.only is not None:
            return {}
        hosts_ = (await self.snapshot()).hosts
        return {h.host: "it is in another cell" for h in hosts_ if self._cell_of[h.host].uuid != cell.uuid}

    async def change(self, ctx: Context, host: Host, **changes: Any) -> None:
        db = (await self.cell_of(host.host)).db
        await db.transact(lambda tx: hosts.change(tx, host.id, **changes))
        self.stale()

    async def forget(self, host: Host) -> None:
        """A host that is gone, and the mapping to its cell."""
        cell = await self.cell_of(host.host)

        async def row(tx: Transaction) -> None:
            await hosts.delete(tx, host.id)

        await cell.db.transact(row)
        await self.cells.api_db.transact(lambda tx: cell_mappings.forget_host(tx, host.host))
        self._cell_of.pop(host.host, None)
        self.stale()


def disk_gb(flavor: Flavor) -> int:
    return flavor.root_gb + flavor.ephemeral_gb + -(-flavor.swap_mb // 1024)


def resources(flavor: Flavor) -> dict[str, int]:
    """What a server of this flavor takes from its host, in placement's classes."""
    wanted = {"VCPU": flavor.vcpus, "MEMORY_MB": flavor.ram_mb, "DISK_GB": disk_gb(flavor)}
    return {name: amount for name, amount in wanted.items() if amount}


def _inventory(name: str, total: int, reserved: int, ratio: float) -> Inventory:
    return Inventory(
        resource_class=name, total=total, reserved=reserved, min_unit=1, max_unit=max(1, total), step_size=1, allocation_ratio=ratio
    )
