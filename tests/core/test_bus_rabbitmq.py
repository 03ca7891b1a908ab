"""The bus over a real broker: what it promises in good times, and in bad ones."""

import asyncio
import io
import json
import random
import socket
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiormq.connection import Connection
from pamqp.commands import Basic
from yarl import URL

from kilonova.compute.agent import HypervisorFailed
from kilonova.core.bus import Busy, NoBroker, Undelivered, Unreachable, never_waits, rabbit_link, rabbitmq, sender, wire
from kilonova.core.bus.config import OPTIONS, RabbitOptions, parse_url, rabbit_options
from kilonova.core.bus.rabbitmq import RabbitBus
from kilonova.core.config import ConfigError, build, settings
from kilonova.core.errors import Forbidden
from kilonova.core.log import Log, Sink, request_id
from kilonova.core.runtime import Runtime
from kilonova.network.rpc import FACTS, Heartbeat, Network, NetworkReady, PutNetwork, Resync, Unplug
from tests.engines.rabbitmq import AGENT, AGENT_PASSWORD, USER, Rabbit, free_ports, needs_rabbitmq, own

RUNTIME = Runtime()
pytestmark = needs_rabbitmq


def options(url: str, **more: Any) -> RabbitOptions:
    brokers, vhost = parse_url(url, ssl=more.get("ssl", False))
    return RabbitOptions(brokers=brokers, vhost=vhost, **{"retry_s": 0.1, "retry_max_s": 0.3, **more})


class Lines(io.StringIO):
    def messages(self) -> list[str]:
        return [json.loads(line)["message"] for line in self.getvalue().splitlines()]


@asynccontextmanager
async def connected(url: str, *, log: Lines | None = None, admit: rabbitmq.Admit | None = None, **more: Any) -> AsyncIterator[RabbitBus]:
    bus = RabbitBus(options(url, **more), RUNTIME, Log("bus", Sink(log or Lines(), now_us=RUNTIME.now_us)), admit=admit)
    await bus.start(10.0)
    try:
        yield bus
    finally:
        await bus.stop()


def address() -> str:
    return f"test.{RUNTIME.uuid_hex()}"


def echo(*, name: str = "") -> dict[type[Any], Callable[[Any], Awaitable[Any]]]:
    async def beat(message: Heartbeat) -> NetworkReady:
        return NetworkReady(network_id=name or message.host)

    return {Heartbeat: beat}


def run(test: Callable[[], Awaitable[None]], seconds: float = 60.0) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(seconds):
            await test()

    asyncio.run(bounded())


async def until(true: Callable[[], Any], seconds: float = 20.0) -> None:
    async with asyncio.timeout(seconds):
        while not true():  # noqa: ASYNC110
            await asyncio.sleep(0.01)


def test_calls_and_errors(rabbit: Rabbit) -> None:
    async def test() -> None:
        async with connected(rabbit.url) as here, connected(rabbit.url) as there:
            where, heard = address(), []

            async def network(message: PutNetwork) -> None:
                heard.append((message, request_id.get(), sender.get()))

            async def fail(message: Unplug) -> None:
                raise {"known": HypervisorFailed("no disk"), "bug": KeyError("secret")}[message.port_id]

            there.serve(where, {**echo(), PutNetwork: network, Unplug: fail})
            await there.ready()
            assert await here.call(where, Heartbeat(host="h")) == NetworkReady(network_id="h")
            request_id.set("req-7")
            big = PutNetwork(network=Network(id="n" * 400_000))
            assert await here.call(where, big) is None
            assert heard == [(big, "req-7", USER)]
            with pytest.raises(HypervisorFailed, match="no disk"):
                await here.call(where, Unplug(port_id="known"))
            with pytest.raises(wire.RemoteFailed) as bug:
                await here.call(where, Unplug(port_id="bug"))
            assert "secret" not in str(bug.value)
            with pytest.raises(Unreachable):
                await here.call(where, Resync())  # nobody there handles it
            there.serve(where, echo(name="new"))
            assert await here.call(where, Heartbeat(host="h")) == NetworkReady(network_id="new")

    run(test)


def test_nobody_there_is_known_at_once(rabbit: Rabbit) -> None:
    async def test() -> None:
        async with connected(rabbit.url) as here, connected(rabbit.url) as there:
            began, where = time.monotonic(), address()
            with pytest.raises(Undelivered):
                await here.call(where, Heartbeat(host="h"))
            there.serve(where, echo())
            await there.ready()
            await here.call(where, Heartbeat(host="h"))
            there.silence(where)
            await there.ready()
            with pytest.raises(Unreachable):
                await here.call(where, Heartbeat(host="h"))
            assert time.monotonic() - began < 2.0
            here.cast(where, Resync())  # lost, and no harm

    run(test)


