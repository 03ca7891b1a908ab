"""The small HTTP/1.1 server behind 169.254.169.254.

It listens in service and router namespaces, reads one request at a time from each connection, and hands it to the cloud with where
it came in and the source address. It decides nothing else. Limits: 64 connections a listener, 16 KiB of head, 64 KiB of body,
15 s for a request to arrive, 75 s idle.
"""

import asyncio
import contextlib
import socket

import msgspec

from kilonova.network import rpc
from kilonova.network.drivers import MetadataHandler

_MAX_HEAD_BYTES, _MAX_BODY_BYTES, _MAX_CONNECTIONS = 16_384, 65_536, 64
_ARRIVAL_S, _IDLE_S = 15.0, 75.0
_METHODS = ("GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS")
_REASONS = {
    200: "OK", 201: "Created", 204: "No Content", 400: "Bad Request", 403: "Forbidden", 404: "Not Found", 405: "Method Not Allowed",
    408: "Request Timeout", 409: "Conflict", 413: "Content Too Large", 429: "Too Many Requests", 431: "Request Header Fields Too Large",
    500: "Internal Server Error", 501: "Not Implemented", 503: "Service Unavailable", 505: "HTTP Version Not Supported",
}  # fmt: skip


class Refused(Exception):
    """The request cannot be read; the connection ends after this status."""

    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.status = status


class Head(msgspec.Struct, frozen=True, kw_only=True):
    method: str
    path: str
    headers: tuple[tuple[str, str], ...]
    keep_alive: bool
    body_bytes: int


def parse_head(data: bytes) -> Head:
    """`data` ends with the empty line. Raises Refused."""
    lines = data.decode("latin-1").replace("\r\n", "\n").rstrip("\n").split("\n")
    parts = lines[0].split(" ")
    if len(parts) != 3 or not parts[1].startswith("/"):
        raise Refused(400)
    method, path, version = parts
    if version not in ("HTTP/1.0", "HTTP/1.1"):
        raise Refused(505)
    if method not in _METHODS:
        raise Refused(501)
    headers: list[tuple[str, str]] = []
    for line in lines[1:]:
        name, colon, value = line.partition(":")
        if not colon or not name or name != name.strip() or any(ord(character) < 32 and character != "\t" for character in value):
            raise Refused(400)
        headers.append((name.lower(), value.strip()))
    lengths = {value for name, value in headers if name == "content-length"}
    if any(name == "transfer-encoding" for name, _ in headers):
        raise Refused(501)
    if len(lengths) > 1 or not all(value.isascii() and value.isdigit() for value in lengths):
        raise Refused(400)
    body_bytes = int(next(iter(lengths), "0"))
    if body_bytes > _MAX_BODY_BYTES:
        raise Refused(413)
    asked = {word.strip() for name, value in headers if name == "connection" for word in value.lower().split(",")}
    keep_alive = "close" not in asked if version == "HTTP/1.1" else "keep-alive" in asked
    return Head(method=method, path=path, headers=tuple(headers), keep_alive=keep_alive, body_bytes=body_bytes)


def encode_reply(reply: rpc.MetadataReply, *, keep_alive: bool, without_body: bool) -> bytes:
    lines = [f"HTTP/1.1 {reply.status} {_REASONS.get(reply.status, 'Unknown')}"]
    for name, value in reply.headers:
        if name.lower() not in ("content-length", "connection", "transfer-encoding") and not {"\r", "\n"} & {*name, *value}:
            lines.append(f"{name}: {value}")
    lines += [f"Content-Length: {len(reply.body)}", f"Connection: {'keep-alive' if keep_alive else 'close'}", "", ""]
    return "\r\n".join(lines).encode("latin-1", "replace") + (b"" if without_body else reply.body)


def open_socket(port: int) -> socket.socket:
    """Listening, in the namespace of the calling thread."""
    listening = socket.socket(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(("0.0.0.0", port))
        listening.listen(64)
    except OSError:
        listening.close()
        raise
    return listening


class Server:
    """One listener: of a network, or of a router."""

    def __init__(
        self, listening: socket.socket, handler: MetadataHandler, *, network_id: str | None = None, router_id: str | None = None
    ) -> None:
        self._listening = listening
        self._handler = handler
        self._network_id = network_id
        self._router_id = router_id
        self._server: asyncio.Server | None = None
        self._connections: set[asyncio.Task[None]] = set()
        self._closed = False
        self.requests = 0

    async def start(self) -> None:
        server = await asyncio.start_server(self._connected, sock=self._listening, limit=_MAX_HEAD_BYTES)
        if self._closed:
            server.close()
        self._server = server

    def close(self) -> None:
        self._closed = True
        if self._server is not None:
            self._server.close()
        else:
            self._listening.close()
        for task in tuple(self._connections):
            task.cancel()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        if task is None or self._closed or len(self._connections) >= _MAX_CONNECTIONS:
            writer.close()
            return
        self._connections.add(task)
        try:
            await self._converse(reader, writer)
        except (OSError, asyncio.CancelledError, asyncio.IncompleteReadError):
            pass
        finally:
            self._connections.discard(task)
            writer.close()

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        source_ip = writer.get_extra_info("peername")[0]
        keep_alive = True
        while keep_alive:
            try:
                head = await self._read_head(reader)
                if head is None:
                    return
                body = await asyncio.wait_for(reader.readexactly(head.body_bytes), _ARRIVAL_S)
            except Refused as refusal:
                writer.write(encode_reply(rpc.MetadataReply(status=refusal.status), keep_alive=False, without_body=False))
                await writer.drain()
                return
            except TimeoutError:
                return
            reply = await self._reply(head, body, source_ip)
            keep_alive = head.keep_alive
            writer.write(encode_reply(reply, keep_alive=keep_alive, without_body=head.method == "HEAD"))
            await asyncio.wait_for(writer.drain(), _IDLE_S)

    @staticmethod
    async def _read_head(reader: asyncio.StreamReader) -> Head | None:
        """None when the guest has hung up or been silent for too long."""
        try:
            first = await asyncio.wait_for(reader.read(1), _IDLE_S)
            if not first:
                return None
            return parse_head(first + await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), _ARRIVAL_S))
        except asyncio.LimitOverrunError:
            raise Refused(431) from None
        except asyncio.IncompleteReadError:
            return None

    async def _reply(self, head: Head, body: bytes, source_ip: str) -> rpc.MetadataReply:
        self.requests += 1
        request = rpc.MetadataRequest(
            network_id=self._network_id,
            router_id=self._router_id,
            source_ip=source_ip,
            method=head.method,
            path=head.path,
            headers=head.headers,
            body=body,
        )
        with contextlib.suppress(Exception):
            return await self._handler(request)
        return rpc.MetadataReply(status=500)
