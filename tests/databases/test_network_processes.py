"""Network processes side by side on a real database and a real broker: the journal under concurrency, and a leader that falls."""

import asyncio
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from kilonova.core.bus.config import RabbitOptions, parse_url
from kilonova.core.bus.rabbitmq import RabbitBus
from kilonova.core.db import Database, Transaction
from kilonova.core.leases import Lease
from kilonova.core.log import Log, Sink
from kilonova.core.runtime import Runtime
from kilonova.network.agent import NetworkAgent
from kilonova.network.drivers.fake import FakeDriver
from kilonova.network.edge import edge
from kilonova.network.service import NetworkService
from kilonova.network.store import changes
from kilonova.network.store.tables import leases, metadata
from kilonova.testing.tokens import FakeTokens
from tests.databases.conftest import Open
from tests.engines.rabbitmq import Rabbit, needs_rabbitmq, shared
from tests.network.conftest import Neutron, allocate
from tests.network.processes import Cloud, Process
from tests.network.test_topology import Player


@pytest.fixture(scope="module")
def rabbit() -> Iterator[Rabbit]:
    with shared() as node:
        yield node


def run(story: Callable[[], Any], seconds: float = 120.0) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(seconds):
            await story()

    asyncio.run(bounded())


class Undone(Exception):
    pass


