"""A cloud on several machines (namespaces): control nodes with the APIs, a conductor and a broker node each, a database with a standby on
two of them, and hypervisors. Everything in it can be killed and started again.

Our processes see the wall clock through `clock.c`, so that it can be set for one of them.
"""

import contextlib
import json
import os
import secrets
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from kilonova.network.drivers.linux import netns
from kilonova.plan import PORTS
from tests.cluster.cluster import PASSWORD
from tests.engines.postgresql import PostgreSQL
from tests.engines.rabbitmq import Member
from tests.probe.net import Net

APIS = ("identity", "image", "placement", "network", "compute", "metadata")
DATABASE_PASSWORD, BROKER_PASSWORD = "secret", "rabbit-secret"
READY_S = 120.0
DISK_MB = 24
HERE = Path(__file__).resolve().parent


class Program:
    """One of our processes on one of the machines. It keeps its state directory through all its lives."""

    def __init__(self, stand: "Stand", name: str, machine: str, roles: Sequence[str], own: str) -> None:
        self.stand, self.name, self.machine, self.roles = stand, name, machine, tuple(roles)
        self.folder = stand.folder / name
        self.folder.mkdir()
        self.state = self.folder / "state"
        self.clock = self.folder / "clock"
        self.clock.write_bytes(bytes(8))
        address = stand.net.address(machine)
        (self.folder / "own.conf").write_text(f"[DEFAULT]\nhost = {name}\nmy_ip = {address}\nbind_host = {address}\n{own}")
        self.child: subprocess.Popen[bytes] | None = None
        self.lives = 0

    @property
    def pid(self) -> int:
        assert self.child is not None
        return self.child.pid

    @property
    def runs(self) -> bool:
        return self.child is not None and self.child.poll() is None

    @property
    def out(self) -> Path:
        return self.folder / "out"

    @property
    def log_file(self) -> Path:
        return self.state / "log" / "kilonova.log"

    def log(self) -> str:
        return self.log_file.read_text(errors="replace") if self.log_file.exists() else ""

    def start(self) -> None:
        command = [
            sys.executable, "-P", "-m", "kilonova", "serve", *self.roles, "--config", str(self.stand.config),
            "--config", str(self.folder / "own.conf"), "--state", str(self.state),
        ]  # fmt: skip
        self.lives += 1
        environment = {
            **self.stand.environment, "KILONOVA_RUNTIME_DIR": str(self.folder / "run"), "PROBE_CLOCK": str(self.clock),
            "LD_PRELOAD": str(self.stand.clock),
        }  # fmt: skip
        with self.out.open("wb") as out:
            command = ["setpriv", "--pdeathsig", "KILL", "--", *self.stand.net.inside(self.machine, command)]
            self.child = subprocess.Popen(
                command, env=environment, stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True
            )

    def ready(self) -> bool:
        return self.runs and "The cloud is up" in self.out.read_text(errors="replace")

    def wait(self, limit_s: float = READY_S) -> None:
        end = time.monotonic() + limit_s
        while not self.ready():
            if not self.runs or time.monotonic() > end:
                raise RuntimeError(f"{self.name} did not start:\n{self.out.read_text(errors='replace')}\n{self.log()[-3000:]}")
            time.sleep(0.05)

    def send(self, number: int) -> None:
        if self.runs:
            os.kill(self.pid, number)

    def end(self, number: int = signal.SIGKILL) -> None:
        if self.child is not None:
            self.send(number)
            try:
                self.child.wait(30)
            except subprocess.TimeoutExpired:
                self.child.kill()
                self.child.wait(10)

    def jump(self, seconds: float) -> None:
        """Its wall clock is that much ahead of the machine's from now on."""
        with self.clock.open("r+b") as file:
            file.write(struct.pack("=q", int(seconds * 1e9)))

    def fill_disk(self) -> None:
        """Until nothing more fits into the state directory (which must be a disk of its own)."""
        with contextlib.suppress(OSError), (self.state / "filler").open("wb", buffering=0) as file:
            while True:
                file.write(bytes(65536))
        with contextlib.suppress(OSError), (self.state / "filler").open("ab", buffering=0) as file:
            while True:
                file.write(b"\0")

    def free_disk(self) -> None:
        (self.state / "filler").unlink(missing_ok=True)


