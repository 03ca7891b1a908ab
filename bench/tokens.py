"""What tokens cost over HTTP: validation against a bare server that sends as many bytes, and login against the bare hash rate.

Each server runs in a process of its own, the client in this one, over loopback; with two cores nobody waits for a third. Prints one JSON
object. `server_cpu_us` is CPU time of the server per request, the figure that other work on the machine disturbs least.
"""

import argparse
import asyncio
import json
import multiprocessing
import resource
import statistics
import tempfile
import threading
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import bcrypt
import uvloop

from kilonova.app import Cloud, Plan
from kilonova.core.log import Log, Sink
from kilonova.core.runtime import Runtime
from kilonova.core.server import HttpServer, bind
from kilonova.core.tasks import Tasks

PASSWORD = "bench"


# ---- the servers


def _cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


async def _serve(app: Any, runtime: Runtime, log: Log, pipe: Connection) -> None:
    """Tell the port, then answer each message with the CPU seconds used so far, until the other end is closed."""
    tasks = Tasks(runtime, log)
    server = HttpServer(app, bind("127.0.0.1", 0, "bench"))
    await server.start(tasks, "bench")
    pipe.send(server.port)
    loop, ended = asyncio.get_running_loop(), asyncio.Event()

    def asked() -> None:
        try:
            pipe.recv()
            pipe.send(_cpu_s())
        except EOFError:
            loop.remove_reader(pipe.fileno())
            ended.set()

    loop.add_reader(pipe.fileno(), asked)
    await ended.wait()
    await server.stop()
    await tasks.stop()


def identity_server(pipe: Connection, rounds: int) -> None:
    async def main() -> None:
        with tempfile.TemporaryDirectory() as state, (Path(state) / "log").open("w") as log:
            plan = Plan(state=state, services=("identity",), overrides={("identity", "password_hash_rounds"): rounds})
            cloud = Cloud(plan, Runtime(), Sink(log))
            await cloud.start({"admin": PASSWORD, "demo": PASSWORD})
            await _serve(cloud.edges["identity"], cloud.runtime, cloud.log, pipe)
            await cloud.stop()

    uvloop.run(main())


def bare_server(pipe: Connection, size: int) -> None:
    body = b"x" * size
    headers = [(b"content-type", b"application/json"), (b"content-length", str(size).encode())]

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    async def main() -> None:
        with tempfile.TemporaryFile("w") as log:
            await _serve(app, Runtime(), Log("bench", Sink(log)), pipe)

    uvloop.run(main())


class Server:
    def __init__(self, target: Callable[..., None], *arguments: Any) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=target, args=(theirs, *arguments), daemon=True)
        self._process.start()
        theirs.close()
        self.port: int = self._pipe.recv()

    def cpu_s(self) -> float:
        self._pipe.send(None)
        return float(self._pipe.recv())

    def stop(self) -> None:
        self._pipe.close()
        self._process.join(10)


# ---- the client


