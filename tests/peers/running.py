"""Programs that the tests start on loopback and end by their ids: Keystone, Glance, a small WSGI application, our own cloud."""

import json
import os
import re
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

TOP = Path(__file__).resolve().parents[2]
PEERS = TOP / ".venv-peers" / "bin"
OPENSTACK = TOP / ".venv-clients" / "bin" / "openstack"
KILONOVA = TOP / ".venv" / "bin" / "kilonova"
PORTS = {"identity": 5000, "image": 9292, "placement": 8778, "compute": 8774, "metadata": 8775, "network": 9696}
ADMIN_PASSWORD = "admin-of-tests"
SERVICE_PASSWORD = "service-of-tests"
START_S = 60.0
LIFE_S = 20
"""Of the tokens of our own identity in these tests."""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def free_offset() -> int:
    """One that, added to each of PORTS, gives ports nobody listens on."""
    for offset in range(21000 + os.getpid() % 1000 * 20, 60000 - 9696, 17):
        probes = [socket.socket() for _ in PORTS]
        try:
            for probe, port in zip(probes, PORTS.values(), strict=True):
                probe.bind(("127.0.0.1", port + offset))
            return offset
        except OSError:
            continue
        finally:
            for probe in probes:
                probe.close()
    raise AssertionError("no free ports")


class Answer:
    def __init__(self, status: int, headers: Mapping[str, str], body: bytes) -> None:
        self.status = status
        self.headers = {name.lower(): value for name, value in headers.items()}
        self.body = body

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    def __repr__(self) -> str:
        return f"<{self.status} {self.headers} {self.body[:500]!r}>"


def ask(method: str, url: str, token: str = "", body: Any = None, **headers: str) -> Answer:
    sent = {name.replace("_", "-"): value for name, value in headers.items()}
    if token:
        sent["X-Auth-Token"] = token
    data = None
    if body is not None:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        sent.setdefault("Content-Type", "application/json")
    request = urllib.request.Request(url, data, sent, method=method)
    try:
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=60) as reply:
            return Answer(reply.status, dict(reply.headers), reply.read())
    except urllib.error.HTTPError as error:
        return Answer(error.code, dict(error.headers), error.read())


def log_in(url: str, user: str, password: str, project: str) -> str:
    """A token of a Keystone at `url`."""
    who = {"name": user, "password": password, "domain": {"id": "default"}}
    identity = {"methods": ["password"], "password": {"user": who}}
    scope = {"project": {"name": project, "domain": {"id": "default"}}}
    answer = ask("POST", f"{url}/auth/tokens", body={"auth": {"identity": identity, "scope": scope}})
    assert answer.status == 201, answer
    return answer.headers["x-subject-token"]


def write_ini(path: Path, sections: Mapping[str, Mapping[str, object]]) -> Path:
    path.write_text("".join(f"[{name}]\n" + "".join(f"{k} = {v}\n" for k, v in values.items()) for name, values in sections.items()))
    return path


