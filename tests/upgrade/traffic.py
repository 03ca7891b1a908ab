"""100 requests a second through what a load balancer is: it takes the process that is there.

What it may do again on the other process, as any HTTP client may: a request that could not be sent since the connection was refused, or
whose kept-alive connection turned out to be closed before a byte of it was written. What it was answered counts, and what was not
answered counts as lost.
"""

import asyncio
import collections
import itertools
import json
import random
import time
from collections.abc import Awaitable, Callable, Sequence

from tests.cluster.cluster import Process

RATE = 100.0
"""Requests a second."""
ANSWER_S = 20.0
AWAY_S = 0.25
"""How long a process that refused is not asked."""


class Gone(Exception):
    """Nothing was sent: another process may be asked."""


class Connection:
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer
        self.closing = False

    @classmethod
    async def open(cls, host: str, port: int) -> "Connection":
        try:
            return cls(*await asyncio.open_connection(host, port))
        except OSError as error:
            raise Gone from error

    async def ask(self, head: bytes, body: bytes) -> tuple[int, bytes]:
        if self.closing or self.reader.at_eof() or self.writer.is_closing():
            raise Gone
        self.writer.write(head + body)
        answer = await self.reader.readuntil(b"\r\n\r\n")
        status, length = int(answer[9:12]), 0
        for line in answer.lower().split(b"\r\n"):
            if line.startswith(b"content-length:"):
                length = int(line[15:])
            self.closing |= line == b"connection: close"
        return status, await self.reader.readexactly(length)


class Balancer:
    """Kept-alive connections to each process and service. A process that refuses, or says that it closes, is passed over for a moment."""

    def __init__(self, processes: Sequence[Process]) -> None:
        self.processes = list(processes)
        self.idle: dict[tuple[str, str], list[Connection]] = collections.defaultdict(list)
        self.away: dict[str, float] = {}
        self.retried = 0
        self._turn = itertools.count()

    async def ask(self, service: str, method: str, path: str, headers: str, body: bytes = b"") -> tuple[int, bytes]:
        """Raises OSError or EOFError for a request that was sent and not answered."""
        end = time.monotonic() + ANSWER_S
        while True:
            process = self._choose()
            try:
                return await self._ask(process, service, method, path, headers, body)
            except Gone:
                self.retried += 1
                self.away[process.name] = time.monotonic() + AWAY_S
                if time.monotonic() > end:
                    raise
                await asyncio.sleep(0.01)

    def _choose(self) -> Process:
        now = time.monotonic()
        there = [p for p in self.processes if self.away.get(p.name, 0.0) <= now] or self.processes
        return there[next(self._turn) % len(there)]

    async def _ask(self, process: Process, service: str, method: str, path: str, headers: str, body: bytes) -> tuple[int, bytes]:
        url = process.url(service)
        host, port = url[7:].split(":")
        pool = self.idle[process.name, service]
        link = pool.pop() if pool else await Connection.open(host, int(port))
        kind = f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n" if body else ""
        head = f"{method} {path} HTTP/1.1\r\nHost: {host}:{port}\r\n{headers}{kind}\r\n".encode()
        try:
            async with asyncio.timeout(ANSWER_S):
                found = await link.ask(head, body)
        except BaseException:
            link.writer.close()
            raise
        if link.closing:
            link.writer.close()
            self.away[process.name] = time.monotonic() + AWAY_S
            await asyncio.sleep(0)
        else:
            pool.append(link)
        return found


class Traffic:
    """`failed` tells of every request that was lost or answered wrongly; `sent` counts by kind."""

    def __init__(self, processes: Sequence[Process], token: str, ids: dict[str, str], seed: int = 1) -> None:
        self.balancer = Balancer(processes)
        self.failed: list[str] = []
        self.sent: collections.Counter[str] = collections.Counter()
        self.took_s: list[float] = []
        self.alive: list[str] = []
        """Servers that were promised and whose end nobody has asked for."""
        self.deleted: list[str] = []
        self._random = random.Random(seed)
        self._token = token
        self._body = json.dumps(
            {"server": {"name": "s", "imageRef": ids["image"], "flavorRef": "nano", "networks": [{"uuid": ids["network"]}]}}
        ).encode()
        self._headers = f"X-Auth-Token: {token}\r\nOpenStack-API-Version: compute 2.90\r\n"
        self._kinds: list[tuple[str, Callable[[], Awaitable[None]]]] = [
            *[("validate", self._validate)] * 32, *[("show", self._show)] * 32, *[("list", self._list)] * 14,
            *[("ports", self._ports)] * 12, *[("boot", self._boot)] * 5, *[("delete", self._delete)] * 5,
        ]  # fmt: skip

    async def run(self, until: asyncio.Event) -> None:
        """Open loop: requests go out by the clock, whether or not those before them were answered."""
        running: set[asyncio.Task[None]] = set()
        began, count = time.monotonic(), 0
        while not until.is_set():
            kind, act = self._random.choice(self._kinds)
            task = asyncio.get_running_loop().create_task(self._one(kind, act))
            running.add(task)
            task.add_done_callback(running.discard)
            count += 1
            await asyncio.sleep(max(0.0, began + count / RATE - time.monotonic()))
        if running:
            await asyncio.wait(set(running), timeout=2 * ANSWER_S)

    async def _one(self, kind: str, act: Callable[[], Awaitable[None]]) -> None:
        self.sent[kind] += 1
        began = time.monotonic()
        try:
            await act()
        except Exception as error:
            self.failed.append(f"{kind} after {time.monotonic() - began:.2f} s: {error!r}")
        self.took_s.append(time.monotonic() - began)

    async def _expect(self, wanted: tuple[int, ...], service: str, method: str, path: str, body: bytes = b"", more: str = "") -> bytes:
        status, answer = await self.balancer.ask(service, method, path, self._headers + more, body)
        if status not in wanted:
            raise AssertionError(f"{method} {path}: {status} {answer[:300]!r}")
        return answer

    async def _validate(self) -> None:
        await self._expect((200,), "identity", "GET", "/v3/auth/tokens", more=f"X-Subject-Token: {self._token}\r\n")

    async def _show(self) -> None:
        if self.alive:
            chosen = self._random.choice(self.alive)
            answer = await self._expect((200, 404), "compute", "GET", f"/v2.1/servers/{chosen}")
            if b'"itemNotFound"' in answer and chosen not in self.deleted:  # its delete may have been asked meanwhile
                raise AssertionError(answer.decode())
            if b'"ERROR"' in answer:
                raise AssertionError(answer.decode())
        else:
            await self._list()

    async def _list(self) -> None:
        await self._expect((200,), "compute", "GET", "/v2.1/servers?limit=20")

    async def _ports(self) -> None:
        await self._expect((200,), "network", "GET", "/v2.0/ports?limit=20")

    async def _boot(self) -> None:
        answer = await self._expect((202,), "compute", "POST", "/v2.1/servers", self._body)
        self.alive.append(json.loads(answer)["server"]["id"])

    async def _delete(self) -> None:
        """Of one of the older ones; whatever it is at."""
        if len(self.alive) < 10:
            await self._list()
            return
        server = self.alive.pop(self._random.randrange(len(self.alive) // 2))
        self.deleted.append(server)
        await self._expect((204,), "compute", "DELETE", f"/v2.1/servers/{server}")
