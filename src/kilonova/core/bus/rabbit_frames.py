"""The frames of AMQP 0-9-1 that every message consists of, read and written without aiormq, on the connection that aiormq holds.

aiormq does all that is said seldom: opening, channels, declarations, heartbeats, ends. What is said for each message (Publish and its
content; Deliver, Return, Ack, Nack) costs it ten times what the message is worth: three reads and two tasks a frame, and a table of
attributes to go through for each. `Tap` stands between the socket and aiormq's reader, where the transport may be chosen, takes out these
frames of the channels that were given to it, and lets all others by, whole and in order. It relies on the protocol, not on how aiormq
is made inside.

Each function that makes frames returns whole ones: whatever is written at once stays together.
"""

import asyncio
import functools
import struct
from collections.abc import Callable

METHOD, HEADER, BODY, HEARTBEAT = 1, 2, 3, 8
END = b"\xce"
END_BYTE = 0xCE
PUBLISH, RETURN, DELIVER, ACK, NACK = 0x3C0028, 0x3C0032, 0x3C003C, 0x3C0050, 0x3C0078
SIGN_OF_LIFE = struct.pack(">BHI", HEARTBEAT, 0, 0) + END
SIGN_OF_LIFE_S = 1.0
"""aiormq hears at least so often that the connection lives, when there is traffic that it does not see."""
BASIC = 60
CONTENT_TYPE, CONTENT_ENCODING, HEADERS, DELIVERY_MODE, PRIORITY = 0x8000, 0x4000, 0x2000, 0x1000, 0x0800
CORRELATION_ID, REPLY_TO, EXPIRATION, MESSAGE_ID, TIMESTAMP, TYPE, USER_ID = 0x0400, 0x0200, 0x0100, 0x0080, 0x0040, 0x0020, 0x0010
_frame = struct.Struct(">BHI")
_content = struct.Struct(">BHIHHQH")
_acknowledgement = struct.Struct(">BHIIQBB")
_u32 = struct.Struct(">I")
_u64 = struct.Struct(">Q")
_sized = struct.Struct(">HHQH")


class Delivered:
    """A message that came in. Properties that it does not have are empty.

    `user_id` is the broker's word for who published it into the queue that it came from. A message with headers has none: ours have no
    headers, and the broker puts them on what it moves from queue to queue (dead letters), with the user of who published it elsewhere.
    Whoever may declare a queue could otherwise have another's messages, by their rightful sender, moved to where he wants them."""

    __slots__ = ("body", "correlation_id", "message_id", "redelivered", "reply_to", "tag", "user_id")

    def __init__(self, tag: int, redelivered: bool) -> None:
        self.tag = tag
        self.redelivered = redelivered
        self.message_id = self.reply_to = self.correlation_id = self.user_id = ""
        self.body = b""


# ---- out


def short(text: str) -> bytes:
    """A short string: at most 255 bytes. Raises ValueError."""
    data = text.encode()
    return bytes((len(data),)) + data


@functools.lru_cache(maxsize=4096)
def publish(channel: int, exchange: str, routing_key: str, *, mandatory: bool) -> bytes:
    """The method frame before a content."""
    arguments = b"\x00\x00" + short(exchange) + short(routing_key) + (b"\x01" if mandatory else b"\x00")
    return _frame.pack(METHOD, channel, 4 + len(arguments)) + _u32.pack(PUBLISH) + arguments + END


def content(channel: int, flags: int, properties: bytes, body: bytes, frame_max: int) -> bytes:
    """Header and body of a message. properties: those that flags name, in the order of their bits from the highest on."""
    size = len(body)
    header = _content.pack(HEADER, channel, 14 + len(properties), BASIC, 0, size, flags) + properties + END
    longest = frame_max - 8
    if size <= longest:
        return header + _frame.pack(BODY, channel, size) + body + END if size else header
    parts = [header]
    for begin in range(0, size, longest):
        part = body[begin : begin + longest]
        parts += (_frame.pack(BODY, channel, len(part)), part, END)
    return b"".join(parts)


def acknowledgement(channel: int, tag: int, *, multiple: bool) -> bytes:
    return _acknowledgement.pack(METHOD, channel, 13, ACK, tag, multiple, END_BYTE)


# ---- in


