"""Links, addresses, routes, neighbours and bridge forwarding entries over raw rtnetlink.

Functions make messages, `Route` sends them. Numbers are from linux/if_link.h, if_addr.h, rtnetlink.h and neighbour.h.
"""

import errno
import ipaddress
import socket
import struct
from collections.abc import Sequence

import msgspec

from kilonova.network.drivers.linux.netlink import (
    NLM_F_APPEND,
    NLM_F_CREATE,
    NLM_F_EXCL,
    NLM_F_REPLACE,
    Message,
    Socket,
    attribute,
    attributes,
    nested,
    text,
    u8,
    u16be,
    u32,
)

_RTM_NEWLINK, _RTM_DELLINK, _RTM_GETLINK = 16, 17, 18
_RTM_NEWADDR, _RTM_DELADDR, _RTM_GETADDR = 20, 21, 22
_RTM_NEWROUTE, _RTM_DELROUTE, _RTM_GETROUTE = 24, 25, 26
_RTM_NEWNEIGH, _RTM_DELNEIGH, _RTM_GETNEIGH = 28, 29, 30

_IFLA_ADDRESS, _IFLA_IFNAME, _IFLA_MTU, _IFLA_MASTER, _IFLA_LINKINFO = 1, 3, 4, 10, 18
_IFLA_IFALIAS, _IFLA_GROUP, _IFLA_NET_NS_FD = 20, 27, 28
_INFO_KIND, _INFO_DATA, _INFO_SLAVE_KIND, _INFO_SLAVE_DATA = 1, 2, 4, 5
_VETH_PEER = 1
_BR_FORWARD_DELAY, _BR_MCAST_SNOOPING = 1, 23
_BRPORT_LEARNING, _BRPORT_NEIGH_SUPPRESS = 8, 32
_VXLAN_ID, _VXLAN_LOCAL, _VXLAN_LEARNING, _VXLAN_PORT = 1, 4, 7, 15
VXLAN_UDP_PORT = 4789

_IFF_UP = 1
_IFA_ADDRESS, _IFA_LOCAL, _IFA_F_NODAD, _IFA_F_PERMANENT = 1, 2, 0x02, 0x80
_RTA_DST, _RTA_OIF, _RTA_GATEWAY = 1, 4, 5
_RT_TABLE_MAIN, RTPROT_STATIC, _RT_SCOPE_UNIVERSE, _RT_SCOPE_LINK, _RTN_UNICAST, _RTNH_F_ONLINK = 254, 4, 0, 253, 1, 4
_NDA_DST, _NDA_LLADDR = 1, 2
_NUD_PERMANENT, _NUD_NOARP = 0x80, 0x40
_NTF_SELF, _NTF_MASTER = 0x02, 0x04

FLOOD_MAC = "00:00:00:00:00:00"


class Link(msgspec.Struct, frozen=True, kw_only=True):
    index: int
    name: str
    kind: str | None
    master: int | None
    mtu: int
    mac: str
    up: bool
    alias: str | None


class Address(msgspec.Struct, frozen=True, kw_only=True):
    index: int
    cidr: str
    """Address and prefix length, `10.0.0.1/24`."""
    permanent: bool


class RouteEntry(msgspec.Struct, frozen=True, kw_only=True):
    destination: str
    via: str | None
    index: int | None
    protocol: int


class Neighbour(msgspec.Struct, frozen=True, kw_only=True):
    """Of the ARP/ND tables (`ip` set) or of a bridge's or VXLAN device's forwarding table (`dst` only for VXLAN)."""

    index: int
    mac: str | None
    ip: str | None
    state: int
    on_device: bool


def mac_bytes(mac: str) -> bytes:
    raw = bytes.fromhex(mac.replace(":", ""))
    if len(raw) != 6:
        raise ValueError(f"{mac!r} is not a MAC address.")
    return raw


def mac_text(raw: bytes) -> str:
    return raw.hex(":")


def ip_bytes(ip: str) -> bytes:
    return ipaddress.ip_address(ip).packed


