"""One connection to a RabbitMQ server, from its opening to its end: channels, queues, and messages out and in.

A link never comes back: whoever holds it (`rabbitmq.RabbitBus`) opens another. The connection is that of aio-pika's own transport,
aiormq, because reconnection is ours and aio-pika's objects around each message cost as much as the message. Messages themselves pass aiormq
by (`rabbit_frames`): sending, answering and acknowledging are plain functions that write frames, and what comes in is taken at once.

Names on the broker are part of the wire. Arguments of queues are those of whoever declared them first.
"""

import asyncio
import contextlib
import hashlib
import hmac
import logging
import os
import secrets
import socket
import ssl
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Any, Protocol, cast

import aiormq
from aiormq.abc import DeliveredMessage
from aiormq.channel import Channel
from aiormq.connection import Connection, TransportFactory
from aiormq.exceptions import DeliveryError, ProbableAuthenticationError, PublishError
from pamqp import frame as pamqp_frame
from pamqp.commands import Basic, Exchange
from pamqp.common import FieldTable
from yarl import URL

from kilonova.core.bus import rabbit_frames as frames
from kilonova.core.bus.config import Broker, RabbitOptions
from kilonova.core.errors import Unavailable

CONNECT_S = 10.0
ANSWER_S = 5.0
"""What the broker may take to answer a question about a queue."""
IDLE_QUEUE_MS = 30_000
"""How long a queue outlives its last consumer: a server that comes back in time finds what was sent meanwhile."""
REPLY_TO = "amq.rabbitmq.reply-to"
_REPLY_TO = frames.short(REPLY_TO)
PREFIX = "kilonova."
ACKNOWLEDGE_S = 0.25
"""For so long acknowledgements that can wait are collected: a system call for each costs more than all the rest of a heartbeat."""
LEAST_OF_AMQP = 200
"""Codes of replies; aiormq has them where the system's errors have theirs."""
FRAME_MAX = 131_072
"""Bytes, when the broker sets no bound."""
SEND = frames.CONTENT_TYPE | frames.DELIVERY_MODE | frames.EXPIRATION | frames.MESSAGE_ID | frames.USER_ID
ANSWER = frames.CONTENT_TYPE | frames.DELIVERY_MODE | frames.CORRELATION_ID | frames.USER_ID
NEWS = frames.CONTENT_TYPE | frames.DELIVERY_MODE | frames.MESSAGE_ID | frames.USER_ID
KIND = frames.short("application/msgpack") + b"\x01"
"""Content type and delivery mode: not kept on a disk."""
Take = Callable[["Link", frames.Delivered], None]


class Sent(Protocol):
    """Who waits for the broker's word about a message."""

    def failed(self, error: "Refused | BrokerAway") -> None:
        """The broker did not take the message, or the link ended before it had confirmed. Not called for a message that was taken."""
        ...


logging.getLogger("aiormq").addHandler(logging.NullHandler())
logging.getLogger("aiormq").propagate = False


class BrokerAway(Unavailable):
    code = "bus.broker_away"
    title = "{reason}"


class Refused(Exception):
    """The broker did not take a message: `full` or there is no such queue."""

    def __init__(self, *, full: bool) -> None:
        super().__init__("full" if full else "no queue")
        self.full = full


class _Lost:
    """Whatever comes out of the transport is BrokerAway: when it ends it rejects what waits with whatever ended it, be that a bare
    Exception or a CancelledError in a task that nobody has cancelled."""

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if error is None or isinstance(error, MEANING):
            return
        if isinstance(error, asyncio.CancelledError):
            task = asyncio.current_task()
            if task is None or task.cancelling():
                return
        elif not isinstance(error, Exception):
            return
        raise BrokerAway(why(error)) from error


_LOST = _Lost()
MEANING = (
    BrokerAway,
    TimeoutError,
    PublishError,
    DeliveryError,
    aiormq.exceptions.ChannelNotFoundEntity,
    aiormq.exceptions.ChannelPreconditionFailed,
)
"""Answers, not ends."""


def tls_context(options: RabbitOptions) -> ssl.SSLContext | None:
    """Reads files: call it in a thread."""
    if not options.ssl:
        return None
    context = ssl.create_default_context(ssl.Purpose.SERVER_AUTH, cafile=options.ssl_ca_file or None)
    if options.ssl_cert_file:
        context.load_cert_chain(options.ssl_cert_file, options.ssl_key_file or None)
    return context


