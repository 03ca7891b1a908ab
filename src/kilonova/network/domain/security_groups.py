"""Security groups and their rules. Each project has one group `default`, made when it is first needed."""

import ipaddress
from collections.abc import Sequence
from typing import Any

import msgspec

from kilonova.network.domain import ipam, quotas
from kilonova.network.domain.work import Work
from kilonova.network.errors import (
    RuleInvalid,
    SecurityGroupCannotRemoveDefault,
    SecurityGroupCannotUpdateDefault,
    SecurityGroupDefaultAlreadyExists,
    SecurityGroupInUse,
    SecurityGroupNotFound,
    SecurityGroupRuleExists,
    SecurityGroupRuleNotFound,
)
from kilonova.network.model import SecurityGroup, SecurityGroupRule
from kilonova.network.store import addresses, rows
from kilonova.network.store import quotas as quota_store

PROTOCOLS = {
    "ah": 51, "dccp": 33, "egp": 8, "esp": 50, "gre": 47, "hopopt": 0, "icmp": 1, "igmp": 2, "ip": 0, "ipip": 4, "ipv6-encap": 41,
    "ipv6-frag": 44, "ipv6-icmp": 58, "icmpv6": 58, "ipv6-nonxt": 59, "ipv6-opts": 60, "ipv6-route": 43, "ospf": 89, "pgm": 113, "rsvp": 46,
    "sctp": 132, "tcp": 6, "udp": 17, "udplite": 136, "vrrp": 112,
}  # fmt: skip
WITH_PORTS = (6, 17, 33, 132, 136)
ICMP = (1, 58)
SHORT_NAMES = {"icmpv6": "ipv6-icmp"}
"""Legacy names of a protocol; both name the same rule."""


async def get(w: Work, group_id: str) -> SecurityGroup:
    found = await rows.security_groups.get(w.tx, group_id)
    if found is None:
        raise SecurityGroupNotFound(id=group_id)
    return found


async def default_id(w: Work, project_id: str) -> str:
    """Of `default`; without looking where it was seen before and its being there comes to light at the commit."""
    known = w.default_groups.get(project_id) if w.joins else None
    if known is None:
        known = w.default_groups[project_id] = (await default(w, project_id)).id
    return known


async def default(w: Work, project_id: str) -> SecurityGroup:
    """The project's default group; made if need be."""
    groups = rows.security_groups
    shares = w.tx.shares and not w.joins
    found = await (groups.where_shared if shares else groups.where)(w.tx, default_of=project_id)
    if found:
        if shares:
            w.shared[found[0].id] = None
        return found[0]
    group = _new(w, project_id, "default", "Default security group", is_default=True)
    await rows.security_groups.insert(w.tx, group)
    if project_id:
        await quota_store.add(w.tx, project_id, "security_group", 1)
    await _open_egress(w, group)
    for ethertype in ("IPv4", "IPv6"):
        await _insert_rule(w, _rule(w, group, direction="ingress", ethertype=ethertype, remote_group_id=group.id))
    if project_id:
        await quota_store.add(w.tx, project_id, "security_group_rule", 4)
    return group


def _new(w: Work, project_id: str, name: str, description: str, *, is_default: bool = False, stateful: bool = True) -> SecurityGroup:
    return SecurityGroup(
        id=w.runtime.uuid(), project_id=project_id, name=name, description=description, stateful=stateful, shared=False,
        is_default=is_default, tags=(), created_at=w.now, updated_at=w.now, revision=1,
    )  # fmt: skip


async def _open_egress(w: Work, group: SecurityGroup) -> None:
    for ethertype in ("IPv4", "IPv6"):
        await _insert_rule(w, _rule(w, group, direction="egress", ethertype=ethertype))


def _rule(w: Work, group: SecurityGroup, **values: Any) -> SecurityGroupRule:
    fields: dict[str, Any] = {
        "protocol": None,
        "port_range_min": None,
        "port_range_max": None,
        "remote_ip_prefix": None,
        "remote_group_id": None,
        "description": None,
        **values,
    }
    return SecurityGroupRule(
        id=w.runtime.uuid(), security_group_id=group.id, project_id=group.project_id, direction=fields["direction"],
        ethertype=fields["ethertype"], protocol=fields["protocol"], port_range_min=fields["port_range_min"],
        port_range_max=fields["port_range_max"], remote_ip_prefix=fields["remote_ip_prefix"], remote_group_id=fields["remote_group_id"],
        description=fields["description"] or "", created_at=w.now, updated_at=w.now, revision=1,
    )  # fmt: skip


