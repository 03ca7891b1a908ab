"""Several processes in one virtual world: each has an event loop, a wall clock and a life of its own; one clock of all moves on.

A `ProcessLoop` is run by the `WorldLoop` in turn with the others, so that a process which is stopped (`freeze`) does what a stopped one
does: nothing, and then, late, all that came due meanwhile. One that dies is never run again: no `finally`, no goodbye. Whatever reaches
another process takes a way through the world's loop: the database (`Remote`), the broker (`testing/broker.py`), a client's request
(`Process.ask`). Processes are run in the order in which they were made.
"""

import asyncio
import random
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

from kilonova.core.db import Database, Transaction
from kilonova.core.db.facade import NONE, Parameters, Row
from kilonova.testing.faults import FaultRuntime
from kilonova.testing.simulation import EPOCH, Killed, VirtualLoop, bury

T = TypeVar("T")
FAREST_S = 0.004
"""A statement, or a request, is that long on its way, at most."""


class Died(ConnectionError):
    """The process that was asked has died, or was stopped for too long."""


class ProcessLoop(VirtualLoop):
    """Runs when the world says so. `frozen_until`: in the world's time."""

    def __init__(self, world: "WorldLoop") -> None:
        super().__init__()
        self.world = world
        self.frozen_until = 0.0
        self.dead = False

    def time(self) -> float:
        return self.world.time()

    def due(self) -> float | None:
        """When it has something to do; None: never, as things are."""
        at = self._next_timer()
        if self._ready:
            at = 0.0
        if at is None:
            return None
        return max(at, self.frozen_until)

    def turn(self) -> None:
        """One round, as the running loop. Raises Killed."""
        outer = asyncio.events._get_running_loop()
        asyncio.events._set_running_loop(self)
        try:
            self._ripen()
            self._run_ready()
        finally:
            asyncio.events._set_running_loop(outer)

    def bury(self) -> None:
        """It does nothing any more."""
        self.dead = True
        bury(self, None)


class WorldLoop(VirtualLoop):
    """The loop of what is no process: disk, broker, clients, misfortunes; and the one that runs the others."""

    def __init__(self) -> None:
        super().__init__()
        self.loops: list[ProcessLoop] = []
        self.died: Callable[[ProcessLoop], None] = lambda loop: None

    def _run_once(self) -> None:
        if self._ready:
            super()._run_once()
        loops = list(self.loops)
        times = [due for loop in loops if (due := loop.due()) is not None]
        if not self._ready and not self._stopping:
            own = self._next_timer()
            times += [] if own is None else [own]
            if times:
                self._now = max(self._now, min(times))
        self._ripen()
        for loop in loops:
            at = loop.due()
            if at is None or at > self._now or loop.dead:
                continue
            try:
                loop.turn()
            except Killed:
                loop.bury()
                self.loops.remove(loop)
                self.died(loop)


class ProcessRuntime(FaultRuntime):
    """Of one process: its wall clock is off by `offset_s` and runs by `drift` too fast; the monotonic one is everybody's."""

    def __init__(self, name: str, world: FaultRuntime, loop: ProcessLoop, seed: int) -> None:
        super().__init__(loop, seed)
        self.name = name
        self.offset_s = 0.0
        self.drift = 0.0
        self._world = world
        self._process_loop = loop
        self.freeze_at: tuple[int, float] | None = None
        """Stop at this point for so many seconds."""
        self.freeze_after: tuple[str, int, float] | None = None
        """The same, but the points are counted from the next one of this name on."""
        self.freeze_held: tuple[int, float] | None = None
        """Stop for so many seconds after an answer that an operation is still ours: the next one, or after so many others."""
        self._way = random.Random(f"way {seed}")
        """How long statements take: apart from what the process itself draws."""

    def now(self) -> float:
        return EPOCH + self.monotonic() * (1.0 + self.drift) + self.offset_s

    def monotonic(self) -> float:
        return self._world.monotonic()

    def stall(self, seconds: float) -> None:
        self._process_loop.frozen_until = max(self._process_loop.frozen_until, self.monotonic() + seconds)

    def note(self, text: str) -> None:
        self._world.note(f"[{self.name}] {text}")

    def point(self, name: str) -> None:
        """Dies here if it is time. What the weather does to commits it does in the database."""
        if self.dead:
            raise Killed
        self.points += 1
        if self.freeze_after is not None and name == self.freeze_after[0]:
            self.freeze_at, self.freeze_after = (self.points + self.freeze_after[1], self.freeze_after[2]), None
        if self.freeze_at is not None and self.points >= self.freeze_at[0]:
            self.note(f"! stopped for {self.freeze_at[1]:.1f} s at {name}")
            self.stall(self.freeze_at[1])
            self.freeze_at = None
        if self.kill_at is not None and self.points >= self.kill_at:
            self.dead = True
            self.note(f"dies at {name}")
            raise Killed

    def moment(self) -> float:
        return self._way.uniform(0.0002, FAREST_S)


