"""Machines that join with a token: one command each, and each may touch only what is its own, whoever holds its key."""

import asyncio
import contextlib
import http.server
import io
import json
import shlex
import shutil
import socket
import ssl
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from operator import methodcaller
from pathlib import Path
from typing import Any

import asyncpg
import msgspec
import pytest
from aiormq.connection import Connection
from aiormq.exceptions import AMQPError
from pamqp.commands import Basic
from yarl import URL

from kilonova.cli import join_client
from kilonova.cli.failure import Failure
from kilonova.compute import rpc
from kilonova.compute.join_forms import RenewalAsked, Renewed, read_token
from kilonova.core import certificates
from kilonova.core.binding import Call, methods
from kilonova.core.bus import wire
from kilonova.core.bus.config import RabbitOptions, parse_url
from kilonova.core.bus.rabbitmq import RabbitBus
from kilonova.core.context import service_context
from kilonova.core.errors import Forbidden, NotFound
from kilonova.core.log import Log, Sink
from kilonova.core.runtime import Runtime
from kilonova.image.contract import ImageFilters, Images
from kilonova.network import rpc as net
from kilonova.network.contract import Network
from tests.cluster.cluster import Api, Cluster
from tests.cluster.conftest import APIS
from tests.engines.postgresql import PostgreSQL
from tests.engines.rabbitmq import PASSWORD, SBIN, USER, Rabbit, free_ports, make_certificates, needs_rabbitmq

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
        shutil.rmtree(folder, ignore_errors=True)


def test_machines_join_and_run_servers() -> None:
    with joinable() as cloud:
        one, two = cloud.machine("one"), cloud.machine("two")
        token = cloud.token()
        one.join(token)
        assert "has been used (one); a token works once" in two.join(token, ok=False)
        two.join(cloud.token("--host", "two"))
        one.run()
        assert "The cloud is up" in kilonova("join", "--detach", "--state", str(two.state))
        kilonova("down", "--state", str(two.state))
        two.run("join")
        for machine in (one, two):
            assert machine.child is not None
            loaded = Path(f"/proc/{machine.child.pid}/maps").read_text()
            assert "/sqlalchemy/" not in loaded and "asyncpg" not in loaded
        ids = cloud.api.prepare()
        servers = [cloud.api.boot(ids, f"s{n}") for n in range(4)]
        hosts = [cloud.api.until(server, "ACTIVE")["server"]["OS-EXT-SRV-ATTR:host"] for server in servers]
        assert set(hosts) == {"one", "two"}
        own_servers(cloud, servers[0])
        for machine in (one, two):
            assert "message was refused" not in machine.log() and '"level":"error"' not in machine.log()
        assert "message was refused" not in cloud.front.log(), cloud.front.log()

        # What security-check says of them; and the classic way beside it.
        own = {item["id"]: item["result"] for item in json.loads(kilonova("security-check", "--json", "--state", str(one.state)))}
        assert own["Check-Kilonova-01"] == own["Check-Kilonova-07"] == own["Check-Kilonova-10"] == "pass" and "fail" not in own.values()
        found = checked(cloud)
        assert found["Check-Kilonova-07"]["result"] == "pass" and found["Check-Kilonova-11"]["result"] == "fail"
        assert found["Check-Kilonova-12"]["result"] == "pass" and found["Check-Kilonova-06"]["result"] == "pass"
        cloud.cluster.start("classic", ["hypervisor"], offset=OFFSET)
        end = time.monotonic() + 20
        while checked(cloud)["Check-Kilonova-07"]["result"] == "pass":
            assert time.monotonic() < end
        told = checked(cloud)["Check-Kilonova-07"]
        assert "1 hypervisors use the control plane's broker user" in told["reason"] and "classic" in told["reason"]
        assert PASSWORD not in str(checked(cloud))


