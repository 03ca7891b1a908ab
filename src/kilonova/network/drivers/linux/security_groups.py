"""Security groups and anti-spoofing as nftables text and elements. Pure: no I/O, so that properties can be tested.

The policy is one `bridge` table of constant shape. What grows with ports is set elements only; what grows with groups is one
chain for each group and direction, and one chain for each combination of groups that some port has. A small `inet` table, the
state shim, is needed because a bridge hook of this kernel family cannot see connection tracking: it copies "established" into
the packet mark, which the bridge rules read (docs/internals/dataplane.md tells the whole story).

How a guest's packet is judged: `prerouting` refuses forged sources; `forward` lets ARP and established packets pass, then jumps to
the sender's combination (`egress`), whose matching rule goes on to `to_port`, which goes to the receiver's combination
(`ingress`). A tap that is in no map gets nothing.
"""

import functools
import hashlib
import ipaddress
from collections.abc import Iterable, Mapping, Sequence

import msgspec

from kilonova.network import rpc
from kilonova.network.drivers.linux.nft import Element, SetKind
from kilonova.network.drivers.linux.rtnl import mac_bytes, mac_text

ESTABLISHED = 0x0100_0000
PORTS = SetKind("ports", ("ifname",), "verdict")
MACS = SetKind("macs", ("ifname", "ether"))
SPOOF4 = SetKind("spoof4", ("ifname", "ether", "ip4"))
SPOOF6 = SetKind("spoof6", ("ifname", "ether", "ip6"))
SPOOF_NET4 = SetKind("spoof_net4", ("ifname", "ether", "ip4"), interval=True)
SPOOF_NET6 = SetKind("spoof_net6", ("ifname", "ether", "ip6"), interval=True)
ND_TARGETS = SetKind("nd_targets", ("ifname", "ether", "nd_target"))
ND_LOOSE = SetKind("nd_loose", ("ifname",))
EGRESS = SetKind("egress", ("ifname",), "verdict")
INGRESS = SetKind("ingress", ("ifname",), "verdict")
LOCAL_ONLY = SetKind("local_only", ("ifname",))
LOCAL_IPS = SetKind("local_ips", ("ifname", "ip4"))
ZONES = SetKind("zones", ("ifname",), "ct zone", family="inet", table="kn_ct")
STATIC_SETS = (
    PORTS, MACS, SPOOF4, SPOOF6, SPOOF_NET4, SPOOF_NET6, ND_TARGETS, ND_LOOSE, EGRESS, INGRESS, LOCAL_ONLY, LOCAL_IPS,
)  # fmt: skip

_PROTOCOLS = {
    "ah": 51, "dccp": 33, "egp": 8, "esp": 50, "gre": 47, "icmp": 1, "icmpv6": 58, "igmp": 2, "ipip": 4, "ipv6-encap": 41,
    "ipv6-frag": 44, "ipv6-icmp": 58, "ipv6-nonxt": 59, "ipv6-opts": 60, "ipv6-route": 43, "hopopt": 0, "ip": 0, "ospf": 89,
    "pgm": 113, "rsvp": 46, "sctp": 132, "tcp": 6, "udp": 17, "udplite": 136, "vrrp": 112,
}  # fmt: skip
_WITH_PORTS = {6: "tcp", 17: "udp", 33: "dccp", 132: "sctp", 136: "udplite"}
METADATA_IP = "169.254.169.254"

