"""SQLite: a write-ahead log, and group commit on the event loop.

Statements run on the loop's thread, since a writer thread starves beside a busy loop (docs/internals/database.md). Transactions run one
after the other in a group of at most `MAX_GROUP`; the group's COMMIT runs when the loop has nothing else ready. A body that fails after
it has written something takes the group back, and the members before it run again; a savepoint for each would undo only the one, and
costs a third of all statements, so there is one only for the next 256 after a failure. A failed COMMIT fails every
member. COMMIT writes the log (synchronous=NORMAL), and the log goes to the disk while the loop goes on (core/file_sync.py): then the
members' futures are set. One synchronisation is under way at a time; what is committed meanwhile shares the next. Where the kernel cannot
do that, COMMIT itself waits for the disk (synchronous=FULL). What others read meanwhile is committed, and would be lost with the power
for as long as a disk takes; nobody was told that it is done.

Reads outside a transaction see committed data only. A second connection would be enough for that, but each commit of the first empties
its page cache; so the writer's own connection answers whatever the open group has not written to.
"""

import asyncio
import collections
import os
import sqlite3
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar

from sqlalchemy.dialects import sqlite as sqlite_dialect
from sqlalchemy.schema import CreateIndex, CreateTable

from kilonova.core.db.facade import NONE, Duplicate, Lost, OutcomeUnknown, Parameters, Row, Transaction, Unmatched
from kilonova.core.db.kept import Kept
from kilonova.core.db.statements import Compiled, Prepared
from kilonova.core.file_sync import FileSync
from kilonova.core.runtime import Runtime

T = TypeVar("T")
MAX_GROUP = 64
CHECKPOINT_PAGES = 16_000
"""Of 4 KiB: the write-ahead log grows to 64 MiB before it is worked in. Most of its pages are newer versions of each other."""


class _Connection:
    """all/one/run/many on one connection."""

    __slots__ = ("_compile", "_connection", "_kept", "written")
    alone = True
    joins = False
    shares = False

    def __init__(self, connection: sqlite3.Connection, compile: Callable[[Any], Compiled], kept: Kept) -> None:
        self._kept = kept
        self._connection = connection
        self._compile = compile
        self.written: set[str] = set()
        """Tables with changes that are not committed; "" when one is not known. For asking only: it has no order."""

    async def all(self, statement: Any, parameters: Parameters = NONE) -> list[Row]:
        return self.read_all(statement, parameters)

    def read_all(self, statement: Any, parameters: Parameters) -> list[Row]:
        compiled = statement.compiled.get("sqlite") if statement.__class__ is Prepared else None
        if compiled is None:
            compiled = self._compile(statement)
        sql, arguments = compiled.arguments(parameters)
        if not compiled.kept or not self._keeps(compiled):
            return self._all(compiled, sql, arguments)
        key = (True, sql, *arguments)
        found = self._kept.find(compiled, key)
        if found is not None:
            return list(found[1])
        rows = self._all(compiled, sql, arguments)
        self._kept.keep(key, rows)
        return list(rows)

    async def one(self, statement: Any, parameters: Parameters = NONE) -> Row | None:
        return self.read_one(statement, parameters)

    def read_one(self, statement: Any, parameters: Parameters) -> Row | None:
        compiled = statement.compiled.get("sqlite") if statement.__class__ is Prepared else None
        if compiled is None:
            compiled = self._compile(statement)
        sql, arguments = compiled.arguments(parameters)
        if not compiled.kept or not self._keeps(compiled):
            return self._one(compiled, sql, arguments)
        key = (False, sql, *arguments)
        found = self._kept.find(compiled, key)
        if found is not None:
            row: Row | None = found[1]
            return row
        row = self._one(compiled, sql, arguments)
        self._kept.keep(key, row)
        return row

    def _keeps(self, compiled: Compiled) -> bool:
        """Not while a table of its is written in the open group: that may still be undone."""
        reads, written = compiled.reads, self.written
        return reads is not None and (not written or ("" not in written and written.isdisjoint(reads)))

    def _all(self, compiled: Compiled, sql: str, arguments: Sequence[Any]) -> list[Row]:
        rows = self._connection.execute(sql, arguments).fetchall()
        return [compiled.converted(row) for row in rows] if compiled.results else rows

    def _one(self, compiled: Compiled, sql: str, arguments: Sequence[Any]) -> Row | None:
        cursor = self._connection.execute(sql, arguments)
        row: Row | None = cursor.fetchone()
        if row is None:
            return None
        cursor.close()
        return compiled.converted(row) if compiled.results else row

    async def run(self, statement: Any, parameters: Parameters = NONE) -> int:
        compiled = statement.compiled.get("sqlite") if statement.__class__ is Prepared else None
        if compiled is None:
            compiled = self._compile(statement)
        sql, arguments = compiled.arguments(parameters)
        try:
            cursor = self._connection.execute(sql, arguments)
        except sqlite3.IntegrityError as error:
            raise _integrity(error) from None
        self.written.add(compiled.writes)
        return cursor.rowcount

    async def later(
        self, statement: Any, parameters: Parameters = NONE, *, rows: int | None = None, otherwise: Exception | None = None, name: str = ""
    ) -> None:
        matched = await self.run(statement, parameters)
        if rows is not None and matched != rows:
            raise otherwise or Unmatched

    async def many(self, statement: Prepared, parameters: Sequence[Parameters]) -> None:
        if not parameters:
            return
        compiled = self._compile(statement)
        self.written.add(compiled.writes)
        rows = [compiled.arguments(p)[1] for p in parameters]
        try:
            self._connection.executemany(compiled.sql, rows)
        except sqlite3.IntegrityError as error:
            raise _integrity(error) from None


