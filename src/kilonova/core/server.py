"""HTTP servers in our own loop: one uvicorn server for each address, none of its signal handlers or logs."""

import asyncio
import socket
from typing import Any

import uvicorn

from kilonova.core.tasks import Tasks


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
            http="httptools",
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
