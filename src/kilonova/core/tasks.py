"""Tasks have parents and names. A failing task is recorded and its siblings live; a service's end ends its tasks.

Ordered (a dict, not a set), so that two simulated runs cancel and report in one order.
"""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

from kilonova.core.log import Log
from kilonova.core.runtime import Runtime


class Tasks:
    def __init__(self, runtime: Runtime, log: Log) -> None:
        self.runtime = runtime
        self._log = log
        self._running: dict[int, asyncio.Task[Any]] = {}
        self._count = 0
        self.failed = 0
        self.closed = False

    def start(self, name: str, coroutine: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """Run a coroutine as a child of this group."""
        if self.closed:
            coroutine.close()
            raise RuntimeError(f"{name}: this service is stopping")
        self._count += 1
        key = self._count
        task = asyncio.get_running_loop().create_task(self._watch(name, key, coroutine), name=name)
        # A task that is cancelled before its first step never reaches the coroutine: close it, so that nobody warns of it.
        task.add_done_callback(lambda done: coroutine.close())
        self._running[key] = task
        return task

    async def _watch(self, name: str, key: int, coroutine: Coroutine[Any, Any, Any]) -> Any:
        try:
            return await coroutine
        except Exception as error:
            self.failed += 1
            self._log.error("task failed", task=name, error=error)
            return None
        finally:
            self._running.pop(key, None)

    def every(self, name: str, seconds: float, function: Callable[[], Awaitable[Any]], *, at_once: bool = False) -> asyncio.Task[Any]:
        """Call a function again and again, `seconds` after it last ended; an error of one call does not end the series."""

        async def series() -> None:
            if not at_once:
                await self.runtime.sleep(seconds)
            while True:
                try:
                    await function()
                except Exception as error:
                    self.failed += 1
                    self._log.error("periodic task failed", task=name, error=error)
                await self.runtime.sleep(seconds)

        return self.start(name, series())

    async def gather(self, name: str, coroutines: list[Coroutine[Any, Any, Any]], limit: int = 16) -> list[Any]:
        """Results in the order given, at most `limit` at a time; the first error (in that order) is raised after all have ended. Whoever
        waits here and is cancelled takes them along."""
        results: list[Any] = [None] * len(coroutines)
        waiting = list(enumerate(coroutines))[::-1]

        async def worker() -> None:
            while waiting:
                at, coroutine = waiting.pop()
                try:
                    results[at] = await coroutine
                except Exception as error:
                    results[at] = _Failed(error)

        workers: list[asyncio.Task[Any]] = []
        try:
            for _ in range(min(limit, len(coroutines))):
                workers.append(self.start(name, worker()))
            if workers:
                await asyncio.wait(workers)
            for task in workers:
                task.result()
        finally:
            while waiting:
                waiting.pop()[1].close()
            left = [task for task in workers if not task.done()]
            for task in left:
                task.cancel()
            if left:
                await asyncio.wait(left)
        for result in results:
            if isinstance(result, _Failed):
                raise result.error
        return results

    async def end(self, task: asyncio.Task[Any]) -> None:
        """Cancel a child and wait for its end, whatever that is."""
        task.cancel()
        await asyncio.wait([task])

    def names(self) -> list[str]:
        return [task.get_name() for task in self._running.values()]

    async def stop(self) -> None:
        """Cancel every child, in the order they were started, and wait for each."""
        self.closed = True
        me = asyncio.current_task()
        for task in list(self._running.values()):
            if task is not me:
                task.cancel()
        for task in list(self._running.values()):
            if task is me:
                continue
            try:
                await task
            except asyncio.CancelledError:
                if me is not None and me.cancelling():
                    raise
        self._running.clear()


class _Failed:
    def __init__(self, error: Exception) -> None:
        self.error = error
