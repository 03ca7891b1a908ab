"""Commands go down to the nodes, facts come back up. The interface is the same for the in-process transport and for a broker.

An address is a dotted name ("compute.host-1", "network.facts"). A message is a msgspec struct; its class name travels with it. The
database, never the bus, holds an intent: a call that fails or is lost is made again by the operation that wanted it.
"""

import contextvars
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from typing import Any, Protocol, TypeVar

from kilonova.core.errors import Unavailable

Reply = TypeVar("Reply")
Handler = TypeVar("Handler", bound=Callable[..., Coroutine[Any, Any, Any]])
HandlerTable = Mapping[type[Any], Callable[[Any], Awaitable[Any]]]
sender: contextvars.ContextVar[str] = contextvars.ContextVar("sender", default="")
"""While a message is handled: the broker's user who sent it, as the broker has checked. Empty in one process."""


def never_waits(handler: Handler) -> Handler:
    """Marks a handler of messages that come in great numbers: it awaits nothing, so that a bus may run it where it takes the message,
    without a task, and most of what a heartbeat costs is saved."""
    handler.never_waits = True  # type: ignore[attr-defined]
    return handler


def waits_never(handler: Callable[[Any], Awaitable[Any]]) -> bool:
    return getattr(handler, "never_waits", False)


def at_once(handled: Any) -> Any:
    """What a coroutine of a handler that never waits returns. Raises RuntimeError if it waits all the same."""
    try:
        handled.send(None)
    except StopIteration as done:
        return done.value
    handled.close()
    raise RuntimeError("a handler waits that is marked never_waits")


class Unreachable(Unavailable):
    code = "bus.unreachable"
    title = "{address} does not answer."


class Undelivered(Unreachable):
    """Nobody has taken the message and nobody will: it is certain that the command is not carried out."""

    code = "bus.undelivered"


class Busy(Undelivered):
    code = "bus.busy"
    title = "{address} has too many messages waiting."


class NoBroker(Undelivered):
    """Nothing can be sent to anybody now: it says nothing about whoever serves the address."""

    code = "bus.no_broker"
    title = "The message broker cannot be reached."


class Bus(Protocol):
    def serve(self, address: str, handlers: HandlerTable) -> None:
        """Answer messages sent to an address: one handler for each message type. A second serve replaces the first."""
        ...

    def silence(self, address: str) -> None:
        """Stop answering."""
        ...

    async def call(self, address: str, message: Any, timeout_s: float = 60.0) -> Any:
        """Send and wait for the reply. Raises Undelivered (Busy, NoBroker) when nobody serves the address, Unreachable when it is not known
        whether the message was handled, or the error that the handler raised."""
        ...

    def cast(self, address: str, message: Any) -> None:
        """Send without waiting. At most once: whoever needs certainty calls."""
        ...

    def subscribe(self, topic: str, receive: Callable[[Any], Awaitable[None]]) -> None: ...

    def publish(self, topic: str, message: Any) -> None:
        """To every subscriber of the topic."""
        ...

    async def stop(self) -> None: ...
