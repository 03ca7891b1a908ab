"""What goes wrong in a simulated cloud, by chance and by seed.

`Weather` says what is broken right now; it outlives the processes. `FaultRuntime` lets commits fail, disks be slow and clocks jump;
`Wires` stands between callers and the bus; `FaultyHypervisor`, `FaultyDataplane` and `FaultyStore` stand before the fake drivers. None of
them knows what the cloud makes of it: that is for `invariants`.
"""

import asyncio
import random
import sqlite3
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from kilonova.compute.drivers import DriverError as HypervisorError
from kilonova.core.bus import Unreachable
from kilonova.image.drivers import IMAGE, Full
from kilonova.image.drivers.memory import MemoryStore, MemoryWriter
from kilonova.network.drivers import DriverError as DataplaneError
from kilonova.testing.simulation import EPOCH, SimRuntime, VirtualLoop

HYPERVISOR_VERBS = ("spawn", "destroy", "power_on", "power_off", "reboot_soft", "reboot_hard", "snapshot")
DATAPLANE_VERBS = (
    "sync",
    "plug",
    "unplug",
    "put_network",
    "delete_network",
    "put_router",
    "delete_router",
    "put_group",
    "delete_group",
    "put_remote_ports",
    "delete_remote_ports",
    "put_peers",
)
BUS_FAULTS = ("lost", "unanswered", "late", "twice")
LONGEST_SILENCE_S = 20.0
"""After which a caller whose message or answer was lost gives up waiting."""


class Weather:
    """What is broken until when (seconds of the simulation). Broken things mend by time, or all at once with `clear`."""

    def __init__(self, chance: random.Random) -> None:
        self.chance = chance
        self.now: Callable[[], float] = lambda: 0.0
        self.note: Callable[[str], None] = lambda text: None
        self.calm = True
        """Nothing goes wrong while this is set: at start, and at the end."""
        self.until: dict[tuple[str, str], float] = {}
        """(what, host or empty) -> until when."""
        self.commits: list[str] = []
        """What the next commits suffer: "before" or "after"."""
        self.wall_s = 0.0
        """How far the wall clock is from the truth."""
        self.slept_s = 0.0

    def strike(self, what: str, host: str = "", seconds: float = 0.0) -> None:
        self.until[(what, host)] = self.now() + seconds

    def bad(self, what: str, host: str = "") -> bool:
        return not self.calm and self.until.get((what, host), 0.0) > self.now()

    def clear(self) -> None:
        self.until.clear()
        self.commits.clear()
        self.calm = True

    def dice(self, probability: float) -> bool:
        return self.chance.random() < probability


class FaultRuntime(SimRuntime):
    """A runtime in bad weather. `weather` is set by the story before anything else."""

    def __init__(self, loop: VirtualLoop, seed: int, *, kill_at: int | None = None, start: float = 0.0) -> None:
        super().__init__(loop, seed, kill_at=kill_at, start=start)
        self.weather: Weather | None = None

    def now(self) -> float:
        return EPOCH + self.monotonic() + (self.weather.wall_s if self.weather is not None else 0.0)

    def stall(self, seconds: float) -> None:
        """Nothing happens in this process for a while, as under SIGSTOP or on a slow disk."""
        self._loop._now += seconds

    def point(self, name: str) -> None:
        super().point(name)
        weather = self.weather
        if weather is None or weather.calm:
            return
        if name == "commit":
            if weather.bad("slow disk"):
                self.stall(weather.chance.uniform(0.05, 1.0))
            if weather.commits and weather.commits[0] == "before":
                weather.commits.pop(0)
                self.note("! commit refused")
                raise sqlite3.OperationalError("disk I/O error")
        elif name == "committed" and weather.commits and weather.commits[0] == "after":
            weather.commits.pop(0)
            self.note("! commit took effect, the answer was lost")
            raise sqlite3.OperationalError("the connection broke")


class Wires:
    """Messages on their way. `cut(host)`: commands under way at a host are gone with its agents."""

    def __init__(self, bus: Any, runtime: FaultRuntime, weather: Weather) -> None:
        self.runtime = runtime
        self.weather = weather
        self._call = bus.call
        self._cast = bus.cast
        self._under_way: dict[str, dict[asyncio.Task[Any], None]] = {}
        self._copies: dict[asyncio.Task[Any], None] = {}
        bus.call = self.call
        bus.cast = self.cast

    def _host(self, address: str, message: Any) -> str:
        service, _, host = address.partition(".")
        return str(getattr(message, "host", "")) if host == "facts" or service not in ("compute", "network") else host

    def _fault(self, host: str) -> str:
        weather = self.weather
        if weather.calm:
            return ""
        if host and weather.bad("partition", host):
            return weather.chance.choice(("lost", "lost", "unanswered"))
        return weather.chance.choice(BUS_FAULTS) if weather.bad("bus") and weather.dice(0.25) else ""

    async def call(self, address: str, message: Any, timeout_s: float = 60.0) -> Any:
        host = self._host(address, message)
        fault = self._fault(host)
        chance = self.weather.chance
        if fault:
            self.runtime.note(f"! {type(message).__name__} to {address}: {fault}")
        if fault == "lost":
            await self.runtime.sleep(min(timeout_s, chance.uniform(0.5, LONGEST_SILENCE_S)))
            raise Unreachable(address=address)
        if fault == "late":
            await self.runtime.sleep(min(timeout_s, chance.uniform(0.05, 5.0)))
        reply = await self._handled(address, message, timeout_s)
        if fault == "twice" and address.startswith("compute."):
            copy = asyncio.get_running_loop().create_task(self._again(address, message, timeout_s, chance.uniform(0.0, 3.0)))
            self._copies[copy] = None
            copy.add_done_callback(lambda done: self._copies.pop(done, None))
        elif fault == "twice":
            reply = await self._handled(address, message, timeout_s)
        if fault == "unanswered":
            await self.runtime.sleep(min(timeout_s, chance.uniform(0.5, LONGEST_SILENCE_S)))
            raise Unreachable(address=address)
        return reply

    async def _again(self, address: str, message: Any, timeout_s: float, after_s: float) -> None:
        await self.runtime.sleep(after_s)
        try:
            await self._handled(address, message, timeout_s)
        except Exception as error:
            self.runtime.note(f"the copy of {type(message).__name__}: {type(error).__name__}")

    async def _handled(self, address: str, message: Any, timeout_s: float) -> Any:
        task = asyncio.get_running_loop().create_task(self._call(address, message, timeout_s))
        here = self._under_way.setdefault(address.partition(".")[2], {})
        here[task] = None
        try:
            return await task
        except asyncio.CancelledError:
            if task in here:
                raise
            await self.runtime.sleep(min(timeout_s, self.weather.chance.uniform(0.5, LONGEST_SILENCE_S)))
            raise Unreachable(address=address) from None
        finally:
            here.pop(task, None)

    def cut(self, host: str) -> None:
        tasks = self._under_way.pop(host, {})
        doomed = list(tasks)
        tasks.clear()
        for task in doomed:
            task.cancel()

    def stop(self) -> None:
        for task in list(self._copies):
            task.cancel()

    def cast(self, address: str, message: Any) -> None:
        if self._fault(self._host(address, message)) in ("lost", "unanswered"):
            self.runtime.note(f"! {type(message).__name__} to {address}: lost")
            return
        self._cast(address, message)