class Process:
    """A loop and a runtime. Other loops reach it by `ask` and `post`."""

    def __init__(self, name: str, world: FaultRuntime, loop: WorldLoop, seed: int) -> None:
        self.name = name
        self.world = loop
        self.loop = ProcessLoop(loop)
        self.runtime = ProcessRuntime(name, world, self.loop, seed)
        self._asked: dict[asyncio.Future[Any], None] = {}
        loop.loops.append(self.loop)

    @property
    def alive(self) -> bool:
        return not self.loop.dead

    @property
    def frozen(self) -> bool:
        return self.loop.frozen_until > self.world.time()

    def freeze(self, seconds: float) -> None:
        self.runtime.stall(seconds)

    def kill(self) -> None:
        """kill -9, from outside."""
        if self.alive:
            self.runtime.dead = True
            self.loop.bury()
            self.world.loops.remove(self.loop)
            self.world.died(self.loop)

    def start(self, coroutine: Coroutine[Any, Any, Any], name: str) -> None:
        self.loop.call_soon(lambda: self.loop.create_task(coroutine, name=name))

    async def ask(self, work: Callable[[], Awaitable[T]], patience_s: float = 120.0) -> T:
        """Run something in the process, for somebody outside of it. Raises Died, or what the work raises."""
        if not self.alive:
            raise Died(f"{self.name} is not there")
        answer: asyncio.Future[T] = self.world.create_future()
        self._asked[answer] = None

        def settle(result: Any, error: BaseException | None) -> None:
            if not answer.done():
                answer.set_result(result) if error is None else answer.set_exception(error)

        async def carried() -> None:
            try:
                result = await work()
            except Exception as error:
                self.world.call_later(self.runtime.moment(), settle, None, error)
            else:
                self.world.call_later(self.runtime.moment(), settle, result, None)

        self.start(carried(), f"asked of {self.name}")
        try:
            async with asyncio.timeout(patience_s):
                return await answer
        except TimeoutError:
            raise Died(f"{self.name} does not answer") from None
        finally:
            self._asked.pop(answer, None)

    def hang_up(self) -> None:
        """It has died: who asked it something hears so."""
        for answer in self._asked:
            if not answer.done():
                answer.set_exception(Died(f"{self.name} has died"))


class Remote:
    """The database as one process reaches it. A transaction takes effect as a whole, in the database's turn, whatever becomes of the
    process meanwhile; its outcome is heard when the process runs."""

    def __init__(self, db: Database, process: Process) -> None:
        self.dialect = db.dialect
        self._db = db
        self._process = process

    async def _carried(self, work: Callable[[], Awaitable[T]]) -> T:
        process = self._process
        loop, world = process.loop, process.world
        if process.frozen:
            await asyncio.sleep(0)  # stopped between the decision and the deed
        answer: asyncio.Future[T] = loop.create_future()

        def settle(result: Any, error: Exception | None) -> None:
            if not answer.done():
                answer.set_result(result) if error is None else answer.set_exception(error)

        async def there() -> None:
            try:
                result = await work()
            except Exception as error:
                world.call_later(process.runtime.moment(), loop.call_soon, settle, None, error)
            else:
                world.call_later(process.runtime.moment(), loop.call_soon, settle, result, None)

        world.call_later(process.runtime.moment(), lambda: world.create_task(there(), name=f"statement of {process.name}"))
        return await answer

    async def all(self, statement: Any, parameters: Parameters = NONE) -> list[Row]:
        return await self._carried(lambda: self._db.all(statement, parameters))

    async def one(self, statement: Any, parameters: Parameters = NONE) -> Row | None:
        return await self._carried(lambda: self._db.one(statement, parameters))

    async def transact(self, body: Callable[[Transaction], Awaitable[T]]) -> T:
        self._process.runtime.point("transaction")
        result = await self._carried(lambda: self._db.transact(body))
        self._process.runtime.point("transacted")
        return result

    async def run(self, statement: Any, parameters: Parameters = NONE) -> int:
        return await self.transact(lambda tx: tx.run(statement, parameters))

    async def create(self, metadata: Any) -> None:
        await self._carried(lambda: self._db.create(metadata))

    def now_us(self) -> int:
        return self._db.now_us()

    def stamp(self) -> int | None:
        return None

    async def stop(self) -> None:
        """The database goes on."""