def test_a_deadline_ends_the_call_and_the_handler(rabbit: Rabbit) -> None:
    async def test() -> None:
        async with connected(rabbit.url) as here, connected(rabbit.url) as there:
            where, ended = address(), []

            async def slow(message: Heartbeat) -> None:
                try:
                    await asyncio.sleep(30)
                except asyncio.CancelledError:
                    ended.append(message.host)
                    raise

            there.serve(where, {Heartbeat: slow})
            await there.ready()
            with pytest.raises(Unreachable):
                await here.call(where, Heartbeat(host="h"), 0.3)
            await until(lambda: ended)

    run(test)


def test_two_servers_compete_and_one_alone_does_it_all(rabbit: Rabbit) -> None:
    async def test() -> None:
        async with connected(rabbit.url) as here, connected(rabbit.url) as one, connected(rabbit.url) as two:
            where = address()
            one.serve(where, echo(name="one"))
            two.serve(where, echo(name="two"))
            await one.ready()
            await two.ready()
            answers = [(await here.call(where, Heartbeat(host="h"))).network_id for _ in range(20)]
            assert sorted(set(answers)) == ["one", "two"]
            one.silence(where)
            await one.ready()
            assert {(await here.call(where, Heartbeat(host="h"))).network_id for _ in range(5)} == {"two"}

    run(test)


def test_every_subscriber_hears_news(rabbit: Rabbit) -> None:
    async def test() -> None:
        async with connected(rabbit.url) as here, connected(rabbit.url) as there:
            topic, heard = address(), []

            def listen(name: str) -> Callable[[Any], Awaitable[None]]:
                async def receive(message: Heartbeat) -> None:
                    heard.append((name, message.host))

                return receive

            here.subscribe(topic, listen("a"))
            here.subscribe(topic, listen("b"))
            there.subscribe(topic, listen("c"))
            await here.ready()
            await there.ready()
            there.publish(topic, Heartbeat(host="1"))
            there.publish(topic, Heartbeat(host="2"))
            await until(lambda: len(heard) == 6)
            assert sorted(heard) == [(who, n) for who in "abc" for n in "12"]
            assert [n for who, n in heard if who == "a"] == ["1", "2"]
            here.publish("nobody." + topic, Heartbeat(host="3"))

    run(test)


def test_order_of_one_sender(rabbit: Rabbit) -> None:
    async def test() -> None:
        async with connected(rabbit.url) as here, connected(rabbit.url) as there:
            where, begun = address(), []

            async def handle(message: Heartbeat) -> None:
                begun.append(int(message.host))
                await asyncio.sleep(0.001 * (int(message.host) % 7))

            there.serve(where, {Heartbeat: handle})
            await there.ready()
            calls = []
            for n in range(300):
                if n % 3:
                    calls.append(asyncio.ensure_future(here.call(where, Heartbeat(host=str(n)))))
                else:
                    await asyncio.sleep(0)  # calls are sent when their task first runs
                    here.cast(where, Heartbeat(host=str(n)))
            await asyncio.gather(*calls)
            await until(lambda: len(begun) == 300)
            assert begun == list(range(300))

    run(test)


def test_handlers_that_never_wait(rabbit: Rabbit) -> None:
    """They are run without a task, in the order of all messages, each with the sender and the request id of its own message only."""

    async def test() -> None:
        async with connected(rabbit.url) as here, connected(rabbit.url) as there:
            where, heard = address(), []

            @never_waits
            async def beat(message: Heartbeat) -> NetworkReady:
                heard.append((message.host, sender.get(), request_id.get()))
                if message.host == "bad":
                    raise HypervisorFailed(reason="no disk")
                return NetworkReady(network_id=message.host)

            async def resync(message: Resync) -> None:
                heard.append(("resync", sender.get(), request_id.get()))

            @never_waits
            async def liar(message: Unplug) -> None:
                await asyncio.sleep(0)

            there.serve(where, {Heartbeat: beat, Resync: resync, Unplug: liar})
            await there.ready()
            request_id.set("req-1")
            assert await here.call(where, Heartbeat(host="a")) == NetworkReady(network_id="a")
            with pytest.raises(HypervisorFailed, match="no disk"):
                await here.call(where, Heartbeat(host="bad"))
            with pytest.raises(wire.RemoteFailed):
                await here.call(where, Unplug(port_id="p"))
            request_id.set("")
            here.cast(where, Heartbeat(host="b"))
            await here.call(where, Resync())
            assert heard == [("a", USER, "req-1"), ("bad", USER, "req-1"), ("b", USER, ""), ("resync", USER, "")]
            assert not there._jobs

    run(test)


