"""Compiling security groups: the rules as text decide like `permits`, and load into the kernel."""

import ipaddress
import itertools
import os
import re
import uuid

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kilonova.network import rpc
from kilonova.network.drivers.linux import netns, ruleset, security_groups
from kilonova.network.drivers.linux.nft import Element, Elements, Nft
from kilonova.network.drivers.linux.ruleset import Difference, Key, Ruleset
from kilonova.network.drivers.linux.security_groups import Flow, Part

from .linux_cloud import rules

Rule = rpc.SecurityGroupRule
IDS = ("11111111-1111-4111-8111-111111111111", "22222222-2222-4222-8222-222222222222", "33333333-3333-4333-8333-333333333333")
IPS = {"IPv4": ("10.0.0.5", "10.0.1.9", "192.0.2.1"), "IPv6": ("fd00::5", "fd00:1::9")}
PREFIXES = {"IPv4": ("10.0.0.0/24", "10.0.0.5/32", "0.0.0.0/0"), "IPv6": ("fd00::/64", "::/0")}
ports = st.integers(0, 65535) | st.sampled_from((22, 80, 81))


@st.composite
def made_rules(draw: st.DrawFn) -> Rule:
    ethertype = draw(st.sampled_from(("IPv4", "IPv6")))
    protocol = draw(st.sampled_from((None, "tcp", "udp", "sctp", "icmp", "icmpv6" if ethertype == "IPv6" else "icmp", "112", "gre")))
    low = high = None
    if protocol in ("tcp", "udp", "sctp") and draw(st.booleans()):
        low, high = sorted((draw(ports), draw(ports)))
    elif protocol in ("icmp", "icmpv6") and draw(st.booleans()):
        low, high = draw(st.sampled_from((0, 8, 128))), draw(st.sampled_from((None, 0, 3)))
    remote = draw(st.sampled_from(("any", "prefix", "group")))
    return Rule(
        direction=draw(st.sampled_from(("ingress", "egress"))),
        ethertype=ethertype,
        protocol=protocol,
        port_range_min=low,
        port_range_max=high,
        remote_ip_prefix=draw(st.sampled_from(PREFIXES[ethertype])) if remote == "prefix" else None,
        remote_group_id=draw(st.sampled_from(IDS)) if remote == "group" else None,
    )


members = st.lists(st.sampled_from(("10.0.0.5", "10.0.1.0/24", "192.0.2.1", "fd00::5", "fd00:1::/64")), max_size=4, unique=True)
groups_of_a_host = st.fixed_dictionaries(
    {},
    optional={
        gid: st.builds(
            rpc.SecurityGroup, id=st.just(gid), rules=st.lists(made_rules(), max_size=5).map(tuple), member_ips=members.map(tuple)
        )
        for gid in IDS
    },
)


@st.composite
def flows(draw: st.DrawFn) -> Flow:
    ethertype = draw(st.sampled_from(("IPv4", "IPv6")))
    protocol = draw(st.sampled_from((6, 17, 132, 112, 47, 58 if ethertype == "IPv6" else 1)))
    icmp = protocol in (1, 58)
    return Flow(
        direction=draw(st.sampled_from(("ingress", "egress"))),
        protocol=protocol,
        remote_ip=draw(st.sampled_from(IPS[ethertype])),
        port=draw(ports) if protocol in (6, 17, 132) else None,
        icmp_type=draw(st.sampled_from((0, 8, 128))) if icmp else None,
        icmp_code=draw(st.sampled_from((0, 3))) if icmp else None,
    )


def parts_of(groups: dict[str, rpc.SecurityGroup]) -> dict[Key, Part]:
    named = sorted({rule.remote_group_id for group in groups.values() for rule in group.rules if rule.remote_group_id})
    prefixes = {gid: security_groups.split_members(groups[gid])[1] for gid in named if gid in groups}
    parts: dict[Key, Part] = {("group", gid): security_groups.group_part(group, prefixes) for gid, group in groups.items()}
    return parts | {("members", gid): security_groups.members_part(gid, groups.get(gid)) for gid in named}


