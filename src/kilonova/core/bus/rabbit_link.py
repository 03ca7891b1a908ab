"""One connection to a RabbitMQ server, from its opening to its end: channels, queues, and messages out and in.

A link never comes back: whoever holds it (`rabbitmq.RabbitBus`) opens another. The connection is that of aio-pika's own transport,
aiormq, because reconnection is ours and aio-pika's objects around each message cost as much as the message.

Names on the broker are part of the wire. Arguments of queues are those of whoever declared them first.
"""

import asyncio
import contextlib
import logging
import os
import socket
import ssl
from collections.abc import Awaitable, Callable, Coroutine
from types import TracebackType
from typing import Any, cast

import aiormq
from aiormq.abc import DeliveredMessage
from aiormq.channel import Channel
from aiormq.connection import Connection, TransportFactory
from aiormq.exceptions import DeliveryError, ProbableAuthenticationError, PublishError
from pamqp.commands import Basic
from pamqp.common import FieldTable
from yarl import URL

from kilonova.core.bus.config import Broker, RabbitOptions
from kilonova.core.errors import Unavailable

CONNECT_S = 10.0
ANSWER_S = 5.0
"""What the broker may take to answer a question about a queue."""
IDLE_QUEUE_MS = 30_000
"""How long a queue outlives its last consumer: a server that comes back in time finds what was sent meanwhile."""
REPLY_TO = "amq.rabbitmq.reply-to"
PREFIX = "kilonova."
Take = Callable[["Link", DeliveredMessage], None]

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
    if isinstance(error, OSError) and error.errno and not isinstance(error, socket.gaierror):
        return os.strerror(error.errno)
    text = " ".join(str(part) for part in error.args if part) or type(error).__name__
    return text.splitlines()[0][:200]


class _Joined(asyncio.StreamWriter):
    """Sends together what is written in this turn of the loop and in the next (a reply and, after it, its acknowledgement). The transport
    would send each frame at once, and a system call costs more than a frame; the broker too reads fewer and longer pieces."""

    def __init__(self, *parts: Any) -> None:
        super().__init__(*parts)
        self._held: list[bytes] = []
        self._soon = asyncio.get_running_loop().call_soon

    def write(self, data: Any) -> None:
        if not self._held:
            self._soon(self._soon, self._flush)
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
    async def create(self, url: URL, **more: Any) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        context = await more["ssl_context_provider"].get_context() if url.scheme == "amqps" else None
        loop = asyncio.get_running_loop()
        reader = asyncio.StreamReader()
        protocol = asyncio.StreamReaderProtocol(reader)
        try:
            transport, _ = await loop.create_connection(lambda: protocol, url.host or "", url.port or 0, ssl=context)
        except OSError as error:
            raise aiormq.exceptions.AMQPConnectionError(*error.args) from error
        return reader, _Joined(transport, protocol, reader, loop)


class Link:
    def __init__(self, connection: Connection, broker: Broker, options: RabbitOptions) -> None:
        self.broker = broker
        self.options = options
        self.lost: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        """Done when the link has ended, with the reason."""
        self.serving: dict[str, tuple[Channel, str]] = {}
        """address -> channel and consumer tag"""
        self.hearing: dict[str, str] = {}
        """topic -> consumer tag"""
        self._connection = connection
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
        connection = Connection(url, context=context, transport_factory=_Transport())
        connection.vhost = options.vhost
        link = cls(connection, broker, options)
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
            self._calls = cast(Channel, await connection.channel(on_return_raises=True))
            self._served = cast(Channel, await connection.channel(publisher_confirms=False))
            self._topics = cast(Channel, await connection.channel(publisher_confirms=False))
            for channel in (self._served, self._topics):
                channel.on_consumer_cancel_callbacks.add(lambda frame: cancelled(str(frame.consumer_tag)))
            await self._served.basic_qos(prefetch_count=self.options.prefetch)
            await self._calls.basic_consume(REPLY_TO, self._taker(reply), no_ack=True)

    def _ended(self, closing: asyncio.Future[Any]) -> None:
        error = None if closing.cancelled() else closing.exception()
        self.end(why(error) if error is not None else "the connection was closed")

    def end(self, reason: str) -> None:
        if not self.lost.done():
            self.lost.set_result(reason)

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

    def _taker(self, take: Take) -> Callable[[DeliveredMessage], Coroutine[Any, Any, None]]:
        async def deliver(message: DeliveredMessage) -> None:
            take(self, message)  # it never waits: a channel that ends cancels this, not what came of it

        return deliver

    # ---- calls

    async def send(self, address: str, data: bytes, ident: str, *, expires_s: float, answer: bool) -> None:
        """Raises Refused, or BrokerAway when the link ended before the broker confirmed."""
        properties = Basic.Properties(
            content_type="application/msgpack",
            delivery_mode=1,
            message_id=ident,
            correlation_id=ident if answer else None,
            reply_to=REPLY_TO if answer else None,
            expiration=str(max(1, int(expires_s * 1000))),
            user_id=self.broker.user,
        )
        try:
            with _LOST:
                await self._calls.basic_publish(data, routing_key=PREFIX + address, properties=properties, mandatory=True, wait=False)
        except PublishError:
            raise Refused(full=False) from None
        except DeliveryError:
            raise Refused(full=True) from None

    async def answer(self, reply_to: str, data: bytes, ident: str) -> None:
        properties = Basic.Properties(
            content_type="application/msgpack", delivery_mode=1, correlation_id=ident, message_id=ident, user_id=self.broker.user
        )
        with contextlib.suppress(BrokerAway), _LOST:
            await self._served.basic_publish(data, routing_key=reply_to, properties=properties, wait=False)

    async def acknowledge(self, tag: int) -> None:
        with contextlib.suppress(BrokerAway), _LOST:
            await self._served.basic_ack(tag, wait=False)

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
        with _LOST:
            consuming = await self._served.basic_consume(PREFIX + address, self._taker(take))
        self.serving[address] = self._served, str(consuming.consumer_tag)

    async def silence(self, address: str) -> None:
        """The queue goes with its last consumer, so that callers hear at once that nobody is there."""
        channel, tag = self.serving.pop(address)
        with _LOST:
            await channel.basic_cancel(tag)
        found = await self.there(address)
        if found is not None and found[1] == 0 and self._control is not None:
            with contextlib.suppress(BrokerAway), _LOST:
                await self._control.queue_delete(PREFIX + address, if_unused=True)

    # ---- topics

    async def hear(self, topic: str, take: Take) -> None:
        arguments: FieldTable = {"x-max-length": self.options.queue_length, "x-overflow": "drop-head"}
        with _LOST:
            await self._exchange(topic)
            declared = await self._topics.queue_declare("", exclusive=True, arguments=arguments)
            queue = str(declared.queue)
            await self._topics.queue_bind(queue, PREFIX + "topic." + topic)
            consuming = await self._topics.basic_consume(queue, self._taker(take), no_ack=True)
        self.hearing[topic] = str(consuming.consumer_tag)

    async def _exchange(self, topic: str) -> None:
        if topic not in self._exchanges:
            await self._topics.exchange_declare(PREFIX + "topic." + topic, exchange_type="fanout")
            self._exchanges[topic] = None

    async def publish(self, topic: str, data: bytes, ident: str) -> None:
        properties = Basic.Properties(content_type="application/msgpack", delivery_mode=1, message_id=ident, user_id=self.broker.user)
        with _LOST:
            await self._exchange(topic)
            await self._topics.basic_publish(data, exchange=PREFIX + "topic." + topic, properties=properties, wait=False)

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
