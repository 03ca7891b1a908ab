"""Router advertisements (RFC 4861, 4862) from router namespaces: one raw socket for each leg that has an IPv6 prefix."""

import asyncio
import ipaddress
import socket
import struct
from contextlib import suppress

import msgspec

from kilonova.network.drivers.linux.rtnl import mac_bytes

_ALL_NODES, _ALL_ROUTERS = "ff02::1", "ff02::2"
_SOLICITATION, _ADVERTISEMENT = 133, 134
_ICMP6_FILTER = 1
_INTERVAL_S = 60.0
_FIRST_S = (0.5, 4.0)
_ROUTER_LIFETIME_S, _VALID_S, _PREFERRED_S = 1800, 86400, 14400


class Advertisement(msgspec.Struct, frozen=True, kw_only=True):
    """What one leg says. `managed` and `other` point guests to DHCPv6; `autonomous` lets them make their own address."""

    prefixes: tuple[str, ...]
    mtu: int
    mac: str
    autonomous: bool = True
    managed: bool = False
    other: bool = False


def encode(advertisement: Advertisement) -> bytes:
    """The kernel fills in the checksum."""
    flags = (0x80 if advertisement.managed else 0) | (0x40 if advertisement.other else 0)
    data = struct.pack(">BBHBBHII", _ADVERTISEMENT, 0, 0, 64, flags, _ROUTER_LIFETIME_S, 0, 0)
    data += b"\x01\x01" + mac_bytes(advertisement.mac)
    data += struct.pack(">BBHI", 5, 1, 0, advertisement.mtu)
    for prefix in advertisement.prefixes:
        network = ipaddress.IPv6Network(prefix)
        on_link = 0x80 | (0x40 if advertisement.autonomous else 0)
        data += struct.pack(">BBBBIII", 3, 4, network.prefixlen, on_link, _VALID_S, _PREFERRED_S, 0) + network.network_address.packed
    return data


def open_socket(interface: str) -> socket.socket:
    """In the namespace of the calling thread; hears solicitations only."""
    raw = socket.socket(socket.AF_INET6, socket.SOCK_RAW | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC, socket.IPPROTO_ICMPV6)
    try:
        index = socket.if_nametoindex(interface)
        blocked = bytearray(b"\xff" * 32)
        blocked[_SOLICITATION // 32 * 4 : _SOLICITATION // 32 * 4 + 4] = struct.pack("=I", 0xFFFF_FFFF & ~(1 << _SOLICITATION % 32))
        raw.setsockopt(socket.IPPROTO_ICMPV6, _ICMP6_FILTER, bytes(blocked))
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, interface.encode())
        raw.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_HOPS, 255)
        raw.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_IF, index)
        group = socket.inet_pton(socket.AF_INET6, _ALL_ROUTERS) + struct.pack("=I", index)
        raw.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_JOIN_GROUP, group)
    except OSError:
        raw.close()
        raise
    return raw


class Server:
    """Speaks on start, then each minute, and whenever a guest asks."""

    def __init__(self, raw: socket.socket, advertisement: Advertisement) -> None:
        self._socket = raw
        self.advertisement = advertisement
        self._loop: asyncio.AbstractEventLoop | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._first = list(_FIRST_S)
        self.sent = 0

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        loop.add_reader(self._socket.fileno(), self._readable)
        self._periodic()

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if self._loop is not None:
            self._loop.remove_reader(self._socket.fileno())
            self._loop = None
        self._socket.close()

    def _periodic(self) -> None:
        self._send()
        if self._loop is not None:
            self._timer = self._loop.call_later(self._first.pop(0) if self._first else _INTERVAL_S, self._periodic)

    def _send(self) -> None:
        with suppress(OSError):
            self._socket.sendto(encode(self.advertisement), (_ALL_NODES, 0))
            self.sent += 1

    def _readable(self) -> None:
        """However many ask at once, one answer to all is enough."""
        with suppress(OSError):
            while self._socket.recv(1500):
                pass
        self._send()
