"""A cheap HTTP/1.1 client for load: one request, made beforehand, again and again over some keep-alive connections.

It looks only at the status and at Content-Length, so that the server, not the client, is measured (about 8 µs a request with uvloop).
"""

import asyncio
import collections
import time
from collections.abc import Callable
from typing import cast

import msgspec


class Load(msgspec.Struct, kw_only=True):
    """What came of one run. `latencies_s` is in the order of the answers; `errors` counts other statuses than the one expected."""

    seconds: float
    latencies_s: list[float]
    errors: dict[int, int]
    body_bytes: int

    @property
    def per_s(self) -> float:
        return len(self.latencies_s) / self.seconds

    def percentile_ms(self, percent: float) -> float:
        ordered = sorted(self.latencies_s)
        return ordered[min(len(ordered) - 1, int(len(ordered) * percent / 100))] * 1e3


def request(method: str, path: str, headers: dict[str, str] | None = None, body: bytes = b"") -> bytes:
    lines = [f"{method} {path} HTTP/1.1", "Host: 127.0.0.1", *(f"{k}: {v}" for k, v in (headers or {}).items())]
    if body or method in ("POST", "PUT"):
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join([*lines, "", ""]).encode() + body


class Link(asyncio.Protocol):
    """One connection that asks `next_request()` until it says None."""

    def __init__(self, next_request: Callable[[], bytes | None], expected: int, into: Load) -> None:
        self.next_request = next_request
        self.expected = expected
        self.into = into
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.missing = 0
        self.pieces: list[bytes] = []
        self.head = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)  # uvloop's is no subclass of it
        self.send()

    def connection_lost(self, error: Exception | None) -> None:
        if not self.ended.done():
            self.ended.set_exception(error or ConnectionError("the server closed the connection"))

    def send(self) -> None:
        asked = self.next_request()
        if asked is None:
            self.ended.set_result(None)
            self.transport.close()
            return
        self.head = b""
        self.sent_at = time.perf_counter()
        self.transport.write(asked)

    def data_received(self, data: bytes) -> None:
        if self.missing:
            self.missing -= len(data)
            if self.missing <= 0:
                self.answered()
            return
        self.head += data
        end = self.head.find(b"\r\n\r\n")
        if end < 0:
            return
        head = self.head[:end].lower()
        at = head.find(b"content-length:")
        length = int(head[at + 15 :].split(b"\r\n", 1)[0]) if at >= 0 else 0
        self.status = int(head[9:12])
        self.length = length
        self.missing = length - (len(self.head) - end - 4)
        if self.missing <= 0:
            self.answered()

    def answered(self) -> None:
        self.missing = 0
        if self.status == self.expected:
            self.into.latencies_s.append(time.perf_counter() - self.sent_at)
            self.into.body_bytes = self.length
        else:
            self.into.errors[self.status] = self.into.errors.get(self.status, 0) + 1
        self.send()


async def load(port: int, requests: list[bytes], *, connections: int = 16, seconds: float = 3.0, expected: int = 200) -> Load:
    """Send the requests in turn, over and over, for some seconds. Raises ConnectionError when the server hangs up."""
    into = Load(seconds=0.0, latencies_s=[], errors={}, body_bytes=0)
    waiting = collections.deque(requests)
    started = time.perf_counter()

    def next_request() -> bytes | None:
        if time.perf_counter() - started >= seconds:
            return None
        waiting.rotate(-1)
        return waiting[-1]

    loop = asyncio.get_running_loop()
    links = [(await loop.create_connection(lambda: Link(next_request, expected, into), "127.0.0.1", port))[1] for _ in range(connections)]
    for link in links:
        await link.ended
    into.seconds = time.perf_counter() - started
    return into
