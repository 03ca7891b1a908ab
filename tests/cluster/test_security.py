"""Rows of the table of attacks that look otherwise where each service is a process of its own: two fronts, one database, one broker."""

import contextlib
import http.client
import http.server
import json
import socket
import ssl
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from kilonova.core.bus.config import Broker, RabbitOptions
from kilonova.core.bus.rabbit_link import tls_context
from kilonova.core.bus.rabbit_users import BrokerUsers, CannotManage
from kilonova.plan import PORTS
from tests.cluster.cluster import PASSWORD, Api, Cluster, Process
from tests.cluster.conftest import APIS, Stand
from tests.engines.rabbitmq import PASSWORD as BROKER_PASSWORD
from tests.engines.rabbitmq import make_certificates

OFFSET = 12200
DATABASE_PASSWORD = "canary-database"


class Fronts:
    """The same APIs twice; `raw` speaks to one of them over a socket of its own."""

    def __init__(self, stand: Stand, *, hypervisor: bool = False) -> None:
        self.stand = stand
        cluster: Cluster = stand.cluster
        self.one = cluster.start("one", [*APIS, "conductor"], offset=OFFSET)
        self.two = cluster.start("two", APIS, offset=OFFSET + 20)
        if hypervisor:
            cluster.start("hypervisor0", ["hypervisor"], offset=OFFSET)
        self.api = Api(self._at(self.one))

    @staticmethod
    def _at(process: Process) -> dict[str, str]:
        return {service: process.url(service) for service in ("identity", "image", "placement", "compute", "network")}

    def ask(self, process: Process, service: str, path: str, token: str, **headers: str) -> int:
        connection = http.client.HTTPConnection("127.0.0.1", PORTS[service] + process.offset, timeout=30)
        try:
            connection.request("GET", path, headers={"X-Auth-Token": token, **headers} if token else headers)
            reply = connection.getresponse()
            reply.read()
            return reply.status
        finally:
            connection.close()

    def both(self, service: str, path: str, token: str) -> list[int]:
        return [self.ask(process, service, path, token) for process in (self.one, self.two)]

    def token(self, process: Process, user: str, password: str, project: str) -> str:
        who = {"name": user, "password": password, "domain": {"id": "default"}}
        scope = {"project": {"id": project}}
        body = {"auth": {"identity": {"methods": ["password"], "password": {"user": who}}, "scope": scope}}
        headers = {"Content-Type": "application/json"}
        status, found, _ = Api._send("POST", process.url("identity") + "/v3/auth/tokens", json.dumps(body).encode(), headers)
        assert status == 201, status
        return str(found["X-Subject-Token"])

    def made(self, path: str, kind: str, **fields: Any) -> str:
        status, answer = self.api("identity", "POST", path, {kind: fields})
        assert status == 201, answer
        return str(answer[kind]["id"])


SERVERS = ("compute", "/v2.1/servers")


