"""Connections to a database server: bounded, waited for with a limit, made to whichever host is writable.

One task at a time makes a connection. While no host can be reached it tries again and again, and the others wait for it; each gives
up after its own wait limit with `Lost`. A connection that broke takes all idle ones of its time with it, since a fail-over breaks all.
"""

import asyncio
import collections
from collections.abc import Sequence
from enum import Enum
from typing import Any, Protocol

import msgspec

from kilonova.core.db.facade import Lost, Row
from kilonova.core.db.url import Url, address
from kilonova.core.log import Log
from kilonova.core.runtime import Runtime

FIRST_PAUSE_S = 0.1
CLOCK_AGE_S = 30.0


class Trouble(Enum):
    """What an error of a driver means to us."""

    DUPLICATE = "a unique constraint refused a row"
    AGAIN = "deadlock, serialisation failure or lock timeout: nothing is kept, the transaction may be run again"
    GONE = "the connection is broken"
    ELSEWHERE = "this server does not take writes (any more)"
    UNFIT = "the value does not fit its column"
    OTHER = "none of these"


class Wire(Protocol):
    """One connection."""

    async def all(self, sql: str, arguments: Sequence[Any]) -> Sequence[Any]: ...

    async def run(self, sql: str, arguments: Sequence[Any]) -> int:
        """Rows matched."""
        ...

    async def many(self, sql: str, rows: Sequence[Sequence[Any]]) -> None: ...

    async def command(self, sql: str) -> str:
        """BEGIN, COMMIT and the like; the server's word for what it did, where it says."""
        ...

    def closed(self) -> bool: ...

    def abort(self) -> None:
        """Close at once, without a word to the server, which rolls back what was open."""
        ...

    async def close(self) -> None: ...


class Driver(Protocol):
    """What differs between the servers."""

    name: str
    dialect: Any
    aborts: bool
    """Whether a refused statement spoils its whole transaction."""
    joins: bool
    """Whether one statement can do several writes."""
    shares: bool
    """Whether SELECT … FOR SHARE holds against every writer."""
    begin: str
    clock: str
    """A SELECT of the server's time in microseconds."""
    lock: str
    """A SELECT that takes the lock {name} until the connection ends; its answer is false when another holds it."""

    async def connect(self, host: str, port: int) -> Wire: ...

    async def unwritable(self, wire: Wire) -> str:
        """Why this server takes no writes; empty when it does."""
        ...

    def trouble(self, error: BaseException) -> Trouble: ...

    def unsent(self, error: BaseException) -> bool:
        """Whether the statement that failed so never left this machine."""
        ...

    def duplicate(self, error: BaseException, table: Any) -> str:
        """What of: table.column, table.column."""
        ...

    def unmatched(self, error: BaseException) -> int | None:
        """Which of several joined writes did not match as many rows as it must."""
        ...

    def reason(self, error: BaseException) -> str:
        """A few words for the log; no secrets, no values."""
        ...


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    max_pool_size: int = 20
    pool_timeout: float = 10.0
    connection_recycle_time: float = 3600.0
    retry_interval: float = 3.0
    db_max_retries: int = 20


class Link:
    """A connection in the pool: which server, since when."""

    __slots__ = ("born_at", "generation", "place", "wire")

    def __init__(self, wire: Wire, place: str, generation: int, born_at: float) -> None:
        self.wire = wire
        self.place = place
        self.generation = generation
        self.born_at = born_at


