"""A cloud to be measured: `kilonova up` in a state directory of its own on free ports, and a small client for its APIs."""

import http.client
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

TOP = Path(__file__).resolve().parent.parent
KILONOVA = str(TOP / ".venv" / "bin" / "kilonova")
PORTS = {"identity": 5000, "image": 9292, "placement": 8778, "compute": 8774, "metadata": 8775, "network": 9696}
TICKS = os.sysconf("SC_CLK_TCK")


class Refused(Exception):
    """An API answered with another status than was wanted."""


def free_offset() -> int:
    """A number for --port-offset with which all ports are free now."""
    for offset in range(20_000 + os.getpid() % 200 * 100, 50_000, 100):
        if all(free(port + offset) for port in PORTS.values()):
            return offset
    raise RuntimeError("No free ports were found.")


def free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


class Cloud:
    """Used as a context manager: `up` at the beginning when asked, `down --destroy` and no state at the end."""

    def __init__(
        self, folder: Path, *arguments: str, preload: str = "", environment: dict[str, str] | None = None, config: str = ""
    ) -> None:
        """preload: a shared library for LD_PRELOAD of the cloud's process. config: text of a configuration file."""
        self.state = folder
        self.offset = free_offset()
        self.arguments = ["--state", str(folder), "--port-offset", str(self.offset), *arguments]
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("OS_", "KILONOVA_"))}
        self.environment = {**kept, **(environment or {}), **({"LD_PRELOAD": preload} if preload else {})}
        if config:
            file = folder.with_name(f"{folder.name}.conf")
            file.write_text(config)
            self.arguments += ["--config", str(file)]
        self._token = ""

    def __enter__(self) -> "Cloud":
        self.up()
        return self

    def __exit__(self, *error: object) -> None:
        self.down(destroy=True)
        if not os.environ.get("KILONOVA_BENCH_KEEP"):
            shutil.rmtree(self.state, ignore_errors=True)

    # ---- life

    def up(self) -> float:
        """Seconds until `kilonova up --detach` has returned. Raises RuntimeError with what it said."""
        started = time.perf_counter()
        done = subprocess.run([KILONOVA, "up", "--detach", *self.arguments], env=self.environment, capture_output=True, text=True)
        took_s = time.perf_counter() - started
        if done.returncode:
            raise RuntimeError(f"kilonova up: {done.stdout}{done.stderr}")
        return took_s

    def down(self, *, destroy: bool = False) -> None:
        extra = ["--destroy"] if destroy else []
        done = subprocess.run([KILONOVA, "down", "--state", str(self.state), *extra], env=self.environment, capture_output=True, text=True)
        if done.returncode:
            print(f"kilonova down: {done.stdout}{done.stderr}", file=sys.stderr)

    @property
    def pid(self) -> int:
        return int((self.state / "run" / "pid").read_text())

    def kill(self) -> None:
        os.kill(self.pid, signal.SIGKILL)

    # ---- what it uses

    def tree(self) -> list[int]:
        """The process and all its descendants, QEMU apart."""
        children: dict[int, list[int]] = {}
        names: dict[int, str] = {}
        for entry in Path("/proc").glob("[0-9]*"):
            try:
                name, _, rest = (entry / "stat").read_text().rpartition(")")
            except OSError:
                continue
            pid = int(entry.name)
            names[pid] = name.partition("(")[2]
            children.setdefault(int(rest.split()[1]), []).append(pid)
        found, waiting = [], [self.pid]
        while waiting:
            pid = waiting.pop()
            if not names.get(pid, "").startswith("qemu-system"):
                found.append(pid)
                waiting += children.get(pid, [])
        return found

    def rss_mb(self) -> float:
        """Resident memory of the tree, in units of 1e6 bytes; shared pages count in each process."""
        total = 0
        for pid in self.tree():
            found = re.search(r"^VmRSS:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text(), re.M)
            total += int(found.group(1)) if found else 0
        return total * 1024 / 1e6

    def cpu_s(self) -> float:
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / TICKS

    # ---- its APIs

    def openrc(self) -> dict[str, str]:
        """The OS_* variables of the administrator."""
        pairs = re.findall(r"^export (OS_\w+)=(.*)$", (self.state / "admin-openrc").read_text(), re.M)
        return {name: value.strip("'\"") for name, value in pairs}

    def port(self, service: str) -> int:
        return PORTS[service] + self.offset

    def login(self) -> str:
        rc = self.openrc()
        user = {"name": rc["OS_USERNAME"], "password": rc["OS_PASSWORD"], "domain": {"name": rc["OS_USER_DOMAIN_NAME"]}}
        scope = {"project": {"name": rc["OS_PROJECT_NAME"], "domain": {"name": rc["OS_PROJECT_DOMAIN_NAME"]}}}
        body = {"auth": {"identity": {"methods": ["password"], "password": {"user": user}}, "scope": scope}}
        status, headers, data = self.raw("identity", "POST", "/v3/auth/tokens", body=body)
        if status != 201:
            raise Refused(f"login: {status} {data[:300]!r}")
        self._token = headers["x-subject-token"]
        self.project_id: str = json.loads(data)["token"]["project"]["id"]
        return self._token

    @property
    def token(self) -> str:
        return self._token or self.login()

    def raw(
        self, service: str, method: str, path: str, *, body: Any = None, data: bytes | None = None, headers: dict[str, str] | None = None
    ) -> tuple[int, dict[str, str], bytes]:
        sent = dict(headers or {})
        if body is not None:
            data = msgspec.json.encode(body)
            sent.setdefault("Content-Type", "application/json")
        connection = http.client.HTTPConnection("127.0.0.1", self.port(service), timeout=120)
        try:
            connection.request(method, path, body=data, headers=sent)
            answer = connection.getresponse()
            return answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read()
        finally:
            connection.close()

    def call(self, service: str, method: str, path: str, body: Any = None, **more: Any) -> Any:
        """The decoded answer. Raises Refused for a status of 300 and above."""
        headers = {"X-Auth-Token": self.token, **more.pop("headers", {})}
        if service == "compute":
            headers.setdefault("OpenStack-API-Version", "compute 2.37")
        status, _, data = self.raw(service, method, path, body=body, headers=headers, **more)
        if status >= 300:
            raise Refused(f"{method} {service}{path}: {status} {data[:400]!r}")
        return json.loads(data) if data[:1] in (b"{", b"[") else data

    def until(self, look: Callable[[], Any], what: str, timeout_s: float = 120, poll_s: float = 0.01) -> Any:
        """Look until the answer is true. Raises RuntimeError."""
        end = time.perf_counter() + timeout_s
        while time.perf_counter() < end:
            if answer := look():
                return answer
            time.sleep(poll_s)
        raise RuntimeError(f"{what} did not come within {timeout_s:.0f} s")

    # ---- usual things

    def flavor(self, name: str = "bench", ram_mb: int = 64) -> str:
        body = {"flavor": {"name": name, "ram": ram_mb, "vcpus": 1, "disk": 1}}
        return str(self.call("compute", "POST", "/v2.1/flavors", body)["flavor"]["id"])

    def image(self, data: bytes, disk_format: str, name: str = "bench") -> str:
        made = self.call("image", "POST", "/v2/images", {"name": name, "disk_format": disk_format, "container_format": "bare"})
        octets = {"Content-Type": "application/octet-stream"}
        self.call("image", "PUT", f"/v2/images/{made['id']}/file", data=data, headers=octets)
        return str(made["id"])

    def network(self, name: str = "bench", cidr: str = "10.7.0.0/16") -> str:
        made = self.call("network", "POST", "/v2.0/networks", {"network": {"name": name}})["network"]["id"]
        self.call("network", "POST", "/v2.0/subnets", {"subnet": {"network_id": made, "ip_version": 4, "cidr": cidr}})
        return str(made)

    def server(self, flavor: str, image: str, networks: Any = "none", **more: Any) -> str:
        body = {"server": {"name": "bench", "flavorRef": flavor, "imageRef": image, "networks": networks, **more}}
        return str(self.call("compute", "POST", "/v2.1/servers", body)["server"]["id"])

    def status(self, server_id: str) -> str:
        """The server's status, or "" when it is gone. Raises RuntimeError for ERROR."""
        status, _, data = self.raw("compute", "GET", f"/v2.1/servers/{server_id}", headers={"X-Auth-Token": self.token})
        if status == 404:
            return ""
        server = json.loads(data)["server"]
        if server["status"] == "ERROR":
            raise RuntimeError(f"server is in ERROR: {server.get('fault')}")
        return str(server["status"])

    def delete_server(self, server_id: str) -> None:
        self.call("compute", "DELETE", f"/v2.1/servers/{server_id}")
        self.until(lambda: not self.status(server_id), "the deletion")

    def unlimited(self) -> None:
        """No quotas for the administrator's project."""
        self.token  # noqa: B018  (project_id comes with it)
        quota = {"instances": -1, "cores": -1, "ram": -1, "force": True}
        self.call("compute", "PUT", f"/v2.1/os-quota-sets/{self.project_id}", {"quota_set": quota})
        if "network" in json.loads((self.state / "run" / "ports.json").read_text()):
            self.call("network", "PUT", f"/v2.0/quotas/{self.project_id}", {"quota": {"port": -1, "network": -1, "subnet": -1}})
