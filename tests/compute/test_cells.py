"""Several cells with databases and buses of their own: boots land in each, lists merge them, one that does not answer holds up nobody."""

import asyncio
import random
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kilonova.compute.errors import ElsewhereMapped
from kilonova.compute.store import cell_mappings, hosts, mappings, servers
from kilonova.compute.store.cell_mappings import CELL0, CELL1
from kilonova.core.context import service_context
from kilonova.core.db import Lost
from kilonova.testing.compute import ComputeWorld
from kilonova.testing.fakes import IMAGE, NETWORK

CELL2 = "00000000-0000-0000-0000-000000000002"
Run = Callable[..., None]


def body(name: str, **more: Any) -> dict[str, Any]:
    return {"server": {"name": name, "imageRef": IMAGE, "flavorRef": "1", "networks": [{"uuid": NETWORK}], **more}}


async def boot(w: ComputeWorld, name: str, *, token: str = "admin:p1", **more: Any) -> str:
    """The id of a server that has come to rest."""
    reply = await w.client(token).post("/v2.1/servers", body(name, **more))
    assert reply.status == 202, reply
    server_id: str = reply.json["server"]["id"]
    await at_rest(w)
    return server_id


async def at_rest(w: ComputeWorld) -> None:
    for _ in range(2000):
        if not w.compute.api_ops.running and not any(c._ops is not None and c._ops.running for c in w.compute.cells.every):
            return
        await asyncio.sleep(0.005)
    raise AssertionError("an operation was not finished")


async def cell_of(w: ComputeWorld, server_id: str) -> str:
    mapping = await mappings.get(w.db, server_id)
    assert mapping is not None
    return mapping.cell


def silence(w: ComputeWorld, name: str) -> None:
    """Its database is gone."""

    async def lost(*arguments: Any) -> Any:
        raise Lost("the database is gone")

    for method in ("all", "one", "transact"):
        setattr(w.cell_dbs[name], method, lost)


def hang(w: ComputeWorld, name: str) -> None:
    """Its database takes questions and never answers."""

    async def never(*arguments: Any) -> Any:
        await asyncio.Event().wait()

    for method in ("all", "one", "transact"):
        setattr(w.cell_dbs[name], method, never)


async def ids(w: ComputeWorld, query: str = "", version: str = "2.100", token: str = "member:p1") -> list[str]:
    reply = await w.client(token, version).get(f"/v2.1/servers{query}")
    assert reply.status == 200, reply
    return [s["id"] for s in reply.json["servers"]]


def test_boots_land_in_both_cells_and_every_verb_finds_them(compute: Run) -> None:
    async def story(w: ComputeWorld) -> None:
        made = {await boot(w, "a", host="host-1"): "cell1", await boot(w, "b", host="host-2"): "cell2"}
        assert [await cell_of(w, s) for s in made] == [CELL1, CELL2]
        for server_id, cell in made.items():
            for name, db in w.cell_dbs.items():
                assert (await servers.get(db, server_id) is not None) == (name == cell)
        client = w.client("admin:p1")
        assert {s["id"]: s["OS-EXT-SRV-ATTR:host"] for s in (await client.get("/v2.1/servers/detail")).json["servers"]} == dict(
            zip(made, ("host-1", "host-2"), strict=True)
        )
        for server_id in made:
            for action, status in (
                ({"os-stop": None}, "SHUTOFF"),
                ({"os-start": None}, "ACTIVE"),
                ({"reboot": {"type": "HARD"}}, "ACTIVE"),
            ):
                assert (await client.post(f"/v2.1/servers/{server_id}/action", action)).status == 202
                await at_rest(w)
                assert (await client.get(f"/v2.1/servers/{server_id}")).json["server"]["status"] == status
            assert (await client.put(f"/v2.1/servers/{server_id}", {"server": {"name": "new"}})).json["server"]["name"] == "new"
            assert (await client.put(f"/v2.1/servers/{server_id}/metadata/k", {"meta": {"k": "v"}})).status == 200
            assert (await client.post(f"/v2.1/servers/{server_id}/action", {"lock": None})).status == 202
            reply = await client.post(f"/v2.1/servers/{server_id}/action", {"createImage": {"name": "copy"}})
            assert reply.status == 202
            await at_rest(w)
            reply = await client.post(f"/v2.1/servers/{server_id}/action", {"rebuild": {"imageRef": IMAGE}})
            assert reply.status == 202
            await at_rest(w)
            shown = (await client.get(f"/v2.1/servers/{server_id}")).json["server"]
            assert (shown["name"], shown["status"], shown["metadata"], shown["locked"]) == ("new", "ACTIVE", {"k": "v"}, True)
            actions = (await client.get(f"/v2.1/servers/{server_id}/os-instance-actions")).json["instanceActions"]
            assert [a["action"] for a in actions] == ["rebuild", "createImage", "lock", "reboot", "start", "stop", "create"]
            assert (await client.delete(f"/v2.1/servers/{server_id}")).status == 204
            await at_rest(w)
            assert (await client.get(f"/v2.1/servers/{server_id}")).status == 404
            actions = (await client.get(f"/v2.1/servers/{server_id}/os-instance-actions")).json["instanceActions"]
            assert actions[0]["action"] == "delete"
        assert [len(m.guests) for m in w.machines.values()] == [0, 0]

    compute(story, cells=2)


