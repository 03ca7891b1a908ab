"""A cloud of several processes on this machine: one configuration, each process with a state directory and a name of its own."""

import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from kilonova.plan import PORTS

PASSWORD = "cluster-admin"
READY_S = 90.0


class Process:
    def __init__(self, name: str, folder: Path, child: "subprocess.Popen[bytes]", offset: int, roles: tuple[str, ...]) -> None:
        self.name, self.folder, self.child, self.offset, self.roles = name, folder, child, offset, roles

    @property
    def pid(self) -> int:
        return self.child.pid

    def url(self, service: str) -> str:
        return f"http://127.0.0.1:{PORTS[service] + self.offset}"

    def log(self) -> str:
        file = self.folder / "state" / "log" / "kilonova.log"
        return file.read_text() if file.exists() else ""

    def rss_mb(self) -> float:
        for line in Path(f"/proc/{self.pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) / 1024
        return 0.0

    def cpu_s(self) -> float:
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def kill(self, number: int = signal.SIGKILL) -> None:
        self.child.send_signal(number)
        if number in (signal.SIGKILL, signal.SIGTERM):
            self.child.wait(30)


class Cluster:
    """`settings` are lines for the configuration file that all processes share."""

    def __init__(self, folder: Path, database: str, broker: str, settings: str = "", *, python: str = sys.executable) -> None:
        self.folder = folder
        self.python = python
        self.processes: dict[str, Process] = {}
        self.environment = {**os.environ, "KILONOVA_ADMIN_PASSWORD": PASSWORD, "KILONOVA_DEMO_PASSWORD": PASSWORD}
        self.config = folder / "kilonova.conf"
        self.config.write_text(
            f"[DEFAULT]\ntransport_url = {broker}\ncompute_driver = fake\n[database]\nconnection = {database}\n"
            f"[glance_store]\nfilesystem_store_datadir = {folder}/images\n[identity]\npassword_hash_rounds = 4\n"
            "[quota]\ninstances = -1\ncores = -1\nram = -1\n[network_quotas]\nquota_port = -1\n" + settings
        )

    def sync(self) -> str:
        """The tables."""
        done = subprocess.run(
            [self.python, "-P", "-m", "kilonova", "db", "sync", "--config", str(self.config)],
            env=self.environment, capture_output=True, text=True, timeout=120,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def start(self, name: str, roles: Sequence[str], *, offset: int, extra: str = "", wait: bool = True) -> Process:
        folder = self.folder / name
        folder.mkdir(exist_ok=True)
        own = folder / "own.conf"
        own.write_text(f"[DEFAULT]\nhost = {name}\n[cloud]\nport_offset = {offset}\n{extra}")
        command = [
            self.python, "-P", "-m", "kilonova", "serve", *roles,
            "--config", str(self.config), "--config", str(own), "--state", str(folder / "state"),
        ]  # fmt: skip
        with (folder / "out").open("ab") as out:
            child = subprocess.Popen(command, env=self.environment, stdin=subprocess.DEVNULL, stdout=out, stderr=out)
        process = self.processes[name] = Process(name, folder, child, offset, tuple(roles))
        if wait:
            self.ready(process)
        return process

    def ready(self, process: Process, limit_s: float = READY_S) -> None:
        end = time.monotonic() + limit_s
        while "The cloud is up" not in (process.folder / "out").read_text():
            assert process.child.poll() is None, f"{process.name} ended:\n{(process.folder / 'out').read_text()}\n{process.log()[-3000:]}"
            assert time.monotonic() < end, f"{process.name} is not ready:\n{process.log()[-3000:]}"
            time.sleep(0.05)

    def stop(self) -> None:
        for process in self.processes.values():
            if process.child.poll() is None:
                process.child.send_signal(signal.SIGCONT)
                process.child.send_signal(signal.SIGTERM)
        for process in self.processes.values():
            try:
                process.child.wait(20)
            except subprocess.TimeoutExpired:
                process.child.kill()
                process.child.wait(10)


class Api:
    """A user of the cloud. `at`: service -> base URL."""

    def __init__(self, at: dict[str, str], user: str = "admin") -> None:
        self.at = at
        who = {"name": user, "password": PASSWORD, "domain": {"id": "default"}}
        scope = {"project": {"name": user, "domain": {"id": "default"}}}
        body = {"auth": {"identity": {"methods": ["password"], "password": {"user": who}}, "scope": scope}}
        status, headers, _ = self._send("POST", at["identity"] + "/v3/auth/tokens", json.dumps(body).encode(), {})
        assert status == 201, status
        self.token = headers["X-Subject-Token"]

    def __call__(self, service: str, method: str, path: str, body: Any = None, *, data: bytes | None = None) -> tuple[int, Any]:
        headers = {"X-Auth-Token": self.token}
        if service == "compute":
            headers["OpenStack-API-Version"] = "compute 2.90"
        if body is not None:
            data = json.dumps(body).encode()
        status, _, answer = self._send(method, self.at[service] + path, data, headers)
        try:
            return status, json.loads(answer) if answer else None
        except ValueError:
            return status, answer

    @staticmethod
    def _send(method: str, url: str, data: bytes | None, headers: dict[str, str]) -> tuple[int, Any, bytes]:
        kind = "application/octet-stream" if url.endswith("/file") else "application/json"
        request = urllib.request.Request(url, data, {"Content-Type": kind, **headers}, method=method)
        try:
            with urllib.request.urlopen(request, timeout=60) as reply:
                return reply.status, reply.headers, reply.read()
        except urllib.error.HTTPError as error:
            return error.code, error.headers, error.read()

    def prepare(self) -> dict[str, str]:
        """An image, a flavor and a network to boot from."""
        status, image = self("image", "POST", "/v2/images", {"name": "tiny", "disk_format": "raw", "container_format": "bare"})
        assert status == 201, image
        status, answer = self("image", "PUT", f"/v2/images/{image['id']}/file", data=b"\0" * 4096)
        assert status == 204, answer
        flavor = {"flavor": {"id": "nano", "name": "nano", "ram": 64, "vcpus": 1, "disk": 1}}
        status, answer = self("compute", "POST", "/v2.1/flavors", flavor)
        assert status in (200, 409), answer
        status, network = self("network", "POST", "/v2.0/networks", {"network": {"name": "net"}})
        assert status == 201, network
        network_id = network["network"]["id"]
        subnet = {"subnet": {"network_id": network_id, "ip_version": 4, "cidr": "10.40.0.0/16"}}
        status, answer = self("network", "POST", "/v2.0/subnets", subnet)
        assert status == 201, answer
        return {"image": image["id"], "network": network_id}

    def boot(self, ids: dict[str, str], name: str = "s") -> str:
        server = {"name": name, "imageRef": ids["image"], "flavorRef": "nano", "networks": [{"uuid": ids["network"]}]}
        status, answer = self("compute", "POST", "/v2.1/servers", {"server": server})
        assert status == 202, answer
        return str(answer["server"]["id"])

    def until(self, server_id: str, wanted: str, limit_s: float = 60.0) -> Any:
        end = time.monotonic() + limit_s
        while True:
            status, answer = self("compute", "GET", f"/v2.1/servers/{server_id}")
            found = "GONE" if status == 404 else answer["server"]["status"] if status == 200 else ""
            if found == wanted:
                return answer
            assert found != "ERROR" or wanted == "GONE", answer
            assert time.monotonic() < end, (status, answer)
            time.sleep(0.05)
