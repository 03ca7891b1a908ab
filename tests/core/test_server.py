"""The HTTP server as bytes on a socket: heads and bodies arrive whole and in order, whatever their sizes and however they are sent."""

import asyncio
import contextlib
import io
from typing import Any

import pytest

from kilonova.core.log import Log, Sink
from kilonova.core.runtime import Runtime
from kilonova.core.server import HttpServer, bind
from kilonova.core.tasks import Tasks

PIECES = {
    "/empty": [b""],
    "/small": [b"a" * 100],
    "/looks-like-a-head": [b"HTTP/1.1 200 OK\r\n\r\n", b"HTTP/1.1 404 x"],
    "/large": [b"b" * 3_000_000],
    "/pieces": [b"c" * 70_000, b"", b"d", b"e" * 70_000],
}


async def app(scope: Any, receive: Any, send: Any) -> None:
    pieces = PIECES[scope["path"]]
    headers = [(b"content-length", str(sum(map(len, pieces))).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    for place, piece in enumerate(pieces):
        await asyncio.sleep(0)
        await send({"type": "http.response.body", "body": piece, "more_body": place < len(pieces) - 1})


async def exchange(requests: list[tuple[str, str]]) -> list[tuple[int, bytes]]:
    """Status and body of each answer, all asked over one connection."""
    runtime = Runtime()
    log = Log("test", Sink(io.StringIO()))
    tasks = Tasks(runtime, log)
    server = HttpServer(app, bind("127.0.0.1", 0, "the test"))
    await server.start(tasks, "test")
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    answers = []
    try:
        for method, path in requests:
            writer.write(f"{method} {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
            head = (await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 5)).decode().lower()
            length = int(head.partition("content-length: ")[2].split()[0])
            body = b"" if method == "HEAD" else await asyncio.wait_for(reader.readexactly(length), 5)
            answers.append((int(head.split()[1]), body))
    finally:
        writer.close()
        await server.stop()
        await tasks.stop()
    return answers


@pytest.mark.parametrize("path", PIECES)
def test_answers_arrive_whole(path: str) -> None:
    whole = b"".join(PIECES[path])
    wanted = [(200, whole), (200, b""), (200, whole)]
    assert asyncio.run(exchange([("GET", path), ("HEAD", path), ("GET", path)])) == wanted


def test_an_application_that_fails_after_the_head_closes_the_connection() -> None:
    async def broken(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"5")]})
        raise RuntimeError("planted")

    async def scenario() -> bytes:
        runtime = Runtime()
        tasks = Tasks(runtime, Log("test", Sink(io.StringIO())))
        server = HttpServer(broken, bind("127.0.0.1", 0, "the test"))
        await server.start(tasks, "test")
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        got = await asyncio.wait_for(reader.read(), 5)
        writer.close()
        await server.stop()
        await tasks.stop()
        return got

    assert asyncio.run(scenario()).startswith(b"HTTP/1.1 200 OK")


async def one(port: int) -> tuple[bytes, bytes]:
    """Head and body of an answer over a new connection."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        return await over(reader, writer)
    finally:
        writer.close()


async def over(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, path: str = "/") -> tuple[bytes, bytes]:
    writer.write(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
    head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 5)
    length = int(head.lower().partition(b"content-length: ")[2].split()[0])
    return head.lower(), await asyncio.wait_for(reader.readexactly(length), 5)


class Slow:
    """Answers after `pause_s`; its server, with everything around it."""

    def __init__(self, pause_s: float, *, grace_s: int = 5) -> None:
        self.pause_s = pause_s
        self.tasks = Tasks(Runtime(), Log("test", Sink(io.StringIO())))
        self.server = HttpServer(self, bind("127.0.0.1", 0, "the test"), grace_s=grace_s)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        await asyncio.sleep(self.pause_s)
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
        await send({"type": "http.response.body", "body": b"ok"})

    async def start(self) -> int:
        await self.server.start(self.tasks, "test")
        return self.server.port

    async def stop(self, drain_s: float = 0.0) -> None:
        await self.server.stop(drain_s)
        await self.tasks.stop()


def test_a_server_that_leaves_finishes_what_it_has_and_says_that_it_closes() -> None:
    async def scenario() -> None:
        slow = Slow(0.3)
        port = await slow.start()
        idle, silent = await asyncio.open_connection("127.0.0.1", port), await asyncio.open_connection("127.0.0.1", port)
        slow.pause_s = 0.0
        assert b"connection: close" not in (await over(*idle))[0]
        slow.pause_s = 0.3
        running = asyncio.ensure_future(one(port))
        await asyncio.sleep(0.1)
        stopping = asyncio.ensure_future(slow.stop(0.6))
        await asyncio.sleep(0.05)
        slow.pause_s = 0.0
        for head, body in (await running, await over(*idle), await one(port)):
            assert b" 200 " in head and b"connection: close" in head and body == b"ok"
        new = await asyncio.open_connection("127.0.0.1", port)
        head, _ = await over(*new, path="/healthz")
        assert b" 503 " in head and b"connection: close" in head
        await stopping
        for reader, writer in (idle, silent, new):
            assert await asyncio.wait_for(reader.read(), 5) == b""
            writer.close()
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection("127.0.0.1", port)

    asyncio.run(scenario())


def test_what_takes_longer_than_the_grace_is_cut_off() -> None:
    async def scenario() -> None:
        slow = Slow(30.0, grace_s=1)
        running = asyncio.ensure_future(one(await slow.start()))
        await asyncio.sleep(0.1)
        await asyncio.wait_for(slow.stop(), 10)
        head, _ = await running
        assert b" 500 " in head and b"connection: close" in head

    asyncio.run(scenario())


def test_row_94_a_head_without_an_end_is_refused_before_it_is_large() -> None:
    """httptools takes any length, and copies what it has for each piece that comes."""

    async def scenario() -> None:
        slow = Slow(0.0)
        port = await slow.start()
        for begin in (b"GET /?", b"GET / HTTP/1.1\r\nx-long: ", b"GET / HTTP/1.1\r\n"):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(begin)
            sent = 0
            with contextlib.suppress(ConnectionError):
                while sent < 4 << 20 and not reader.at_eof() and not reader._buffer:  # type: ignore[attr-defined]
                    writer.write(b"a: b\r\n" * 1000 if begin.endswith(b"\n") else b"x" * 6000)
                    await writer.drain()
                    await asyncio.sleep(0)
                    sent += 6000
            assert sent < 2 << 20
            with contextlib.suppress(ConnectionError):
                assert b" 431 " in await asyncio.wait_for(reader.read(), 5)
            writer.close()
        assert b" 200 " in (await one(port))[0]
        await slow.stop()

    asyncio.run(scenario())
