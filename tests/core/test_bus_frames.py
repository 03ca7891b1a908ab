"""Frames that pass aiormq by, against pamqp, which reads and writes all of AMQP; and what is let through, however it is cut."""

import asyncio
import inspect
from collections.abc import Callable
from typing import Any

import pytest
from aiormq.channel import Channel
from aiormq.connection import Connection
from hypothesis import given
from hypothesis import strategies as st
from pamqp import commands, frame
from pamqp.body import ContentBody
from pamqp.header import ContentHeader, ProtocolHeader
from pamqp.heartbeat import Heartbeat

from kilonova.core.bus import rabbit_frames as frames
from kilonova.core.bus.rabbit_frames import SIGN_OF_LIFE, Delivered, Inbound, Tap

NAMES = st.text(max_size=40)
Frames = list[Any]


class Heard(asyncio.StreamReader):
    """What was let through to aiormq."""

    def __init__(self) -> None:
        super().__init__()
        self.data = b""

    def feed_data(self, data: Any) -> None:
        self.data += data


def tapped(check: Callable[[Tap, Heard], None]) -> None:
    async def main() -> None:
        reader = Heard()
        check(Tap(reader), reader)

    asyncio.run(main())


def unmarshalled(data: bytes) -> Frames:
    found: Frames = []
    while data:
        used, channel, value = frame.unmarshal(data)
        found.append((channel, value))
        data = data[used:]
    return found


def content(channel: int, body: bytes, *, longest: int = 1000, **properties: Any) -> bytes:
    header = ContentHeader(body_size=len(body), properties=commands.Basic.Properties(**properties))
    parts = [body[begin : begin + longest] for begin in range(0, len(body), longest)]
    return frame.marshal(header, channel) + b"".join(frame.marshal(ContentBody(part), channel) for part in parts)


def delivery(channel: int, consumer: str, tag: int, body: bytes, *, redelivered: bool = False, longest: int = 1000, **more: Any) -> bytes:
    method = commands.Basic.Deliver(consumer_tag=consumer, delivery_tag=tag, redelivered=redelivered, exchange="nova", routing_key="a.key")
    return frame.marshal(method, channel) + content(channel, body, longest=longest, **more)


# ---- out


@given(st.text(max_size=60), NAMES, st.booleans(), st.integers(1, 65535))
def test_publish_reads_as_it_was_written(exchange: str, key: str, mandatory: bool, channel: int) -> None:
    [(number, method)] = unmarshalled(frames.publish(channel, exchange, key, mandatory=mandatory))
    assert isinstance(method, commands.Basic.Publish) and number == channel
    assert (method.exchange, method.routing_key, method.mandatory, method.immediate) == (exchange, key, mandatory, False)


@given(NAMES, NAMES, NAMES, NAMES, NAMES, st.binary(max_size=5000), st.integers(100, 3000))
def test_contents_read_as_they_were_written(
    correlation_id: str, reply_to: str, expiration: str, message_id: str, user_id: str, body: bytes, frame_max: int
) -> None:
    names = (correlation_id, reply_to, expiration, message_id, user_id)
    flags = frames.CORRELATION_ID | frames.REPLY_TO | frames.EXPIRATION | frames.MESSAGE_ID | frames.USER_ID
    written = frames.content(3, flags, b"".join(frames.short(name) for name in names), body, frame_max)
    found = unmarshalled(written)
    header = found[0][1]
    assert [channel for channel, _ in found] == [3] * len(found)
    p = header.properties
    assert (p.correlation_id, p.reply_to, p.expiration, p.message_id, p.user_id) == names
    assert header.body_size == len(body) and b"".join(part.value for _, part in found[1:]) == body
    assert all(len(part.value) <= frame_max - 8 for _, part in found[1:])


def test_acknowledgements() -> None:
    for tag, multiple in ((1, False), (2**40, True)):
        [(channel, method)] = unmarshalled(frames.acknowledgement(7, tag, multiple=multiple))
        assert isinstance(method, commands.Basic.Ack)
        assert (channel, method.delivery_tag, method.multiple) == (7, tag, multiple)


def test_a_name_that_is_too_long_is_refused() -> None:
    with pytest.raises(ValueError):
        frames.short("x" * 256)


# ---- in


PROPERTIES = st.fixed_dictionaries(
    {},
    optional={
        "content_type": NAMES,
        "content_encoding": NAMES,
        "headers": st.dictionaries(st.text(min_size=1, max_size=8), st.text(max_size=8), max_size=3),
        "delivery_mode": st.sampled_from([1, 2]),
        "priority": st.integers(0, 9),
        "correlation_id": NAMES,
        "reply_to": NAMES,
        "expiration": NAMES,
        "message_id": NAMES,
        "message_type": NAMES,
        "user_id": NAMES,
        "app_id": NAMES,
    },
)
BODIES = st.binary(max_size=3000)
CUTS = st.lists(st.integers(1, 700), min_size=1, max_size=20)


