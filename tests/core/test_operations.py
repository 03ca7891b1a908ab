"""Operations: an attempt that fails is made again, a runner that lost its lease stops, and what nobody runs is found."""

import io
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from kilonova.core.bus import Unreachable
from kilonova.core.context import service_context
from kilonova.core.db import Lost, Transaction
from kilonova.core.db.sqlite import SQLite
from kilonova.core.errors import Error
from kilonova.core.log import Log, Sink
from kilonova.core.operations import LEASE_S, MAX_ATTEMPTS, RENEW_S, LostLease, Operation, Operations, Verb, operations_table
from kilonova.core.tasks import Tasks
from kilonova.core.undo import Undo
from kilonova.testing import simulation
from kilonova.testing.simulation import SimRuntime

metadata = sa.MetaData()
table = operations_table(metadata, "test_operations")


class Runner:
    """One process on the database. `plan`: what each attempt does; the last goes on for ever."""

    def __init__(self, runtime: SimRuntime, path: Path, owner: str, *plan: Callable[[Operation], Awaitable[None]]) -> None:
        self.runtime, self.db, self.output = runtime, SQLite(str(path), runtime, synchronous="OFF"), io.StringIO()
        self.log = Log(owner, Sink(self.output))
        self.tasks = Tasks(runtime, self.log)
        self.ops = Operations(self.db, table, runtime, self.tasks, self.log, owner)
        self.plan = list(plan)
        self.attempts: list[tuple[str, int, float]] = []
        self.given_up: list[Error] = []
        self.ops.verbs = {"verb": Verb(self._run, self._recover, self._give_up)}

    async def _run(self, op: Operation, name: str = "run") -> None:
        self.attempts.append((name, op.epoch, self.runtime.monotonic()))
        await (self.plan.pop(0) if len(self.plan) > 1 else self.plan[0])(op)

    async def _recover(self, op: Operation) -> None:
        await self._run(op, "recover")

    async def _give_up(self, op: Operation, error: Error) -> None:
        self.given_up.append(error)
        await self.finish(op)

    async def finish(self, op: Operation) -> None:
        await self.db.transact(lambda tx: self.ops.finish(tx, op))

    async def finish_lost_after(self, op: Operation) -> None:
        await self.finish(op)
        raise Lost("the connection broke after the commit")

    async def begin(self) -> Operation:
        ctx = service_context("test")
        return await self.db.transact(lambda tx: self.ops.open(tx, "verb", "r1", ctx, {}))

    async def count(self) -> int:
        return len(await self.db.all(sa.select(table.c.id).order_by(table.c.id)))

    def live(self) -> None:
        self.tasks.every("renew", RENEW_S, self.ops.renew)
        self.tasks.every("adopt", RENEW_S, self.ops.adopt)

    async def stop(self) -> None:
        await self.tasks.stop()
        await self.db.stop()


def told(story: Callable[[SimRuntime], Awaitable[None]]) -> None:
    simulation.run(story, seed=1)


async def broken(op: Operation) -> None:
    raise KeyError("a mistake of ours")


async def silent(op: Operation) -> None:
    raise Unreachable(address="compute.host-1")


@pytest.mark.parametrize("failure", [broken, silent], ids=["a mistake", "no answer"])
def test_a_failed_attempt_is_made_again_as_recovery_with_a_new_epoch(tmp_path: Path, failure: Any) -> None:
    async def story(runtime: SimRuntime) -> None:
        r = Runner(runtime, tmp_path / "db", "a", failure, failure)
        await r.db.create(metadata)
        r.plan.append(r.finish)
        await r.ops.start(await r.begin())
        assert [(name, epoch) for name, epoch, _ in r.attempts] == [("run", 1), ("recover", 2), ("recover", 3)]
        pauses = [b[2] - a[2] for a, b in zip(r.attempts, r.attempts[1:], strict=False)]
        assert 0.5 <= pauses[0] <= 1.1
        assert 1.0 <= pauses[1] <= 2.1
        assert await r.count() == 0
        assert r.given_up == []
        await r.stop()

    told(story)


def test_after_the_last_attempt_it_is_given_up_with_a_sentence_and_without_a_trace(tmp_path: Path) -> None:
    async def story(runtime: SimRuntime) -> None:
        for failure, why in ((broken, "An unexpected error came each time."), (silent, "compute.host-1 does not answer.")):
            r = Runner(runtime, tmp_path / f"{why}db", "a", failure)
            await r.db.create(metadata)
            began = runtime.monotonic()
            await r.ops.start(await r.begin())
            assert len(r.attempts) == MAX_ATTEMPTS
            assert runtime.monotonic() - began < 480, "bounded in time"
            assert [e.message for e in r.given_up] == [f"The request was given up after {MAX_ATTEMPTS} attempts. {why}"]
            assert "operation is given up" in r.output.getvalue()
            assert (await r.count(), r.ops.given_up) == (0, 1)
            await r.stop()

    told(story)


def test_a_finish_that_took_effect_although_the_commit_was_lost_is_the_end(tmp_path: Path) -> None:
    async def story(runtime: SimRuntime) -> None:
        r = Runner(runtime, tmp_path / "db", "a")
        await r.db.create(metadata)
        r.plan.append(r.finish_lost_after)
        await r.ops.start(await r.begin())
        assert (len(r.attempts), await r.count()) == (1, 0)
        await r.stop()

    told(story)