class Inbound:
    """The frames of one channel that are not for aiormq."""

    def __init__(
        self, *, returned: Callable[[Delivered], None] | None = None, confirmed: Callable[[int, bool, bool], None] | None = None
    ) -> None:
        """returned: a mandatory message that had nowhere to go; confirmed: hears tag, whether all before it too, whether it was taken."""
        self.consumers: dict[bytes, Callable[[Delivered], None]] = {}
        """consumer tag -> who takes its messages. Deliveries to others are let by."""
        self._returned = returned
        self._confirmed = confirmed
        self._message: Delivered | None = None
        self._take: Callable[[Delivered], None] | None = None
        self._missing = 0
        self._parts: list[bytes] = []

    def take(self, kind: int, data: bytes, at: int, end: int) -> bool:
        """Whether the frame, whose payload is data[at:end], was ours. Raises struct.error or IndexError for one that makes no sense."""
        if kind == METHOD:
            return self._method(data, at)
        message = self._message
        if message is None:
            return False
        if kind == HEADER:
            _, _, self._missing, flags = _sized.unpack_from(data, at)
            _read_properties(message, flags, data, at + 14)
            if not self._missing:
                self._complete(message, b"")
            return True
        size = end - at
        if size == self._missing and not self._parts:
            self._complete(message, data[at:end])
            return True
        self._parts.append(data[at:end])
        self._missing -= size
        if self._missing <= 0:
            self._complete(message, b"".join(self._parts))
            self._parts = []
        return True

    def _complete(self, message: Delivered, body: bytes) -> None:
        message.body = body
        self._message = None
        if self._take is not None:
            self._take(message)

    def _method(self, data: bytes, at: int) -> bool:
        self._message = None
        method = _u32.unpack_from(data, at)[0]
        if method == DELIVER:
            begin = at + 5
            end = begin + data[at + 4]
            self._take = self.consumers.get(data[begin:end])
            if self._take is None:
                return False
            self._message = Delivered(_u64.unpack_from(data, end)[0], data[end + 8] != 0)
            return True
        if method == RETURN and self._returned is not None:
            self._take = self._returned
            self._message = Delivered(0, False)
            return True
        if method in (ACK, NACK) and self._confirmed is not None:
            self._confirmed(_u64.unpack_from(data, at + 4)[0], data[at + 12] & 1 == 1, method == ACK)
            return True
        return False


def _read_properties(message: Delivered, flags: int, data: bytes, at: int) -> None:
    if flags & CONTENT_TYPE:
        at += 1 + data[at]
    if flags & CONTENT_ENCODING:
        at += 1 + data[at]
    if flags & HEADERS:
        at += 4 + int(_u32.unpack_from(data, at)[0])
    if flags & DELIVERY_MODE:
        at += 1
    if flags & PRIORITY:
        at += 1
    if flags & CORRELATION_ID:
        at, message.correlation_id = _short(data, at)
    if flags & REPLY_TO:
        at, message.reply_to = _short(data, at)
    if flags & EXPIRATION:
        at += 1 + data[at]
    if flags & MESSAGE_ID:
        at, message.message_id = _short(data, at)
    if flags & TIMESTAMP:
        at += 8
    if flags & TYPE:
        at += 1 + data[at]
    if flags & USER_ID and not flags & HEADERS:
        at, message.user_id = _short(data, at)


def _short(data: bytes, at: int) -> tuple[int, str]:
    end = at + 1 + data[at]
    return end, str(data[at + 1 : end], "utf-8", "replace")


class Tap(asyncio.StreamReaderProtocol):
    """Reads a connection for aiormq, less the frames that an `Inbound` takes."""

    def __init__(self, reader: asyncio.StreamReader) -> None:
        super().__init__(reader)
        self.channels: dict[int, Inbound] = {}
        self._rest = b""
        self._blind = False
        """What comes is no AMQP that we understand: aiormq gets it all, and ends the connection."""
        self._told_at = 0.0
        self._time = asyncio.get_running_loop().time

    def data_received(self, data: bytes) -> None:
        if self._blind:
            super().data_received(data)
            return
        if self._rest:
            data = self._rest + data
        passed: list[bytes] = []
        at, length, took = 0, len(data), False
        while length - at >= 8:
            kind, channel, size = _frame.unpack_from(data, at)
            end = at + 7 + size
            if kind not in (METHOD, HEADER, BODY, HEARTBEAT):
                self._blind = True
                break
            if end >= length:
                break
            if data[end] != END_BYTE:
                self._blind = True
                break
            if self._taken(kind, channel, data, at + 7, end):
                took = True
            else:
                passed.append(data[at : end + 1])
            at = end + 1
        if self._blind:
            passed.append(data[at:])
            self._rest = b""
        else:
            self._rest = data[at:]
        if took and self._time() - self._told_at >= SIGN_OF_LIFE_S:
            self._told_at = self._time()
            passed.append(SIGN_OF_LIFE)
        if passed:
            super().data_received(b"".join(passed))

    def _taken(self, kind: int, channel: int, data: bytes, at: int, end: int) -> bool:
        inbound = self.channels.get(channel)
        if inbound is None:
            return False
        try:
            return inbound.take(kind, data, at, end)
        except Exception as error:  # one message, not the connection
            asyncio.get_running_loop().call_exception_handler({"message": "a message could not be taken", "exception": error})
            return True
