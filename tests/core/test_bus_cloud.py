"""A cloud whose parts speak over a real broker: services and agents each on a connection of their own."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest

from kilonova.core.bus.config import RabbitOptions, parse_url
from kilonova.core.bus.rabbitmq import RabbitBus
from kilonova.core.log import Sink
from kilonova.core.runtime import Runtime
from kilonova.testing.asgi import Client
from kilonova.testing.compute import ComputeWorld
from tests.compute.test_flavors import client
from tests.compute.test_servers import boot, until, wanted
from tests.engines.rabbitmq import Rabbit, needs_rabbitmq, own, shared

pytestmark = needs_rabbitmq


@pytest.fixture(scope="module")
def rabbit() -> Iterator[Rabbit]:
    with shared() as node:
        yield node


def cloud(rabbit: Rabbit, tmp_path: Path, story: Callable[[ComputeWorld, list[RabbitBus]], Awaitable[None]], hosts: int = 2) -> None:
    async def main() -> None:
        runtime = Runtime()
        brokers, vhost = parse_url(rabbit.url)
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
            await story(world, buses)
        finally:
            await world.stop()
            for bus in buses:
                await bus.stop()

    async def bounded() -> None:
        async with asyncio.timeout(100):
            await main()

    asyncio.run(bounded())


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
