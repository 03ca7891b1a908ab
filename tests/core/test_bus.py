"""What every bus promises, kept by each."""

import asyncio
import io
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

import pytest

from kilonova.compute.agent import HypervisorFailed
from kilonova.core.bus import Bus, InProcessBus, Undelivered, Unreachable
from kilonova.core.bus.config import RabbitOptions, parse_url
from kilonova.core.bus.rabbitmq import RabbitBus
from kilonova.core.log import Log, Sink
from kilonova.core.runtime import Runtime
from kilonova.network.rpc import Heartbeat, NetworkReady, Resync, Unplug
from tests.engines.rabbitmq import needs_rabbitmq

RUNTIME = Runtime()
LOG = Log("", Sink(io.StringIO(), now_us=RUNTIME.now_us))


class Ends(NamedTuple):
    """Two ends of one bus, a way to wait until what they serve is known, and a prefix for addresses."""

    here: Bus
    there: Bus
    ready: Callable[[], Awaitable[None]]
    prefix: str


@asynccontextmanager
async def in_process(copy: bool) -> AsyncIterator[Ends]:
    async def ready() -> None: ...

    bus = InProcessBus(RUNTIME, LOG, copy=copy)
    yield Ends(bus, bus, ready, "t")
    await bus.stop()


@asynccontextmanager
async def over_rabbitmq(url: str) -> AsyncIterator[Ends]:
    brokers, vhost = parse_url(url)
    here, there = (RabbitBus(RabbitOptions(brokers=brokers, vhost=vhost), RUNTIME, LOG) for _ in range(2))
    await here.start(10.0)
    await there.start(10.0)

    async def ready() -> None:
        await here.ready()
        await there.ready()

    yield Ends(here, there, ready, RUNTIME.uuid_hex())
    await here.stop()
    await there.stop()


@pytest.fixture(params=["in process", "copying", pytest.param("rabbitmq", marks=needs_rabbitmq)])
def run(request: pytest.FixtureRequest) -> Callable[[Callable[[Ends], Awaitable[None]]], None]:
    kind = request.param
    address = request.getfixturevalue("rabbit").url if kind == "rabbitmq" else ""

    def runner(story: Callable[[Ends], Awaitable[None]]) -> None:
        async def main() -> None:
            async with asyncio.timeout(30), over_rabbitmq(address) if kind == "rabbitmq" else in_process(kind == "copying") as ends:
                await story(ends)

        asyncio.run(main())

    return runner


Run = Callable[[Callable[[Ends], Awaitable[None]]], None]


def echo(name: str = "") -> dict[type[Any], Callable[[Any], Awaitable[Any]]]:
    async def beat(message: Heartbeat) -> NetworkReady:
        return NetworkReady(network_id=name or message.host)

    return {Heartbeat: beat}


def test_a_call_has_its_reply_or_its_error(run: Run) -> None:
    async def story(e: Ends) -> None:
        async def fail(message: Unplug) -> None:
            raise HypervisorFailed("no disk")

        async def nothing(message: Resync) -> None: ...

        e.there.serve(f"{e.prefix}.a", {**echo(), Unplug: fail, Resync: nothing})
        await e.ready()
        assert await e.here.call(f"{e.prefix}.a", Heartbeat(host="h")) == NetworkReady(network_id="h")
        assert await e.here.call(f"{e.prefix}.a", Resync()) is None
        with pytest.raises(HypervisorFailed, match="no disk"):
            await e.here.call(f"{e.prefix}.a", Unplug(port_id="p"))

    run(story)


def test_undelivered_is_told_from_unreachable(run: Run) -> None:
    async def story(e: Ends) -> None:
        async def slow(message: Heartbeat) -> None:
            await asyncio.sleep(30)

        with pytest.raises(Undelivered):
            await e.here.call(f"{e.prefix}.nobody", Resync())
        e.there.serve(f"{e.prefix}.a", {Heartbeat: slow})
        await e.ready()
        with pytest.raises(Undelivered):
            await e.here.call(f"{e.prefix}.a", Resync())  # served, but not this
        with pytest.raises(Unreachable) as late:
            await e.here.call(f"{e.prefix}.a", Heartbeat(host="h"), 0.2)
        assert not isinstance(late.value, Undelivered)
        e.here.cast(f"{e.prefix}.nobody", Resync())

    run(story)


def test_the_last_serve_counts_and_silence_ends_it(run: Run) -> None:
    async def story(e: Ends) -> None:
        address = f"{e.prefix}.a"
        e.there.serve(address, echo("old"))
        e.there.serve(address, echo("new"))
        await e.ready()
        assert await e.here.call(address, Heartbeat(host="h")) == NetworkReady(network_id="new")
        e.there.silence(address)
        e.there.silence(address)
        await e.ready()
        with pytest.raises(Undelivered):
            await e.here.call(address, Heartbeat(host="h"))
        e.there.serve(address, echo("again"))
        await e.ready()
        assert await e.here.call(address, Heartbeat(host="h")) == NetworkReady(network_id="again")

    run(story)


def test_casts_and_news_arrive_in_order(run: Run) -> None:
    async def story(e: Ends) -> None:
        heard: dict[str, list[str]] = {"cast": [], "a": [], "b": []}

        def into(name: str) -> Callable[[Heartbeat], Awaitable[None]]:
            async def take(message: Heartbeat) -> None:
                heard[name].append(message.host)

            return take

        e.there.serve(f"{e.prefix}.a", {Heartbeat: into("cast")})
        e.there.subscribe(f"{e.prefix}.news", into("a"))
        e.there.subscribe(f"{e.prefix}.news", into("b"))
        await e.ready()
        names = [str(n) for n in range(50)]
        for name in names:
            e.here.cast(f"{e.prefix}.a", Heartbeat(host=name))
            e.here.publish(f"{e.prefix}.news", Heartbeat(host=name))
        for _ in range(500):
            if all(len(list_) == 50 for list_ in heard.values()):
                break
            await asyncio.sleep(0.01)
        assert heard == {"cast": names, "a": names, "b": names}

    run(story)


def test_a_call_from_within_a_handler(run: Run) -> None:
    async def story(e: Ends) -> None:
        async def relay(message: Heartbeat) -> Any:
            return await e.there.call(f"{e.prefix}.far", message)

        e.there.serve(f"{e.prefix}.near", {Heartbeat: relay})
        e.here.serve(f"{e.prefix}.far", echo())
        await e.ready()
        assert await e.here.call(f"{e.prefix}.near", Heartbeat(host="h")) == NetworkReady(network_id="h")

    run(story)
