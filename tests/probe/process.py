"""A cloud in a process of its own, that can be killed and started again on the same state."""

import os
import random
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

from kilonova.plan import PORTS

CONFIG = """\
[identity]
password_hash_rounds = 4
[quota]
instances = 1000
cores = 1000
ram = 1000000
[network_quotas]
quota_port = -1
"""


def free_offset() -> int:
    """For --port-offset: all ports are free now."""
    for _ in range(200):
        offset = random.randrange(10_000, 22_000)
        if all(_free(port + offset) for port in PORTS.values()):
            return offset
    raise RuntimeError("no free ports")


def _free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


class CloudProcess:
    def __init__(self, folder: Path, *arguments: str) -> None:
        self.state = folder / "state"
        self.log = folder / "up.log"
        self.offset = free_offset()
        config = folder / "probe.conf"
        config.write_text(CONFIG)
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("KILONOVA_", "OS_", "XDG_", "MALLOC_"))}
        self.environment = {**kept, "HOME": str(folder), "KILONOVA_RUNTIME_DIR": str(folder / "run")}
        usual = ["--state", str(self.state), "--port-offset", str(self.offset), "--config", str(config)]
        self.command = [sys.executable, "-P", "-m", "kilonova", "up", *usual, *arguments]
        self.process: subprocess.Popen[bytes] | None = None
        self.started = 0.0
        self.starts = 0

    def port(self, service: str) -> int:
        return PORTS[service] + self.offset

    def start(self) -> None:
        """Does not wait for its APIs."""
        assert self.process is None
        self.starts += 1
        self.started = time.monotonic()
        with self.log.open("ab") as out:
            self._from = out.tell()
            self.process = subprocess.Popen(self.command, env=self.environment, stdin=subprocess.DEVNULL, stdout=out, stderr=out)

    def ready(self) -> bool:
        """Every API answers. Raises AssertionError when the process has ended."""
        assert self.process is not None
        text = self.log.read_bytes()[self._from :].decode(errors="replace")
        assert self.process.poll() is None, f"`up` ended with {self.process.returncode}: {text}"
        return "The cloud is up after" in text

    def wait_ready(self, timeout_s: float = 60.0) -> None:
        end = time.monotonic() + timeout_s
        while not self.ready():
            assert time.monotonic() < end, f"not up within {timeout_s} s: {self.log.read_text()[-1000:]}"
            time.sleep(0.02)

    def kill(self) -> None:
        """As a power failure of this process alone: SIGKILL."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()
        self.process = None

    def stop(self) -> None:
        """In order. Raises AssertionError when it does not end well."""
        if self.process is None:
            return
        self.process.send_signal(signal.SIGTERM)
        try:
            code = self.process.wait(30)
        finally:
            if self.process.poll() is None:
                self.process.kill()
                self.process.wait()
            self.process = None
        assert code in (0, 130, -signal.SIGTERM), f"`up` ended with {code}: {self.log.read_text()[-1000:]}"

    def password(self) -> str:
        found = re.search(r"^export OS_PASSWORD=(.*)$", (self.state / "admin-openrc").read_text(), re.M)
        assert found is not None
        return found.group(1).strip("'\"")
