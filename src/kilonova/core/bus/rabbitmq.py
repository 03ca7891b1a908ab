"""The bus over RabbitMQ: what is promised, and how. docs/internals/bus.md tells why.

* A call is run at most once. It is acknowledged when it has been handled; one that comes a second time is answered from memory, or, when
  the first receiver has gone, refused as Unreachable: whoever holds the intent decides anew.
* A call that nobody serves fails at once, as Undelivered; without a broker too, as NoBroker. While a handler works, its process says so
  every few seconds; a caller that hears nothing, and whose message waits in no queue, gives up long before the deadline.
* Messages of one process to one address arrive, and their handlers start, in the order they were sent. A message dies with its deadline.
* Casts and topics are at most once, and are dropped while there is no broker.
"""

import asyncio
import contextlib
import contextvars
from collections import OrderedDict, deque
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

from kilonova.core.bus import wire
from kilonova.core.bus.config import RabbitOptions
from kilonova.core.bus.in_process import within
from kilonova.core.bus.interface import Busy, HandlerTable, NoBroker, Undelivered, Unreachable, at_once, sender, waits_never
from kilonova.core.bus.rabbit_frames import Delivered
from kilonova.core.bus.rabbit_link import BrokerAway, Link, Refused, tls_context, why
from kilonova.core.errors import Error, Forbidden
from kilonova.core.log import Log, request_id
from kilonova.core.runtime import Runtime
from kilonova.core.tasks import Tasks

WORKING_S = 3.0
SILENT_S = 9.0
REMEMBERED = 4096
REMEMBERED_BYTES = 16 << 20
LONGEST_REMEMBERED = 65_536
LONG_S = 600.0
"""A call that runs longer is acknowledged: the broker closes a channel that keeps a message for half an hour."""
HELD_NOTICES = 1000
DRAIN_S = 5.0
SETTLE_S = 1.0
"""After a node of a broker's cluster has died, its peers take its queues off their list by name: so long nothing is made there anew."""
LOOK_S = (2.0, 8.0, 21.0, 3.0, 26.0)
"""After a reconnection: pauses before each look whether our queues stand. A queue that is off the list takes its successor off, too, when
it expires (`rabbit_link.IDLE_QUEUE_MS` after its last consumer): hence the third and fourth."""
LOOK_AGAIN_S = 30.0
LOOK_EACH_S = 0.15
"""The pause before later looks: the longer of the two, the second for each address."""
Admit = Callable[[str, str], bool]
"""(address, the broker's user who sent a message) -> may he?"""
Judgement = Callable[[str, str, Any], Awaitable[None] | None]
"""(address, user, message): raises the error that refuses a message, at once or when what is returned is awaited."""


class _Waiting:
    """A call of ours."""

    __slots__ = ("address", "heard_at", "reply")

    def __init__(self, address: str, reply: "asyncio.Future[bytes]", now: float) -> None:
        self.address = address
        self.reply = reply
        self.heard_at = now

    def failed(self, error: Refused | BrokerAway) -> None:
        kind = Unreachable if isinstance(error, BrokerAway) else Busy if error.full else Undelivered
        self.fail(kind)

    def fail(self, kind: type[Unreachable] = Unreachable) -> None:
        if not self.reply.done():
            self.reply.set_exception(kind(address=self.address))

    def forget(self) -> None:
        """Nobody waits any more: what is known by now is nobody's surprise."""
        if self.reply.done() and not self.reply.cancelled():
            self.reply.exception()
        self.reply.cancel()


class _Cast:
    """Only for the log."""

    __slots__ = ("_address", "_kind", "_log")

    def __init__(self, address: str, kind: str, log: Log) -> None:
        self._address = address
        self._kind = kind
        self._log = log

    def failed(self, error: Refused | BrokerAway) -> None:
        self._log.warning("nobody there", address=self._address, message_type=self._kind, error=error)


class _Job:
    """A call to us that runs. Link and tag change when it is delivered again; without a tag it has been acknowledged."""

    __slots__ = ("began", "link", "reply_to", "tag")

    def __init__(self, link: Link, tag: int | None, reply_to: str, now: float) -> None:
        self.link = link
        self.tag = tag
        self.reply_to = reply_to
        self.began = now


async def _judged(verdict: Awaitable[None], handler: Callable[[Any], Awaitable[Any]], message: Any) -> Any:
    await verdict
    return await handler(message)