def own_servers(cloud: Joinable, server: str) -> None:
    """The verbs that a joined host has a part in."""
    for action, state in (({"os-stop": None}, "SHUTOFF"), ({"os-start": None}, "ACTIVE"), ({"reboot": {"type": "HARD"}}, "ACTIVE")):
        status, answer = cloud.api("compute", "POST", f"/v2.1/servers/{server}/action", action)
        assert status == 202, answer
        cloud.api.until(server, state)
    status, answer = cloud.api("compute", "POST", f"/v2.1/servers/{server}/action", {"createImage": {"name": "copy"}})
    assert status == 202, answer
    end = time.monotonic() + 30
    while [image["status"] for image in cloud.api("image", "GET", "/v2/images?name=copy")[1]["images"]] != ["active"]:
        assert time.monotonic() < end
        time.sleep(0.1)
    cloud.api.until(server, "ACTIVE")
    assert cloud.api("compute", "DELETE", f"/v2.1/servers/{server}")[0] == 204
    cloud.api.until(server, "GONE")


def checked(cloud: Joinable) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-P", "-m", "kilonova", "security-check", "--json", "--config", str(cloud.cluster.config)],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 1, done.stderr
    return {one["id"]: one for one in json.loads(done.stdout)}


# ---------------------------------------------------------------- a stolen key


Act = Callable[[Any], Awaitable[Any]]


