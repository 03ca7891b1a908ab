"""Which database a test's world stands on: SQLite, or the server that KILONOVA_TEST_DATABASE names by its URL.

"rehearsed" is SQLite whose transactions all run twice: what a body may not do (it may be run again) then shows.
On a server each path is a database of its own, made when it is first connected to, so that a world that is started again over the
same path finds its data. Only the newest few of a process are kept.
"""

import asyncio
import hashlib
import os
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar

import msgspec

from kilonova.core.db import Database, Transaction, Unmatched
from kilonova.core.db.facade import NONE, Parameters, Row
from kilonova.core.db.opening import driver_of
from kilonova.core.db.pool import Driver, Limits, Wire
from kilonova.core.db.server import Server
from kilonova.core.db.sqlite import SQLite, _Connection
from kilonova.core.db.statements import Compiled
from kilonova.core.db.url import Url, parse
from kilonova.core.log import Log, Sink
from kilonova.core.runtime import Runtime

T = TypeVar("T")
VARIABLE = "KILONOVA_TEST_DATABASE"
REHEARSED = "rehearsed"
KEPT = 6
ABSENT = ("3D000", 1049)
_made: dict[str, "TestServer"] = {}


def open_test_database(
    path: str, runtime: Runtime, *, server: str | None = None, log: Log | None = None, synchronous: str = "OFF", joins: bool = False
) -> Database:
    """`path`: SQLite's file or ":memory:". A simulated world always gets SQLite, since no socket keeps virtual time; `joins`: one that puts
    writes off as PostgreSQL does.

    `server`: the URL of a server, instead of the one in the environment; empty: SQLite."""
    if joins:
        return Joining(path, runtime, synchronous=synchronous)
    url = os.environ.get(VARIABLE, "") if server is None else server
    if url == REHEARSED:
        return Rehearsed(path, runtime, synchronous=synchronous)
    if not url or type(runtime) is not Runtime:
        return SQLite(path, runtime, synchronous=synchronous)
    key = os.urandom(8).hex() if path == ":memory:" else hashlib.sha256(os.path.abspath(path).encode()).hexdigest()[:16]
    database = f"t_{key}"
    made = TestServer(parse(url), database, runtime, log or Log("database", Sink(level="error")))
    _made.pop(database, None)
    _made[database] = made
    return made


class Rehearsed(SQLite):
    """Each transaction runs, is undone with its whole group, which runs again, and runs a second time."""

    CAREFUL = 0

    async def transact(self, body: Callable[[Transaction], Awaitable[T]]) -> T:
        async def rehearsal(tx: Transaction) -> None:
            await body(tx)
            raise _Rehearsed

        try:
            await super().transact(rehearsal)
        except _Rehearsed:
            pass
        return await super().transact(body)


class _Rehearsed(Exception):
    pass


class Joining(SQLite):
    """Transactions as services see PostgreSQL's (`Transaction.joins`, `Transaction.shares`), though one runs after the other."""

    async def transact(self, body: Callable[[Transaction], Awaitable[T]]) -> T:
        async def joined_body(tx: Transaction) -> T:
            putting_off = _PuttingOff(self._writer)
            result = await body(putting_off)
            await putting_off.catch_up()
            return result

        return await super().transact(joined_body)


class _PuttingOff:
    alone = True
    joins = True
    shares = True

    def __init__(self, connection: _Connection) -> None:
        self._connection = connection
        self._put_off: list[tuple[Compiled, Any, Parameters, int | None, Exception | None, str]] = []

    async def later(
        self, statement: Any, parameters: Parameters = NONE, *, rows: int | None = None, otherwise: Exception | None = None, name: str = ""
    ) -> None:
        compiled = self._connection._compile(statement)
        if not all(compiled.apart(one[0]) for one in self._put_off):
            await self.catch_up()
        self._put_off.append((compiled, statement, parameters, rows, otherwise, name))

    async def catch_up(self) -> None:
        put_off, self._put_off = self._put_off, []
        named = ""
        for compiled, statement, parameters, rows, otherwise, name in put_off:
            sql, arguments = compiled.arguments(parameters)
            if not compiled.writes or compiled.returns:
                found = self._connection._connection.execute(sql, arguments).fetchall()
                matched = len(found)
                if name:
                    columns = ", ".join(column.name for column in statement.element._returning)
                    values = ", ".join(f"({', '.join(repr(value) for value in row)})" for row in found)
                    named = f"WITH {name}({columns}) AS (VALUES {values}) "
            elif named and named.split("(")[0].removeprefix("WITH ") in sql:
                matched = self._connection._connection.execute(named + sql, arguments).rowcount
            else:
                matched = await self._connection.run(statement, parameters)
            if compiled.writes:
                self._connection.written.add(compiled.writes)
            if rows is not None and matched != rows:
                raise otherwise or Unmatched

    async def all(self, statement: Any, parameters: Parameters = NONE) -> list[Row]:
        await self.catch_up()
        return await self._connection.all(statement, parameters)

    async def one(self, statement: Any, parameters: Parameters = NONE) -> Row | None:
        await self.catch_up()
        return await self._connection.one(statement, parameters)

    async def run(self, statement: Any, parameters: Parameters = NONE) -> int:
        await self.catch_up()
        return await self._connection.run(statement, parameters)

    async def many(self, statement: Any, parameters: Sequence[Parameters]) -> None:
        await self.catch_up()
        await self._connection.many(statement, parameters)


class TestServer(Server):
    __test__ = False

    def __init__(self, admin: Url, database: str, runtime: Runtime, log: Log) -> None:
        url = msgspec.structs.replace(admin, database=database)
        limits = Limits(max_pool_size=10, pool_timeout=20, retry_interval=1)
        super().__init__(_Making(driver_of(url, {}), driver_of(admin, {}), database), url, runtime, log, limits)
        self.stopped = False

    async def stop(self) -> None:
        await super().stop()
        self.stopped = True


class _Making:
    """A driver that makes the database which it does not find."""

    def __init__(self, driver: Driver, admin: Driver, database: str) -> None:
        self._driver = driver
        self._admin = admin
        self._database = database

    def __getattr__(self, name: str) -> Any:
        return getattr(self._driver, name)

    async def connect(self, host: str, port: int) -> Wire:
        try:
            return await self._driver.connect(host, port)
        except Exception as error:
            if getattr(error, "sqlstate", None) not in ABSENT and error.args[:1] != (ABSENT[1],):
                raise
        wire = await self._admin.connect(host, port)
        try:
            await wire.command(f"CREATE DATABASE {self._database}")
            for old in [name for name, server in _made.items() if server.stopped][: max(0, len(_made) - KEPT)]:
                del _made[old]
                await wire.command(f"DROP DATABASE IF EXISTS {old}")
        finally:
            async with asyncio.timeout(5):
                await wire.close()
        return await self._driver.connect(host, port)
