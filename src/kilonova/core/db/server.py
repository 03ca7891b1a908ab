"""PostgreSQL and MariaDB behind the facade: one runner, two drivers.

Isolation is READ COMMITTED on both (docs/internals/database.md says why). A transaction is run again when the server undid it (deadlock,
serialisation failure, lock timeout, a certification failure of Galera) and when its connection broke before COMMIT was sent. When
it breaks during COMMIT nobody knows; that is `OutcomeUnknown`, and never tried again, unless the body wrote nothing.
"""

import re
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any, NamedTuple, TypeVar

from sqlalchemy.schema import CreateIndex, CreateTable

from kilonova.core.db.facade import NONE, Duplicate, Lost, OutcomeUnknown, Parameters, Row, Transaction, Unfit, Unmatched
from kilonova.core.db.pool import Driver, Limits, Link, Pool, Trouble, Wire
from kilonova.core.db.statements import Compiled, Prepared
from kilonova.core.db.url import Url
from kilonova.core.log import Log
from kilonova.core.runtime import Runtime

T = TypeVar("T")
FIRST_BACKOFF_S = 0.005
MOST_BACKOFF_S = 0.5
KEPT_JOINS = 1024


class _Careful(BaseException):
    """The body went on after a refused statement, which PostgreSQL does not allow: once more, with a savepoint before each write."""


class _PutOff(NamedTuple):
    """rows: how many it must match, or any number; else `otherwise`. name: of what it returns."""

    compiled: Compiled
    sql: str
    arguments: Sequence[Any]
    rows: int | None
    otherwise: Exception | None
    name: str


class _Transaction:
    """all/one/run/many inside BEGIN … COMMIT. BEGIN is said before the first write or lock: until then each statement sees what is
    committed, as it would inside."""

    __slots__ = ("_careful", "_compile", "_driver", "_put_off", "_wire", "begun", "joins", "shares", "spoilt", "wrote")
    alone = False

    def __init__(self, wire: Wire, driver: Driver, compile: Callable[[Any], Compiled], careful: bool) -> None:
        self._wire = wire
        self._driver = driver
        self._compile = compile
        self._careful = careful
        self.joins = driver.joins and not careful
        self.shares = driver.shares
        self.begun = False
        self._put_off: list[_PutOff] = []
        self.spoilt = False
        self.wrote = False

    async def all(self, statement: Any, parameters: Parameters = NONE) -> list[Row]:
        if self.spoilt:
            raise _Careful
        compiled = self._compile(statement)
        sql, arguments = compiled.arguments(parameters)
        if self._put_off and not self._apart(compiled):
            await self._catch_up()
        if compiled.locks and not self.begun:
            await self._begin()
        try:
            rows = await self._wire.all(sql, arguments)
        except Exception as error:
            raise self._meaning(error, compiled) from None
        return [compiled.converted(row) for row in rows] if compiled.results else [tuple(row) for row in rows]

    async def one(self, statement: Any, parameters: Parameters = NONE) -> Row | None:
        rows = await self.all(statement, parameters)
        return rows[0] if rows else None

    async def run(self, statement: Any, parameters: Parameters = NONE) -> int:
        compiled = self._compile(statement)
        sql, arguments = compiled.arguments(parameters)
        if self._put_off:
            await self._catch_up()
        return await self._write(lambda: self._wire.run(sql, arguments), compiled)

    async def later(
        self, statement: Any, parameters: Parameters = NONE, *, rows: int | None = None, otherwise: Exception | None = None, name: str = ""
    ) -> None:
        if not self.joins:
            matched = await self.run(statement, parameters)
            if rows is not None and matched != rows:
                raise otherwise or Unmatched
            return
        compiled = self._compile(statement)
        sql, arguments = compiled.arguments(parameters)
        if not self._apart(compiled):
            await self._catch_up()
        self._put_off.append(_PutOff(compiled, sql, arguments, rows, otherwise, name))

    def _apart(self, compiled: Compiled) -> bool:
        return all(compiled.apart(other.compiled) for other in self._put_off)

    async def _catch_up(self) -> None:
        put_off, self._put_off = self._put_off, []
        sql, arguments = joined(put_off)
        try:
            await self._write(lambda: self._wire.run(sql, arguments), put_off[0].compiled)
        except Exception as error:
            raise self._refusal(error, put_off) from None

    def _refusal(self, error: Exception, put_off: Sequence[_PutOff]) -> Exception:
        at = self._driver.unmatched(error)
        return error if at is None else put_off[at].otherwise or Unmatched()

    @property
    def waits(self) -> bool:
        """Whether anything is to be written or committed."""
        return self.begun or bool(self._put_off)

    async def finish(self) -> None:
        """What was put off, unless it is all that is written: then it is one statement, and a transaction by itself."""
        if self._put_off and self.begun:
            await self._catch_up()

    async def commit(self) -> str:
        if self.begun:
            return await self._wire.command("COMMIT")
        put_off, self._put_off = self._put_off, []
        sql, arguments = joined(put_off)
        self.wrote = True
        try:
            await self._wire.run(sql, arguments)
        except Exception as error:
            raise self._refusal(meaning(self._driver, error, put_off[0].compiled), put_off) from None
        return ""

    async def many(self, statement: Prepared, parameters: Sequence[Parameters]) -> None:
        if parameters:
            compiled = self._compile(statement)
            rows = [compiled.arguments(p)[1] for p in parameters]
            if self._put_off:
                await self._catch_up()
            await self._write(lambda: self._wire.many(compiled.sql, rows), compiled)

    async def _write(self, write: Callable[[], Awaitable[T]], compiled: Compiled) -> T:
        if self.spoilt:
            raise _Careful
        if not self.begun:
            await self._begin()
        self.wrote = True
        if self._careful:
            await self._wire.command("SAVEPOINT s")
        try:
            result = await write()
        except Exception as error:
            meaning = self._meaning(error, compiled)
            if self._careful and isinstance(meaning, (Duplicate, Unfit)):
                await self._wire.command("ROLLBACK TO SAVEPOINT s")
                self.spoilt = False
            raise meaning from None
        if self._careful:
            await self._wire.command("RELEASE SAVEPOINT s")
        return result

    async def _begin(self) -> None:
        await self._wire.command(self._driver.begin)
        self.begun = True

    def _meaning(self, error: Exception, compiled: Compiled) -> Exception:
        self.spoilt = self._driver.aborts and self.begun
        return meaning(self._driver, error, compiled)


