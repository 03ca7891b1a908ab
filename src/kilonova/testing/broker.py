"""A broker of the simulated world, and the bus of each process on it: what `core/bus/rabbitmq.py` promises, kept with the same wire forms.

Messages take a moment, in order from one process to one address. The broker goes away and comes back; a process that dies has its
calls refused, one that is stopped gets its messages when it goes on, and its callers give up after a while, as they do for real.
"""

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import Any

from kilonova.core.bus import wire
from kilonova.core.bus.interface import HandlerTable, NoBroker, Undelivered, Unreachable
from kilonova.core.errors import Error
from kilonova.core.log import Log, request_id
from kilonova.core.tasks import Tasks
from kilonova.testing.faults import Weather
from kilonova.testing.processes import Process, WorldLoop

SILENT_S = 9.0
"""As over RabbitMQ: a caller that has heard nothing for so long gives up."""
BACK_S = 3.0
"""Until all processes are connected again, at most."""


class Broker:
    def __init__(self, world: WorldLoop, weather: Weather, note: Callable[[str], None]) -> None:
        self.world = world
        self.weather = weather
        self.note = note
        self.away_until = 0.0
        self.ends: list[SimBus] = []
        self._turn: dict[str, int] = {}
        self._last: dict[tuple[str, str], float] = {}
        self._chance = random.Random(weather.chance.random())

    @property
    def away(self) -> bool:
        return self.world.time() < self.away_until

    def end(self, process: Process, log: Log) -> "SimBus":
        made = SimBus(self, process, log)
        self.ends.append(made)
        return made

    def goes_away(self, seconds: float) -> None:
        """What is under way is gone; processes connect anew some time after it is back."""
        self.away_until = self.world.time() + seconds
        for end in self.ends:
            end.at.clear()
            end.process.loop.call_soon(end.lost)
            self.world.call_later(seconds + self._chance.uniform(0.1, BACK_S), end.reconnect)

    def comes_back(self) -> None:
        self.away_until = 0.0
        for end in self.ends:
            end.reconnect()

    def server(self, address: str) -> "SimBus | None":
        found = [end for end in self.ends if end.process.alive and end.connected and address in end.served]
        if not found:
            return None
        self._turn[address] = self._turn.get(address, 0) + 1
        return found[self._turn[address] % len(found)]

    def post(self, sender: str, address: str, deliver: Callable[[], None]) -> None:
        """After a moment, in order, unless the broker goes away before."""
        weather = self.weather
        slow = not weather.calm and weather.bad("bus") and weather.dice(0.25)
        at = self.world.time() + (weather.chance.uniform(0.05, 5.0) if slow else self._chance.uniform(0.0005, 0.005))
        at = self._last[(sender, address)] = max(at, self._last.get((sender, address), 0.0))

        def arrive() -> None:
            if not self.away:
                deliver()

        self.world.call_at(at, arrive)

    def loses(self, sender: str, receiver: str) -> bool:
        weather = self.weather
        if weather.calm:
            return False
        return weather.bad("partition", sender) or weather.bad("partition", receiver)

    def dead(self, process: Process) -> None:
        """The broker notices: what it was at is offered to others, who refuse it."""
        for end in [e for e in self.ends if e.process is process]:
            self.ends.remove(end)
            for reply in list(end.at):
                self.world.call_later(self._chance.uniform(0.01, 1.0), reply, None)