def why(error: BaseException) -> str:
    """One sentence, or less, for a log line."""
    match error:
        case ProbableAuthenticationError():
            return "it refused the user name or the password"
        case TimeoutError():
            return "it does not answer"
        case asyncio.CancelledError():
            return "it gave no sign of life"
        case ssl.SSLCertVerificationError():
            return f"its certificate is not trusted ({error.verify_message})"
    if type(error) is Exception and not error.args:
        return "the connection was closed"
    inner = error.__cause__
    if isinstance(error, aiormq.exceptions.AMQPConnectionError) and isinstance(inner, OSError):
        return why(inner)
    if isinstance(error, OSError) and error.errno and not isinstance(error, socket.gaierror) and error.errno < LEAST_OF_AMQP:
        return os.strerror(error.errno)
    text = " ".join(str(part) for part in error.args if part) or type(error).__name__
    return text.splitlines()[0][:200]


class _Joined(asyncio.StreamWriter):
    """Sends together what is written in one turn of the loop. The transport would send each frame at once, or what comes of one event, and
    a system call costs more than a frame; the broker too reads fewer and longer pieces."""

    def __init__(self, *parts: Any) -> None:
        super().__init__(*parts)
        self._held: list[bytes] = []
        self._soon = asyncio.get_running_loop().call_soon

    def write(self, data: Any) -> None:
        if not self._held:
            self._soon(self._flush)
        self._held.append(data)

    def _flush(self) -> None:
        if self._held:
            held, self._held = self._held, []
            super().write(held[0] if len(held) == 1 else b"".join(held))

    def write_eof(self) -> None:
        self._flush()
        super().write_eof()

    def close(self) -> None:
        self._flush()
        super().close()


class _Transport(TransportFactory):
    """Of one connection."""

    tap: frames.Tap
    writer: asyncio.StreamWriter

    async def create(self, url: URL, **more: Any) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        context = await more["ssl_context_provider"].get_context() if url.scheme == "amqps" else None
        loop = asyncio.get_running_loop()
        reader = asyncio.StreamReader()
        self.tap = protocol = frames.Tap(reader)
        try:
            transport, _ = await loop.create_connection(lambda: protocol, url.host or "", url.port or 0, ssl=context)
        except OSError as error:
            raise aiormq.exceptions.AMQPConnectionError(*error.args) from error
        self.writer = _Joined(transport, protocol, reader, loop)
        return reader, self.writer


async def _unheard(message: DeliveredMessage) -> None:
    """aiormq wants to know whom to give messages to; it gets none (`rabbit_frames`)."""
    raise AssertionError("a message came another way")