class Thief:
    """Whoever has read a joined machine's state directory, and speaks to the broker as it likes."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.runtime = Runtime()
        (self.broker,), _ = parse_url(url)

    @contextlib.asynccontextmanager
    async def bus(self) -> AsyncIterator[RabbitBus]:
        made = RabbitBus(RabbitOptions(brokers=(self.broker,)), self.runtime, Log("thief", Sink(io.StringIO())), name="thief")
        await made.start(10.0)
        try:
            yield made
        finally:
            await made.stop()

    async def raw(self, act: Act) -> str:
        """What the broker says to one act on a channel of its own; empty: it did it."""
        connection = Connection(URL(self.url.replace("rabbit://", "amqp://")))
        await connection.connect()
        try:
            channel = await connection.channel()
            await act(channel)
            await asyncio.sleep(0.2)  # what is published wrongly is answered by an end of the channel
            if channel.is_closed:
                closing = channel.closing.exception() if not channel.closing.cancelled() else None
                return str(closing or "closed")
            return ""
        except AMQPError as error:
            return f"{type(error).__name__} {error}"
        finally:
            with contextlib.suppress(Exception):
                await connection.close()


def refused(bus: RabbitBus, where: str, message: Any) -> Awaitable[None]:
    async def main() -> None:
        with pytest.raises((Forbidden, NotFound)) as caught:
            await bus.call(where, message, 10.0)
        assert isinstance(caught.value, Forbidden), (where, message, caught.value)

    return main()


def asked(contract: Any, method: str, *arguments: Any, **named: Any) -> Call:
    return Call(method, methods(contract)[method].pack(arguments, named))


async def rows(url: str) -> dict[str, list[Any]]:
    """What there is of servers, hosts, ports and images, without what heartbeats write."""
    connection = await asyncpg.connect(url)
    wanted = {
        "servers": "SELECT id, state, task, power_state, host, generation, updated_at, nics FROM servers ORDER BY id",
        "hosts": "SELECT host, hypervisor_hostname, vcpus, ram_mb, disk_gb, host_ip, disabled FROM compute_hosts ORDER BY host",
        "ports": "SELECT id, status, host, device_id, wiring_error, updated_at FROM ports ORDER BY id",
        "agents": "SELECT host, vtep_ip FROM network_hosts ORDER BY host",
        "images": "SELECT id, status, size, updated_at FROM images ORDER BY id",
        "joined": "SELECT host, my_ip, certificate_sha256, left_at FROM joined_hosts ORDER BY host",
    }
    try:
        return {name: [tuple(row) for row in await connection.fetch(statement)] for name, statement in wanted.items()}
    finally:
        await connection.close()


def test_row_60_a_stolen_key_is_worth_its_own_host_only() -> None:
    with joinable() as cloud:
        mine, other = cloud.machine("mine"), cloud.machine("other")
        for machine in (mine, other):
            machine.join(cloud.token())
            machine.run()
        ids = cloud.api.prepare()
        found: dict[str, str] = {}
        for number in range(6):
            server = cloud.api.boot(ids, f"s{number}")
            found.setdefault(cloud.api.until(server, "ACTIVE")["server"]["OS-EXT-SRV-ATTR:host"], server)
            if len(found) == 2:
                break
        status, private = cloud.api("image", "POST", "/v2/images", {"name": "theirs", "disk_format": "raw", "container_format": "bare"})
        assert status == 201 and cloud.api("image", "PUT", f"/v2/images/{private['id']}/file", data=b"secret bytes")[0] == 204
        status, ports = cloud.api("network", "GET", f"/v2.0/ports?device_id={found['other']}")
        asyncio.run(attack(cloud, Thief(mine.transport_url()), found, ports["ports"][0], ids, private["id"]))
        for log in (mine.log(), other.log(), cloud.front.log()):
            assert password_of(mine) not in log and password_of(other) not in log


def password_of(machine: Machine) -> str:
    (broker,), _ = parse_url(machine.transport_url())
    return broker.password


async def attack(cloud: Joinable, thief: Thief, servers: dict[str, str], port: dict[str, Any], ids: dict[str, str], private: str) -> None:
    ctx = service_context("compute")
    fence = rpc.Fence(operation="x", generation=99, epoch=99)
    before = await rows(cloud.database.url())
    theirs, ip = servers["other"], port["fixed_ips"][0]["ip_address"]
    commands = ("compute.other", "network.other", "file.other." + "0" * 32)

    # What the broker itself refuses: to read, make, bind or empty another's queue, to publish to exchanges, to pose as somebody.
    for queue in ("kilonova.compute.other", "kilonova.network.other", "kilonova.network.facts", "kilonova.image", "kilonova.compute.facts"):
        acts: list[Act] = [
            methodcaller("basic_consume", queue, swallow),
            methodcaller("basic_get", queue),
            methodcaller("queue_purge", queue),
            methodcaller("queue_delete", queue),
            methodcaller("queue_declare", queue + ".x"),
            methodcaller("queue_bind", queue, "amq.topic", "x"),
        ]
        for act in acts:
            assert "ACCESS_REFUSED" in await thief.raw(act), queue
    body = wire.request("x-1", rpc.Destroy(fence=fence, server_id=theirs), "", 10.0)
    for user in ("kilonova", "agent.other"):
        said = await thief.raw(publishing(body, routing_key="kilonova.compute.other", properties=Basic.Properties(user_id=user)))
        assert "PRECONDITION_FAILED" in said, said
    for exchange in ("kilonova.topic.network.changed", "amq.topic", "nova"):
        said = await thief.raw(publishing(b"x", exchange=exchange))
        assert "ACCESS_REFUSED" in said or "NOT_FOUND" in said, said
    assert "ACCESS_REFUSED" in await thief.raw(lambda c: c.exchange_declare("kilonova.topic.own"))
    # Nobody hears a message without a sender.
    for address in (*commands, "network.facts", "compute.facts", "image"):
        told = wire.request(f"x-{address}", net.Heartbeat(host="other"), "", 10.0)
        await thief.raw(publishing(told, routing_key=f"kilonova.{address}"))
    await thief.raw(publishing(body, routing_key="kilonova.compute.other"))

    report = rpc.HostReport(
        host="other", hypervisor_hostname="other", hypervisor_type="fake", hypervisor_version=1, vcpus=1, ram_mb=1, disk_gb=1
    )
    hello = net.AgentStarted(host="other", vtep_ip="192.0.2.11", description=net.DriverDescription(driver="fake"))
    changed = rpc.GuestChanged(host="other", server_id=theirs, power_state=4)
    async with thief.bus() as bus:
        for message in (
            rpc.Destroy(fence=fence, server_id=theirs), rpc.PowerOff(fence=fence, server_id=theirs), rpc.ReadConsole(server_id=theirs),
        ):  # fmt: skip
            await refused(bus, "compute.other", message)
        await refused(bus, "network.other", net.Unplug(port_id=port["id"]))
        await refused(bus, "network.other", net.Resync())
        for fact in (
            report,
            msgspec.structs.replace(report, host="mine"),
            rpc.Alive(hosts=("other",)),
            rpc.Alive(hosts=("mine", "other")),
            changed,
        ):
            await refused(bus, "compute.facts", fact)
        for told_of_network in (
            hello, msgspec.structs.replace(hello, host="mine", vtep_ip="192.0.2.12"),
            msgspec.structs.replace(hello, host="mine", vtep_ip="192.0.2.99"), net.StateWanted(host="other"), net.Heartbeat(host="other"),
            net.HostFacts(host="other", facts=(net.PortFailed(port_id=port["id"], reason="lie"),)),
        ):  # fmt: skip
            await refused(bus, "network.facts", told_of_network)
        # Its own host's name, another's things: taken, and worth nothing.
        await bus.call("compute.facts", rpc.GuestChanged(host="mine", server_id=theirs, power_state=4), 10.0)
        lies = (
            net.PortFailed(port_id=port["id"], reason="lie"), net.PortWired(port_id=port["id"]), net.RouterReady(router_id="x"),
            net.HostSynced(wired=(port["id"],), failed=(net.PortFailed(port_id=port["id"], reason="lie"),)),
        )  # fmt: skip
        await bus.call("network.facts", net.HostFacts(host="mine", facts=lies), 10.0)
        # Contracts.
        for call in (
            asked(Images, "read", ctx, private, 0, 100), asked(Images, "get", ctx, ids["image"]),
            asked(Images, "list", ctx, ImageFilters()),
            asked(Images, "delete", ctx, ids["image"]), asked(Images, "local_path", ctx, ids["image"]),
            asked(Images, "update", ctx, ids["image"], {}, name="mine"), Call("read", b"\x93\x01\x02\x03"),
        ):  # fmt: skip
            await refused(bus, "image", call)
        for call in (
            asked(Network, "nics", ctx, theirs), asked(Network, "release", ctx, theirs), asked(Network, "rebind", ctx, theirs, "mine"),
            asked(Network, "network_data", ctx, theirs),
        ):  # fmt: skip
            await refused(bus, "network", call)
        for address in ("file.other." + "0" * 32, "file.mine." + "0" * 32):
            await refused(bus, "image.store", rpc.StoreImage(image_id=private, address=address))
        await refused(bus, "compute.conductor", rpc.OperationReady(operation="x"))
        await refused(bus, "compute.conductor", rpc.HostClaim(host="mine", server_id=theirs))
        for request in (
            net.MetadataRequest(network_id=ids["network"], source_ip=ip, method="GET", path="/openstack/latest/meta_data.json"),
            net.MetadataRequest(source_ip=ip, method="GET", path="/openstack/latest/user_data"),
            net.MetadataRequest(network_id=ids["network"], router_id="x", source_ip=ip, method="GET", path="/"),
        ):
            await refused(bus, "metadata", request)
        # And what is its own goes on.
        own = (await bus.call("network.facts", net.StateWanted(host="mine"), 10.0)).ports
        assert servers["mine"] in {p.device_id for p in own}
        assert theirs not in {p.device_id for p in own}
        read = await bus.call("image", asked(Images, "read", ctx, ids["image"], 0, 100), 10.0)
        assert len(msgspec.msgpack.decode(read.value)) == 100
        answer = await bus.call(
            "metadata",
            net.MetadataRequest(
                network_id=ids["network"], source_ip=own[0].fixed_ips[0].ip, method="GET", path="/openstack/latest/meta_data.json"
            ),
            20.0,
        )
        assert answer.status == 200
    await asyncio.sleep(1.0)
    assert await rows(cloud.database.url()) == before
    answer = cloud.api("compute", "GET", f"/v2.1/servers/{theirs}")[1]
    assert answer["server"]["status"] == "ACTIVE"


def publishing(data: bytes, **where: Any) -> Act:
    return lambda channel: channel.basic_publish(data, wait=False, **where)


async def swallow(message: Any) -> None:
    """Never called."""


# ---------------------------------------------------------------- what is refused, and the life of a membership


@contextlib.contextmanager
def impostor(folder: Path, authority: str, chain: Path) -> Iterator[int]:
    """Whoever answers in a controller's place: shows this authority, and serves with this certificate and key. Its port."""
    heard: list[bytes] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = json.dumps({"certificate": authority}).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def do_POST(self) -> None:
            heard.append(self.rfile.read(int(self.headers["Content-Length"])))

        def log_message(self, *_: Any) -> None:
            """Quiet."""

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(chain)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        server.server_close()
        thread.join(10)
    assert not heard, "it was told something"