class SimBus:
    """One process's connection. Its methods are called in the process's loop."""

    def __init__(self, broker: Broker, process: Process, log: Log) -> None:
        self.broker = broker
        self.process = process
        self.log = log
        self.tasks = Tasks(process.runtime, log)
        self.connected = True
        self.served: dict[str, HandlerTable] = {}
        self.topics: dict[str, list[Callable[[Any], Awaitable[None]]]] = {}
        self.at: dict[Callable[[bytes | None], None], None] = {}
        """Who waits for what runs here, in the world's loop; None says that nobody knows how it went."""
        self._waiting: dict[asyncio.Future[bytes], str] = {}
        self._back: list[Callable[[], None]] = []

    # ---- life

    async def start(self, wait_s: float = 0.0) -> None:
        """It is connected from the beginning."""

    async def ready(self) -> None:
        while not self.connected:
            await self.process.runtime.sleep(0.1)

    def when_back(self, act: Callable[[], None]) -> None:
        self._back.append(act)

    def lost(self) -> None:
        self.connected = False
        for reply, address in self._waiting.items():
            if not reply.done():
                reply.set_exception(Unreachable(address=address))

    def reconnect(self) -> None:
        """From the world's loop."""

        def act() -> None:
            if not self.connected and not self.broker.away:
                self.connected = True
                for each in self._back:
                    each()

        self.process.loop.call_soon(act)

    async def retire(self, limit_s: float) -> None:
        self.served.clear()

    async def stop(self) -> None:
        self.served.clear()
        await self.tasks.stop()

    # ---- what is served

    def serve(self, address: str, handlers: HandlerTable) -> None:
        self.served[address] = handlers

    def silence(self, address: str) -> None:
        self.served.pop(address, None)

    def subscribe(self, topic: str, receive: Callable[[Any], Awaitable[None]]) -> None:
        self.topics.setdefault(topic, []).append(receive)

    def take(self, address: str, data: bytes, reply: Callable[[bytes | None], None] | None) -> None:
        """A message has come, in the world's loop."""
        if reply is not None:
            self.at[reply] = None
        self.process.loop.call_soon(self._taken, address, data, reply)

    def _taken(self, address: str, data: bytes, reply: Callable[[bytes | None], None] | None) -> None:
        if not self.tasks.closed:
            self.tasks.start(f"message to {address}", self._handle(address, data, reply))

    async def _handle(self, address: str, data: bytes, reply: Callable[[bytes | None], None] | None) -> None:
        request = wire.read_request(data)
        request_id.set(request.request_id)
        try:
            message = wire.body(request.name, request.body)
            handler = self.served.get(address, {}).get(type(message))
            if handler is None:
                raise Undelivered(address=address)
            async with asyncio.timeout(request.timeout_s):
                answer = wire.reply(await handler(message))
        except TimeoutError:
            answer = wire.refusal(Unreachable(address=address))
        except Error as error:
            answer = wire.refusal(error)
        except Exception as error:
            self.log.error("a handler failed unexpectedly", address=address, error=error)
            answer = wire.refusal(wire.RemoteFailed(address=address))
        if reply is not None and self.connected:
            self.broker.post(self.process.name, "replies", lambda: reply(answer))
        elif reply is not None:
            self.at.pop(reply, None)

    # ---- calls

    async def call(self, address: str, message: Any, timeout_s: float = 60.0) -> Any:
        runtime, broker, loop = self.process.runtime, self.broker, self.process.loop
        kind = type(message).__name__
        runtime.point(f"call {kind}")
        if self.process.frozen:
            await asyncio.sleep(0)
        if not self.connected:
            raise NoBroker(address=address)
        data = wire.request("", message, request_id.get(), timeout_s)
        answer: asyncio.Future[bytes] = loop.create_future()
        self._waiting[answer] = address
        taken: list[SimBus] = []

        def settle(reply: bytes | None, error: Exception) -> None:
            if not answer.done():
                answer.set_exception(error) if reply is None else answer.set_result(reply)

        def replied(reply: bytes | None) -> None:
            for end in taken:
                end.at.pop(replied, None)
            if not broker.away:
                loop.call_soon(settle, reply, Unreachable(address=address))

        def deliver() -> None:
            end = broker.server(address)
            if end is None:
                loop.call_soon(settle, None, Undelivered(address=address))
                return
            if broker.loses(self.process.name, end.process.name):
                broker.note(f"! {kind} to {address}: lost")
                return
            taken.append(end)
            weather = broker.weather
            unanswered = not weather.calm and weather.bad("bus") and weather.dice(0.1)
            end.take(address, data, None if unanswered else replied)

        broker.post(self.process.name, address, deliver)
        try:
            async with asyncio.timeout(timeout_s):
                reply = await self._heard(answer, lambda: any(e.process.alive and not e.process.frozen and replied in e.at for e in taken))
        except TimeoutError:
            raise Unreachable(address=address) from None
        finally:
            self._waiting.pop(answer, None)
        runtime.point(f"called {kind}")
        return wire.read_reply(reply)

    async def _heard(self, answer: "asyncio.Future[bytes]", at_it: Callable[[], bool]) -> bytes:
        """The answer, as long as whoever works on it gives signs of life. Raises Unreachable."""
        silent_s = 0.0
        while True:
            done, _ = await asyncio.wait([answer], timeout=SILENT_S / 3)
            if done:
                return answer.result()
            silent_s = 0.0 if at_it() else silent_s + SILENT_S / 3
            if silent_s >= SILENT_S:
                self.process.runtime.note(f"nobody answers {self._waiting.get(answer)}")
                raise Unreachable(address=self._waiting.get(answer, ""))

    def cast(self, address: str, message: Any) -> None:
        if not self.connected:
            return
        data, weather = wire.request("", message, request_id.get(), 60.0), self.broker.weather
        if not weather.calm and weather.bad("bus") and weather.dice(0.2):
            self.broker.note(f"! {type(message).__name__} to {address}: lost")
            return

        def deliver() -> None:
            end = self.broker.server(address)
            if end is not None and not self.broker.loses(self.process.name, end.process.name):
                end.take(address, data, None)

        self.broker.post(self.process.name, address, deliver)

    def publish(self, topic: str, message: Any) -> None:
        if not self.connected:
            return
        data = wire.request("", message, request_id.get(), 60.0)

        def deliver() -> None:
            for end in list(self.broker.ends):
                if end.connected and end.process.alive and not self.broker.loses(self.process.name, end.process.name):
                    end.process.loop.call_soon(end.heard, topic, data)

        self.broker.post(self.process.name, topic, deliver)

    def heard(self, topic: str, data: bytes) -> None:
        if not self.tasks.closed:
            for receive in self.topics.get(topic, ()):
                self.tasks.start(f"news of {topic}", self._hear(receive, data))

    async def _hear(self, receive: Callable[[Any], Awaitable[None]], data: bytes) -> None:
        request = wire.read_request(data)
        request_id.set(request.request_id)
        await receive(wire.body(request.name, request.body))