class Link:
    def __init__(self, connection: Connection, transport: _Transport, broker: Broker, options: RabbitOptions) -> None:
        self.broker = broker
        self.options = options
        self.lost: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        """Done when the link has ended, with the reason."""
        self.serving: dict[str, str] = {}
        """address -> consumer tag"""
        self.hearing: dict[str, str] = {}
        """topic -> consumer tag"""
        self._connection = connection
        self._transport = transport
        self._user = frames.short(broker.user)
        self._seal_key = secrets.token_bytes(32)
        self._frame_max = FRAME_MAX
        self._consumers = 0
        self._sent: dict[int, tuple[str, Sent]] = {}
        """What was sent and is not confirmed: delivery tag -> message id and who waits. The broker counts from 1."""
        self._sent_count = 0
        self._unacknowledged: dict[int, None] = {}
        """Delivery tags of messages that we have, as they came."""
        self._handled: dict[int, None] = {}
        """Those of them whose acknowledgement is to be sent."""
        self._acknowledging: asyncio.TimerHandle | None = None
        self._exchanges: dict[str, None] = {}
        self._calls: Channel
        self._served: Channel
        self._topics: Channel
        self._notices: Channel | None = None
        self._control: Channel | None = None
        self._asking = asyncio.Lock()

    @property
    def alive(self) -> bool:
        return not self.lost.done()

    @classmethod
    async def open(
        cls,
        broker: Broker,
        options: RabbitOptions,
        context: ssl.SSLContext | None,
        *,
        name: str,
        reply: Take,
        cancelled: Callable[[str], None],
    ) -> "Link":
        """`reply` takes what is answered to our calls; `cancelled` hears the address of a queue that the broker has taken away."""
        url = URL.build(
            scheme="amqps" if context else "amqp",
            host=broker.host,
            port=broker.port,
            user=broker.user,
            password=broker.password,
            query={"heartbeat": str(_heartbeat(options.heartbeat_s)), "name": name},
        )
        transport = _Transport()
        connection = Connection(url, context=context, transport_factory=transport)
        connection.vhost = options.vhost
        link = cls(connection, transport, broker, options)
        try:
            with _LOST:
                await link._establish(reply, cancelled)
        except BaseException:
            link.end("it was never complete")
            await link.close()
            raise
        for part in (connection, link._calls, link._served, link._topics):
            part.closing.add_done_callback(link._ended)
        return link

    async def _establish(self, reply: Take, cancelled: Callable[[str], None]) -> None:
        connection = self._connection
        async with asyncio.timeout(CONNECT_S):
            await connection.connect()
            self._frame_max = connection.connection_tune.frame_max or FRAME_MAX
            self._calls = cast(Channel, await connection.channel(publisher_confirms=False))
            self._served = cast(Channel, await connection.channel(publisher_confirms=False))
            self._topics = cast(Channel, await connection.channel(publisher_confirms=False))
            for channel in (self._served, self._topics):
                channel.on_consumer_cancel_callbacks.add(lambda frame: cancelled(str(frame.consumer_tag)))
                self._transport.tap.channels[channel.number] = frames.Inbound()
            self._transport.tap.channels[self._calls.number] = frames.Inbound(returned=self._returned, confirmed=self._confirmed)
            await self._calls.confirm_delivery()
            await self._served.basic_qos(prefetch_count=self.options.prefetch)
            await self._consume(self._calls, REPLY_TO, self._unsealed(reply), no_ack=True)

    def _ended(self, closing: asyncio.Future[Any]) -> None:
        error = None if closing.cancelled() else closing.exception()
        self.end(why(error) if error is not None else "the connection was closed")

    def end(self, reason: str) -> None:
        if self.lost.done():
            return
        self.lost.set_result(reason)
        if self._acknowledging is not None:
            self._acknowledging.cancel()
        sent, self._sent = self._sent, {}
        for _, who in sent.values():
            who.failed(BrokerAway(reason))

    async def close(self) -> None:
        self.end("closed")
        try:
            async with asyncio.timeout(2.0):
                await self._connection.close()
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise
        except Exception:
            return

    async def _consume(self, channel: Channel, queue: str, take: Callable[[frames.Delivered], None], *, no_ack: bool = False) -> str:
        """The consumer's tag. `take` never waits."""
        self._consumers += 1
        tag = str(self._consumers)
        self._transport.tap.channels[channel.number].consumers[tag.encode()] = take
        await channel.basic_consume(queue, _unheard, no_ack=no_ack, consumer_tag=tag)
        return tag

    async def _cancel(self, channel: Channel, tag: str) -> None:
        await channel.basic_cancel(tag)  # until the broker has answered it sends messages
        self._transport.tap.channels[channel.number].consumers.pop(tag.encode(), None)

    # ---- calls

    def _sealed(self, ident: str) -> str:
        """The name of a message on the wire. Names are counted, and whoever has heard from us knows where our answers go: what nobody can
        guess makes sure that only who got a message can answer it, or ask the one who got it for what it answered."""
        return f"{ident}.{hashlib.blake2b(ident.encode(), key=self._seal_key, digest_size=16).hexdigest()}"

    def _unsealed(self, reply: Take) -> Callable[[frames.Delivered], None]:
        def take(message: frames.Delivered) -> None:
            ident = message.correlation_id.rpartition(".")[0]
            if hmac.compare_digest(self._sealed(ident).encode(), message.correlation_id.encode()):
                message.correlation_id = ident
                reply(self, message)

        return take

    def send(self, address: str, data: bytes, ident: str, *, expires_s: float, answer: bool, sent: Sent) -> None:
        """`sent` hears, now or later, if the message was not taken (Refused), or if the link ended before the broker confirmed."""
        if self.lost.done():
            sent.failed(BrokerAway(self.lost.result()))
            return
        ident = self._sealed(ident)
        properties = (
            KIND + (_REPLY_TO if answer else b"") + frames.short(str(max(1, int(expires_s * 1000)))) + frames.short(ident) + self._user
        )  # in the order of their flags
        flags = SEND | frames.REPLY_TO if answer else SEND
        message = self._message(self._calls, flags, properties, data, routing_key=PREFIX + address, mandatory=True)
        self._sent_count += 1
        self._sent[self._sent_count] = ident, sent
        self._transport.writer.write(message)

    def _message(
        self, channel: Channel, flags: int, properties: bytes, data: bytes, *, routing_key: str, exchange: str = "", mandatory: bool = False
    ) -> bytes:
        """Raises ValueError for a name of more than 255 bytes."""
        head = frames.publish(channel.number, exchange, routing_key, mandatory=mandatory)
        return head + frames.content(channel.number, flags, properties, data, self._frame_max)

    def _confirmed(self, tag: int, multiple: bool, taken: bool) -> None:
        sent = self._sent
        if not multiple:
            tags = [tag]
        else:
            tags = []
            for known in sent:  # in the order in which they were sent
                if known > tag:
                    break
                tags.append(known)
        for known in tags:
            found = sent.pop(known, None)
            if found is not None and not taken:
                found[1].failed(Refused(full=True))

    def _returned(self, message: frames.Delivered) -> None:
        """It had nowhere to go; that it was taken is confirmed all the same, afterwards."""
        for tag, (ident, who) in self._sent.items():
            if ident == message.message_id:
                del self._sent[tag]
                who.failed(Refused(full=False))
                return

    def answer(self, reply_to: str, data: bytes, ident: str) -> None:
        """Lost without a word when the link has ended, and when the caller wants it elsewhere than at an address for answers: in another's
        queue it would be ours, and not his."""
        if self.lost.done() or not reply_to.startswith(REPLY_TO):
            return
        with contextlib.suppress(ValueError):  # a name that was no UTF-8 has grown too long: none of ours
            message = self._message(self._served, ANSWER, KIND + frames.short(ident) + self._user, data, routing_key=reply_to)
            self._transport.writer.write(message)

    def acknowledge(self, tag: int, *, soon: bool = False) -> None:
        """Of what can wait (not `soon`) many are acknowledged at once."""
        if self.lost.done():
            return
        self._handled[tag] = None
        if soon or len(self._handled) * 4 >= self.options.prefetch:
            self.acknowledge_all()
        elif self._acknowledging is None:
            self._acknowledging = asyncio.get_running_loop().call_later(ACKNOWLEDGE_S, self.acknowledge_all)

    def acknowledge_all(self) -> None:
        """All that was handled up to the first message that was not, in one frame; the others singly."""
        if self._acknowledging is not None:
            self._acknowledging.cancel()
            self._acknowledging = None
        if self.lost.done() or not self._handled:
            return
        handled, self._handled = self._handled, {}
        number, parts, last = self._served.number, [], 0
        for tag in self._unacknowledged:
            if tag not in handled:
                break
            last = tag
        many = [tag for tag in handled if tag <= last]
        if last:
            parts.append(frames.acknowledgement(number, last, multiple=len(many) > 1))
        parts += [frames.acknowledgement(number, tag, multiple=False) for tag in handled if tag > last]
        for tag in handled:
            self._unacknowledged.pop(tag, None)
        self._transport.writer.write(b"".join(parts))

    async def there(self, address: str) -> tuple[int, int] | None:
        """How many messages wait for an address, and how many processes serve it. None: it has no queue."""
        try:
            async with self._asking, asyncio.timeout(ANSWER_S):
                with _LOST:
                    found = await (await self._controlling()).queue_declare(PREFIX + address, passive=True)
                return found.message_count or 0, found.consumer_count or 0
        except aiormq.exceptions.ChannelNotFoundEntity:
            self._control = None  # the broker closes a channel that asks for what is not there
            return None
        except TimeoutError:
            self.end("it does not answer")
            raise BrokerAway("The message broker does not answer.") from None
        except BrokerAway:
            self._control = None
            raise

    async def _controlling(self) -> Channel:
        if self._control is None or self._control.is_closed:
            self._control = cast(Channel, await self._connection.channel(publisher_confirms=False))
        return self._control

    async def _declare(self, act: Callable[[Channel], Awaitable[Any]]) -> None:
        """What stands already, declared otherwise (another version, other settings, another's consumer), is taken as it is."""
        async with self._asking:
            try:
                with _LOST:
                    await act(await self._controlling())
            except aiormq.exceptions.ChannelPreconditionFailed:
                self._control = None

    # ---- addresses

    async def serve(self, address: str, take: Take) -> None:
        arguments: FieldTable = {"x-max-length": self.options.queue_length, "x-overflow": "reject-publish", "x-expires": IDLE_QUEUE_MS}
        await self._declare(lambda channel: channel.queue_declare(PREFIX + address, arguments=arguments))

        def taken(message: frames.Delivered) -> None:
            self._unacknowledged[message.tag] = None
            take(self, message)

        with _LOST:
            self.serving[address] = await self._consume(self._served, PREFIX + address, taken)

    async def silence(self, address: str) -> None:
        """The queue goes with its last consumer, so that callers hear at once that nobody is there."""
        tag = self.serving.pop(address)
        with _LOST:
            await self._cancel(self._served, tag)
        found = await self.there(address)
        if found is not None and found[1] == 0 and self._control is not None:
            with contextlib.suppress(BrokerAway), _LOST:
                await self._control.queue_delete(PREFIX + address, if_unused=True)

    # ---- topics

    async def hear(self, topic: str, take: Take) -> None:
        arguments: FieldTable = {"x-max-length": self.options.queue_length, "x-overflow": "drop-head"}
        with _LOST:
            self._exchange(topic)
            declared = await self._topics.queue_declare("", exclusive=True, arguments=arguments)
            queue = str(declared.queue)
            await self._topics.queue_bind(queue, PREFIX + "topic." + topic)
            self.hearing[topic] = await self._consume(self._topics, queue, lambda message: take(self, message), no_ack=True)

    def _exchange(self, topic: str) -> None:
        """Written at once and not answered: what is published next finds it."""
        if topic not in self._exchanges:
            declared = Exchange.Declare(exchange=PREFIX + "topic." + topic, exchange_type="fanout", nowait=True)
            self._transport.writer.write(pamqp_frame.marshal(declared, self._topics.number))
            self._exchanges[topic] = None

    def publish(self, topic: str, data: bytes, ident: str) -> None:
        """Raises BrokerAway."""
        if self.lost.done():
            raise BrokerAway(self.lost.result())
        self._exchange(topic)
        properties = KIND + frames.short(ident) + self._user
        name = PREFIX + "topic." + topic
        self._transport.writer.write(self._message(self._topics, NEWS, properties, data, exchange=name, routing_key=""))

    # ---- notifications

    async def notify(self, exchange: str, queue: str, data: bytes, ident: str, *, quorum: bool) -> None:
        """Into a queue for others' eyes, as oslo.messaging declares it. Returns when the broker has it safe."""
        try:
            with _LOST:
                await self._notify(exchange, queue, data, ident, quorum=quorum)
        except MEANING as error:
            self._notices = None
            self._exchanges.pop(queue, None)
            raise BrokerAway(why(error)) from None

    async def _notify(self, exchange: str, queue: str, data: bytes, ident: str, *, quorum: bool) -> None:
        if self._notices is None:
            self._notices = cast(Channel, await self._connection.channel())
        if queue not in self._exchanges:
            arguments: FieldTable = {"x-queue-type": "quorum"} if quorum else {}
            await self._declare(lambda channel: channel.exchange_declare(exchange, exchange_type="topic", durable=quorum))
            await self._declare(lambda channel: channel.queue_declare(queue, durable=quorum, arguments=arguments))
            await self._notices.queue_bind(queue, exchange, routing_key=queue)
            self._exchanges[queue] = None
        properties = Basic.Properties(
            content_type="application/json",
            content_encoding="utf-8",
            delivery_mode=2,
            priority=0,
            message_id=ident,
            user_id=self.broker.user,
        )
        async with asyncio.timeout(ANSWER_S * 2):
            await self._notices.basic_publish(data, exchange=exchange, routing_key=queue, properties=properties)


def _heartbeat(threshold_s: int) -> int:
    """The transport gives up after three times (interval + 1)."""
    return max(1, threshold_s // 3 - 1) if threshold_s else 0
