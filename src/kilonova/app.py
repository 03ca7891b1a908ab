"""The composition root: the one module that knows every service and wires them. Nothing imports it but `cli` and `testing`."""

from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import msgspec

from kilonova.compute import config as compute_config
from kilonova.compute.cell_opening import opener
from kilonova.compute.edge import edge as compute_edge
from kilonova.compute.ops.register import register as register_compute
from kilonova.compute.policies import RULES as COMPUTE_RULES
from kilonova.compute.rpc import HostClaim, ReadPiece, StoreImage
from kilonova.compute.service import CONDUCTORS, ComputeService
from kilonova.compute.store import fitness
from kilonova.compute.store.migrations.api import HISTORY as COMPUTE_API_TABLES
from kilonova.compute.store.migrations.cell import HISTORY as COMPUTE_CELL_TABLES
from kilonova.core import config as config_module
from kilonova.core import files
from kilonova.core.binding import serve, stub
from kilonova.core.bus import Bus, InProcessBus
from kilonova.core.bus.config import OPTIONS as BUS_OPTIONS
from kilonova.core.bus.config import rabbit_options
from kilonova.core.bus.notifications import notifier
from kilonova.core.config import Settings
from kilonova.core.context import service_context
from kilonova.core.db import Database, schema
from kilonova.core.db.config import DATABASE_OPTIONS
from kilonova.core.db.opening import open_database
from kilonova.core.db.sqlite import SQLite
from kilonova.core.db.url import masked
from kilonova.core.edge import Authenticate, Edge
from kilonova.core.log import Log, Sink
from kilonova.core.policy import POLICY_OPTIONS, Policy, Rule, overrides
from kilonova.core.runtime import Runtime
from kilonova.core.tasks import Tasks
from kilonova.hypervisor import IMAGE_STORE, METADATA, PIECE, Hypervisors, Machines, ReachOverBus, fetch_in_pieces
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
from kilonova.network.contract import Network, ServerOfAddress
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
from kilonova.plan import CONDUCTOR, PORTS, Plan

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
    BUS_OPTIONS,
)
NEED_PLACEMENT = {"placement", "compute", CONDUCTOR}
NEED_COMPUTE = {"compute", "metadata", CONDUCTOR}
BROKER_WAIT_S = 15.0

HISTORIES = {
    "identity": (IDENTITY_TABLES,),
    "image": (IMAGE_TABLES,),
    "placement": (PLACEMENT_TABLES,),
    "network": (NETWORK_TABLES,),
    "compute": (COMPUTE_API_TABLES, COMPUTE_CELL_TABLES),
}
"""The tables of each service, in the order that they are made and copied in."""


@contextmanager
def rest_binding() -> Iterator[None]:
    """Around the imports that only a binding to REST needs. Raises ConfigError when they are not installed."""
    try:
        yield
    except ModuleNotFoundError as error:
        raise config_module.ConfigError(f"[keystone_authtoken] needs the package {error.name}: pip install 'kilonova[rest]'.") from None


