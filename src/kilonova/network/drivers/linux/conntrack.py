"""Connection tracking entries over netlink: list, mark, delete. Numbers from linux/netfilter/nfnetlink_conntrack.h."""

import errno
import ipaddress
import struct

import msgspec

from kilonova.network.drivers.linux.netlink import NETLINK_NETFILTER, NLA_F_NESTED, Message, Socket, attribute, attributes

_SUBSYSTEM = 1
_NEW, _GET, _DELETE = 0, 1, 2
_TUPLE_ORIG, _TUPLE_REPLY, _MARK, _ZONE = 1, 2, 8, 18
_TUPLE_IP, _TUPLE_PROTO = 1, 2
_V4_SRC, _V4_DST, _V6_SRC, _V6_DST = 1, 2, 3, 4
_PROTO_NUMBER, _SRC_PORT, _DST_PORT = 1, 2, 3
_ICMP_TYPE, _ICMP_CODE, _ICMP6_TYPE, _ICMP6_CODE = 5, 6, 8, 9
REVOKED = 1
"""Mark of an entry whose packets are judged by the rules again, each one, instead of passing as established."""


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """A tracked connection, seen from whoever began it. For ICMP `destination_port` is None and type and code are set."""

    zone: int
    mark: int
    protocol: int
    source: str
    destination: str
    reply_destination: str
    destination_port: int | None
    icmp_type: int | None
    icmp_code: int | None
    raw_tuple: bytes
    family: int


def _addresses(ip: dict[int, bytes]) -> tuple[str, str]:
    if _V4_SRC in ip:
        return str(ipaddress.IPv4Address(ip[_V4_SRC])), str(ipaddress.IPv4Address(ip[_V4_DST]))
    return str(ipaddress.IPv6Address(ip[_V6_SRC])), str(ipaddress.IPv6Address(ip[_V6_DST]))


def parse(body: bytes) -> Entry | None:
    """`body` begins with the nfgenmsg. None for what is not an IP connection."""
    found = attributes(body[4:])
    if _TUPLE_ORIG not in found or _TUPLE_REPLY not in found:
        return None
    original = attributes(found[_TUPLE_ORIG])
    proto = attributes(original[_TUPLE_PROTO])
    source, destination = _addresses(attributes(original[_TUPLE_IP]))
    icmp_type = proto.get(_ICMP_TYPE) or proto.get(_ICMP6_TYPE)
    icmp_code = proto.get(_ICMP_CODE) or proto.get(_ICMP6_CODE)
    port = proto.get(_DST_PORT)
    return Entry(
        zone=struct.unpack(">H", found[_ZONE])[0] if _ZONE in found else 0,
        mark=struct.unpack(">I", found[_MARK])[0] if _MARK in found else 0,
        protocol=proto[_PROTO_NUMBER][0],
        source=source,
        destination=destination,
        reply_destination=_addresses(attributes(attributes(found[_TUPLE_REPLY])[_TUPLE_IP]))[1],
        destination_port=struct.unpack(">H", port)[0] if port else None,
        icmp_type=icmp_type[0] if icmp_type else None,
        icmp_code=icmp_code[0] if icmp_code else None,
        raw_tuple=found[_TUPLE_ORIG],
        family=body[0],
    )


class Conntrack(Socket):
    """Of the namespace of the thread that makes it."""

    def __init__(self) -> None:
        super().__init__(NETLINK_NETFILTER)

    def __enter__(self) -> "Conntrack":
        return self

    def entries(self) -> list[Entry]:
        message = Message(_SUBSYSTEM << 8 | _GET, 0, struct.pack("=BBH", 0, 0, 0), about="list connections")
        return [entry for entry in map(parse, self.ask(message, dump=True)) if entry is not None]

    @staticmethod
    def _message(kind: int, entry: Entry, rest: bytes, about: str) -> Message:
        body = struct.pack("=BBH", entry.family, 0, 0) + attribute(_TUPLE_ORIG | NLA_F_NESTED, entry.raw_tuple)
        if entry.zone:
            body += attribute(_ZONE, struct.pack(">H", entry.zone))
        return Message(_SUBSYSTEM << 8 | kind, 0, body + rest, about=about, ignore=(errno.ENOENT,))

    def mark(self, marks: list[tuple[Entry, int]]) -> None:
        """Entries that have ended meanwhile are passed over."""
        self.run([self._message(_NEW, entry, attribute(_MARK, struct.pack(">I", mark)), "mark connection") for entry, mark in marks])

    def delete(self, entries: list[Entry]) -> None:
        self.run([self._message(_DELETE, entry, b"", "end connection") for entry in entries])