def test_only_what_was_not_handled_comes_again(rabbit: Rabbit) -> None:
    """Many are acknowledged at once, but never one that still runs between them."""

    async def test() -> None:
        async with connected(rabbit.url) as here, connected(rabbit.url) as heir:
            dying = RabbitBus(options(rabbit.url, retry_s=30.0, retry_max_s=30.0), RUNTIME, Log("", Sink(Lines())))
            await dying.start(10.0)
            where, ran = address(), []

            async def handle(message: Heartbeat) -> None:
                ran.append(message.host)
                if message.host.startswith("slow"):
                    await asyncio.sleep(30)

            dying.serve(where, {Heartbeat: handle})
            await dying.ready()
            calls = []
            for n in range(40):
                if n in (13, 29):
                    calls.append(asyncio.ensure_future(here.call(where, Heartbeat(host=f"slow{n}"), 20.0)))
                    await asyncio.sleep(0)
                else:
                    here.cast(where, Heartbeat(host=str(n)))
            await until(lambda: len(ran) == 40)
            await asyncio.sleep(rabbit_link.ACKNOWLEDGE_S + 0.2)
            heir.serve(where, echo())
            await heir.ready()
            await _cut(dying)
            for call in calls:
                with pytest.raises(Unreachable):
                    await call
            assert heir.refused == 2 and len(ran) == 40
            await dying.stop()

    run(test)


def test_long_messages_go_in_pieces(rabbit: Rabbit) -> None:
    async def test() -> None:
        async with connected(rabbit.url) as here, connected(rabbit.url) as there:
            where, text = address(), "\u00fc" * 300_000
            there.serve(where, echo())
            await there.ready()
            answers = await asyncio.gather(*(here.call(where, Heartbeat(host=f"{n}{text[: n * 60_000]}")) for n in range(6)))
            assert [len(answer.network_id) for answer in answers] == [1 + n * 60_000 for n in range(6)]
            assert not here.reconnects and not there.reconnects

    run(test)


def test_who_sends_a_message_twice_takes_no_place_for_ever(rabbit: Rabbit) -> None:
    async def test() -> None:
        async with connected(rabbit.url) as here, connected(rabbit.url, prefetch=2) as there:
            where, ran, go = address(), [], asyncio.Event()

            async def handle(message: Heartbeat) -> None:
                ran.append(message.host)
                await go.wait()

            there.serve(where, {Heartbeat: handle})
            await there.ready()
            connection = Connection(URL(rabbit.url.replace("rabbit://", "amqp://")))
            await connection.connect()
            channel = await connection.channel()
            data = wire.request("one", Heartbeat(host="one"), "", 60.0)
            for _ in range(2):
                await channel.basic_publish(data, routing_key=f"kilonova.{where}", properties=Basic.Properties(message_id="one"))
            await connection.close()
            await asyncio.sleep(0.2)
            go.set()
            await until(lambda: not there._jobs)
            go.clear()
            calls = [asyncio.ensure_future(here.call(where, Heartbeat(host=host), 10.0)) for host in ("two", "three")]
            await until(lambda: len(ran) == 3, 5.0)  # both at once
            go.set()
            await asyncio.gather(*calls)
            assert ran == ["one", "two", "three"]

    run(test)


def test_a_full_queue_refuses(rabbit: Rabbit) -> None:
    async def test() -> None:
        async with connected(rabbit.url) as here, connected(rabbit.url, prefetch=1, queue_length=3) as there:
            where, go = address(), asyncio.Event()

            async def wait(message: Heartbeat) -> None:
                await go.wait()

            there.serve(where, {Heartbeat: wait})
            await there.ready()
            calls = []
            for _ in range(10):
                calls.append(asyncio.ensure_future(here.call(where, Heartbeat(host="h"), 10.0)))
                await asyncio.sleep(0.05)
            done = [c for c in calls if c.done()]
            assert len(done) == 6 and all(isinstance(c.exception(), Busy) for c in done)
            go.set()
            await asyncio.gather(*(c for c in calls if not c.done() or c.exception() is None))

    run(test)