class WhoIsWho(Identity, Protocol):
    """Identity as the composition root sees it, whoever answers: our own service or another Keystone."""

    async def start(self) -> None: ...

    async def stop(self) -> None: ...

    async def project_id(self, name: str) -> str: ...


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
        self.api_db: Database = self._api_database()
        """Of compute's api side."""
        self.embedded = not self.conf["transport_url"]
        """One process has everything: its database and its bus are its own."""
        self.judge: Any = None
        """Of what joined hosts say, where there is a broker (Judge)."""
        self.broker: Any = None if self.embedded else self._broker()
        """The bus, where it is one over a broker (RabbitBus)."""
        self.bus: Bus = self.broker or InProcessBus(runtime, self.log.child("bus"))
        self.tasks = Tasks(runtime, self.log)
        self.owner = runtime.uuid()
        self.edges: dict[str, Edge | MetadataApp] = {}
        self._policy_file = str(Path(plan.state) / self.conf["oslo_policy"]["policy_file"])
        self._policy_overrides = overrides(self._policy_file)
        self._policy_known: set[str] = set()
        self.took_s: dict[str, float] = {}
        """Seconds that making and starting each service took so far."""
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
        serves = {*plan.services, *((CONDUCTOR,) if plan.conducts and not self.embedded else ())}
        self.placement: PlacementService | None = self._placement() if serves & NEED_PLACEMENT else None
        self.network: NetworkService | None = self._network() if "network" in plan.services else None
        self.bound_images: Images | None = self.image or self._glance
        self.bound_network: Network | None = self.network
        if not self.embedded:
            self.bound_images = self.bound_images or stub(Images, self.bus, "image")
            self.bound_network = self.bound_network or stub(Network, self.bus, "network")
        self.metadata: MetadataService | None = None
        self.compute: ComputeService | None = None
        if "compute" in serves or (serves & NEED_COMPUTE and not self.embedded):
            self.compute = self._compute()
            self.metadata = self._metadata(self.compute)
        self.hypervisors = self._hypervisors(machines)
        self.compute_agents, self.network_agents = self.hypervisors.compute_agents, self.hypervisors.network_agents
        here = {"identity", *plan.services} if self.embedded else set(plan.services)
        self.edges = {name: self.edges[name] for name in PORTS if name in self.edges and name in here}
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

    def _api_database(self) -> Database:
        """The one that [api_database] connection names, when cells have databases of their own; else the one for all."""
        connection = self.conf["api_database"]["connection"]
        if not connection:
            return self.db
        return open_database(connection, self.runtime, self.log.child("api_database"), self.settings(DATABASE_OPTIONS)["database"])

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
                exclusive=self.embedded,
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
                exclusive=self.embedded,
            )
            self.edges["network"] = network_edge(service, policy=self.policy(NETWORK_RULES), **self._common("network"))
        return service

    def _compute(self) -> ComputeService:
        if self.bound_images is None or self.placement is None or self.bound_network is None:
            raise config_module.ConfigError(
                "compute needs image, placement and network; add them to --services (for another Glance: [keystone_authtoken] username)."
            )
        with self.timed("compute"):
            settings = self.settings(compute_config.OPTIONS)
            service = ComputeService(
                api_db=self.api_db,
                cell_db=self.db if self.api_db is self.db else None,
                open_cell=opener(
                    runtime=self.runtime,
                    log=self.log.child("cells"),
                    api_db=self.api_db,
                    database=self.settings(DATABASE_OPTIONS)["database"],
                    messaging=self.settings(BUS_OPTIONS),
                    node=self.plan.node,
                    admit=self.judge.admit if self.judge else None,
                    judge=self.judge.judge if self.judge else None,
                ),
                runtime=self.runtime,
                log=self.log.child("compute"),
                settings=settings,
                bus=self.bus,
                identity=self.bound_identity,
                placement=self.placement,
                network=self.bound_network,
                images=self.bound_images,
                owner=self.owner,
                exclusive=self.embedded,
                conducts=self.plan.conducts or self.embedded,
                node=self.plan.node,
            )
            service.notifier = notifier(self.settings(BUS_OPTIONS), self.broker, self.runtime, self.log.child("notifications"))
            register_compute(service)
            self.edges["compute"] = compute_edge(service, policy=self.policy(COMPUTE_RULES), **self._common("compute"))
        return service

    def _metadata(self, compute: ComputeService) -> MetadataService:
        """Guests always have it; its HTTP face for signing proxies is the service `metadata`."""
        assert self.bound_network is not None
        with self.timed("metadata"):
            service = MetadataService(
                compute=compute,
                network=self.bound_network,
                runtime=self.runtime,
                log=self.log.child("metadata"),
                settings=self.settings(metadata_config.OPTIONS),
            )
            if "metadata" in self.plan.services:
                self.edges["metadata"] = MetadataApp(service)
        return service

    def _broker(self) -> Bus:
        from kilonova.admission import Judge
        from kilonova.core.bus.rabbitmq import RabbitBus

        options = rabbit_options(self.settings(BUS_OPTIONS))
        judge = self.judge = Judge(WhatIsKnown(self), self.runtime)
        return RabbitBus(options, self.runtime, self.log.child("bus"), name=self.plan.node, admit=judge.admit, judge=judge.judge)

    def _hypervisors(self, machines: Machines | None) -> Hypervisors:
        """The hosts of this process. In a cloud that is one process they have no agents for services that are not there."""
        plan = self.plan
        if self.embedded and self.network is None:
            plan = msgspec.structs.replace(plan, runs_guests=False)
        guests = not self.embedded or self.compute is not None
        settings = {**self.settings(network_config.OPTIONS), **self.settings(compute_config.OPTIONS)}
        reach = ReachInProcess(self) if self.embedded else ReachOverBus(self.bus, self.runtime, self.plan.node)
        return Hypervisors(plan, self.runtime, self.log, self.bus, settings, reach, machines=machines, guests=guests)

    def _broker_is_back(self) -> None:
        """Who waited for it need not wait any longer."""
        if self.network is not None:
            self.tasks.start("network after an outage of the broker", self.network.broker_is_back())
        if self.compute is not None and self.compute.conducts:
            self.tasks.start("operations after an outage of the broker", self.compute.broker_is_back())
        self.hypervisors.broker_is_back()

    def _serve(self) -> None:
        """What other processes ask of the services of this one."""
        services = self.plan.services
        if self.image is not None and "image" in services:
            serve(self.bus, "image", Images, self.image)
            self.bus.serve(IMAGE_STORE, {StoreImage: self._store_image})
        if self.network is not None:
            serve(self.bus, "network", Network, self.network)
        if self.metadata is not None and "metadata" in services:
            self.bus.serve(METADATA, {MetadataRequest: self.metadata.handle})

    async def _store_image(self, told: StoreImage) -> None:
        """Fill an image from a file on a hypervisor."""
        assert self.image is not None
        await self.image.write_from(service_context("compute"), told.image_id, self._pieces(told.address))

    async def _pieces(self, address: str) -> AsyncIterator[bytes]:
        at = 0
        while data := (await self.bus.call(address, ReadPiece(offset=at, length=PIECE), 60.0)).data:
            yield data
            at += len(data)

    # ---- lifetime

    async def create_tables(self) -> None:
        """What is missing of every service of this process, and what newer releases have added. Raises TooOld. Where several processes
        share a database they only look (`kilonova db sync` makes them): raises NotMigrated."""
        mine = {
            "identity": self.identity, "image": self.image, "placement": self.placement, "network": self.network, "compute": self.compute,
        }  # fmt: skip
        wanted = [h for name, service in mine.items() if service is not None for h in HISTORIES[name]]
        places = [(self.db, wanted)]
        if self.api_db is not self.db:
            places = [(self.db, [h for h in wanted if h not in HISTORIES["compute"]]), (self.api_db, [COMPUTE_API_TABLES])]
            found = await fitness.look(self.api_db)
            wrong = fitness.wrong_api(found, masked(self.conf["api_database"]["connection"]))
            if wrong and not (self.embedded and found.empty):
                raise config_module.ConfigError(wrong)
        for db, histories in places:
            if not self.embedded:
                await schema.check(db, histories)
                continue
            for told in await schema.sync(db, histories):
                self.log.info(f"database: {told}")

    async def start(self, passwords: Mapping[str, str]) -> None:
        """passwords: of the users that a new cloud gets (admin, demo). Later starts leave users alone."""
        await self.create_tables()
        if not self.embedded:
            await self.broker.start(BROKER_WAIT_S)
        entries = [ServiceEntry(*CATALOG[name][:3], self.plan.url(name) + CATALOG[name][3]) for name in self.edges if name in CATALOG]
        with self.timed("identity"):
            if "identity" in self.edges and self.identity is not None:
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
        with self.timed("network"):
            await self.hypervisors.start_networks()
        if self.compute is not None:
            if self._glance is not None:
                vars(self.compute.settings["glance"])["endpoint_override"] = await self._glance.url()  # links to images begin with it
            with self.timed("compute"):
                await self.compute.start()
        if self.broker is not None:
            self._serve()
            self.broker.when_back(self._broker_is_back)
        with self.timed("compute"):
            await self.hypervisors.start_guests()
            if self.compute is not None and self.compute.conducts:
                await self.compute.recover()
            self.hypervisors.start_heart()

    async def destroy(self) -> None:
        """Remove the guests and the dataplane of this process's hosts; called before `stop` when the cloud is to be forgotten."""
        await self.hypervisors.destroy()

    async def retire(self, limit_s: float) -> None:
        """Before `stop`, where there are other processes: take no more calls from them, and let those that run end."""
        if self.broker is not None:
            if self.network is not None:
                await self.network.retire()
            await self.broker.retire(limit_s)

    async def stop(self) -> None:
        """In the order that nobody misses whom he needs; guests and dataplane live on."""
        await self.tasks.stop()
        if self.compute is not None:
            await self.compute.stop()
        await self.hypervisors.stop()
        for service in (self.network, self.placement, self.image or self._glance, self.bound_identity):
            if service is not None:
                await service.stop()
        if self._service_token is not None:
            await self._service_token.close()
        await self.bus.stop()
        if self.api_db is not self.db:
            await self.api_db.stop()
        await self.db.stop()
        self.runtime.close()


