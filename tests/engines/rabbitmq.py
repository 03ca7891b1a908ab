"""A real RabbitMQ node for tests, from Debian's package: on loopback, on free ports, with a disk, a cookie and an epmd of its own.

`shared()` gives one node to all the processes of a test run, ended by the last of them; a test that kills or wipes has its `own(folder)`.
Users: `kilonova` may do everything; `agent-1` has its own queues only. Addresses and queues want names that no other test uses.
"""

import base64
import contextlib
import datetime
import fcntl
import hashlib
import ipaddress
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

SBIN = next(iter(sorted(Path("/usr/lib/rabbitmq/lib").glob("rabbitmq_server-*/sbin"))), None)
USER, PASSWORD = "kilonova", "rabbit-secret"
WORKERS = 8
AGENT, AGENT_PASSWORD = "agent-1", "agent-secret"
READY_S = 60.0

needs_rabbitmq = pytest.mark.skipif(SBIN is None, reason="RabbitMQ is not installed (tools/setup.py packages)")


def free_ports(count: int) -> list[int]:
    held = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [s.getsockname()[1] for s in held]
    for s in held:
        s.close()
    return ports


class Rabbit:
    """One node. `start` waits until it takes connections; `kill` is kill -9; `wipe` (while it is down) loses its disk."""

    address = "127.0.0.1"
    host = "localhost"
    """In the node's name."""
    cookie = ""
    settings = ""
    """More lines of rabbitmq.conf."""

    def __init__(self, folder: Path, ports: list[int] | None = None, pids: list[int] | None = None) -> None:
        self.folder = folder
        self.port, self.tls_port, self._distribution, self._epmd = ports or free_ports(4)
        self.pids = pids or []
        self.lasting = False
        """Whether it outlives the process that started it."""
        self._children: dict[int, subprocess.Popen[bytes]] = {}
        self.ready_s = 0.0
        self._began = 0.0

    @property
    def ports(self) -> list[int]:
        return [self.port, self.tls_port, self._distribution, self._epmd]

    @property
    def url(self) -> str:
        return f"rabbit://{USER}:{PASSWORD}@{self.address}:{self.port}/"

    @property
    def own_url(self) -> str:
        """In a virtual host that no other worker of the run uses: for tests of whole services, whose addresses have the same names."""
        worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0")[2:])
        return f"{self.url}worker{worker % WORKERS}"

    @property
    def ca_file(self) -> str:
        return str(self.folder / "tls" / "ca.pem")

    # ---- life

    def start(self) -> "Rabbit":
        self.launch()
        self.wait()
        return self

    def launch(self) -> None:
        assert SBIN is not None
        self._began = time.monotonic()
        if not (self.folder / "rabbitmq.conf").exists():
            self._prepare()
        if not self.pids:
            epmd = shutil.which("epmd") or "epmd"
            self._run([epmd, "-port", str(self._epmd), "-address", self.address])
            _wait_for(self._epmd, 10.0, at=self.address)
        self._run([str(SBIN / "rabbitmq-server")])

    def wait(self) -> None:
        with contextlib.suppress(subprocess.SubprocessError):
            _wait_for(self.port, READY_S, self._children[self.pids[-1]], self.address)
        if self.tls_port:
            _wait_for(self.tls_port, 5.0, self._children[self.pids[-1]], self.address)
        self.ready_s = time.monotonic() - self._began

    def kill(self) -> None:
        """The node dies at once; its epmd lives."""
        self._end(self.pids.pop(), signal.SIGKILL)

    def stop_node(self) -> None:
        """An orderly shutdown."""
        self._end(self.pids.pop(), signal.SIGTERM)

    def freeze(self) -> None:
        os.kill(self.pids[-1], signal.SIGSTOP)

    def thaw(self) -> None:
        os.kill(self.pids[-1], signal.SIGCONT)

    def wipe(self) -> None:
        shutil.rmtree(self.folder / "mnesia", ignore_errors=True)
        (self.folder / "mnesia").mkdir()

    def stop(self) -> None:
        while self.pids:
            self._end(self.pids.pop(), signal.SIGKILL)

    def control(self, *arguments: str) -> str:
        """rabbitmqctl: a second or two."""
        assert SBIN is not None
        command = self._inside([str(SBIN / "rabbitmqctl"), "-q", *arguments])
        done = subprocess.run(command, env=self._environment(), capture_output=True, text=True, timeout=60, check=True)
        return done.stdout

    def _end(self, pid: int, how: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, how)
        child = self._children.pop(pid, None)
        if child is not None:
            child.wait(30)
            return
        for _ in range(1000):
            if not Path(f"/proc/{pid}").exists():
                return
            time.sleep(0.01)

    def _run(self, command: list[str]) -> None:
        if not self.lasting:
            command = ["setpriv", "--pdeathsig", "KILL", "--", *command]
        with (self.folder / "out").open("ab") as out:
            child = subprocess.Popen(
                self._inside(command),
                env=self._environment(),
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                start_new_session=True,
            )
        self._children[child.pid] = child
        self.pids.append(child.pid)

    def _inside(self, command: list[str]) -> list[str]:
        return command

    def _environment(self) -> dict[str, str]:
        f = self.folder
        return {
            "PATH": os.environ.get("PATH", "/usr/bin:/bin"),
            "LANG": "C.UTF-8",
            "HOME": str(f / "home"),
            "ERL_EPMD_PORT": str(self._epmd),
            "ERL_EPMD_ADDRESS": self.address,
            "RABBITMQ_NODENAME": f"n{self._distribution}@{self.host}",
            "RABBITMQ_DIST_PORT": str(self._distribution),
            "RABBITMQ_CONFIG_FILE": str(f / "rabbitmq.conf"),
            "RABBITMQ_CONF_ENV_FILE": "/dev/null",
            "RABBITMQ_MNESIA_BASE": str(f / "mnesia"),
            "RABBITMQ_LOG_BASE": str(f / "log"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(f / "plugins"),
            "RABBITMQ_PID_FILE": str(f / "pid"),
            # with it the start script becomes the node instead of watching over it: one process, one id
            "RABBITMQ_ALLOW_INPUT": "1",
            "RABBITMQ_SERVER_START_ARGS": "-noinput",
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": " ".join(
                (
                    f"-kernel inet_dist_use_interface {{{self.address.replace('.', ',')}}}",
                    "+S 2:2",
                    "+sbwt none",
                    "+sbwtdcpu none",
                    "+sbwtdio none",
                )
            ),
        }

    def _prepare(self) -> None:
        f = self.folder
        for name in ("home", "mnesia", "log", "tls"):
            (f / name).mkdir(parents=True)
        cookie = f / "home" / ".erlang.cookie"
        cookie.write_text(self.cookie or secrets.token_hex(16))
        cookie.chmod(0o400)
        (f / "plugins").write_text("[].\n")
        make_certificates(f / "tls")
        (f / "definitions.json").write_text(json.dumps(_definitions()))
        tls = (
            f"listeners.ssl.1 = {self.address}:{self.tls_port}\n"
            f"ssl_options.cacertfile = {f}/tls/ca.pem\n"
            f"ssl_options.certfile = {f}/tls/server.pem\n"
            f"ssl_options.keyfile = {f}/tls/server.key\n"
            "ssl_options.verify = verify_peer\nssl_options.fail_if_no_peer_cert = false\n"
        )
        (f / "rabbitmq.conf").write_text(
            f"listeners.tcp.1 = {self.address}:{self.port}\n{tls if self.tls_port else ''}{self.settings}"
            f"load_definitions = {f}/definitions.json\n"
            "loopback_users = none\nlog.console = false\ndisk_free_limit.absolute = 1MB\n"
        )