_PLACE = re.compile(r"\$(\d+)")
_joined: dict[tuple[Any, ...], str] = {}


def joined(put_off: Sequence[_PutOff]) -> tuple[str, Sequence[Any]]:
    """One statement that does all of them: each is a WITH of it (PostgreSQL's data-modifying WITH). Those that must match some number of
    rows are counted, in their order, before the others are done; a wrong count ends the statement with an error that tells which
    (`Driver.unmatched`)."""
    if len(put_off) == 1 and put_off[0].rows is None:
        return put_off[0].sql, put_off[0].arguments
    key = tuple([(one.sql, one.rows, one.name) for one in put_off])
    text = _joined.get(key)
    if text is None:
        if len(_joined) >= KEPT_JOINS:
            _joined.clear()
        text = _joined[key] = _join(put_off)
    return text, [argument for one in put_off for argument in one.arguments]


def _join(put_off: Sequence[_PutOff]) -> str:
    parts: list[str] = []
    counts: list[str] = []
    before = 0
    for number, one in enumerate(put_off):
        sql = _PLACE.sub(lambda match, before=before: f"${int(match[1]) + before}", one.sql)  # type: ignore[misc]
        before += len(one.arguments)
        name = one.name or f"w{number}"
        if one.rows is not None:
            counts.append(f"WHEN (SELECT count(*) FROM {name}) <> {one.rows} THEN '{number}'")
            if one.compiled.writes and not one.compiled.returns:
                sql += " RETURNING 1"
        parts.append(f"{name} AS ({sql})" if counts or number < len(put_off) - 1 else sql)
    if not counts:
        return f"WITH {', '.join(parts[:-1])} {parts[-1]}"
    return f"WITH {', '.join(parts)} SELECT CAST('unmatched ' || CASE {' '.join(counts)} END AS integer)"


def meaning(driver: Driver, error: Exception, compiled: Compiled) -> Exception:
    """The facade's word for a driver's error; the error itself where there is none."""
    trouble = driver.trouble(error)
    if trouble is Trouble.DUPLICATE:
        return Duplicate(driver.duplicate(error, compiled.table))
    if trouble is Trouble.UNFIT:
        return Unfit(driver.reason(error))
    return error


