"""Lost connections, lost servers, unknown commits, and finding the server that takes writes."""

import asyncio
import contextlib
import io
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
import sqlalchemy as sa

from kilonova.core.db import Lost, OutcomeUnknown, Transaction
from kilonova.core.db.opening import driver_of
from kilonova.core.db.pool import Limits
from kilonova.core.db.schema import sync
from kilonova.core.db.server import Server
from kilonova.core.db.statements import inserted, prepared
from kilonova.core.db.url import parse
from kilonova.core.log import Log, Sink
from kilonova.core.runtime import Runtime
from kilonova.placement.store.migrations import HISTORY as PLACEMENT
from tests.databases.conftest import Open
from tests.engines.mariadb import MariaDB
from tests.engines.postgresql import PostgreSQL
from tests.engines.process import free_port

metadata = sa.MetaData()
things = sa.Table("things", metadata, sa.Column("id", sa.Integer, primary_key=True, autoincrement=False))
INSERT = inserted(things)
IDS = prepared(sa.select(things.c.id).order_by(things.c.id))
BACKEND = {"postgresql": sa.text("SELECT pg_backend_pid()"), "mariadb": sa.text("SELECT connection_id()")}
KILL = {"postgresql": "SELECT pg_terminate_backend({})", "mariadb": "KILL {}"}