async def _insert_rule(w: Work, rule: SecurityGroupRule) -> None:
    w.now += 1
    await rows.security_group_rules.insert(w.tx, rule)
    w.wrote(rule)


async def create(w: Work, values: dict[str, Any]) -> SecurityGroup:
    if values["name"].lower() == "default":
        await default(w, values["project_id"])
        raise SecurityGroupDefaultAlreadyExists
    await default(w, values["project_id"])
    quotas.take(w, values["project_id"], "security_group")
    quotas.take(w, values["project_id"], "security_group_rule", 2)
    group = _new(w, values["project_id"], values["name"], values["description"], stateful=values["stateful"])
    group = msgspec.structs.replace(group, tags=values.get("tags", ()))
    await rows.security_groups.insert(w.tx, group)
    await _open_egress(w, group)
    return group


async def update(w: Work, old: SecurityGroup, changes: dict[str, Any]) -> SecurityGroup:
    if old.is_default and "name" in changes and changes["name"] != old.name:
        raise SecurityGroupCannotUpdateDefault
    if changes.get("name", "").lower() == "default" and not old.is_default:
        raise SecurityGroupDefaultAlreadyExists
    if "stateful" in changes and changes["stateful"] != old.stateful and await addresses.has_members(w.tx, old.id):
        raise SecurityGroupInUse(id=old.id)
    new = msgspec.structs.replace(old, **changes, updated_at=w.now, revision=old.revision + 1)
    await rows.security_groups.save(w.tx, old, new)
    return new


async def delete(w: Work, group: SecurityGroup) -> None:
    if group.is_default and not w.elevated:
        raise SecurityGroupCannotRemoveDefault
    await rows.security_groups.hold(w.tx, group.id)
    if await addresses.has_members(w.tx, group.id):
        raise SecurityGroupInUse(id=group.id)
    named = [rule for rule in await rows.security_group_rules.where(w.tx, remote_group_id=group.id) if rule.security_group_id != group.id]
    own = await rows.security_group_rules.where(w.tx, security_group_id=group.id)
    for rule in [*named, *own]:
        await _drop_rule(w, rule)
    if not await rows.security_groups.delete(w.tx, group.id):
        raise SecurityGroupNotFound(id=group.id)
    quotas.give(w, group.project_id, "security_group")
    w.dropped_groups[group.id] = None


async def _drop_rule(w: Work, rule: SecurityGroupRule) -> None:
    if not await rows.security_group_rules.delete(w.tx, rule.id):
        raise SecurityGroupRuleNotFound(id=rule.id)
    quotas.give(w, rule.project_id, "security_group_rule")
    w.removed(rule)


async def touch(w: Work, group: SecurityGroup) -> SecurityGroup:
    """The group's revision rises when its rules change."""
    new = msgspec.structs.replace(group, updated_at=w.now, revision=group.revision + 1)
    await rows.security_groups.save(w.tx, group, new)
    return new


async def add_rule(w: Work, group: SecurityGroup, values: dict[str, Any]) -> SecurityGroupRule:
    """values: attributes by their API names, decoded. Raises what `normal` raises, SecurityGroupRuleExists, OverQuota."""
    rule = _rule(w, group, **normal(values))
    if rule.remote_group_id is not None:
        remote = await rows.security_groups.get(w.tx, rule.remote_group_id)
        if remote is None or not (w.elevated or remote.project_id == group.project_id or remote.shared):
            raise SecurityGroupNotFound(id=rule.remote_group_id)
    same = await rows.security_group_rules.where(w.tx, security_group_id=group.id, rule_key=rows.rule_key(rule))
    if same:
        raise SecurityGroupRuleExists(id=same[0].id)
    quotas.take(w, rule.project_id, "security_group_rule")
    await _insert_rule(w, rule)
    await touch(w, group)
    return rule


async def remove_rule(w: Work, rule: SecurityGroupRule) -> None:
    await _drop_rule(w, rule)
    await touch(w, await get(w, rule.security_group_id))


async def checked(w: Work, project_id: str, group_ids: Sequence[str]) -> tuple[str, ...]:
    """The groups, when they exist and this project may use them. Raises SecurityGroupNotFound."""
    wanted = tuple(dict.fromkeys(group_ids))
    if not wanted:
        return ()
    found = {group.id: group for group in await rows.security_groups.where(w.tx, id=wanted)}
    for group_id in wanted:
        group = found.get(group_id)
        if group is None or not (w.elevated or group.project_id == project_id or group.shared):
            raise SecurityGroupNotFound(id=group_id)
    return wanted


# ---- what a rule may say: pure