BASE = f"""
add table inet kn_ct
delete table inet kn_ct
add table inet kn_ct
add map inet kn_ct zones {{ typeof iifname : ct zone; }}
table inet kn_ct {{
  chain zone_in {{
    type filter hook prerouting priority raw; policy accept;
    iifname "eth0" udp dport 4789 notrack return
    ct zone set iifname map @zones
  }}
  chain zone_out {{
    type filter hook output priority raw; policy accept;
    oifname "eth0" udp dport 4789 notrack return
    ct zone set oifname map @zones
  }}
  chain state_in {{
    type filter hook prerouting priority mangle; policy accept;
    ct state established,related ct mark != 1 meta mark set meta mark or {ESTABLISHED:#x}
  }}
  chain state_out {{
    type filter hook output priority mangle; policy accept;
    ct state established,related ct mark != 1 meta mark set meta mark or {ESTABLISHED:#x}
  }}
}}
add table bridge kn
delete table bridge kn
add table bridge kn
{chr(10).join(kind.definition() for kind in STATIC_SETS)}
table bridge kn {{
  chain to_port {{
    oifname vmap @ingress
    oifname "tap*" counter drop
    accept
  }}
  chain guest_ip4 {{
    udp sport 67 udp dport 68 counter drop
    iifname . ether saddr . ip saddr @spoof4 accept
    ip saddr 0.0.0.0 udp sport 68 udp dport 67 accept
    iifname . ether saddr . ip saddr @spoof_net4 accept
    counter drop
  }}
  chain guest_arp {{
    iifname . arp saddr ether . arp saddr ip @spoof4 accept
    arp saddr ip 0.0.0.0 arp operation request iifname . arp saddr ether @macs accept
    iifname . arp saddr ether . arp saddr ip @spoof_net4 accept
    counter drop
  }}
  chain guest_ip6 {{
    icmpv6 type {{ nd-router-advert, nd-redirect }} counter drop
    udp sport 547 udp dport 546 counter drop
    icmpv6 type nd-neighbor-advert iifname != @nd_loose iifname . ether saddr . @th,64,128 != @nd_targets counter drop
    iifname . ether saddr . ip6 saddr @spoof6 accept
    ip6 saddr :: icmpv6 type {{ nd-neighbor-solicit, nd-router-solicit, mld-listener-report, mld2-listener-report }} accept
    iifname . ether saddr . ip6 saddr @spoof_net6 accept
    counter drop
  }}
  chain guest {{
    iifname . ether saddr != @macs counter drop
    ether type vmap {{ ip : goto guest_ip4, arp : goto guest_arp, ip6 : goto guest_ip6 }}
    counter drop
  }}
  chain prerouting {{
    type filter hook prerouting priority -300; policy accept;
    meta mark set 0
    iifname vmap @ports
    iifname "tap*" counter drop
  }}
  chain forward {{
    type filter hook forward priority 10; policy accept;
    ether type arp iifname . arp saddr ip @local_ips drop
    ether type arp iifname . arp daddr ip @local_ips drop
    ether type arp oifname . arp saddr ip @local_ips drop
    ether type arp oifname . arp daddr ip @local_ips drop
    ether type arp accept
    oifname @local_only udp sport 68 udp dport 67 drop
    iifname "svc*" udp sport 67 udp dport 68 accept
    oifname "svc*" udp sport 68 udp dport 67 accept
    icmpv6 type {{ nd-neighbor-solicit, nd-neighbor-advert, nd-router-solicit }} accept
    iifname != "tap*" icmpv6 type nd-router-advert accept
    meta mark and {ESTABLISHED:#x} == {ESTABLISHED:#x} accept
    iifname vmap @egress
    iifname "tap*" counter drop
    goto to_port
  }}
  chain input {{
    type filter hook input priority 10; policy accept;
    ether type arp accept
    meta mark and {ESTABLISHED:#x} == {ESTABLISHED:#x} accept
    iifname vmap @egress
    iifname "tap*" counter drop
  }}
  chain output {{
    type filter hook output priority 10; policy accept;
    ether type arp accept
    meta mark and {ESTABLISHED:#x} == {ESTABLISHED:#x} accept
    goto to_port
  }}
  chain postrouting {{
    type filter hook postrouting priority 300; policy accept;
    meta mark set 0
  }}
}}
"""


class Part(msgspec.Struct, frozen=True, kw_only=True):
    """What one port, group, combination or network adds to the policy: named sets, chains (their rules), elements."""

    sets: tuple[SetKind, ...] = ()
    chains: dict[str, tuple[str, ...]] = {}
    elements: frozenset[Element] = frozenset()


def _plain(group_id: str) -> str:
    """Ids come from the API as UUIDs; whatever else they hold must not reach nftables."""
    return "".join(character if character.isalnum() else "_" for character in group_id)