def test_row_46_47_48_58_59_what_is_taken_away_is_gone_in_every_process_at_once(stand: Stand) -> None:
    fronts = Fronts(stand)
    one, two, api = fronts.one, fronts.two, fronts.api
    roles = {role["name"]: role["id"] for role in api("identity", "GET", "/v3/roles")[1]["roles"]}
    project = fronts.made("/v3/projects", "project", name="p", domain_id="default")
    user = fronts.made("/v3/users", "user", name="u", password="canary-user", domain_id="default", default_project_id=project)
    assign = f"/v3/projects/{project}/users/{user}/roles/{roles['member']}"

    def again(process: Process) -> str:
        found = fronts.token(process, "u", "canary-user", project)
        for _ in range(3):  # whatever a process remembers, it remembers now
            assert fronts.both(*SERVERS, found) == [200, 200]
            assert fronts.both("network", "/v2.0/networks", found) == [200, 200]
        return found

    assert api("identity", "PUT", assign)[0] == 204
    # A role.
    token = again(two)
    assert api("identity", "DELETE", assign)[0] == 204
    assert fronts.both(*SERVERS, token) == [401, 401]
    # A token, revoked at the other process; and what came of it by rescoping.
    assert api("identity", "PUT", assign)[0] == 204
    token = again(two)
    body = {"auth": {"identity": {"methods": ["token"], "token": {"id": token}}, "scope": {"project": {"id": project}}}}
    _, headers, _ = Api._send("POST", one.url("identity") + "/v3/auth/tokens", json.dumps(body).encode(), {})
    child = str(headers["X-Subject-Token"])
    assert fronts.both(*SERVERS, child) == [200, 200]
    own = {"X-Auth-Token": token, "X-Subject-Token": token}
    assert Api._send("DELETE", one.url("identity") + "/v3/auth/tokens", None, own)[0] == 204
    assert fronts.both(*SERVERS, token) == [401, 401]
    # A user, a project, a password.
    for path, off, on in (
        (f"/v3/users/{user}", {"user": {"enabled": False}}, {"user": {"enabled": True}}),
        (f"/v3/projects/{project}", {"project": {"enabled": False}}, {"project": {"enabled": True}}),
    ):
        token = again(one)
        assert api("identity", "PATCH", path, off)[0] == 200
        assert fronts.both(*SERVERS, token) == [401, 401]
        assert fronts.both("image", "/v2/images", token) == [401, 401]
        assert api("identity", "PATCH", path, on)[0] == 200
    token = again(two)
    # A token that begins like one that is remembered is another, in either process.
    for at in (10, len(token) // 2, len(token) - 3):
        for process in (one, two):
            changed = token[:at] + ("A" if token[at] != "A" else "B") + token[at + 1 :]
            assert fronts.ask(process, *SERVERS, changed) == 401
    # Headers that a middleware would have set.
    forged = {
        "X-Roles": "admin",
        "X-User-Id": user,
        "X-Project-Id": project,
        "X-Identity-Status": "Confirmed",
        "X-Is-Admin-Project": "True",
    }
    for process in (one, two):
        assert fronts.ask(process, "compute", "/v2.1/os-hypervisors", "", **forged) == 401
        assert fronts.ask(process, "compute", "/v2.1/os-hypervisors", token, **forged) == 403
    assert api("identity", "DELETE", f"/v3/users/{user}")[0] == 204
    assert fronts.both(*SERVERS, token) == [401, 401]


def test_row_93_passwords_of_the_database_and_the_broker_are_told_nowhere(stand: Stand) -> None:
    """Every process, while what it needs goes away and comes back: in its log, on its output and in its answers."""
    stand.database.ask(f"ALTER ROLE kilonova PASSWORD '{DATABASE_PASSWORD}'")
    config = stand.cluster.config
    text = config.read_text().replace("kilonova:secret@", f"kilonova:{DATABASE_PASSWORD}@")
    config.write_text(text.replace("[database]\n", "[database]\npool_timeout = 1\n"))
    fronts = Fronts(stand, hypervisor=True)
    api = fronts.api
    ids = api.prepare()
    api.until(api.boot(ids), "ACTIVE")
    answers: list[str] = []

    def poke() -> None:
        for service, path in (
            SERVERS, ("compute", "/v2.1/os-services"), ("network", "/v2.0/ports"), ("image", "/v2/images"), ("identity", "/v3/users"),
        ):  # fmt: skip
            with contextlib.suppress(OSError):
                answers.append(str(api(service, "GET", path)))
        with contextlib.suppress(OSError):
            server = {"name": "s", "imageRef": ids["image"], "flavorRef": "nano", "networks": [{"uuid": ids["network"]}]}
            answers.append(str(api("compute", "POST", "/v2.1/servers", {"server": server})))

    stand.broker.kill()
    poke()
    stand.broker.start()
    stand.database.kill()
    poke()
    stand.database.start()
    stand.database.ask("ALTER ROLE kilonova PASSWORD 'another'")  # now they are refused
    stand.database.ask("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid()")
    poke()
    stand.database.ask(f"ALTER ROLE kilonova PASSWORD '{DATABASE_PASSWORD}'")
    stand.broker.control("change_password", "kilonova", "other-secret")
    stand.broker.control("close_all_connections", "as the test asks")
    end = time.monotonic() + 30
    while "refused the user name" not in fronts.two.log():
        assert time.monotonic() < end, fronts.two.log()[-1000:]
        time.sleep(0.2)
    poke()
    assert any("503" in answer or "500" in answer for answer in answers), answers
    stand.cluster.stop()
    texts = answers + [path.read_text(errors="replace") for path in stand.folder.glob("*/out") if path.parent.name != "broker"]
    texts += [process.log() for process in stand.cluster.processes.values()]
    for canary in (DATABASE_PASSWORD, BROKER_PASSWORD, PASSWORD):
        assert not [text for text in texts if canary in text], canary


def test_row_94_floods_over_sockets_leave_memory_and_others_alone(stand: Stand) -> None:
    """Routes that are not there, bad tokens, bodies and headers without end, connections that say nothing."""
    fronts = Fronts(stand)
    front = fronts.two
    port = PORTS["compute"] + front.offset
    api = Api(fronts._at(front))

    def flood(number: int) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        for i in range(number):
            path, token = (f"/v2.1/nothing-{i}", api.token) if i % 2 else ("/v2.1/servers", f"gAAAAA{i:0180d}")
            connection.request("GET", path, headers={"X-Auth-Token": token})
            reply = connection.getresponse()
            reply.read()
            assert reply.status in (401, 404)
        connection.close()

    def large(body: bytes, count: int, head: str) -> bytes:
        """As much as the server takes; what it says."""
        with socket.create_connection(("127.0.0.1", port), 20) as raw:
            raw.settimeout(20)
            with contextlib.suppress(OSError):
                raw.sendall(head.encode())
                for _ in range(count):
                    raw.sendall(body)
            with contextlib.suppress(OSError):
                return raw.recv(200)
        return b""

    def others() -> float:
        """The longest of some requests of somebody else."""
        worst = 0.0
        for _ in range(20):
            began = time.monotonic()
            assert api("compute", "GET", "/v2.1/flavors")[0] == 200
            worst = max(worst, time.monotonic() - began)
        return worst

    flood(500)
    others()
    before = front.rss_mb()
    megabyte = b"x" * (1 << 20)
    hold = [socket.create_connection(("127.0.0.1", port), 10) for _ in range(200)]
    waits: list[float] = []
    stop = threading.Event()

    def watch() -> None:
        while not stop.is_set():
            waits.append(others())

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(flood, [1250] * 4))
        known = f"Host: x\r\nX-Auth-Token: {api.token}\r\nContent-Type: application/json"
        sized = f"POST /v2.1/servers HTTP/1.1\r\n{known}\r\nContent-Length: {1 << 30}\r\n\r\n"
        assert b" 413 " in large(megabyte, 1024, sized)
        unsized = sized.replace(f"Content-Length: {1 << 30}", "Transfer-Encoding: chunked")
        chunk = b"100000\r\n" + megabyte + b"\r\n"
        assert b" 413 " in large(chunk, 1024, unsized)
        header = large(megabyte, 64, "GET /v2.1/servers HTTP/1.1\r\nHost: x\r\nX-Long: ")
        query = large(megabyte, 64, "GET /v2.1/servers?name=")
        for said in (header, query):
            assert said == b"" or b" 431 " in said or b" 400 " in said, said
    finally:
        stop.set()
        watcher.join(60)
        for one in hold:
            one.close()
    assert max(waits) < 2.0, sorted(waits)[-3:]
    grown = front.rss_mb() - before
    assert grown < max(10.0, before * 0.1), f"{before:.0f} MB and {grown:.0f} more"


