"""Machines that join with a token: one command each, and each may touch only what is its own, whoever holds its key."""

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster.cluster import Api, Cluster
from tests.cluster.conftest import APIS
from tests.engines.postgresql import PostgreSQL
from tests.engines.rabbitmq import PASSWORD, USER, Rabbit, free_ports, needs_rabbitmq

OFFSET = 11800
pytestmark = needs_rabbitmq


class Managed(Rabbit):
    """With the management API."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        (self.management_port,) = free_ports(1)
        self.settings = f"management.tcp.port = {self.management_port}\nmanagement.tcp.ip = 127.0.0.1\n"

    @property
    def management_url(self) -> str:
        return f"http://{USER}:{PASSWORD}@127.0.0.1:{self.management_port}"

    def _prepare(self) -> None:
        super()._prepare()
        (self.folder / "plugins").write_text("[rabbitmq_management].\n")


def kilonova(*words: str, ok: bool = True, stdin: str = "", limit_s: float = 90) -> str:
    """What it says on standard output; on standard error when it is to fail."""
    done = subprocess.run(
        [sys.executable, "-P", "-m", "kilonova", *words], input=stdin, capture_output=True, text=True, timeout=limit_s, check=False
    )
    assert (done.returncode == 0) == ok, (words[:1], done.returncode, done.stdout, done.stderr)
    return (done.stdout if ok else done.stderr).strip()


class Machine:
    """A second machine: a state directory and whatever runs on it."""

    def __init__(self, folder: Path, name: str, number: int) -> None:
        self.name = name
        self.my_ip = f"192.0.2.{number}"
        self.state = folder / name
        self.child: subprocess.Popen[bytes] | None = None

    def join(self, token: str, *more: str, ok: bool = True) -> str:
        words = ["join", "-", "--state", str(self.state), "--host", self.name, "--my-ip", self.my_ip, "--driver", "fake", "--only-join"]
        return kilonova(*words, *more, stdin=token, ok=ok)

    def run(self, *words: str) -> None:
        """As a unit would: with nothing but the state directory."""
        with (self.state.parent / f"{self.name}.out").open("ab") as out:
            command = [sys.executable, "-P", "-m", "kilonova", *(words or ("serve", "hypervisor")), "--state", str(self.state)]
            self.child = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=out)
        end = time.monotonic() + 60
        while "The cloud is up" not in (self.state.parent / f"{self.name}.out").read_text():
            assert self.child.poll() is None and time.monotonic() < end, self.log()[-3000:]
            time.sleep(0.05)

    def log(self) -> str:
        return (self.state / "log" / "kilonova.log").read_text()

    def transport_url(self) -> str:
        line = next(line for line in (self.state / "join" / "kilonova.conf").read_text().splitlines() if "transport_url" in line)
        return line.partition("=")[2].strip()

    def stop(self) -> None:
        if self.child is not None and self.child.poll() is None:
            self.child.terminate()
            self.child.wait(30)


class Joinable:
    """A control plane of one process that machines may join."""

    def __init__(self, folder: Path, database: PostgreSQL, broker: Managed, settings: str = "") -> None:
        self.folder, self.broker = folder, broker
        self.database = database
        broker.control("set_user_tags", USER, "administrator")
        self.cluster = Cluster(folder, database.url(), broker.url, f"[broker]\nmanagement_url = {broker.management_url}\n" + settings)
        self.cluster.sync()
        self.front = self.cluster.start("control", [*APIS, "conductor"], offset=OFFSET)
        self.api = Api({service: self.front.url(service) for service in ("identity", "image", "compute", "network")})
        self.machines: list[Machine] = []

    def token(self, *more: str) -> str:
        own = str(self.folder / "control" / "own.conf")
        return kilonova("join-token", "--config", str(self.cluster.config), "--config", own, *more)

    def machine(self, name: str) -> Machine:
        made = Machine(self.folder, name, 11 + len(self.machines))
        self.machines.append(made)
        return made

    def stop(self) -> None:
        for machine in self.machines:
            machine.stop()
        self.cluster.stop()


@contextlib.contextmanager
def joinable(settings: str = "") -> Iterator[Joinable]:
    folder = Path(tempfile.mkdtemp(prefix="kn-join-"))
    folder.chmod(0o755)
    database = PostgreSQL().start()
    broker = Managed(folder / "broker")
    (folder / "broker").mkdir()
    try:
        broker.start()
        made = Joinable(folder, database, broker, settings)
        try:
            yield made
        finally:
            made.stop()
    finally:
        broker.stop()
        database.stop()
        if "KEEP" not in os.environ:
            shutil.rmtree(folder, ignore_errors=True)


def test_machines_join_and_run_servers() -> None:
    with joinable() as cloud:
        one, two = cloud.machine("one"), cloud.machine("two")
        token = cloud.token()
        one.join(token)
        assert "has been used (one); a token works once" in two.join(token, ok=False)
        two.join(cloud.token("--host", "two"))
        one.run()
        two.run("join")
        ids = cloud.api.prepare()
        servers = [cloud.api.boot(ids, f"s{n}") for n in range(4)]
        hosts = [cloud.api.until(server, "ACTIVE")["server"]["OS-EXT-SRV-ATTR:host"] for server in servers]
        assert set(hosts) == {"one", "two"}
