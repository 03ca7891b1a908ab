"""What SQLite's single writer hides: sixteen at once, on real servers, through the services."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from kilonova.compute.store import cell_tables, mappings, servers
from kilonova.compute.store.migrations.api import HISTORY as COMPUTE_API
from kilonova.core.context import service_context
from kilonova.core.db import Database, Duplicate, Transaction
from kilonova.core.errors import Error
from kilonova.core.log import Log, Sink
from kilonova.core.operations import Operations, operations_table
from kilonova.core.runtime import Runtime
from kilonova.core.tasks import Tasks
from kilonova.identity.store import tokens
from kilonova.identity.store.tables import metadata as identity_metadata
from kilonova.testing.compute import ComputeWorld
from kilonova.testing.databases import VARIABLE
from kilonova.testing.fakes import IMAGE
from tests.databases.conftest import Open
from tests.network.conftest import World as Network
from tests.network.conftest import allocate
from tests.placement.conftest import World as Placement

AT_ONCE = 16


@pytest.fixture(params=["postgresql", "mariadb"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def here(kind: str, engines: Callable[[str], str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A folder; worlds made in it stand on the server."""
    monkeypatch.setenv(VARIABLE, engines(kind))
    return tmp_path


def on(open_it: Open, metadata: Any, story: Callable[[Database], Awaitable[None]]) -> None:
    async def main() -> None:
        db = open_it()
        await db.create(metadata)
        try:
            await story(db)
        finally:
            await db.stop()

    asyncio.run(main())


def in_network(here: Path, story: Callable[[Network], Awaitable[None]], **quotas: int) -> None:
    async def main() -> None:
        w = Network(here, {("network_quotas", name): value for name, value in quotas.items()})
        await w.db.create(w.service.metadata)
        await w.service.start()
        try:
            await story(w)
        finally:
            await w.stop()

    asyncio.run(main())


async def statuses(*requests: Awaitable[Any]) -> list[int]:
    return sorted([reply.status for reply in await asyncio.gather(*requests)])


# ---- network


def test_addresses_of_a_subnet_go_to_one_port_each(here: Path) -> None:
    async def story(w: Network) -> None:
        client = w.client()
        net = await client.network("10.0.0.0/28", name="n")
        body = {"port": {"network_id": net["id"]}}
        found = await statuses(*(client.client.post("/v2.0/ports", body) for _ in range(AT_ONCE)))
        made = found.count(201)
        assert set(found) <= {201, 409}
        ports = await client.list("ports")
        addresses = [ip["ip_address"] for port in ports for ip in port["fixed_ips"]]
        assert made in (12, 13)  # 14 addresses, less the gateway's, less one when DHCP has a port there
        assert len(set(addresses)) == len(addresses)
        row = await w.db.one(sa.text("SELECT used FROM network_quotas WHERE resource = 'port' AND project_id = 'p1'"))
        assert row == (made,)

    in_network(here, story)


def test_quota_is_exact(here: Path) -> None:
    async def story(w: Network) -> None:
        client = w.client()
        found = await statuses(*(client.client.post("/v2.0/networks", {"network": {"name": "n"}}) for _ in range(AT_ONCE)))
        assert found == [201] * 5 + [409] * (AT_ONCE - 5)
        assert len(await client.list("networks")) == 5
        doomed = [n["id"] for n in await client.list("networks")]
        await asyncio.gather(*(client.client.delete(f"/v2.0/networks/{i}") for i in doomed for _ in range(3)))
        assert await w.db.one(sa.text("SELECT used FROM network_quotas WHERE resource = 'network' AND project_id = 'p1'")) == (0,)

    in_network(here, story, quota_network=5)


def test_a_network_that_goes_leaves_no_port_behind(here: Path) -> None:
    async def story(w: Network) -> None:
        client = w.client()
        for _ in range(6):
            net = await client.network("10.0.0.0/24")
            body = {"port": {"network_id": net["id"]}}
            requests = [client.client.post("/v2.0/ports", body) for _ in range(6)]
            requests.insert(3, client.client.delete(f"/v2.0/networks/{net['id']}"))
            found = await asyncio.gather(*requests)
            assert {r.status for r in found} <= {201, 204, 404, 409}
            left = [p for p in await client.list("ports", f"?network_id={net['id']}") if not p["device_owner"]]
            gone = (await client.client.get(f"/v2.0/networks/{net['id']}")).status == 404
            assert not (gone and left), [r.status for r in found]
            assert len(left) == sum(r.status == 201 for r in found)
            for port in left:
                await client.delete("ports", port["id"])
        assert await w.db.all(sa.text("SELECT subnet_id FROM ip_allocations WHERE subnet_id NOT IN (SELECT id FROM subnets)")) == []

    in_network(here, story)