def test_what_is_refused_and_what_ends() -> None:
    with joinable() as cloud:
        one, two = cloud.machine("one"), cloud.machine("two")
        expired = cloud.token("--ttl", "1s")
        time.sleep(1.2)
        assert "it has expired" in one.join(expired, ok=False)
        assert "it is for the host two, not for one" in one.join(cloud.token("--host", "two"), ok=False)
        token = cloud.token()
        assert "not complete" in one.join(token[:-5], ok=False)
        assert "no join token" in one.join("secret", ok=False)
        assert "is a name of the cloud's own" in one.join(token, "--host", "facts", ok=False)
        assert "digits, dots" in one.join(token, "--host", "one;two", ok=False)
        unknown = read_token(token)
        unknown = msgspec.structs.replace(unknown, secret=b"x" * 32)
        assert "not known to this cloud" in one.join(unknown.text(), ok=False)

        # Somebody in between.
        authority = kilonova("join-token", "--authority", "--config", str(cloud.cluster.config))
        others = cloud.folder / "others"
        others.mkdir()
        make_certificates(others)
        (others / "chain.pem").write_text((others / "server.pem").read_text() + (others / "server.key").read_text())
        for shown, said in (((others / "ca.pem").read_text(), "its certificate authority is another"), (authority, "cannot prove")):
            with impostor(cloud.folder, shown, others / "chain.pem") as port:
                false = msgspec.structs.replace(read_token(token), controllers=(f"127.0.0.1:{port}",))
                assert said in one.join(false.text(), ok=False)
        assert "No controller answers" in one.join(
            msgspec.structs.replace(read_token(token), controllers=("127.0.0.1:1",)).text(), ok=False
        )

        # None of this has used the token, or a broker's user.
        assert [u for u in cloud.broker.control("list_users").split() if u.startswith("agent.")] == []
        one.join(token)
        assert "needs a token of its own" in one.join(cloud.token(), ok=False)
        two.my_ip = one.my_ip
        assert "is the address of another host" in two.join(cloud.token(), ok=False)
        two.my_ip = "192.0.2.12"

        # A joined host's certificate is no controller's.
        chain = one.state / "join" / "host.pem"
        with impostor(cloud.folder, authority, chain) as port:
            false = msgspec.structs.replace(read_token(cloud.token()), controllers=(f"127.0.0.1:{port}",))
            assert "cannot prove" in two.join(false.text(), ok=False)

        for name in ("host.pem", "kilonova.conf", "membership.json"):
            assert (one.state / "join" / name).stat().st_mode & 0o077 == 0
        one.run()
        before = chain.read_text()
        stolen = cloud.folder / "stolen.pem"
        stolen.write_text(before)
        assert "is good until" in kilonova("join", "--renew", "--state", str(one.state))
        assert chain.read_text() != before
        # A renewal needs a certificate, and one that the cloud has signed.
        mine = (one.state / "join" / "authority.pem").read_text()
        controllers = read_token(token).controllers
        request, _ = certificates.new_request("one")
        with pytest.raises(Failure, match=r"unknown ca|No controller answers|alert"):
            join_client.renew(controllers, mine, others / "chain.pem", request)
        bare = ssl.create_default_context(cadata=mine)
        with pytest.raises(Failure, match="needs the certificate"):
            join_client._ask(controllers[0], bare, "POST", "/v1/renew", RenewalAsked(request=request), Renewed, 10.0)

        assert "is shut out" in kilonova("leave", "one", "--config", str(cloud.cluster.config))
        assert "No host three has joined" in kilonova("leave", "three", "--config", str(cloud.cluster.config), ok=False)
        end = time.monotonic() + 20
        while "refused the user name or the password" not in one.log():
            assert time.monotonic() < end, one.log()[-2000:]
            time.sleep(0.1)
        assert "does not belong to this cloud any more" in kilonova("join", "--renew", "--state", str(one.state), ok=False)
        one.stop()
        assert "needs a token of its own" in one.join(cloud.token(), ok=False)
        one.join(cloud.token("--host", "one"))
        # Certificates of the life before are worth nothing in the next one.
        with pytest.raises(Failure, match="does not belong to this cloud any more"):
            join_client.renew(controllers, mine, stolen, request)
        for _ in range(2):
            kilonova("join", "--renew", "--state", str(one.state))
        asyncio.run(grown_old(cloud, one))
        one.run()
        end = time.monotonic() + 20
        while "the host's certificate was renewed" not in one.log():
            assert time.monotonic() < end, one.log()[-2000:]
            time.sleep(0.1)
        assert certificates.ends_at(certificate_of(one)) > time.time() * 1e6 + 80 * certificates.DAY_US
        secrets = [password_of(one), read_token(token).secret.hex(), token, one.transport_url()]
        texts = [path.read_text(errors="replace") for path in cloud.folder.glob("*/log/*")] + [cloud.front.log(), one.log()]
        texts += [path.read_text(errors="replace") for path in cloud.folder.glob("*.out")] + [
            (cloud.folder / "control" / "out").read_text()
        ]
        for secret in secrets:
            assert not any(secret in text for text in texts)


