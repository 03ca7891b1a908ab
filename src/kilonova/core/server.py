"""HTTP servers in our own loop: one uvicorn server for each address, none of its signal handlers or logs."""

import asyncio
import socket
import ssl
from typing import Any

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from kilonova.core.tasks import Tasks

JOIN_BYTES = 64 << 10
"""Up to here copying costs less than a second piece."""
GRACE_S = 2
"""What requests get to end in, when nobody says otherwise."""
CLOSE = (b"connection", b"close")
LONGEST_HEAD = 128 << 10
"""Bytes of a request's line and headers that may come without an end."""
CIPHERS = "ECDHE+AESGCM:ECDHE+CHACHA20"
"""Of TLS 1.2 (OpenSSL's words): a key that is stolen later opens nothing that was recorded. TLS 1.3 has no others."""
TOO_LONG = b"HTTP/1.1 431 Request Header Fields Too Large\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"


class PortTaken(Exception):
    """The address cannot be bound; the message says which and why."""


class _Config(uvicorn.Config):
    def load(self) -> None:
        """Whatever the system's OpenSSL would still take."""
        super().load()
        if self.ssl is not None:
            self.ssl.minimum_version = ssl.TLSVersion.TLSv1_2


class _Quiet(uvicorn.Server):
    def install_signal_handlers(self) -> None:
        """The process has handlers of its own."""

    def capture_signals(self) -> Any:
        return _Nothing()


class _Nothing:
    def __enter__(self) -> None:
        return None

    def __exit__(self, *exception: Any) -> None:
        return None


class _Joined:
    """A transport that sends the head of an answer together with the first piece of its body: one system call and one packet for most."""

    __slots__ = ("_held", "_transport")

    def __init__(self, transport: Any) -> None:
        self._transport = transport
        self._held = b""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        if self._held:
            held, self._held = self._held, b""
            if len(data) < JOIN_BYTES:
                self._transport.write(held + data)
            else:
                self._transport.writelines((held, data))
        elif data[:5] == b"HTTP/" and data[9:12] != b"100":
            self._held = data
        else:
            self._transport.write(data)

    def flush(self) -> None:
        if self._held:
            held, self._held = self._held, b""
            self._transport.write(held)

    def close(self) -> None:
        self.flush()
        self._transport.close()


class _Protocol(HttpToolsProtocol):
    _in_head = False
    _head_bytes = 0

    def connection_made(self, transport: Any) -> None:
        super().connection_made(_Joined(transport))  # type: ignore[arg-type]

    def data_received(self, data: bytes) -> None:
        """The parser takes a head of any length, and copies all of it for each piece that comes."""
        super().data_received(data)
        if self._in_head:
            self._head_bytes += len(data)
            if self._head_bytes > LONGEST_HEAD:
                self._in_head = False
                self.transport.write(TOO_LONG)
                self.transport.close()

    def on_message_begin(self) -> None:
        self._in_head, self._head_bytes = True, 0
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        self._in_head = False
        super().on_headers_complete()

    def on_response_complete(self) -> None:
        """The answer to a HEAD has no piece that its head could wait for."""
        if isinstance(self.transport, _Joined):
            self.transport.flush()
        super().on_response_complete()


class _Leaving:
    """The application while its server drains: every answer ends its connection, and whoever asks for its health hears that it goes."""

    def __init__(self, app: Any) -> None:
        self._app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        async def last(message: Any) -> None:
            if message["type"] == "http.response.start":
                message = {**message, "headers": [*message.get("headers", ()), CLOSE]}
            await send(message)

        if scope["type"] == "http" and scope["path"] == "/healthz":
            await last(
                {"type": "http.response.start", "status": 503, "headers": [(b"content-type", b"text/plain"), (b"content-length", b"9")]}
            )
            await last({"type": "http.response.body", "body": b"leaving\r\n"})
        else:
            await self._app(scope, receive, last)


def bind(host: str, port: int, what: str) -> socket.socket:
    """A listening socket. Raises PortTaken with one sentence."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        listener.listen(2048)
    except OSError as error:
        listener.close()
        raise PortTaken(
            f"{what} cannot listen on {host}:{port}: {error.strerror}. Stop what uses it, or choose other ports with --port-offset."
        ) from None
    listener.setblocking(False)
    return listener


class HttpServer:
    def __init__(
        self, app: Any, listener: socket.socket, *, ssl_certfile: str | None = None, ssl_keyfile: str | None = None, grace_s: int = GRACE_S
    ) -> None:
        """grace_s: what requests that run when the server stops get to end in; what is not over then is cut off."""
        self.listener = listener
        config = _Config(
            app,
            http=_Protocol,
            ws="none",
            loop="none",
            lifespan="off",
            access_log=False,
            log_config=None,
            server_header=False,
            proxy_headers=False,
            date_header=True,
            timeout_keep_alive=75,
            timeout_graceful_shutdown=grace_s,
            backlog=2048,
            ssl_certfile=ssl_certfile,
            ssl_keyfile=ssl_keyfile,
            ssl_ciphers=CIPHERS,
            h11_max_incomplete_event_size=65536,
        )
        self._server = _Quiet(config)
        self._task: asyncio.Task[Any] | None = None

    @property
    def port(self) -> int:
        return int(self.listener.getsockname()[1])

    async def start(self, tasks: Tasks, name: str) -> None:
        self._task = tasks.start(f"http {name}", self._server.serve(sockets=[self.listener]))
        while not self._server.started:
            if self._task.done():
                raise PortTaken(f"{name}: the HTTP server did not start.")
            await asyncio.sleep(0.001)

    async def stop(self, drain_s: float = 0.0) -> None:
        """Let what runs end, close kept-alive connections, listen no more.

        drain_s: for so long requests are still taken, also over new connections, but each answer closes its connection, and /healthz is
        answered 503: clients and load balancers have turned to other processes before this one hangs up on anybody."""
        if drain_s and self._task is not None and not self._task.done():
            self._leave()
            await asyncio.sleep(drain_s)
        self._server.should_exit = True
        if self._task is not None:
            await self._task
        self.listener.close()

    def _leave(self) -> None:
        config = self._server.config
        leaving = config.loaded_app = _Leaving(config.loaded_app)
        for connection in list(self._server.server_state.connections):
            if isinstance(connection, _Protocol):
                connection.app = leaving
                if connection.cycle is not None and not connection.cycle.response_started:
                    connection.cycle.keep_alive = False