def test_a_network_that_goes_leaves_no_servers_port_behind(here: Path) -> None:
    """The same for ports that a boot makes, which reads what it refers to and holds it in one."""

    async def story(w: Network) -> None:
        client, ctx = w.client(), w.ctx()
        for round_ in range(6):
            net = await client.network("10.0.0.0/24")
            boots = [w.service.allocate(ctx, allocate(f"s{round_}-{n}", "h1", net["id"])) for n in range(6)]
            deleted, *made = await asyncio.gather(client.client.delete(f"/v2.0/networks/{net['id']}"), *boots, return_exceptions=True)
            assert not isinstance(deleted, BaseException)
            assert all(isinstance(one, (tuple, Error)) for one in made), made
            left = [p for p in await client.list("ports", f"?network_id={net['id']}") if not p["device_owner"].startswith("network:")]
            gone = (await client.client.get(f"/v2.0/networks/{net['id']}")).status == 404
            assert not (gone and left), made
            for n in range(6):
                await w.service.release(ctx, f"s{round_}-{n}")
        assert await w.db.all(sa.text("SELECT subnet_id FROM ip_allocations WHERE subnet_id NOT IN (SELECT id FROM subnets)")) == []

    in_network(here, story)


def test_a_floating_ip_goes_to_one_port(here: Path) -> None:
    async def story(w: Network) -> None:
        admin, client = w.client("admin:p1"), w.client()
        public = await admin.network("203.0.113.0/24", name="public", **{"router:external": True})
        net = await client.network("10.0.0.0/24")
        router = await client.create("routers", external_gateway_info={"network_id": public["id"]})
        await client.client.put(f"/v2.0/routers/{router['id']}/add_router_interface", {"subnet_id": net["subnet"]["id"]})
        ports = [await client.create("ports", network_id=net["id"]) for _ in range(4)]
        floating = [await client.create("floatingips", floating_network_id=public["id"]) for _ in range(4)]
        pairs = [(f["id"], p["id"]) for f in floating for p in ports]
        found = await statuses(*(client.client.put(f"/v2.0/floatingips/{f}", {"floatingip": {"port_id": p}}) for f, p in pairs))
        assert set(found) <= {200, 409}
        held = [(f["port_id"], f["fixed_ip_address"]) for f in await client.list("floatingips") if f["port_id"]]
        assert len(held) == len(set(held))

    in_network(here, story)


# ---- placement


def test_no_host_is_claimed_beyond_what_it_has(here: Path) -> None:
    async def main() -> None:
        w = Placement(here, {})
        await w.db.create(w.service.metadata)
        await w.service.start()
        provider = await w.provider("h", VCPU=8)
        ctx = service_context("compute")

        async def claim(consumer: str) -> bool:
            try:
                await w.service.claim(ctx, consumer, provider, {"VCPU": 1}, "p1", "u1")
            except Exception as error:
                assert getattr(error, "status", 500) == 409, error
                return False
            return True

        consumers = [w.runtime.uuid() for _ in range(AT_ONCE)]
        assert sum(await asyncio.gather(*(claim(c) for c in consumers))) == 8
        client = w.client()
        document = (await client.get(f"/resource_providers/{provider}/usages")).json
        assert document["usages"] == {"VCPU": 8}
        generation = document["resource_provider_generation"]
        body = {"resource_provider_generation": generation, "inventories": {"VCPU": {"total": 16}}}
        found = await statuses(*(client.put(f"/resource_providers/{provider}/inventories", body) for _ in range(8)))
        assert found == [200] + [409] * 7
        named = await statuses(*(client.post("/resource_providers", {"name": "twin"}) for _ in range(8)))
        assert named == [200] + [409] * 7
        await w.service.stop()
        await w.db.stop()
        w.runtime.close()

    asyncio.run(main())


# ---- compute


def test_project_quota_is_exact(open_it: Open) -> None:
    limits = {"instances": 10, "cores": 7, "ram_mb": -1}

    async def story(db: Database) -> None:
        async def take(tx: Transaction) -> bool:
            return await mappings.take_quota(tx, "p1", {"instances": 1, "cores": 1, "ram_mb": 512}, limits)

        taken = await asyncio.gather(*(db.transact(take) for _ in range(AT_ONCE)))
        assert sum(taken) == 7
        assert await mappings.usage(db, "p1") == {"instances": 7, "cores": 7, "ram_mb": 7 * 512}

    on(open_it, COMPUTE_API.metadata, story)