def chain_name(group_id: str, direction: str) -> str:
    return f"group_{_plain(group_id)}_{direction}"


def member_set(group_id: str, ip_version: int) -> SetKind:
    return SetKind(f"members{ip_version}_{_plain(group_id)}", (f"ip{ip_version}",))


def combination_name(group_ids: Iterable[str]) -> str:
    digest = hashlib.blake2b("\n".join(sorted(set(group_ids))).encode(), digest_size=10).hexdigest()
    return f"groups_{digest}"


def protocol_number(protocol: str | None) -> int | None:
    """None is any protocol. Raises ValueError for an unknown name."""
    if protocol in (None, "", "any", "0", "ip"):
        return None
    name = str(protocol).lower()
    if name in _PROTOCOLS:
        return _PROTOCOLS[name]
    number = int(name)
    if not 0 <= number <= 255:
        raise ValueError(f"protocol {protocol} is not between 0 and 255")
    return number


def _rule_protocol(rule: rpc.SecurityGroupRule) -> int | None:
    number = protocol_number(rule.protocol)
    return 58 if number == 1 and rule.ethertype == "IPv6" else number


@functools.lru_cache(maxsize=1 << 16)
def _member(member: str) -> tuple[bool, str]:
    """(is it a single address, its normal form)."""
    network = ipaddress.ip_network(member, strict=False)
    if network.num_addresses == 1:
        return True, str(network.network_address)
    return False, str(network)


def split_members(group: rpc.SecurityGroup) -> tuple[list[str], list[str]]:
    """(single addresses, prefixes that are more than one address), each sorted and without repeats."""
    found = set(map(_member, group.member_ips))
    return sorted(text for single, text in found if single), sorted(text for single, text in found if not single)


def _collapse(prefixes: Iterable[str], version: int) -> list[str]:
    if version == 4:
        four = [network for network in map(ipaddress.ip_network, prefixes) if isinstance(network, ipaddress.IPv4Network)]
        return [str(network) for network in ipaddress.collapse_addresses(four)]
    six = [network for network in map(ipaddress.ip_network, prefixes) if isinstance(network, ipaddress.IPv6Network)]
    return [str(network) for network in ipaddress.collapse_addresses(six)]


