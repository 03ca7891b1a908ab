"""A whole cloud on a virtual clock: one seed, one event log.

`run(seed, story)` gives the story a `SimRuntime` whose clock, chance and threads are the simulation's. Time jumps to the next timer when
nothing is ready, so hours pass in seconds. While the story runs, a tripwire fails on any read of the machine's own clock, randomness,
threads, sockets or processes. `SimRuntime.events` is the log: every point that the cloud passes.

The traps this avoids (sets of strings, task groups that cancel in address order, uuid4) are in docs/internals/simulation.md.
"""

import asyncio
import collections
import datetime
import gc
import hashlib
import heapq
import os
import random
import secrets
import socket
import subprocess
import threading
import time
import traceback
import uuid
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from kilonova.core.runtime import Runtime

T = TypeVar("T")
EPOCH = 1_800_000_000.0
"""The simulated clock starts here (2027-01-15)."""


class Deadlock(Exception):
    """Nothing is ready and no timer is set: the story waits for something that nobody will do."""


class Killed(SystemExit):
    """The process dies here. A SystemExit, since that leaves the loop at once and no `except Exception` holds it."""


class WallClock(AssertionError):
    """Simulated code has asked the machine instead of the Runtime."""


class VirtualLoop(asyncio.BaseEventLoop):
    """asyncio without selector: when nothing is ready the clock jumps to the next timer."""

    _scheduled: list[Any]
    _ready: collections.deque[Any]
    _stopping: bool

    def __init__(self) -> None:
        super().__init__()
        self._now = 0.0

    def time(self) -> float:
        return self._now

    def _run_once(self) -> None:
        due = self._next_timer()
        if not self._ready and not self._stopping:
            if due is None:
                raise Deadlock("nothing is ready and no timer is set")
            self._now = max(self._now, due)
        self._ripen()
        self._run_ready()

    def _next_timer(self) -> float | None:
        """When the first timer is due that was not cancelled."""
        scheduled = self._scheduled
        while scheduled and scheduled[0]._cancelled:
            heapq.heappop(scheduled)._scheduled = False
        return scheduled[0]._when if scheduled else None

    def _ripen(self) -> None:
        """Timers that are due are ready."""
        scheduled, now = self._scheduled, self.time()
        while scheduled and scheduled[0]._when <= now:
            handle = heapq.heappop(scheduled)
            handle._scheduled = False
            if not handle._cancelled:
                self._ready.append(handle)

    def _run_ready(self) -> None:
        """What is ready now; what becomes ready meanwhile waits for the next round."""
        ready = self._ready
        for _ in range(len(ready)):
            handle = ready.popleft()
            if not handle._cancelled:
                handle._run()

    def _process_events(self, event_list: Any) -> None:
        raise NotImplementedError("a virtual loop has no sockets")

    def _write_to_self(self) -> None:
        """call_soon_threadsafe from the loop's own thread (finalisers of async generators) needs no waking."""

    def run_in_executor(self, executor: Any, func: Any, *args: Any) -> Any:  # type: ignore[override]
        raise WallClock("a thread was asked for; use Runtime.blocking")


class SimRuntime(Runtime):
    """Clock, chance and threads of one simulated life. `kill_at`: die when this many points have been passed."""

    def __init__(self, loop: VirtualLoop, seed: int, *, kill_at: int | None = None, start: float = 0.0) -> None:
        super().__init__()
        self.random = random.Random(seed)
        self.events: list[str] = []
        self.points = 0
        self.kill_at = kill_at
        self.dead = False
        self._loop = loop
        self._start = start

    def now(self) -> float:
        return EPOCH + self._start + self._loop.time()

    def monotonic(self) -> float:
        return self._start + self._loop.time()

    def token_bytes(self, count: int) -> bytes:
        return self.random.getrandbits(8 * count).to_bytes(count, "big") if count else b""

    async def blocking(self, function: Callable[..., T], *arguments: Any, pool: str = "default") -> T:
        """Inline, after a simulated moment."""
        await asyncio.sleep(self.random.uniform(0.0001, 0.002))
        return function(*arguments)

    def file_sync(self) -> None:
        """Disks are at once."""

    def point(self, name: str) -> None:
        if self.dead:
            raise Killed
        self.points += 1
        self.note(name)
        if self.kill_at is not None and self.points >= self.kill_at:
            self.dead = True
            raise Killed

    def note(self, text: str) -> None:
        self.events.append(f"{self._start + self._loop.time():.6f} {text}")

    def digest(self) -> str:
        return hashlib.sha256("\n".join(self.events).encode()).hexdigest()


