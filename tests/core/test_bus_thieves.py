"""Whoever has an agent's password, and speaks AMQP by hand: what it cannot do to the calls of others, over a real broker."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiormq.abc import DeliveredMessage
from aiormq.channel import Channel
from aiormq.connection import Connection
from pamqp.commands import Basic
from yarl import URL

from kilonova.core.bus import agents, rabbit_frames, wire
from kilonova.core.bus.config import RabbitOptions, parse_url
from kilonova.core.bus.rabbit_link import PREFIX, REPLY_TO
from kilonova.core.bus.rabbitmq import Admit, RabbitBus
from kilonova.core.errors import Forbidden
from kilonova.core.log import Log, Sink
from kilonova.core.runtime import Runtime
from kilonova.network.rpc import Heartbeat, NetworkReady
from tests.engines.rabbitmq import PASSWORD, USER, Rabbit, needs_rabbitmq

RUNTIME = Runtime()
MINE, OTHER = (f"h{RUNTIME.uuid_hex()[:12]}" for _ in range(2))
FACTS = f"facts.{RUNTIME.uuid_hex()}"
"""Where agents may speak, too."""
SERVICE = f"service.{RUNTIME.uuid_hex()}"
pytestmark = needs_rabbitmq


@pytest.fixture(scope="module")
def broker(rabbit: Rabbit) -> Iterator[Rabbit]:
    for host in (MINE, OTHER):
        own = agents.own_queues(host)
        rabbit.control("add_user", agents.user_of(host), "pw")
        rabbit.control("set_permissions", "-p", "/", agents.user_of(host), own, r"^amq\.default$", own)
    yield rabbit
    for host in (MINE, OTHER):
        rabbit.control("delete_user", agents.user_of(host))


def told(address: str, user: str) -> bool:
    return agents.from_control(address, user) or (bool(user) and address == FACTS)


@asynccontextmanager
async def bus(rabbit: Rabbit, user: str, password: str, admit: Admit, prefetch: int = 100) -> AsyncIterator[RabbitBus]:
    brokers, _ = parse_url(f"rabbit://{user}:{password}@127.0.0.1:{rabbit.port}/")
    made = RabbitBus(RabbitOptions(brokers=brokers, prefetch=prefetch), RUNTIME, Log("bus", Sink()), admit=admit)
    await made.start(10.0)
    try:
        yield made
    finally:
        await made.stop()


class Thief:
    """`seen`: what the control plane has sent to its host."""

    def __init__(self, channel: Channel) -> None:
        self.channel = channel
        self.seen: asyncio.Queue[DeliveredMessage] = asyncio.Queue()
        self.answers: asyncio.Queue[Any] = asyncio.Queue()
        self.reject = False

    async def listen(self, **arguments: Any) -> None:
        queue = f"{PREFIX}compute.{MINE}"
        await self.channel.queue_delete(queue)
        await self.channel.queue_declare(queue, arguments={"x-expires": 30_000, **arguments})
        await self.channel.basic_consume(REPLY_TO, self._answered, no_ack=True)
        await self.channel.basic_consume(queue, self._heard)

    async def _heard(self, message: DeliveredMessage) -> None:
        await self.seen.put(message)
        if self.reject:
            await self.channel.basic_reject(message.delivery_tag or 0, requeue=False)
        else:
            await self.channel.basic_ack(message.delivery_tag or 0)
            assert message.header.properties.reply_to
            await self.send(
                message.header.properties.reply_to,
                wire.reply(NetworkReady(network_id="mine")),
                correlation_id=message.header.properties.message_id,
            )

    async def _answered(self, message: DeliveredMessage) -> None:
        await self.answers.put(bytes(message.body))

    async def send(self, queue: str, body: bytes, **properties: Any) -> None:
        sent = Basic.Properties(user_id=agents.user_of(MINE), **properties)
        await self.channel.basic_publish(body, routing_key=queue, properties=sent, wait=False)


@asynccontextmanager
async def thief(rabbit: Rabbit) -> AsyncIterator[Thief]:
    connection = Connection(URL(f"amqp://{agents.user_of(MINE)}:pw@127.0.0.1:{rabbit.port}/"))
    await connection.connect()
    try:
        channel = await connection.channel(publisher_confirms=False)
        assert isinstance(channel, Channel)
        yield Thief(channel)
    finally:
        await connection.close()


Story = Callable[[Thief, RabbitBus, RabbitBus, RabbitBus], Awaitable[None]]


def run(rabbit: Rabbit, story: Story, prefetch: int = 100) -> None:
    """The thief, two processes of the control plane, and the other host's agent."""

    async def main() -> None:
        async with (
            asyncio.timeout(60),
            thief(rabbit) as stranger,
            bus(rabbit, USER, PASSWORD, told) as one,
            bus(rabbit, USER, PASSWORD, told, prefetch) as two,
            bus(rabbit, agents.user_of(OTHER), "pw", agents.from_control) as agent,
        ):
            await story(stranger, one, two, agent)

    asyncio.run(main())


def names_like(name: str) -> list[str]:
    """What the next messages of the same process could be called, as far as somebody can tell who has seen one."""
    counted, dot, seal = name.partition(".")
    prefix, _, count = counted.rpartition("-")
    return [f"{prefix}-{int(count) + ahead}{end}" for ahead in range(30) for end in {"", dot + seal}]


