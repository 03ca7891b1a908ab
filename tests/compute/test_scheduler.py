"""Filters, each as a table: which hosts are left, and the reason for one that is not."""

import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kilonova.compute.model import Host
from kilonova.compute.scheduler.choose import choose, explain
from kilonova.compute.scheduler.filters import BUILTIN, Filter
from kilonova.compute.scheduler.snapshot import HostFacts, Request, Snapshot
from kilonova.compute.scheduler.weighers.cpu import CPUWeigher
from kilonova.compute.scheduler.weighers.ram import RAMWeigher
from kilonova.core import plugins


def facts(name: str, **changes: Any) -> HostFacts:
    host: dict[str, Any] = {
        "id": name,
        "number": 1,
        "host": name,
        "hypervisor_hostname": f"{name}.example",
        "hypervisor_type": "QEMU",
        "hypervisor_version": 7002000,
        "vcpus": 8,
        "ram_mb": 8192,
        "disk_gb": 100,
        "cpu_info": {"arch": "x86_64"},
        "host_ip": "127.0.0.1",
        "availability_zone": "nova",
        "disabled": False,
        "disabled_reason": None,
        "forced_down": False,
        "seen_at": 0,
        "created_at": 0,
    }
    free: dict[str, Any] = {"up": True, "free_vcpus": 8, "free_ram_mb": 8192, "free_disk_gb": 100, "total_ram_mb": 8192}
    for key, value in changes.items():
        (free if key in free else host)[key] = value
    return HostFacts(host=Host(**host), **free)


def request(**changes: Any) -> Request:
    return Request(**{"server_id": "s", "vcpus": 1, "ram_mb": 512, "disk_gb": 10, **changes})


def filters() -> dict[str, Filter]:
    return {name: plugins.load("kilonova.compute.filter", name, BUILTIN)() for name in BUILTIN}


@pytest.mark.parametrize(
    ("name", "wanted", "bad", "reason"),
    [
        ("ComputeFilter", {}, {"up": False}, "its compute service is down"),
        ("ComputeFilter", {}, {"disabled": True, "disabled_reason": "disk"}, "it is disabled (disk)"),
        ("ComputeFilter", {"exclude": {"bad": "no tap"}}, {}, "it was tried: no tap"),
        ("AvailabilityZoneFilter", {"availability_zone": "nova"}, {"availability_zone": "z2"}, "it is in zone z2, not nova"),
        ("RequestedHostFilter", {"host": "good"}, {}, "good was asked for"),
        ("RequestedHostFilter", {"hypervisor_hostname": "good.example"}, {}, "good.example was asked for"),
        (
            "ImagePropertiesFilter",
            {"image_properties": {"hw_architecture": "amd64"}},
            {"cpu_info": {"arch": "aarch64"}},
            "the image is for x86_64, its processor is aarch64",
        ),
        (
            "ImagePropertiesFilter",
            {"image_properties": {"img_hv_type": "kvm"}},
            {"hypervisor_type": "xen"},
            "the image is for the hypervisor kvm, it runs xen",
        ),
        ("ResourceFilter", {}, {"free_ram_mb": 100}, "100 MiB of memory free of 512 wanted"),
        ("ResourceFilter", {}, {"free_vcpus": 0}, "0 virtual CPUs free of 1 wanted"),
        ("ResourceFilter", {}, {"free_disk_gb": 9}, "9 GiB of disk free of 10 wanted"),
    ],
)
def test_a_filter_refuses_one_host_and_says_why(name: str, wanted: dict[str, Any], bad: dict[str, Any], reason: str) -> None:
    hosts = Snapshot([facts("good"), facts("bad", **bad)])
    one = filters()[name]
    mask = one.mask(request(**wanted), hosts)
    assert mask is not None
    assert mask.tolist() == [True, False]
    assert one.reason(request(**wanted), hosts, 1) == reason
    found, _ = choose(request(**wanted), hosts, filters(), [RAMWeigher()], random.Random(1))
    assert found is not None
    assert found.host == "good"


def test_what_is_not_asked_for_is_not_filtered() -> None:
    hosts = Snapshot([facts("a", cpu_info={}), facts("b", hypervisor_type="fake")])
    for name in ("AvailabilityZoneFilter", "RequestedHostFilter", "ImagePropertiesFilter"):
        assert filters()[name].mask(request(), hosts) is None
    known = filters()["ImagePropertiesFilter"].mask(request(image_properties={"architecture": "riscv64", "hypervisor_type": "xen"}), hosts)
    assert known is not None
    assert known.tolist() == [False, False]


def test_weighers_rank_and_ties_spread() -> None:
    hosts = Snapshot([facts("a", free_ram_mb=1000), facts("b", free_ram_mb=9000), facts("c", free_ram_mb=9000, free_vcpus=1)])
    picked = [choose(request(), hosts, {}, [RAMWeigher()], random.Random(seed))[0] for seed in range(20)]
    assert {h.host for h in picked if h} == {"b", "c"}
    assert choose(request(), hosts, {}, [RAMWeigher(), CPUWeigher()], random.Random(1))[0] == hosts.hosts[1]


def test_no_hosts_and_every_host_refused_have_a_sentence() -> None:
    assert choose(request(), Snapshot([]), filters(), [], random.Random(1))[1].summary == "There are no hosts yet."
    hosts = Snapshot([facts("a", up=False), facts("b", free_ram_mb=0), facts("c", free_ram_mb=1)])
    found, why = choose(request(), hosts, filters(), [RAMWeigher()], random.Random(1))
    assert found is None
    assert why.rejected["a"] == ("ComputeFilter", "its compute service is down")
    assert why.summary.startswith("ComputeFilter refused 1 of 3 (a: its compute service is down); ResourceFilter refused 2 of 3 (b: ")


@given(
    st.lists(st.tuples(st.integers(0, 16), st.integers(0, 4096), st.integers(0, 50), st.booleans(), st.booleans()), max_size=12),
    st.integers(1, 8),
    st.integers(1, 2048),
    st.integers(0, 40),
)
def test_the_chosen_host_always_fits_and_none_means_none_does(
    rows: list[tuple[int, int, int, bool, bool]], vcpus: int, ram_mb: int, disk_gb: int
) -> None:
    hosts = Snapshot(
        [
            facts(f"h{i}", free_vcpus=v, free_ram_mb=r, free_disk_gb=d, up=up, disabled=disabled)
            for i, (v, r, d, up, disabled) in enumerate(rows)
        ]
    )
    wanted = request(vcpus=vcpus, ram_mb=ram_mb, disk_gb=disk_gb)
    fit = {
        f"h{i}": r for i, (v, r, d, up, disabled) in enumerate(rows) if v >= vcpus and r >= ram_mb and d >= disk_gb and up and not disabled
    }
    found, _ = choose(wanted, hosts, filters(), [RAMWeigher()], random.Random(1))
    if found is None:
        assert not fit
        assert set(explain(wanted, hosts, filters()).rejected) == {h.host for h in hosts.hosts}
    else:
        assert fit[found.host] == max(fit.values())