class Stand:
    """`controls` and `hypervisors`: how many machines. The first two control nodes have the databases."""

    def __init__(self, *, controls: int, hypervisors: int, hosts: int, driver: str = "fake", disks: bool = True) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="kilonova-probe-"))
        self.folder.chmod(0o755)
        self.net = Net()
        self.net.add("client", 1)
        self.disks: list[Path] = []
        self.programs: dict[str, Program] = {}
        self.brokers: dict[str, Member] = {}
        self.config = self.folder / "kilonova.conf"
        self.clock = self._clock()
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("KILONOVA_", "OS_", "XDG_"))}
        self.environment = {
            **kept, "HOME": str(self.folder), "KILONOVA_ADMIN_PASSWORD": PASSWORD, "KILONOVA_DEMO_PASSWORD": PASSWORD
        }  # fmt: skip
        self.controls = [f"c{n + 1}" for n in range(controls)]
        self.machines = [f"h{n + 1}" for n in range(hypervisors)]
        for n, machine in enumerate(self.controls):
            self.net.add(machine, 11 + n)
        for n, machine in enumerate(self.machines):
            self.net.add(machine, 21 + n)
        self.primary_at = self.controls[0]
        self.databases: dict[str, PostgreSQL] = {}
        self.hosts, self._driver, self._with_disks = hosts, driver, disks

    # ---- life

    def start(self) -> None:
        """Some 40 s: the broker's cluster takes most of it."""
        cookie = secrets.token_hex(16)
        members = [self.net.address(machine) for machine in self.controls]
        for machine in self.controls:
            self.brokers[machine] = Member(
                self.folder / f"broker-{machine}", address=self.net.address(machine), namespace=self.net.namespace(machine),
                members=members, cookie=cookie,
            )  # fmt: skip
            self.brokers[machine].folder.mkdir()
        for broker in self.brokers.values():
            broker.launch()  # by this thread: when it ends, so do its children
        self._start_databases()
        for broker in self.brokers.values():
            broker.wait()
        self.config.write_text(self._settings())
        self._sync()
        for n, machine in enumerate(self.controls):
            self._add(f"api{n + 1}", machine, APIS, "")
            self._add(f"conductor{n + 1}", machine, ["conductor"], "")
        for machine in self.machines:
            self._add(f"node-{machine}", machine, ["hypervisor"], f"[cloud]\nhosts = {self.hosts}\n", disk=self._with_disks)
        first = self.programs["api1"]  # it makes the first users
        first.start()
        first.wait()
        for program in self.programs.values():
            if program is not first:
                program.start()
        for program in self.programs.values():
            program.wait()

    def _start_databases(self) -> None:
        self.databases[self.primary_at] = PostgreSQL(
            durable=True, address=self.net.address(self.primary_at), namespace=self.net.namespace(self.primary_at), port=5432
        ).start()
        if len(self.controls) > 1:
            self.add_standby(self.controls[1])

    def add_standby(self, machine: str) -> None:
        """On that machine, from the present primary; what is committed is on both from then on."""
        self.copy_to(machine).start()
        self.databases[self.primary_at].wait_for_standbys()

    def copy_to(self, machine: str) -> PostgreSQL:
        """A copy of the primary's data there, instead of what was; not started."""
        old = self.databases.pop(machine, None)
        if old is not None:
            old.stop()
        made = self.databases[self.primary_at].standby(
            durable=True, port=5432, address=self.net.address(machine), namespace=self.net.namespace(machine)
        )
        self.databases[machine] = made
        return made

    def _settings(self) -> str:
        brokers = ",".join(f"kilonova:{BROKER_PASSWORD}@{self.net.address(m)}:5672" for m in self.controls)
        return (
            f"[DEFAULT]\ntransport_url = rabbit://{brokers}/\ncompute_driver = {self._driver}\n"
            f"[database]\nconnection = {self.database_url}\n"
            f"[cloud]\ninsecure = true\npublic_host = {self.net.address(self.controls[0])}\n"
            f"[glance_store]\nfilesystem_store_datadir = {self.folder}/images\n[identity]\npassword_hash_rounds = 4\n"
            "[quota]\ninstances = -1\ncores = -1\nram = -1\n[network_quotas]\nquota_port = -1\n"
        )

    def _sync(self) -> None:
        command = [sys.executable, "-P", "-m", "kilonova", "db", "sync", "--config", str(self.config)]
        done = subprocess.run(
            self.net.inside(self.controls[0], command), env=self.environment, capture_output=True, text=True, timeout=120, check=False
        )
        if done.returncode:
            raise RuntimeError(done.stdout + done.stderr)

    def _add(self, name: str, machine: str, roles: Sequence[str], own: str, *, disk: bool = False) -> None:
        program = self.programs[name] = Program(self, name, machine, roles, own)
        if disk:
            program.state.mkdir(mode=0o700)
            subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={DISK_MB}m,mode=700", "tmpfs", str(program.state)], check=True, timeout=20)
            self.disks.append(program.state)

    def _clock(self) -> Path:
        made = self.folder / "clock.so"
        subprocess.run(["cc", "-O2", "-shared", "-fPIC", "-o", str(made), str(HERE / "clock.c"), "-ldl"], check=True, timeout=60)
        return made

    def stop(self) -> None:
        for program in self.programs.values():
            program.send(signal.SIGCONT)
            program.send(signal.SIGTERM)
        for program in self.programs.values():
            program.end(signal.SIGTERM)
        for broker in self.brokers.values():
            broker.stop()
        for database in self.databases.values():
            database.stop()

    def remove(self) -> None:
        """After `stop`: nothing is left on this machine."""
        for program in self.programs.values():
            mark = program.state / "kilonova.state"
            if mark.exists():
                cloud = json.loads(mark.read_text())["id"]
                for namespace in netns.names(f"kn-{cloud}-"):
                    netns.remove(namespace)
        for disk in self.disks:
            subprocess.run(["umount", "-l", str(disk)], check=False, timeout=20)
        self.net.remove()
        shutil.rmtree(self.folder, ignore_errors=True)

    # ---- what is where

    def url(self, control: str, service: str) -> str:
        return f"http://{self.net.address(control)}:{PORTS[service]}"

    @property
    def database_url(self) -> str:
        databases = ",".join(self.net.address(machine) for machine in self.controls[:2])
        return f"postgresql://kilonova:{DATABASE_PASSWORD}@{databases}/postgres"

    def of(self, prefix: str) -> list[Program]:
        return [program for name, program in self.programs.items() if name.startswith(prefix)]


@contextlib.contextmanager
def standing(stand: Stand, *, enter: bool) -> Iterator[Stand]:
    """enter: the calling thread moves to the client's namespace, for good; from there everything can be reached."""
    try:
        if enter:
            netns.enter(stand.net.namespace("client"))
        stand.start()
        yield stand
    finally:
        try:
            stand.stop()
        finally:
            stand.remove()
