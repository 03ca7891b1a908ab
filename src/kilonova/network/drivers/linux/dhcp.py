"""DHCPv4 for all networks of a host in the process's own event loop: a codec (RFC 2131, 2132, 3442) and a server.

Each network has one UDP socket in its service namespace for requests and one packet socket for answers, because a guest without
an address cannot be sent an ordinary datagram. Leases are not allocated here: a MAC has the address that the network service gave
its port, or gets no answer.
"""

import asyncio
import ipaddress
import socket
import struct
from collections.abc import Callable, Mapping

import msgspec

from kilonova.network.drivers.linux.rtnl import mac_bytes, mac_text

DISCOVER, OFFER, REQUEST, DECLINE, ACK, NAK, RELEASE, INFORM = range(1, 9)
_MAGIC = b"\x63\x82\x53\x63"
_FIXED = struct.Struct(">BBBBIHH4s4s4s4s16s64s128s")
_BROADCAST_FLAG = 0x8000
_MINIMUM_BYTES = 300
PAD, MASK, ROUTER, DNS, HOSTNAME, DOMAIN, MTU, BROADCAST = 0, 1, 3, 6, 12, 15, 26, 28
REQUESTED_IP, LEASE_TIME, MESSAGE_TYPE, SERVER_ID, RENEWAL, REBINDING, END = 50, 51, 53, 54, 58, 59, 255
CLASSLESS_ROUTES, MICROSOFT_ROUTES = 121, 249
METADATA_ROUTE = "169.254.169.254/32"
INFINITE = 0xFFFF_FFFF

NAMED_OPTIONS = {
    "netmask": (1, "ip"), "router": (3, "ip"), "dns-server": (6, "ip"), "log-server": (7, "ip"), "hostname": (12, "text"),
    "domain-name": (15, "text"), "root-path": (17, "text"), "mtu": (26, "u16"), "broadcast": (28, "ip"), "ntp-server": (42, "ip"),
    "netbios-ns": (44, "ip"), "lease-time": (51, "u32"), "vendor-class": (60, "text"), "tftp-server": (66, "text"),
    "tftp-server-name": (66, "text"), "bootfile-name": (67, "text"), "domain-search": (119, "domains"),
    "tftp-server-address": (150, "ip"), "path-prefix": (210, "text"), "server-ip-address": (0, "next"),
}  # fmt: skip


class Packet(msgspec.Struct, frozen=True, kw_only=True):
    """A BOOTP message with DHCP options by number. Addresses are text; `0.0.0.0` is none."""

    op: int
    xid: int
    seconds: int = 0
    flags: int = 0
    client_ip: str = "0.0.0.0"
    your_ip: str = "0.0.0.0"
    next_server_ip: str = "0.0.0.0"
    relay_ip: str = "0.0.0.0"
    mac: str
    options: dict[int, bytes] = {}

    @property
    def message_type(self) -> int:
        kind = self.options.get(MESSAGE_TYPE, b"")
        return kind[0] if len(kind) == 1 else 0


class Lease(msgspec.Struct, frozen=True, kw_only=True):
    """All that one MAC gets. `options` are ready to send, without message type."""

    ip: str
    server_ip: str
    next_server_ip: str = "0.0.0.0"
    options: dict[int, bytes]


def encode(packet: Packet) -> bytes:
    fixed = _FIXED.pack(
        packet.op,
        1,
        6,
        0,
        packet.xid,
        packet.seconds,
        packet.flags,
        *(ipaddress.IPv4Address(ip).packed for ip in (packet.client_ip, packet.your_ip, packet.next_server_ip, packet.relay_ip)),
        mac_bytes(packet.mac),
        b"",
        b"",
    )
    options = bytearray()
    for code, value in packet.options.items():
        for at in range(0, len(value), 255) if value else (0,):
            piece = value[at : at + 255]
            options += bytes((code, len(piece))) + piece
    return (fixed + _MAGIC + bytes(options) + bytes((END,))).ljust(_MINIMUM_BYTES, b"\0")