class Server:
    """One database on a server, or on the writable one of several."""

    def __init__(self, driver: Driver, url: Url, runtime: Runtime, log: Log, limits: Limits) -> None:
        self.driver = driver
        self.dialect = driver.dialect
        self.url = url
        self.runtime = runtime
        self.log = log
        self.limits = limits
        self.pool = Pool(driver, url, runtime, log, limits)
        self.runs_again = 0
        """Transactions that were run again, of all reasons."""

    def _compile(self, statement: Any) -> Compiled:
        if isinstance(statement, Prepared):
            return statement.on(self.dialect)
        return Compiled(statement, self.dialect)

    def now_us(self) -> int:
        """The server's clock, as measured at the last connection or half a minute ago; before the first one our own."""
        offset = self.pool.offset_us
        return self.runtime.now_us() if offset is None else int(self.runtime.monotonic() * 1_000_000) + offset

    def stamp(self) -> int | None:
        return None

    # ---- reads

    async def all(self, statement: Any, parameters: Parameters = NONE) -> list[Row]:
        compiled = self._compile(statement)
        sql, arguments = compiled.arguments(parameters)
        rows = await self._read(sql, arguments, compiled)
        return [compiled.converted(row) for row in rows] if compiled.results else [tuple(row) for row in rows]

    async def one(self, statement: Any, parameters: Parameters = NONE) -> Row | None:
        compiled = self._compile(statement)
        sql, arguments = compiled.arguments(parameters)
        rows = await self._read(sql, arguments, compiled)
        if not rows:
            return None
        return compiled.converted(rows[0]) if compiled.results else tuple(rows[0])

    async def _read(self, sql: str, arguments: Sequence[Any], compiled: Compiled) -> Sequence[Any]:
        return await self._alone(lambda wire: wire.all(sql, arguments), compiled, writes=False)

    async def _alone(self, ask: Callable[[Wire], Awaitable[T]], compiled: Compiled, *, writes: bool) -> T:
        """One statement outside a transaction, again and again while that does no harm: not when it writes and may have been done."""
        attempt = 0
        while True:
            link = await self._link()
            try:
                answer = await ask(link.wire)
            except Exception as error:
                if writes and self.driver.trouble(error) is Trouble.GONE and not self.driver.unsent(error):
                    raise self._unknown(link, error) from error
                if not self._settled(link, error):
                    raise meaning(self.driver, error, compiled) from None
                attempt += 1
                await self._pause(attempt, error)
            except BaseException:
                self.pool.drop(link)
                raise
            else:
                self.pool.give(link)
                return answer

    async def _link(self) -> Link:
        """A connection; on the way the clock is measured when that was long ago."""
        while True:
            link = await self.pool.take()
            if not self.pool.clock_is_old():
                return link
            try:
                await self.pool.measure(link.wire)
                return link
            except BaseException as error:
                self.pool.drop(link, broken=True)
                if not isinstance(error, Exception) or self.driver.trouble(error) is not Trouble.GONE:
                    raise

    def _settled(self, link: Link, error: Exception) -> bool:
        """Give the connection back or away after an error outside a transaction (or one that is rolled back); whether to try again."""
        trouble = self.driver.trouble(error)
        if trouble in (Trouble.GONE, Trouble.ELSEWHERE):
            self.log.warning(f"database at {link.place}: connection given up: {self.driver.reason(error)}")
            self.pool.drop(link, broken=True)
            return True
        self.pool.give(link)
        return trouble is Trouble.AGAIN

    async def _pause(self, attempt: int, error: Exception) -> None:
        """Wait longer each time, by chance. Raises Lost when it is enough."""
        if attempt > self.limits.db_max_retries:
            self.log.error("transaction was run too often; given up", attempts=attempt, error=error)
            raise Lost(f"the database undid it {attempt} times: {self.driver.reason(error)}") from error
        self.runs_again += 1
        await self.runtime.sleep(self.runtime.random.random() * min(MOST_BACKOFF_S, FIRST_BACKOFF_S * 2 ** min(attempt, 12)))

    # ---- writes

    async def transact(self, body: Callable[[Transaction], Awaitable[T]]) -> T:
        attempt, careful = 0, False
        while True:
            link = await self._link()
            tx = _Transaction(link.wire, self.driver, self._compile, careful)
            try:
                result = await self._body(link, tx, body)
            except _Careful:
                careful = True
                continue
            except _Undone as undone:
                attempt += 1
                await self._pause(attempt, undone.error)
                continue
            try:
                await self._commit(link, tx)
            except _Undone as undone:
                attempt += 1
                await self._pause(attempt, undone.error)
                continue
            return result

    async def run(self, statement: Any, parameters: Parameters = NONE) -> int:
        compiled = self._compile(statement)
        sql, arguments = compiled.arguments(parameters)
        self.runtime.point("commit")
        matched = await self._alone(lambda wire: wire.run(sql, arguments), compiled, writes=True)
        self.runtime.point("committed")
        return matched

    def _unknown(self, link: Link, error: Exception) -> OutcomeUnknown:
        self.pool.drop(link, broken=True)
        self.log.error(f"database at {link.place}: the connection broke during a commit", error=error)
        return OutcomeUnknown(f"the connection broke during a commit: {self.driver.reason(error)}")

    async def _body(self, link: Link, tx: _Transaction, body: Callable[[Transaction], Awaitable[T]]) -> T:
        try:
            result = await body(tx)
            if tx.spoilt:
                raise _Careful
            await tx.finish()
            return result
        except _Careful:
            await self._roll_back(link, tx)
            raise
        except Exception as error:
            if self.driver.trouble(error) in (Trouble.GONE, Trouble.ELSEWHERE):
                self._settled(link, error)
                raise _Undone(error) from None
            await self._roll_back(link, tx)
            if self.driver.trouble(error) is Trouble.AGAIN:
                raise _Undone(error) from None
            raise
        except BaseException:
            self.pool.drop(link)
            raise

    async def _roll_back(self, link: Link, tx: _Transaction) -> None:
        try:
            if tx.begun:
                await link.wire.command("ROLLBACK")
        except BaseException as error:
            self.pool.drop(link, broken=isinstance(error, Exception))
            if not isinstance(error, Exception):
                raise
        else:
            self.pool.give(link)

    async def _commit(self, link: Link, tx: _Transaction) -> None:
        if not tx.waits:
            self.pool.give(link)
            return
        self.runtime.point("commit")
        try:
            said = await tx.commit()
        except Exception as error:
            trouble = self.driver.trouble(error)
            if trouble is Trouble.AGAIN:
                await self._roll_back(link, tx)
                raise _Undone(error) from None
            if not tx.begun and trouble is not Trouble.GONE:  # one statement, and the server says that it was not done
                if self._settled(link, error):
                    raise _Undone(error) from None
                raise
            if not tx.wrote or self.driver.unsent(error):
                self.pool.drop(link, broken=True)
                raise _Undone(error) from None
            raise self._unknown(link, error) from error
        except BaseException:
            self.pool.drop(link)
            raise
        self.pool.give(link)
        if said == "ROLLBACK":
            raise Lost("the database rolled the transaction back instead of committing it")
        self.runtime.point("committed")

    # ---- tables

    async def create(self, metadata: Any) -> None:
        have = {row[0] for row in await self.all(self.dialect.table_names)}
        for table in metadata.sorted_tables:
            if table.name not in have:
                constructs: list[Any] = [CreateTable(table), *(CreateIndex(i) for i in sorted(table.indexes, key=lambda i: str(i.name)))]
                for construct in constructs:
                    await self.command(str(construct.compile(dialect=self.dialect)))

    async def command(self, sql: str) -> None:
        """DDL, as it is; not run again when the connection breaks."""
        link = await self._link()
        try:
            await link.wire.command(sql)
        except BaseException as error:
            self.pool.drop(link, broken=isinstance(error, Exception) and self.driver.trouble(error) is Trouble.GONE)
            raise
        self.pool.give(link)

    @asynccontextmanager
    async def alone(self, name: str) -> AsyncIterator[None]:
        """While this is open no other process of ours is inside the same name on this server. Its connection breaks: so does the lock."""
        link = await self._link()
        try:
            while not (await link.wire.all(self.driver.lock.format(name=name), ()))[0][0]:
                self.log.info(f"waiting for another process that holds {name}")
                await self.runtime.sleep(1)
            yield
        finally:
            self.pool.drop(link)

    async def stop(self) -> None:
        await self.pool.stop()


class _Undone(Exception):
    """Nothing of the transaction is kept; it may be run again."""

    def __init__(self, error: Exception) -> None:
        super().__init__()
        self.error = error
