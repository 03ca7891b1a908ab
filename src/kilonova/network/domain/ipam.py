"""Addresses, pools and prefixes: pure functions.

Inside, an address is an integer with its IP version; `key` writes it so that text order is numeric order. Ranges are inclusive.
"""

import functools
import ipaddress
import itertools
from collections.abc import Iterable, Sequence

from kilonova.network.errors import (
    GatewayConflictWithAllocationPools,
    InvalidAllocationPool,
    InvalidInput,
    OutOfBoundsAllocationPool,
    OverlappingAllocationPools,
)
from kilonova.network.model import Pool

Cidr = ipaddress.IPv4Network | ipaddress.IPv6Network
Range = tuple[int, int]
AUTO_ADDRESS_MODES = ("slaac", "dhcpv6-stateless")
"""IPv6 modes in which a guest makes its address from its MAC."""


@functools.lru_cache(8192)
def cidr_of(text: str) -> Cidr:
    """Raises ValueError; host bits are dropped."""
    return ipaddress.ip_network(text, strict=False)


@functools.lru_cache(8192)
def number(ip: str) -> int:
    return int(ipaddress.ip_address(ip))


@functools.lru_cache(8192)
def version_of(ip: str) -> int:
    return ipaddress.ip_address(ip).version


def text(value: int, version: int) -> str:
    return str(ipaddress.IPv4Address(value) if version == 4 else ipaddress.IPv6Address(value))


def key(value: int, version: int) -> str:
    return f"{value:08x}" if version == 4 else f"{value:032x}"


def key_of(ip: str) -> str:
    return key(number(ip), version_of(ip))


def bounds(cidr: Cidr) -> Range:
    return int(cidr.network_address), int(cidr.broadcast_address)


def usable(cidr: Cidr) -> Range:
    """First and last address that a port may have: without network and broadcast address, where the family has them."""
    first, last = bounds(cidr)
    if cidr.num_addresses <= 2:
        return first, last
    return (first + 1, last - 1) if cidr.version == 4 else (first + 1, last)


def contains(cidr: Cidr, ip: str) -> bool:
    first, last = bounds(cidr)
    return version_of(ip) == cidr.version and first <= number(ip) <= last


def may_have(cidr: Cidr, ip: str) -> bool:
    """Whether a port may have the address."""
    first, last = usable(cidr)
    return version_of(ip) == cidr.version and first <= number(ip) <= last


def default_gateway(cidr: Cidr) -> str:
    first, _ = usable(cidr)
    return text(first, cidr.version)


def default_pools(cidr: Cidr, gateway_ip: str | None) -> tuple[Pool, ...]:
    """Every usable address but the gateway's."""
    first, last = usable(cidr)
    parts = [(first, last)]
    if gateway_ip is not None and contains(cidr, gateway_ip):
        at = number(gateway_ip)
        parts = [(a, b) for a, b in ((first, min(last, at - 1)), (max(first, at + 1), last)) if a <= b] if first <= at <= last else parts
    return tuple(Pool(text(a, cidr.version), text(b, cidr.version)) for a, b in parts)


@functools.lru_cache(4096)
def ranges(pools: tuple[tuple[str, str], ...]) -> tuple[Range, ...]:
    return tuple(sorted((number(start), number(end)) for start, end in pools))


def pool_ranges(pools: Iterable[Pool]) -> tuple[Range, ...]:
    return ranges(tuple((pool.start, pool.end) for pool in pools))


def _named(pool: Pool) -> str:
    return f"{pool.start}-{pool.end}"


def check_pools(cidr: Cidr, pools: Sequence[Pool], gateway_ip: str | None) -> None:
    """Pools lie inside the prefix, do not overlap, and leave the gateway out."""
    first, last = usable(cidr)
    for pool in pools:
        if version_of(pool.start) != cidr.version or version_of(pool.end) != cidr.version or number(pool.start) > number(pool.end):
            raise InvalidAllocationPool(pool=_named(pool))
        if number(pool.start) < first or number(pool.end) > last:
            raise OutOfBoundsAllocationPool(pool=_named(pool), cidr=str(cidr))
        if gateway_ip is not None and number(pool.start) <= number(gateway_ip) <= number(pool.end):
            raise GatewayConflictWithAllocationPools(ip=gateway_ip, pool=_named(pool))
    ordered = sorted(pools, key=lambda pool: number(pool.start))
    for one, two in itertools.pairwise(ordered):
        if number(two.start) <= number(one.end):
            raise OverlappingAllocationPools(first=_named(one), second=_named(two), cidr=str(cidr))


def check_gateway(cidr: Cidr, gateway_ip: str) -> None:
    """The gateway is a usable address of the subnet (an IPv6 one may be link-local)."""
    if version_of(gateway_ip) != cidr.version:
        raise InvalidInput(f"gateway_ip '{gateway_ip}' does not match the ip_version '{cidr.version}'")
    if cidr.version == 6 and ipaddress.ip_address(gateway_ip).is_link_local:
        return
    if contains(cidr, gateway_ip) and not may_have(cidr, gateway_ip) and cidr.version == 4:
        raise InvalidInput("Gateway is not valid on subnet")


def first_free(taken: Sequence[int], start: int, end: int) -> int | None:
    """The lowest number of start…end that is not in `taken` (ascending, within the range)."""
    at = start
    for number_taken in taken:
        if number_taken > at:
            break
        at = number_taken + 1
    return at if at <= end else None


def rotation(parts: Sequence[Range], hint: int) -> list[Range]:
    """The ranges once round, beginning at `hint`."""
    after: list[Range] = []
    before: list[Range] = []
    for first, last in parts:
        if last < hint:
            before.append((first, last))
        elif first >= hint:
            after.append((first, last))
        else:
            after.append((hint, last))
            before.append((first, hint - 1))
    return [*after, *before]


def count(parts: Iterable[Range]) -> int:
    return sum(last - first + 1 for first, last in parts)


def eui64(cidr: Cidr, mac: str) -> int:
    """The address that a guest with this MAC gives itself under SLAAC."""
    octets = [int(part, 16) for part in mac.split(":")]
    low = [octets[0] ^ 2, octets[1], octets[2], 0xFF, 0xFE, octets[3], octets[4], octets[5]]
    return int(cidr.network_address) | int.from_bytes(bytes(low), "big")


def overlap(one: str, two: str) -> bool:
    a, b = cidr_of(one), cidr_of(two)
    return a.version == b.version and a.overlaps(b)