def test_a_command_to_one_host_is_not_taken_by_another(broker: Rabbit) -> None:
    async def story(stranger: Thief, one: RabbitBus, two: RabbitBus, agent: RabbitBus) -> None:
        heard: list[str] = []

        async def beat(message: Heartbeat) -> None:
            heard.append(message.host)

        agent.serve(f"compute.{OTHER}", {Heartbeat: beat})
        await agent.ready()
        stranger.reject = True
        moved = {"x-dead-letter-exchange": "", "x-dead-letter-routing-key": f"{PREFIX}compute.{OTHER}"}
        await stranger.listen(**moved)
        with pytest.raises(Forbidden):
            await one.call(f"compute.{MINE}", Heartbeat(host="moved"), 10.0)
        await one.call(f"compute.{OTHER}", Heartbeat(host="direct"), 10.0)
        assert heard == ["direct"]

    run(broker, story)


def test_an_answer_comes_from_who_was_asked(broker: Rabbit) -> None:
    async def story(stranger: Thief, one: RabbitBus, two: RabbitBus, agent: RabbitBus) -> None:
        may, asked = asyncio.Event(), asyncio.Event()

        async def beat(message: Heartbeat) -> NetworkReady:
            asked.set()
            await may.wait()
            return NetworkReady(network_id="true")

        agent.serve(f"compute.{OTHER}", {Heartbeat: beat})
        await agent.ready()
        await stranger.listen()
        assert await one.call(f"compute.{MINE}", Heartbeat(host="x"), 10.0) == NetworkReady(network_id="mine")
        seen = (await stranger.seen.get()).header.properties
        waiting = asyncio.ensure_future(one.call(f"compute.{OTHER}", Heartbeat(host="x"), 10.0))
        await asked.wait()
        for name in names_like(seen.message_id or ""):
            await stranger.send(seen.reply_to or "", wire.reply(NetworkReady(network_id="lie")), correlation_id=name)
        await asyncio.sleep(0.3)
        assert not waiting.done()
        may.set()
        assert await waiting == NetworkReady(network_id="true")

    run(broker, story)


def test_what_others_were_answered_is_not_told_and_not_replaced(broker: Rabbit) -> None:
    async def story(stranger: Thief, one: RabbitBus, two: RabbitBus, agent: RabbitBus) -> None:
        calls: list[str] = []

        async def secret(message: Heartbeat) -> NetworkReady:
            calls.append(message.host)
            return NetworkReady(network_id=f"secret-{message.host}")

        async def fact(message: Heartbeat) -> None:
            return None

        two.serve(SERVICE, {Heartbeat: secret})
        two.serve(FACTS, {Heartbeat: fact})
        await two.ready()
        await stranger.listen()
        await one.call(f"compute.{MINE}", Heartbeat(host="x"), 10.0)
        name = (await stranger.seen.get()).header.properties.message_id or ""
        assert await one.call(SERVICE, Heartbeat(host="first"), 10.0) == NetworkReady(network_id="secret-first")
        names = names_like(name)
        for guess in names:  # some of one's messages are behind, others before
            await stranger.send(PREFIX + FACTS, wire.request(guess, Heartbeat(host="y"), "", 10.0), message_id=guess, reply_to=REPLY_TO)
        answers = [await stranger.answers.get() for _ in names]
        assert not [answer for answer in answers if b"secret" in answer]
        for number in range(20):
            assert await one.call(SERVICE, Heartbeat(host=str(number)), 10.0) == NetworkReady(network_id=f"secret-{number}")
        assert calls == ["first", *map(str, range(20))]

    run(broker, story)


def test_an_answer_goes_to_no_queue(broker: Rabbit) -> None:
    async def story(stranger: Thief, one: RabbitBus, two: RabbitBus, agent: RabbitBus) -> None:
        taken: list[str] = []

        async def fact(message: Heartbeat) -> None:
            taken.append(message.host)

        def admit(address: str, user: str) -> bool:
            taken.append(f"{user} to {address}")
            return False

        agent._admit = admit
        agent.serve(f"compute.{OTHER}", {Heartbeat: fact})
        await agent.ready()
        two.serve(FACTS, {Heartbeat: fact})
        await two.ready()
        body = wire.request("a", Heartbeat(host="fact"), "", 10.0)
        await stranger.send(PREFIX + FACTS, body, message_id="a", reply_to=f"{PREFIX}compute.{OTHER}")
        await one.call(FACTS, Heartbeat(host="next"), 10.0)
        await asyncio.sleep(0.3)
        assert sorted(taken) == ["fact", "next"]

    run(broker, story)


def test_messages_that_cannot_be_answered_do_not_stay(broker: Rabbit) -> None:
    """Names that are no UTF-8 grow when they are read, and have no room in an answer."""

    async def story(stranger: Thief, one: RabbitBus, two: RabbitBus, agent: RabbitBus) -> None:
        async def fact(message: Heartbeat) -> NetworkReady:
            return NetworkReady(network_id=message.host)

        two.serve(FACTS, {Heartbeat: fact})
        await two.ready()
        link = agent._link  # it has a way to write what pamqp would not
        assert link is not None
        for number in range(20):
            odd = b"\xff" * 250 + f"{number:03}".encode()
            flags = rabbit_frames.REPLY_TO | rabbit_frames.MESSAGE_ID | rabbit_frames.USER_ID
            properties = rabbit_frames.short(REPLY_TO) + bytes((len(odd),)) + odd + rabbit_frames.short(agents.user_of(OTHER))
            body = wire.request("a", Heartbeat(host="fact"), "", 10.0)
            link._transport.writer.write(link._message(link._calls, flags, properties, body, routing_key=PREFIX + FACTS))
        await asyncio.sleep(0.3)
        for number in range(5):
            assert await one.call(FACTS, Heartbeat(host=str(number)), 3.0) == NetworkReady(network_id=str(number))
        waiting = json.loads(broker.control("list_queues", "--formatter", "json", "name", "messages_unacknowledged"))
        assert [queue["messages_unacknowledged"] for queue in waiting if queue["name"] == PREFIX + FACTS] == [0]

    run(broker, story, prefetch=10)
