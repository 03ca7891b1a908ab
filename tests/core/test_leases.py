"""A name that at most one of several processes holds."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
import sqlalchemy as sa

from kilonova.core.db import Database, Lost, Transaction
from kilonova.core.db.sqlite import SQLite
from kilonova.core.leases import Lease, leases_table
from kilonova.testing.simulation import SimRuntime, run

METADATA = sa.MetaData()
TABLE = leases_table(METADATA, "test_leases")


def play(tmp_path: Path, story: Callable[[SimRuntime, Database], Awaitable[None]], seed: int = 1) -> None:
    async def main(runtime: SimRuntime) -> None:
        db = SQLite(str(tmp_path / "leases.db"), runtime, synchronous="OFF")
        await db.create(METADATA)
        await story(runtime, db)
        await db.stop()

    run(main, seed)


def lease(db: Database, runtime: SimRuntime, owner: str) -> Lease:
    return Lease(db, TABLE, runtime, name="work", owner=owner, lease_s=7.0, margin_s=1.0)


def test_it_is_kept_while_it_is_renewed_and_taken_when_it_ran_out(tmp_path: Path) -> None:
    async def story(runtime: SimRuntime, db: Database) -> None:
        a, b = lease(db, runtime, "a"), lease(db, runtime, "b")
        assert await a.attempt()
        first = db.now_us() // 1_000_000
        assert (a.epoch, a.valid, a.left_s) == (first, True, 6.0)
        for _ in range(5):
            await runtime.sleep(3.0)
            assert await a.attempt()
            assert not await b.attempt()
        assert (a.epoch, b.epoch, b.valid) == (first, 0, False)
        await runtime.sleep(6.0)
        assert not a.valid
        assert not await b.attempt()  # the margin: a has stopped, b may not begin
        await runtime.sleep(1.1)
        assert await b.attempt()
        second = b.epoch
        assert second > first
        assert not await a.attempt()
        await b.release()
        assert not b.valid
        assert await a.attempt()
        assert a.epoch == second + 1

    play(tmp_path, story)


def test_who_was_late_and_not_replaced_keeps_its_epoch(tmp_path: Path) -> None:
    async def story(runtime: SimRuntime, db: Database) -> None:
        a = lease(db, runtime, "a")
        await a.attempt()
        epoch = a.epoch
        await runtime.sleep(60.0)
        assert not a.valid
        assert await a.attempt()
        assert (a.epoch, a.valid) == (epoch, True)
        await lease(db, runtime, "b").release()  # it never held it: nothing happens
        assert a.valid

    play(tmp_path, story)


def test_a_claim_whose_answer_was_lost_is_found_to_be_ours(tmp_path: Path) -> None:
    async def story(runtime: SimRuntime, db: Database) -> None:
        a, b = lease(db, runtime, "a"), lease(db, runtime, "b")
        await b.attempt()
        await runtime.sleep(8.0)
        real = db.transact

        async def broken(body: Callable[[Transaction], Awaitable[object]]) -> object:
            await real(body)
            raise Lost("the connection broke during a commit")

        db.transact = broken  # type: ignore[assignment,method-assign]
        with pytest.raises(Lost):
            await a.attempt()
        assert not a.valid
        db.transact = real  # type: ignore[method-assign]
        assert await a.attempt()
        assert a.valid
        assert a.epoch > b.epoch
        assert not await b.attempt()

    play(tmp_path, story)


def test_epochs_rise_though_the_row_is_lost(tmp_path: Path) -> None:
    async def story(runtime: SimRuntime, db: Database) -> None:
        a, b = lease(db, runtime, "a"), lease(db, runtime, "b")
        await a.attempt()
        await runtime.sleep(5.0)
        await db.transact(lambda tx: tx.run(sa.delete(TABLE)))
        assert await b.attempt()
        assert b.epoch > a.epoch

    play(tmp_path, story)


@pytest.mark.parametrize("seed", range(5))
def test_never_two_at_a_time_and_epochs_only_rise(tmp_path: Path, seed: int) -> None:
    async def story(runtime: SimRuntime, db: Database) -> None:
        many = [lease(db, runtime, f"p{n}") for n in range(4)]
        epochs: list[int] = []

        async def process(mine: Lease) -> None:
            for _ in range(60):
                if await mine.attempt() and mine.epoch not in epochs:
                    epochs.append(mine.epoch)
                assert sum(one.valid for one in many) <= 1
                await runtime.sleep(runtime.random.choice((0.5, 1.0, 2.0, 9.0)))

        await asyncio.gather(*(process(one) for one in many))
        assert epochs == sorted(epochs)
        assert len(epochs) > 3

    play(tmp_path, story, seed)
