"""The HTTP server as bytes on a socket: heads and bodies arrive whole and in order, whatever their sizes and however they are sent."""

import asyncio
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
