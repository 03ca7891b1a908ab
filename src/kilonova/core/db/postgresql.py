"""PostgreSQL through asyncpg. Text columns are made with the collation "C", so that order and comparison are as on the others."""

import re
import ssl
from collections.abc import Sequence
from typing import Any

import asyncpg  # type: ignore[import-untyped]
import sqlalchemy as sa
from asyncpg.exceptions import InterfaceError, InternalClientError, InvalidCachedStatementError, OutdatedSchemaCacheError, PostgresError  # type: ignore[import-untyped]
from sqlalchemy.dialects.postgresql.asyncpg import PGDialect_asyncpg
from sqlalchemy.dialects.postgresql.base import PGTypeCompiler

from kilonova.core.db.network import number, patience, tls, why
from kilonova.core.db.pool import Trouble, Wire
from kilonova.core.db.statements import prepared
from kilonova.core.db.url import Url

KEPT_STATEMENTS = 1024
AGAIN = {"40001", "40P01", "55P03"}
GONE = {"57P01", "57P02", "57P03", "57P05", "25P03", "53300"}
UNFIT = {"22001", "22003", "22021"}
UNMATCHED = re.compile(r'"unmatched (\d+)"')
"""The value that is no number: what `server.joined` makes of a wrong count."""
_BROKEN = (OSError, TimeoutError, EOFError, InternalClientError)
"""The last one when a server says farewell between two statements."""


class _Types(PGTypeCompiler):
    def visit_VARCHAR(self, type_: Any, **kw: Any) -> str:
        return super().visit_VARCHAR(type_, **kw) + _collation(kw)

    def visit_TEXT(self, type_: Any, **kw: Any) -> str:
        return super().visit_TEXT(type_, **kw) + _collation(kw)


def _collation(kw: dict[str, Any]) -> str:
    """Only where a column is made; a cast has none."""
    return ' COLLATE "C"' if isinstance(kw.get("type_expression"), sa.Column) else ""


class _Float(sa.Float[Any]):
    """Native both ways. (SQLAlchemy's wants to see the server's type of each result.)"""

    render_bind_cast = True

    def bind_processor(self, dialect: Any) -> None:
        return None

    def result_processor(self, dialect: Any, coltype: object) -> None:
        return None


class _Dialect(PGDialect_asyncpg):
    colspecs = {**PGDialect_asyncpg.colspecs, sa.Numeric: _Float, sa.Float: _Float}
    type_compiler_cls = _Types
    type_compiler = _Types
    supports_statement_cache = True
    table_names = prepared(
        sa.text("SELECT CAST(tablename AS text) FROM pg_catalog.pg_tables WHERE schemaname = current_schema() ORDER BY tablename")
    )


class PostgresWire:
    __slots__ = ("_connection",)

    def __init__(self, connection: Any) -> None:
        self._connection = connection

    async def all(self, sql: str, arguments: Sequence[Any]) -> Sequence[Any]:
        rows: Sequence[Any] = await self._connection.fetch(sql, *arguments)
        return rows

    async def run(self, sql: str, arguments: Sequence[Any]) -> int:
        status: str = await self._connection.execute(sql, *arguments)
        count = status.rpartition(" ")[2]
        return int(count) if count.isdigit() else 0

    async def many(self, sql: str, rows: Sequence[Sequence[Any]]) -> None:
        await self._connection.executemany(sql, rows)

    async def command(self, sql: str) -> str:
        status: str = await self._connection.execute(sql)
        return status

    def closed(self) -> bool:
        return bool(self._connection.is_closed())

    def abort(self) -> None:
        self._connection.terminate()

    async def close(self) -> None:
        await self._connection.close()


