"""Commands go down to the nodes, facts come back up. The interface is the same for the in-process transport and for a broker.

An address is a dotted name ("compute.host-1", "network.facts"). A message is a msgspec struct; its class name travels with it. The
database, never the bus, holds an intent: a call that fails or is lost is made again by the operation that wanted it.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Protocol, TypeVar

import msgspec

from kilonova.core.errors import Unavailable
from kilonova.core.log import Log
from kilonova.core.runtime import Runtime
from kilonova.core.tasks import Tasks

Reply = TypeVar("Reply")
HandlerTable = Mapping[type[Any], Callable[[Any], Awaitable[Any]]]


class Unreachable(Unavailable):
    code = "bus.unreachable"
    title = "{address} does not answer."


class Bus(Protocol):
    def serve(self, address: str, handlers: HandlerTable) -> None:
        """Answer messages sent to an address: one handler for each message type. A second serve replaces the first."""
        ...

    def silence(self, address: str) -> None:
        """Stop answering."""
        ...

    async def call(self, address: str, message: Any, timeout_s: float = 60.0) -> Any:
        """Send and wait for the reply. Raises Unreachable, or the error that the handler raised."""
        ...

    def cast(self, address: str, message: Any) -> None:
        """Send without waiting. At most once: whoever needs certainty calls."""
        ...

    def subscribe(self, topic: str, receive: Callable[[Any], Awaitable[None]]) -> None: ...

    def publish(self, topic: str, message: Any) -> None:
        """To every subscriber of the topic."""
        ...

    async def stop(self) -> None: ...


class InProcessBus:
    """Handlers are called directly. With `copy`, messages and replies cross as msgpack, as they would over a broker (tests)."""

    def __init__(self, runtime: Runtime, log: Log, *, copy: bool = False) -> None:
        self._tasks = Tasks(runtime, log)
        self._log = log
        self._runtime = runtime
        self._copy = copy
        self._handlers: dict[str, HandlerTable] = {}
        self._topics: dict[str, list[Callable[[Any], Awaitable[None]]]] = {}

    def serve(self, address: str, handlers: HandlerTable) -> None:
        self._handlers[address] = handlers

    def silence(self, address: str) -> None:
        self._handlers.pop(address, None)

    def _find(self, address: str, message: Any) -> Callable[[Any], Awaitable[Any]]:
        handler = self._handlers.get(address, {}).get(type(message))
        if handler is None:
            raise Unreachable(address=address)
        return handler

    def _crossed(self, value: Any) -> Any:
        if not self._copy or value is None:
            return value
        return msgspec.msgpack.decode(msgspec.msgpack.encode(value), type=type(value))

    async def call(self, address: str, message: Any, timeout_s: float = 60.0) -> Any:
        handler = self._find(address, message)
        self._runtime.point(f"call {type(message).__name__}")
        try:
            async with asyncio.timeout(timeout_s):
                reply = await handler(self._crossed(message))
        except TimeoutError:
            raise Unreachable(address=address) from None
        self._runtime.point(f"called {type(message).__name__}")
        return self._crossed(reply)

    def cast(self, address: str, message: Any) -> None:
        try:
            handler = self._find(address, message)
        except Unreachable:
            self._log.warning("nobody there", address=address, message_type=type(message).__name__)
            return
        self._tasks.start(f"{type(message).__name__} to {address}", _consume(handler, self._crossed(message)))

    def subscribe(self, topic: str, receive: Callable[[Any], Awaitable[None]]) -> None:
        self._topics.setdefault(topic, []).append(receive)

    def publish(self, topic: str, message: Any) -> None:
        for receive in self._topics.get(topic, ()):
            self._tasks.start(f"{type(message).__name__} to {topic}", _consume(receive, self._crossed(message)))

    async def stop(self) -> None:
        await self._tasks.stop()


async def _consume(handler: Callable[[Any], Awaitable[Any]], message: Any) -> None:
    await handler(message)