def test_a_message_dies_with_its_deadline(rabbit: Rabbit) -> None:
    """Nobody runs a command whose caller has gone."""

    async def test() -> None:
        async with connected(rabbit.url) as here, connected(rabbit.url, prefetch=1) as there:
            where, ran, go = address(), [], asyncio.Event()

            async def handle(message: Heartbeat) -> None:
                ran.append(message.host)
                await go.wait()

            there.serve(where, {Heartbeat: handle})
            await there.ready()
            first = asyncio.ensure_future(here.call(where, Heartbeat(host="first"), 20.0))
            await until(lambda: ran)
            with pytest.raises(Unreachable):
                await here.call(where, Heartbeat(host="late"), 0.2)
            go.set()
            await first
            await here.call(where, Heartbeat(host="next"))
            assert ran == ["first", "next"]

    run(test)


def test_what_comes_twice_is_answered_and_not_run(rabbit: Rabbit) -> None:
    """The receiver's connection ends in the middle of a call: the broker delivers again, the handler runs on, the caller has his answer."""

    async def test() -> None:
        async with connected(rabbit.url) as here, connected(rabbit.url) as there:
            where, ran, go = address(), [], asyncio.Event()

            async def handle(message: Heartbeat) -> NetworkReady:
                ran.append(message.host)
                await go.wait()
                return NetworkReady(network_id="done")

            there.serve(where, {Heartbeat: handle})
            await there.ready()
            call = asyncio.ensure_future(here.call(where, Heartbeat(host="h"), 20.0))
            await until(lambda: ran)
            await _cut(there)
            await until(lambda: there.reconnects == 1)
            await asyncio.sleep(0.2)
            go.set()
            assert await call == NetworkReady(network_id="done")
            assert ran == ["h"] and there.refused == 0

    run(test)


def test_what_a_dead_receiver_had_begun_is_refused_and_not_run(rabbit: Rabbit) -> None:
    async def test() -> None:
        async with connected(rabbit.url) as here, connected(rabbit.url) as heir:
            dying = RabbitBus(options(rabbit.url, retry_s=30.0, retry_max_s=30.0), RUNTIME, Log("", Sink(Lines())))
            await dying.start(10.0)
            where, ran = address(), []

            async def handle(message: Heartbeat) -> None:
                ran.append(message.host)
                await asyncio.sleep(30)

            dying.serve(where, {Heartbeat: handle})
            await dying.ready()
            call = asyncio.ensure_future(here.call(where, Heartbeat(host="h"), 20.0))
            await until(lambda: ran)
            heir.serve(where, echo())
            await heir.ready()
            await _cut(dying)
            began = time.monotonic()
            with pytest.raises(Unreachable):
                await call
            assert time.monotonic() - began < 3.0
            assert ran == ["h"] and heir.refused == 1
            await dying.stop()

    run(test)


def test_a_caller_hears_that_somebody_is_at_it_and_notices_when_nobody_is(rabbit: Rabbit, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rabbitmq, "WORKING_S", 0.1)
    monkeypatch.setattr(rabbitmq, "SILENT_S", 0.5)

    async def test() -> None:
        async with connected(rabbit.url) as here, connected(rabbit.url) as there:
            where, go = address(), asyncio.Event()

            async def handle(message: Heartbeat) -> None:
                await go.wait()

            there.serve(where, {Heartbeat: handle})
            await there.ready()
            call = asyncio.ensure_future(here.call(where, Heartbeat(host="h"), 60.0))
            await asyncio.sleep(1.5)
            assert not call.done()
            there._jobs.clear()  # the process forgets, as one that has died
            began = time.monotonic()
            with pytest.raises(Unreachable):
                await call
            assert time.monotonic() - began < 3.0
            go.set()

    run(test)


def test_queues_that_stand_already_are_taken_as_they_are(rabbit: Rabbit) -> None:
    """Two processes with other settings share an address, and a queue of notifications that its reader has declared in its own way."""

    async def test() -> None:
        async with connected(rabbit.url) as here, connected(rabbit.url, queue_length=7) as one, connected(rabbit.url) as two:
            where, queue = address(), address()
            one.serve(where, echo(name="one"))
            await one.ready()
            two.serve(where, echo(name="two"))
            await two.ready()
            answers = {(await here.call(where, Heartbeat(host="h"))).network_id for _ in range(10)}
            assert answers == {"one", "two"} and not two.reconnects
            connection = Connection(URL(rabbit.url.replace("rabbit://", "amqp://")))
            await connection.connect()
            channel = await connection.channel()
            await channel.queue_declare(queue)
            here.notify("nova", queue, b"{}")
            for _ in range(100):
                got = await channel.basic_get(queue, no_ack=True)
                if got.body:
                    break
                await asyncio.sleep(0.02)
            await connection.close()
            assert got.body == b"{}"

    run(test)