class Program:
    """A process with its log in `folder`, and a URL that answers once it is up."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.process: subprocess.Popen[bytes] | None = None
        self.output = folder / "output.log"

    def run(self, *command: str, environment: Mapping[str, str] | None = None) -> None:
        """A command that ends by itself."""
        done = subprocess.run(command, env={**os.environ, **(environment or {})}, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, f"{command}: {done.stdout[-2000:]}{done.stderr[-4000:]}"

    def start(self, command: Sequence[str], answers_at: str, environment: Mapping[str, str] | None = None) -> None:
        with self.output.open("ab") as output:
            self.process = subprocess.Popen(
                command, env={**os.environ, **(environment or {})}, stdin=subprocess.DEVNULL, stdout=output, stderr=output, cwd=self.folder
            )
        end = time.monotonic() + START_S
        while time.monotonic() < end:
            assert self.process.poll() is None, f"{command} ended: {self.output.read_text()[-4000:]}"
            try:
                ask("GET", answers_at)
                return
            except OSError:
                time.sleep(0.1)
        self.stop()
        raise AssertionError(f"{command} does not answer at {answers_at}: {self.output.read_text()[-4000:]}")

    def stop(self) -> None:
        process, self.process = self.process, None
        if process is not None and process.poll() is None:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def __enter__(self) -> Any:
        try:
            self.up()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *reason: object) -> None:
        self.stop()

    def up(self) -> None:
        raise NotImplementedError


def wsgi(port: int, module: str) -> list[str]:
    return [str(PEERS / "python"), str(Path(__file__).parent / "serve_wsgi.py"), str(port), module]


class Keystone(Program):
    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}/v3"

    def up(self) -> None:
        folder = self.folder
        for name in ("keys", "credential-keys"):
            (folder / name).mkdir(mode=0o700)
        write_ini(
            folder / "keystone.conf",
            {
                "DEFAULT": {"log_file": folder / "keystone.log"},
                "database": {"connection": f"sqlite:///{folder}/keystone.db"},
                "fernet_tokens": {"key_repository": folder / "keys"},
                "credential": {"key_repository": folder / "credential-keys"},
                "identity": {"password_hash_rounds": 4},
            },
        )
        self.manage("db_sync")
        self.manage("fernet_setup", "--keystone-user", str(os.geteuid()), "--keystone-group", str(os.getegid()))
        urls = [part for kind in ("admin", "internal", "public") for part in (f"--bootstrap-{kind}-url", self.url)]
        self.manage("bootstrap", "--bootstrap-password", ADMIN_PASSWORD, "--bootstrap-region-id", "RegionOne", *urls)
        self.serve()
        self.make_services({"glance": "image", "nova": "compute", "placement": "placement", "neutron": "network"})

    def serve(self) -> None:
        self.start(wsgi(self.port, "keystone.wsgi.api"), self.url, {"OS_KEYSTONE_CONFIG_DIR": str(self.folder)})

    def manage(self, *arguments: str) -> None:
        self.run(str(PEERS / "keystone-manage"), "--config-file", str(self.folder / "keystone.conf"), *arguments)

    def environment(self) -> dict[str, str]:
        return client_environment(self.url, "admin", ADMIN_PASSWORD, "admin")

    def openstack(self, *commands: str) -> str:
        return openstack(self.environment(), *commands)

    def make_services(self, kinds: Mapping[str, str]) -> None:
        """Services with their users, as installation guides make them. Their endpoints come when their URLs are known."""
        commands: list[str] = []
        for name, kind in kinds.items():
            commands += [
                f"user create --domain Default --password {SERVICE_PASSWORD} {name}",
                f"role add --project service --user {name} admin",
                f"role add --project service --user {name} service",
                f"service create --name {name} {kind}",
            ]
        self.openstack("project create --domain Default service", "role create --or-show service", *commands)

    def make_endpoints(self, urls: Mapping[str, str]) -> None:
        both = [(name, kind, url) for name, url in urls.items() for kind in ("public", "internal")]
        self.openstack(*(f"endpoint create --region RegionOne {name} {kind} {url}" for name, kind, url in both))

    def token(self, user: str = "admin", password: str = ADMIN_PASSWORD, project: str = "admin") -> str:
        return log_in(self.url, user, password, project)


class Glance(Program):
    """glance-api with a file store and SQLite, its users checked by the Keystone at `auth_url`."""

    def __init__(self, folder: Path, auth_url: str, username: str, password: str) -> None:
        super().__init__(folder)
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.login = {
            "auth_url": auth_url,
            "www_authenticate_uri": auth_url,
            "auth_type": "password",
            "username": username,
            "password": password,
            "project_name": "service",
            "user_domain_name": "Default",
            "project_domain_name": "Default",
            "service_token_roles_required": "true",
            "token_cache_time": "-1",
        }

    def up(self) -> None:
        folder = self.folder
        for name in ("images", "staging", "tasks"):
            (folder / name).mkdir()
        config = write_ini(
            folder / "glance-api.conf",
            {
                "DEFAULT": {
                    "log_file": folder / "glance.log",
                    "enabled_backends": "local:file",
                    "worker_self_reference_url": self.url,
                    "enabled_import_methods": "[]",
                    "image_cache_dir": folder / "cache",
                },
                "database": {"connection": f"sqlite:///{folder}/glance.db"},
                "glance_store": {"default_backend": "local"},
                "local": {"filesystem_store_datadir": folder / "images"},
                "os_glance_staging_store": {"filesystem_store_datadir": folder / "staging"},
                "os_glance_tasks_store": {"filesystem_store_datadir": folder / "tasks"},
                "paste_deploy": {"flavor": "keystone", "config_file": PEERS.parent / "etc" / "glance" / "glance-api-paste.ini"},
                "keystone_authtoken": self.login,
            },
        )
        self.run(str(PEERS / "glance-manage"), "--config-file", str(config), "db_sync")
        self.serve()

    def serve(self) -> None:
        self.start(wsgi(self.port, "glance.wsgi.api"), self.url, {"OS_GLANCE_CONFIG_DIR": str(self.folder)})


class Middleware(Program):
    """A WSGI application that tells what it sees, behind keystonemiddleware.auth_token."""

    def __init__(self, folder: Path, settings: Mapping[str, str]) -> None:
        super().__init__(folder)
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.settings = settings

    def up(self) -> None:
        self.start(wsgi(self.port, "echo_app"), self.url, {"AUTH_TOKEN_SETTINGS": json.dumps(self.settings)})


class Ours(Program):
    """Our own cloud with some services and a configuration file."""

    def __init__(self, folder: Path, services: Sequence[str], config: Mapping[str, Mapping[str, object]], driver: str = "fake") -> None:
        super().__init__(folder)
        self.services = services
        self.driver = driver
        self.config = config
        self.offset = free_offset()
        self.urls = {name: f"http://127.0.0.1:{port + self.offset}" for name, port in PORTS.items()}

    def up(self) -> None:
        settings = {
            "DEFAULT": {"state_path": self.folder / "state", "compute_driver": self.driver},
            "cloud": {"port_offset": self.offset, "hosts": 2 if self.driver == "fake" else 0},
            "identity": {"password_hash_rounds": 4},
        }
        file = write_ini(self.folder / "kilonova.conf", {**settings, **self.config})
        environment = {"KILONOVA_ADMIN_PASSWORD": ADMIN_PASSWORD, "KILONOVA_DEMO_PASSWORD": ADMIN_PASSWORD}
        self.start(
            [str(KILONOVA), "serve", *self.services, "--config", str(file)],
            f"{self.urls[self.services[0]]}/healthz",
            {**environment, "PYTHONDONTWRITEBYTECODE": "1"},
        )
        self.until_up()

    def until_up(self) -> None:
        """Until every service answers."""
        end = time.monotonic() + START_S
        for name in self.services:
            while True:
                try:
                    ask("GET", f"{self.urls[name]}/healthz")
                    break
                except OSError:
                    assert time.monotonic() < end, f"{name} is not up: {self.output.read_text()[-4000:]}"
                    time.sleep(0.05)

    def destroy(self) -> None:
        """End it with its guests and its dataplane."""
        self.run(str(KILONOVA), "down", "--destroy", "--state", str(self.folder / "state"))

    @property
    def url(self) -> str:
        return self.urls["identity"] + "/v3"

    @property
    def log(self) -> str:
        return (self.folder / "state" / "log" / "kilonova.log").read_text()

    def token(self, user: str = "admin", project: str = "admin", password: str = ADMIN_PASSWORD) -> str:
        return log_in(self.url, user, password, project)


def client_environment(url: str, user: str, password: str, project: str) -> dict[str, str]:
    values = {"auth_url": url, "username": user, "password": password, "project_name": project, "identity_api_version": "3"}
    values |= {"user_domain_name": "Default", "project_domain_name": "Default", "region_name": "RegionOne"}
    return {"HOME": "/nonexistent", "PATH": "/usr/bin:/bin", **{f"OS_{name.upper()}": value for name, value in values.items()}}


def openstack(environment: Mapping[str, str], *commands: str) -> str:
    """Commands of the stock client, all in one run of it (whose exit status then says nothing). Raises AssertionError when one fails."""
    if len(commands) == 1:
        done = subprocess.run([OPENSTACK, *commands[0].split()], env=environment, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, f"openstack {commands[0]}: {done.stdout}{done.stderr}"
        return done.stdout
    done = subprocess.run(
        [OPENSTACK], input="\n".join((*commands, "quit")) + "\n", env=environment, capture_output=True, text=True, timeout=180
    )
    wrong = re.search(
        r"(?im)^.*(exception|error|unknown command|\(HTTP [45]\d\d\)|conflict|usage:|not found).*$", done.stderr + done.stdout
    )
    assert wrong is None and len(done.stdout) > 0, f"openstack {commands}: {done.stdout}{done.stderr}"
    return done.stdout
