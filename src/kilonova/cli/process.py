"""The process that a cloud runs in: from its settled choices to ready APIs, then waiting for a signal, then the end in order."""

import asyncio
import contextlib
import ctypes
import gc
import os
import signal
import sqlite3
import ssl
import time
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

import msgspec
import uvloop

from kilonova import __version__
from kilonova.app import Cloud
from kilonova.cli import credentials, forget, tls
from kilonova.cli.checks.machine import kvm_verdict
from kilonova.cli.failure import Failure, plain
from kilonova.cli.settle import Settled, driver_for, kilonova_conf
from kilonova.cli.state import StateDir
from kilonova.compute.drivers.fake.journal import GuestJournal
from kilonova.core import config, errors
from kilonova.core.config import ConfigError
from kilonova.core.db import Lost
from kilonova.core.log import Log, Sink
from kilonova.core.plugins import UnknownPlugin
from kilonova.core.runtime import Runtime
from kilonova.core.server import HttpServer, PortTaken, bind
from kilonova.core.tasks import Tasks
from kilonova.hypervisor import Machines
from kilonova.identity.config import OPTIONS as IDENTITY_OPTIONS
from kilonova.plan import PORTS, Plan

Tell = Callable[[str], None]
"""Shows a line to whoever started the cloud."""

LOG_BYTES = 32 << 20
LOGS_KEPT = 3
FLUSH_S = 1.0
IDLE_CHECK_S = 15.0
IDLE_CPU = 0.05
READY_S = 60.0
NEEDS_DRIVER = ("compute", "network")


class Serving(msgspec.Struct, frozen=True, kw_only=True):
    """One API of a running cloud, as run/ports.json has it."""

    url: str
    host: str
    port: int


def services_of(settled: Settled) -> tuple[str, ...]:
    """In the order they start; identity is always among them. Raises Failure."""
    unknown = [name for name in settled.services if name not in PORTS]
    if unknown:
        raise Failure(f"There is no service {unknown[0]}.", f"There are {', '.join(PORTS)}.", code=2)
    wanted = {"identity", *settled.services} if settled.services else set(PORTS)
    return tuple(name for name in PORTS if name in wanted)


def other_keystone(files: Sequence[str]) -> bool:
    """Whether another Keystone has the users, so that there are no passwords of ours."""
    return bool(files) and bool(config.build([IDENTITY_OPTIONS], files)["keystone_authtoken"].auth_url)