def test_a_very_long_call_is_acknowledged_early(rabbit: Rabbit, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rabbitmq, "WORKING_S", 0.05)
    monkeypatch.setattr(rabbitmq, "LONG_S", 0.1)

    async def test() -> None:
        async with connected(rabbit.url) as here, connected(rabbit.url) as there:
            where, go = address(), asyncio.Event()

            async def handle(message: Heartbeat) -> NetworkReady:
                await go.wait()
                return NetworkReady(network_id="done")

            there.serve(where, {Heartbeat: handle})
            await there.ready()
            call = asyncio.ensure_future(here.call(where, Heartbeat(host="h"), 20.0))
            await until(lambda: there._jobs)
            [job] = there._jobs.values()
            await until(lambda: job.tag is None)
            go.set()
            assert await call == NetworkReady(network_id="done")
            assert there.connected and not there.reconnects

    run(test)


def test_memory_of_replies_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rabbitmq, "REMEMBERED", 3)
    monkeypatch.setattr(rabbitmq, "REMEMBERED_BYTES", 1000)
    memory = rabbitmq._Memory()
    for n in range(5):
        memory.put(str(n), b"x")
    assert [n for n in range(5) if memory.get(str(n))] == [2, 3, 4]
    memory.put("big", b"x" * 990)
    assert memory.get("big") and memory.get("3") and not memory.get("2")
    memory.put("huge", b"x" * 70_000)
    with pytest.raises(Unreachable):
        wire.read_reply(memory.get("huge") or b"")


def test_a_stop_at_any_moment_of_a_reconnection(rabbit: Rabbit) -> None:
    async def test() -> None:
        for turns in range(0, 60, 2):
            bus = RabbitBus(options(rabbit.url, retry_s=0.001, retry_max_s=0.001), RUNTIME, Log("", Sink(Lines())))
            bus.serve(address(), echo())
            await bus.start(10.0)
            assert bus._link is not None
            bus._link.end("a test")
            for _ in range(turns):
                await asyncio.sleep(0)
            await bus.stop()
            assert not bus.connected

    run(test, 30.0)


def test_a_queue_that_the_broker_drops_is_made_again(rabbit: Rabbit) -> None:
    async def test() -> None:
        async with connected(rabbit.url) as here, connected(rabbit.url) as there:
            where = address()
            there.serve(where, echo())
            await there.ready()
            connection = Connection(URL(rabbit.url.replace("rabbit://", "amqp://")))
            await connection.connect()
            channel = await connection.channel()
            await channel.queue_delete(f"kilonova.{where}")
            await connection.close()

            async def answered() -> bool:
                try:
                    return await here.call(where, Heartbeat(host="h")) is not None
                except Unreachable:
                    return False

            for _ in range(200):
                if await answered():
                    return
                await asyncio.sleep(0.02)
            raise AssertionError("the queue never came back")

    run(test)


def test_a_queue_that_is_off_the_brokers_list_is_made_again(rabbit: Rabbit, monkeypatch: pytest.MonkeyPatch) -> None:
    """As when a node of its cluster dies: the queue's process and consumer live, but nobody finds it. Of two that serve it, each takes part
    again at the latest when the other goes."""
    monkeypatch.setattr(rabbitmq, "LOOK_AGAIN_S", 0.1)

    async def test() -> None:
        log = Lines()
        async with connected(rabbit.url) as here, connected(rabbit.url, log=log) as one, connected(rabbit.url, log=log) as other:
            where = address()
            for bus in (one, other):
                bus.serve(where, echo(name=str(bus is one)))
                await bus.ready()
            name = f'rabbit_misc:r(<<"/">>, queue, <<"kilonova.{where}">>)'
            await asyncio.to_thread(rabbit.control, "eval", f'rabbit_amqqueue:internal_delete({name}, <<"test">>).')

            async def answered() -> str | None:
                try:
                    reply = await here.call(where, Heartbeat(host="h"))
                except Unreachable:
                    return None
                return str(reply.network_id)

            first = None
            while first is None:
                first = await answered()
                await asyncio.sleep(0.02)
            (one if first == "True" else other).silence(where)
            second: str | None = first
            while second in (None, first):
                second = await answered()
                await asyncio.sleep(0.02)
            assert "the broker has lost the queue without a word; making it again" in log.messages()

    run(test)


