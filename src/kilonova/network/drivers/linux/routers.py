"""A router as a namespace plan. Pure.

Floating IPs are two maps, so that their number costs nothing per packet. Order in `postrouting` matters: a guest's own floating
IP wins over the router's address, on the way out as on the way back to a neighbour (hairpin).
"""

import ipaddress
from collections.abc import Iterable, Mapping

import msgspec

from kilonova.network import rpc
from kilonova.network.drivers.linux import names
from kilonova.network.drivers.linux.namespaces import Leg, NamespacePlan, RouteWish
from kilonova.network.drivers.linux.ra import Advertisement
from kilonova.network.drivers.linux.rtnl import mac_bytes, mac_text
from kilonova.network.drivers.linux.security_groups import METADATA_IP

_SYSCTLS = (
    ("net/ipv6/conf/default/accept_dad", 0),
    ("net/ipv6/conf/default/accept_ra", 0),
    ("net/ipv6/conf/all/forwarding", 1),
    ("net/ipv4/ip_forward", 1),
    ("net/ipv4/conf/all/arp_ignore", 1),
    ("net/ipv4/conf/all/arp_announce", 2),
    ("net/ipv4/conf/all/promote_secondaries", 1),
)


class Attachment(msgspec.Struct, frozen=True, kw_only=True):
    """Where a network is on this host."""

    bridge: str
    mtu: int


def network_ids(router: rpc.Router) -> tuple[str, ...]:
    found = {interface.network_id for interface in router.interfaces}
    if router.gateway is not None:
        found.add(router.gateway.network_id)
    return tuple(sorted(found))


def plan(router: rpc.Router, host_namespace: str, attachments: Mapping[str, Attachment]) -> NamespacePlan:
    """Raises ValueError for addresses that are none, KeyError for a network that is not on this host."""
    legs = _legs(router, attachments) if router.admin_state_up else ()
    return NamespacePlan(
        namespace=names.router_namespace(host_namespace, router.id),
        legs=legs,
        routes=_routes(router) if router.admin_state_up else (),
        sysctls=_SYSCTLS,
        script=_script(router),
    )


def _legs(router: rpc.Router, attachments: Mapping[str, Attachment]) -> tuple[Leg, ...]:
    """Interfaces on one port (IPv4 and IPv6 subnets of one network) are one leg with several addresses."""
    by_port: dict[str, list[rpc.RouterInterface]] = {}
    for interface in router.interfaces:
        by_port.setdefault(interface.port_id, []).append(interface)
    legs: list[Leg] = []
    for port_id, interfaces in sorted(by_port.items()):
        first = interfaces[0]
        where = attachments[first.network_id]
        addresses = sorted(str(ipaddress.ip_interface(f"{interface.ip}/{interface.prefix}")) for interface in interfaces)
        legs.append(_leg(names.interface_leg(port_id), names.interface_link(port_id), where, first.mac, first.mtu, addresses))
    gateway = router.gateway
    if gateway is not None:
        where = attachments[gateway.network_id]
        addresses = [str(ipaddress.ip_interface(ip)) for ip in gateway.ips]
        addresses += [f"{ipaddress.IPv4Address(pair.floating_ip)}/32" for pair in router.floating_ips]
        link, leg = names.gateway_link(gateway.port_id), names.gateway_leg(gateway.port_id)
        legs.append(_leg(leg, link, where, gateway.mac, gateway.mtu, addresses))
    return tuple(legs)


def _leg(name: str, host_name: str, where: Attachment, mac: str, mtu: int | None, addresses: Iterable[str]) -> Leg:
    own = mac_text(mac_bytes(mac))
    unique = tuple(dict.fromkeys(addresses))
    return Leg(name=name, host_name=host_name, bridge=where.bridge, mac=own, mtu=mtu or where.mtu, addresses=unique)


def _routes(router: rpc.Router) -> tuple[RouteWish, ...]:
    routes = [RouteWish(destination=route.destination, via=route.nexthop) for route in router.routes]
    gateway = router.gateway
    if gateway is not None and gateway.next_hop is not None:
        everywhere = "::/0" if ":" in gateway.next_hop else "0.0.0.0/0"
        routes.append(RouteWish(destination=everywhere, via=gateway.next_hop, leg=names.gateway_leg(gateway.port_id)))
    return tuple(routes)


def _inside(router: rpc.Router) -> list[str]:
    found = [ipaddress.ip_network(f"{i.ip}/{i.prefix}", strict=False) for i in router.interfaces]
    four = [network for network in found if isinstance(network, ipaddress.IPv4Network)]
    return [str(network) for network in ipaddress.collapse_addresses(four)]


def snat_address(router: rpc.Router) -> str | None:
    """The source of guests without a floating IP, or None where that is not wanted."""
    if router.gateway is None or not router.gateway.enable_snat:
        return None
    return next((str(ipaddress.ip_interface(ip).ip) for ip in router.gateway.ips if ":" not in ip), None)