def reads(line: str, flow: Flow, elements: dict[str, set[str]]) -> bool:
    """A second opinion: what one line of our text means for a packet, word by word as nftables reads it."""
    remote = ipaddress.ip_address(flow.remote_ip)
    words = re.sub(r"\{ (.*?) \}", lambda found: found[1].replace(", ", ","), line).split()
    protocol_words = {"tcp": 6, "udp": 17, "sctp": 132, "dccp": 33, "udplite": 136}
    while words[0] not in ("accept", "goto"):
        match words[0], words[1], words[2]:
            case "ether", "type", kind:
                good = (kind == "ip6") == (remote.version == 6)
            case (("ip" | "ip6"), _, str(wanted)) if wanted.startswith("@"):
                good = flow.remote_ip in elements.get(wanted[1:], set())
            case (("ip" | "ip6"), _, wanted):
                good = any(remote in ipaddress.ip_network(prefix) for prefix in wanted.split(","))
            case "meta", "l4proto", number:
                good = flow.protocol == int(number)
            case ("icmp" | "icmpv6") as kind, field, number:
                value = flow.icmp_type if field == "type" else flow.icmp_code
                good = flow.protocol == {"icmp": 1, "icmpv6": 58}[kind] and value == int(number)
            case protocol, "dport", wanted:
                ranges = [tuple(map(int, (part.split("-") * 2)[:2])) for part in wanted.split(",")]
                good = flow.protocol == protocol_words[protocol] and any(low <= (flow.port or 0) <= high for low, high in ranges)
            case other:
                raise AssertionError(f"unknown match {other} in {line}")
        if not good:
            return False
        words = words[3:]
    return True


@given(groups_of_a_host, flows())
def test_the_compiled_text_decides_like_permits(groups: dict[str, rpc.SecurityGroup], flow: Flow) -> None:
    parts = parts_of(groups)
    elements: dict[str, set[str]] = {}
    for part in parts.values():
        for element in part.elements:
            elements.setdefault(element.set.name, set()).add(element.key[0])
    for gid in groups:
        lines = parts[("group", gid)].chains[security_groups.chain_name(gid, flow.direction)]
        assert any(reads(line, flow, elements) for line in lines) == security_groups.permits(groups, (gid,), flow)


@given(groups_of_a_host, flows())
def test_several_groups_permit_what_any_of_them_permits(groups: dict[str, rpc.SecurityGroup], flow: Flow) -> None:
    together = security_groups.permits(groups, tuple(groups), flow)
    assert together == any(security_groups.permits(groups, (gid,), flow) for gid in groups)
    assert not security_groups.permits(groups, (), flow)