def test_a_server_that_finds_no_host_is_in_cell0(compute: Run) -> None:
    async def story(w: ComputeWorld) -> None:
        for driver in w.drivers.values():
            driver.fail_next(9)
        failed = await boot(w, "tried")
        w.compute.settings["DEFAULT"].__dict__["service_down_time"] = -1
        w.compute.hosts.stale()
        lost = await boot(w, "lost")
        w.compute.settings["DEFAULT"].__dict__["service_down_time"] = 60
        assert await cell_of(w, lost) == CELL0
        assert await servers.get(w.cell_dbs["cell0"], lost) is not None
        assert [await servers.get(w.cell_dbs[name], lost) for name in ("cell1", "cell2")] == [None, None]
        shown = (await w.client().get(f"/v2.1/servers/{lost}")).json["server"]
        assert (shown["status"], shown["fault"]["message"][:23]) == ("ERROR", "No valid host was found")
        assert await cell_of(w, failed) in (CELL1, CELL2), "what was tried on a host stays in the host's cell"
        assert set(await ids(w)) == {lost, failed}
        for server_id in (lost, failed):
            assert (await w.client().delete(f"/v2.1/servers/{server_id}")).status == 204
        await at_rest(w)
        assert await ids(w) == []
        assert (await mappings.usage(w.db, "p1"))["instances"] == 0

    compute(story, cells=2)


def test_in_one_database_the_mapping_alone_tells_cell0_from_cell1(compute: Run) -> None:
    async def story(w: ComputeWorld) -> None:
        good = await boot(w, "good")
        w.compute.settings["DEFAULT"].__dict__["service_down_time"] = -1
        w.compute.hosts.stale()
        lost = await boot(w, "lost")
        assert [await cell_of(w, s) for s in (good, lost)] == [CELL1, CELL0]
        assert sorted(await ids(w)) == sorted([good, lost])
        assert [(m.uuid, m.name) for m in await cell_mappings.every(w.db)] == [(CELL0, "cell0"), (CELL1, "cell1")]
        assert await cell_mappings.hosts(w.db) == {"host-1": CELL1, "host-2": CELL1}
        assert await cell_mappings.whose(w.db) == [CELL0, CELL1]

    compute(story)


def test_what_was_written_before_cells_had_uuids_is_found(compute: Run) -> None:
    async def story(w: ComputeWorld) -> None:
        server_id = await boot(w, "old")
        await w.db.transact(lambda tx: mappings.place(tx, server_id, "cell1"))
        w.compute.cells._where.clear()
        assert (await w.client().get(f"/v2.1/servers/{server_id}")).json["server"]["status"] == "ACTIVE"
        assert (await w.client().post(f"/v2.1/servers/{server_id}/action", {"os-stop": None})).status == 202
        await at_rest(w)
        assert (await w.client().get(f"/v2.1/servers/{server_id}")).json["server"]["status"] == "SHUTOFF"

    compute(story)


def test_a_host_with_the_name_of_one_in_another_cell_is_refused(compute: Run) -> None:
    async def story(w: ComputeWorld) -> None:
        w.agents[1].bus = w.cell_buses["cell1"]
        with pytest.raises(ElsewhereMapped, match="Host host-2 reports to cell cell1, but is mapped to cell"):
            await w.agents[1].report()
        w.agents[1].bus = w.cell_buses["cell2"]
        assert [host.host for host in await hosts.every(w.cell_dbs["cell1"])] == ["host-1"]

    compute(story, cells=2)


