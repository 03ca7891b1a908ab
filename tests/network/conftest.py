"""A network service alone, with fake agents: in memory, on a bus that copies every message."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from kilonova.core import config as config_module
from kilonova.core.bus import InProcessBus
from kilonova.core.context import Context
from kilonova.core.log import Log, Sink
from kilonova.core.runtime import Runtime
from kilonova.network import contract
from kilonova.network.agent import NetworkAgent
from kilonova.network.config import OPTIONS
from kilonova.network.drivers.fake import FakeDriver
from kilonova.network.edge import edge
from kilonova.network.service import NetworkService
from kilonova.testing.asgi import Client, Response
from kilonova.testing.databases import open_test_database
from kilonova.testing.tokens import FakeTokens, context

Story = Callable[["World"], Awaitable[None]]


class World:
    def __init__(self, path: Path, overrides: dict[tuple[str, str], Any] | None = None) -> None:
        self.runtime = Runtime()
        self.stream = (path / "log").open("a")
        self.log = Log("test", Sink(self.stream))
        self.db = open_test_database(str(path / "network.db"), self.runtime)
        self.bus = InProcessBus(self.runtime, self.log, copy=True)
        conf = config_module.build([OPTIONS], (), overrides or {})
        self.settings = {group: config_module.settings(conf, OPTIONS, group) for group in OPTIONS}
        self.service = self.make_service()
        self.edge = edge(self.service, authenticate=FakeTokens().authenticate, identity_url="http://localhost:5000")
        self.agents: dict[str, NetworkAgent] = {}
        self.drivers: dict[str, FakeDriver] = {}

    def make_service(self) -> NetworkService:
        return NetworkService(db=self.db, runtime=self.runtime, log=self.log, settings=self.settings, bus=self.bus)

    async def host(self, name: str, **options: Any) -> FakeDriver:
        """A host with a fake dataplane."""
        driver = self.drivers.setdefault(name, FakeDriver(host=name, sleep=self.runtime.sleep, **options))
        number = len(self.agents) + 1
        agent = self.agents[name] = NetworkAgent(
            host=name, driver=driver, bus=self.bus, runtime=self.runtime, log=self.log, vtep_ip=f"192.0.2.{number}"
        )
        await agent.start()
        return driver

    def client(self, who: str = "member:p1") -> "Neutron":
        return Neutron(Client(self.edge, {"x-auth-token": who}))

    def ctx(self, role: str = "member", project: str = "p1") -> Context:
        return context(role, project)

    async def settle(self) -> None:
        """Wait until nothing is under way between service and agents."""
        dispatcher = self.service.dispatcher
        for _ in range(400):
            await asyncio.sleep(0.005)
            urgent, calm = self.service.topology.waiting()
            waiting = [host for host in (*urgent, *calm) if host in dispatcher.online]
            busy = any(agent._facts or agent._sync_due for agent in self.agents.values())
            if not waiting and not dispatcher._sending and not dispatcher._collecting and not busy:
                return
        raise AssertionError(f"not settled: {self.service.topology.waiting()} {dispatcher._sending}")

    async def settle_hosts(self, *names: str) -> None:
        """Wait until these hosts have been told everything; others may be failing."""
        for _ in range(400):
            await asyncio.sleep(0.005)
            urgent, calm = self.service.topology.waiting()
            sending = self.service.dispatcher._sending
            if not any(name in urgent or name in calm or name in sending for name in names):
                return
        raise AssertionError("not settled")

    async def stop(self) -> None:
        for agent in self.agents.values():
            await agent.stop()
        await self.service.stop()
        await self.bus.stop()
        await self.db.stop()
        self.runtime.close()
        self.stream.close()


class Neutron:
    """Requests that must succeed, answering the resource; `client` for those that must not."""

    def __init__(self, client: Client) -> None:
        self.client = client

    async def create(self, collection: str, **values: Any) -> Any:
        name = singular(collection)
        reply = await self.client.post(f"/v2.0/{collection}", {name: values})
        assert reply.status == 201, reply
        return reply.json[name]

    async def get(self, collection: str, row_id: str, query: str = "") -> Any:
        reply = await self.client.get(f"/v2.0/{collection}/{row_id}{query}")
        assert reply.status == 200, reply
        return reply.json[singular(collection)]

    async def put(self, collection: str, row_id: str, **values: Any) -> Any:
        name = singular(collection)
        reply = await self.client.put(f"/v2.0/{collection}/{row_id}", {name: values})
        assert reply.status == 200, reply
        return reply.json[name]

    async def delete(self, collection: str, row_id: str) -> None:
        reply = await self.client.delete(f"/v2.0/{collection}/{row_id}")
        assert reply.status == 204, reply

    async def list(self, collection: str, query: str = "") -> Any:
        reply = await self.client.get(f"/v2.0/{collection}{query}")
        assert reply.status == 200, reply
        return reply.json[collection.replace("-", "_")]

    async def network(self, cidr: str | None = "10.0.0.0/24", **values: Any) -> Any:
        """A network with a subnet; the subnet is its `subnet`."""
        network = await self.create("networks", **{"name": "net", **values})
        if cidr is not None:
            network["subnet"] = await self.create("subnets", network_id=network["id"], cidr=cidr, ip_version=6 if ":" in cidr else 4)
        return network


def singular(collection: str) -> str:
    return collection.replace("-", "_").removesuffix("s")


def failed(reply: Response, status: int, kind: str = "", words: str = "") -> None:
    """The reply is this error."""
    assert reply.status == status, reply
    error = reply.json["NeutronError"]
    assert set(error) == {"type", "message", "detail"}
    assert not kind or error["type"] == kind, error
    assert words in error["message"], error


def allocate(server_id: str, host: str, *networks: str, **more: Any) -> contract.Allocate:
    values: dict[str, Any] = {"server_id": server_id, "project_id": "p1", "host": host, "hostname": server_id, **more}
    if networks:
        values["networks"] = tuple(contract.NicRequest(network_id=network) for network in networks)
    return contract.Allocate(**values)


@pytest.fixture
def run(tmp_path: Path) -> Callable[..., None]:
    """Run an async story in a fresh world. `overrides`: settings by (group, name)."""

    def runner(story: Story, overrides: dict[tuple[str, str], Any] | None = None) -> None:
        async def main() -> None:
            world = World(tmp_path, overrides)
            await world.db.create(world.service.metadata)
            await world.service.start()
            try:
                await story(world)
            finally:
                await world.stop()

        asyncio.run(main())

    return runner
