"""Tunnels that end on the machine (`my_ip`), as links and sockets show it: the machine is a namespace, and the driver runs in a thread
inside. Real guests on two machines are in `tests/probe/test_tunnels.py`."""

import asyncio
import os
import uuid
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import msgspec
import pytest

from kilonova.network import rpc
from kilonova.network.drivers import DriverError
from kilonova.network.drivers.linux import names, netns, rtnl
from kilonova.network.drivers.linux.config import LinuxConfig
from kilonova.network.drivers.linux.driver import LinuxDriver
from kilonova.network.drivers.linux.rtnl import Route

pytestmark = [pytest.mark.root, pytest.mark.skipif(os.geteuid() != 0, reason="needs root")]


async def no_metadata(request: rpc.MetadataRequest) -> rpc.MetadataReply:
    return rpc.MetadataReply(status=404)


@pytest.fixture
def machine() -> Iterator[str]:
    name = f"mt{uuid.uuid4().hex[:8]}"
    netns.create(name)
    with netns.entered(name), Route() as route:
        route.do(rtnl.set_link("lo", up=True))
        index = route.index("lo")
        route.do(rtnl.add_address(index, "192.0.2.7/32"), rtnl.add_address(index, "192.0.2.8/32"))
    yield name
    netns.remove(name)


def on(machine: str, story: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """In a thread that is on that machine, as a hypervisor's process would be."""
    with ThreadPoolExecutor(1, initializer=netns.enter, initargs=(machine,)) as pool:
        pool.submit(asyncio.run, story()).result()


def config(machine: str, vtep_ip: str) -> LinuxConfig:
    return LinuxConfig(host_namespace=f"kn-{machine}-h", vtep_ip=vtep_ip, machine_tunnels=True)


def state() -> rpc.HostState:
    network = rpc.Network(id=str(uuid.uuid4()), kind="vxlan", segmentation_id=77, mtu=1450, dhcp_mac="fa:16:3e:00:00:01")
    return rpc.HostState(networks=(network,))


def test_an_address_of_another_machine_is_refused(machine: str) -> None:
    async def story() -> None:
        with pytest.raises(DriverError, match=r"my_ip is 192\.0\.2\.99, which is not an IPv4 address of this machine"):
            await LinuxDriver(config(machine, "192.0.2.99"), no_metadata).start()
        assert not netns.exists(f"kn-{machine}-h")

    on(machine, story)


def test_the_tunnel_is_the_machines_and_follows_my_ip(machine: str) -> None:
    """The link is among the host's, its packets leave from the machine; with another `my_ip` it is made anew."""
    wanted = state()
    name = names.vxlan(wanted.networks[0].id)

    async def story() -> None:
        indexes = []
        for vtep_ip in ("192.0.2.7", "192.0.2.7", "192.0.2.8"):
            driver = LinuxDriver(config(machine, vtep_ip), no_metadata)
            await driver.start()
            synced = await driver.sync(msgspec.structs.replace(wanted, peers=(rpc.Peer(vtep_ip="192.0.2.9"),)))
            assert not synced.failed, synced
            with netns.entered(f"kn-{machine}-h"), Route() as route:
                link = route.link(name)
                assert link is not None and link.master == route.index(names.bridge(wanted.networks[0].id)) and link.up
                indexes.append(link.index)
                flood = [entry.ip for entry in route.neighbours(7) if entry.index == link.index and entry.mac == rtnl.FLOOD_MAC]
                assert flood == ["192.0.2.9"]
            with Route() as outside:
                assert [link.name for link in outside.links()] == ["lo"]
            with open("/proc/thread-self/net/udp") as sockets:
                assert f":{rtnl.VXLAN_UDP_PORT:04X} " in sockets.read()
            await driver.stop()
        assert indexes[0] == indexes[1] != indexes[2]
        await driver.teardown()
        assert not netns.exists(f"kn-{machine}-h")

    on(machine, story)