@pytest.fixture(params=["postgresql", "mariadb"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@contextlib.asynccontextmanager
async def two(open_it: Open) -> AsyncIterator[tuple[Server, Server]]:
    """The database under test, and a second way in that kills connections of the first."""
    db, other = open_it(), open_it()
    assert isinstance(db, Server)
    assert isinstance(other, Server)
    await db.create(metadata)
    await other.all(IDS)
    try:
        yield db, other
    finally:
        await db.stop()
        await other.stop()


async def kill(other: Server, kind: str, number: Any) -> None:
    await other.command(KILL[kind].format(number))
    await asyncio.sleep(0.1)


def test_a_read_survives_a_killed_connection(kind: str, open_it: Open) -> None:
    async def main() -> None:
        async with two(open_it) as (db, other):
            for _ in range(3):
                row = await db.one(BACKEND[kind])
                assert row is not None
                await kill(other, kind, row[0])
                assert await db.all(IDS) == []

    asyncio.run(main())


def test_a_body_whose_connection_breaks_before_commit_is_run_again(kind: str, open_it: Open) -> None:
    async def main() -> None:
        async with two(open_it) as (db, other):
            lives = 0

            async def body(tx: Transaction) -> None:
                nonlocal lives
                lives += 1
                await tx.run(INSERT, {"id": 1})
                if lives == 1:
                    row = await tx.one(BACKEND[kind])
                    assert row is not None
                    await kill(other, kind, row[0])
                await tx.run(INSERT, {"id": 2})

            await db.transact(body)
            assert lives == 2
            assert await db.all(IDS) == [(1,), (2,)]

    asyncio.run(main())


def test_an_unknown_commit_is_told_and_not_tried_again(open_it: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    """COMMIT is done and the answer is lost, as far as we can tell."""

    async def main() -> None:
        async with two(open_it) as (db, other):
            lives = 0
            wires = type((await db.pool.take()).wire)
            really = wires.command
            breaks = True

            async def breaking(wire: Any, sql: str) -> str:
                nonlocal breaks
                said: str = await really(wire, sql)
                if sql == "COMMIT" and breaks:
                    breaks = False
                    raise ConnectionResetError(104, "Connection reset by peer")
                return said

            monkeypatch.setattr(wires, "command", breaking)

            def body(write: bool) -> Callable[[Transaction], Awaitable[int]]:
                async def work(tx: Transaction) -> int:
                    nonlocal lives
                    lives += 1
                    await tx.all(IDS)
                    if write:
                        await tx.run(INSERT, {"id": 1})
                    return lives

                return work

            with pytest.raises(OutcomeUnknown) as caught:
                await db.transact(body(True))
            assert lives == 1
            assert caught.value.status == 503
            assert "commit" in str(caught.value)
            assert "commit" not in caught.value.message
            assert await other.all(IDS) == [(1,)]
            lives, breaks = 0, True
            assert await db.transact(body(False)) == 1
            assert breaks, "what only reads has nothing to commit"

    asyncio.run(main())


def test_one_statement_whose_answer_is_lost_is_told_and_not_tried_again(open_it: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    """A transaction that is one statement has no COMMIT: the statement's own answer is what is missed."""

    async def main() -> None:
        async with two(open_it) as (db, other):
            wires = type((await db.pool.take()).wire)
            really = wires.run

            async def breaking(wire: Any, sql: str, arguments: Any) -> int:
                await really(wire, sql, arguments)
                raise ConnectionResetError(104, "Connection reset by peer")

            monkeypatch.setattr(wires, "run", breaking)
            lives = 0

            async def body(tx: Transaction) -> None:
                nonlocal lives
                lives += 1
                await tx.later(INSERT, {"id": 2})

            with pytest.raises(OutcomeUnknown):
                await db.run(INSERT, {"id": 1})
            if db.driver.joins:
                with pytest.raises(OutcomeUnknown):
                    await db.transact(body)
                assert lives == 1
            assert await other.all(IDS) == [(1,), (2,)][: 1 + lives]

    asyncio.run(main())


def test_a_commit_that_never_left_is_made_again(kind: str, open_it: Open) -> None:
    async def main() -> None:
        async with two(open_it) as (db, other):
            lives = 0

            async def body(tx: Transaction) -> int:
                nonlocal lives
                lives += 1
                row = await tx.one(BACKEND[kind])
                assert row is not None
                await tx.run(INSERT, {"id": 1})
                if lives == 1:
                    await kill(other, kind, row[0])
                return lives

            try:
                assert await db.transact(body) == 2
                assert await db.all(IDS) == [(1,)]
            except OutcomeUnknown:  # the driver had not noticed yet, and sent it into the void
                assert await db.all(IDS) == []

    asyncio.run(main())


def test_a_full_pool_is_waited_for_and_then_told(kind: str, open_it: Open) -> None:
    async def main() -> None:
        async with two(open_it) as (db, _):
            db.pool.limits = Limits(max_pool_size=2, pool_timeout=0.3)
            release = asyncio.Event()

            async def holds(tx: Transaction) -> None:
                await tx.all(IDS)
                await release.wait()

            holders = [asyncio.ensure_future(db.transact(holds)) for _ in range(2)]
            await asyncio.sleep(0.1)
            with pytest.raises(Lost, match="all 2 connections are in use"):
                await db.all(IDS)
            waiting = asyncio.ensure_future(db.all(IDS))
            await asyncio.sleep(0.05)
            release.set()
            assert await waiting == []
            await asyncio.gather(*holders)
            assert db.pool.facts() == {"idle": 2, "in_use": 0, "waiting": 0}

    asyncio.run(main())


def cluster(urls: list[str], log: io.StringIO, **limits: Any) -> Server:
    """One database over several servers, as an operator lists them."""
    first = parse(urls[0])
    places = ",".join(f"{host}:{port}" for url in urls for host, port in parse(url).hosts)
    url = parse(f"{first.kind}://{first.user}:{first.password}@{places}/{first.database}")
    return Server(driver_of(url, {}), url, Runtime(), Log("database", Sink(log)), Limits(retry_interval=1, **limits))


def test_away_and_back_again(kind: str) -> None:
    """A restart in the middle of writes: every acknowledged row is there, the log says what an operator looks for, no secret in it."""
    server = PostgreSQL(durable=True) if kind == "postgresql" else MariaDB(durable=True)
    log = io.StringIO()

    async def main() -> None:
        db = cluster([server.start().url()], log, pool_timeout=20)
        await db.create(metadata)
        kept: list[int] = []
        unknown: list[int] = []

        async def writer(start: int) -> None:
            for i in range(start, start + 60):
                try:
                    await db.transact(lambda tx, i=i: tx.run(INSERT, {"id": i}))  # type: ignore[misc]
                    kept.append(i)
                except OutcomeUnknown:
                    unknown.append(i)
                await asyncio.sleep(0.005)

        async def restart() -> None:
            await asyncio.sleep(0.1)
            await asyncio.to_thread(server.kill)
            await asyncio.sleep(1.5)
            await asyncio.to_thread(server.start)

        await asyncio.gather(*(writer(1000 * n) for n in range(4)), restart())
        found = {i for (i,) in await db.all(IDS)}
        assert set(kept) <= found <= set(kept) | set(unknown)
        assert len(kept) + len(unknown) == 240
        assert len(unknown) <= 4
        await db.stop()

    try:
        asyncio.run(main())
    finally:
        server.stop()
    assert f"database at 127.0.0.1:{server.port} is unreachable: " in log.getvalue()
    assert ", retrying in " in log.getvalue()
    assert "takes writes" in log.getvalue()
    assert "secret" not in log.getvalue()


def test_the_promoted_standby_is_found() -> None:
    primary = PostgreSQL(durable=True).start()
    standby = primary.standby()
    log = io.StringIO()

    async def main() -> None:
        await asyncio.to_thread(standby.start)
        db = cluster([standby.url(), primary.url()], log, pool_timeout=20)
        await db.create(metadata)
        await db.transact(lambda tx: tx.run(INSERT, {"id": 1}))
        await asyncio.sleep(0.5)
        await asyncio.to_thread(primary.kill)
        pending = asyncio.ensure_future(db.transact(lambda tx: tx.run(INSERT, {"id": 2})))
        await asyncio.sleep(0.5)
        assert not pending.done()
        await asyncio.to_thread(standby.promote)
        assert await pending == 1
        assert await db.all(IDS) == [(1,), (2,)]
        await db.stop()

    try:
        asyncio.run(main())
    finally:
        standby.stop()
        primary.stop()
    assert "is a standby" in log.getvalue() or "is unreachable" in log.getvalue()


def test_a_server_that_became_read_only_is_left_for_the_other() -> None:
    """As after a switch-over of MariaDB: connections stay, writes are refused, the other server has become the writable one."""
    old, new = MariaDB().start(), MariaDB(settings=("read_only=1",)).start()
    log = io.StringIO()

    async def main() -> None:
        for server in (old, new):
            for_admin = cluster([server.url()], log)
            if server is new:
                for_admin.driver.unwritable = nobody_asks  # type: ignore[method-assign]
            await for_admin.command("GRANT ALL ON plain.* TO 'plain'@'%' IDENTIFIED BY 'secret'")
            await for_admin.command("CREATE DATABASE plain")
            await for_admin.stop()
        db = cluster([old.url("plain").replace("kilonova:", "plain:"), new.url()], log, pool_timeout=10)
        admin = cluster([old.url()], log)
        new_admin = cluster([new.url()], log)
        new_admin.driver.unwritable = nobody_asks  # type: ignore[method-assign]
        await db.create(metadata)
        await db.transact(lambda tx: tx.run(INSERT, {"id": 1}))
        await admin.command("SET GLOBAL read_only = 1")
        await new_admin.command("SET GLOBAL read_only = 0")
        await new_admin.command("CREATE TABLE plain.things (id INTEGER PRIMARY KEY)")
        assert await db.transact(lambda tx: tx.run(INSERT, {"id": 2})) == 1
        assert await db.all(IDS) == [(2,)]
        for each in (db, admin, new_admin):
            await each.stop()

    try:
        asyncio.run(main())
    finally:
        old.stop()
        new.stop()


async def nobody_asks(wire: Any) -> str:
    return ""


def test_a_galera_node() -> None:
    """One node that is a cluster: whether it is ready is asked, reads wait for writes, tables are made without a lock of the server."""
    port = free_port()
    node = MariaDB(
        settings=(
            "wsrep_on=ON",
            "wsrep_provider=/usr/lib/galera/libgalera_smm.so",
            "wsrep_cluster_address=gcomm://",
            f"wsrep_provider_options=base_port={port};gmcast.listen_addr=tcp://127.0.0.1:{port}",
            "wsrep_node_address=127.0.0.1",
            "wsrep_sst_method=rsync",
            "binlog_format=ROW",
            "innodb_autoinc_lock_mode=2",
        )
    )
    log = io.StringIO()

    async def main() -> None:
        admin = cluster([node.start().url()], log, pool_timeout=20)
        await admin.command("CREATE DATABASE kilonova")
        await admin.stop()
        db = cluster([node.url("kilonova")], log, pool_timeout=20)
        assert len(await sync(db, [PLACEMENT])) == 1
        await db.create(metadata)
        await db.transact(lambda tx: tx.run(INSERT, {"id": 1}))
        assert await db.all(IDS) == [(1,)]
        assert await db.one(sa.text("SELECT @@wsrep_sync_wait")) == (1,)
        link = await db.pool.take()
        await link.wire.command("SET GLOBAL wsrep_desync = OFF")
        assert await db.driver.unwritable(link.wire) == ""
        db.pool.give(link)
        await db.stop()

    try:
        asyncio.run(main())
    finally:
        node.stop()