def _ip_text(raw: bytes) -> str:
    return str(ipaddress.ip_address(raw))


def _family(raw: bytes) -> int:
    return socket.AF_INET if len(raw) == 4 else socket.AF_INET6


def _link_header(index: int = 0, flags: int = 0, change: int = 0, family: int = 0) -> bytes:
    return struct.pack("=BxHiII", family, 0, index, flags, change)


def add_bridge(name: str, *, mtu: int, mac: str, up: bool = True) -> Message:
    data = nested(_INFO_DATA, u32(_BR_FORWARD_DELAY, 0), u8(_BR_MCAST_SNOOPING, 0))
    return _add(name, "bridge", data, mtu=mtu, mac=mac, up=up)


def add_vxlan(name: str, *, vni: int, local_ip: str, mtu: int, master: int, namespace_fd: int | None = None) -> Message:
    """Neither multicast nor learning: who is where is told by `put_fdb`.

    namespace_fd: where the link is born, on a bridge there. Its packets come and go in the namespace of the socket that asks for it."""
    local = attribute(_VXLAN_LOCAL, ip_bytes(local_ip))
    data = nested(_INFO_DATA, u32(_VXLAN_ID, vni), local, u8(_VXLAN_LEARNING, 0), u16be(_VXLAN_PORT, VXLAN_UDP_PORT))
    return _add(name, "vxlan", data, mtu=mtu, master=master, namespace_fd=namespace_fd)


def add_veth(
    name: str, *, peer: str, peer_namespace_fd: int, mtu: int, peer_mac: str | None = None, master: int | None = None, up: bool = True
) -> Message:
    """The peer is born in the other namespace, under its final name."""
    inside = _link_header() + text(_IFLA_IFNAME, peer) + u32(_IFLA_MTU, mtu) + u32(_IFLA_NET_NS_FD, peer_namespace_fd)
    if peer_mac is not None:
        inside += attribute(_IFLA_ADDRESS, mac_bytes(peer_mac))
    return _add(name, "veth", nested(_INFO_DATA, attribute(_VETH_PEER, inside)), mtu=mtu, master=master, up=up)


def add_kind(name: str, kind: str) -> Message:
    """A bare link of some kind: for probing what the kernel has."""
    return _add(name, kind, b"", up=False)


def _add(
    name: str,
    kind: str,
    data: bytes,
    *,
    mtu: int | None = None,
    mac: str | None = None,
    master: int | None = None,
    up: bool = False,
    namespace_fd: int | None = None,
) -> Message:
    body = _link_header(flags=_IFF_UP if up else 0, change=_IFF_UP if up else 0) + text(_IFLA_IFNAME, name)
    if mtu is not None:
        body += u32(_IFLA_MTU, mtu)
    if mac is not None:
        body += attribute(_IFLA_ADDRESS, mac_bytes(mac))
    body += nested(_IFLA_LINKINFO, text(_INFO_KIND, kind), data)
    if master is not None:
        body += u32(_IFLA_MASTER, master)
    if namespace_fd is not None:
        body += u32(_IFLA_NET_NS_FD, namespace_fd)
    return Message(_RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, body, about=f"create link {name}")


def set_link(
    name: str,
    *,
    up: bool | None = None,
    mtu: int | None = None,
    mac: str | None = None,
    master: int | None = None,
    alias: str | None = None,
) -> Message:
    """`master=0` takes it off its bridge."""
    flags, change = (_IFF_UP if up else 0, _IFF_UP) if up is not None else (0, 0)
    body = _link_header(flags=flags, change=change) + text(_IFLA_IFNAME, name)
    if mtu is not None:
        body += u32(_IFLA_MTU, mtu)
    if mac is not None:
        body += attribute(_IFLA_ADDRESS, mac_bytes(mac))
    if master is not None:
        body += u32(_IFLA_MASTER, master)
    if alias is not None:
        body += text(_IFLA_IFALIAS, alias)
    return Message(_RTM_NEWLINK, 0, body, about=f"set link {name}")