class WhatIsKnown:
    """What admission asks, from here where it is known here, else from those who know."""

    def __init__(self, cloud: Cloud) -> None:
        self._cloud = cloud

    async def holds(self, claim: HostClaim) -> bool:
        compute = self._cloud.compute
        if compute is not None:
            return await compute.holds(claim)
        return bool((await self._cloud.bus.call(CONDUCTORS, claim, 30.0)).holds)

    async def server_of(self, *, ip: str, network_id: str | None, router_id: str | None) -> ServerOfAddress | None:
        assert self._cloud.bound_network is not None
        return await self._cloud.bound_network.server_of(service_context("metadata"), ip=ip, network_id=network_id, router_id=router_id)

    async def joined_from(self, host: str) -> str | None:
        from kilonova.compute.store import joins

        joined = await joins.host(self._cloud.api_db, host)
        return joined.my_ip if joined is not None else None

    def host_with_tunnels_at(self, vtep_ip: str) -> str:
        network = self._cloud.network
        return next((host for host, known in network.topology.vteps.items() if known == vtep_ip), "") if network and vtep_ip else ""


class ReachInProcess:
    """The rest of the cloud from a hypervisor in the same process."""

    def __init__(self, cloud: Cloud) -> None:
        self._cloud = cloud

    async def fetch(self, image_id: str, path: str) -> None:
        """A copy within this machine, else in pieces through the contract."""
        cloud = self._cloud
        assert cloud.bound_images is not None
        ctx = service_context("compute")
        if cloud._glance is not None:
            await cloud._glance.download(ctx, image_id, path)
            return
        local = await cloud.bound_images.local_path(ctx, image_id)
        if local is not None:
            await cloud.runtime.blocking(files.copy, local, path, pool="image-fetch")
        else:
            await fetch_in_pieces(cloud.bound_images.read, image_id, path, cloud.runtime)

    async def store(self, image_id: str, path: str) -> None:
        assert self._cloud.bound_images is not None
        await self._cloud.bound_images.write(service_context("compute"), image_id, path)

    async def ask_metadata(self, request: MetadataRequest) -> MetadataReply:
        if self._cloud.metadata is None:
            return MetadataReply(status=503)
        return await self._cloud.metadata.handle(request)
