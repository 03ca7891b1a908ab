"""Giving addresses to ports, in a transaction.

The next address is looked for where the last one was given (a hint in memory); only a handful of rows is read, however large the subnet.
Addresses in use come back when the search has gone once round, so a freed one rests a while. Two transactions that find the same address
collide on the key of ip_allocations; the loser is run again.
"""

from collections.abc import Sequence
from typing import Any

from kilonova.network.domain import ipam
from kilonova.network.domain.work import Work
from kilonova.network.errors import (
    InvalidInput,
    InvalidIpForNetwork,
    InvalidIpForSubnet,
    IpAddressAlreadyAllocated,
    IpAddressGenerationFailure,
)
from kilonova.network.model import FixedIp, Subnet
from kilonova.network.store import addresses

FIRST_LOOK = 8
NEXT_LOOK = 1024
MOST_RUNS = 10_000
MOST_FREE = 1 << 20
"""Of a run that nothing ends: an IPv6 subnet has more than a range can count."""


async def pick(w: Work, subnet: Subnet) -> int | None:
    """A free address of the subnet's pools, or None."""
    parts = ipam.pool_ranges(subnet.allocation_pools)
    version, look = subnet.ip_version, FIRST_LOOK
    hint = w.hints.get(subnet.id, 0)
    w.hints_before.setdefault(subnet.id, hint)
    if not w.exclusive and parts:
        run = w.free_runs.get((subnet.id, subnet.revision))
        if run and not w.attempt:
            w.free_runs[(subnet.id, subnet.revision)] = run[1:]
            w.hints[subnet.id] = run[0] + 1
            return run[0]
        if not hint or w.attempt:
            # each process begins somewhere else, and goes its own way until it meets another
            first, last = parts[0]
            hint = first + w.runtime.random.randrange(last - first + 1)
        w.hints[subnet.id] = hint + 1  # whoever looks while this one waits begins behind it
    for first, last in ipam.rotation(parts, hint):
        at = first
        while at <= last:
            taken = await addresses.taken(w.tx, subnet.id, ipam.key(at, version), ipam.key(last, version), look)
            free = ipam.first_free(taken, at, last)
            if free is None or (len(taken) == look and free > taken[-1]):
                at = taken[-1] + 1 if taken else last + 1
                look = NEXT_LOOK
                continue
            w.hints[subnet.id] = free + 1
            if not w.exclusive:
                if len(w.free_runs) >= MOST_RUNS:
                    w.free_runs.clear()
                beyond = next((value for value in taken if value > free), at + MOST_FREE if len(taken) < look else taken[-1])
                w.free_runs[(subnet.id, subnet.revision)] = range(free + 1, min(beyond, last + 1))
            return free
    return None


async def take(w: Work, subnet: Subnet, value: int, port_id: str) -> FixedIp:
    """Raises Duplicate when somebody else has the address."""
    await addresses.insert(w.tx, subnet.id, ipam.key(value, subnet.ip_version), port_id)
    return FixedIp(subnet.id, ipam.text(value, subnet.ip_version))


async def free(w: Work, fixed_ips: Sequence[FixedIp]) -> None:
    for fixed in fixed_ips:
        await addresses.delete(w.tx, fixed.subnet_id, ipam.key_of(fixed.ip_address))


def fits(subnet: Subnet, device_owner: str) -> bool:
    """Whether the subnet serves ports of this owner (service_types; none means any)."""
    return not subnet.service_types or any(device_owner.startswith(kind) for kind in subnet.service_types)


async def automatic(w: Work, network_id: str, subnets: Sequence[Subnet], mac: str, port_id: str, device_owner: str) -> tuple[FixedIp, ...]:
    """One address of each family, and one of each subnet where guests make their own. No subnets: no addresses."""
    out: list[FixedIp] = []
    usable = [subnet for subnet in subnets if fits(subnet, device_owner)]
    for version in (4, 6):
        plain = [s for s in usable if s.ip_version == version and s.ipv6_address_mode not in ipam.AUTO_ADDRESS_MODES]
        for subnet in plain:
            value = await pick(w, subnet)
            if value is not None:
                out.append(await take(w, subnet, value, port_id))
                break
        else:
            if plain:
                raise IpAddressGenerationFailure(network=network_id)
    for subnet in usable:
        if subnet.ipv6_address_mode in ipam.AUTO_ADDRESS_MODES:
            out.append(await take(w, subnet, ipam.eui64(ipam.cidr_of(subnet.cidr), mac), port_id))
    return tuple(out)


async def chosen(
    w: Work,
    network_id: str,
    subnets: Sequence[Subnet],
    wanted: Sequence[dict[str, Any]],
    mac: str,
    port_id: str,
    keep: Sequence[FixedIp] = (),
) -> tuple[FixedIp, ...]:
    """The addresses that a request names (by subnet, by address, or both). Those in `keep` are the port's already."""
    if len(wanted) > w.default.max_fixed_ips_per_port:
        raise InvalidInput("Exceeded maximum amount of fixed ips per port.")
    by_id = {subnet.id: subnet for subnet in subnets}
    kept: dict[tuple[str, str], FixedIp] = {(fixed.subnet_id, fixed.ip_address): fixed for fixed in keep}
    left = list(keep)
    out: list[FixedIp] = []
    for item in sorted(wanted, key=lambda item: item.get("ip_address") is None):
        subnet = _subnet_for(network_id, by_id, item)
        ip = item.get("ip_address")
        if ip is None:
            same = next((fixed for fixed in left if fixed.subnet_id == subnet.id), None)
            if same is not None:
                left.remove(same)
                out.append(same)
                continue
            if subnet.ipv6_address_mode in ipam.AUTO_ADDRESS_MODES:
                value: int | None = ipam.eui64(ipam.cidr_of(subnet.cidr), mac)
            else:
                value = await pick(w, subnet)
            if value is None:
                raise IpAddressGenerationFailure(network=network_id)
            out.append(await take(w, subnet, value, port_id))
            continue
        if not ipam.may_have(ipam.cidr_of(subnet.cidr), ip):
            raise InvalidIpForSubnet(ip=ip)
        if (subnet.id, ip) in kept:
            same = kept[(subnet.id, ip)]
            if same in left:
                left.remove(same)
            out.append(same)
            continue
        if await addresses.owner(w.tx, subnet.id, ipam.key_of(ip)) is not None or any(f.ip_address == ip for f in out):
            raise IpAddressAlreadyAllocated(ip=ip, subnet=subnet.id)
        out.append(await take(w, subnet, ipam.number(ip), port_id))
    await free(w, left)
    return tuple(out)


def _subnet_for(network_id: str, by_id: dict[str, Subnet], item: dict[str, Any]) -> Subnet:
    subnet_id, ip = item.get("subnet_id"), item.get("ip_address")
    if subnet_id is not None:
        found = by_id.get(subnet_id)
        if found is None:
            raise InvalidInput(f"Failed to create port on network {network_id}, because fixed_ips included invalid subnet {subnet_id}")
        return found
    if ip is None:
        raise InvalidInput("IP allocation requires subnet_id or ip_address")
    for subnet in by_id.values():
        if ipam.contains(ipam.cidr_of(subnet.cidr), ip):
            return subnet
    raise InvalidIpForNetwork(ip=ip)
