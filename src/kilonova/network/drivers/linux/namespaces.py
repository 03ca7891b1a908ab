"""Bringing a router's or a network's service namespace to what a plan says, whatever it was before."""

import ipaddress
import socket
import struct
from collections.abc import Callable
from contextlib import suppress
from typing import Protocol

import msgspec

from kilonova.network.drivers.linux import netns, rtnl
from kilonova.network.drivers.linux.rtnl import Route


class Closable(Protocol):
    def close(self) -> None: ...


Discard = Callable[[Closable], None]
Load = Callable[[bool], None]


class Leg(msgspec.Struct, frozen=True, kw_only=True):
    """A veth pair: `name` inside, `host_name` on `bridge` in the host namespace. Addresses carry their prefix length."""

    name: str
    host_name: str
    bridge: str
    mac: str
    mtu: int
    addresses: tuple[str, ...] = ()


class RouteWish(msgspec.Struct, frozen=True, kw_only=True):
    destination: str
    via: str | None = None
    leg: str | None = None


class NamespacePlan(msgspec.Struct, frozen=True, kw_only=True):
    """`script` is nftables text that replaces all the namespace's rules, or None for no rules. `announced`: neighbours may know
    the addresses under another MAC, so tell them."""

    namespace: str
    legs: tuple[Leg, ...]
    routes: tuple[RouteWish, ...] = ()
    sysctls: tuple[tuple[str, int], ...] = ()
    script: str | None = None
    announced: bool = True


class Realised(msgspec.Struct, frozen=True, kw_only=True):
    """`fresh_legs` are new links: sockets bound to ones of that name before are dead."""

    created: bool
    fresh_legs: frozenset[str]


def realise(plan: NamespacePlan, host: Route, bridges: dict[str, int], discard: Discard, load: Load | None) -> Realised:
    """Runs in the host namespace's thread. `bridges`: name to index. `load` is called inside once the links are up, and told whether
    the namespace is new. Idempotent.

    `discard` closes things elsewhere: closing a packet socket waits for an RCU grace period, 5 to 15 ms.
    """
    created = netns.create(plan.namespace)
    with netns.entered(plan.namespace), Route() as inside:
        if created:
            for key, value in plan.sysctls:
                netns.write_sysctl(key, value)
            inside.do(rtnl.set_link("lo", up=True))
            present: dict[str, rtnl.Link] = {}
        else:
            present = _without_strangers(inside, {leg.name for leg in plan.legs})
    fresh = _connect(plan, host, bridges, present)
    with netns.entered(plan.namespace), Route() as inside:
        indexes = _settle_links(plan, inside)
        added = _settle_addresses(plan, inside, indexes)
        _settle_routes(plan, inside, indexes)
        if load is not None:
            load(created)
        if plan.announced and added:
            announce(added, discard)
    return Realised(created=created, fresh_legs=frozenset(fresh))


def _without_strangers(inside: Route, wanted: set[str]) -> dict[str, rtnl.Link]:
    present = {link.name: link for link in inside.links() if link.name != "lo"}
    strangers = [name for name in present if name not in wanted]
    inside.do_all([rtnl.delete_link(name) for name in strangers])
    return {name: link for name, link in present.items() if name in wanted}


def _connect(plan: NamespacePlan, host: Route, bridges: dict[str, int], present: dict[str, rtnl.Link]) -> set[str]:
    """The host's ends on their bridges. A pair of which one end is missing or foreign is made anew."""
    fresh: set[str] = set()
    with netns.opened(plan.namespace) as descriptor:
        for leg in plan.legs:
            master = bridges[leg.bridge]
            outer = host.link(leg.host_name)
            if outer is not None and leg.name in present:
                if outer.master != master or outer.mtu != leg.mtu or not outer.up:
                    host.do(rtnl.set_link(leg.host_name, master=master, mtu=leg.mtu, up=True))
                continue
            if outer is not None:
                host.do(rtnl.delete_link(leg.host_name))
            elif leg.name in present:
                with netns.entered(plan.namespace), Route() as inside:
                    inside.do(rtnl.delete_link(leg.name))
            host.do(rtnl.add_veth(leg.host_name, peer=leg.name, peer_namespace_fd=descriptor, mtu=leg.mtu, peer_mac=leg.mac, master=master))
            fresh.add(leg.name)
    return fresh


def _settle_links(plan: NamespacePlan, inside: Route) -> dict[str, int]:
    links = {link.name: link for link in inside.links()}
    for leg in plan.legs:
        link = links[leg.name]
        if link.mac != leg.mac:
            inside.do(rtnl.set_link(leg.name, up=False), rtnl.set_link(leg.name, mac=leg.mac, mtu=leg.mtu, up=True))
        elif link.mtu != leg.mtu or not link.up:
            inside.do(rtnl.set_link(leg.name, mtu=leg.mtu, up=True))
    return {leg.name: links[leg.name].index for leg in plan.legs}


def _settle_addresses(plan: NamespacePlan, inside: Route, indexes: dict[str, int]) -> list[tuple[Leg, str]]:
    """Returns the IPv4 addresses that are new, for announcing them."""
    present: dict[int, set[str]] = {}
    for address in inside.addresses():
        if address.permanent and not (":" in address.cidr and ipaddress.ip_interface(address.cidr).ip.is_link_local):
            present.setdefault(address.index, set()).add(address.cidr)
    added: list[tuple[Leg, str]] = []
    for leg in plan.legs:
        index = indexes[leg.name]
        have = present.get(index, set())
        inside.do_all([rtnl.delete_address(index, cidr) for cidr in sorted(have - set(leg.addresses))])
        new = [cidr for cidr in leg.addresses if cidr not in have]
        inside.do_all([rtnl.add_address(index, cidr) for cidr in new])
        added += [(leg, cidr.partition("/")[0]) for cidr in new if ":" not in cidr]
    return added


def _settle_routes(plan: NamespacePlan, inside: Route, indexes: dict[str, int]) -> None:
    have = {(r.destination, r.via): r for r in inside.routes() if r.protocol == rtnl.RTPROT_STATIC}
    want = {(str(ipaddress.ip_network(wish.destination)), wish.via): wish for wish in plan.routes}
    inside.do_all([rtnl.delete_route(r.destination, via=r.via, index=r.index) for key, r in have.items() if key not in want])
    for key, wish in want.items():
        index = indexes[wish.leg] if wish.leg is not None else None
        if key not in have or (index is not None and have[key].index != index):
            inside.do(rtnl.add_route(wish.destination, via=wish.via, index=index))


def announce(addresses: list[tuple[Leg, str]], discard: Discard) -> None:
    """Gratuitous ARP requests, so that neighbours forget who had the addresses before."""
    raw = socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_CLOEXEC, 0)
    try:
        for leg, ip in addresses:
            own, address = rtnl.mac_bytes(leg.mac), rtnl.ip_bytes(ip)
            body = struct.pack(">HHBBH", 1, 0x0800, 6, 4, 1) + own + address + bytes(6) + address
            with suppress(OSError):
                raw.sendto(b"\xff" * 6 + own + b"\x08\x06" + body, (leg.name, 0x0806))
    finally:
        discard(raw)


def remove(plan: NamespacePlan, host: Route) -> None:
    """The links first: sockets still open could keep the namespace, and with it the links, alive."""
    for leg in plan.legs:
        host.do(rtnl.delete_link(leg.host_name))
    netns.remove(plan.namespace)
