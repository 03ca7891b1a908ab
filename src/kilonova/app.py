"""The composition root: the one module that knows every service and wires them. Nothing imports it but `cli` and `testing`."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import msgspec

from kilonova.compute import config as compute_config
from kilonova.compute.agent import ComputeAgent, Heart
from kilonova.compute.drivers import BUILTIN as HYPERVISORS
from kilonova.compute.drivers import Driver as Hypervisor
from kilonova.compute.drivers.fake import Fake, FakeConfig, FakeHost
from kilonova.compute.drivers.fake.journal import GuestJournal
from kilonova.compute.edge import edge as compute_edge
from kilonova.compute.ops.register import register as register_compute
from kilonova.compute.policies import RULES as COMPUTE_RULES
from kilonova.compute.service import ComputeService
from kilonova.compute.store.migrations.api import HISTORY as COMPUTE_API_TABLES
from kilonova.compute.store.migrations.cell import HISTORY as COMPUTE_CELL_TABLES
from kilonova.core import config as config_module
from kilonova.core import files, plugins
from kilonova.core.bus import InProcessBus
from kilonova.core.config import Settings
from kilonova.core.context import service_context
from kilonova.core.db import Database, SQLite, open_database, schema
from kilonova.core.db.config import DATABASE_OPTIONS
from kilonova.core.edge import Authenticate, Edge
from kilonova.core.log import Log, Sink
from kilonova.core.policy import POLICY_OPTIONS, Policy, Rule, overrides
from kilonova.core.runtime import Runtime
from kilonova.core.tasks import Tasks
from kilonova.identity import config as identity_config
from kilonova.identity.contract import Identity
from kilonova.identity.domain.bootstrap import ServiceEntry
from kilonova.identity.edge import edge as identity_edge
from kilonova.identity.policies import RULES as IDENTITY_RULES
from kilonova.identity.service import IdentityService
from kilonova.identity.store.migrations import HISTORY as IDENTITY_TABLES
from kilonova.image import config as image_config
from kilonova.image.contract import Images
from kilonova.image.drivers import Store
from kilonova.image.drivers import load as load_store
from kilonova.image.edge import edge as image_edge
from kilonova.image.policies import RULES as IMAGE_RULES
from kilonova.image.service import ImageService
from kilonova.image.store.migrations import HISTORY as IMAGE_TABLES
from kilonova.metadata import config as metadata_config
from kilonova.metadata.app import MetadataApp
from kilonova.metadata.service import MetadataService
from kilonova.network import config as network_config
from kilonova.network.agent import NetworkAgent
from kilonova.network.drivers import Driver as Dataplane
from kilonova.network.drivers.fake import FakeDriver
from kilonova.network.edge import edge as network_edge
from kilonova.network.policies import RULES as NETWORK_RULES
from kilonova.network.rpc import MetadataReply, MetadataRequest
from kilonova.network.service import NetworkService
from kilonova.network.store.migrations import HISTORY as NETWORK_TABLES
from kilonova.placement import config as placement_config
from kilonova.placement.edge import edge as placement_edge
from kilonova.placement.policies import RULES as PLACEMENT_RULES
from kilonova.placement.service import PlacementService
from kilonova.placement.store.migrations import HISTORY as PLACEMENT_TABLES

PORTS = {"identity": 5000, "image": 9292, "placement": 8778, "compute": 8774, "metadata": 8775, "network": 9696}
CATALOG = {
    "identity": ("identity", "keystone", "Identity", "/v3"),
    "image": ("image", "glance", "Image", ""),
    "placement": ("placement", "placement", "Placement", ""),
    "compute": ("compute", "nova", "Compute", "/v2.1"),
    "network": ("network", "neutron", "Network", ""),
}
OPTIONS: tuple[config_module.Options, ...] = (
    identity_config.OPTIONS,
    image_config.OPTIONS,
    placement_config.OPTIONS,
    compute_config.OPTIONS,
    network_config.OPTIONS,
    metadata_config.OPTIONS,
    POLICY_OPTIONS,
    DATABASE_OPTIONS,
)

HISTORIES = {
    "identity": (IDENTITY_TABLES,),
    "image": (IMAGE_TABLES,),
    "placement": (PLACEMENT_TABLES,),
    "network": (NETWORK_TABLES,),
    "compute": (COMPUTE_API_TABLES, COMPUTE_CELL_TABLES),
}
"""The tables of each service, in the order that they are made and copied in."""


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """What to run and where: dev mode and production fill the same one."""

    state: str
    cloud_id: str = "local"
    """Short and unique on this machine: names of namespaces and the like begin with it."""
    host: str = "127.0.0.1"
    public_host: str = ""
    port_offset: int = 0
    services: tuple[str, ...] = tuple(PORTS)
    driver: str = "fake"
    hosts: int = 1
    node: str = "kilonova"
    """The name of the one host of the driver libvirt; fake hosts are host-1, host-2, …"""
    region: str = "RegionOne"
    config_files: tuple[str, ...] = ()
    overrides: Mapping[tuple[str, str], Any] = {}
    scheme: str = "http"

    def url(self, service: str) -> str:
        return f"{self.scheme}://{self.public_host or self.host}:{PORTS[service] + self.port_offset}"


@contextmanager
def rest_binding() -> Iterator[None]:
    """Around the imports that only a binding to REST needs. Raises ConfigError when they are not installed."""
    try:
        yield
    except ModuleNotFoundError as error:
        raise config_module.ConfigError(f"[keystone_authtoken] needs the package {error.name}: pip install 'kilonova[rest]'.") from None


def vtep(number: int) -> str:
    """The address of a host's tunnels, inside the cloud's own underlay."""
    return f"192.0.{2 + number // 254}.{number % 254 + 1}"


class WhoIsWho(Identity, Protocol):
    """Identity as the composition root sees it, whoever answers: our own service or another Keystone."""

    async def start(self) -> None: ...

    async def stop(self) -> None: ...

    async def project_id(self, name: str) -> str: ...


class Machines:
    """The hypervisors of fake hosts. They live on when a cloud in this process is stopped or dies; hand them to the next one. With a
    journal they outlive the process too."""

    def __init__(self, journal: GuestJournal | None = None) -> None:
        self.guests: dict[str, FakeHost] = {} if journal is None else journal.hosts
        self._journal = journal

    def of(self, host: str) -> FakeHost:
        return self.guests.setdefault(host, FakeHost()) if self._journal is None else self._journal.of(host)


class Cloud:
    """Every service of one process. `edges` are ASGI applications by service name; who binds them to sockets is not its business."""

    def __init__(
        self,
        plan: Plan,
        runtime: Runtime,
        sink: Sink,
        *,
        database: str | Database = "",
        synchronous: str = "FULL",
        machines: Machines | None = None,
        image_store: Store | None = None,
    ) -> None:
        self.plan = plan
        self.runtime = runtime
        self.sink = sink
        self.log = Log("kilonova", sink)
        self.conf = config_module.build(OPTIONS, plan.config_files, plan.overrides)
        self.conf.set_default("endpoint_override", plan.url("image"), group="glance")
        if isinstance(database, str):
            database = SQLite(database, runtime, synchronous=synchronous) if database else self._database(synchronous)
        self.db: Database = database
        self.bus = InProcessBus(runtime, self.log.child("bus"))
        self.tasks = Tasks(runtime, self.log)
        self.machines = machines or Machines()
        self.owner = runtime.uuid()
        self.edges: dict[str, Edge | MetadataApp] = {}
        self._policy_file = str(Path(plan.state) / self.conf["oslo_policy"]["policy_file"])
        self._policy_overrides = overrides(self._policy_file)
        self._policy_known: set[str] = set()
        self.took_s: dict[str, float] = {}
        """Seconds that making and starting each service took so far."""
        self.compute_agents: list[ComputeAgent] = []
        self.network_agents: list[NetworkAgent] = []
        self.auth_url = plan.url("identity") + "/v3"
        """Where clients get their tokens."""
        self.identity: IdentityService | None = None
        self._service_token: Any = None
        """Our service user's token, when a contract is bound to REST (ServiceToken)."""
        with self.timed("identity"):
            self.bound_identity: WhoIsWho = self._keystone() if self.conf["keystone_authtoken"].auth_url else self._identity()
            self.authenticate: Authenticate = self.bound_identity.authenticate
        self.image: ImageService | None = None
        self._glance: Any = None
        """Another Glance, when compute is bound to one (RestImages)."""
        if "image" not in plan.services and "compute" in plan.services and self.conf["keystone_authtoken"].username:
            self._glance = self._other_glance()
        if "image" in plan.services:
            self.image = self._image(image_store)
        self.bound_images: Images | None = self.image or self._glance
        self.placement: PlacementService | None = self._placement() if "placement" in plan.services else None
        self.network: NetworkService | None = self._network() if "network" in plan.services else None
        self.metadata: MetadataService | None = None
        self.compute: ComputeService | None = None
        if "compute" in plan.services:
            self.compute = self._compute()
            self.metadata = self._metadata(self.compute)
        self.edges = {name: self.edges[name] for name in PORTS if name in self.edges}
        for name in sorted(set(self._policy_overrides) - self._policy_known):
            self.log.warning("policy file names an unknown rule; it has no effect", file=self._policy_file, rule=name)

    @contextmanager
    def timed(self, service: str) -> Iterator[None]:
        started = self.runtime.monotonic()
        try:
            yield
        finally:
            self.took_s[service] = self.took_s.get(service, 0.0) + self.runtime.monotonic() - started

    def settings(self, options: config_module.Options) -> dict[str, Settings]:
        return {group: config_module.settings(self.conf, options, group) for group in options}

    def policy(self, rules: Sequence[Rule]) -> Policy:
        """A service's rules with what policy.yaml says of them on top."""
        known = {rule.name for rule in rules}
        self._policy_known |= known
        return Policy(rules, {name: check for name, check in self._policy_overrides.items() if name in known})

    def _public(self, service: str) -> str:
        """What links begin with: the Host header's address, unless the cloud has a public name."""
        return self.plan.url(service) if self.plan.public_host else ""

    def _common(self, service: str) -> dict[str, Any]:
        """What every edge but identity's is told."""
        return {"authenticate": self.authenticate, "identity_url": self.auth_url, "public_url": self._public(service)}

    # ---- making

    def _database(self, synchronous: str) -> Database:
        """The one that [database] connection names, or SQLite in the state directory."""
        connection = self.conf["database"]["connection"]
        if not connection:
            return SQLite(str(Path(self.plan.state) / "kilonova.db"), self.runtime, synchronous=synchronous)
        settings = self.settings(DATABASE_OPTIONS)["database"]
        return open_database(connection, self.runtime, self.log.child("database"), settings, synchronous=synchronous)

    def _identity(self) -> IdentityService:
        settings = self.settings(identity_config.OPTIONS)
        service = IdentityService(db=self.db, runtime=self.runtime, log=self.log.child("identity"), settings=settings)
        self.identity = service
        self.edges["identity"] = identity_edge(service, policy=self.policy(IDENTITY_RULES), public_url=self._public("identity"))
        return service

    def _keystone(self) -> WhoIsWho:
        """[keystone_authtoken] auth_url names a Keystone: that one says who is who, and ours is not served."""
        with rest_binding():
            from kilonova.identity.rest import RestIdentity
        settings = config_module.settings(self.conf, identity_config.OPTIONS, "keystone_authtoken")
        bound = RestIdentity(runtime=self.runtime, log=self.log.child("keystone"), settings=settings)
        self.auth_url, self._service_token = bound.public_url, bound.service_token
        return bound

    def _other_glance(self) -> Any:
        """Compute without our image service: the Glance at [glance] endpoint_override, or of the catalog."""
        with rest_binding():
            from kilonova.core.rest import CallerTokens, ServiceToken
            from kilonova.identity.rest import keystone, login
            from kilonova.image.rest import RestImages
        log, callers = self.log.child("glance"), CallerTokens()
        if self._service_token is None:
            settings = config_module.settings(self.conf, identity_config.OPTIONS, "keystone_authtoken")
            self._service_token = ServiceToken(keystone(settings, log, url=self.auth_url), login(settings), self.runtime, log)
        self.authenticate = callers.remembering(self.authenticate, self.runtime)
        override = self.conf["glance"].endpoint_override
        return RestImages(
            runtime=self.runtime,
            log=log,
            settings=config_module.settings(self.conf, image_config.OPTIONS, "glance"),
            url="" if override == self.plan.url("image") else override,
            service_token=self._service_token,
            callers=callers,
        )

    def _image(self, store: Store | None) -> ImageService:
        with self.timed("image"):
            settings = self.settings(image_config.OPTIONS)
            where = settings["glance_store"].filesystem_store_datadir or str(Path(self.plan.state) / "images")
            service = ImageService(
                db=self.db,
                runtime=self.runtime,
                log=self.log.child("image"),
                settings=settings,
                policy=self.policy(IMAGE_RULES),
                data=store or load_store("file", where),
            )
            self.edges["image"] = image_edge(service, **self._common("image"))
        return service

    def _placement(self) -> PlacementService:
        with self.timed("placement"):
            service = PlacementService(
                db=self.db, runtime=self.runtime, log=self.log.child("placement"), settings=self.settings(placement_config.OPTIONS)
            )
            self.edges["placement"] = placement_edge(service, policy=self.policy(PLACEMENT_RULES), **self._common("placement"))
        return service

    def _network(self) -> NetworkService:
        with self.timed("network"):
            service = NetworkService(
                db=self.db,
                runtime=self.runtime,
                log=self.log.child("network"),
                settings=self.settings(network_config.OPTIONS),
                bus=self.bus,
            )
            self.edges["network"] = network_edge(service, policy=self.policy(NETWORK_RULES), **self._common("network"))
            self.network_agents = [
                NetworkAgent(
                    host=host,
                    driver=self._dataplane(host, i),
                    bus=self.bus,
                    runtime=self.runtime,
                    log=service.log,
                    vtep_ip=vtep(i),
                    report_interval_s=service.settings["network_agent"].report_interval,
                    resync_interval_s=service.settings["network_agent"].resync_interval,
                )
                for i, host in enumerate(self.hosts())
            ]
        return service

    def _compute(self) -> ComputeService:
        if self.bound_images is None or self.placement is None or self.network is None:
            raise config_module.ConfigError(
                "compute needs image, placement and network; add them to --services (for another Glance: [keystone_authtoken] username)."
            )
        with self.timed("compute"):
            settings = self.settings(compute_config.OPTIONS)
            service = ComputeService(
                api_db=self.db,
                cell_db=self.db,
                runtime=self.runtime,
                log=self.log.child("compute"),
                settings=settings,
                bus=self.bus,
                identity=self.bound_identity,
                placement=self.placement,
                network=self.network,
                images=self.bound_images,
                owner=self.owner,
            )
            register_compute(service)
            self.edges["compute"] = compute_edge(service, policy=self.policy(COMPUTE_RULES), **self._common("compute"))
            self.compute_agents = [
                ComputeAgent(
                    host=host,
                    driver=self._hypervisor(host, settings),
                    bus=self.bus,
                    runtime=self.runtime,
                    log=service.log,
                    fetch=self._fetch,
                    store=self._store,
                    builds=settings["DEFAULT"].max_concurrent_builds,
                )
                for host in self.hosts()
            ]
        return service

    def _metadata(self, compute: ComputeService) -> MetadataService:
        """Guests always have it; its HTTP face for signing proxies is the service `metadata`."""
        assert self.network is not None
        with self.timed("metadata"):
            service = MetadataService(
                compute=compute,
                network=self.network,
                runtime=self.runtime,
                log=self.log.child("metadata"),
                settings=self.settings(metadata_config.OPTIONS),
            )
            if "metadata" in self.plan.services:
                self.edges["metadata"] = MetadataApp(service)
        return service

    def hosts(self) -> list[str]:
        return [f"host-{i + 1}" for i in range(self.plan.hosts)] if self.plan.driver == "fake" else [self.plan.node]

    def namespace(self, host: str) -> str:
        """The network namespace that stands for a host: its taps, bridges and guests live there."""
        return f"kn-{self.plan.cloud_id}-{host}"

    def _hypervisor(self, host: str, settings: dict[str, Settings]) -> Hypervisor:
        if self.plan.driver == "fake":
            return Fake(FakeConfig(hypervisor_hostname=host), host=self.machines.of(host), sleep=self.runtime.sleep)
        plugins.load("kilonova.compute.driver", self.plan.driver, HYPERVISORS)
        from kilonova.compute.drivers.libvirt import Libvirt, LibvirtConfig

        libvirt = settings["libvirt"]
        return Libvirt(
            LibvirtConfig(
                state_folder=Path(self.plan.state),
                hypervisor_hostname=host,
                connection_uri=libvirt.connection_uri,
                virt_type=libvirt.virt_type,
                cpu_model=libvirt.cpu_model,
                network_namespace=self.namespace(host),
            )
        )

    def _dataplane(self, host: str, number: int) -> Dataplane:
        if self.plan.driver == "fake":
            return FakeDriver(host=host, sleep=self.runtime.sleep)
        from kilonova.network.drivers.linux.config import LinuxConfig, PhysicalNetwork, Underlay
        from kilonova.network.drivers.linux.driver import LinuxDriver

        gateway = PhysicalNetwork(name="public", address="203.0.113.1/24" if number == 0 else None)
        config = LinuxConfig(
            host_namespace=self.namespace(host),
            vtep_ip=vtep(number),
            underlay=Underlay(namespace=f"kn-{self.plan.cloud_id}-net"),
            physical_networks=(gateway,),
        )
        return LinuxDriver(config, self._guest_asks)

    async def _guest_asks(self, request: MetadataRequest) -> MetadataReply:
        """A guest's request to 169.254.169.254."""
        if self.metadata is None:
            return MetadataReply(status=503)
        return await self.metadata.handle(request)

    async def _fetch(self, image_id: str, path: str) -> None:
        """An image's bytes into a file: a copy within this machine, else in pieces through the contract."""
        assert self.bound_images is not None
        ctx = service_context("compute")
        if self._glance is not None:
            await self._glance.download(ctx, image_id, path)
            return
        local = await self.bound_images.local_path(ctx, image_id)
        if local is not None:
            await self.runtime.blocking(files.copy, local, path, pool="image-fetch")
            return
        at = 0
        while piece := await self.bound_images.read(ctx, image_id, at, 4 << 20):
            await self.runtime.blocking(files.write_at, path, at, piece, pool="image-fetch")
            at += len(piece)

    async def _store(self, image_id: str, path: str) -> None:
        """A file's bytes into an image that waits for them."""
        assert self.bound_images is not None
        await self.bound_images.write(service_context("compute"), image_id, path)

    # ---- lifetime

    async def create_tables(self) -> None:
        """What is missing of every service of this process, and what newer releases have added. Raises TooOld."""
        mine = {
            "identity": self.identity, "image": self.image, "placement": self.placement, "network": self.network, "compute": self.compute,
        }  # fmt: skip
        for told in await schema.sync(self.db, [h for name, service in mine.items() if service is not None for h in HISTORIES[name]]):
            self.log.info(f"database: {told}")

    async def start(self, passwords: Mapping[str, str]) -> None:
        """passwords: of the users that a new cloud gets (admin, demo). Later starts leave users alone."""
        await self.create_tables()
        entries = [ServiceEntry(*CATALOG[name][:3], self.plan.url(name) + CATALOG[name][3]) for name in self.edges if name in CATALOG]
        with self.timed("identity"):
            if self.identity is not None:
                await self.identity.bootstrap(passwords_by_user=passwords, entries=entries, region=self.plan.region)
            await self.bound_identity.start()
        for name, simple in (("image", self.image), ("placement", self.placement)):
            if simple is not None:
                with self.timed(name):
                    await simple.start()
        if self.network is not None:
            with self.timed("network"):
                await self.network.start()
                await self.network.bootstrap(project_id=await self.bound_identity.project_id("admin"))
                for network_agent in self.network_agents:
                    await network_agent.start()
        if self.compute is not None:
            if self._glance is not None:
                vars(self.compute.settings["glance"])["endpoint_override"] = await self._glance.url()  # links to images begin with it
            with self.timed("compute"):
                await self.compute.start()
                for agent in self.compute_agents:
                    await agent.start()
                await self.compute.recover()
                heart = Heart(self.compute_agents, self.bus, self.compute.settings["DEFAULT"].report_interval)
                self.tasks.every("heartbeat of hypervisors", heart.interval_s, heart.beat)

    async def destroy(self) -> None:
        """Remove the guests and the dataplane of this host; called before `stop` when the cloud is to be forgotten."""
        for agent in self.compute_agents:
            for guest in await agent.driver.list_guests():
                await agent.driver.destroy(guest.server_id)
        for network_agent in self.network_agents:
            await network_agent.driver.teardown()

    async def stop(self) -> None:
        """In the order that nobody misses whom he needs; guests and dataplane live on."""
        await self.tasks.stop()
        if self.compute is not None:
            await self.compute.stop()
        for agent in self.compute_agents:
            await agent.stop()
        for network_agent in self.network_agents:
            await network_agent.stop()
        for service in (self.network, self.placement, self.image or self._glance, self.bound_identity):
            if service is not None:
                await service.stop()
        if self._service_token is not None:
            await self._service_token.close()
        await self.bus.stop()
        await self.db.stop()
        self.runtime.close()
