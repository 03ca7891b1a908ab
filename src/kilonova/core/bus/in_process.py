"""The bus of a cloud that is one process: messages are handed from object to object."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Generator
from typing import Any

import msgspec

from kilonova.core.bus.interface import HandlerTable, Undelivered, Unreachable
from kilonova.core.log import Log
from kilonova.core.runtime import Runtime
from kilonova.core.tasks import Tasks


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
            raise Undelivered(address=address)
        return handler

    def _crossed(self, value: Any) -> Any:
        if not self._copy or value is None:
            return value
        return msgspec.msgpack.decode(msgspec.msgpack.encode(value), type=type(value))

    async def call(self, address: str, message: Any, timeout_s: float = 60.0) -> Any:
        handler = self._find(address, message)
        self._runtime.point(f"call {type(message).__name__}")
        try:
            reply = await within(timeout_s, handler(self._crossed(message)))
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


async def within(timeout_s: float, coroutine: Any) -> Any:
    """The coroutine's result. Most handlers never wait: only one that does is given a timer (it costs as much as the call)."""
    try:
        waits_for = coroutine.send(None)
    except StopIteration as done:
        return done.value
    async with asyncio.timeout(timeout_s):
        return await _Begun(coroutine, waits_for)


class _Begun:
    """A coroutine that has made its first step, to be awaited from there on."""

    __slots__ = ("_coroutine", "_waits_for")

    def __init__(self, coroutine: Coroutine[Any, Any, Any], waits_for: Any) -> None:
        self._coroutine = coroutine
        self._waits_for = waits_for

    def __await__(self) -> Generator[Any, Any, Any]:
        waits_for = self._waits_for
        try:
            while True:
                try:
                    value = yield waits_for
                except Exception as error:
                    waits_for = self._coroutine.throw(error)
                except asyncio.CancelledError as error:
                    waits_for = self._coroutine.throw(error)
                else:
                    waits_for = self._coroutine.send(value)
        except StopIteration as done:
            return done.value
        finally:
            self._coroutine.close()


async def _consume(handler: Callable[[Any], Awaitable[Any]], message: Any) -> None:
    await handler(message)
