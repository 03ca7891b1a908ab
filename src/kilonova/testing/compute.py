"""Compute alone: the real service with placement, its agents on fake hypervisors, and fakes for network, images and tokens."""

import itertools

from kilonova.compute import config as compute_config
from kilonova.compute.agent import ComputeAgent
from kilonova.compute.cells import Parts
from kilonova.compute.drivers.fake import Fake, FakeConfig, FakeHost
from kilonova.compute.edge import edge
from kilonova.compute.model import Flavor
from kilonova.compute.ops.register import register
from kilonova.compute.service import ComputeService
from kilonova.compute.store import api_tables, cell_mappings, cell_tables, flavors
from kilonova.compute.store.cell_mappings import NO_BUS, CellMapping
from kilonova.core import config
from kilonova.core.bus import InProcessBus
from kilonova.core.context import service_context
from kilonova.core.log import Log, Sink
from kilonova.core.runtime import Runtime
from kilonova.placement import config as placement_config
from kilonova.placement.service import PlacementService
from kilonova.testing.asgi import Client
from kilonova.testing.databases import open_test_database
from kilonova.testing.fakes import FakeImages, FakeNetwork
from kilonova.testing.tokens import FakeTokens

FLAVORS = (
    Flavor(id="1", name="m1.tiny", vcpus=1, ram_mb=512, root_gb=1),
    Flavor(id="2", name="m1.small", vcpus=2, ram_mb=2048, root_gb=20),
)


class ComputeWorld:
    """`machines` outlive the world: hand them to the next one, and its agents find the guests there.

    cells: so many with hosts, and cell0, each with a database and a bus of its own; hosts are dealt to them in turn. 0: the two that a
    cloud makes by itself, in the one database."""

    def __init__(
        self,
        runtime: Runtime,
        sink: Sink,
        path: str,
        *,
        hosts: int = 2,
        machines: dict[str, FakeHost] | None = None,
        network: FakeNetwork | None = None,
        images: FakeImages | None = None,
        settings: dict[tuple[str, str], object] | None = None,
        cells: int = 0,
    ) -> None:
        self.runtime = runtime
        self.log = Log("compute", sink)
        conf = config.build((compute_config.OPTIONS, placement_config.OPTIONS), (), settings or {})
        self.db = open_test_database(path, runtime)
        self.bus = InProcessBus(runtime, self.log, copy=True)
        names = [f"cell{i}" for i in range(cells + 1)] if cells else []
        self.cell_dbs = {name: open_test_database(f"{path}.{name}", runtime) for name in names}
        self.cell_buses = {name: InProcessBus(runtime, self.log, copy=True) for name in names[1:]}
        self.network = network or FakeNetwork()
        self.images = images or FakeImages()
        self.tokens = FakeTokens()
        self.placement = PlacementService(
            db=self.db,
            runtime=runtime,
            log=self.log,
            settings={g: config.settings(conf, placement_config.OPTIONS, g) for g in placement_config.OPTIONS},
        )
        self.compute = ComputeService(
            api_db=self.db,
            cell_db=None if cells else self.db,
            open_cell=self._open_cell if cells else None,
            runtime=runtime,
            log=self.log,
            settings={g: config.settings(conf, compute_config.OPTIONS, g) for g in compute_config.OPTIONS},
            bus=self.bus,
            identity=self.tokens,
            placement=self.placement,
            network=self.network,
            images=self.images,
            owner=runtime.uuid(),
        )
        register(self.compute)
        self.edge = edge(self.compute, authenticate=self.tokens.authenticate)
        self.machines = machines if machines is not None else {f"host-{i + 1}": FakeHost() for i in range(hosts)}
        self.drivers = {
            name: Fake(FakeConfig(hypervisor_hostname=f"{name}.example"), host=machine, sleep=runtime.sleep)
            for name, machine in self.machines.items()
        }
        self.agents = [
            ComputeAgent(host=name, driver=driver, bus=bus, runtime=runtime, log=self.log, fetch=self._fetch, store=self._store)
            for (name, driver), bus in zip(self.drivers.items(), itertools.cycle(self.cell_buses.values() or [self.bus]), strict=False)
        ]

    def _open_cell(self, mapping: CellMapping) -> Parts:
        return Parts(self.cell_dbs[mapping.name], self.cell_buses.get(mapping.name))

    async def _map_cells(self) -> None:
        """As `nova-manage cell_v2` would have done before the first start."""
        there = {mapping.name for mapping in await cell_mappings.every(self.db)}
        for number, (name, db) in enumerate(self.cell_dbs.items()):
            await db.create(cell_tables.metadata)
            mapping = CellMapping(
                uuid=f"00000000-0000-0000-0000-{number:012}",
                name=name,
                database_connection=f"sqlite:///{name}",
                transport_url=NO_BUS if number == 0 else f"memory://{name}",
                disabled=False,
                created_at=number,
            )
            if name not in there:
                await self.db.transact(lambda tx, mapping=mapping: cell_mappings.insert(tx, mapping))  # type: ignore[misc]

    async def _fetch(self, image_id: str, path: str) -> None:
        """Fake hypervisors keep no bytes."""

    async def _store(self, image_id: str, path: str) -> None:
        await self.images.write(service_context("compute"), image_id, path)

    async def start(self) -> None:
        for metadata in (self.placement.metadata, api_tables.metadata, *([] if self.cell_dbs else [cell_tables.metadata])):
            await self.db.create(metadata)
        await self._map_cells()
        for flavor in FLAVORS:
            if await flavors.get(self.db, flavor.id) is None:
                await self.db.transact(lambda tx, flavor=flavor: flavors.insert(tx, flavor))  # type: ignore[misc]
        await self.placement.start()
        await self.compute.start()
        for agent in self.agents:
            await agent.start()
        await self.compute.recover()

    async def stop(self) -> None:
        for agent in self.agents:
            await agent.stop()
        await self.compute.stop()
        await self.bus.stop()
        await self.db.stop()

    def client(self, token: str = "member:p1", version: str = "2.100") -> Client:
        return Client(self.edge, {"x-auth-token": token, "openstack-api-version": f"compute {version}"})
