"""A cloud whose parts speak over a real broker: services and agents each on a connection of their own."""

import asyncio
import random
from collections.abc import Awaitable, Callable
from pathlib import Path

from kilonova.core.bus.config import RabbitOptions, parse_url
from kilonova.core.bus.rabbitmq import RabbitBus
from kilonova.core.log import Sink
from kilonova.core.runtime import Runtime
from kilonova.network.agent import NetworkAgent
from kilonova.network.drivers.fake import FakeDriver
from kilonova.network.store.tables import metadata
from kilonova.testing.asgi import Client
from kilonova.testing.compute import ComputeWorld
from tests.compute.test_flavors import client
from tests.compute.test_servers import boot, until, wanted
from tests.core.test_bus_rabbitmq import _cut as cut
from tests.engines.rabbitmq import Rabbit, needs_rabbitmq, own
from tests.network.conftest import World, allocate

pytestmark = needs_rabbitmq


def cloud(rabbit: Rabbit, tmp_path: Path, story: Callable[[ComputeWorld, list[RabbitBus]], Awaitable[None]], hosts: int = 2) -> None:
    async def main() -> None:
        runtime = Runtime()
        brokers, vhost = parse_url(rabbit.own_url)
        options = RabbitOptions(brokers=brokers, vhost=vhost, retry_s=0.2, retry_max_s=0.5)
        world = ComputeWorld(runtime, Sink(now_us=runtime.now_us), str(tmp_path / "db"), hosts=hosts)
        buses = [RabbitBus(options, runtime, world.log.child("bus"), name=name) for name in ("control", "agents")]
        world.compute.bus = buses[0]
        for agent in world.agents:
            agent.bus = buses[1]
        for bus in buses:
            await bus.start(10.0)
        try:
            await world.start()
            await introduced(world, hosts)
            await story(world, buses)
        finally:
            await world.stop()
            for bus in buses:
                await bus.stop()

    async def bounded() -> None:
        async with asyncio.timeout(100):
            await main()

    asyncio.run(bounded())


async def introduced(world: ComputeWorld, hosts: int) -> None:
    """Wait until each host has been told: an agent whose report comes before control's queue stands says it again after a while."""
    admin = world.client("admin:p1")
    while len((await admin.get("/v2.1/os-hypervisors")).json["hypervisors"]) < hosts:  # noqa: ASYNC110
        await asyncio.sleep(0.05)


def test_servers_live_and_die_over_a_broker(rabbit: Rabbit, tmp_path: Path) -> None:
    async def story(w: ComputeWorld, buses: list[RabbitBus]) -> None:
        c = client(w)
        servers = await asyncio.gather(*(boot(c) for _ in range(6)))
        assert sum(len(machine.guests) for machine in w.machines.values()) == 6
        path = f"/v2.1/servers/{servers[0]['id']}"
        for body, status in (({"os-stop": None}, "SHUTOFF"), ({"os-start": None}, "ACTIVE"), ({"reboot": {"type": "HARD"}}, "ACTIVE")):
            assert (await c.post(path + "/action", body)).status == 202
            await until(c, servers[0]["id"], status)
        for server in servers:
            await c.delete(f"/v2.1/servers/{server['id']}")
        while any(machine.guests for machine in w.machines.values()):  # noqa: ASYNC110
            await asyncio.sleep(0.02)

    cloud(rabbit, tmp_path, story)


async def settled(c: Client, server_id: str) -> None:
    while True:
        server = (await c.get(f"/v2.1/servers/{server_id}")).json["server"]
        assert server["status"] != "ERROR", server["fault"]
        if server["status"] == "ACTIVE":
            return
        await asyncio.sleep(0.05)


def test_boots_outlive_the_broker(tmp_path: Path) -> None:
    """It is killed among boots and comes back without its disk: every server that was accepted runs once, and no other guest does."""
    with own(tmp_path / "rabbit") as rabbit:

        async def story(w: ComputeWorld, buses: list[RabbitBus]) -> None:
            c = client(w)
            accepted = await asyncio.gather(*(c.post("/v2.1/servers", wanted()) for _ in range(8)))
            await asyncio.sleep(0.02)
            rabbit.kill()
            accepted += await asyncio.gather(*(c.post("/v2.1/servers", wanted()) for _ in range(2)))
            rabbit.wipe()
            await asyncio.sleep(2.0)
            await asyncio.to_thread(rabbit.start)
            for reply in accepted:
                assert reply.status == 202
                await settled(c, reply.json["server"]["id"])
            guests = [guest for machine in w.machines.values() for guest in machine.guests]
            assert sorted(guests) == sorted(reply.json["server"]["id"] for reply in accepted)
            assert all(bus.reconnects == 1 for bus in buses)

        cloud(rabbit, tmp_path, story)


def test_network_agents_have_the_truth_after_connections_were_cut(rabbit: Rabbit, tmp_path: Path) -> None:
    """Ports come and go while connections end; at rest each host has exactly what the service would tell it."""

    async def main() -> None:
        w = World(tmp_path)
        brokers, vhost = parse_url(rabbit.own_url)
        options = RabbitOptions(brokers=brokers, vhost=vhost, retry_s=0.05, retry_max_s=0.1)
        control, nodes = (RabbitBus(options, w.runtime, w.log, name=name) for name in ("control", "nodes"))
        w.service.bus = w.service.dispatcher.bus = control
        await control.start(10.0)
        await nodes.start(10.0)
        await w.db.create(metadata)
        await w.service.start()
        await control.ready()
        for n in range(3):
            name = f"h{n}"
            driver = w.drivers[name] = FakeDriver(host=name, sleep=w.runtime.sleep)
            agent = w.agents[name] = NetworkAgent(
                host=name, driver=driver, bus=nodes, runtime=w.runtime, log=w.log, vtep_ip=f"192.0.2.{n}", report_interval_s=0.3
            )
            await agent.start()
        net, ctx, chance = await w.client().network(), w.ctx(), random.Random(1)
        for round_ in range(12):
            ids = [f"s{round_}-{n}" for n in range(6)]
            await asyncio.gather(*(w.service.allocate(ctx, allocate(i, f"h{chance.randrange(3)}", net["id"])) for i in ids))
            if round_ % 4 == 3:
                await control.ready()
                await nodes.ready()
                await cut(chance.choice((control, nodes)))
            await asyncio.gather(*(w.service.release(ctx, i) for i in ids[:3]))
        for round_ in range(12):
            for n in range(3, 6):
                await w.service.wait_wired(ctx, f"s{round_}-{n}", 20.0)
        await w.settle()
        for name, driver in w.drivers.items():
            assert sorted(p.id for p in driver.state.ports) == sorted(p.id for p in w.service.topology.told(name).ports)
        assert sum(len(driver.state.ports) for driver in w.drivers.values()) == 36
        assert control.reconnects + nodes.reconnects == 3
        await w.stop()
        await control.stop()
        await nodes.stop()

    async def bounded() -> None:
        async with asyncio.timeout(60):
            await main()

    asyncio.run(bounded())
