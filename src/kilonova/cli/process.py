"""The process that a cloud runs in: from its settled choices to ready APIs, then waiting for a signal, then the end in order."""

import asyncio
import os
import ssl
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import uvloop

from kilonova import __version__
from kilonova.app import Cloud
from kilonova.cli import credentials, forget, tls
from kilonova.cli.checks.machine import kvm_verdict
from kilonova.cli.failure import Failure
from kilonova.cli.lifetime import Lifetime, Tell
from kilonova.cli.settle import Settled, driver_for, kilonova_conf
from kilonova.cli.state import StateDir
from kilonova.compute.drivers.fake.journal import GuestJournal
from kilonova.core import config
from kilonova.core.server import GRACE_S, HttpServer, bind
from kilonova.hypervisor import Machines
from kilonova.identity.config import OPTIONS as IDENTITY_OPTIONS
from kilonova.plan import CONDUCTOR, HYPERVISOR, PORTS, ROLES, Plan

READY_S = 60.0
NEEDS_DRIVER = ("compute", "network")


class Serving(msgspec.Struct, frozen=True, kw_only=True):
    """One API of a running cloud, as run/ports.json has it."""

    url: str
    host: str
    port: int


def services_of(settled: Settled) -> tuple[str, ...]:
    """In the order they start; identity is always among those of a cloud that is one process. Raises Failure."""
    known = ROLES if settled.broker else tuple(PORTS)
    unknown = [name for name in settled.services if name not in known]
    if unknown and unknown[0] in ROLES:
        raise Failure(
            f"The role {unknown[0]} is for clouds of several processes.",
            "Name the broker ([DEFAULT] transport_url) and the database ([database] connection) in the configuration file.",
        )
    if unknown:
        raise Failure(f"There is no service {unknown[0]}.", f"There are {', '.join(known)}.", code=2)
    if settled.broker:
        return tuple(name for name in PORTS if name in settled.services)
    wanted = {"identity", *settled.services} if settled.services else set(PORTS)
    return tuple(name for name in PORTS if name in wanted)


def other_keystone(files: Sequence[str]) -> bool:
    """Whether another Keystone has the users, so that there are no passwords of ours."""
    return bool(files) and bool(config.build([IDENTITY_OPTIONS], files)["keystone_authtoken"].auth_url)


