"""Carving subnets out of a pool's prefixes: pure."""

import ipaddress
from collections.abc import Iterable, Sequence

from kilonova.network.domain import ipam
from kilonova.network.domain.ipam import Range

MAX_LENGTH = {4: 32, 6: 128}
MIN_LENGTH = {4: 8, 6: 64}
"""The shortest prefix given out when the pool does not say."""


def merged(cidrs: Iterable[str]) -> list[Range]:
    """Disjoint ranges that cover the prefixes, ascending; neighbours are joined."""
    out: list[Range] = []
    for first, last in sorted(ipam.bounds(ipam.cidr_of(cidr)) for cidr in cidrs):
        if out and first <= out[-1][1] + 1:
            out[-1] = (out[-1][0], max(out[-1][1], last))
        else:
            out.append((first, last))
    return out


def free(prefixes: Iterable[str], taken: Iterable[str]) -> list[Range]:
    """What the prefixes have left."""
    out: list[Range] = []
    used = merged(taken)
    for first, last in merged(prefixes):
        at = first
        for a, b in used:
            if b < at or a > last:
                continue
            if a > at:
                out.append((at, a - 1))
            at = max(at, b + 1)
        if at <= last:
            out.append((at, last))
    return out


def carve(prefixes: Sequence[str], taken: Sequence[str], length: int, version: int) -> str | None:
    """The first free prefix of this length, out of the smallest gap that has one."""
    size = 1 << (MAX_LENGTH[version] - length)
    for first, last in sorted(free(prefixes, taken), key=lambda gap: (gap[1] - gap[0], gap[0])):
        start = -(-first // size) * size
        if start + size - 1 <= last:
            return f"{ipam.text(start, version)}/{length}"
    return None


def has(prefixes: Sequence[str], taken: Sequence[str], cidr: str) -> bool:
    """Whether the pool still has exactly this prefix."""
    first, last = ipam.bounds(ipam.cidr_of(cidr))
    return any(a <= first and last <= b for a, b in free(prefixes, taken))


def covers(prefixes: Sequence[str], others: Sequence[str]) -> bool:
    """Whether the prefixes hold all of the others."""
    have = merged(prefixes)
    return all(any(a <= first and last <= b for a, b in have) for first, last in merged(others))


def compact(prefixes: Sequence[str]) -> tuple[str, ...]:
    """The fewest prefixes that cover the same addresses."""
    return tuple(str(cidr) for cidr in _summarised(prefixes))


def from_ranges(parts: Sequence[Range], version: int) -> tuple[str, ...]:
    """The prefixes that make up these ranges."""
    out: list[str] = []
    for first, last in parts:
        ends = (
            (ipaddress.IPv4Address(first), ipaddress.IPv4Address(last))
            if version == 4
            else (ipaddress.IPv6Address(first), ipaddress.IPv6Address(last))
        )
        out += [str(cidr) for cidr in ipaddress.summarize_address_range(*ends)]
    return tuple(out)


def _summarised(prefixes: Sequence[str]) -> list[ipam.Cidr]:
    found = [ipam.cidr_of(prefix) for prefix in prefixes]
    out: list[ipam.Cidr] = []
    for cidr in sorted(found, key=lambda c: (int(c.network_address), c.prefixlen)):
        if out and ipam.overlap(str(out[-1]), str(cidr)):
            continue
        out.append(cidr)
        while (
            len(out) > 1 and out[-1].prefixlen == out[-2].prefixlen and out[-1].prefixlen > 0 and out[-1].supernet() == out[-2].supernet()
        ):
            joined = out[-1].supernet()
            del out[-2:]
            out.append(joined)
    return out