def test_a_database_that_is_away_costs_no_attempts(tmp_path: Path) -> None:
    async def story(runtime: SimRuntime) -> None:
        r = Runner(runtime, tmp_path / "db", "a", broken)
        await r.db.create(metadata)
        r.plan.append(r.finish)
        op = await r.begin()
        real, away = r.db.transact, runtime.monotonic() + 900

        async def transact(body: Callable[[Transaction], Awaitable[Any]]) -> Any:
            if runtime.monotonic() < away:
                raise Lost("away")
            return await real(body)

        r.db.transact = transact  # type: ignore[method-assign]
        await r.ops.start(op)
        assert runtime.monotonic() >= away
        assert (len(r.attempts), await r.count()) == (2, 0)
        await r.stop()

    told(story)


def test_an_operation_whose_begin_was_told_lost_is_found_and_run(tmp_path: Path) -> None:
    async def story(runtime: SimRuntime) -> None:
        r = Runner(runtime, tmp_path / "db", "a")
        await r.db.create(metadata)
        r.plan.append(r.finish)
        r.live()
        await r.begin()
        await runtime.sleep(LEASE_S - 1)
        assert r.attempts == [], "it may still be on its way to start"
        await runtime.sleep(2 * RENEW_S + 1)
        assert [name for name, _, _ in r.attempts] == ["recover"]
        assert await r.count() == 0
        await r.stop()

    told(story)


def test_only_who_is_silent_for_a_whole_lease_is_taken_over_and_then_it_stops(tmp_path: Path) -> None:
    async def story(runtime: SimRuntime) -> None:
        undone: list[str] = []

        async def forever(op: Operation) -> None:
            async with Undo(a.log, lambda: a.ops.held(op)) as undo:
                undo.push(undo_it)
                await runtime.sleep(3600)

        async def undo_it() -> None:
            undone.append("undone")

        a, b = Runner(runtime, tmp_path / "db", "a", forever), Runner(runtime, tmp_path / "db", "b")
        await a.db.create(metadata)
        b.plan.append(b.finish)
        a.live()
        b.live()
        op = await a.begin()
        task = a.ops.start(op)
        await runtime.sleep(10 * LEASE_S)
        assert b.attempts == [], "a renews"
        real, a.ops.renew = a.ops.renew, _nothing  # type: ignore[method-assign]
        a.tasks._running[1].cancel()
        a.tasks._running[2].cancel()
        await runtime.sleep(LEASE_S + RENEW_S + 1)
        assert [(name, epoch) for name, epoch, _ in b.attempts] == [("recover", 2)]
        assert not a.ops.valid(op.id), "a knows by its own clock that it must not command any more"
        assert not await a.ops.held(op)
        with pytest.raises(LostLease):
            await a.finish(op)
        await real()
        await runtime.sleep(0)
        assert task.done()
        assert undone == [], "what a has done may be b's by now"
        await a.stop()
        await b.stop()

    told(story)


async def _nothing() -> None:
    return None


def test_a_runner_that_lost_its_lease_undoes_nothing_when_it_fails(tmp_path: Path) -> None:
    async def story(runtime: SimRuntime) -> None:
        undone: list[str] = []

        async def undo_it() -> None:
            undone.append("undone")

        async def slow(op: Operation) -> None:
            async with Undo(a.log, lambda: a.ops.held(op)) as undo:
                undo.push(undo_it)
                await runtime.sleep(2 * LEASE_S)
                raise KeyError("late")

        a, b = Runner(runtime, tmp_path / "db", "a", slow), Runner(runtime, tmp_path / "db", "b")
        await a.db.create(metadata)
        b.plan.append(b.finish)
        b.live()
        await a.ops.start(await a.begin())
        assert len(b.attempts) == 1
        assert undone == []
        assert len(a.attempts) == 1
        await a.stop()
        await b.stop()

    told(story)


def test_stopping_leaves_the_operation_to_the_next_life_without_undoing(tmp_path: Path) -> None:
    async def story(runtime: SimRuntime) -> None:
        undone: list[str] = []

        async def undo_it() -> None:
            undone.append("undone")

        async def slow(op: Operation) -> None:
            async with Undo(a.log) as undo:
                undo.push(undo_it)
                await runtime.sleep(5)

        a = Runner(runtime, tmp_path / "db", "a", slow)
        await a.db.create(metadata)
        a.ops.start(await a.begin())
        await runtime.sleep(1)
        await a.stop()
        assert undone == []
        b = Runner(runtime, tmp_path / "db", "b")
        b.plan.append(b.finish)
        assert await b.ops.adopt() == 0, "the lease still runs"
        assert await b.ops.adopt(everything=True) == 1
        await runtime.sleep(1)
        assert await b.count() == 0
        await b.stop()

    told(story)


def test_a_runner_that_stops_in_order_leaves_what_it_ran_to_others_at_once(tmp_path: Path) -> None:
    async def story(runtime: SimRuntime) -> None:
        async def long(op: Operation) -> None:
            await runtime.sleep(100.0)

        a = Runner(runtime, tmp_path / "db", "a", long)
        b = Runner(runtime, tmp_path / "db", "b")
        b.plan.append(b.finish)
        await a.db.create(metadata)
        op = await a.begin()
        a.ops.start(op)
        await runtime.sleep(1.0)
        assert not await b.ops.take_up(op.id), "its lease holds"
        running = list(a.ops.running)
        await a.tasks.stop()
        await a.ops.give_back([*running, "unknown"])
        assert await b.ops.take_up(op.id)
        await runtime.sleep(1.0)
        assert [(name, epoch) for name, epoch, _ in b.attempts] == [("recover", 2)]
        await a.ops.give_back(running)
        assert await b.count() == 0
        await b.stop()
        await a.stop()

    told(story)