def test_a_retry_stays_in_the_cell_of_the_first_host(compute: Run) -> None:
    async def story(w: ComputeWorld) -> None:
        """Hosts 1 and 3 are in cell1, 2 and 4 in cell2."""
        for driver in w.drivers.values():
            driver.fail_next(1)
        server_id = await boot(w, "a")
        shown = (await w.client("admin:p1").get(f"/v2.1/servers/{server_id}")).json["server"]
        cell = await cell_of(w, server_id)
        everywhere = [name for name, db in w.cell_dbs.items() if await servers.get(db, server_id) is not None]
        assert len(everywhere) == 1
        assert {CELL1: "cell1", CELL2: "cell2"}[cell] == everywhere[0]
        assert shown["status"] == "ERROR", "both hosts of the cell have failed once"

    compute(story, cells=2, hosts=4)


# ---- a cell that does not answer


@pytest.mark.parametrize("how", [silence, hang], ids=["gone", "hangs"])
def test_lists_and_shows_with_a_silent_cell(compute: Run, how: Callable[[ComputeWorld, str], None]) -> None:
    async def story(w: ComputeWorld) -> None:
        one, two = await boot(w, "one", host="host-1"), await boot(w, "two", host="host-2")
        how(w, "cell2")
        began = asyncio.get_running_loop().time()
        assert await ids(w, version="2.68") == [one]
        partial = (await w.client(version="2.69").get("/v2.1/servers")).json["servers"]
        assert [s["id"] for s in partial] == [one, two]
        assert partial[1].keys() == {"id", "status", "links"}
        assert partial[1]["status"] == "UNKNOWN"
        detail = (await w.client(version="2.69").get("/v2.1/servers/detail")).json["servers"]
        assert detail[1].keys() == {"id", "status", "tenant_id", "created", "links"}
        assert await ids(w, "?limit=10") == [one], "paging, sorting and filters leave them out"
        assert await ids(w, "?sort_key=uuid") == [one]
        assert await ids(w, "?name=o") == [one]
        assert await ids(w, "?all_tenants=1", token="admin:p2") == [one, two]
        assert await ids(w, token="member:p2") == []

        shown = (await w.client(version="2.69").get(f"/v2.1/servers/{two}")).json["server"]
        assert shown.keys() == {
            "id", "status", "tenant_id", "created", "links", "user_id", "image", "flavor", "OS-EXT-AZ:availability_zone",
            "OS-EXT-STS:power_state",
        }  # fmt: skip
        assert (shown["status"], shown["image"]["id"], shown["flavor"]["original_name"]) == ("UNKNOWN", IMAGE, "m1.tiny")
        assert (await w.client("member:p2", "2.69").get(f"/v2.1/servers/{two}")).status == 404
        for reply in (
            await w.client(version="2.68").get(f"/v2.1/servers/{two}"),
            await w.client().delete(f"/v2.1/servers/{two}"),
            await w.client().post(f"/v2.1/servers/{two}/action", {"os-stop": None}),
        ):
            assert reply.status == 503
            sentence = f"Cell {CELL2} is not responding or returned an exception, hence instance info is not available."
            assert sentence in str(reply.json)
        assert (await w.client().get(f"/v2.1/servers/{one}")).json["server"]["status"] == "ACTIVE"
        assert asyncio.get_running_loop().time() - began < 25

        admin = w.client("admin:p1")
        rows = (await admin.get("/v2.1/os-services")).json["services"]
        assert [r for r in rows if r["host"] == "host-2"] == [{"binary": "nova-compute", "host": "host-2", "status": "UNKNOWN"}]
        assert [r["state"] for r in rows if r["host"] == "host-1"] == ["up"]
        rows = (await w.client("admin:p1", "2.68").get("/v2.1/os-services")).json["services"]
        assert [r["host"] for r in rows if r["binary"] == "nova-compute"] == ["host-1"]
        hypervisors = (await admin.get("/v2.1/os-hypervisors")).json["hypervisors"]
        assert [h["hypervisor_hostname"] for h in hypervisors] == ["host-1.example"]

        w.compute.settings["api"].__dict__["list_records_by_skipping_down_cells"] = False
        assert (await w.client().get("/v2.1/servers?limit=10")).status == 500
        assert (await w.client(version="2.68").get("/v2.1/servers")).status == 500
        assert (await w.client().get("/v2.1/servers")).status == 200, "partial records are an answer"
        await w.compute.tasks.stop()

    compute(story, cells=2, settings={("api", "cell_timeout"): 1})