async def _cut(bus: RabbitBus) -> None:
    """End the TCP connection under the bus."""
    assert bus._link is not None
    writer: Any = bus._link._connection
    writer._reader_task.cancel()
    await until(lambda: bus._link is None or not bus._link.alive)


def test_joined_agents_have_their_own_queues_only(rabbit: Rabbit) -> None:
    def admit(where: str, user: str) -> bool:
        return user == USER or where == FACTS

    agent_url = f"rabbit://{AGENT}:{AGENT_PASSWORD}@127.0.0.1:{rabbit.port}/"

    async def test() -> None:
        async with connected(rabbit.url, admit=admit) as control, connected(agent_url) as agent:
            mine, told = "compute.host-1", []

            async def fact(message: Heartbeat) -> None:
                told.append((message.host, sender.get()))

            control.serve(FACTS, {Heartbeat: fact})
            await control.ready()
            agent.serve(mine, echo())
            await agent.ready()
            assert await control.call(mine, Heartbeat(host="h")) == NetworkReady(network_id="h")
            await agent.call(FACTS, Heartbeat(host="lie"))
            assert told == [("lie", AGENT)]  # whoever it says it is, the broker has said who it was
            other = address()
            control.serve(other, echo())
            await control.ready()
            with pytest.raises(Forbidden):
                await agent.call(other, Heartbeat(host="h"))
            control.silence(FACTS)

        lines = Lines()
        async with connected(agent_url, log=lines) as agent:
            agent.serve("compute.host-2", echo())  # another's queue: the broker refuses, and keeps refusing
            await until(lambda: any("ACCESS_REFUSED" in m for m in lines.messages()))

    run(test)


def test_notifications_wait_in_a_quorum_queue(rabbit: Rabbit) -> None:
    async def test() -> None:
        queue = address()
        async with connected(rabbit.url) as here:
            for n in range(3):
                here.notify("nova", queue, b'{"n": %d}' % n)
        connection = Connection(URL(rabbit.url.replace("rabbit://", "amqp://")))
        await connection.connect()
        channel = await connection.channel()
        declared = await channel.queue_declare(queue, durable=True, arguments={"x-queue-type": "quorum"})
        bodies = [(await channel.basic_get(queue)).body for _ in range(3)]
        await connection.close()
        assert declared.message_count == 3
        assert bodies == [b'{"n": 0}', b'{"n": 1}', b'{"n": 2}']

    run(test)


def test_tls(rabbit: Rabbit) -> None:
    url = f"rabbit://{USER}:rabbit-secret@localhost:{rabbit.tls_port}/"
    tls = rabbit.folder / "tls"

    async def test() -> None:
        more: dict[str, Any] = {
            "ssl": True,
            "ssl_ca_file": rabbit.ca_file,
            "ssl_cert_file": str(tls / "client.pem"),
            "ssl_key_file": str(tls / "client.key"),
        }
        async with connected(url, **more) as here:
            where = address()
            here.serve(where, echo())
            assert await here.call(where, Heartbeat(host="h")) == NetworkReady(network_id="h")
        lines = Lines()
        bus = RabbitBus(options(url, ssl=True), RUNTIME, Log("", Sink(lines)))
        await bus.start()
        await until(lambda: lines.messages())
        await bus.stop()
        said = "is unreachable: its certificate is not trusted (self-signed certificate in certificate chain), retrying in"
        assert said in lines.messages()[0]

    run(test)


def test_a_wrong_password_is_one_sentence_and_is_tried_again(rabbit: Rabbit) -> None:
    async def test() -> None:
        lines = Lines()
        bus = RabbitBus(options(rabbit.url.replace("rabbit-secret", "wr0ng-s3cret")), RUNTIME, Log("", Sink(lines)))
        await bus.start()
        await until(lambda: len(lines.messages()) >= 2)
        began = time.monotonic()
        with pytest.raises(Unreachable):
            await bus.call("x.y", Heartbeat(host="h"))
        assert time.monotonic() - began < 0.5
        await bus.stop()
        expected = f"AMQP server on 127.0.0.1:{rabbit.port} is unreachable: it refused the user name or the password, retrying in "
        assert all(line.startswith(expected) for line in lines.messages())
        assert "wr0ng" not in lines.getvalue()

    run(test)


def test_the_first_of_two_hosts_is_dead(rabbit: Rabbit) -> None:
    [dead] = free_ports(1)

    async def test() -> None:
        lines = Lines()
        url = f"rabbit://{USER}:rabbit-secret@127.0.0.1:{dead},127.0.0.1:{rabbit.port}/"
        async with connected(url, log=lines) as here:
            assert here.connected
        first, second = lines.messages()[:2]
        assert first == f"AMQP server on 127.0.0.1:{dead} is unreachable: Connection refused, trying 127.0.0.1:{rabbit.port}"
        assert second == f"Reconnected to AMQP server on 127.0.0.1:{rabbit.port}"

    run(test)