class Wire(asyncio.Protocol):
    """One keep-alive connection, one request at a time. The answer's head and the length of its body are all that is looked at."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._done: asyncio.Future[bytes] | None = None
        self.transport: Any = None

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def connection_lost(self, error: Exception | None) -> None:
        if self._done is not None and not self._done.done():
            self._done.set_exception(error or ConnectionResetError("closed"))

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        end = self._buffer.find(b"\r\n\r\n")
        if end < 0 or self._done is None:
            return
        at = self._buffer.find(b"content-length: ", 0, end)
        size = int(self._buffer[at + 16 : self._buffer.find(b"\r", at)]) if at >= 0 else 0
        if len(self._buffer) >= end + 4 + size:
            whole = bytes(self._buffer[: end + 4 + size])
            del self._buffer[: end + 4 + size]
            self._done.set_result(whole)

    def ask(self, request: bytes) -> "asyncio.Future[bytes]":
        self._done = asyncio.get_running_loop().create_future()
        self.transport.write(request)
        return self._done


async def connect(port: int) -> Wire:
    _, wire = await asyncio.get_running_loop().create_connection(Wire, "127.0.0.1", port)
    return wire


def get(path: str, **headers: str) -> bytes:
    lines = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in headers.items())
    return f"GET {path} HTTP/1.1\r\nhost: localhost\r\n{lines}\r\n".encode()


def login() -> bytes:
    user = {"name": "admin", "domain": {"id": "default"}, "password": PASSWORD}
    scope = {"project": {"name": "admin", "domain": {"id": "default"}}}
    body = json.dumps({"auth": {"identity": {"methods": ["password"], "password": {"user": user}}, "scope": scope}})
    head = f"POST /v3/auth/tokens HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    return (head + body).encode()


def status(answer: bytes) -> int:
    return int(answer[9:12])


def token(answer: bytes) -> str:
    assert status(answer) == 201, answer
    head = answer[: answer.find(b"\r\n\r\n")].decode("latin-1").lower()
    at = head.index("x-subject-token: ") + 17
    return answer.decode("latin-1")[at : head.find("\r", at) if head.find("\r", at) > 0 else None]


class Rate:
    def __init__(self) -> None:
        self.took_s: list[float] = []
        self.seconds = 0.0

    @property
    def per_s(self) -> float:
        return len(self.took_s) / self.seconds

    def shown(self) -> dict[str, float]:
        ordered = sorted(self.took_s)
        return {
            "per_s": round(self.per_s, 1),
            "p50_ms": round(statistics.median(ordered) * 1000, 3),
            "p99_ms": round(ordered[int(len(ordered) * 0.99)] * 1000, 3),
        }


async def load(port: int, request: bytes, connections: int, seconds: float, expect: int, pause_s: float = 0.0) -> Rate:
    rate = Rate()
    wires = [await connect(port) for _ in range(connections)]
    begin = time.perf_counter()

    async def one(wire: Wire) -> None:
        while (now := time.perf_counter()) - begin < seconds:
            answer = await wire.ask(request)
            rate.took_s.append(time.perf_counter() - now)
            assert status(answer) == expect, answer[:300]
            if pause_s:
                await asyncio.sleep(pause_s)

    await asyncio.gather(*(one(wire) for wire in wires))
    rate.seconds = time.perf_counter() - begin
    for wire in wires:
        wire.transport.close()
    return rate


# ---- the measurements


async def measured(server: Server, request: bytes, connections: int, seconds: float) -> dict[str, float]:
    await load(server.port, request, connections, 0.5, 200)
    before = server.cpu_s()
    rate = await load(server.port, request, connections, seconds, 200)
    return {**rate.shown(), "server_cpu_us": round((server.cpu_s() - before) / len(rate.took_s) * 1e6, 1)}


def bare_hashes_per_s(rounds: int, threads: int, seconds: float) -> float:
    """bcrypt alone, in as many threads as there will be logins at once."""
    hashed = bcrypt.hashpw(b"x", bcrypt.gensalt(rounds))
    counts = [0] * threads
    begin = time.perf_counter()

    def work(number: int) -> None:
        while time.perf_counter() - begin < seconds:
            bcrypt.checkpw(b"x", hashed)
            counts[number] += 1

    running = [threading.Thread(target=work, args=(n,)) for n in range(threads)]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join()
    return sum(counts) / (time.perf_counter() - begin)


async def run(connections: int, seconds: float, rounds: int, repeat: int) -> dict[str, Any]:
    identity = Server(identity_server, rounds)
    wire = await connect(identity.port)
    mine = token(await wire.ask(login()))
    validate = get("/v3/auth/tokens", x_auth_token=mine, x_subject_token=mine)
    answer = await wire.ask(validate)
    size = len(answer) - answer.find(b"\r\n\r\n") - 4
    bare = Server(bare_server, size)
    out: dict[str, Any] = {"token_bytes": len(mine), "document_bytes": size, "connections": connections, "runs": []}
    for _ in range(repeat):
        one: dict[str, Any] = {"bare": await measured(bare, get("/"), connections, seconds)}
        one["validate"] = await measured(identity, validate, connections, seconds)
        hashes = bare_hashes_per_s(rounds, 2, seconds)
        before = await load(identity.port, validate, 1, 1.0, 200, pause_s=0.01)
        logins, beside = await asyncio.gather(
            load(identity.port, login(), 2, seconds, 201), load(identity.port, validate, 1, seconds, 200, pause_s=0.01)
        )
        one["login"] = {**logins.shown(), "bare_hashes_per_s": round(hashes, 2), "share": round(logins.per_s / hashes, 3)}
        one["validate_beside_logins"] = {"alone_p50_ms": before.shown()["p50_ms"], **beside.shown()}
        out["runs"].append(one)
    identity.stop()
    bare.stop()
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--connections", type=int, default=16)
    parser.add_argument("--seconds", type=float, default=4.0, help="of each step")
    parser.add_argument("--rounds", type=int, default=12, help="bcrypt's cost")
    parser.add_argument("--repeat", type=int, default=3)
    given = parser.parse_args()
    print(json.dumps(uvloop.run(run(given.connections, given.seconds, given.rounds, given.repeat)), indent=1))


if __name__ == "__main__":
    main()