def _wait_for(port: int, seconds: float, child: subprocess.Popen[bytes] | None = None, at: str = "127.0.0.1") -> None:
    until = time.monotonic() + seconds
    while True:
        try:
            socket.create_connection((at, port), 1.0).close()
            return
        except OSError:
            if time.monotonic() > until or (child is not None and child.poll() is not None):
                raise
            time.sleep(0.05)


class Member(Rabbit):
    """One node of a cluster, in a network namespace of its own, where `address` is. All members are started together (each waits for the
    others' first), and after a partition one side starts anew. `cookie` is common to them."""

    def __init__(self, folder: Path, *, address: str, namespace: str, members: list[str], cookie: str) -> None:
        super().__init__(folder, [5672, 0, 25672, 4369])
        self.address = self.host = address
        self.namespace = namespace
        self.cookie = cookie
        nodes = "".join(f"cluster_formation.classic_config.nodes.{n + 1} = n25672@{at}\n" for n, at in enumerate(members))
        self.settings = (
            "cluster_formation.peer_discovery_backend = classic_config\n" + nodes + "cluster_partition_handling = autoheal\n"
            "net_ticktime = 8\n"
        )

    def view(self) -> str:
        """The nodes that it sees running, and those that it was parted from and has not healed with; empty when it does not answer."""
        try:
            return self.control("eval", "{lists:sort(rabbit_mnesia:cluster_nodes(running)), rabbit_node_monitor:partitions()}.").strip()
        except subprocess.SubprocessError:
            return ""

    def _inside(self, command: list[str]) -> list[str]:
        return ["nsenter", f"--net=/run/netns/{self.namespace}", "--", *command]

    def _environment(self) -> dict[str, str]:
        return {**super()._environment(), "RABBITMQ_USE_LONGNAME": "true"}