class _Memory:
    """Replies of calls that have ended, for messages that come again: the newest, bounded in number and in bytes."""

    def __init__(self) -> None:
        self._replies: OrderedDict[str, bytes] = OrderedDict()
        self._bytes = 0

    def get(self, ident: str) -> bytes | None:
        return self._replies.get(ident)

    def put(self, ident: str, reply: bytes) -> None:
        if len(reply) > LONGEST_REMEMBERED:
            reply = wire.refusal(Unreachable(address="The receiver, which has the answer no more,"))
        self._replies[ident] = reply
        self._bytes += len(reply)
        while len(self._replies) > REMEMBERED or self._bytes > REMEMBERED_BYTES:
            self._bytes -= len(self._replies.popitem(last=False)[1])


class RabbitBus:
    """Make it, `start` it in the running loop, `stop` it. serve, subscribe and the rest may be called before there is a connection."""

    def __init__(
        self,
        options: RabbitOptions,
        runtime: Runtime,
        log: Log,
        *,
        name: str = "kilonova",
        admit: Admit | None = None,
        judge: Judgement | None = None,
    ) -> None:
        """admit: asked before a message is read; judge: before it is handled. Without them everybody may say everything."""
        self.options = options
        self.name = name
        self.reconnects = 0
        self.refused = 0
        """Messages that came a second time after their first receiver had gone."""
        self._runtime = runtime
        self._log = log
        self._admit = admit
        self._judge = judge
        self._tasks = Tasks(runtime, log)
        self._link: Link | None = None
        self._served: dict[str, HandlerTable] = {}
        self._retired: dict[str, HandlerTable] = {}
        """What was served until `retire`: messages that were on their way are still handled."""
        self._topics: dict[str, list[Callable[[Any], Awaitable[None]]]] = {}
        self._changed = asyncio.Event()
        self._steady = asyncio.Event()
        self._steady.set()
        self._up = asyncio.Event()
        self._shaken = asyncio.Event()
        """A node of the broker may have died."""
        self._waiting: dict[str, _Waiting] = {}
        self._jobs: dict[str, _Job] = {}
        self._done = _Memory()
        self._notices: deque[tuple[str, str, bytes, str, bool]] = deque()
        self._noticing = False
        self._dropped_notices = 0
        self._when_back: list[Callable[[], None]] = []
        self._prefix = runtime.uuid_hex()[:16]
        self._count = 0

    # ---- life

    async def start(self, wait_s: float = 0.0) -> None:
        """Connect, and stay connected. Waits at most `wait_s` for the first connection; without one it goes on trying."""
        self._tasks.start("broker connection", self._stay_connected())
        self._tasks.every("signs of life of long calls", WORKING_S, self._look_after)
        self._tasks.start("own queues", self._watch_queues())
        if wait_s:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(wait_s):
                    await self.ready()

    async def ready(self) -> None:
        """Wait until there is a connection and all that is served and subscribed stands on the broker."""
        while not (self._link is not None and self._steady.is_set()):
            await self._up.wait()
            await self._steady.wait()
            await asyncio.sleep(0)

    @property
    def connected(self) -> bool:
        return self._link is not None

    def when_back(self, act: Callable[[], None]) -> None:
        """Call `act` after each reconnection, when everything served stands again."""
        self._when_back.append(act)

    async def retire(self, limit_s: float) -> None:
        """Take no more messages, and wait until those that came have been handled (`limit_s` at most). Calls of ours still go out."""
        self._retired |= self._served
        await self._run_dry(limit_s)

    async def stop(self) -> None:
        """Take no more messages, give what runs a few seconds to end, and go."""
        await self._run_dry(DRAIN_S)
        await self._tasks.stop()

    async def _run_dry(self, limit_s: float) -> None:
        self._served.clear()
        self._change()
        if self._link is not None:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(limit_s):
                    await self._steady.wait()
                    while self._link is not None and (self._jobs or self._notices):  # noqa: ASYNC110  (no event is worth its upkeep)
                        await asyncio.sleep(0.02)
                    if self._link is not None:
                        self._link.acknowledge_all()

    async def _stay_connected(self) -> None:
        attempts = turn = 0
        context = None
        lost = False
        brokers = self.options.brokers
        while True:
            broker = brokers[turn % len(brokers)]
            try:
                if self.options.ssl:  # anew each time: certificates are renewed
                    context = await self._runtime.blocking(tls_context, self.options)
                link = await Link.open(broker, self.options, context, name=self.name, reply=self._replied, cancelled=self._cancelled)
                link.lost.add_done_callback(lambda lost: self._changed.set())
                try:
                    if lost:
                        self._shaken.set()
                        if len(brokers) > 1:
                            await self._runtime.sleep(SETTLE_S)
                    await self._settle(link)
                    self._link = link
                    began = self._runtime.monotonic()
                    self._up.set()
                    self._log.info(f"{'Reconnected' if lost else 'Connected'} to AMQP server on {broker.place}")
                    if lost:
                        self.reconnects += 1
                        self._tell_that_we_are_back()
                    if self._notices:
                        self._send_notices()
                    reason = await self._until_lost(link)
                finally:
                    self._drop(link)
                    await link.close()
                if self._runtime.monotonic() - began > 2 * self.options.retry_max_s:
                    attempts = 0
            except Exception as error:  # whatever it is, this goes on
                reason = why(error)
            lost = True
            turn += 1
            if turn % len(brokers):
                self._log.warning(f"AMQP server on {broker.place} is unreachable: {reason}, trying {brokers[turn % len(brokers)].place}")
                continue
            pause = min(self.options.retry_s * self.options.retry_backoff**attempts, self.options.retry_max_s)
            pause *= 0.7 + 0.3 * self._runtime.random.random()
            attempts = min(attempts + 1, 30)
            self._log.error(f"AMQP server on {broker.place} is unreachable: {reason}, retrying in {pause:.2g} s")
            await self._runtime.sleep(pause)

    def _tell_that_we_are_back(self) -> None:
        for act in self._when_back:
            try:
                act()
            except Exception as error:
                self._log.error("what was to be done after a reconnection failed", error=error)

    async def _until_lost(self, link: Link) -> str:
        """Put changes of what is served on the broker, until the link ends; then why it did."""
        while True:
            await self._changed.wait()
            if link.lost.done():
                return link.lost.result()
            await self._settle(link)

    async def _settle(self, link: Link) -> None:
        """Make the broker know what is served and subscribed now."""
        while True:
            self._changed.clear()
            for address in [a for a in link.serving if a not in self._served]:
                await link.silence(address)
            for address in [a for a in self._served if a not in link.serving]:
                await link.serve(address, self._taker(address))
            for topic in [t for t in self._topics if t not in link.hearing]:
                await link.hear(topic, self._hearer(topic))
            if not self._changed.is_set():
                self._steady.set()
                return

    def _drop(self, link: Link) -> None:
        if self._link is link:
            self._link = None
            self._up.clear()
            self._steady.set()  # nobody waits for what cannot come
            for waiting in list(self._waiting.values()):
                waiting.fail()

    def _cancelled(self, tag: str) -> None:
        """The broker has taken a queue away (its node died, or somebody deleted it)."""
        link = self._link
        if link is None:
            return
        for address in [a for a, known in link.serving.items() if known == tag]:
            del link.serving[address]
            self._log.warning("the broker has dropped the queue; making it again", address=address)
        for topic in [t for t, known in link.hearing.items() if known == tag]:
            del link.hearing[topic]
        self._shaken.set()
        if len(self.options.brokers) > 1:
            asyncio.get_running_loop().call_later(SETTLE_S, self._change)
        else:
            self._change()

    async def _watch_queues(self) -> None:
        """A broker's node that takes a dead node's queues off the list goes by name, and may take one that has just been made anew: its
        process and its consumer live on, nobody is told, and who sends there hears that there is no such queue (RabbitMQ 3.10)."""
        turn = len(LOOK_S)
        while True:
            pause = LOOK_S[turn] if turn < len(LOOK_S) else max(LOOK_AGAIN_S, LOOK_EACH_S * len(self._served))
            try:
                async with asyncio.timeout(pause):
                    await self._shaken.wait()
                self._shaken.clear()
                turn = 0
            except TimeoutError:
                turn += 1
                await self._remake_queues()

    async def _remake_queues(self) -> None:
        """Of queues that are not on the list, or are there without any consumer though we have one (another process made it anew). What is
        off the list keeps its consumer, and so does not expire as long as this connection stands."""
        link = self._link
        if link is None or not self._steady.is_set():
            return
        for address, tag in list(link.serving.items()):
            try:
                found = await link.there(address)
            except BrokerAway:
                return
            if (found is None or not found[1]) and link.serving.get(address) == tag:
                del link.serving[address]
                self._log.warning("the broker has lost the queue without a word; making it again", address=address)
                self._change()

    def _change(self) -> None:
        self._changed.set()
        if self._link is not None:
            self._steady.clear()

    # ---- what is served

    def serve(self, address: str, handlers: HandlerTable) -> None:
        known = address in self._served
        self._served[address] = handlers
        if not known:
            self._change()

    def silence(self, address: str) -> None:
        if self._served.pop(address, None) is not None:
            self._change()

    def subscribe(self, topic: str, receive: Callable[[Any], Awaitable[None]]) -> None:
        self._topics.setdefault(topic, []).append(receive)
        if len(self._topics[topic]) == 1:
            self._change()

    def _taker(self, address: str) -> Callable[[Link, Delivered], None]:
        name = f"message to {address}"
        return lambda link, message: self._taken(link, address, name, message)

    def _taken(self, link: Link, address: str, name: str, message: Delivered) -> None:
        ident, user = message.message_id, message.user_id
        running = self._jobs.get(ident)
        if running is not None:
            if running.link is link and running.tag is not None:
                link.acknowledge(running.tag)  # somebody sends one message twice: only one is kept for it
            running.link, running.tag = link, message.tag
            return
        job = _Job(link, message.tag, message.reply_to, self._runtime.monotonic())
        done = self._done.get(ident)
        if done is not None:
            self._finish(ident, job, done)
        elif message.redelivered:
            self.refused += 1
            self._log.warning("a message whose first receiver has gone is not run again", address=address, message_id=ident)
            self._finish(ident, job, wire.refusal(Unreachable(address=address)))
        elif self._admit is not None and not self._admit(address, user):
            self._log.warning("a message of a broker user who may not send it", address=address, user=user)
            self._finish(ident, job, wire.refusal(Forbidden("This broker user may not send there.")))
        else:
            contextvars.copy_context().run(self._begin, address, name, job, message)

    def _start(self, name: str, coroutine: Coroutine[Any, Any, None]) -> None:
        if self._tasks.closed:
            coroutine.close()
        else:
            self._tasks.start(name, coroutine)

    def _begin(self, address: str, name: str, job: _Job, message: Delivered) -> None:
        """In a context of the message's own, without a task. One is made unless the handler `never_waits`."""
        ident, user = message.message_id, message.user_id
        try:
            request = wire.read_request(message.body)
            request_id.set(request.request_id)
            sender.set(user)
            told = wire.body(request.name, request.body)
            handler = (self._served.get(address) or self._retired.get(address, {})).get(type(told))
            if handler is None:
                raise Undelivered(address=address)
            verdict = self._judge(address, user, told) if self._judge is not None else None
            if verdict is not None or not waits_never(handler):
                self._jobs[ident] = job
                self._start(name, self._handle(address, ident, job, user, request.timeout_s, verdict, handler, told))
                return
            reply = wire.reply(at_once(handler(told)))
        except Exception as error:
            reply = self._refusal(address, user, error)
        self._done.put(ident, reply)
        self._finish(ident, job, reply)

    async def _handle(
        self,
        address: str,
        ident: str,
        job: _Job,
        user: str,
        timeout_s: float,
        verdict: Awaitable[None] | None,
        handler: Callable[[Any], Awaitable[Any]],
        told: Any,
    ) -> None:
        try:
            try:
                handled = handler(told) if verdict is None else _judged(verdict, handler, told)
                reply = wire.reply(await within(timeout_s, handled))
            except Exception as error:
                reply = self._refusal(address, user, error)
            self._done.put(ident, reply)
        finally:
            self._jobs.pop(ident, None)
        self._finish(ident, job, reply)

    def _refusal(self, address: str, user: str, error: Exception) -> bytes:
        if isinstance(error, TimeoutError):
            return wire.refusal(Unreachable(address=address))
        if not isinstance(error, Error):
            self._log.error("a handler failed unexpectedly", address=address, error=error)
            return wire.refusal(wire.RemoteFailed(address=address))
        if isinstance(error, Forbidden) and self._judge is not None and user:
            self._log.warning("a message was refused", address=address, user=user, reason=error.message)
        return wire.refusal(error)

    def _finish(self, ident: str, job: _Job, reply: bytes) -> None:
        link = job.link
        if not link.alive and self._link is not None:
            link = self._link  # the caller's own connection may be well: his address holds
        if job.reply_to:
            link.answer(job.reply_to, reply, ident)
        if job.tag is not None:
            job.link.acknowledge(job.tag, soon=bool(job.reply_to))  # in one write with the answer

    # ---- calls

    def _ident(self) -> str:
        self._count += 1
        return f"{self._prefix}-{self._count}"

    async def call(self, address: str, message: Any, timeout_s: float = 60.0) -> Any:
        self._runtime.point(f"call {type(message).__name__}")
        ident = self._ident()
        data = wire.request(ident, message, request_id.get(), timeout_s)
        loop = asyncio.get_running_loop()
        waiting = _Waiting(address, loop.create_future(), self._runtime.monotonic())
        deadline = loop.call_later(timeout_s, waiting.fail)
        try:
            if not self._steady.is_set():
                await self._until_steady(address, timeout_s)  # what we serve stands before anybody hears of us
            link = self._link
            if link is None:
                raise NoBroker(address=address)
            self._waiting[ident] = waiting
            link.send(address, data, ident, expires_s=timeout_s, answer=True, sent=waiting)
            answer = await waiting.reply
        finally:
            deadline.cancel()
            self._waiting.pop(ident, None)
            waiting.forget()
        self._runtime.point(f"called {type(message).__name__}")
        return wire.read_reply(answer)

    async def _until_steady(self, address: str, timeout_s: float) -> None:
        try:
            async with asyncio.timeout(timeout_s):
                await self._steady.wait()
        except TimeoutError:
            raise Unreachable(address=address) from None

    def _replied(self, link: Link, message: Delivered) -> None:
        waiting = self._waiting.get(message.correlation_id)
        if waiting is None or waiting.reply.done():
            return
        if message.body == wire.WORKING:
            waiting.heard_at = self._runtime.monotonic()
        else:
            waiting.reply.set_result(message.body)

    async def _look_after(self) -> None:
        """Say which long calls we are at, and look for those of ours that nobody is at."""
        now = self._runtime.monotonic()
        for ident, job in list(self._jobs.items()):
            if job.link.alive and job.reply_to and now - job.began >= WORKING_S:
                job.link.answer(job.reply_to, wire.WORKING, ident)
            if job.link.alive and job.tag is not None and now - job.began >= LONG_S:
                tag, job.tag = job.tag, None
                job.link.acknowledge(tag, soon=True)
        silent: dict[str, list[_Waiting]] = {}
        for waiting in list(self._waiting.values()):
            if now - waiting.heard_at >= SILENT_S and not waiting.reply.done():
                silent.setdefault(waiting.address, []).append(waiting)
        for address, calls in silent.items():
            link = self._link
            if link is None:
                return
            with contextlib.suppress(BrokerAway):
                found = await link.there(address)
                if found is None or not found[0] or not found[1]:
                    for waiting in calls:
                        if now >= waiting.heard_at + SILENT_S:
                            waiting.fail()

    def cast(self, address: str, message: Any) -> None:
        ident = self._ident()
        data = wire.request(ident, message, request_id.get(), 60.0)
        sent = _Cast(address, type(message).__name__, self._log)
        if self._link is None:
            sent.failed(BrokerAway("The message broker is away."))
        else:
            self._link.send(address, data, ident, expires_s=60.0, answer=False, sent=sent)

    # ---- topics

    def publish(self, topic: str, message: Any) -> None:
        ident = self._ident()
        data = wire.request(ident, message, request_id.get(), 60.0)
        try:
            if self._link is None:
                raise BrokerAway("The message broker is away.")
            self._link.publish(topic, data, ident)
        except BrokerAway as error:
            self._log.warning("news was not published", topic=topic, error=error)

    def _hearer(self, topic: str) -> Callable[[Link, Delivered], None]:
        def take(link: Link, message: Delivered) -> None:
            user = message.user_id
            if self._admit is not None and not self._admit(topic, user):
                self._log.warning("news of a broker user who may not publish it", topic=topic, user=user)
                return
            for receive in self._topics.get(topic, ()):
                self._start(f"news of {topic}", self._heard(receive, message.body, user))

        return take

    async def _heard(self, receive: Callable[[Any], Awaitable[None]], data: bytes, user: str) -> None:
        request = wire.read_request(data)
        request_id.set(request.request_id)
        sender.set(user)
        await receive(wire.body(request.name, request.body))

    # ---- notifications

    def notify(self, exchange: str, queue: str, data: bytes, *, quorum: bool = True) -> None:
        """Put a notification into a queue that others read. Kept (the newest so many) while there is no broker; never twice."""
        if len(self._notices) >= HELD_NOTICES:
            self._notices.popleft()
            self._dropped_notices += 1
        self._notices.append((exchange, queue, data, self._ident(), quorum))
        self._send_notices()

    def _send_notices(self) -> None:
        if not self._noticing:
            self._noticing = True
            self._start("notifications", self._notify())

    async def _notify(self) -> None:
        try:
            while self._notices and self._link is not None:
                exchange, queue, data, ident, quorum = notice = self._notices[0]
                try:
                    await self._link.notify(exchange, queue, data, ident, quorum=quorum)
                except BrokerAway as error:
                    self._log.warning("notifications wait for the broker", waiting=len(self._notices), error=error)
                    await self._runtime.sleep(1.0)
                    continue
                if self._notices and self._notices[0] is notice:
                    self._notices.popleft()
                if self._dropped_notices:
                    self._log.warning("notifications were dropped while the broker was away", dropped=self._dropped_notices)
                    self._dropped_notices = 0
        finally:
            self._noticing = False
