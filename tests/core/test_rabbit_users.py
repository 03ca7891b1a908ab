"""RabbitMQ's management API as it is asked, by somebody who only listens."""

import contextlib
import http.server
import json
import socket
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from kilonova.core.bus.rabbit_users import BrokerUsers, CannotManage, Permissions


@contextlib.contextmanager
def answering(body: bytes, heard: list[tuple[str, str, Any]], at: str = "127.0.0.1", status: int = 200) -> Iterator[str]:
    """Its address, as a URL has it."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            length = int(self.headers.get("Content-Length") or 0)
            heard.append((self.command, self.path, json.loads(self.rfile.read(length)) if length else None))
            self.send_response(status)
            self.send_header("Location", "http://127.0.0.1:1/")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_PUT = do_DELETE = do_GET

        def log_message(self, *_: Any) -> None:
            """Quiet."""

    class Server(http.server.ThreadingHTTPServer):
        address_family = socket.AF_INET6 if ":" in at else socket.AF_INET

    server = Server((at, 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield f"[{at}]:{server.server_port}" if ":" in at else f"{at}:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join(10)


@pytest.mark.parametrize("at", ["127.0.0.1", "::1"])
def test_a_user_is_made_with_its_permissions_and_limits(at: str) -> None:
    heard: list[tuple[str, str, Any]] = []
    with answering(b"", heard, at) as place:
        users = BrokerUsers(vhost="/v", management_url=f"http://a:canary@{place}")
        users.put("agent.a/b", "pw", Permissions(configure="c", write="w", read="r"))
        users.delete("agent.a/b")
    assert heard == [
        ("PUT", "/api/users/agent.a%2Fb", {"password": "pw", "tags": ""}),
        ("PUT", "/api/permissions/%2Fv/agent.a%2Fb", {"configure": "c", "write": "w", "read": "r"}),
        ("PUT", "/api/user-limits/agent.a%2Fb/max-connections", {"value": 8}),
        ("PUT", "/api/user-limits/agent.a%2Fb/max-channels", {"value": 64}),
        ("DELETE", "/api/users/agent.a%2Fb", None),
    ]


@pytest.mark.parametrize("body", [b"<html>", b"{}", b"[1]", b'[{"user": "x"}]', b"null"])
def test_somebody_else_on_that_port_is_told(body: bytes) -> None:
    with answering(body, []) as place:
        users = BrokerUsers(vhost="/", management_url=f"http://a:canary@{place}")
        if body == b"{}":
            assert users.names() == []
            return
        with pytest.raises(CannotManage, match="does not answer as RabbitMQ's management API does"):
            users.names()


@pytest.mark.parametrize(("status", "said"), [(401, "refused"), (403, "administrator"), (302, "answers 302"), (500, "answers 500")])
def test_refusals_are_told_and_redirects_are_not_followed(status: int, said: str) -> None:
    heard: list[tuple[str, str, Any]] = []
    with answering(b"", heard, status=status) as place, pytest.raises(CannotManage, match=said) as caught:
        BrokerUsers(vhost="/", management_url=f"http://a:canary@{place}").delete("x")
    assert len(heard) == 1 and "canary" not in str(caught.value)


@pytest.mark.parametrize("url", ["broker:15672", "ftp://a:b@broker", "http://", "http://a:b@broker:x", "http://[::1", "https://a:b@:1"])
def test_what_is_no_url_is_told(url: str) -> None:
    with pytest.raises(CannotManage, match="management_url is not"):
        BrokerUsers(vhost="/", management_url=url).names()