class PostgreSQL:
    """The driver; `Server` is the database."""

    name = "PostgreSQL"
    aborts = True
    joins = True
    shares = True
    begin = "BEGIN"
    lock = "SELECT pg_try_advisory_lock(hashtext('{name}'))"
    clock = "SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint"

    def __init__(self, url: Url, *, connect_timeout: float = 5, statement_timeout: float = 60, lock_timeout: float = 10) -> None:
        self.dialect = _Dialect(paramstyle="numeric_dollar")  # type: ignore[no-untyped-call]
        self._connect_timeout = connect_timeout
        self._arguments: dict[str, Any] = {
            "user": url.user,
            "password": url.password or None,
            "database": url.database,
            "timeout": connect_timeout,
            "command_timeout": statement_timeout + 5,
            "statement_cache_size": KEPT_STATEMENTS,
            "max_cached_statement_lifetime": 0,
            "ssl": _ssl(url.options),
            "server_settings": {
                "application_name": "kilonova",
                "timezone": "UTC",
                "default_transaction_isolation": "read committed",
                "statement_timeout": str(int(statement_timeout * 1000)),
                "lock_timeout": str(int(lock_timeout * 1000)),
                "idle_in_transaction_session_timeout": str(int(statement_timeout * 1000)),
            },
        }

    async def connect(self, host: str, port: int) -> Wire:
        connection = await asyncpg.connect(host=host, port=port, **self._arguments)
        patience(connection._transport, self._connect_timeout)
        # sum() of integers is numeric there: a whole number is an int to us.
        await connection.set_type_codec("numeric", schema="pg_catalog", encoder=str, decoder=number, format="text")
        return PostgresWire(connection)

    async def unwritable(self, wire: Wire) -> str:
        [(standby, read_only)] = await wire.all("SELECT pg_is_in_recovery(), current_setting('default_transaction_read_only') = 'on'", ())
        return "is a standby" if standby else "is read-only" if read_only else ""

    def trouble(self, error: BaseException) -> Trouble:
        code = getattr(error, "sqlstate", None) or ""
        if code == "23505":
            return Trouble.DUPLICATE
        if code in AGAIN or isinstance(error, (InvalidCachedStatementError, OutdatedSchemaCacheError)):
            return Trouble.AGAIN
        if code == "25006":
            return Trouble.ELSEWHERE
        if code in UNFIT or ((code == "22000" or isinstance(error, InterfaceError)) and " range" in str(error)):
            return Trouble.UNFIT
        if code in GONE or code.startswith("08") or isinstance(error, _BROKEN):
            return Trouble.GONE
        if isinstance(error, InterfaceError) and "closed" in str(error):
            return Trouble.GONE
        return Trouble.OTHER

    def unsent(self, error: BaseException) -> bool:
        """The driver refuses a connection that it knows to be closed, or that the server has said farewell on."""
        return isinstance(error, InternalClientError) or (isinstance(error, InterfaceError) and "connection is closed" in str(error))

    def duplicate(self, error: BaseException, table: Any) -> str:
        """`Key (domain_id, name)=(…) already exists.` is what the server says."""
        detail = str(getattr(error, "detail", "") or "")
        columns = detail.partition("(")[2].partition(")")[0]
        name = str(getattr(error, "table_name", "") or "")
        return ", ".join(f"{name}.{column}" for column in columns.replace('"', "").split(", "))

    def unmatched(self, error: BaseException) -> int | None:
        found = UNMATCHED.search(str(error)) if getattr(error, "sqlstate", None) == "22P02" else None
        return int(found[1]) if found else None

    def reason(self, error: BaseException) -> str:
        if isinstance(error, PostgresError):
            return f"{error.args[0] if error.args else type(error).__name__} ({error.sqlstate})"
        return why(error)


def _ssl(options: Any) -> "ssl.SSLContext | bool":
    """sslmode, sslrootcert, sslcert, sslkey as libpq names them. With neither a mode nor an authority there is no TLS."""
    return tls(options.get("sslmode", ""), options.get("sslrootcert", ""), options.get("sslcert", ""), options.get("sslkey", ""))