def _definitions() -> dict[str, Any]:
    def user(name: str, password: str) -> dict[str, Any]:
        salt = secrets.token_bytes(4)
        hashed = base64.b64encode(salt + hashlib.sha256(salt + password.encode()).digest()).decode()
        return {"name": name, "password_hash": hashed, "hashing_algorithm": "rabbit_password_hashing_sha256", "tags": []}

    own = r"kilonova\.(compute|network)\.host-1|amq\.gen.*"
    hosts = ["/", *(f"worker{number}" for number in range(WORKERS))]
    return {
        "users": [user(USER, PASSWORD), user(AGENT, AGENT_PASSWORD)],
        "vhosts": [{"name": name} for name in hosts],
        "permissions": [
            *({"user": USER, "vhost": name, "configure": ".*", "write": ".*", "read": ".*"} for name in hosts),
            {"user": AGENT, "vhost": "/", "configure": f"^({own})$", "write": f"^({own}|amq\\.default)$", "read": f"^({own})$"},
        ],
    }


def make_certificates(folder: Path) -> None:
    """ca.pem; server.pem and server.key for localhost and 127.0.0.1; client.pem and client.key."""
    now = datetime.datetime.now(datetime.UTC)
    authority = ec.generate_private_key(ec.SECP256R1())
    root = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test authority")])

    def certificate(name: x509.Name, key: ec.EllipticCurvePrivateKey, *, ca: bool) -> x509.Certificate:
        builder = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(root)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(days=1))
            .not_valid_after(now + datetime.timedelta(days=30))
            .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(authority.public_key()), critical=False)
        )
        if not ca:
            names = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
            builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        return builder.sign(authority, hashes.SHA256())

    def write(stem: str, key: ec.EllipticCurvePrivateKey, made: x509.Certificate) -> None:
        (folder / f"{stem}.pem").write_bytes(made.public_bytes(serialization.Encoding.PEM))
        private = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        (folder / f"{stem}.key").write_bytes(private)

    write("ca", authority, certificate(root, authority, ca=True))
    for stem in ("server", "client"):
        key = ec.generate_private_key(ec.SECP256R1())
        write(stem, key, certificate(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, stem)]), key, ca=False))


@contextlib.contextmanager
def own(folder: Path) -> Iterator[Rabbit]:
    """A node for one test. `folder` must not be there yet, or be empty."""
    folder.mkdir(parents=True, exist_ok=True)
    rabbit = Rabbit(folder)
    try:
        yield rabbit.start()
    finally:
        rabbit.stop()


@contextlib.contextmanager
def shared() -> Iterator[Rabbit]:
    """The node of this test run: the first process that asks starts it, the last one that leaves ends it."""
    run = os.environ.get("PYTEST_XDIST_TESTRUNUID") or f"alone-{os.getpid()}"
    folder = Path(tempfile.gettempdir()) / f"kilonova-rabbitmq-{run}"
    state = folder / "state.json"
    with _locked(folder):
        folder.mkdir(exist_ok=True)
        if state.exists():
            known = json.loads(state.read_text())
            rabbit = Rabbit(folder, known["ports"], known["pids"])
        else:
            known = {"users": 0}
            rabbit = Rabbit(folder)
            rabbit.lasting = "PYTEST_XDIST_TESTRUNUID" in os.environ
            try:
                rabbit.start()
            except BaseException:
                rabbit.stop()
                raise
        state.write_text(json.dumps({"ports": rabbit.ports, "pids": rabbit.pids, "users": known["users"] + 1}))
    try:
        yield rabbit
    finally:
        with _locked(folder):
            known = json.loads(state.read_text())
            known["users"] -= 1
            state.write_text(json.dumps(known))
            if not known["users"]:
                rabbit.stop()
                shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """One lock for all runs of a user, outside of what they delete."""
    with folder.with_name(f"kilonova-rabbitmq-{os.getuid()}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