class FaultyHypervisor:
    """A driver whose verbs take their time, fail before or after they took effect, and hang."""

    def __init__(self, real: Any, host: str, runtime: FaultRuntime, weather: Weather, started: Callable[[str, str], None]) -> None:
        self.real = real
        self._host = host
        self._runtime = runtime
        self._weather = weather
        self._started = started
        for name in HYPERVISOR_VERBS:
            setattr(self, name, self._verb(name, getattr(real, name)))

    def __getattr__(self, name: str) -> Any:
        return getattr(self.real, name)

    def _verb(self, name: str, function: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
        async def verb(*arguments: Any, **options: Any) -> Any:
            weather, runtime = self._weather, self._runtime
            await runtime.sleep(weather.chance.uniform(0.01, 0.5))
            if weather.bad("driver hangs", self._host) and weather.dice(0.5):
                runtime.note(f"! {name} hangs on {self._host}")
                await runtime.sleep(weather.chance.uniform(20, 150))
                raise HypervisorError("The hypervisor did not answer in time.")
            failing = weather.bad("driver errors", self._host) and weather.dice(0.6)
            if failing and weather.dice(0.5):
                runtime.note(f"! {name} fails on {self._host}")
                raise HypervisorError("The hypervisor failed by chance.")
            try:
                result = await function(*arguments, **options)
            finally:
                self._started(self._host, name)
            await runtime.sleep(weather.chance.uniform(0.01, 0.2))
            if failing:
                runtime.note(f"! {name} fails on {self._host} after it was done")
                raise HypervisorError("The hypervisor failed by chance, too late.")
            return result

        return verb


class FaultyDataplane:
    """The same for a network driver."""

    def __init__(self, real: Any, host: str, runtime: FaultRuntime, weather: Weather) -> None:
        self.real = real
        self._host = host
        self._runtime = runtime
        self._weather = weather
        for name in DATAPLANE_VERBS:
            setattr(self, name, self._verb(name, getattr(real, name)))

    def __getattr__(self, name: str) -> Any:
        return getattr(self.real, name)

    def _verb(self, name: str, function: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
        async def verb(*arguments: Any, **options: Any) -> Any:
            weather, runtime = self._weather, self._runtime
            await runtime.sleep(weather.chance.uniform(0.001, 0.05))
            failing = weather.bad("dataplane errors", self._host) and weather.dice(0.4)
            if failing and weather.dice(0.5):
                runtime.note(f"! {name} fails in the dataplane of {self._host}")
                raise DataplaneError("The dataplane failed by chance.")
            result = await function(*arguments, **options)
            if failing:
                runtime.note(f"! {name} fails in the dataplane of {self._host} after it was done")
                raise DataplaneError("The dataplane failed by chance, too late.")
            return result

        return verb


class FaultyStore(MemoryStore):
    """Images on a disk that fills up and fails."""

    def __init__(self, weather: Weather) -> None:
        super().__init__()
        self._weather = weather

    def _io(self) -> None:
        if self._weather.bad("image disk fails") and self._weather.dice(0.5):
            self._weather.note("! image disk fails")
            raise OSError(5, "Input/output error")

    async def writer(self, image_id: str, kind: str = IMAGE) -> MemoryWriter:
        self._io()
        made = await super().writer(image_id, kind)
        return _FaultyWriter(made, self)

    async def delete(self, image_id: str, kind: str = "") -> None:
        self._io()
        await super().delete(image_id, kind)

    async def remove(self, entry: Any) -> None:
        self._io()
        await super().remove(entry)

    def close(self) -> None:
        """The disk stays."""


class _FaultyWriter(MemoryWriter):
    def __init__(self, made: MemoryWriter, store: FaultyStore) -> None:
        self._store, self._name, self._part, self._data = store, made._name, made._part, made._data
        self._faulty = store

    async def write(self, pieces: Sequence[bytes]) -> None:
        self._faulty._io()
        if self._faulty._weather.bad("image disk full"):
            self._faulty._weather.note("! image disk full")
            raise Full
        await super().write(pieces)

    async def commit(self) -> None:
        self._faulty._io()
        await super().commit()
