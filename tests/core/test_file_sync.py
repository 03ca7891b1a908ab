"""Files go to the disk beside the loop, and a commit is told when it is there."""

import asyncio
import os
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest
import sqlalchemy as sa

from kilonova.core.db import Lost, OutcomeUnknown, Transaction
from kilonova.core.db.sqlite import SQLite
from kilonova.core.db.statements import inserted, prepared
from kilonova.core.file_sync import AT_ONCE, FileSync
from kilonova.core.runtime import Runtime

metadata = sa.MetaData()
things = sa.Table("things", metadata, sa.Column("id", sa.String(36), primary_key=True))
INSERT = inserted(things)
COUNT = prepared(sa.select(sa.func.count()).select_from(things))


def test_the_kernel_tells_when_it_is_done(tmp_path: Path) -> None:
    async def main() -> None:
        sync = FileSync()
        loop = asyncio.get_running_loop()
        path = tmp_path / "file"
        with path.open("wb") as file:
            for _ in range(3):
                waiting = []
                for number in range(AT_ONCE):
                    os.write(file.fileno(), bytes([number]) * 4096)
                    waiting.append(loop.create_future())
                    sync.start(file.fileno(), waiting[-1].set_result)
                assert await asyncio.wait_for(asyncio.gather(*waiting), 20) == [None] * AT_ONCE
        sync.close()
        sync.close()

    asyncio.run(main())


def test_what_cannot_be_synchronised_is_said(tmp_path: Path) -> None:
    async def main() -> None:
        sync = FileSync()
        with pytest.raises(OSError, match="Bad file descriptor"):
            sync.start(1 << 20, lambda _: None)
        read, write = os.pipe()
        told: asyncio.Future[OSError | None] = asyncio.get_running_loop().create_future()
        try:
            sync.start(write, told.set_result)
        except OSError:
            pass
        else:
            assert isinstance(await asyncio.wait_for(told, 20), OSError)
        os.close(read)
        os.close(write)
        sync.close()

    asyncio.run(main())


class Disk:
    """Stands in for the kernel: a synchronisation is done when the test says so."""

    def __init__(self) -> None:
        self.under_way: list[Callable[[OSError | None], None]] = []
        self.closed = False

    def start(self, descriptor: int, done: Callable[[OSError | None], None]) -> None:
        os.fstat(descriptor)
        self.under_way.append(done)

    def close(self) -> None:
        self.closed = True


class WithDisk(Runtime):
    def __init__(self, disk: Disk) -> None:
        super().__init__()
        self.disk = disk

    def file_sync(self) -> Disk:  # type: ignore[override]
        return self.disk


async def put(db: SQLite, key: str) -> None:
    async def body(tx: Transaction) -> None:
        await tx.run(INSERT, {"id": key})

    await db.transact(body)


async def turns() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


async def opened(path: Path, runtime: Runtime) -> SQLite:
    db = SQLite(str(path / "t.db"), runtime)
    await db.create(metadata)
    return db


def test_a_commit_is_told_when_the_disk_has_it_and_what_comes_meanwhile_shares_the_next(tmp_path: Path) -> None:
    async def main() -> None:
        disk = Disk()
        db = await opened(tmp_path, WithDisk(disk))
        first = asyncio.create_task(put(db, "1"))
        await turns()
        assert len(disk.under_way) == 1 and not first.done()
        assert await db.one(COUNT) == (1,), "committed, and to be read"
        later = [asyncio.create_task(put(db, str(n))) for n in range(2, 6)]
        await turns()
        one_more = asyncio.create_task(put(db, "6"))
        await turns()
        assert len(disk.under_way) == 1, "one at a time"
        disk.under_way[0](None)
        await turns()
        assert first.done() and not any(task.done() for task in (*later, one_more))
        assert len(disk.under_way) == 2
        disk.under_way[1](None)
        await asyncio.gather(*later, one_more)
        assert len(disk.under_way) == 2 and await db.one(COUNT) == (6,)
        await db.stop()
        assert disk.closed

    asyncio.run(main())


def test_after_a_failed_synchronisation_nothing_is_written(tmp_path: Path) -> None:
    async def main() -> None:
        disk = Disk()
        db = await opened(tmp_path, WithDisk(disk))
        task = asyncio.create_task(put(db, "1"))
        await turns()
        disk.under_way[0](OSError(5, "Input/output error"))
        with pytest.raises(OutcomeUnknown):
            await task
        with pytest.raises(Lost, match="not written to any more"):
            await put(db, "2")
        assert await db.one(COUNT) == (1,), "reading goes on"
        await db.stop()

    asyncio.run(main())


def test_the_end_waits_for_the_disk(tmp_path: Path) -> None:
    async def main() -> None:
        db = await opened(tmp_path, WithDisk(Disk()))
        tasks = [asyncio.create_task(put(db, str(n))) for n in range(3)]
        await turns()
        await db.stop()
        await asyncio.gather(*tasks)

    asyncio.run(main())
    assert sqlite3.connect(tmp_path / "t.db").execute("SELECT count(*) FROM things").fetchone() == (3,)


def test_without_such_a_kernel_a_commit_waits_for_the_disk_itself(tmp_path: Path) -> None:
    class Without(Runtime):
        def file_sync(self) -> None:
            return None

    async def main() -> None:
        db = await opened(tmp_path, Without())
        await put(db, "1")
        assert db._writer_connection.execute("PRAGMA synchronous").fetchone() == (2,)
        await db.stop()
        db = await opened(tmp_path, Runtime())
        await put(db, "2")
        assert db._writer_connection.execute("PRAGMA synchronous").fetchone() == (1,)
        await db.stop()

    asyncio.run(main())
