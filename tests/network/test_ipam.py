"""Addresses and prefixes: properties of the pure parts."""

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kilonova.core.errors import Error
from kilonova.network.domain import ipam, subnet_pools
from kilonova.network.model import Pool

v4 = st.integers(1, 2**32 - 2)
v6 = st.integers(1, 2**128 - 2)
cidrs = st.one_of(
    st.tuples(v4, st.integers(8, 32)).map(lambda t: f"{ipaddress.IPv4Address(t[0])}/{t[1]}"),
    st.tuples(v6, st.integers(48, 128)).map(lambda t: f"{ipaddress.IPv6Address(t[0])}/{t[1]}"),
)


@given(st.lists(v6, min_size=2), st.sampled_from([4, 6]))
def test_keys_sort_as_numbers_do(numbers: list[int], version: int) -> None:
    numbers = [number % 2**32 if version == 4 else number for number in numbers]
    assert sorted(numbers) == sorted(numbers, key=lambda number: ipam.key(number, version))
    for number in numbers:
        text = ipam.text(number, version)
        assert ipam.key_of(text) == ipam.key(number, version)
        assert int(ipam.key_of(text), 16) == number


@given(cidrs)
def test_default_pools_are_every_usable_address_but_the_gateway(text: str) -> None:
    cidr = ipam.cidr_of(text)
    gateway = ipam.default_gateway(cidr)
    first, last = ipam.usable(cidr)
    assert first <= ipam.number(gateway) <= last
    pools = ipam.default_pools(cidr, gateway)
    assert ipam.count(ipam.pool_ranges(pools)) == last - first
    assert ipam.count(ipam.pool_ranges(ipam.default_pools(cidr, None))) == last - first + 1
    ipam.check_pools(cidr, pools, gateway)


@given(st.sets(st.integers(0, 60)), st.integers(0, 60), st.integers(0, 60))
def test_first_free_is_the_lowest_free(taken: set[int], start: int, end: int) -> None:
    window = sorted(number for number in taken if start <= number <= end)
    expected = next((number for number in range(start, end + 1) if number not in taken), None)
    assert ipam.first_free(window, start, end) == expected


@given(st.lists(st.tuples(st.integers(0, 200), st.integers(0, 20)), max_size=5), st.integers(0, 230))
def test_rotation_visits_each_address_once(parts: list[tuple[int, int]], hint: int) -> None:
    ranges: list[tuple[int, int]] = []
    for first, length in sorted(parts):
        if not ranges or first > ranges[-1][1]:
            ranges.append((first, first + length))
    visited = [number for first, last in ipam.rotation(ranges, hint) for number in range(first, last + 1)]
    expected = [number for first, last in ranges for number in range(first, last + 1)]
    assert sorted(visited) == expected
    assert visited == [n for n in expected if n >= hint] + [n for n in expected if n < hint]


@given(cidrs, cidrs)
def test_overlap_is_symmetric_and_right(one: str, two: str) -> None:
    a, b = ipam.cidr_of(one), ipam.cidr_of(two)
    first, last = max(ipam.bounds(a)[0], ipam.bounds(b)[0]), min(ipam.bounds(a)[1], ipam.bounds(b)[1])
    assert ipam.overlap(one, two) == ipam.overlap(two, one) == (a.version == b.version and first <= last)


@pytest.mark.parametrize(
    ("pools", "gateway"),
    [
        ([Pool("10.0.0.5", "10.0.0.2")], None),
        ([Pool("10.0.0.0", "10.0.0.2")], None),
        ([Pool("10.0.0.2", "10.0.0.255")], None),
        ([Pool("10.0.0.2", "10.0.1.2")], None),
        ([Pool("fd00::1", "fd00::2")], None),
        ([Pool("10.0.0.2", "10.0.0.5"), Pool("10.0.0.5", "10.0.0.7")], None),
        ([Pool("10.0.0.2", "10.0.0.5")], "10.0.0.3"),
    ],
)
def test_bad_pools_are_refused(pools: list[Pool], gateway: str | None) -> None:
    with pytest.raises(Error) as caught:
        ipam.check_pools(ipam.cidr_of("10.0.0.0/24"), pools, gateway)
    assert caught.value.status in (400, 409)


def test_slaac_addresses() -> None:
    assert ipam.text(ipam.eui64(ipam.cidr_of("fd00::/64"), "fa:16:3e:00:00:01"), 6) == "fd00::f816:3eff:fe00:1"


small = st.tuples(st.integers(0, 255), st.integers(24, 30)).map(lambda t: str(ipaddress.ip_network(f"10.0.0.{t[0]}/{t[1]}", strict=False)))


@given(st.lists(small, min_size=1, max_size=6), st.lists(st.integers(24, 30), max_size=12))
def test_carving_never_overlaps_and_stops_only_when_nothing_fits(prefixes: list[str], lengths: list[int]) -> None:
    taken: list[str] = []
    space = {address for prefix in prefixes for address in ipaddress.ip_network(prefix)}
    for length in lengths:
        found = subnet_pools.carve(prefixes, taken, length, 4)
        used = {address for cidr in taken for address in ipaddress.ip_network(cidr)}
        fitting = [block for block in ipaddress.ip_network("10.0.0.0/24").subnets(new_prefix=length) if set(block) <= space - used]
        assert (found is not None) == bool(fitting)
        if found is not None:
            assert ipaddress.ip_network(found) in fitting
            assert subnet_pools.has(prefixes, taken, found)
            taken.append(found)
            assert not subnet_pools.has(prefixes, taken, found)


@given(st.lists(small, min_size=1, max_size=6))
def test_compacting_keeps_the_space(prefixes: list[str]) -> None:
    compact = subnet_pools.compact(prefixes)
    assert subnet_pools.merged(compact) == subnet_pools.merged(prefixes)
    assert len(compact) <= len(set(prefixes))
    assert subnet_pools.compact(compact) == compact


@given(st.lists(small, min_size=1, max_size=5), st.lists(small, max_size=5))
def test_free_space_is_the_difference(prefixes: list[str], taken: list[str]) -> None:
    space = {int(a) for prefix in prefixes for a in ipaddress.ip_network(prefix)} - {int(a) for t in taken for a in ipaddress.ip_network(t)}
    parts = subnet_pools.free(prefixes, taken)
    assert {number for first, last in parts for number in range(first, last + 1)} == space
    assert subnet_pools.merged(subnet_pools.from_ranges(parts, 4)) == subnet_pools.merged(subnet_pools.from_ranges(parts, 4)[::-1])