@given(st.lists(st.tuples(PROPERTIES, BODIES, st.booleans()), min_size=1, max_size=5), CUTS)
def test_deliveries_are_taken_however_the_stream_is_cut(messages: list[tuple[dict[str, Any], bytes, bool]], cuts: list[int]) -> None:
    """And all else goes to aiormq, whole and in order."""
    others = [frame.marshal(commands.Queue.DeclareOk(str(n), 0, 1), 1 + n % 3) for n in range(len(messages))]
    foreign = delivery(1, "another", 9, b"y" * 50)
    wanted_here = [delivery(2, "7", n, body, redelivered=again, **more) for n, (more, body, again) in enumerate(messages)]
    stream = foreign.join(here + other for here, other in zip(wanted_here, others, strict=True))
    expected = foreign.join(others)

    def check(tap: Tap, reader: Heard) -> None:
        got: list[Delivered] = []
        tap.channels = {1: Inbound(), 2: Inbound()}
        tap.channels[2].consumers[b"7"] = got.append
        tap._told_at = float("inf")
        at = turn = 0
        while at < len(stream):
            size = cuts[turn % len(cuts)]
            tap.data_received(stream[at : at + size])
            at, turn = at + size, turn + 1
        assert reader.data == expected
        assert [m.tag for m in got] == list(range(len(messages)))
        for found, (more, body, again) in zip(got, messages, strict=True):
            assert (found.body, found.redelivered) == (body, again)
            wanted = tuple(more.get(name) or "" for name in ("message_id", "reply_to", "correlation_id"))
            assert (found.message_id, found.reply_to, found.correlation_id) == wanted
            assert found.user_id == ("" if "headers" in more else more.get("user_id", ""))  # it may have been moved

    tapped(check)


def test_confirms_and_returns() -> None:
    stream = (
        frame.marshal(commands.Basic.Ack(delivery_tag=1), 4)
        + frame.marshal(commands.Basic.Return(312, "NO_ROUTE", "", "kilonova.nobody"), 4)
        + content(4, b"z" * 20, message_id="ident")
        + frame.marshal(commands.Basic.Ack(delivery_tag=9, multiple=True), 4)
        + frame.marshal(commands.Basic.Nack(delivery_tag=10, requeue=False), 4)
    )

    def check(tap: Tap, reader: Heard) -> None:
        heard: list[Any] = []
        tap.channels[4] = Inbound(returned=lambda message: heard.append(message.message_id), confirmed=lambda *what: heard.append(what))
        tap.data_received(stream)
        assert heard == [(1, False, True), "ident", (9, True, True), (10, False, False)]
        assert reader.data in (b"", SIGN_OF_LIFE)

    tapped(check)


def test_aiormq_hears_that_the_connection_lives() -> None:
    """It would take a connection for dead on which it sees nothing."""

    def check(tap: Tap, reader: Heard) -> None:
        tap.channels[1] = Inbound()
        tap.channels[1].consumers[b"t"] = lambda message: None
        for _ in range(100):
            tap.data_received(delivery(1, "t", 1, b"x"))
        assert reader.data == SIGN_OF_LIFE
        tap._told_at -= frames.SIGN_OF_LIFE_S
        tap.data_received(delivery(1, "t", 1, b"x"))
        assert reader.data == SIGN_OF_LIFE * 2
        assert isinstance(frame.unmarshal(SIGN_OF_LIFE)[2], Heartbeat)

    tapped(check)


@pytest.mark.parametrize(
    "nonsense",
    [ProtocolHeader().marshal(), b"\x01\x00\x01\x00\x00\x00\x01ab", b"HTTP/1.1 400 Bad Request\r\n"],
    ids=["other", "end", "http"],
)
def test_what_is_no_amqp_goes_to_aiormq(nonsense: bytes) -> None:
    def check(tap: Tap, reader: Heard) -> None:
        good = frame.marshal(commands.Channel.OpenOk(), 1)
        tap.data_received(good + nonsense[:8])
        tap.data_received(nonsense[8:])
        tap.data_received(good)
        assert reader.data == good + nonsense + good

    tapped(check)


def test_a_message_that_fails_fails_alone() -> None:
    def check(tap: Tap, reader: Heard) -> None:
        got: list[Delivered] = []
        said: list[Any] = []
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: said.append(context["exception"]))

        def take(message: Delivered) -> None:
            if message.tag == 1:
                raise ZeroDivisionError
            got.append(message)

        tap.channels[1] = Inbound()
        tap.channels[1].consumers[b"t"] = take
        tap.data_received(b"".join(delivery(1, "t", tag, b"x", message_id="m") for tag in range(3)))
        odd = bytearray(delivery(1, "t", 3, b"x", message_id="MMMM"))
        odd[odd.index(b"MMMM")] = 0xFF  # no UTF-8
        tap.data_received(bytes(odd))
        assert [m.tag for m in got] == [0, 2, 3] and got[-1].message_id == "\ufffdMMM"
        assert [type(error) for error in said] == [ZeroDivisionError]

    tapped(check)


# ---- what we ask of aiormq


def test_aiormq_has_what_we_use() -> None:
    """Its public names only; a version without one of them is found here and not in a cloud."""
    wanted = {"transport_factory", "context"}
    assert wanted <= set(inspect.signature(Connection.__init__).parameters)
    assert {"queue", "consumer_callback", "no_ack", "consumer_tag"} <= set(inspect.signature(Channel.basic_consume).parameters)
    assert inspect.iscoroutinefunction(Channel.confirm_delivery)
