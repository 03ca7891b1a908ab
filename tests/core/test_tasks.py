"""Groups of tasks: `gather` keeps an order and a limit, tells the first failure last, and leaves nothing behind when it is cut short."""

import asyncio
import inspect
import io
from collections.abc import Awaitable, Callable

import pytest

from kilonova.core.log import Log, Sink
from kilonova.core.tasks import Tasks
from kilonova.testing import simulation
from kilonova.testing.simulation import SimRuntime


def told(story: Callable[[SimRuntime, Tasks], Awaitable[None]]) -> None:
    async def whole(runtime: SimRuntime) -> None:
        await story(runtime, Tasks(runtime, Log("test", Sink(io.StringIO()))))

    simulation.run(whole, seed=1)


class Work:
    def __init__(self, runtime: SimRuntime) -> None:
        self.runtime = runtime
        self.begun: list[int] = []
        self.ended: list[int] = []
        self.most = 0

    async def do(self, number: int, seconds: float = 1.0, error: Exception | None = None) -> int:
        self.begun.append(number)
        self.most = max(self.most, len(self.begun) - len(self.ended))
        await self.runtime.sleep(seconds)
        self.ended.append(number)
        if error is not None:
            raise error
        return number


def test_results_come_in_the_order_given_and_no_more_than_the_limit_run_at_once() -> None:
    async def story(runtime: SimRuntime, tasks: Tasks) -> None:
        work = Work(runtime)
        assert await tasks.gather("g", [work.do(n, seconds=7 - n) for n in range(7)], limit=3) == list(range(7))
        assert work.begun == list(range(7)) and work.ended != work.begun and work.most == 3
        assert await tasks.gather("nothing", []) == []

    told(story)


def test_the_first_failure_in_that_order_is_raised_when_all_have_ended() -> None:
    async def story(runtime: SimRuntime, tasks: Tasks) -> None:
        work = Work(runtime)
        jobs = [work.do(0), work.do(1, 5, ValueError("first")), work.do(2, 1, KeyError("earlier")), work.do(3, 9)]
        with pytest.raises(ValueError, match="first"):
            await tasks.gather("g", jobs)
        assert sorted(work.ended) == [0, 1, 2, 3] and tasks.failed == 0 and tasks.names() == []

    told(story)


def test_who_is_cancelled_begins_no_more_and_takes_what_has_begun_along() -> None:
    async def story(runtime: SimRuntime, tasks: Tasks) -> None:
        work = Work(runtime)
        jobs = [work.do(n) for n in range(5)]
        caller = asyncio.get_running_loop().create_task(tasks.gather("g", jobs, limit=2))
        await runtime.sleep(0.5)
        await tasks.end(caller)
        assert caller.cancelled() and tasks.names() == []
        await runtime.sleep(5)
        assert work.begun == [0, 1] and work.ended == [] and tasks.failed == 0
        assert all(inspect.getcoroutinestate(job) == inspect.CORO_CLOSED for job in jobs)

    told(story)


def test_who_is_cancelled_waits_until_the_others_are_tidy() -> None:
    async def story(runtime: SimRuntime, tasks: Tasks) -> None:
        tidied: list[float] = []

        async def careful() -> None:
            try:
                await runtime.sleep(9)
            finally:
                await runtime.sleep(2)
                tidied.append(runtime.monotonic())

        caller = asyncio.get_running_loop().create_task(tasks.gather("g", [careful(), careful()]))
        await runtime.sleep(0.5)
        await tasks.end(caller)
        assert tidied == [2.5, 2.5]

    told(story)


def test_a_group_that_ends_closes_what_was_not_begun() -> None:
    async def story(runtime: SimRuntime, tasks: Tasks) -> None:
        work = Work(runtime)
        jobs = [work.do(n) for n in range(5)]
        caller = asyncio.get_running_loop().create_task(tasks.gather("g", jobs, limit=2))
        await runtime.sleep(0.5)
        await tasks.stop()
        with pytest.raises(asyncio.CancelledError):
            await caller
        late = [work.do(n) for n in range(5)]
        with pytest.raises(RuntimeError, match="is stopping"):
            await tasks.gather("g", late)
        assert work.begun == [0, 1] and work.ended == []
        assert all(inspect.getcoroutinestate(job) == inspect.CORO_CLOSED for job in [*jobs, *late])

    told(story)