def decode(data: bytes) -> Packet:
    """Raises ValueError for what is no DHCP message. Pieces of a long option are joined (RFC 3396)."""
    if len(data) < _FIXED.size + 4 or data[_FIXED.size : _FIXED.size + 4] != _MAGIC:
        raise ValueError("not a DHCP message")
    op, hardware, length, _, xid, seconds, flags, client, your, server, relay, mac, _, _ = _FIXED.unpack_from(data)
    if hardware != 1 or length != 6:
        raise ValueError("not an Ethernet client")
    options: dict[int, bytes] = {}
    at = _FIXED.size + 4
    while at < len(data) and data[at] != END:
        if data[at] == PAD:
            at += 1
            continue
        if at + 1 >= len(data) or at + 2 + data[at + 1] > len(data):
            raise ValueError("an option is cut off")
        options[data[at]] = options.get(data[at], b"") + data[at + 2 : at + 2 + data[at + 1]]
        at += 2 + data[at + 1]
    client_ip, your_ip, next_server_ip, relay_ip = (str(ipaddress.IPv4Address(raw)) for raw in (client, your, server, relay))
    return Packet(
        op=op,
        xid=xid,
        seconds=seconds,
        flags=flags,
        client_ip=client_ip,
        your_ip=your_ip,
        next_server_ip=next_server_ip,
        relay_ip=relay_ip,
        mac=mac_text(mac[:6]),
        options=options,
    )


def encode_routes(routes: list[tuple[str, str]]) -> bytes:
    """Option 121: destination prefix and next hop, each prefix cut to its significant bytes."""
    data = bytearray()
    for destination, via in routes:
        network = ipaddress.IPv4Network(destination)
        data += bytes((network.prefixlen,)) + network.network_address.packed[: (network.prefixlen + 7) // 8]
        data += ipaddress.IPv4Address(via).packed
    return bytes(data)


def decode_routes(data: bytes) -> list[tuple[str, str]]:
    routes: list[tuple[str, str]] = []
    at = 0
    while at < len(data):
        prefix = data[at]
        size = (prefix + 7) // 8
        if prefix > 32 or at + 1 + size + 4 > len(data):
            raise ValueError("classless routes are cut off")
        address = ipaddress.IPv4Address(data[at + 1 : at + 1 + size].ljust(4, b"\0"))
        via = ipaddress.IPv4Address(data[at + 1 + size : at + 5 + size])
        routes.append((f"{address}/{prefix}", str(via)))
        at += 5 + size
    return routes


def encode_option(name: str, value: str) -> tuple[int, bytes]:
    """An extra option by name or number. Raises ValueError for an unknown name or a value that does not fit.

    Code 0 stands for the header's next-server field.
    """
    code, kind = NAMED_OPTIONS.get(name, (int(name), "text") if name.isdigit() else (-1, ""))
    if not 0 <= code < END:
        raise ValueError(f"DHCP option {name} is not known")
    if kind in ("ip", "next"):
        return code, b"".join(ipaddress.IPv4Address(part.strip()).packed for part in value.split(","))
    if kind in ("u16", "u32"):
        size = 2 if kind == "u16" else 4
        if not 0 <= int(value) < 1 << 8 * size:
            raise ValueError(f"DHCP option {name} cannot be {value}")
        return code, int(value).to_bytes(size, "big")
    if kind == "domains":
        return code, b"".join(_labels(name.strip()) for name in value.split(","))
    return code, value.encode()


def _labels(domain: str) -> bytes:
    parts = [part.encode() for part in domain.strip(".").split(".")]
    if not all(0 < len(part) < 64 for part in parts):
        raise ValueError(f"{domain!r} is not a domain name")
    return b"".join(bytes((len(part),)) + part for part in parts) + b"\0"


def reply(request: Packet, leases: Mapping[str, Lease]) -> Packet | None:
    """The whole of the server's policy. None: no answer."""
    lease = leases.get(request.mac)
    if request.op != 1 or lease is None or request.relay_ip != "0.0.0.0":
        return None
    kind = request.message_type
    server = request.options.get(SERVER_ID)
    if server is not None and server != ipaddress.IPv4Address(lease.server_ip).packed:
        return None
    if kind == DISCOVER:
        return _answer(request, lease, OFFER)
    if kind == REQUEST:
        wanted = request.options.get(REQUESTED_IP)
        asked = str(ipaddress.IPv4Address(wanted)) if wanted is not None and len(wanted) == 4 else request.client_ip
        return _answer(request, lease, ACK if asked == lease.ip else NAK)
    if kind == INFORM:
        return _answer(request, lease, ACK)
    return None


def _answer(request: Packet, lease: Lease, kind: int) -> Packet:
    options = {MESSAGE_TYPE: bytes((kind,)), SERVER_ID: ipaddress.IPv4Address(lease.server_ip).packed}
    if kind != NAK:
        timers = () if request.message_type == INFORM else (LEASE_TIME, RENEWAL, REBINDING)
        options |= {
            code: value
            for code, value in lease.options.items()
            if code in timers or code not in (LEASE_TIME, RENEWAL, REBINDING, MESSAGE_TYPE, SERVER_ID)
        }
    given = kind != NAK and request.message_type != INFORM
    return Packet(
        op=2,
        xid=request.xid,
        flags=request.flags | (_BROADCAST_FLAG if kind == NAK else 0),
        client_ip=request.client_ip if kind == ACK else "0.0.0.0",
        your_ip=lease.ip if given else "0.0.0.0",
        next_server_ip=lease.next_server_ip if kind != NAK else "0.0.0.0",
        mac=request.mac,
        options=options,
    )


def _checksum(data: bytes) -> int:
    if len(data) % 2:
        data += b"\0"
    total: int = sum(struct.unpack(f">{len(data) // 2}H", data))
    while total > 0xFFFF:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def frame(source_mac: str, source_ip: str, answer: Packet) -> bytes:
    """The answer as an Ethernet frame: to everybody if the client asked so or has no usable address, else to its MAC."""
    everybody = bool(answer.flags & _BROADCAST_FLAG)
    target = "255.255.255.255" if everybody else next(ip for ip in (answer.client_ip, answer.your_ip) if ip != "0.0.0.0")
    payload = encode(answer)
    addresses = ipaddress.IPv4Address(source_ip).packed + ipaddress.IPv4Address(target).packed
    datagram = struct.pack(">HHHH", 67, 68, 8 + len(payload), 0) + payload
    checked = _checksum(addresses + struct.pack(">BBH", 0, 17, len(datagram)) + datagram) or 0xFFFF
    datagram = datagram[:6] + struct.pack(">H", checked) + datagram[8:]
    header = struct.pack(">BBHHHBBH", 0x45, 0, 20 + len(datagram), 0, 0, 64, 17, 0) + addresses
    header = header[:10] + struct.pack(">H", _checksum(header)) + header[12:]
    destination = b"\xff" * 6 if everybody else mac_bytes(answer.mac)
    return destination + mac_bytes(source_mac) + b"\x08\x00" + header + datagram


def open_sockets(interface: str) -> tuple[socket.socket, socket.socket]:
    """(requests in, frames out), in the namespace of the calling thread."""
    listening = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    sending = socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC, 0)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, interface.encode())
        listening.bind(("0.0.0.0", 67))
        sending.bind((interface, 0))
    except OSError:
        listening.close()
        sending.close()
        raise
    return listening, sending