def _integrity(error: sqlite3.IntegrityError) -> Exception:
    text = str(error)
    if text.startswith(("UNIQUE constraint failed: ", "PRIMARY KEY")):
        return Duplicate(text.partition(": ")[2])
    return error


def _tell(group: list["_Member"]) -> None:
    for member in group:
        if not member.done.done():
            member.done.set_result(None)


def _fail(member: "_Member", error: Exception) -> None:
    if not member.done.done():
        member.done.set_exception(error)


class _Member:
    """A transaction of the open group."""

    __slots__ = ("body", "done", "result")

    def __init__(self, body: Callable[[Transaction], Awaitable[Any]], done: asyncio.Future[None]) -> None:
        self.body = body
        self.done = done
        self.result: Any = None


class SQLite:
    """One file (or ":memory:", one connection for all) of one process."""

    CAREFUL = 256
    """So many transactions have savepoints after one has failed."""

    def __init__(self, path: str, runtime: Runtime, *, synchronous: str = "FULL") -> None:
        self.dialect = sqlite_dialect.dialect(paramstyle="qmark")
        self.path = path
        self.runtime = runtime
        self._writer_connection = self._open(synchronous)
        self._reader_connection = self._writer_connection if path == ":memory:" else self._open(synchronous)
        self._kept = Kept()
        self._writer = _Connection(self._writer_connection, self._compile, self._kept)
        self._reader = _Connection(self._reader_connection, self._compile, self._kept)
        self._group: list[_Member] = []
        self._careful = 0
        self._open_group = False
        self._busy: asyncio.Task[Any] | None = None
        self._reserved = False
        self._waiting: collections.deque[asyncio.Future[None]] = collections.deque()
        self._scheduled = False
        self._closed = False
        self._sync_later = synchronous == "FULL" and path != ":memory:"
        """The log has not been opened for it yet."""
        self._sync: FileSync | None = None
        self._log = -1
        self._syncing: list[_Member] | None = None
        """Whom the synchronisation that is under way is for."""
        self._unsynced: list[_Member] = []
        """Committed; the next one is theirs."""
        self._broken: OSError | None = None

    def _open(self, synchronous: str) -> sqlite3.Connection:
        connection = sqlite3.connect(self.path, isolation_level=None, check_same_thread=False, cached_statements=512, timeout=5)
        for pragma in (
            "journal_mode=WAL",
            f"synchronous={synchronous}",
            "foreign_keys=ON",
            "busy_timeout=5000",
            "cache_size=-64000",
            f"wal_autocheckpoint={CHECKPOINT_PAGES}",
            "temp_store=MEMORY",
        ):
            connection.execute(f"PRAGMA {pragma}")
        return connection

    def _compile(self, statement: Any) -> Compiled:
        if isinstance(statement, Prepared):
            return statement.on(self.dialect)
        return Compiled(statement, self.dialect)

    def now_us(self) -> int:
        return self.runtime.now_us()

    def stamp(self) -> int | None:
        return self._kept.commits

    async def all(self, statement: Any, parameters: Parameters = NONE) -> list[Row]:
        return self._for(statement).read_all(statement, parameters)

    async def one(self, statement: Any, parameters: Parameters = NONE) -> Row | None:
        return self._for(statement).read_one(statement, parameters)

    def _for(self, statement: Any) -> _Connection:
        """Where to read: see the top of this file."""
        if not self._open_group:
            return self._writer
        if self._busy is not None or not isinstance(statement, Prepared):
            return self._reader
        touched, written = statement.on(self.dialect).reads, self._writer.written
        return self._reader if touched is None or "" in written or not written.isdisjoint(touched) else self._writer

    async def run(self, statement: Any, parameters: Parameters = NONE) -> int:
        return await self.transact(lambda tx: tx.run(statement, parameters))

    async def transact(self, body: Callable[[Transaction], Awaitable[T]]) -> T:
        await self._enter()
        connection = self._writer_connection
        careful = self._careful > 0
        try:
            if not self._open_group:
                connection.execute("BEGIN IMMEDIATE")
                self._open_group = True
            before = connection.total_changes
            if careful:
                self._careful -= 1
                connection.execute("SAVEPOINT s")
            member = _Member(body, asyncio.get_running_loop().create_future())
            try:
                member.result = await body(self._writer)
            except BaseException:
                if not connection.in_transaction:
                    self._lose("the database gave the transaction up")
                elif careful:
                    connection.execute("ROLLBACK TO s")
                    connection.execute("RELEASE s")
                elif connection.total_changes != before:
                    await self._replay()
                raise
            if careful:
                connection.execute("RELEASE s")
            self._group.append(member)
        except sqlite3.OperationalError as error:
            raise Lost(str(error)) from error
        finally:
            self._leave()
        await member.done
        result: T = member.result
        return result

    async def _replay(self) -> None:
        """Take the group back and run its members again, in their order."""
        self._careful = self.CAREFUL
        connection = self._writer_connection
        try:
            again = True
            while again:
                connection.execute("ROLLBACK")
                self._writer.written = set()
                connection.execute("BEGIN IMMEDIATE")
                again = False
                for member in list(self._group):
                    try:
                        member.result = await member.body(self._writer)
                    except sqlite3.OperationalError:
                        raise
                    except Exception as error:
                        self._group.remove(member)
                        _fail(member, error)
                        again = True
                        break
        except sqlite3.OperationalError as error:
            self._lose(str(error))
            raise

    def _lose(self, why: str) -> None:
        """The open group is gone."""
        if self._writer_connection.in_transaction:
            self._writer_connection.execute("ROLLBACK")
        self._open_group = False
        self._writer.written = set()
        group, self._group = self._group, []
        for member in group:
            _fail(member, Lost(why))

    async def _enter(self) -> None:
        if self._closed:
            raise Lost("the database is closed")
        if self._broken is not None:
            raise Lost(f"the disk refused a write, and the database is not written to any more: {self._broken}")
        task = asyncio.current_task()
        if self._busy is not None or self._reserved:
            if self._busy is task and task is not None:
                raise RuntimeError("a transaction inside a transaction: a body may await nothing but its own statements")
            turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiting.append(turn)
            try:
                await turn
            except asyncio.CancelledError:
                if turn.done() and not turn.cancelled():
                    self._reserved = False
                    self._next()
                raise
            self._reserved = False
        self._busy = task

    def _leave(self) -> None:
        self._busy = None
        if self._open_group and not self._scheduled:
            self._scheduled = True
            asyncio.get_running_loop().call_soon(self._commit)
        if len(self._group) >= MAX_GROUP:
            self._commit_now()
        self._next()

    def _next(self) -> None:
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():
                self._reserved = True
                turn.set_result(None)
                return

    def _commit(self) -> None:
        self._scheduled = False
        if self._busy is None:
            self._commit_now()

    def _commit_now(self) -> None:
        if not self._open_group or self._closed:
            return
        group, self._group = self._group, []
        self._open_group = False
        written, self._writer.written = self._writer.written, set()
        try:
            self.runtime.point("commit")
            self._writer_connection.execute("COMMIT")
            self._kept.committed(written)
            self.runtime.point("committed")
            if self._sync is not None:
                self._unsynced.extend(group)
                if self._syncing is None:
                    self._synchronise()
                return
            if self._sync_later:
                self._begin_syncing()
        except sqlite3.Error as error:
            if self._writer_connection.in_transaction:
                self._writer_connection.execute("ROLLBACK")
            for member in group:
                _fail(member, Lost(f"the commit failed: {error}"))
            return
        _tell(group)

    def _synchronise(self) -> None:
        self._syncing, self._unsynced = self._unsynced, []
        try:
            assert self._sync is not None
            self._sync.start(self._log, self._synchronised)
        except OSError as error:
            self._synchronised(error)

    def _synchronised(self, error: OSError | None) -> None:
        """After a failure nobody knows what is on the disk, and a second attempt would not tell: nothing is written any more."""
        group, self._syncing = self._syncing or [], None
        self._broken = self._broken or error
        if error is None:
            _tell(group)
        else:
            for member in group:
                _fail(member, OutcomeUnknown(f"the log did not reach the disk: {error}"))
        if self._unsynced:
            self._synchronise()

    def _begin_syncing(self) -> None:
        """After the first commit: then the log's file is there."""
        self._sync_later = False
        self._sync = self.runtime.file_sync()
        if self._sync is None:
            return
        try:
            self._log = os.open(f"{self.path}-wal", os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            self._sync.close()
            self._sync = None
            return
        self._writer_connection.execute("PRAGMA synchronous=NORMAL")

    async def create(self, metadata: Any) -> None:
        async def body(tx: Transaction) -> None:
            have = {row[0] for row in self._writer_connection.execute("SELECT name FROM sqlite_master ORDER BY name")}
            for table in metadata.sorted_tables:
                if table.name not in have:
                    self._writer_connection.execute(str(CreateTable(table).compile(dialect=self.dialect)))
                    for index in sorted(table.indexes, key=lambda i: str(i.name)):
                        self._writer_connection.execute(str(CreateIndex(index).compile(dialect=self.dialect)))

        self._careful = max(self._careful, 1)
        await self.transact(body)

    def abandon(self) -> None:
        """As if the process had died: nothing that is not committed is kept. For simulated crashes."""
        self._closed = True
        if self._sync is not None:
            self._sync.close()
            os.close(self._log)
        self._writer_connection.close()
        self._reader_connection.close()

    async def stop(self) -> None:
        if self._closed:
            return
        self._commit_now()
        self._closed = True
        self._end_syncing()
        self._writer_connection.close()
        if self._reader_connection is not self._writer_connection:
            self._reader_connection.close()

    def _end_syncing(self) -> None:
        """Waits for the disk: then whoever is still waiting has what it asked for."""
        if self._sync is None:
            return
        self._sync.close()
        self._sync = None
        self._syncing, self._unsynced = [*(self._syncing or []), *self._unsynced], []
        try:
            os.fdatasync(self._log)
        except OSError as error:
            self._synchronised(error)
        else:
            self._synchronised(None)
        os.close(self._log)
