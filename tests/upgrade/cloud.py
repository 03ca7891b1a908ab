"""A cloud with two processes of each role, of which each can run either release."""

import signal
import time
from pathlib import Path

from tests.cluster.cluster import Api, Cluster, Process
from tests.cluster.conftest import APIS
from tests.upgrade.older import Release

OFFSET = 17000
ROLES: dict[str, tuple[tuple[str, ...], int]] = {
    "api0": (APIS, OFFSET),
    "api1": (APIS, OFFSET + 100),
    "conductor0": (("conductor",), OFFSET),
    "conductor1": (("conductor",), OFFSET),
    "hypervisor0": (("hypervisor",), OFFSET),
    "hypervisor1": (("hypervisor",), OFFSET),
}
"""Process -> its roles, and what is added to its ports."""
END_S = 60.0


class Cloud:
    def __init__(self, folder: Path, database: str, broker: str, older: Release) -> None:
        self.cluster = Cluster(folder, database, broker)
        self.older = older

    def sync(self, release: Release) -> str:
        self.cluster.python = release.python
        return self.cluster.sync()

    def start(self, name: str, release: Release) -> Process:
        roles, offset = ROLES[name]
        self.cluster.python = release.python
        before = self.cluster.folder / name / "out"
        if before.exists():
            before.unlink()  # it tells when a process is ready, and this one is to tell it anew
        return self.cluster.start(name, roles, offset=offset)

    def end(self, name: str) -> float:
        """SIGTERM, and what the end took in seconds. It must come in time and in order."""
        process = self.cluster.processes[name]
        began = time.monotonic()
        process.child.send_signal(signal.SIGTERM)
        code = process.child.wait(END_S)
        assert code == 0, f"{name} ended with {code}:\n{process.log()[-3000:]}"
        return time.monotonic() - began

    def replace(self, name: str, release: Release) -> float:
        took_s = self.end(name)
        self.start(name, release)
        return took_s

    @property
    def apis(self) -> list[Process]:
        return [self.cluster.processes[name] for name in ("api0", "api1")]

    def api(self, name: str = "api0") -> Api:
        process = self.cluster.processes[name]
        return Api({service: process.url(service) for service in ("identity", "image", "compute", "network")})

    def errors(self) -> list[str]:
        """Lines of level error in the logs of all processes, but for the broker's absence."""
        return [f"{p.name}: {line}" for p in self.cluster.processes.values() for line in p.log().splitlines() if '"level":"error"' in line]