@pytest.mark.parametrize("what", ["authority", "name", "right"])
def test_row_60_the_brokers_management_is_not_believed_without_its_certificate(tmp_path: Path, what: str) -> None:
    """Both the certificate and the name in it are checked: here, and in the context that the bus uses."""
    heard: list[str] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            heard.append(self.headers.get("Authorization", ""))
            body = b'[{"name": "kilonova"}]'
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            """Quiet."""

    make_certificates(tmp_path)
    (tmp_path / "other").mkdir()
    make_certificates(tmp_path / "other")
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "server.pem", tmp_path / "server.key")
    server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        authority = tmp_path / "other" / "ca.pem" if what == "authority" else tmp_path / "ca.pem"
        host = "127.1" if what == "name" else "127.0.0.1"
        users = BrokerUsers(vhost="/", management_url=f"https://a:canary@{host}:{server.server_port}", ca_file=str(authority))
        if what == "right":
            assert users.names() == ["kilonova"]
        else:
            with pytest.raises(CannotManage) as caught:
                users.names()
            assert "canary" not in str(caught.value) and not heard
    finally:
        server.shutdown()
        server.server_close()
        thread.join(10)
    bus = tls_context(RabbitOptions(brokers=(Broker("h", 1, "u", "p"),), ssl=True, ssl_ca_file=str(tmp_path / "ca.pem")))
    assert bus is not None and bus.check_hostname and bus.verify_mode is ssl.CERT_REQUIRED