def protocol_number(protocol: str) -> int | None:
    """None: any. Raises RuleInvalid."""
    name = protocol.lower()
    if name in ("any", "-1", ""):
        return None
    if name.isascii() and name.isdigit() and len(name) <= 3 and int(name) <= 255:
        return int(name)
    if name in PROTOCOLS:
        return PROTOCOLS[name]
    raise RuleInvalid(
        f"Security group rule protocol {protocol[:40]} not supported. Only protocol values {sorted(PROTOCOLS)} and integer representations "
        "[0 to 255] are supported.",
        kind="SecurityGroupRuleInvalidProtocol",
    )


def normal(values: dict[str, Any]) -> dict[str, Any]:
    """A rule's values in the form that is kept. Raises RuleInvalid with Neutron's type and sentence."""
    ethertype = {"ipv4": "IPv4", "ipv6": "IPv6"}.get(str(values["ethertype"]).lower())
    if ethertype is None:
        raise RuleInvalid(
            f"Security group rule for ethertype '{str(values['ethertype'])[:40]}' not supported. Allowed values are ['IPv4', 'IPv6'].",
            kind="SecurityGroupRuleInvalidEtherType",
        )
    protocol = values.get("protocol")
    number = None if protocol is None else protocol_number(protocol)
    protocol = None if protocol is None or protocol.lower() in ("any", "-1", "") else protocol.lower()
    protocol = SHORT_NAMES.get(protocol, protocol) if protocol else None
    if protocol == "icmp" and ethertype == "IPv6":
        protocol, number = "ipv6-icmp", 58
    low, high = _ports(values, number, protocol)
    prefix = values.get("remote_ip_prefix")
    if prefix is not None and values.get("remote_group_id") is not None:
        raise RuleInvalid("Only remote_ip_prefix or remote_group_id may be provided.", kind="SecurityGroupRemoteGroupAndRemoteIpPrefix")
    if prefix is not None:
        cidr = ipaddress.ip_network(prefix, strict=False)
        if f"IPv{cidr.version}" != ethertype:
            raise RuleInvalid(f"Conflicting value ethertype {ethertype} for CIDR {prefix}", kind="SecurityGroupRuleParameterConflict")
    if protocol == "ipv6-icmp" and ethertype == "IPv4":
        raise RuleInvalid(
            f"Conflicting value ethertype {ethertype} for protocol {protocol}", kind="SecurityGroupEthertypeConflictWithProtocol"
        )
    return {
        "direction": values["direction"],
        "ethertype": ethertype,
        "protocol": protocol,
        "port_range_min": low,
        "port_range_max": high,
        "remote_ip_prefix": prefix,
        "remote_group_id": values.get("remote_group_id"),
        "description": values.get("description"),
    }


def _ports(values: dict[str, Any], number: int | None, protocol: str | None) -> tuple[int | None, int | None]:
    low, high = values.get("port_range_min"), values.get("port_range_max")
    if number in ICMP and protocol is not None:
        if (low, high) == (-1, -1):
            return None, None
        for field, attr, value in (("port_range_min", "type", low), ("port_range_max", "code", high)):
            if value is not None and not 0 <= value <= 255:
                raise RuleInvalid(
                    f"Invalid value for ICMP {attr} ({field}) {value}. It must be 0 to 255.", kind="SecurityGroupInvalidIcmpValue"
                )
        if low is None and high is not None:
            raise RuleInvalid(
                f"ICMP code (port-range-max) {high} is provided but ICMP type (port-range-min) is missing.",
                kind="SecurityGroupMissingIcmpType",
            )
        return low, high
    if low is None and high is None:
        return None, None
    if number is None:
        if (low, high) == (-1, -1):
            return None, None
        raise RuleInvalid("Must also specify protocol if port range is given.", kind="SecurityGroupProtocolRequiredWithPorts")
    if number not in WITH_PORTS:
        raise RuleInvalid(
            "Invalid port range for protocol: only TCP, UDP, UDPLITE, SCTP and DCCP have ports; leave the port range out.",
            kind="SecurityGroupInvalidProtocolForPort",
        )
    for value in (low, high):
        if value is not None and not 1 <= value <= 65535:
            raise RuleInvalid(f"Invalid value for port {value}", kind="SecurityGroupInvalidPortValue")
    if low is None or high is None or low > high:
        raise RuleInvalid("For TCP/UDP protocols, port_range_min must be <= port_range_max", kind="SecurityGroupInvalidPortRange")
    return low, high


def normalized_cidr(rule: SecurityGroupRule) -> str | None:
    return None if rule.remote_ip_prefix is None else str(ipam.cidr_of(rule.remote_ip_prefix))