R = TypeVar("R", bound=SimRuntime)
_graveyard: list[Any] = []
"""Loops of killed lives: collected, their coroutines would run their `finally` clauses, which the dead do not do."""


def run(
    story: Callable[[R], Awaitable[T]],
    seed: int,
    *,
    kill_at: int | None = None,
    start: float = 0.0,
    kind: Callable[..., R] = SimRuntime,  # type: ignore[assignment]
    loop: VirtualLoop | None = None,
) -> tuple[T | None, R]:
    """Run a story to its end, or to its death at `kill_at` (then the result is None). Raises what the story raises."""
    loop = loop or VirtualLoop()
    runtime = kind(loop, seed, kill_at=kill_at, start=start)
    collecting = gc.isenabled()
    gc.disable()
    asyncio.set_event_loop(loop)
    try:
        with tripwire() as alarms:
            try:
                result: T | None = loop.run_until_complete(_told(story, runtime))
            except Killed as death:
                bury(loop, death)
                asyncio.events._set_running_loop(None)
                return None, runtime
            except BaseException as error:
                bury(loop, error)
                if alarms:
                    raise WallClock("; ".join(dict.fromkeys(alarms))) from error
                raise
        if alarms:
            raise WallClock("; ".join(dict.fromkeys(alarms)))
        return result, runtime
    finally:
        asyncio.set_event_loop(None)
        if collecting:
            gc.enable()


def bury(loop: VirtualLoop, why: BaseException | None) -> None:
    """Keep what the dead were at from being collected."""
    tasks = asyncio.all_tasks(loop)
    for task in tasks:
        task._log_destroy_pending = False  # type: ignore[attr-defined]
    loop.set_exception_handler(lambda *about: None)
    _graveyard.append((loop, tasks, why))


async def _told(story: Callable[[R], Awaitable[T]], runtime: R) -> T:
    return await story(runtime)


@contextmanager
def tripwire() -> Iterator[list[str]]:
    """Let every way around the Runtime raise, and be remembered (an edge turns an exception into a 500)."""
    alarms: list[str] = []

    def alarm(name: str, real: Callable[..., Any] | None = None) -> Callable[..., Any]:
        def trip(*arguments: Any, **options: Any) -> Any:
            stack = traceback.extract_stack()
            if real is not None and any(f.filename.startswith("<frozen importlib") for f in stack):
                return real(*arguments, **options)  # a module that is being imported looks around itself
            caller = next((f for f in reversed(stack[:-1]) if "/asyncio/" not in f.filename), None)
            alarms.append(f"{name} was called at {caller.filename}:{caller.lineno}" if caller else name)
            raise WallClock(f"{name} was called in a simulation; use the Runtime")

        return trip

    places: list[tuple[Any, str]] = [
        *(
            (time, name)
            for name in (
                "time",
                "time_ns",
                "monotonic",
                "monotonic_ns",
                "perf_counter",
                "perf_counter_ns",
                "sleep",
                "localtime",
                "gmtime",
                "ctime",
            )
        ),
        *((uuid, name) for name in ("uuid1", "uuid4")),
        (os, "urandom"),
        *((secrets, name) for name in ("token_bytes", "token_hex", "token_urlsafe", "randbelow", "choice")),
        *((random, name) for name in ("random", "randint", "choice", "randrange", "shuffle", "uniform", "sample", "getrandbits")),
        (socket, "socket"),
        (subprocess, "Popen"),
        (threading.Thread, "start"),
    ]
    kept = [(holder, name, getattr(holder, name)) for holder, name in places]
    real_datetime = datetime.datetime

    class GuardedDatetime(real_datetime):  # type: ignore[misc, valid-type]
        now = classmethod(lambda cls, tz=None: alarm("datetime.now")())
        utcnow = classmethod(lambda cls: alarm("datetime.utcnow")())
        today = classmethod(lambda cls: alarm("datetime.today")())

    try:
        for holder, name, _ in kept:
            setattr(holder, name, alarm(f"{getattr(holder, '__name__', holder)}.{name}", getattr(holder, name)))
        datetime.datetime = GuardedDatetime  # type: ignore[misc]
        yield alarms
    finally:
        for holder, name, value in kept:
            setattr(holder, name, value)
        datetime.datetime = real_datetime  # type: ignore[misc]
