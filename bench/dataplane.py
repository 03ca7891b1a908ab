"""What the Linux dataplane costs: plug, network, router, floating IP, group change, full sync. Needs root.

Everything happens in namespaces of its own. Prints one JSON object; `--ports` sets how many ports the full sync has.
"""

import argparse
import asyncio
import json
import os
import statistics
import sys
import time
import uuid
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

import msgspec

from kilonova.network import rpc
from kilonova.network.drivers.fake import FakeDriver
from kilonova.network.drivers.linux.config import LinuxConfig, PhysicalNetwork, Underlay
from kilonova.network.drivers.linux.driver import LinuxDriver


def new_id() -> str:
    return str(uuid.uuid4())


def new_mac() -> str:
    return "fa:16:3e:" + os.urandom(3).hex(":")


async def no_metadata(request: rpc.MetadataRequest) -> rpc.MetadataReply:
    return rpc.MetadataReply(status=404)


def network(number: int) -> tuple[rpc.Network, rpc.Subnet]:
    network_id = new_id()
    made = rpc.Network(id=network_id, segmentation_id=1000 + number, mtu=1450, dhcp_mac=new_mac())
    subnet = rpc.Subnet(
        id=new_id(), network_id=network_id, cidr=f"10.{number}.0.0/16", gateway_ip=f"10.{number}.0.1", dhcp_ip=f"10.{number}.0.2"
    )
    return made, subnet


def port(subnet: rpc.Subnet, place: int, group: rpc.SecurityGroup) -> rpc.Port:
    port_id = new_id()
    ip = f"{subnet.cidr.split('.0.0/')[0]}.{1 + place // 200}.{1 + place % 200}"
    fixed = (rpc.FixedIp(subnet_id=subnet.id, ip=ip),)
    return rpc.Port(
        id=port_id,
        network_id=subnet.network_id,
        device_name=f"tap{port_id[:11]}",
        mac=new_mac(),
        fixed_ips=fixed,
        security_group_ids=(group.id,),
    )


def default_group() -> rpc.SecurityGroup:
    group_id = new_id()
    rules = tuple(rpc.SecurityGroupRule(direction="egress", ethertype=kind) for kind in ("IPv4", "IPv6"))
    inward = tuple(rpc.SecurityGroupRule(direction="ingress", ethertype=kind, remote_group_id=group_id) for kind in ("IPv4", "IPv6"))
    return rpc.SecurityGroup(id=group_id, rules=rules + inward)


class Clock:
    def __init__(self) -> None:
        self.samples_ms: dict[str, list[float]] = {}

    async def time(self, name: str, verb: Callable[[], Awaitable[Any]]) -> None:
        started = time.perf_counter()
        await verb()
        self.samples_ms.setdefault(name, []).append((time.perf_counter() - started) * 1000)

    def report(self) -> dict[str, dict[str, float]]:
        return {
            name: {"median_ms": round(statistics.median(found), 3), "best_ms": round(min(found), 3), "count": len(found)}
            for name, found in self.samples_ms.items()
        }


async def measure(driver: LinuxDriver, ports: int, clock: Clock) -> None:
    await driver.sync(rpc.HostState())
    public = rpc.Network(id=new_id(), kind="flat", physical_network="public", mtu=1500, external=True)
    outside = rpc.Subnet(id=new_id(), network_id=public.id, cidr="203.0.113.0/24", gateway_ip="203.0.113.1", enable_dhcp=False)
    await driver.put_network(public, (outside,))
    networks = [network(number) for number in range(1, 12)]
    for made, subnet in networks:
        await clock.time("network create (bridge, vxlan, DHCP, metadata)", partial(driver.put_network, made, (subnet,)))
    home, subnet = networks[0]
    group = default_group()
    plugged: list[rpc.Port] = []
    for place in range(ports):
        new = port(subnet, place, group)
        plugged.append(new)
        group = msgspec.structs.replace(group, member_ips=(*group.member_ips, new.fixed_ips[0].ip))
        await clock.time("plug one port", partial(driver.plug, new, home, (subnet,), (group,)))
    routers = []
    for number, (made, inner) in enumerate(networks):
        leg = rpc.RouterInterface(
            port_id=new_id(), subnet_id=inner.id, network_id=made.id, ip=str(inner.gateway_ip), prefix=16, mac=new_mac()
        )
        gateway = rpc.RouterGateway(
            port_id=new_id(), network_id=public.id, ips=(f"203.0.113.{10 + number}/24",), mac=new_mac(), next_hop="203.0.113.1"
        )
        router = rpc.Router(id=new_id(), interfaces=(leg,), gateway=gateway)
        routers.append(router)
        await clock.time("router create (2 legs, SNAT)", partial(driver.put_router, router))
    floating: tuple[rpc.FloatingIp, ...] = ()
    for place in range(10):
        floating = (*floating, rpc.FloatingIp(floating_ip=f"203.0.113.{100 + place}", fixed_ip=plugged[place].fixed_ips[0].ip))
        routers[0] = msgspec.structs.replace(routers[0], floating_ips=floating)
        await clock.time("floating IP add", partial(driver.put_router, routers[0]))
    for number in range(10):
        rule = rpc.SecurityGroupRule(direction="ingress", protocol="tcp", port_range_min=number + 1, port_range_max=number + 1)
        group = msgspec.structs.replace(group, rules=(*group.rules, rule))
        await clock.time("rule add", partial(driver.put_group, group))
    state = rpc.HostState(
        networks=(public, *(made for made, _ in networks)),
        subnets=(outside, *(inner for _, inner in networks)),
        ports=tuple(plugged),
        security_groups=(group,),
        routers=tuple(routers),
    )
    for _ in range(5):
        await clock.time(f"full sync, {ports} ports, 12 networks, 11 routers, nothing to do", partial(driver.sync, state))
    for done in plugged[:20]:
        await clock.time("unplug one port", partial(driver.unplug, done.id))
    await driver.sync(rpc.HostState())
    await clock.time(f"full sync, {ports} ports, 12 networks, 11 routers, from nothing", partial(driver.sync, state))


async def measure_fake(plugs: int, clock: Clock) -> None:
    driver = FakeDriver()
    await driver.sync(rpc.HostState())
    made, subnet = network(1)
    group = default_group()
    ready = [port(subnet, place, group) for place in range(plugs)]

    async def plug_all() -> None:
        for new in ready:
            await driver.plug(new, made, (subnet,), (group,))

    await clock.time(f"fake driver, {plugs} plugs", plug_all)


async def main(ports: int) -> None:
    cloud = f"kn-b{uuid.uuid4().hex[:6]}"
    config = LinuxConfig(
        host_namespace=f"{cloud}-h1",
        underlay=Underlay(namespace=f"{cloud}-net"),
        physical_networks=(PhysicalNetwork(address="203.0.113.1/24"),),
    )
    clock = Clock()
    driver = LinuxDriver(config, no_metadata)
    try:
        await clock.time("start", driver.start)
        await measure(driver, ports, clock)
    finally:
        await clock.time("teardown", driver.teardown)
    await measure_fake(10_000, clock)
    print(json.dumps({"benchmark": "dataplane", "load": os.getloadavg()[0], "results": clock.report()}, indent=1))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--ports", type=int, default=200)
    if os.geteuid() != 0:
        sys.exit("The dataplane benchmark needs root: it makes network namespaces.")
    asyncio.run(main(parser.parse_args().ports))