def test_numbers_in_hand_are_given_once(open_it: Open) -> None:
    """Two processes take them in blocks."""

    async def story(db: Database) -> None:
        hands = [mappings.Numbers(db, "server") for _ in range(2)]
        wanted = [1 + i % 3 for i in range(100)] + [mappings.Numbers.BLOCK + 5]
        firsts = await asyncio.gather(*(hands[i % 2].take(count) for i, count in enumerate(wanted)))
        given = [first + n for first, count in zip(firsts, wanted, strict=True) for n in range(count)]
        assert len(set(given)) == len(given) == sum(wanted)
        assert min(given) == 1

    on(open_it, COMPUTE_API.metadata, story)


def test_numbers_are_given_once(open_it: Open) -> None:
    async def story(db: Database) -> None:
        await asyncio.gather(*(db.one(sa.text("SELECT 1")) for _ in range(AT_ONCE)))  # connections are there before the race begins
        found = await asyncio.gather(*(db.transact(lambda tx: mappings.numbers(tx, "servers", 2)) for _ in range(AT_ONCE)))
        assert sorted(found) == list(range(1, 2 * AT_ONCE, 2))

    on(open_it, COMPUTE_API.metadata, story)


def test_a_server_has_one_task_at_a_time(here: Path) -> None:
    async def main() -> None:
        w = ComputeWorld(Runtime(), Sink(level="error"), str(here / "compute.db"), hosts=AT_ONCE)
        await w.start()
        client = w.client()
        server = {"name": "s", "flavorRef": "1", "imageRef": IMAGE, "networks": "none"}
        made = await client.post("/v2.1/servers", {"server": server})
        assert made.status == 202, made
        ident = made.json["server"]["id"]
        for _ in range(400):
            await asyncio.sleep(0.02)
            if (await client.get(f"/v2.1/servers/{ident}")).json["server"]["status"] == "ACTIVE":
                break
        now = w.runtime.now_us()
        claims = (w.db.transact(lambda tx: servers.begin(tx, ident, ["active"], [None], now, "rebooting")) for _ in range(AT_ONCE))
        assert sum(await asyncio.gather(*claims)) == 1
        rows = await w.db.all(sa.select(cell_tables.hosts.c.number).order_by(cell_tables.hosts.c.number))
        assert rows == [(i + 1,) for i in range(AT_ONCE)]
        await w.stop()

    asyncio.run(main())


def test_hosts_that_introduce_themselves_together_are_all_known(here: Path) -> None:
    async def main() -> None:
        w = ComputeWorld(Runtime(), Sink(level="error"), str(here / "compute.db"), hosts=AT_ONCE)
        for metadata in (w.placement.metadata, COMPUTE_API.metadata, cell_tables.metadata):
            await w.db.create(metadata)
        await w.placement.start()
        await w.compute.start()
        await asyncio.gather(*(agent.start() for agent in w.agents))
        rows = await w.db.all(sa.select(cell_tables.hosts.c.number).order_by(cell_tables.hosts.c.number))
        assert len(rows) == AT_ONCE
        await w.stop()

    asyncio.run(main())


def test_an_operation_is_adopted_by_one_runner(open_it: Open) -> None:
    metadata = sa.MetaData()
    table = operations_table(metadata, "race_operations")

    async def story(db: Database) -> None:
        runtime, log = Runtime(), Log("test", Sink(level="error"))
        dead = Operations(db, table, runtime, Tasks(runtime, log), log, "dead")
        await db.transact(lambda tx: dead.open(tx, "verb", "r1", service_context("compute"), {}))
        await db.transact(lambda tx: tx.run(sa.update(table).values(lease_until=0)))
        runners = [Operations(db, table, runtime, Tasks(runtime, log), log, f"runner-{i}") for i in range(AT_ONCE)]
        stale = (await dead.of("r1"))[0]
        claimed = await asyncio.gather(*(runner._take(stale) for runner in runners))
        assert sum(c is not None for c in claimed) == 1

    on(open_it, metadata, story)


# ---- identity


def test_one_process_rotates_the_token_keys(open_it: Open) -> None:
    async def story(db: Database) -> None:
        await db.transact(lambda tx: tokens.add_key(tx, 1, "first", 1, 3))

        async def rotate(i: int) -> bool:
            try:
                await db.transact(lambda tx: tokens.add_key(tx, 2, f"key {i}", 2, 3))
            except Duplicate:
                return False
            return True

        assert sum(await asyncio.gather(*(rotate(i) for i in range(AT_ONCE)))) == 1
        assert len(await tokens.keys(db)) == 2

    on(open_it, identity_metadata, story)
