"""The whole chain on a real kernel: API, topology, agent, Linux driver, and back to ACTIVE. Two hosts as namespaces of this machine."""

import os
import uuid
from collections.abc import Callable

import pytest

from kilonova.network import rpc
from kilonova.network.agent import NetworkAgent
from kilonova.network.drivers.linux.config import LinuxConfig, PhysicalNetwork, Underlay
from kilonova.network.drivers.linux.driver import LinuxDriver

from .conftest import World, allocate

Run = Callable[..., None]


async def no_metadata(request: rpc.MetadataRequest) -> rpc.MetadataReply:
    return rpc.MetadataReply(status=404)


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="network namespaces need root")
def test_servers_on_two_hosts_behind_a_router(run: Run) -> None:
    cloud = f"kn-t{uuid.uuid4().hex[:6]}"

    async def story(w: World) -> None:
        drivers: list[LinuxDriver] = []
        try:
            for i in range(2):
                physical = PhysicalNetwork(address="203.0.113.1/24" if i == 0 else None)
                vtep_ip, underlay = f"192.0.2.{i + 1}", Underlay(namespace=f"{cloud}-net")
                config = LinuxConfig(host_namespace=f"{cloud}-h{i}", vtep_ip=vtep_ip, underlay=underlay, physical_networks=(physical,))
                drivers.append(LinuxDriver(config, no_metadata))
                agent = NetworkAgent(host=f"h{i}", driver=drivers[i], bus=w.bus, runtime=w.runtime, log=w.log, vtep_ip=vtep_ip)
                await agent.start()
                w.agents[f"h{i}"] = agent
            await w.service.bootstrap(project_id="admin")
            user, ctx = w.client(), w.ctx()
            net = await user.network()
            (public,) = await user.list("networks", "?router:external=True")
            router = await user.create("routers", name="r", external_gateway_info={"network_id": public["id"]})
            await user.client.put(f"/v2.0/routers/{router['id']}/add_router_interface", {"subnet_id": net["subnet"]["id"]})
            taps = []
            for i in range(2):
                (nic,) = await w.service.allocate(ctx, allocate(f"s{i}", f"h{i}", net["id"]))
                await w.service.wait_wired(ctx, f"s{i}", 20)
                taps.append(nic.device_name)
                assert nic.device_name in (await drivers[i].snapshot()).links
            (nic,) = await w.service.nics(ctx, "s1")
            fip = await user.create("floatingips", floating_network_id=public["id"], port_id=nic.port_id)
            await w.settle()
            assert (await user.get("floatingips", fip["id"]))["status"] == "ACTIVE"
            for i in range(2):
                await w.service.release(ctx, f"s{i}")
            await w.settle()
            for driver, tap in zip(drivers, taps, strict=True):
                assert tap not in (await driver.snapshot()).links
            await user.client.put(f"/v2.0/routers/{router['id']}/remove_router_interface", {"subnet_id": net["subnet"]["id"]})
            await user.delete("routers", router["id"])
            await w.settle()
            for driver in drivers:
                snapshot = await driver.snapshot()
                assert not [link for link in snapshot.links if link.startswith(("tap", "vx", "svc"))], snapshot
            assert [agent.failures for agent in w.agents.values()] == [0, 0]
        finally:
            for agent in w.agents.values():
                await agent.stop()
            w.agents.clear()
            for driver in drivers:
                await driver.teardown()

    run(story)