def quiet_bridge_port(name: str) -> Message:
    """No learning on this bridge port, and ARP and ND answered from the bridge's own neighbour table instead of flooded."""
    data = nested(_INFO_SLAVE_DATA, u8(_BRPORT_LEARNING, 0), u8(_BRPORT_NEIGH_SUPPRESS, 1))
    body = _link_header() + text(_IFLA_IFNAME, name) + nested(_IFLA_LINKINFO, text(_INFO_SLAVE_KIND, "bridge"), data)
    return Message(_RTM_NEWLINK, 0, body, about=f"set bridge port {name}")


def group_link(name: str, group: int) -> Message:
    """Puts the link into a group, to be deleted with `delete_group`."""
    body = _link_header() + text(_IFLA_IFNAME, name) + u32(_IFLA_GROUP, group)
    return Message(_RTM_NEWLINK, 0, body, about=f"group link {name}", ignore=(errno.ENODEV,))


def delete_group(group: int) -> Message:
    """Many links at the price of one: each single deletion waits for every processor to pass by."""
    return Message(_RTM_DELLINK, 0, _link_header() + u32(_IFLA_GROUP, group), about="delete links", ignore=(errno.ENODEV,))


def delete_link(name: str) -> Message:
    return Message(_RTM_DELLINK, 0, _link_header() + text(_IFLA_IFNAME, name), about=f"delete link {name}", ignore=(errno.ENODEV,))


def _address(kind: int, flags: int, index: int, cidr: str, ignore: tuple[int, ...]) -> Message:
    interface = ipaddress.ip_interface(cidr)
    raw = interface.ip.packed
    nodad = _IFA_F_NODAD if len(raw) == 16 else 0
    header = struct.pack("=BBBBI", _family(raw), interface.network.prefixlen, nodad, 0, index)
    body = header + attribute(_IFA_LOCAL, raw) + attribute(_IFA_ADDRESS, raw)
    return Message(kind, flags, body, about=f"address {cidr}", ignore=ignore)


def add_address(index: int, cidr: str) -> Message:
    return _address(_RTM_NEWADDR, NLM_F_CREATE | NLM_F_REPLACE, index, cidr, ())


def delete_address(index: int, cidr: str) -> Message:
    return _address(_RTM_DELADDR, 0, index, cidr, (errno.EADDRNOTAVAIL,))


def _route(kind: int, flags: int, destination: str, via: str | None, index: int | None, ignore: tuple[int, ...]) -> Message:
    network = ipaddress.ip_network(destination)
    raw = network.network_address.packed
    scope = _RT_SCOPE_UNIVERSE if via is not None or len(raw) == 16 else _RT_SCOPE_LINK
    onlink = _RTNH_F_ONLINK if via is not None and index is not None else 0
    header = struct.pack("=BBBBBBBBI", _family(raw), network.prefixlen, 0, 0, _RT_TABLE_MAIN, RTPROT_STATIC, scope, _RTN_UNICAST, onlink)
    body = header + attribute(_RTA_DST, raw)
    if via is not None:
        body += attribute(_RTA_GATEWAY, ip_bytes(via))
    if index is not None:
        body += u32(_RTA_OIF, index)
    return Message(kind, flags, body, about=f"route {destination}", ignore=ignore)


def add_route(destination: str, *, via: str | None = None, index: int | None = None) -> Message:
    """With both, the next hop need not lie in a prefix of the link."""
    return _route(_RTM_NEWROUTE, NLM_F_CREATE | NLM_F_REPLACE, destination, via, index, ())


def delete_route(destination: str, *, via: str | None = None, index: int | None = None) -> Message:
    return _route(_RTM_DELROUTE, 0, destination, via, index, (errno.ESRCH,))


def _neigh(kind: int, flags: int, family: int, index: int, state: int, ntf: int, rest: bytes, about: str) -> Message:
    body = struct.pack("=BxHiHBB", family, 0, index, state, ntf, 0) + rest
    ignore = (errno.ENOENT, errno.ESRCH) if kind == _RTM_DELNEIGH else ()
    return Message(kind, flags, body, about=about, ignore=ignore)


