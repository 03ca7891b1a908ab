"""MariaDB (and Galera) through asyncmy. Tables are utf8mb4 with a binary collation that counts trailing spaces, as others do."""

import asyncio
import re
from collections.abc import Sequence
from typing import Any

import asyncmy
import sqlalchemy as sa
from asyncmy.constants.CLIENT import FOUND_ROWS
from asyncmy.constants.FIELD_TYPE import DECIMAL, NEWDECIMAL
from asyncmy.converters import conversions
from asyncmy.errors import InterfaceError, MySQLError
from sqlalchemy.dialects.mysql.asyncmy import MySQLDialect_asyncmy
from sqlalchemy.dialects.mysql.base import MySQLDDLCompiler, MySQLTypeCompiler

from kilonova.core.db.network import number, patience, tls, why
from kilonova.core.db.pool import Trouble, Wire
from kilonova.core.db.statements import prepared
from kilonova.core.db.url import Url

AGAIN = {1213, 1205, 1020}
GONE = {1053, 1077, 1079, 1080, 1152, 1158, 1159, 1160, 1161, 1184, 1927, 2003, 2006, 2013, 2014, 2055, 4031}
ELSEWHERE = {1047, 1290, 1792, 1836}
UNFIT = {1264, 1366, 1406}
COLLATION = "utf8mb4_nopad_bin"
_KEY = re.compile(r" for key '(?:[^']*\.)?([^']*)'$")


class _Types(MySQLTypeCompiler):
    def visit_TEXT(self, type_: Any, **kw: Any) -> str:
        """TEXT ends at 64 KiB there."""
        return "LONGTEXT" if isinstance(kw.get("type_expression"), sa.Column) else super().visit_TEXT(type_, **kw)


class _Tables(MySQLDDLCompiler):
    def post_create_table(self, table: sa.Table) -> str:
        return f"{super().post_create_table(table)} ENGINE=InnoDB ROW_FORMAT=DYNAMIC DEFAULT CHARSET=utf8mb4 COLLATE={COLLATION}"


class _Dialect(MySQLDialect_asyncmy):
    type_compiler_cls = _Types
    type_compiler = _Types
    ddl_compiler = _Tables
    supports_statement_cache = True
    is_mariadb = True
    table_names = prepared(sa.text("SELECT table_name FROM information_schema.tables WHERE table_schema = DATABASE() ORDER BY table_name"))


class MariaWire:
    __slots__ = ("_connection", "_timeout")

    def __init__(self, connection: Any, timeout: float) -> None:
        self._connection = connection
        self._timeout = timeout

    async def all(self, sql: str, arguments: Sequence[Any]) -> Sequence[Any]:
        async with asyncio.timeout(self._timeout):
            cursor = self._connection.cursor()
            await cursor.execute(sql, tuple(arguments))
            rows: Sequence[Any] = await cursor.fetchall()
        return rows

    async def run(self, sql: str, arguments: Sequence[Any]) -> int:
        async with asyncio.timeout(self._timeout):
            return int(await self._connection.cursor().execute(sql, tuple(arguments)))

    async def many(self, sql: str, rows: Sequence[Sequence[Any]]) -> None:
        async with asyncio.timeout(self._timeout):
            await self._connection.cursor().executemany(sql, [tuple(row) for row in rows])

    async def command(self, sql: str) -> str:
        async with asyncio.timeout(self._timeout):
            await self._connection.query(sql)
        return ""

    def closed(self) -> bool:
        return not self._connection.connected or bool(self._connection._stream_broken)

    def abort(self) -> None:
        self._connection.close()

    async def close(self) -> None:
        await self._connection.ensure_closed()