def test_a_broker_is_killed_in_mid_call_loses_its_disk_and_comes_back(tmp_path: Path) -> None:
    with own(tmp_path / "r") as rabbit:

        async def test() -> None:
            lines, back = Lines(), []
            async with connected(rabbit.url, log=lines) as here, connected(rabbit.url) as there:
                where, topic, ran, heard = address(), address(), [], []

                async def handle(message: Heartbeat) -> NetworkReady:
                    ran.append(message.host)
                    await asyncio.sleep(3.0 if message.host == "long" else 0)
                    return NetworkReady(network_id=message.host)

                async def news(message: Heartbeat) -> None:
                    heard.append(message.host)

                there.serve(where, {Heartbeat: handle})
                there.subscribe(topic, news)
                await there.ready()
                here.when_back(lambda: back.append(True))
                call = asyncio.ensure_future(here.call(where, Heartbeat(host="long"), 30.0))
                await until(lambda: ran)
                rabbit.kill()
                began = time.monotonic()
                with pytest.raises(Unreachable):
                    await call
                for _ in range(3):
                    with pytest.raises(NoBroker):
                        await here.call(where, Heartbeat(host="away"), 30.0)
                here.notify("nova", "kept", b"{}")
                assert time.monotonic() - began < 1.0
                rabbit.wipe()
                await asyncio.to_thread(rabbit.start)
                returned = time.monotonic()
                await until(lambda: here.connected and there.connected)
                assert time.monotonic() - returned < 5.0
                assert await here.call(where, Heartbeat(host="again")) == NetworkReady(network_id="again")
                here.publish(topic, Heartbeat(host="news"))
                await until(lambda: heard)
                assert ran == ["long", "again"] and back and here.reconnects == 1
                rabbit.freeze()  # the broker hangs: nothing refuses, nothing answers
                with pytest.raises(Unreachable):
                    await here.call(where, Heartbeat(host="hung"), 1.0)
                rabbit.thaw()
                await until(lambda: here.connected)
            unreachable = [m for m in lines.messages() if m.startswith(f"AMQP server on 127.0.0.1:{rabbit.port} is unreachable: ")]
            assert unreachable and all(m.endswith(" s") and ", retrying in " in m for m in unreachable)
            assert f"Reconnected to AMQP server on 127.0.0.1:{rabbit.port}" in lines.messages()
            assert "rabbit-secret" not in lines.getvalue()

        run(test, 120.0)


def test_no_broker_at_all() -> None:
    [dead] = free_ports(1)

    async def test() -> None:
        lines = Lines()
        bus = RabbitBus(options(f"rabbit://u:hush@127.0.0.1:{dead}/"), RUNTIME, Log("", Sink(lines)))
        bus.serve("a.b", echo())
        await bus.start(0.3)
        with pytest.raises(Unreachable):
            await bus.call("a.b", Heartbeat(host="h"))
        bus.cast("a.b", Resync())
        bus.publish("t", Resync())
        await asyncio.sleep(0)
        await bus.stop()
        assert "hush" not in lines.getvalue()
        assert "is unreachable: Connection refused, retrying in" in lines.messages()[0]

    run(test)


@pytest.mark.parametrize(
    ("url", "brokers", "vhost"),
    [
        ("rabbit://u:p@h", [("h", 5672, "u", "p")], "/"),
        ("rabbit://u:p%40x@h1:1,u2:p2@h2:2/v", [("h1", 1, "u", "p@x"), ("h2", 2, "u2", "p2")], "v"),
        ("rabbit://u:p@h1,h2/", [("h1", 5672, "u", "p"), ("h2", 5672, "u", "p")], "/"),
        ("rabbit://u:p@[::1]:7/%2Fv", [("::1", 7, "u", "p")], "/v"),
        ("rabbit://u:p@[::1]", [("::1", 5672, "u", "p")], "/"),
    ],
)
def test_transport_urls(url: str, brokers: list[tuple[str, int, str, str]], vhost: str) -> None:
    read, where = parse_url(url)
    assert [(b.host, b.port, b.user, b.password) for b in read] == brokers
    assert where == vhost