def put_neighbour(index: int, ip: str, mac: str) -> Message:
    raw = ip_bytes(ip)
    rest = attribute(_NDA_DST, raw) + attribute(_NDA_LLADDR, mac_bytes(mac))
    return _neigh(_RTM_NEWNEIGH, NLM_F_CREATE | NLM_F_REPLACE, _family(raw), index, _NUD_PERMANENT, 0, rest, f"neighbour {ip}")


def delete_neighbour(index: int, ip: str) -> Message:
    raw = ip_bytes(ip)
    return _neigh(_RTM_DELNEIGH, 0, _family(raw), index, 0, 0, attribute(_NDA_DST, raw), f"neighbour {ip}")


def put_tunnel_entry(vxlan: int, mac: str, vtep_ip: str) -> Message:
    """Frames to `mac` leave the VXLAN device for `vtep_ip`."""
    rest = attribute(_NDA_LLADDR, mac_bytes(mac)) + attribute(_NDA_DST, ip_bytes(vtep_ip))
    flags = NLM_F_CREATE | NLM_F_REPLACE
    return _neigh(_RTM_NEWNEIGH, flags, socket.AF_BRIDGE, vxlan, _NUD_PERMANENT, _NTF_SELF, rest, f"fdb {mac} to {vtep_ip}")


def delete_tunnel_entry(vxlan: int, mac: str) -> Message:
    return _neigh(_RTM_DELNEIGH, 0, socket.AF_BRIDGE, vxlan, 0, _NTF_SELF, attribute(_NDA_LLADDR, mac_bytes(mac)), f"fdb {mac}")


def add_flood(vxlan: int, vtep_ip: str) -> Message:
    rest = attribute(_NDA_LLADDR, mac_bytes(FLOOD_MAC)) + attribute(_NDA_DST, ip_bytes(vtep_ip))
    flags = NLM_F_CREATE | NLM_F_APPEND
    message = _neigh(_RTM_NEWNEIGH, flags, socket.AF_BRIDGE, vxlan, _NUD_PERMANENT, _NTF_SELF, rest, f"flood to {vtep_ip}")
    message.ignore = (errno.EEXIST,)
    return message


def delete_flood(vxlan: int, vtep_ip: str) -> Message:
    rest = attribute(_NDA_LLADDR, mac_bytes(FLOOD_MAC)) + attribute(_NDA_DST, ip_bytes(vtep_ip))
    return _neigh(_RTM_DELNEIGH, 0, socket.AF_BRIDGE, vxlan, 0, _NTF_SELF, rest, f"flood to {vtep_ip}")


def put_bridge_entry(port: int, mac: str) -> Message:
    """The bridge sends frames for `mac` to this port and does not learn otherwise."""
    rest = attribute(_NDA_LLADDR, mac_bytes(mac))
    return _neigh(_RTM_NEWNEIGH, NLM_F_CREATE | NLM_F_REPLACE, socket.AF_BRIDGE, port, _NUD_NOARP, _NTF_MASTER, rest, f"fdb {mac}")


def delete_bridge_entry(port: int, mac: str) -> Message:
    return _neigh(_RTM_DELNEIGH, 0, socket.AF_BRIDGE, port, 0, _NTF_MASTER, attribute(_NDA_LLADDR, mac_bytes(mac)), f"fdb {mac}")


def _parse_link(body: bytes) -> Link:
    index, flags = struct.unpack_from("=iI", body, 4)
    found = attributes(body[16:])
    info = attributes(found.get(_IFLA_LINKINFO, b""))
    master = found.get(_IFLA_MASTER)
    return Link(
        index=index,
        name=found[_IFLA_IFNAME].rstrip(b"\0").decode(),
        kind=info[_INFO_KIND].rstrip(b"\0").decode() if _INFO_KIND in info else None,
        master=struct.unpack("=I", master)[0] if master else None,
        mtu=struct.unpack("=I", found[_IFLA_MTU])[0],
        mac=mac_text(found.get(_IFLA_ADDRESS, b"")),
        up=bool(flags & _IFF_UP),
        alias=found[_IFLA_IFALIAS].rstrip(b"\0").decode() if _IFLA_IFALIAS in found else None,
    )


