"""The composition root: the one module that knows every service and wires them. Nothing imports it but `cli` and `testing`."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec

from kilonova.core import config as config_module
from kilonova.core.bus import InProcessBus
from kilonova.core.config import Settings
from kilonova.core.db import SQLite
from kilonova.core.edge import Edge
from kilonova.core.log import Log, Sink
from kilonova.core.policy import Policy
from kilonova.core.runtime import Runtime
from kilonova.core.tasks import Tasks
from kilonova.identity import config as identity_config
from kilonova.identity import policies as identity_policies
from kilonova.identity.domain.bootstrap import ServiceEntry
from kilonova.identity.envelope import IdentityEnvelope
from kilonova.identity.routes import ROUTES as IDENTITY_ROUTES
from kilonova.identity.service import IdentityService

PORTS = {"identity": 5000, "image": 9292, "placement": 8778, "compute": 8774, "metadata": 8775, "network": 9696}
CATALOG = {
    "identity": ("identity", "keystone", "Identity", "/v3"),
    "image": ("image", "glance", "Image", ""),
    "placement": ("placement", "placement", "Placement", ""),
    "compute": ("compute", "nova", "Compute", "/v2.1"),
    "network": ("network", "neutron", "Network", ""),
}
OPTIONS: tuple[config_module.Options, ...] = (identity_config.OPTIONS,)


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
    region: str = "RegionOne"
    config_files: tuple[str, ...] = ()
    overrides: Mapping[tuple[str, str], Any] = {}
    scheme: str = "http"

    def url(self, service: str) -> str:
        return f"{self.scheme}://{self.public_host or self.host}:{PORTS[service] + self.port_offset}"


class Cloud:
    """Every service of one process. `edges` are ASGI applications by service name; who binds them to sockets is not its business."""

    def __init__(self, plan: Plan, runtime: Runtime, sink: Sink, *, database: str = "", synchronous: str = "FULL") -> None:
        self.plan = plan
        self.runtime = runtime
        self.sink = sink
        self.log = Log("kilonova", sink)
        self.conf = config_module.build(OPTIONS, plan.config_files, plan.overrides)
        self.db = SQLite(database or str(Path(plan.state) / "kilonova.db"), runtime, synchronous=synchronous)
        self.bus = InProcessBus(runtime, self.log.child("bus"))
        self.tasks = Tasks(runtime, self.log)
        self.edges: dict[str, Edge] = {}
        self.took_s: dict[str, float] = {}
        """Seconds that making and starting each service took so far."""
        self.identity = IdentityService(
            db=self.db, runtime=runtime, log=self.log.child("identity"), settings=self.settings(identity_config.OPTIONS)
        )
        self._identity_edge()

    @contextmanager
    def timed(self, service: str) -> Iterator[None]:
        started = self.runtime.monotonic()
        try:
            yield
        finally:
            self.took_s[service] = self.took_s.get(service, 0.0) + self.runtime.monotonic() - started

    def settings(self, options: config_module.Options) -> dict[str, Settings]:
        return {group: config_module.settings(self.conf, options, group) for group in options}

    def _policy(self, rules: Sequence[Any]) -> Policy:
        return Policy(rules)

    def _identity_edge(self) -> None:
        self.edges["identity"] = Edge(
            name="identity",
            service=self.identity,
            routes=IDENTITY_ROUTES,
            envelope=IdentityEnvelope(),
            runtime=self.runtime,
            log=self.identity.log,
            policy=self._policy(identity_policies.RULES),
            authenticate=self.identity.authenticate,
            extra_headers={"vary": "X-Auth-Token"},
            paths_first=True,
        )

    def metadatas(self) -> list[Any]:
        """The tables of every service of this process (SQLAlchemy's MetaData)."""
        return [self.identity.metadata]

    async def create_tables(self) -> None:
        for metadata in self.metadatas():
            await self.db.create(metadata)

    async def start(self, passwords: Mapping[str, str]) -> None:
        """passwords: of the users that a new cloud gets (admin, demo). Later starts leave users alone."""
        await self.create_tables()
        entries = [ServiceEntry(*CATALOG[name][:3], self.plan.url(name) + CATALOG[name][3]) for name in self.edges if name in CATALOG]
        with self.timed("identity"):
            await self.identity.bootstrap(passwords_by_user=passwords, entries=entries, region=self.plan.region)
            await self.identity.start()

    async def destroy(self) -> None:
        """Remove the guests and the dataplane of this host; called before `stop` when the cloud is to be forgotten."""

    async def stop(self) -> None:
        await self.identity.stop()
        await self.tasks.stop()
        await self.bus.stop()
        await self.db.stop()
        self.runtime.close()
