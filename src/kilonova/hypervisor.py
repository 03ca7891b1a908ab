"""The hypervisors of this process: their drivers and agents, and nothing of the services that command them."""

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Protocol

from kilonova.compute import config as compute_config
from kilonova.compute import rpc
from kilonova.compute.agent import ComputeAgent, Heart
from kilonova.compute.drivers import BUILTIN as HYPERVISORS
from kilonova.compute.drivers import Driver as HypervisorDriver
from kilonova.compute.drivers.fake import Fake, FakeConfig, FakeHost
from kilonova.compute.drivers.fake.journal import GuestJournal
from kilonova.core import config, files, plugins
from kilonova.core.binding import stub
from kilonova.core.bus import Bus, agents
from kilonova.core.config import Settings
from kilonova.core.context import service_context
from kilonova.core.log import Log
from kilonova.core.runtime import Runtime
from kilonova.core.tasks import Tasks
from kilonova.image.contract import Images
from kilonova.network import config as network_config
from kilonova.network.agent import NetworkAgent
from kilonova.network.drivers import Driver as Dataplane
from kilonova.network.drivers.fake import FakeDriver
from kilonova.network.rpc import MetadataReply, MetadataRequest
from kilonova.plan import Plan

PIECE = 4 << 20
STORE_TIMEOUT_S = 3600.0
IMAGE_STORE = "image.store"
"""Address of whoever fills images from hypervisors' files."""
METADATA = "metadata"
"""Address of whoever answers guests' requests for metadata."""
OPTIONS: tuple[config.Options, ...] = (compute_config.OPTIONS, network_config.OPTIONS)


class Machines:
    """The guests of fake hosts. They live on when a cloud in this process is stopped or dies; hand them to the next one. With a journal
    they outlive the process too."""

    def __init__(self, journal: GuestJournal | None = None) -> None:
        self.guests: dict[str, FakeHost] = {} if journal is None else journal.hosts
        self._journal = journal

    def of(self, host: str) -> FakeHost:
        return self.guests.setdefault(host, FakeHost()) if self._journal is None else self._journal.of(host)


class Reach(Protocol):
    """What hypervisors need of the rest of the cloud."""

    async def fetch(self, image_id: str, path: str) -> None:
        """An image's bytes into a file."""
        ...

    async def store(self, image_id: str, path: str) -> None:
        """A file's bytes into an image that waits for them."""
        ...

    async def ask_metadata(self, request: MetadataRequest) -> MetadataReply:
        """A guest's request to 169.254.169.254."""
        ...


class ReachOverBus:
    """The rest of the cloud from another machine."""

    def __init__(self, bus: Bus, runtime: Runtime, node: str) -> None:
        """node: the name in addresses of files that are given out."""
        self._bus = bus
        self._node = node
        self._runtime = runtime
        self._images = stub(Images, bus, "image", timeout_s=60.0)

    async def fetch(self, image_id: str, path: str) -> None:
        await fetch_in_pieces(self._images.read, image_id, path, self._runtime)

    async def store(self, image_id: str, path: str) -> None:
        address = agents.file_address(self._node, self._runtime.uuid_hex())

        async def read(asked: rpc.ReadPiece) -> rpc.Piece:
            return rpc.Piece(data=await self._runtime.blocking(files.read_at, path, asked.offset, asked.length, pool="image-fetch"))

        self._bus.serve(address, {rpc.ReadPiece: read})
        try:
            await self._bus.call(IMAGE_STORE, rpc.StoreImage(image_id=image_id, address=address), STORE_TIMEOUT_S)
        finally:
            self._bus.silence(address)

    async def ask_metadata(self, request: MetadataRequest) -> MetadataReply:
        reply: MetadataReply = await self._bus.call(METADATA, request, 20.0)
        return reply


async def fetch_in_pieces(read: Callable[..., Awaitable[bytes]], image_id: str, path: str, runtime: Runtime) -> None:
    ctx, at = service_context("compute"), 0
    while piece := await read(ctx, image_id, at, PIECE):
        await runtime.blocking(files.write_at, path, at, piece, pool="image-fetch")
        at += len(piece)