def _parse_neighbour(body: bytes) -> Neighbour:
    family, index, state, flags = struct.unpack_from("=B3xiHB", body)
    found = attributes(body[12:])
    return Neighbour(
        index=index,
        mac=mac_text(found[_NDA_LLADDR]) if _NDA_LLADDR in found else None,
        ip=_ip_text(found[_NDA_DST]) if _NDA_DST in found else None,
        state=state,
        on_device=family == socket.AF_BRIDGE and bool(flags & _NTF_SELF),
    )


class Route(Socket):
    """rtnetlink in the namespace of the thread that makes it."""

    def __init__(self) -> None:
        super().__init__(socket.NETLINK_ROUTE)

    def __enter__(self) -> "Route":
        return self

    def links(self) -> list[Link]:
        message = Message(_RTM_GETLINK, 0, _link_header(), about="list links")
        return sorted((_parse_link(body) for body in self.ask(message, dump=True)), key=lambda link: link.name)

    def link(self, name: str) -> Link | None:
        message = Message(_RTM_GETLINK, 0, _link_header() + text(_IFLA_IFNAME, name), about=f"link {name}", ignore=(errno.ENODEV,))
        bodies = self.ask(message)
        return _parse_link(bodies[0]) if bodies else None

    def index(self, name: str) -> int:
        link = self.link(name)
        if link is None:
            raise OSError(errno.ENODEV, f"link {name} does not exist")
        return link.index

    def addresses(self) -> list[Address]:
        bodies = self.ask(Message(_RTM_GETADDR, 0, struct.pack("=BBBBI", 0, 0, 0, 0, 0), about="list addresses"), dump=True)
        found: list[Address] = []
        for body in bodies:
            _, prefix, flags, _, index = struct.unpack_from("=BBBBI", body)
            values = attributes(body[8:])
            raw = values.get(_IFA_LOCAL) or values[_IFA_ADDRESS]
            found.append(Address(index=index, cidr=f"{_ip_text(raw)}/{prefix}", permanent=bool(flags & _IFA_F_PERMANENT)))
        return sorted(found, key=lambda address: (address.index, address.cidr))

    def routes(self) -> list[RouteEntry]:
        """Unicast routes of the main table."""
        found: list[RouteEntry] = []
        bodies = self.ask(Message(_RTM_GETROUTE, 0, struct.pack("=BBBBBBBBI", *(0,) * 9), about="list routes"), dump=True)
        for body in bodies:
            family, prefix, _, _, table, protocol, _, kind, _ = struct.unpack_from("=BBBBBBBBI", body)
            if table != _RT_TABLE_MAIN or kind != _RTN_UNICAST:
                continue
            values = attributes(body[12:])
            raw = values.get(_RTA_DST, b"\0" * (4 if family == socket.AF_INET else 16))
            via = values.get(_RTA_GATEWAY)
            out = values.get(_RTA_OIF)
            found.append(
                RouteEntry(
                    destination=f"{_ip_text(raw)}/{prefix}",
                    via=_ip_text(via) if via else None,
                    index=struct.unpack("=I", out)[0] if out else None,
                    protocol=protocol,
                )
            )
        return sorted(found, key=lambda route: (route.destination, route.via or ""))

    def neighbours(self, family: int) -> list[Neighbour]:
        """AF_INET, AF_INET6, or AF_BRIDGE for forwarding tables."""
        message = Message(_RTM_GETNEIGH, 0, struct.pack("=BxHiHBB", family, 0, 0, 0, 0, 0), about="list neighbours")
        found = [_parse_neighbour(body) for body in self.ask(message, dump=True)]
        return sorted(found, key=lambda entry: (entry.index, entry.mac or "", entry.ip or ""))

    def do(self, *messages: Message) -> None:
        self.run(messages)

    def do_all(self, messages: Sequence[Message]) -> None:
        self.run(messages)