def test_boots_go_to_the_cells_that_answer(compute: Run) -> None:
    async def story(w: ComputeWorld) -> None:
        silence(w, "cell1")
        w.compute.hosts.stale()
        for i in range(3):
            assert await cell_of(w, await boot(w, f"s{i}")) == CELL2

    compute(story, cells=2)


@pytest.mark.parametrize("name", ["cell1", "cell2"])
def test_a_boot_whose_cell_has_just_gone_lands_in_the_other(compute: Run, name: str) -> None:
    """The scheduler does not know it yet."""

    async def story(w: ComputeWorld) -> None:
        await w.compute.hosts.snapshot()
        silence(w, name)
        for i in range(4):
            server_id = await boot(w, f"s{i}")
            assert (await w.client().get(f"/v2.1/servers/{server_id}")).json["server"]["status"] == "ACTIVE"
            assert await cell_of(w, server_id) == (CELL2 if name == "cell1" else CELL1)
        assert sorted(len(machine.guests) for machine in w.machines.values()) == [0, 4]
        assert len(await w.placement.allocations(service_context("test"))) == 4

    compute(story, cells=2)


def test_a_disabled_cell_gets_no_new_servers(compute: Run) -> None:
    async def story(w: ComputeWorld) -> None:
        old = await boot(w, "old", host="host-1")
        await w.db.transact(lambda tx: cell_mappings.update(tx, CELL1, disabled=True))
        await w.compute.cells.refresh(w.compute._cell_opened)
        w.compute.hosts.stale()
        for i in range(3):
            assert await cell_of(w, await boot(w, f"s{i}")) == CELL2
        assert old in await ids(w)

    compute(story, cells=2)


def test_a_cell_that_was_away_at_the_start_comes_into_use_by_itself(compute: Run) -> None:
    async def story(w: ComputeWorld) -> None:
        mapping = next(m for m in await cell_mappings.every(w.db) if m.uuid == CELL2)
        server_id = await boot(w, "a", host="host-2")
        cell = w.compute.cells._by_uuid[CELL2]
        cell.why = "It has not answered yet."
        w.compute.cells._sort()
        assert (await w.client(version="2.68").get(f"/v2.1/servers/{server_id}")).status == 503
        await w.compute.cells.refresh(w.compute._cell_opened)
        assert (await w.client(version="2.68").get(f"/v2.1/servers/{server_id}")).status == 200
        assert mapping.name == "cell2"

    compute(story, cells=2)


def test_swapped_databases_are_told_in_one_sentence(compute: Run) -> None:
    async def story(w: ComputeWorld) -> None:
        w.cell_dbs["cell1"], w.cell_dbs["cell2"] = w.cell_dbs["cell2"], w.cell_dbs["cell1"]
        for uuid in (CELL1, CELL2):
            await w.db.transact(lambda tx, uuid=uuid: cell_mappings.update(tx, uuid, database_connection=f"mysql://u:p@h/{uuid[-1]}"))  # type: ignore[misc]
        await w.compute.cells.refresh(w.compute._cell_opened)
        why = w.compute.cells._by_uuid[CELL1].why
        assert why == (
            f"The database of cell1, mysql://u:****@h/1, holds the servers of cell {CELL2}: two cell mappings are swapped, "
            "or they name one database."
        )

    compute(story, cells=2)


# ---- paging over cells


async def fill(w: ComputeWorld, rows: list[tuple[str, int, str | None, str]]) -> dict[str, dict[str, Any]]:
    """Servers as rows only: (cell, created at, key name, name)."""
    template_id = await boot(w, "template", host="host-1")
    template = await servers.get(w.cell_dbs["cell1"], template_id)
    assert template is not None
    made = {}
    for i, (cell, created_at, key_name, name) in enumerate(rows):
        server = msgspec.structs.replace(
            template, id=f"{i:08x}-0000-4000-8000-{random.Random(i).getrandbits(48):012x}", number=1000 + i, project_id="p9",
            created_at=created_at, key_name=key_name, name=name, host=None,
        )  # fmt: skip
        await w.cell_dbs[cell].transact(lambda tx, server=server: servers.insert(tx, server))  # type: ignore[misc]
        await w.db.transact(lambda tx, server=server: mappings.insert(tx, server))  # type: ignore[misc]
        uuid = f"00000000-0000-0000-0000-{int(cell[-1]):012}"
        await w.db.transact(lambda tx, server=server, uuid=uuid: mappings.place(tx, server.id, uuid))  # type: ignore[misc]
        made[server.id] = {"created_at": created_at, "key_name": key_name, "display_name": name, "uuid": server.id}
    return made


