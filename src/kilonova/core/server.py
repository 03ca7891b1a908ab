"""HTTP servers in our own loop: one uvicorn server for each address, none of its signal handlers or logs."""

import asyncio
import socket
from typing import Any

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from kilonova.core.tasks import Tasks

JOIN_BYTES = 64 << 10
"""Up to here copying costs less than a second piece."""


class PortTaken(Exception):
    """The address cannot be bound; the message says which and why."""


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
    def connection_made(self, transport: Any) -> None:
        super().connection_made(_Joined(transport))  # type: ignore[arg-type]

    def on_response_complete(self) -> None:
        """The answer to a HEAD has no piece that its head could wait for."""
        if isinstance(self.transport, _Joined):
            self.transport.flush()
        super().on_response_complete()


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
    def __init__(self, app: Any, listener: socket.socket, *, ssl_certfile: str | None = None, ssl_keyfile: str | None = None) -> None:
        self.listener = listener
        config = uvicorn.Config(
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
            timeout_graceful_shutdown=2,
            backlog=2048,
            ssl_certfile=ssl_certfile,
            ssl_keyfile=ssl_keyfile,
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

    async def stop(self) -> None:
        self._server.should_exit = True
        if self._task is not None:
            await self._task
        self.listener.close()
