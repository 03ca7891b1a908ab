"""Netlink framing shared by the three families we speak (rtnetlink, nf_tables elements, conntrack).

Sources of the format: linux/netlink.h and netlink(7). Everything is in the host's byte order except where a family says
otherwise.
"""

import os
import socket
import struct
from collections.abc import Iterator, Sequence

NETLINK_NETFILTER = 12
NLM_F_REQUEST, NLM_F_ACK = 0x1, 0x4
NLM_F_DUMP = 0x300
NLM_F_REPLACE, NLM_F_EXCL, NLM_F_CREATE, NLM_F_APPEND = 0x100, 0x200, 0x400, 0x800
NLMSG_ERROR, NLMSG_DONE = 2, 3
NLA_F_NESTED = 0x8000
_NLA_TYPE_MASK = 0x3FFF
HEADER = struct.Struct("=IHHII")
_ATTRIBUTE = struct.Struct("=HH")
_BATCH_BYTES = 24_000
_RECEIVE_BYTES = 1 << 17


class NetlinkError(OSError):
    """errno, and what was asked."""


def attribute(kind: int, payload: bytes) -> bytes:
    length = 4 + len(payload)
    return _ATTRIBUTE.pack(length, kind) + payload + b"\0" * (-length & 3)


def nested(kind: int, *parts: bytes) -> bytes:
    return attribute(kind | NLA_F_NESTED, b"".join(parts))


def text(kind: int, value: str) -> bytes:
    return attribute(kind, value.encode() + b"\0")


def u32(kind: int, value: int) -> bytes:
    return attribute(kind, struct.pack("=I", value))


def u16be(kind: int, value: int) -> bytes:
    return attribute(kind, struct.pack(">H", value))


def u8(kind: int, value: int) -> bytes:
    return attribute(kind, bytes((value,)))


def attributes(data: bytes) -> dict[int, bytes]:
    """Of a repeated attribute the last one stays."""
    found: dict[int, bytes] = {}
    at = 0
    while at + 4 <= len(data):
        length, kind = _ATTRIBUTE.unpack_from(data, at)
        if length < 4:
            break
        found[kind & _NLA_TYPE_MASK] = data[at + 4 : at + length]
        at += length + 3 & ~3
    return found


class Message:
    """One request. `about` is for the error's text; errors in `ignore` count as success."""

    __slots__ = ("about", "body", "flags", "ignore", "kind")

    def __init__(self, kind: int, flags: int, body: bytes, *, about: str, ignore: tuple[int, ...] = ()) -> None:
        self.kind = kind
        self.flags = flags
        self.body = body
        self.about = about
        self.ignore = ignore

    def encode(self, sequence: int, extra_flags: int = 0) -> bytes:
        flags = NLM_F_REQUEST | self.flags | extra_flags
        return HEADER.pack(16 + len(self.body), self.kind, flags, sequence, 0) + self.body


class Socket:
    """A blocking netlink socket of the namespace in which it was made. One thread at a time."""

    def __init__(self, protocol: int) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, protocol)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        self._socket.bind((0, 0))
        self._sequence = 1

    def __enter__(self) -> "Socket":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._socket.close()

    def _received(self) -> Iterator[tuple[int, int, bytes]]:
        """(type, sequence, body) of each message of one datagram."""
        data = self._socket.recv(_RECEIVE_BYTES)
        at = 0
        while at + 16 <= len(data):
            length, kind, _, sequence, _ = HEADER.unpack_from(data, at)
            if length < 16:
                break
            yield kind, sequence, data[at + 16 : at + length]
            at += length + 3 & ~3

    def run(self, messages: Sequence[Message]) -> None:
        """Send all in as few datagrams as sensible and wait for each answer. Raises the first error, after all were tried."""
        failure: NetlinkError | None = None
        at = 0
        while at < len(messages):
            waiting: dict[int, Message] = {}
            buffer = bytearray()
            while at < len(messages) and len(buffer) < _BATCH_BYTES:
                message = messages[at]
                self._sequence += 1
                waiting[self._sequence] = message
                buffer += message.encode(self._sequence, NLM_F_ACK)
                buffer += b"\0" * (-len(buffer) & 3)
                at += 1
            self._socket.send(buffer)
            while waiting:
                for kind, sequence, body in self._received():
                    if kind != NLMSG_ERROR or sequence not in waiting:
                        continue
                    number = -struct.unpack_from("=i", body)[0]
                    message = waiting.pop(sequence)
                    if number and number not in message.ignore and failure is None:
                        failure = NetlinkError(number, f"{message.about}: {os.strerror(number)}")
        if failure is not None:
            raise failure

    def ask(self, message: Message, *, dump: bool = False) -> list[bytes]:
        """Bodies of the answers, without headers."""
        self._sequence += 1
        wanted = self._sequence
        self._socket.send(message.encode(wanted, NLM_F_DUMP if dump else 0))
        bodies: list[bytes] = []
        while True:
            for kind, sequence, body in self._received():
                if sequence != wanted:
                    continue
                if kind == NLMSG_DONE:
                    return bodies
                if kind == NLMSG_ERROR:
                    number = -struct.unpack_from("=i", body)[0]
                    if number and number not in message.ignore:
                        raise NetlinkError(number, f"{message.about}: {os.strerror(number)}")
                    return bodies
                bodies.append(body)
            if bodies and not dump:
                return bodies

    def transact(self, datagram: bytes, about: dict[int, str]) -> None:
        """Send a whole nf_tables batch. The kernel answers before `send` returns, and only to complain or to acknowledge the last."""
        self._socket.send(datagram)
        failure: NetlinkError | None = None
        self._socket.setblocking(False)
        try:
            while True:
                for kind, sequence, body in self._received():
                    number = -struct.unpack_from("=i", body)[0] if kind == NLMSG_ERROR else 0
                    if number and failure is None:
                        failure = NetlinkError(number, f"{about.get(sequence, 'batch')}: {os.strerror(number)}")
        except BlockingIOError:
            pass
        finally:
            self._socket.setblocking(True)
        if failure is not None:
            raise failure