@pytest.mark.parametrize("url", ["", "sqlite:///hush", "rabbit://u:hush@h:x/", "rabbit://u:hush@/", "rabbit://u:hush@h,,h2/"])
def test_bad_transport_urls_are_told_without_their_secrets(url: str) -> None:
    with pytest.raises(ConfigError) as error:
        parse_url(url)
    assert "hush" not in str(error.value)


def test_settings(tmp_path: Path) -> None:
    file = tmp_path / "k.conf"
    file.write_text("[DEFAULT]\ntransport_url = rabbit://u:p@h/\n[oslo_messaging_rabbit]\nssl = true\nrabbit_interval_max = 7\n")
    conf = build([OPTIONS], [str(file)])
    made = rabbit_options({group: settings(conf, OPTIONS, group) for group in OPTIONS})
    assert (made.brokers[0].place, made.ssl, made.retry_max_s, made.prefetch) == ("h:5671", True, 7.0, 64)


def test_free_ports_are_free() -> None:
    for port in free_ports(3):
        socket.create_server(("127.0.0.1", port)).close()


@pytest.mark.parametrize("seed", range(3))
def test_connections_that_end_at_any_moment(rabbit: Rabbit, seed: int) -> None:
    """Whatever is cut: nothing runs twice, an answer means it ran, Undelivered means it did not, and nobody waits for ever."""
    chance = random.Random(seed)

    async def test() -> None:
        async with connected(rabbit.url) as here, connected(rabbit.url) as one, connected(rabbit.url) as two:
            where, ran = address(), Counter[str]()
            ended: dict[str, str] = {}

            async def handle(message: Heartbeat) -> NetworkReady:
                ran[message.host] += 1
                await asyncio.sleep(chance.choice((0, 0, 0.001, 0.05)))
                return NetworkReady(network_id=message.host)

            async def call(n: int) -> None:
                name = str(n)
                try:
                    reply = await here.call(where, Heartbeat(host=name), 20.0)
                    assert reply.network_id == name
                    ended[name] = "answered"
                except Undelivered:
                    ended[name] = "undelivered"
                except Unreachable:
                    ended[name] = "unknown"

            one.serve(where, {Heartbeat: handle})
            two.serve(where, {Heartbeat: handle})
            await one.ready()
            await two.ready()
            stop = asyncio.Event()

            async def cut() -> None:
                while not stop.is_set():
                    await asyncio.sleep(chance.uniform(0.05, 0.2))
                    bus = chance.choice((here, one, one, two, two))
                    if bus.connected:
                        await _cut(bus)

            cutting = asyncio.ensure_future(cut())
            calls = []
            for n in range(1500):
                calls.append(asyncio.ensure_future(call(n)))
                if not n % 8:
                    await asyncio.sleep(chance.uniform(0, 0.02))
            await asyncio.gather(*calls)
            stop.set()
            await cutting
            assert max(ran.values()) == 1
            assert all(ran[name] == 1 for name, how in ended.items() if how == "answered")
            assert all(ran[name] == 0 for name, how in ended.items() if how == "undelivered")
            hows = Counter(ended.values())
            assert sum(hows.values()) == 1500 and hows["answered"] > 300, hows

    run(test, 90.0)


def test_who_retires_ends_what_it_has_and_takes_no_more(rabbit: Rabbit) -> None:
    """And calls of its own still go out, also those that its handlers make."""

    async def story() -> None:
        async with connected(rabbit.url) as leaving, connected(rabbit.url) as other, connected(rabbit.url) as caller:
            shared, elsewhere, begun = address(), address(), asyncio.Event()

            async def slow(message: Heartbeat) -> NetworkReady:
                begun.set()
                await asyncio.sleep(0.5)
                reply: NetworkReady = await leaving.call(elsewhere, message)
                return reply

            other.serve(elsewhere, echo(name="elsewhere"))
            leaving.serve(shared, {Heartbeat: slow})
            await asyncio.gather(other.ready(), leaving.ready())
            running = asyncio.ensure_future(caller.call(shared, Heartbeat(host="a")))
            await begun.wait()
            retiring = asyncio.ensure_future(leaving.retire(10.0))
            await asyncio.sleep(0.2)
            with pytest.raises(Undelivered):
                await caller.call(shared, Heartbeat(host="b"))
            other.serve(shared, echo(name="other"))
            await other.ready()
            assert (await caller.call(shared, Heartbeat(host="c"))).network_id == "other"
            assert not retiring.done()
            assert (await running).network_id == "elsewhere"
            await asyncio.wait_for(retiring, 2.0)
            assert (await leaving.call(elsewhere, Heartbeat(host="d"))).network_id == "elsewhere"

    asyncio.run(story())
