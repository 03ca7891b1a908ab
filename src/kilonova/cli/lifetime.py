"""What every process of a cloud does, whatever runs in it: signals, the log, memory, and the sentence when it does not come up."""

import asyncio
import contextlib
import ctypes
import gc
import os
import signal
import sqlite3
import time
from collections.abc import Callable, Coroutine
from typing import Any, TextIO

from kilonova.cli.failure import Failure, plain
from kilonova.cli.settle import Settled
from kilonova.cli.state import StateDir
from kilonova.core import errors
from kilonova.core.config import ConfigError
from kilonova.core.db.facade import Lost
from kilonova.core.log import Log, Sink
from kilonova.core.plugins import UnknownPlugin
from kilonova.core.runtime import Runtime
from kilonova.core.server import PortTaken
from kilonova.core.tasks import Tasks

Tell = Callable[[str], None]
"""Shows a line to whoever started the process."""
LOG_BYTES = 32 << 20
LOGS_KEPT = 3
FLUSH_S = 1.0
IDLE_CHECK_S = 15.0
IDLE_CPU = 0.05


class Lifetime:
    """From the log's opening to its end. Made before the loop runs; `begin` is called in it."""

    def __init__(self, settled: Settled, state: StateDir, tell: Tell) -> None:
        self.settled = settled
        self.state = state
        self.tell = tell
        self.ended = asyncio.Event()
        self._signals = 0

    def begin(self) -> Runtime:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            loop.add_signal_handler(number, self._stop)
        runtime = Runtime()
        self.log_stream = self._open_log()
        self.sink = Sink(self.log_stream, "debug" if self.settled.debug else "info", runtime.now_us)
        self.log = Log("kilonova", self.sink)
        self.tasks = Tasks(runtime, self.log)
        return runtime

    def failed(self, error: Exception) -> Failure:
        failure = failure_of(error, self.state)
        self.log.error("the cloud did not start", reason=failure.message, **({} if failure.expected else {"error": error}))
        return failure

    def close_log(self) -> None:
        self.log.info("the cloud has ended")
        self.sink.flush()
        self.log_stream.close()

    def _stop(self) -> None:
        """The first signal ends in order; the third ends at once."""
        self._signals += 1
        self.ended.set()
        if self._signals >= 3:
            os._exit(1)

    async def _unless_stopped(self, work: Coroutine[Any, Any, None]) -> None:
        """Wait for a step of the start; a signal ends it."""
        step = asyncio.ensure_future(work)
        stop = asyncio.ensure_future(self.ended.wait())
        try:
            await asyncio.wait({step, stop}, return_when=asyncio.FIRST_COMPLETED)
            if not step.done():
                raise Failure("The start was interrupted.", code=130)
            step.result()
        finally:
            for task in (step, stop):
                if not task.done():
                    task.cancel()
                    with contextlib.suppress(asyncio.CancelledError):
                        await task

    def _settle_down(self) -> None:
        """Nothing made so far is garbage; lines reach the disk within a second; memory goes back when there is nothing to do."""
        gc.collect()
        gc.freeze()
        # Requests make many short-lived containers and few cycles: look for cycles less often (a tenth of the CPU of a boot).
        gc.set_threshold(25_000, 20, 50)
        gc.enable()
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:
            trim(0)
        used_s, done = time.process_time(), False

        async def flush() -> None:
            self.sink.flush()
            if os.fstat(self.log_stream.fileno()).st_size > LOG_BYTES:
                self._rotate()

        async def trim_when_idle() -> None:
            nonlocal used_s, done
            now_s = time.process_time()
            busy, used_s = now_s - used_s > IDLE_CPU * IDLE_CHECK_S, now_s
            if busy:
                done = False
            elif not done and trim is not None:
                gc.collect()
                trim(0)
                done = True

        self.tasks.every("flush the log", FLUSH_S, flush)
        self.tasks.every("give memory back", IDLE_CHECK_S, trim_when_idle)

    # ---- the log

    def _open_log(self) -> TextIO:
        path = self.state.log_file
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        return os.fdopen(descriptor, "a", buffering=1 << 16, encoding="utf-8")

    def _rotate(self) -> None:
        path = self.state.log_file
        self.log_stream.close()
        for number in range(LOGS_KEPT - 1, 0, -1):
            older = path.with_name(f"{path.name}.{number}")
            if older.exists():
                older.replace(path.with_name(f"{path.name}.{number + 1}"))
        path.replace(path.with_name(f"{path.name}.1"))
        self.log_stream = self.sink.stream = self._open_log()


def failure_of(error: Exception, state: StateDir) -> Failure:
    """What went wrong at the start, as a sentence."""
    if isinstance(error, Failure):
        return error
    if isinstance(error, (PortTaken, ConfigError, UnknownPlugin)):
        return Failure(plain(str(error)))
    if isinstance(error, errors.Error) and not isinstance(error, Lost):
        return Failure(error.message, error.advice)
    if isinstance(error, Lost) and not state.database.exists():  # a server's
        return Failure(f"The database cannot be used: {error}.", "Is its server running? [database] connection names it.")
    if isinstance(error, (sqlite3.DatabaseError, Lost)):
        return Failure(
            f"The database {state.database} cannot be used: {error}.",
            "`kilonova doctor` checks it; restore it from a backup, or choose another directory with --state.",
        )
    if isinstance(error, OSError) and error.strerror:
        return Failure(f"{error.filename or 'The cloud'}: {error.strerror}.", f"The log is {state.log_file}.")
    return Failure(
        f"The cloud did not start because of a mistake in the program ({type(error).__name__}: {error}).",
        f"The trace is in {state.log_file}.",
        expected=False,
    )