@given(st.lists(st.tuples(ports, ports).map(lambda pair: (min(pair), max(pair))), min_size=1, max_size=8))
def test_port_sets_are_disjoint_sorted_and_complete(ranges: list[tuple[int, int]]) -> None:
    rule = [Rule(direction="ingress", protocol="tcp", port_range_min=low, port_range_max=high) for low, high in ranges]
    wanted = {port for low, high in ranges for port in (low, high, (low + high) // 2)}
    texts = [text for line in security_groups.rule_lines(rule, "ingress", {}) for text in re.findall(r"\{ (.*?) \}", line)]
    if not texts:
        assert (0, 65535) in ranges
        return
    found = [tuple(map(int, (part.split("-") * 2)[:2])) for part in texts[0].split(", ")]
    assert all(left[1] + 1 < right[0] for left, right in itertools.pairwise(found))
    assert all(any(low <= port <= high for low, high in found) for port in wanted) or (0, 65535) in ranges


def test_refusals_are_value_errors() -> None:
    for bad in (
        Rule(direction="ingress", protocol="nonsense"),
        Rule(direction="ingress", protocol="256"),
        Rule(direction="ingress", protocol="tcp", port_range_min=9, port_range_max=8),
        Rule(direction="ingress", remote_ip_prefix="fd00::/64"),
        Rule(direction="ingress", remote_ip_prefix="10.0.0.0/8; accept"),
    ):
        with pytest.raises(ValueError):
            security_groups.rule_lines((bad,), "ingress", {})


def port(**more: object) -> rpc.Port:
    made = rpc.Port(
        id=IDS[0], network_id=IDS[1], device_name="tapA", mac="FA:16:3E:00:00:09", fixed_ips=(rpc.FixedIp(subnet_id="s", ip="10.0.0.9"),)
    )
    return msgspec.structs.replace(made, **more)


def by_set(part: Part) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for element in sorted(part.elements):
        found.setdefault(element.set.name, []).append(element.text())
    return found


def test_what_one_port_adds() -> None:
    found = by_set(security_groups.port_part(port()))
    mac, local = "fa:16:3e:00:00:09", ipaddress.IPv6Address("fe80::f816:3eff:fe00:9")
    combination = security_groups.combination_name(())
    assert found == {
        "ports": ['"tapA" : goto guest'],
        "egress": [f'"tapA" : goto {combination}_egress'],
        "ingress": [f'"tapA" : goto {combination}_ingress'],
        "macs": [f'"tapA" . {mac}'],
        "spoof4": [f'"tapA" . {mac} . 10.0.0.9'],
        "spoof6": [f'"tapA" . {mac} . {local}'],
        "nd_targets": [f'"tapA" . {mac} . 0x{local.packed.hex()}'],
    }


def test_ports_without_security_are_named_too() -> None:
    found = by_set(security_groups.port_part(port(port_security_enabled=False)))
    assert found == {"ports": ['"tapA" : accept'], "egress": ['"tapA" : goto to_port'], "ingress": ['"tapA" : accept']}


def test_hostile_text_never_reaches_the_rules() -> None:
    for more in (
        {"mac": "fa:16:3e:00:00:09 } ; accept"},
        {"fixed_ips": (rpc.FixedIp(subnet_id="s", ip="10.0.0.9 }"),)},
        {"allowed_address_pairs": (rpc.AddressPair(ip="10.0.0.0/24", mac="any"),)},
    ):
        with pytest.raises(ValueError):
            security_groups.port_part(port(**more))
    assert re.fullmatch(r"group_[A-Za-z0-9_]+_ingress", security_groups.chain_name("x { accept }\n", "ingress"))


@given(st.lists(st.sampled_from(IDS), max_size=5))
def test_combinations_do_not_depend_on_order_or_repeats(ids: list[str]) -> None:
    assert security_groups.combination_name(ids) == security_groups.combination_name(sorted(set(ids)))
    chains = security_groups.combination_part(ids).chains
    assert all(lines[-1] == "counter drop" and len(lines) == len(set(ids)) + 1 for lines in chains.values())


def test_loses() -> None:
    base = rpc.SecurityGroup(id=IDS[0], rules=(Rule(direction="ingress"),), member_ips=("10.0.0.1",))
    assert not security_groups.loses(None, base) and not security_groups.loses(base, base)
    assert security_groups.loses(base, None)
    assert security_groups.loses(base, msgspec.structs.replace(base, rules=()))
    assert security_groups.loses(base, msgspec.structs.replace(base, member_ips=("10.0.0.2",)))
    assert not security_groups.loses(base, msgspec.structs.replace(base, member_ips=("10.0.0.1", "10.0.0.2")))


def test_a_difference_that_is_none_is_empty() -> None:
    part = security_groups.port_part(port())
    assert Difference([part], [part]).empty()
    hot = Difference([part], [security_groups.port_part(port(fixed_ips=(rpc.FixedIp(subnet_id="s", ip="10.0.0.8"),)))])
    assert hot.hot() and [element.key[2] for element in (*hot.removed, *hot.added)] == ["10.0.0.9", "10.0.0.8"]


worn = st.lists(st.sampled_from(IDS), max_size=2, unique=True)
wishes = st.tuples(groups_of_a_host, st.lists(st.tuples(st.integers(0, 5), worn, st.booleans(), st.booleans()), max_size=5))


def all_parts(wish: tuple[dict[str, rpc.SecurityGroup], list[tuple[int, list[str], bool, bool]]]) -> dict[Key, Part]:
    groups, wanted = wish
    parts = parts_of(groups)
    for number, ids, secured, pair in wanted:
        known = tuple(gid for gid in ids if gid in groups)
        pairs = (rpc.AddressPair(ip="10.0.9.0/24"), rpc.AddressPair(ip="fd09::/64", mac="fa:16:3e:09:09:09")) if pair else ()
        made = port(
            id=str(number),
            device_name=f"tap{number}",
            mac=f"fa:16:3e:00:00:0{number}",
            security_group_ids=known,
            port_security_enabled=secured,
            allowed_address_pairs=pairs,
        )
        parts[("port", made.id)] = security_groups.port_part(made)
        if secured:
            parts[("combination", security_groups.combination_name(known))] = security_groups.combination_part(known)
    return parts


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(st.lists(wishes, min_size=2, max_size=4))
def test_any_chain_of_changes_ends_in_the_kernel_where_a_full_load_ends(
    steps: list[tuple[dict[str, rpc.SecurityGroup], list[tuple[int, list[str], bool, bool]]]],
) -> None:
    """All random rules are accepted by the kernel, too."""
    namespace = f"kn-t{uuid.uuid4().hex[:8]}"
    netns.create(namespace)
    try:
        with netns.entered(namespace), Nft() as nft, Elements() as elements:
            loaded = Ruleset(nft, elements)
            loaded.load({})
            for step in steps:
                wanted = all_parts(step)
                changes: dict[Key, Part | None] = dict.fromkeys(loaded.parts)
                loaded.change(changes | wanted)
                assert loaded.parts == wanted
            assert loaded.reloads == 0
            by_changes = rules(namespace)
            loaded.load(loaded.parts)
            assert rules(namespace) == by_changes
    finally:
        netns.remove(namespace)


def test_full_script_names_every_element_once() -> None:
    parts = all_parts(({}, [(1, [], True, True), (2, [], False, False)]))
    script = ruleset.full_script(parts)
    assert script.count('"tap1" : goto guest') == 1 and script.index("add chain") < script.index("add element")
    assert isinstance(next(iter(parts[("port", "1")].elements)), Element)