def test_no_reader_misses_a_change_whatever_the_order_of_commits(kind: str, open_it: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    """Few lanes, so that transactions of two processes meet in them; some are slow, some end without a commit."""
    monkeypatch.setattr(changes, "LANES", 3)
    chance = random.Random(7)

    async def story() -> None:
        one = open_it()
        two = one if kind == "sqlite" else open_it()
        await one.create(metadata)
        await asyncio.gather(changes.make_lanes(one), changes.make_lanes(two))
        written: list[str] = []
        going = True

        async def write(db: Database, name: str) -> None:
            for number in range(25):
                row, lane, good = f"{name}.{number}", chance.randrange(3), chance.random() < 0.8

                async def body(tx: Transaction, row: str = row, lane: int = lane, good: bool = good) -> None:
                    if tx.joins and chance.random() < 0.5:
                        await changes.record_later(tx, lane, 1, [("Port", row, "")], Undone())
                    else:
                        await changes.record(tx, lane, 1, [("Port", row, "")])
                    if kind != "sqlite":
                        await asyncio.sleep(chance.random() * 0.01)
                    if not good:
                        raise Undone

                try:
                    await db.transact(body)
                    written.append(row)
                except Undone:
                    continue

        async def read(db: Database) -> list[str]:
            known: dict[int, int] = {}
            found: list[str] = []
            while True:
                last_round = not going
                clocks = await changes.clocks(db)
                pieces = [(lane, known.get(lane, 0), last) for lane, last in clocks.items() if last != known.get(lane, 0)]
                entries = await changes.since(db, pieces) if pieces else []
                assert [lane for lane, _ in entries] == [lane for lane, first, last in pieces for _ in range(first, last)]
                found += [row for _, items in entries for _, row, _ in items]
                known = clocks
                if last_round:
                    return found
                await asyncio.sleep(0.002)

        readers = [asyncio.ensure_future(read(db)) for db in (one, two)]
        await asyncio.gather(*(write(db, f"{n}") for n, db in enumerate((one, two) * 4)))
        going = False
        for found in [await reader for reader in readers]:
            assert sorted(found) == sorted(written)
        assert len(written) > 100
        await one.stop()
        if two is not one:
            await two.stop()

    run(story)


def test_a_lease_has_one_holder(kind: str, open_it: Open) -> None:
    async def story() -> None:
        runtime = Runtime()
        dbs = [open_it() for _ in range(1 if kind == "sqlite" else 3)]
        await dbs[0].create(metadata)
        many = [Lease(dbs[n % len(dbs)], leases, runtime, name="x", owner=f"p{n}", lease_s=0.8, margin_s=0.2) for n in range(6)]
        won = await asyncio.gather(*(lease.attempt() for lease in many))
        assert won.count(True) == 1
        first = many[won.index(True)]
        assert await first.attempt()
        epoch = first.epoch
        await asyncio.sleep(1.0)
        won = await asyncio.gather(*(lease.attempt() for lease in many if lease is not first))
        assert won.count(True) == 1
        assert not await first.attempt()
        assert max(lease.epoch for lease in many) > epoch
        for db in dbs:
            await db.stop()

    run(story)


class RealProcess(Process):
    """With connections of its own to real servers."""

    def __init__(self, cloud: "RealCloud", name: str) -> None:
        self.name = name
        self.database = cloud.open_it()
        self.link = RabbitBus(cloud.options, cloud.runtime, cloud.log.child(name), name=name)
        self.service = NetworkService(
            db=self.database, runtime=cloud.runtime, log=cloud.log.child(name), settings=cloud.settings, bus=self.link, exclusive=False
        )
        self.edge = edge(self.service, authenticate=FakeTokens().authenticate, identity_url="http://localhost:5000")
        self.alive = True

    async def die(self) -> None:
        self.alive = False
        await self.link._tasks.stop()
        await self.service.tasks.stop()
        await self.database.stop()

    async def stop(self) -> None:
        self.alive = False
        await self.service.stop()
        await self.link.stop()
        await self.database.stop()


class RealCloud(Cloud):
    def __init__(self, rabbit: Rabbit, open_it: Open, log: Log) -> None:
        super().__init__(Runtime(), open_it(), log)
        self.open_it = open_it
        brokers, vhost = parse_url(rabbit.own_url)
        self.options = RabbitOptions(brokers=brokers, vhost=vhost, retry_s=0.2, retry_max_s=0.5)
        self.agents_link = RabbitBus(self.options, self.runtime, log.child("agents"), name="agents")
        self.suffix = self.runtime.uuid_hex()[:6]

    async def process(self, name: str) -> Process:
        made = self.processes[name] = RealProcess(self, name)
        await made.link.start(10.0)
        await made.service.start()
        return made

    async def host(self, name: str) -> FakeDriver:
        driver = self.drivers[name] = FakeDriver(host=name, sleep=self.runtime.sleep)
        vtep_ip = f"192.0.2.{len(self.drivers)}"
        agent = self.agents[name] = NetworkAgent(
            host=name, driver=driver, bus=self.agents_link, runtime=self.runtime, log=self.log.child(name), vtep_ip=vtep_ip
        )
        await agent.start()
        return driver

    async def stop(self) -> None:
        for agent in self.agents.values():
            await agent.stop()
        for process in self.alive():
            await process.stop()  # type: ignore[attr-defined]
        await self.agents_link.stop()
        await self.db.stop()


@needs_rabbitmq
def test_two_processes_write_and_the_leader_falls(kind: str, open_it: Open, rabbit: Rabbit, tmp_path: Path) -> None:
    if kind == "sqlite":
        return  # its file belongs to one process

    async def story() -> None:
        log = Log("test", Sink((tmp_path / "log").open("a"), now_us=Runtime().now_us))
        c = RealCloud(rabbit, open_it, log)
        await c.db.create(metadata)
        await c.agents_link.start(10.0)
        try:
            await falls(c)
        finally:
            await c.stop()

    async def falls(c: RealCloud) -> None:
        processes = [await c.process("a"), await c.process("b")]
        lead = await c.leader()
        other = next(process for process in processes if process is not lead)
        for number in range(3):
            await c.host(f"h{number + 1}")
        admin: Neutron = other.client("admin:admin")
        await asyncio.gather(*(process.service.bootstrap(project_id="admin") for process in processes))
        assert [network["name"] for network in await admin.list("networks", "?router:external=true")] == ["public"]
        limits = dict.fromkeys(("network", "subnet", "port", "router", "security_group", "security_group_rule", "floatingip"), -1)
        await admin.put("quotas", "p1", **limits)
        net = await other.client().network()
        took = []
        for number in range(5):
            began = c.runtime.monotonic()
            await other.service.allocate(other.ctx(), allocate(f"first{number}", "h1", net["id"]))
            await other.service.wait_wired(other.ctx(), f"first{number}", 5)
            took.append(c.runtime.monotonic() - began)
        assert min(took) < 0.5  # by hints: a poll comes each second
        (nic,) = await lead.service.nics(lead.ctx(), "first0")
        assert nic.status == "ACTIVE"

        players = [Player(process, number) for number, process in enumerate(processes)]  # type: ignore[arg-type]
        players[1].count = 1000
        for player in players:
            await player.add_network()
        await asyncio.gather(*(steps(player, 60) for player in players))
        await c.agree()

        crowd = [asyncio.ensure_future(boots(other, f"crowd{n}", net["id"])) for n in range(4)]
        await asyncio.sleep(0.1)
        await lead.die()
        died = c.runtime.monotonic()
        assert await c.leader() is other
        assert c.runtime.monotonic() - died < 10.0
        await asyncio.gather(*crowd)
        assert c.runtime.monotonic() - died < 15.0
        players[1].w = other  # type: ignore[assignment]
        await steps(players[1], 20)
        await c.agree()

    async def steps(player: Player, count: int) -> None:
        for _ in range(count):
            await player.step()

    async def boots(process: Process, name: str, network_id: str) -> None:
        for number in range(10):
            server = f"{name}.{number}"
            await process.service.allocate(process.ctx(), allocate(server, f"h{number % 3 + 1}", network_id))
            await process.service.wait_wired(process.ctx(), server, 20)

    run(story, 170.0)