class Process:
    def __init__(self, settled: Settled, state: StateDir, tell: Tell) -> None:
        self.settled = settled
        self.state = state
        self.tell = tell
        self.services = services_of(settled)
        self.driver = "fake"
        if any(name in NEEDS_DRIVER for name in self.services):
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
        )
        self.servers: dict[str, HttpServer] = {}
        self.ended = asyncio.Event()
        self._signals = 0

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
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            loop.add_signal_handler(number, self._stop)
        runtime = Runtime()
        self.log_stream = self._open_log()
        self.sink = Sink(self.log_stream, "debug" if self.settled.debug else "info", runtime.now_us)
        self.log = Log("kilonova", self.sink)
        self.tasks = Tasks(runtime, self.log)
        cloud: Cloud | None = None
        try:
            try:
                cloud = Cloud(self.plan, runtime, self.sink, machines=self._machines())
                await self._start(cloud)
            except Exception as error:
                failure = failure_of(error, self.state)
                self.log.error("the cloud did not start", reason=failure.message, **({} if failure.expected else {"error": error}))
                raise failure from error
            ready()
            self._settle_down()
            await self.ended.wait()
        finally:
            await self._end(cloud)

    def _machines(self) -> Machines | None:
        """Fake guests outlive this process, as real ones do."""
        compute = self.driver == "fake" and "compute" in self.services
        return Machines(GuestJournal(self.state.path / "instances" / "fake-guests.jsonl")) if compute else None

    def _stop(self) -> None:
        """The first signal ends in order; the third ends at once."""
        self._signals += 1
        self.ended.set()
        if self._signals >= 3:
            os._exit(1)

    async def _start(self, cloud: Cloud) -> None:
        loop = asyncio.get_running_loop()
        listeners = {name: bind(self.plan.host, PORTS[name] + self.plan.port_offset, name) for name in cloud.edges if name in self.services}
        for name, listener in listeners.items():
            cert, key = self.tls or (None, None)
            self.servers[name] = HttpServer(cloud.edges[name], listener, ssl_certfile=cert, ssl_keyfile=key)
        self._write_files(cloud)
        await self._unless_stopped(cloud.start(self.passwords))
        for name, server in self.servers.items():
            started = loop.time()
            await server.start(self.tasks, name)
            await self._unless_stopped(self._answers(name, server.port))
            took_s = cloud.took_s.get(name, 0.0) + loop.time() - started
            self.tell(f"  {name:<10} {self.plan.url(name):<30} {took_s:6.2f} s")
        self.log.info("the cloud is up", version=__version__, services=list(self.servers), pid=os.getpid())

    async def _unless_stopped(self, work: Coroutine[Any, Any, None]) -> None:
        """Wait for a step of the start; a signal ends it."""
        step = asyncio.ensure_future(work)
        stop = asyncio.ensure_future(self.ended.wait())
        try:
            await asyncio.wait({step, stop}, return_when=asyncio.FIRST_COMPLETED)
            if not step.done():
                raise Failure("The start was interrupted.", code=130)
            step.result()
        finally:
            for task in (step, stop):
                if not task.done():
                    task.cancel()
                    with contextlib.suppress(asyncio.CancelledError):
                        await task

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

    def _settle_down(self) -> None:
        """Nothing made so far is garbage; lines reach the disk within a second; memory goes back when there is nothing to do."""
        gc.collect()
        gc.freeze()
        # Requests make many short-lived containers and few cycles: look for cycles less often (a tenth of the CPU of a boot).
        gc.set_threshold(25_000, 20, 50)
        gc.enable()
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:
            trim(0)
        used_s, done = time.process_time(), False

        async def flush() -> None:
            self.sink.flush()
            if self.log_stream.tell() > LOG_BYTES:
                self._rotate()

        async def trim_when_idle() -> None:
            nonlocal used_s, done
            now_s = time.process_time()
            busy, used_s = now_s - used_s > IDLE_CPU * IDLE_CHECK_S, now_s
            if busy:
                done = False
            elif not done and trim is not None:
                gc.collect()
                trim(0)
                done = True

        self.tasks.every("flush the log", FLUSH_S, flush)
        self.tasks.every("give memory back", IDLE_CHECK_S, trim_when_idle)

    async def _end(self, cloud: Cloud | None) -> None:
        """A failing step is logged and does not keep the next from being done."""
        steps: list[tuple[str, Callable[[], Awaitable[object]]]] = [("http", self._stop_serving)]
        if cloud is not None:
            steps += [("destroy", cloud.destroy)] if self.state.mark.ephemeral else []
            steps += [("services", cloud.stop)]
        for name, step in [*steps, ("tasks", self.tasks.stop)]:
            try:
                await step()
            except Exception as error:
                self.log.error("stopping failed", step=name, error=error)
        self.log.info("the cloud has ended")
        self.sink.flush()
        self.log_stream.close()

    async def _stop_serving(self) -> None:
        """All at once, since each lets its requests end."""
        outcomes = await asyncio.gather(*(server.stop() for server in self.servers.values()), return_exceptions=True)
        for outcome in outcomes:
            if isinstance(outcome, BaseException):
                raise outcome

    # ---- the log

    def _open_log(self) -> TextIO:
        path = self.state.log_file
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        return os.fdopen(descriptor, "a", buffering=1 << 16, encoding="utf-8")

    def _rotate(self) -> None:
        path = self.state.log_file
        self.log_stream.close()
        for number in range(LOGS_KEPT - 1, 0, -1):
            older = path.with_name(f"{path.name}.{number}")
            if older.exists():
                older.replace(path.with_name(f"{path.name}.{number + 1}"))
        path.replace(path.with_name(f"{path.name}.1"))
        self.log_stream = self.sink.stream = self._open_log()


def failure_of(error: Exception, state: StateDir) -> Failure:
    """What went wrong at the start, as a sentence."""
    if isinstance(error, Failure):
        return error
    if isinstance(error, (PortTaken, ConfigError, UnknownPlugin)):
        return Failure(plain(str(error)))
    if isinstance(error, errors.Error) and not isinstance(error, Lost):
        return Failure(error.message, error.advice)
    if isinstance(error, Lost) and "://" in str(error):
        return Failure(f"The database cannot be used: {error}.", "Is its server running? [database] connection names it.")
    if isinstance(error, (sqlite3.DatabaseError, Lost)):
        return Failure(
            f"The database {state.database} cannot be used: {error}.",
            "`kilonova doctor` checks it; restore it from a backup, or choose another directory with --state.",
        )
    if isinstance(error, OSError) and error.strerror:
        return Failure(f"{error.filename or 'The cloud'}: {error.strerror}.", f"The log is {state.log_file}.")
    return Failure(
        f"The cloud did not start because of a mistake in the program ({type(error).__name__}: {error}).",
        f"The trace is in {state.log_file}.",
        expected=False,
    )


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
    if process.driver == "fake" and "compute" in process.servers:
        out.append("Guests and networks are fake (--driver fake).")
    return out