class MariaDB:
    """The driver; `Server` is the database."""

    name = "MariaDB"
    aborts = False
    joins = False
    shares = False
    begin = "START TRANSACTION"
    lock = "SELECT GET_LOCK('{name}', 5)"
    clock = "SELECT CAST(UNIX_TIMESTAMP(SYSDATE(6)) * 1000000 AS SIGNED)"

    def __init__(self, url: Url, *, connect_timeout: float = 5, statement_timeout: float = 60, lock_timeout: float = 10) -> None:
        self.dialect = _Dialect(paramstyle="format")
        self._connect_timeout = connect_timeout
        self._statement_timeout = statement_timeout
        options = url.options
        context = tls("verify-full" if options.get("ssl_ca") else "", *(options.get(k, "") for k in ("ssl_ca", "ssl_cert", "ssl_key")))
        self._arguments: dict[str, Any] = {
            "user": url.user,
            "password": url.password,
            "database": url.database,
            "charset": "utf8mb4",
            "connect_timeout": connect_timeout,
            "client_flag": FOUND_ROWS,
            "conv": {**conversions, DECIMAL: number, NEWDECIMAL: number},
            "autocommit": True,
            "ssl": context or None,
        }
        self._session = (
            f"SET NAMES utf8mb4 COLLATE {COLLATION}, time_zone = '+00:00', "
            "sql_mode = 'STRICT_ALL_TABLES,ERROR_FOR_DIVISION_BY_ZERO,NO_ENGINE_SUBSTITUTION', "
            f"innodb_lock_wait_timeout = {max(1, int(lock_timeout))}, max_statement_time = {int(statement_timeout)}",
            "SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED",
        )

    async def connect(self, host: str, port: int) -> Wire:
        where: dict[str, Any] = {"unix_socket": host} if host.startswith("/") else {"host": host, "port": port}
        async with asyncio.timeout(self._connect_timeout):
            connection: Any = await asyncmy.connect(**where, **self._arguments)
            wire = MariaWire(connection, self._statement_timeout + 5)
            try:
                patience(connection._transport, self._connect_timeout)
                for command in self._session:
                    await connection.query(command)
                return wire
            except BaseException:
                wire.abort()
                raise

    async def unwritable(self, wire: Wire) -> str:
        [(read_only, cluster)] = await wire.all("SELECT @@global.read_only, @@global.wsrep_on", ())
        if cluster:
            rows = await wire.all("SHOW STATUS WHERE Variable_name IN ('wsrep_ready', 'wsrep_cluster_status')", ())
            found = {str(name).lower(): str(value) for name, value in rows}
            if found.get("wsrep_ready") != "ON" or found.get("wsrep_cluster_status") != "Primary":
                return f"is not ready in its cluster (wsrep_ready {found.get('wsrep_ready')}, {found.get('wsrep_cluster_status')})"
            await wire.command("SET SESSION wsrep_sync_wait = 1")
        return "is read-only" if read_only else ""

    def trouble(self, error: BaseException) -> Trouble:
        if isinstance(error, (OSError, TimeoutError, EOFError)):
            return Trouble.GONE
        if not isinstance(error, MySQLError):
            return Trouble.OTHER
        code = error.args[0] if error.args and isinstance(error.args[0], int) else -1
        if code in (1062, 1586):
            return Trouble.DUPLICATE
        if code in AGAIN or (code == 1180 and "eadlock" in str(error)):
            return Trouble.AGAIN
        if code in ELSEWHERE:
            return Trouble.ELSEWHERE
        if code in UNFIT:
            return Trouble.UNFIT
        if code in GONE or (code == 0 and isinstance(error, InterfaceError)):
            return Trouble.GONE
        return Trouble.OTHER

    def unsent(self, error: BaseException) -> bool:
        return isinstance(error, InterfaceError) and error.args[:1] == (0,)

    def duplicate(self, error: BaseException, table: Any) -> str:
        """The server names the key only; its columns are those that the table was made with."""
        found = _KEY.search(str(error.args[1]) if len(error.args) > 1 else "")
        key = found[1] if found else ""
        if table is None or not key:
            return key
        return ", ".join(f"{table.name}.{name}" for name in _columns(table, key))

    def unmatched(self, error: BaseException) -> int | None:
        return None

    def reason(self, error: BaseException) -> str:
        if isinstance(error, MySQLError) and len(error.args) > 1:
            return f"{error.args[1]} ({error.args[0]})" if self.trouble(error) is not Trouble.UNFIT else f"({error.args[0]})"
        return why(error)


def _columns(table: sa.Table, key: str) -> list[str]:
    if key == "PRIMARY":
        return [column.name for column in table.primary_key.columns]
    for constraint in table.constraints:
        if isinstance(constraint, sa.UniqueConstraint) and (constraint.name == key or (not constraint.name and key in constraint.columns)):
            return [column.name for column in constraint.columns]
    for index in table.indexes:
        if index.name == key:
            return [column.name for column in index.columns]
    return [key]