class Server:
    """One network's DHCP. `leases` is the live table, by MAC; the driver changes it while the server runs. `discard` closes the
    packet socket, which blocks for milliseconds and so should not happen in the loop."""

    def __init__(
        self,
        mac: str,
        sockets: tuple[socket.socket, socket.socket],
        leases: Mapping[str, Lease],
        discard: Callable[[socket.socket], None] = socket.socket.close,
    ) -> None:
        self._discard = discard
        self._mac = mac
        self._listening, self._sending = sockets
        self._leases = leases
        self._loop: asyncio.AbstractEventLoop | None = None
        self.answered = 0
        self.refused = 0

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        loop.add_reader(self._listening.fileno(), self._readable)

    def close(self) -> None:
        if self._loop is not None:
            self._loop.remove_reader(self._listening.fileno())
            self._loop = None
        self._listening.close()
        self._discard(self._sending)

    def _readable(self) -> None:
        """At most a few datagrams in one go, so that one guest's flood does not hold up the loop."""
        for _ in range(16):
            try:
                data = self._listening.recv(4096)
            except OSError:
                return
            try:
                answer = reply(decode(data), self._leases)
                if answer is None:
                    self.refused += 1
                    continue
                self._sending.send(frame(self._mac, self._leases[answer.mac].server_ip, answer))
                self.answered += 1
            except (ValueError, OSError, StopIteration):
                self.refused += 1