async def grown_old(cloud: Joinable, machine: Machine) -> None:
    """As if it had been given its certificate 80 days ago."""
    connection = await asyncpg.connect(cloud.database.url())
    row = await connection.fetchrow("SELECT certificate, private_key FROM join_authority")
    request, key = certificates.new_request(machine.name)
    then = int(time.time() * 1e6) - 80 * certificates.DAY_US
    old = certificates.sign((row[0], row[1]), request, f"agent.{machine.name}", then, 90)
    (machine.state / "join" / "host.pem").write_text(key + old)
    given = certificates.fingerprint(old)
    await connection.execute("UPDATE joined_hosts SET certificate_sha256 = $1 WHERE host = $2", given, machine.name)
    await connection.close()


def certificate_of(machine: Machine) -> str:
    text = (machine.state / "join" / "host.pem").read_text()
    return text[text.find("-----BEGIN CERTIFICATE") :]


# ---------------------------------------------------------------- TLS to the broker, and rabbitmqctl


class Strict(Rabbit):
    """It takes no connection without TLS, asks each client for a certificate, and believes the cloud's authority."""

    def trust(self, authority: str) -> None:
        """Before it starts."""
        if not (self.folder / "rabbitmq.conf").exists():
            self._prepare()
        bundle = self.folder / "tls" / "clients.pem"
        bundle.write_text((self.folder / "tls" / "ca.pem").read_text() + authority)
        conf = (self.folder / "rabbitmq.conf").read_text()
        conf = conf.replace(f"cacertfile = {self.folder}/tls/ca.pem", f"cacertfile = {bundle}")
        (self.folder / "rabbitmq.conf").write_text(conf.replace("fail_if_no_peer_cert = false", "fail_if_no_peer_cert = true"))