class Pool:
    def __init__(self, driver: Driver, url: Url, runtime: Runtime, log: Log, limits: Limits) -> None:
        self.driver = driver
        self.url = url
        self.runtime = runtime
        self.log = log
        self.limits = limits
        self.offset_us: int | None = None
        """The server's clock minus our monotonic one."""
        self._measured_at = 0.0
        self._idle: list[Link] = []
        self._out: dict[int, Link] = {}
        self._making = 0
        self._waiting: collections.deque[asyncio.Future[None]] = collections.deque()
        self._connecting = asyncio.Lock()
        self._generation = 0
        self._at = 0
        """Which host is tried first: the one that was writable last."""
        self._told_at: float | None = None
        self._why = ""
        self._closed = False

    async def take(self) -> Link:
        """An idle connection or a new one. Raises Lost after the wait limit."""
        if self._closed:
            raise Lost("the database is closed")
        if self._idle and not self._waiting:
            link = self._pop()
            if link is not None:
                return link
        try:
            async with asyncio.timeout(self.limits.pool_timeout):
                return await self._obtain()
        except TimeoutError:
            why = self._why or f"all {self.limits.max_pool_size} connections are in use; [database] max_pool_size sets how many there are"
            raise Lost(f"{self.url} gave no connection within {self.limits.pool_timeout:g} s: {why}") from None

    def _pop(self) -> Link | None:
        while self._idle:
            link = self._idle.pop()
            if not link.wire.closed() and link.generation == self._generation:
                self._out[id(link)] = link
                return link
            link.wire.abort()
        return None

    async def _obtain(self) -> Link:
        while True:
            link = self._pop()
            if link is not None:
                return link
            if self._closed:
                raise Lost("the database is closed")
            if len(self._out) + self._making < self.limits.max_pool_size:
                self._making += 1
                try:
                    async with self._connecting:
                        link = self._pop() or await self._connect()
                finally:
                    self._making -= 1
                    self._wake()
                self._out[id(link)] = link
                return link
            turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiting.append(turn)
            try:
                await turn
            except asyncio.CancelledError:
                if turn.done() and not turn.cancelled():
                    self._wake()
                raise

    def _wake(self) -> None:
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(None)
                return

    def give(self, link: Link) -> None:
        """Back, in working order and outside any transaction."""
        self._out.pop(id(link), None)
        old = self.runtime.monotonic() - link.born_at > self.limits.connection_recycle_time
        if self._closed or old or link.generation != self._generation or link.wire.closed():
            link.wire.abort()
        else:
            self._idle.append(link)
        self._wake()

    def drop(self, link: Link, *, broken: bool = False) -> None:
        """Gone, or in a state that nobody knows. `broken`: the server is; every other connection of its time is doubted too."""
        self._out.pop(id(link), None)
        link.wire.abort()
        if broken and link.generation == self._generation:
            self._generation += 1
            for other in self._idle:
                other.wire.abort()
            self._idle.clear()
        self._wake()

    async def _connect(self) -> Link:
        pause = FIRST_PAUSE_S
        while True:
            for i in range(len(self.url.hosts)):
                at = (self._at + i) % len(self.url.hosts)
                link = await self._try(*self.url.hosts[at])
                if link is not None:
                    self._at = at
                    return link
            if self._closed:
                raise Lost("the database is closed")
            self._tell(pause)
            await self.runtime.sleep(pause * (0.75 + 0.5 * self.runtime.random.random()))
            pause = min(2 * pause, self.limits.retry_interval)

    async def _try(self, host: str, port: int) -> Link | None:
        place = address(host, port)
        wire: Wire | None = None
        try:
            wire = await self.driver.connect(host, port)
            why = await self.driver.unwritable(wire)
            if not why:
                await self.measure(wire)
                self._welcome(place)
                return Link(wire, place, self._generation, self.runtime.monotonic())
            self._why = f"{place} {why}"
            wire.abort()
        except BaseException as error:
            if wire is not None:
                wire.abort()
            if not isinstance(error, Exception):
                raise
            self._why = f"{place} is unreachable: {self.driver.reason(error)}"
        return None

    def _tell(self, pause: float) -> None:
        """One line each `retry_interval`, however often it is tried."""
        now = self.runtime.monotonic()
        if self._told_at is None or now - self._told_at >= self.limits.retry_interval:
            self._told_at = now
            self.log.error(f"database at {self._why}, retrying in {pause:g} s")

    def _welcome(self, place: str) -> None:
        if self._told_at is not None:
            self.log.info(f"database at {place} is reachable and takes writes")
        self._told_at = None
        self._why = ""

    async def measure(self, wire: Wire) -> None:
        before = self.runtime.monotonic()
        [(server_us,)] = await wire.all(self.driver.clock, ())
        after = self.runtime.monotonic()
        self.offset_us = int(server_us) - int((before + after) * 500_000)
        self._measured_at = after

    def clock_is_old(self) -> bool:
        return self.runtime.monotonic() - self._measured_at > CLOCK_AGE_S

    async def stop(self) -> None:
        self._closed = True
        for link in self._idle:
            try:
                async with asyncio.timeout(1):
                    await link.wire.close()
            except Exception:  # it was to go anyway
                link.wire.abort()
        self._idle.clear()
        for link in list(self._out.values()):
            link.wire.abort()
        while self._waiting:
            self._wake()

    def facts(self) -> dict[str, int]:
        return {"idle": len(self._idle), "in_use": len(self._out), "waiting": len(self._waiting)}


def row_of(row: Any) -> Row:
    return tuple(row)