class Process(Lifetime):
    def __init__(self, settled: Settled, state: StateDir, tell: Tell) -> None:
        super().__init__(settled, state, tell)
        self.services = services_of(settled)
        self.driver = "fake"
        self.runs_guests = HYPERVISOR in settled.services if settled.broker else any(name in NEEDS_DRIVER for name in self.services)
        if self.runs_guests:
            self.driver = driver_for(settled.driver, state.mark)
            hosts = settled.hosts or state.mark.hosts
            if hosts > 1 and self.driver != "fake":
                raise Failure("--hosts makes fake hypervisors.", "Use it with `--driver fake`.")
            self.state.remember(driver=self.driver, hosts=hosts)
        self.tls = self._tls()
        self.warnings: list[str] = []
        self.passwords: Mapping[str, str] = {}
        if not other_keystone(settled.config):
            self.passwords, warnings = credentials.passwords(state, new=not state.mark.begun)
            self.warnings += warnings
        for variable in credentials.VARIABLES.values():
            os.environ.pop(variable, None)  # what we start later has no use for it
        scheme = "https" if self.tls else "http"
        self.plan = Plan(
            state=str(state.path),
            cloud_id=state.mark.id,
            host=settled.bind,
            public_host=settled.public_host,
            port_offset=settled.port_offset,
            services=self.services,
            driver=self.driver,
            hosts=state.mark.hosts,
            region=settled.region,
            config_files=settled.config,
            scheme=scheme,
            conducts=CONDUCTOR in settled.services or not settled.broker,
            runs_guests=self.runs_guests,
            node=settled.node,
            my_ip=settled.my_ip,
        )
        self.servers: dict[str, HttpServer] = {}
        self.joins: Any = None
        """Answers machines that join (JoinServer)."""

    def _tls(self) -> tuple[str, str] | None:
        settled = self.settled
        if settled.tls_cert or settled.tls_key:
            return tls.checked(settled.tls_cert, settled.tls_key)
        if settled.bind in ("127.0.0.1", "::1") or settled.bind.startswith("127.") or settled.insecure:
            return None
        return tls.generated(self.state, settled.bind, settled.public_host)

    # ---- life

    async def run(self, ready: Callable[[], None]) -> None:
        """Until SIGTERM or SIGINT. Raises Failure when the cloud does not come up; then nothing is left running."""
        runtime = self.begin()
        cloud: Cloud | None = None
        try:
            try:
                cloud = Cloud(self.plan, runtime, self.sink, machines=self._machines())
                await self._start(cloud)
            except Exception as error:
                raise self.failed(error) from error
            ready()
            self._settle_down()
            await self.ended.wait()
        finally:
            await self._end(cloud)

    def _machines(self) -> Machines | None:
        """Fake guests outlive this process, as real ones do."""
        return fake_machines(self.state) if self.driver == "fake" and self.runs_guests else None

    async def _start(self, cloud: Cloud) -> None:
        loop = asyncio.get_running_loop()
        grace_s = self.settled.grace_s if self.settled.broker else GRACE_S
        listeners = {name: bind(self.plan.host, PORTS[name] + self.plan.port_offset, name) for name in cloud.edges if name in self.services}
        for name, listener in listeners.items():
            cert, key = self.tls or (None, None)
            self.servers[name] = HttpServer(cloud.edges[name], listener, ssl_certfile=cert, ssl_keyfile=key, grace_s=grace_s)
        self._write_files(cloud)
        await self._unless_stopped(cloud.start(self.passwords))
        for name, server in self.servers.items():
            started = loop.time()
            await server.start(self.tasks, name)
            await self._unless_stopped(self._answers(name, server.port))
            took_s = cloud.took_s.get(name, 0.0) + loop.time() - started
            self.tell(f"  {name:<10} {self.plan.url(name):<30} {took_s:6.2f} s")
        await self._answer_joins(cloud)
        self.log.info("the cloud is up", version=__version__, services=list(self.servers), pid=os.getpid())

    async def _answer_joins(self, cloud: Cloud) -> None:
        """Machines may join a cloud with a broker, at its processes of the role compute."""
        if not self.settled.broker or "compute" not in self.services or not cloud.conf["join"].enabled:
            return
        from kilonova.cli.join_server import JoinServer

        self.joins = JoinServer(cloud, self.state, self.tasks)
        await self.joins.start()

    async def _answers(self, name: str, port: int) -> None:
        """Until GET /healthz is answered well. Raises Failure."""
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self.plan.host, self.plan.host)
        context = None
        if self.tls:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        status = "nothing"
        end = asyncio.get_running_loop().time() + READY_S
        while asyncio.get_running_loop().time() < end:
            reader, writer = await asyncio.open_connection(host, port, ssl=context)
            writer.write(f"GET /healthz HTTP/1.1\r\nHost: {self.plan.public_host}\r\nConnection: close\r\n\r\n".encode())
            line = await reader.readline()
            writer.close()
            status = line.decode("latin-1").strip()
            if b" 200" in line or (line and b" 503" not in line):
                return
            await asyncio.sleep(0.05)
        raise Failure(f"{name} is not healthy: it answers {status}.", f"Its log is {self.state.log_file}.")

    def _write_files(self, cloud: Cloud) -> None:
        """No credentials when another Keystone has the users."""
        state, plan = self.state, self.plan
        cacert = Path(self.tls[0]) if self.tls else None
        if cloud.identity is not None:
            credentials.write_all(state, auth_url=cloud.auth_url, region=plan.region, passwords_by_user=self.passwords, cacert=cacert)
        state.remember(begun=True)
        chosen = kilonova_conf(self.settled, state=state.path, driver=self.driver, services=self.services, tls=self.tls)
        state.write("kilonova.conf", chosen)
        ports = {name: Serving(url=plan.url(name), host=plan.host, port=server.port) for name, server in self.servers.items()}
        state.write("run/ports.json", msgspec.json.format(msgspec.json.encode(ports)).decode() + "\n")

    async def _end(self, cloud: Cloud | None) -> None:
        """A failing step is logged and does not keep the next from being done."""
        steps: list[tuple[str, Callable[[], Awaitable[object]]]] = [("http", self._stop_serving)]
        steps += [("joins", self.joins.stop)] if self.joins is not None else []
        if cloud is not None:
            steps += [("destroy", cloud.destroy)] if self.state.mark.ephemeral else []
            steps += [("calls of other processes", lambda: cloud.retire(self.settled.grace_s)), ("services", cloud.stop)]
        for name, step in [*steps, ("tasks", self.tasks.stop)]:
            try:
                await step()
            except Exception as error:
                self.log.error("stopping failed", step=name, error=error)
        self.close_log()

    async def _stop_serving(self) -> None:
        """All at once, since each lets its requests end. Where there are other processes, clients get the time to find them."""
        drain_s = self.settled.drain_s if self.settled.broker and self.ended.is_set() else 0.0
        outcomes = await asyncio.gather(*(server.stop(drain_s) for server in self.servers.values()), return_exceptions=True)
        for outcome in outcomes:
            if isinstance(outcome, BaseException):
                raise outcome


def fake_machines(state: StateDir) -> Machines:
    return Machines(GuestJournal(state.path / "instances" / "fake-guests.jsonl"))


def run_cloud(settled: Settled, state: StateDir, tell: Tell, ready: Callable[[Sequence[str], Mapping[str, str]], None]) -> None:
    """Serve until a signal. The lock on the state must be ours; `ready` gets standing warnings and URLs by service."""
    process = Process(settled, state, tell)

    def up() -> None:
        ready(standing_warnings(process), {name: process.plan.url(name) for name in process.servers})

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(process.run(up))
    if state.mark.ephemeral:
        forget.forget(state)


def standing_warnings(process: Process) -> list[str]:
    out = list(process.warnings)
    if process.settled.config:
        from kilonova.cli.config import unknown_in

        out += [sentence for file in process.settled.config for sentence in unknown_in(file)]
    if process.tls and process.tls[0].startswith(str(process.state.path)):
        out.append(f"The certificate is self-signed; clients need {process.tls[0]} (clouds.yaml and the openrc files name it).")
    if process.settled.insecure and process.settled.bind not in ("127.0.0.1", "::1"):
        out.append(f"Passwords and tokens cross the network to {process.settled.bind} unencrypted, as --insecure asks.")
    if process.state.mark.ephemeral:
        out.append("Ephemeral: everything is forgotten when this cloud ends.")
    kvm = kvm_verdict() if process.driver == "libvirt" and "compute" in process.servers else ""
    if kvm:
        out.append(f"Guests run emulated, which is slow: {kvm}.")
    if process.driver == "fake" and process.runs_guests:
        out.append("Guests and networks are fake (--driver fake).")
    return out