def test_row_60_mutual_tls_to_the_broker_with_users_made_by_rabbitmqctl() -> None:
    """The broker is started last: it must know the authority, which `join-token --authority` makes."""
    folder = Path(tempfile.mkdtemp(prefix="kn-join-"))
    folder.chmod(0o755)
    (folder / "broker").mkdir()
    database, broker = PostgreSQL().start(), Strict(folder / "broker")
    machine = Machine(folder, "one", 11)
    cluster: Cluster | None = None
    try:
        broker._prepare()
        tls = broker.folder / "tls"
        control = folder / "rabbitmqctl"
        lines = "".join(f"export {name}={shlex.quote(value)}\n" for name, value in broker._environment().items())
        control.write_text(f'#!/bin/sh\n{lines}exec {SBIN}/rabbitmqctl "$@"\n')
        control.chmod(0o755)
        settings = (
            f"[broker]\nrabbitmqctl = {control}\nclient_certificates = true\n"
            f"[oslo_messaging_rabbit]\nssl = true\nssl_ca_file = {tls}/ca.pem\n"
            f"ssl_cert_file = {tls}/client.pem\nssl_key_file = {tls}/client.key\n"
        )
        url = f"rabbit://{USER}:{PASSWORD}@localhost:{broker.tls_port}/"
        cluster = Cluster(folder, database.url(), url, settings)
        cluster.sync()
        broker.trust(kilonova("join-token", "--authority", "--config", str(cluster.config)))
        broker.start()
        front = cluster.start("control", [*APIS, "conductor"], offset=OFFSET + 40)
        own = str(folder / "control" / "own.conf")
        machine.join(kilonova("join-token", "--config", str(cluster.config), "--config", own))
        assert "agent.one" in broker.control("list_users")
        machine.run()
        api = Api({service: front.url(service) for service in ("identity", "image", "compute", "network")})
        api.until(api.boot(api.prepare()), "ACTIVE")
        listed = broker.control("list_connections", "user", "ssl", "peer_cert_subject")
        assert "agent.one\ttrue\tCN=agent.one" in listed, listed
        # Without the certificate the password is worth nothing.
        config = machine.state / "join" / "kilonova.conf"
        machine.stop()
        whole = config.read_text()
        context = ssl.create_default_context(cafile=str(tls / "ca.pem"))
        with pytest.raises(OSError), socket.create_connection(("127.0.0.1", broker.tls_port), 10) as raw:
            made = context.wrap_socket(raw, server_hostname="localhost")
            made.sendall(b"AMQP\x00\x00\x09\x01")
            while made.recv(4096):
                pass
            raise ConnectionResetError("it hung up")
        kilonova("leave", "one", "--config", str(cluster.config))
        assert "agent.one" not in broker.control("list_users")
        # A broker whose name is not the one in its certificate is not believed, whoever signed it.
        config.write_text(whole.replace("@localhost:", "@127.1:"))
        assert "certificate" in said_of_the_broker(machine)
    finally:
        machine.stop()
        if cluster is not None:
            cluster.stop()
        broker.stop()
        database.stop()
        shutil.rmtree(folder, ignore_errors=True)


def said_of_the_broker(machine: Machine) -> str:
    """The first new line of the log that tells why there is no connection."""
    before = len(machine.log())
    command = [sys.executable, "-P", "-m", "kilonova", "serve", "hypervisor", "--state", str(machine.state)]
    machine.child = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    end = time.monotonic() + 30
    while "is unreachable" not in machine.log()[before:]:
        assert time.monotonic() < end and machine.child.poll() is None
        time.sleep(0.1)
    machine.stop()
    return next(line for line in machine.log()[before:].splitlines() if "is unreachable" in line)