def _merge(ranges: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """Sorted, disjoint and not touching: nftables refuses overlaps in one set."""
    merged: list[tuple[int, int]] = []
    for low, high in sorted(ranges):
        if merged and low <= merged[-1][1] + 1:
            merged[-1] = (merged[-1][0], max(high, merged[-1][1]))
        else:
            merged.append((low, high))
    return merged


def _remotes(rule: rpc.SecurityGroupRule, prefixes: Mapping[str, Sequence[str]]) -> list[str]:
    """Alternatives for the far address; an empty text matches any."""
    version = 6 if rule.ethertype == "IPv6" else 4
    word = f"{'ip6' if version == 6 else 'ip'} {'saddr' if rule.direction == 'ingress' else 'daddr'}"
    if rule.remote_group_id is not None:
        found = [f"{word} @{member_set(rule.remote_group_id, version).name}"]
        wide = _collapse(prefixes.get(rule.remote_group_id, ()), version)
        return found + ([f"{word} {{ {', '.join(wide)} }}"] if wide else [])
    if rule.remote_ip_prefix is None:
        return [""]
    network = ipaddress.ip_network(rule.remote_ip_prefix, strict=False)
    if network.version != version:
        raise ValueError(f"remote_ip_prefix {rule.remote_ip_prefix} is not {rule.ethertype}")
    return [f"{word} {network}" if network.prefixlen else ""]


def _port_range(rule: rpc.SecurityGroupRule) -> tuple[int, int]:
    low = rule.port_range_min if rule.port_range_min is not None and rule.port_range_min >= 0 else 0
    high = rule.port_range_max if rule.port_range_max is not None and rule.port_range_max >= 0 else 65535
    if not 0 <= low <= high <= 65535:
        raise ValueError(f"port range {low} to {high} is not usable")
    return low, high


def _protocol_matches(rule: rpc.SecurityGroupRule, number: int | None) -> str:
    """The match on everything but ports."""
    if number is None:
        return ""
    if number in (1, 58) and rule.port_range_min is not None and rule.port_range_min >= 0:
        word = "icmp" if number == 1 else "icmpv6"
        code = rule.port_range_max
        return f"{word} type {rule.port_range_min}" + (f" {word} code {code}" if code is not None and code >= 0 else "")
    return f"meta l4proto {number}"


def rule_lines(rules: Iterable[rpc.SecurityGroupRule], direction: str, prefixes: Mapping[str, Sequence[str]]) -> tuple[str, ...]:
    """The rules of a group's chain. Rules that differ only in ports are one line with one set."""
    verdict = "accept" if direction == "ingress" else "goto to_port"
    ports: dict[tuple[str, str, str], list[tuple[int, int]]] = {}
    lines: list[str] = []
    for rule in rules:
        if rule.direction != direction:
            continue
        number = _rule_protocol(rule)
        ether = f"ether type {'ip6' if rule.ethertype == 'IPv6' else 'ip'}"
        for remote in _remotes(rule, prefixes):
            word = _WITH_PORTS.get(number) if number is not None else None
            if word is None or _port_range(rule) == (0, 65535):
                lines.append(" ".join(filter(None, (ether, remote, _protocol_matches(rule, number), verdict))))
            else:
                ports.setdefault((ether, remote, word), []).append(_port_range(rule))
    for (ether, remote, word), ranges in ports.items():
        wanted = ", ".join(str(low) if low == high else f"{low}-{high}" for low, high in _merge(ranges))
        lines.append(" ".join(filter(None, (ether, remote, f"{word} dport {{ {wanted} }}", verdict))))
    return tuple(sorted(set(lines)))


def group_part(group: rpc.SecurityGroup, prefixes: Mapping[str, Sequence[str]]) -> Part:
    """`prefixes`: the wide members (`split_members`) of groups that rules name."""
    return Part(
        chains={chain_name(group.id, direction): rule_lines(group.rules, direction, prefixes) for direction in ("ingress", "egress")}
    )


def members_part(group_id: str, group: rpc.SecurityGroup | None) -> Part:
    """Exists for each group that some rule names, known or not: an unknown group has no members."""
    sets = {version: member_set(group_id, version) for version in (4, 6)}
    hosts = split_members(group)[0] if group is not None else []
    elements = frozenset(Element(sets[6 if ":" in ip else 4], (ip,)) for ip in hosts)
    return Part(sets=(sets[4], sets[6]), elements=elements)


def combination_part(group_ids: Iterable[str]) -> Part:
    """What a port with these groups may do; nothing at all for none."""
    name = combination_name(group_ids)
    return Part(
        chains={
            f"{name}_{direction}": (*(f"jump {chain_name(gid, direction)}" for gid in sorted(set(group_ids))), "counter drop")
            for direction in ("ingress", "egress")
        }
    )


def normal_mac(mac: str) -> str:
    return mac_text(mac_bytes(mac))


def link_local(mac: str) -> str:
    """The EUI-64 link-local address."""
    raw = bytearray.fromhex(mac.replace(":", ""))
    raw[0] ^= 2
    return str(ipaddress.IPv6Address(b"\xfe\x80" + bytes(6) + bytes(raw[:3]) + b"\xff\xfe" + bytes(raw[3:])))


def port_part(port: rpc.Port) -> Part:
    """Everything in the policy that carries this port's name."""
    tap = port.device_name
    if not port.port_security_enabled:
        free = {Element(PORTS, (tap,), "accept"), Element(EGRESS, (tap,), "goto to_port"), Element(INGRESS, (tap,), "accept")}
        return Part(elements=frozenset(free))
    name = combination_name(port.security_group_ids)
    elements = {
        Element(PORTS, (tap,), "goto guest"),
        Element(EGRESS, (tap,), f"goto {name}_egress"),
        Element(INGRESS, (tap,), f"goto {name}_ingress"),
    }
    own = normal_mac(port.mac)
    pairs = [(own, fixed.ip) for fixed in port.fixed_ips]
    pairs += [(normal_mac(pair.mac or own), pair.ip) for pair in port.allowed_address_pairs]
    pairs += [(mac, link_local(mac)) for mac in sorted({own} | {mac for mac, _ in pairs})]
    wide: dict[tuple[str, int], list[str]] = {}
    for mac, ip in pairs:
        elements.add(Element(MACS, (tap, mac)))
        network = ipaddress.ip_network(ip, strict=False)
        if network.num_addresses > 1:
            wide.setdefault((mac, network.version), []).append(str(network))
        elif network.version == 4:
            elements.add(Element(SPOOF4, (tap, mac, str(network.network_address))))
        else:
            elements.add(Element(SPOOF6, (tap, mac, str(network.network_address))))
            elements.add(Element(ND_TARGETS, (tap, mac, str(network.network_address))))
    for (mac, version), prefixes in wide.items():
        kind = SPOOF_NET4 if version == 4 else SPOOF_NET6
        elements.update(Element(kind, (tap, mac, prefix)) for prefix in _collapse(prefixes, version))
        if version == 6:
            elements.add(Element(ND_LOOSE, (tap,)))
    return Part(elements=frozenset(elements))


def network_part(*, bridge: str, zone: int, vxlan: str | None, local_ips: Iterable[str]) -> Part:
    """The network's conntrack zone, and the addresses that each host answers by itself and that must not cross the tunnel."""
    elements = {Element(ZONES, (bridge,), str(zone))}
    ips = sorted(local_ips)
    if vxlan is not None and ips:
        elements.add(Element(LOCAL_ONLY, (vxlan,)))
        elements.update(Element(LOCAL_IPS, (vxlan, ip)) for ip in (*ips, METADATA_IP))
    return Part(elements=frozenset(elements))


class Flow(msgspec.Struct, frozen=True, kw_only=True):
    """A connection as one end sees it: `remote_ip` is the other end, `port` the responder's."""

    direction: str
    protocol: int
    remote_ip: str
    port: int | None = None
    icmp_type: int | None = None
    icmp_code: int | None = None


def _matches(rule: rpc.SecurityGroupRule, flow: Flow, groups: Mapping[str, rpc.SecurityGroup]) -> bool:
    remote = ipaddress.ip_address(flow.remote_ip)
    if rule.direction != flow.direction or (rule.ethertype == "IPv6") != (remote.version == 6):
        return False
    number = _rule_protocol(rule)
    if number is not None and number != flow.protocol:
        return False
    if number in _WITH_PORTS and flow.port is not None:
        low, high = _port_range(rule)
        if not low <= flow.port <= high:
            return False
    if number in (1, 58) and rule.port_range_min is not None and rule.port_range_min >= 0:
        if flow.icmp_type != rule.port_range_min:
            return False
        if rule.port_range_max is not None and rule.port_range_max >= 0 and flow.icmp_code != rule.port_range_max:
            return False
    if rule.remote_group_id is not None:
        group = groups.get(rule.remote_group_id)
        members = group.member_ips if group is not None else ()
        return flow.remote_ip in members or any(remote in ipaddress.ip_network(ip, strict=False) for ip in members if "/" in ip)
    return rule.remote_ip_prefix is None or remote in ipaddress.ip_network(rule.remote_ip_prefix, strict=False)


def permits(groups: Mapping[str, rpc.SecurityGroup], group_ids: Iterable[str], flow: Flow) -> bool:
    """What the compiled rules decide for the first packet of `flow`: used to revoke connections when rules go."""
    return any(_matches(rule, flow, groups) for gid in group_ids if gid in groups for rule in groups[gid].rules)


def loses(before: rpc.SecurityGroup | None, after: rpc.SecurityGroup | None) -> bool:
    """Whether a change could forbid something that was allowed."""
    if before is None:
        return False
    if after is None:
        return True
    return bool(set(before.rules) - set(after.rules)) or bool(set(before.member_ips) - set(after.member_ips))