class Hypervisors:
    """Agents and drivers of the plan's hosts. `compute_agents` and `network_agents` are in the order of the plan."""

    def __init__(
        self,
        plan: Plan,
        runtime: Runtime,
        log: Log,
        bus: Bus,
        settings: dict[str, Settings],
        reach: Reach,
        *,
        machines: Machines | None = None,
        cell_bus: Bus | None = None,
        guests: bool = True,
    ) -> None:
        """settings: the snapshots of compute's and network's groups. cell_bus: for what compute says, where a cell has its own.
        guests: with agents of compute, not only of network."""
        self.plan = plan
        self.runtime = runtime
        self.bus = cell_bus or bus
        """Compute's."""
        self.machines = machines or Machines()
        self.reach = reach
        self.tasks = Tasks(runtime, log)
        self._settings = settings
        wires = settings["network_agent"]
        self.network_agents = [
            NetworkAgent(
                host=host,
                driver=self._dataplane(host, number),
                bus=bus,
                runtime=runtime,
                log=log.child("network"),
                vtep_ip=plan.vtep(number),
                report_interval_s=wires.report_interval,
                resync_interval_s=wires.resync_interval,
            )
            for number, host in enumerate(plan.hypervisors())
        ]
        self.compute_agents = [
            ComputeAgent(
                host=host,
                driver=self._hypervisor(host),
                bus=self.bus,
                runtime=runtime,
                log=log.child("compute"),
                fetch=reach.fetch,
                store=reach.store,
                builds=settings["DEFAULT"].max_concurrent_builds,
            )
            for host in plan.hypervisors()
            if guests
        ]

    def _hypervisor(self, host: str) -> HypervisorDriver:
        if self.plan.driver == "fake":
            return Fake(FakeConfig(hypervisor_hostname=host), host=self.machines.of(host), sleep=self.runtime.sleep)
        plugins.load("kilonova.compute.driver", self.plan.driver, HYPERVISORS)
        from kilonova.compute.drivers.libvirt import Libvirt, LibvirtConfig

        libvirt = self._settings["libvirt"]
        return Libvirt(
            LibvirtConfig(
                state_folder=Path(self.plan.state),
                hypervisor_hostname=host,
                connection_uri=libvirt.connection_uri,
                virt_type=libvirt.virt_type,
                cpu_model=libvirt.cpu_model,
                network_namespace=self.plan.namespace(host),
            )
        )

    def _dataplane(self, host: str, number: int) -> Dataplane:
        if self.plan.driver == "fake":
            return FakeDriver(host=host, sleep=self.runtime.sleep)
        from kilonova.network.drivers.linux.config import LinuxConfig, PhysicalNetwork, Underlay
        from kilonova.network.drivers.linux.driver import LinuxDriver

        gateway = PhysicalNetwork(name="public", address="203.0.113.1/24" if number == 0 else None)
        wiring = LinuxConfig(
            host_namespace=self.plan.namespace(host),
            vtep_ip=self.plan.vtep(number),
            underlay=None if self.plan.my_ip else Underlay(namespace=f"kn-{self.plan.cloud_id}-net"),
            machine_tunnels=bool(self.plan.my_ip),
            physical_networks=(gateway,),
        )
        return LinuxDriver(wiring, self.reach.ask_metadata)

    # ---- lifetime

    async def start_networks(self) -> None:
        for agent in self.network_agents:
            await agent.start()

    async def start_guests(self) -> None:
        for agent in self.compute_agents:
            await agent.start()

    def start_heart(self) -> None:
        if not self.compute_agents:
            return
        heart = Heart(self.compute_agents, self.bus, self._settings["DEFAULT"].report_interval)
        self.tasks.every("heartbeat of hypervisors", heart.interval_s, heart.beat)

    def broker_is_back(self) -> None:
        for agent in self.network_agents:
            agent.broker_is_back()

    async def destroy(self) -> None:
        """Remove the guests and the dataplane; called before `stop` when the cloud is to be forgotten."""
        for agent in self.compute_agents:
            for guest in await agent.driver.list_guests():
                await agent.driver.destroy(guest.server_id)
        for network_agent in self.network_agents:
            await network_agent.driver.teardown()

    async def stop(self) -> None:
        """Guests and dataplane live on."""
        await self.tasks.stop()
        for agent in self.compute_agents:
            await agent.stop()
        for network_agent in self.network_agents:
            await network_agent.stop()