def _floating_maps(router: rpc.Router) -> tuple[dict[str, str], dict[str, str]]:
    """Inwards and outwards. A guest with several floating IPs speaks under the first."""
    inwards = {str(ipaddress.IPv4Address(p.floating_ip)): str(ipaddress.IPv4Address(p.fixed_ip)) for p in router.floating_ips}
    outwards: dict[str, str] = {}
    for floating_ip, fixed_ip in inwards.items():
        outwards.setdefault(fixed_ip, floating_ip)
    return inwards, outwards


def _map(name: str, pairs: Mapping[str, str]) -> str:
    entries = ", ".join(f"{key} : {pairs[key]}" for key in sorted(pairs))
    elements = f" elements = {{ {entries} }}" if entries else ""
    return f"  map {name} {{ type ipv4_addr : ipv4_addr;{elements}\n  }}"


def _script(router: rpc.Router) -> str:
    snat = snat_address(router)
    inside = ", ".join(_inside(router))
    elements = f" elements = {{ {inside} }}" if inside else ""
    back = 'ct status dnat oifname "qr-*" ip saddr @inside'
    floating_in, floating_out = _floating_maps(router)
    lines = [
        "add table inet kn",
        "delete table inet kn",
        "table inet kn {",
        _map("floating_in", floating_in),
        _map("floating_out", floating_out),
        f"  set inside {{ type ipv4_addr; flags interval;{elements}\n  }}",
        "  chain prerouting {",
        "    type nat hook prerouting priority dstnat; policy accept;",
        f'    iifname "qr-*" ip daddr {METADATA_IP} tcp dport 80 redirect to :{names.METADATA_PORT}',
        "    dnat ip to ip daddr map @floating_in",
        "  }",
        "  chain postrouting {",
        "    type nat hook postrouting priority srcnat; policy accept;",
        '    oifname "qg-*" snat ip to ip saddr map @floating_out',
        f"    {back} snat ip to ip saddr map @floating_out",
        *([f'    oifname "qg-*" ip saddr @inside snat ip to {snat}', f"    {back} snat ip to {snat}"] if snat else []),
        "  }",
        "  chain input {",
        "    type filter hook input priority filter; policy accept;",
        f"    tcp dport {names.METADATA_PORT} ct status dnat accept",
        f"    tcp dport {names.METADATA_PORT} drop",
        "  }",
        "}",
    ]
    return "\n".join(lines) + "\n"


def _change_map(name: str, before: Mapping[str, str], after: Mapping[str, str]) -> list[str]:
    gone = [key for key in sorted(before) if after.get(key) != before[key]]
    new = [key for key in sorted(after) if before.get(key) != after[key]]
    lines = [f"delete element inet kn {name} {{ {', '.join(gone)} }}"] if gone else []
    return lines + ([f"add element inet kn {name} {{ {', '.join(f'{key} : {after[key]}' for key in new)} }}"] if new else [])


def change_script(before: rpc.Router, after: rpc.Router) -> str | None:
    """Rules for a change of nothing but floating IPs, or None: then the whole script is due."""
    if _script(msgspec.structs.replace(before, floating_ips=())) != _script(msgspec.structs.replace(after, floating_ips=())):
        return None
    lines = [
        line
        for name, old, new in zip(("floating_in", "floating_out"), _floating_maps(before), _floating_maps(after), strict=True)
        for line in _change_map(name, old, new)
    ]
    return "\n".join(lines) + "\n" if lines else ""


def advertisements(router: rpc.Router, attachments: Mapping[str, Attachment]) -> dict[str, Advertisement]:
    """By leg, for those with an IPv6 subnet that wants router advertisements."""
    if not router.admin_state_up:
        return {}
    found: dict[str, list[rpc.RouterInterface]] = {}
    for interface in router.interfaces:
        if ":" in interface.ip and interface.ra_mode is not None:
            found.setdefault(interface.port_id, []).append(interface)
    return {
        names.interface_leg(port_id): Advertisement(
            prefixes=tuple(sorted(str(ipaddress.IPv6Network(f"{i.ip}/{i.prefix}", strict=False)) for i in interfaces)),
            mtu=interfaces[0].mtu or attachments[interfaces[0].network_id].mtu,
            mac=interfaces[0].mac,
            autonomous=any(i.ra_mode in ("slaac", "dhcpv6-stateless") for i in interfaces),
            managed=any(i.ra_mode == "dhcpv6-stateful" for i in interfaces),
            other=any(i.ra_mode == "dhcpv6-stateless" for i in interfaces),
        )
        for port_id, interfaces in sorted(found.items())
    }


def ended_addresses(before: rpc.Router | None, after: rpc.Router | None) -> frozenset[str]:
    """Floating IPs that no longer lead where they led: their connections must end."""
    old = {(pair.floating_ip, pair.fixed_ip) for pair in before.floating_ips} if before is not None else set()
    new = {(pair.floating_ip, pair.fixed_ip) for pair in after.floating_ips} if after is not None else set()
    return frozenset(floating_ip for floating_ip, _ in old - new)