async def paged(w: ComputeWorld, query: str, limit: int) -> list[str]:
    out: list[str] = []
    while True:
        page = await ids(w, f"?limit={limit}{query}" + (f"&marker={out[-1]}" if out else ""), token="admin:p9")
        out += page
        if len(page) < limit:
            return out


def plain(made: dict[str, dict[str, Any]], order: list[tuple[str, bool]]) -> list[str]:
    """The same order by a plain sort: NULL first when ascending, ties by id in the direction of the last key."""
    rows = list(made.values())
    for key, descending in reversed([*order, ("uuid", order[-1][1])]):
        rows.sort(key=lambda row: (row[key] is not None, row[key] if row[key] is not None else ""), reverse=descending)
    return [row["uuid"] for row in rows]


def test_merged_pages_are_a_plain_sort_cut_in_pieces(compute: Run) -> None:
    chance = random.Random(7)

    async def story(w: ComputeWorld) -> None:
        rows = [
            (chance.choice(["cell0", "cell1", "cell2"]), chance.randrange(4), chance.choice([None, "k", "K", "é"]), chance.choice("abC"))
            for _ in range(60)
        ]
        made = await fill(w, rows)
        for _ in range(25):
            order = [
                (key, chance.random() < 0.5) for key in chance.sample(["created_at", "key_name", "display_name"], chance.randint(1, 3))
            ]
            query = "".join(f"&sort_key={key}&sort_dir={'desc' if down else 'asc'}" for key, down in order)
            assert await paged(w, query, chance.choice([1, 3, 7, 100])) == plain(made, order), order
        assert await paged(w, "", 9) == plain(made, [("created_at", True)])
        assert sorted(await paged(w, "&name=a", 4)) == sorted(i for i, row in made.items() if row["display_name"] in "a")
        assert sorted(await paged(w, "&name=a|b", 4)) == sorted(i for i, row in made.items() if row["display_name"] in "ab")

    compute(story, cells=2)


Key = st.one_of(st.none(), st.integers(0, 3))


@given(pages=st.lists(st.lists(st.tuples(Key, Key), max_size=8), max_size=4), directions=st.tuples(st.booleans(), st.booleans()))
def test_merging_sorted_pages_is_sorting_all_rows(pages: list[list[tuple[int | None, int | None]]], directions: tuple[bool, bool]) -> None:
    def place(value: int | None, descending: bool) -> int:
        at = -1 if value is None else value
        return -at if descending else at

    def key(row: tuple[Any, ...]) -> tuple[int, int, int]:
        last = directions[1]
        return place(row[3], directions[0]), place(row[4], directions[1]), -row[5] if last else row[5]

    number = iter(range(1000))
    rows = [[(f"s{n}", 1, None, a, b, n) for (a, b), n in zip(page, number, strict=False)] for page in pages]
    found = servers.merged([sorted(page, key=key) for page in rows], [*directions, directions[1]], 3)
    assert found == sorted((row for page in rows for row in page), key=key)


def test_a_cell_that_falls_silent_in_the_middle_of_paging(compute: Run) -> None:
    async def story(w: ComputeWorld) -> None:
        made = await fill(w, [(("cell1", "cell2")[i % 2], i, None, "x") for i in range(20)])
        order = plain(made, [("created_at", True)])
        first = await ids(w, "?limit=5", token="admin:p9")
        assert first == order[:5]
        silence(w, "cell2")
        where = {i: await cell_of(w, i) for i in first}
        marker = next(i for i in reversed(first) if where[i] == CELL1)
        rest = await ids(w, f"?limit=50&marker={marker}", token="admin:p9")
        alive = [i for i in order[5:] if await cell_of(w, i) == CELL1]
        assert rest == alive
        gone = next(i for i in first if where[i] == CELL2)
        reply = await w.client("admin:p9").get(f"/v2.1/servers?marker={gone}")
        assert reply.status == 503, "a marker in a cell that does not answer"

    compute(story, cells=2)
