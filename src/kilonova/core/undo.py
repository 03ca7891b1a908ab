"""Undo is a stack next to the step.

    async with Undo(log) as undo:
        claim = await placement.claim(...);  undo.push(placement.release, claim)
        ...
        undo.keep()

An `Exception` on the way out runs the stack, last first; each step may fail without stopping the others. Cancellation does not:
a process that shuts down leaves its verbs to `recover`. Nor does anything run after LostLease, or when `allowed` says no: what was done may
be another runner's by now, or whoever recovers the verb needs it.
"""

from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Any

from kilonova.core.log import Log
from kilonova.core.operations import LostLease


class Undo:
    def __init__(self, log: Log, allowed: Callable[[], Awaitable[bool]] | None = None) -> None:
        self._log = log
        self._allowed = allowed
        self._steps: list[tuple[Callable[..., Awaitable[Any]], tuple[Any, ...]]] = []

    def push(self, function: Callable[..., Awaitable[Any]], *arguments: Any) -> None:
        self._steps.append((function, arguments))

    def keep(self) -> None:
        self._steps.clear()

    async def __aenter__(self) -> "Undo":
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if error is None or not isinstance(error, Exception) or isinstance(error, LostLease) or not self._steps:
            return
        while self._steps:
            # Before each: the process may have been asleep during the one before.
            if self._allowed is not None and not await self._may(self._allowed):
                return
            function, arguments = self._steps.pop()
            try:
                await function(*arguments)
            except Exception as problem:
                self._log.warning("undo step failed", step=getattr(function, "__qualname__", str(function)), error=problem)

    async def _may(self, allowed: Callable[[], Awaitable[bool]]) -> bool:
        try:
            if await allowed():
                return True
            self._log.warning("nothing is undone: another runner has taken over")
        except Exception as problem:
            self._log.warning("nothing is undone: whether it is still ours cannot be known", error=problem)
        return False
