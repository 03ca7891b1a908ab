"""The hosts as the scheduler sees them: reports and heartbeats in, a snapshot out."""

from typing import Any

from kilonova.compute import rpc
from kilonova.compute.model import Flavor, Host, Scheduling, Server
from kilonova.compute.scheduler.choose import choose, explain
from kilonova.compute.scheduler.filters import BUILTIN as FILTERS
from kilonova.compute.scheduler.filters import Filter
from kilonova.compute.scheduler.snapshot import HostFacts, Request, Snapshot
from kilonova.compute.scheduler.weighers import BUILTIN as WEIGHERS
from kilonova.compute.scheduler.weighers import Weigher
from kilonova.compute.store import hosts
from kilonova.core import plugins
from kilonova.core.config import Settings
from kilonova.core.context import Context, service_context
from kilonova.core.db import Database, Duplicate, Transaction, attempts
from kilonova.core.runtime import Runtime
from kilonova.placement.contract import Inventory, Placement

MAX_AGE_S = 5.0


class Hosts:
    """Reads all hosts and usages at most every few seconds; between two reads it keeps the snapshot near the truth itself."""

    def __init__(self, db: Database, runtime: Runtime, placement: Placement, settings: dict[str, Settings]) -> None:
        self.db = db
        self.runtime = runtime
        self.placement = placement
        self.settings = settings
        names = settings["filter_scheduler"]
        self.filters: dict[str, Filter] = {n: plugins.load("kilonova.compute.filter", n, FILTERS)() for n in names.enabled_filters}
        self.weighers: list[Weigher] = [plugins.load("kilonova.compute.weigher", n, WEIGHERS)() for n in names.weight_classes]
        self._snapshot: Snapshot | None = None
        self._read_at = 0.0

    # ---- what hosts say

    async def report(self, told: rpc.HostReport) -> Host:
        """A host introduces itself, or its resources have changed."""
        now = self.runtime.now_us()
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

        async for _ in attempts(self.runtime):
            try:
                await self.db.transact(body)
                break
            except Duplicate:  # another host took the number, or the host came twice
                continue
        known = await hosts.by_host(self.db, told.host)
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

    async def alive(self, names: list[str]) -> None:
        now = self.runtime.now_us()
        await self.db.transact(lambda tx: hosts.seen(tx, names, now))

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
            for host in await hosts.every(self.db):
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
        return next((h for h in (await self.snapshot()).hosts if h.id == host_id), None)

    async def every(self) -> list[Host]:
        return await hosts.every(self.db)

    async def change(self, ctx: Context, host_id: str, **changes: Any) -> None:
        await self.db.transact(lambda tx: hosts.change(tx, host_id, **changes))
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
