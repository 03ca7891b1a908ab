"""Kill the control plane at every point of a verb; a new life on the same state must bring everything to agreement.

The points come from a traced run: before and after each commit, each command to a node, each driver call.
"""

import io
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from kilonova.compute.drivers.fake import FakeHost
from kilonova.compute.store import api_tables, cell_mappings, cell_tables, mappings, servers
from kilonova.core.context import service_context
from kilonova.core.log import Sink
from kilonova.testing import simulation
from kilonova.testing.compute import ComputeWorld
from kilonova.testing.fakes import IMAGE, NETWORK, FakeImages, FakeNetwork
from kilonova.testing.simulation import SimRuntime

OTHER = "00000000-0000-4000-9000-0000000000cc"
BODY = {"server": {"name": "s1", "imageRef": IMAGE, "flavorRef": "1", "networks": [{"uuid": NETWORK}]}}


class Remains:
    """What outlives a process: the hypervisors, the network, the files; and what clients were told. cells: each with a database of its
    own, so that the process may die between the commits of the api side and those of a cell."""

    def __init__(self, path: Path, cells: int = 0, hosts: int = 2) -> None:
        self.path = str(path)
        self.cells = cells
        self.machines = {f"host-{i + 1}": FakeHost() for i in range(hosts)}
        self.network = FakeNetwork()
        self.images = FakeImages()
        self.images.put(OTHER)
        self.told: dict[str, str] = {}
        self.last: ComputeWorld | None = None

    def bury(self) -> None:
        assert self.last is not None
        for db in (self.last.db, *self.last.cell_dbs.values()):
            db.abandon()

    def world(self, runtime: SimRuntime) -> ComputeWorld:
        sink = Sink(io.StringIO(), level="error")
        self.last = ComputeWorld(
            runtime, sink, self.path, machines=self.machines, network=self.network, images=self.images, cells=self.cells
        )
        return self.last


async def wait(w: ComputeWorld, server_id: str, status: str) -> None:
    for _ in range(3000):
        reply = await w.client().get(f"/v2.1/servers/{server_id}")
        if (reply.status == 404 and status == "gone") or (reply.status == 200 and reply.json["server"]["status"] == status):
            return
        await w.runtime.sleep(0.01)
    raise AssertionError(f"{server_id} never became {status}")


async def first_life(r: Remains, runtime: SimRuntime, *, fail: bool) -> None:
    w = r.world(runtime)
    if fail:
        for driver in list(w.drivers.values()):
            driver.fail_next(1)
    await w.start()
    reply = await w.client().post("/v2.1/servers", BODY)
    assert reply.status == 202
    server_id = reply.json["server"]["id"]
    r.told[server_id] = "created"
    await wait(w, server_id, "ERROR" if fail else "ACTIVE")
    r.told[server_id] = "deletion asked"
    reply = await w.client().delete(f"/v2.1/servers/{server_id}")
    assert reply.status == 204
    r.told[server_id] = "deleted"
    await wait(w, server_id, "gone")
    await w.stop()


async def next_life(r: Remains, runtime: SimRuntime) -> None:
    w = r.world(runtime)
    await w.start()
    for _ in range(3000):
        if not await open_operations(w):
            break
        await runtime.sleep(0.01)
    assert not await open_operations(w), "an operation was not finished"
    shown = {s["id"]: s for s in (await w.client().get("/v2.1/servers/detail")).json["servers"]}
    for server_id, told in r.told.items():
        if told == "deleted":
            assert server_id not in shown, "an accepted delete was forgotten"
        elif told == "created":
            assert server_id in shown, "an accepted create was forgotten"
    allocations = {a.consumer_id: a.provider_id for a in await w.placement.allocations(service_context("test"))}
    guests = {guest: host for host, machine in r.machines.items() for guest in machine.guests}
    admin = {s["id"]: s for s in (await w.client("admin:p1").get("/v2.1/servers/detail")).json["servers"]}
    for server_id, server in shown.items():
        assert server["OS-EXT-STS:task_state"] is None, server
        if server["status"] == "ERROR":
            continue
        assert server["status"] == "ACTIVE", server
        assert guests.pop(server_id) == admin[server_id]["OS-EXT-SRV-ATTR:host"]
        assert allocations.pop(server_id)
        assert r.network.ports.pop(server_id)
    assert guests == {}, "a guest leaked"
    assert allocations == {}, "an allocation leaked"
    assert r.network.ports == {}, "a port leaked"
    assert (await mappings.usage(w.db, "p1"))["instances"] == len(shown), "quota is off"
    if w.cell_dbs:
        await rows_and_mappings_agree(w)
    await w.stop()


async def rows_and_mappings_agree(w: ComputeWorld) -> None:
    """A server that is alive is in the cell that its mapping names, and in no other; there is no mapping without it."""
    named = {}
    for cell in await cell_mappings.every(w.db):
        for mapping in await mappings.of_cells(w.db, [cell.uuid], None, 100):
            named[mapping.server_id] = cell.name
    found = []
    for name, db in w.cell_dbs.items():
        found += [(row[0], name) for row in await servers.ids(db, [cell_tables.servers.c.deleted == sa.false()], [], None)]
    assert sorted(found) == sorted(named.items())


async def open_operations(w: ComputeWorld) -> list[Any]:
    found: list[Any] = []
    for db in (w.db, *w.cell_dbs.values()):
        table = api_tables.operations if db is w.db else cell_tables.operations
        found += await db.all(sa.select(table.c.verb).order_by(table.c.id))
    if not w.cell_dbs:
        found += await w.db.all(sa.select(cell_tables.operations.c.verb).order_by(cell_tables.operations.c.id))
    return found


@pytest.mark.parametrize("cells", [0, 2], ids=["one database", "two cells"])
@pytest.mark.parametrize("fail", [False, True], ids=["good path", "hosts fail"])
def test_create_and_delete_survive_a_kill_at_every_point(tmp_path: Path, fail: bool, cells: int) -> None:
    killed_at_every_point(tmp_path, fail, cells, 2)


def test_a_server_for_cell0_survives_a_kill_at_every_point(tmp_path: Path) -> None:
    killed_at_every_point(tmp_path, True, 2, 0)


def killed_at_every_point(tmp_path: Path, fail: bool, cells: int, hosts: int) -> None:
    traced = Remains(tmp_path / "traced.db", cells, hosts)
    _, runtime = simulation.run(lambda rt: first_life(traced, rt, fail=fail), seed=1)
    assert runtime.points > (30 if hosts else 10), "the trace is too short to mean anything"
    for k in range(1, runtime.points + 1):
        r = Remains(tmp_path / f"{k}.db", cells, hosts)
        _, dead = simulation.run(lambda rt, r=r: first_life(r, rt, fail=fail), seed=1, kill_at=k)  # type: ignore[misc]
        assert dead.dead, f"point {k} was never reached"
        r.bury()
        try:
            simulation.run(lambda rt, r=r: next_life(r, rt), seed=2, start=100.0)  # type: ignore[misc]
        except AssertionError as error:
            raise AssertionError(f"killed at point {k} ({dead.events[-1]}): {error}") from error


@pytest.mark.parametrize("cells", [0, 2], ids=["one database", "two cells"])
def test_a_second_kill_during_recovery_does_no_harm(tmp_path: Path, cells: int) -> None:
    for k, again in ((12, 3), (20, 8), (28, 14), (36, 9)):
        r = Remains(tmp_path / f"{k}-{again}.db", cells)
        simulation.run(lambda rt, r=r: first_life(r, rt, fail=False), seed=3, kill_at=k)  # type: ignore[misc]
        r.bury()
        simulation.run(lambda rt, r=r: next_life(r, rt), seed=4, kill_at=again, start=50.0)  # type: ignore[misc]
        r.bury()
        simulation.run(lambda rt, r=r: next_life(r, rt), seed=5, start=100.0)  # type: ignore[misc]


async def rebuilt_and_copied(r: Remains, runtime: SimRuntime, *, fail: bool) -> None:
    """One server is rebuilt from another image, then copied. With `fail` the host refuses both."""
    w = r.world(runtime)
    await w.start()
    server_id = (await w.client().post("/v2.1/servers", BODY)).json["server"]["id"]
    await wait(w, server_id, "ACTIVE")
    for verb, body in (("rebuild", {"imageRef": OTHER}), ("createImage", {"name": "copy"})):
        if fail:
            for driver in w.drivers.values():
                driver.fail_next(1)
        reply = await w.client().post(f"/v2.1/servers/{server_id}/action", {verb: body})
        assert reply.status == 202, reply
        r.told[verb] = reply.json.get("image_id", server_id)
        await at_rest(w)
        if fail and verb == "rebuild":
            for driver in w.drivers.values():
                driver.fail_next(0)
            await w.client().post(f"/v2.1/servers/{server_id}/action", {verb: body})
            await at_rest(w)
    await w.stop()


async def at_rest(w: ComputeWorld) -> None:
    for _ in range(3000):
        if not await open_operations(w):
            return
        await w.runtime.sleep(0.01)
    raise AssertionError("an operation was not finished")


async def agreement(r: Remains, runtime: SimRuntime, *, fail: bool) -> None:
    """One server, its guest, its claim; the image that its row names is the one its disk was made of; no image waits for its bytes."""
    w = r.world(runtime)
    await w.start()
    await at_rest(w)
    servers = (await w.client().get("/v2.1/servers/detail")).json["servers"]
    if servers:
        server = servers[0]
        assert server["OS-EXT-STS:task_state"] is None, server
        guests = [guest for machine in r.machines.values() for guest in machine.guests.values()]
        if server["status"] == "ERROR":
            assert fail, server
        else:
            assert server["status"] == "ACTIVE", server
            assert [(g.spec.server_id, g.spec.image and g.spec.image.id) for g in guests] == [(server["id"], server["image"]["id"])]
        if "rebuild" in r.told:
            assert server["image"]["id"] == OTHER, "an accepted rebuild was forgotten"
        assert [a.consumer_id for a in await w.placement.allocations(service_context("test"))] == [server["id"]]
    copies = {i: image.status for i, image in r.images.images.items() if i not in (IMAGE, OTHER)}
    assert set(copies.values()) <= {"active"}, "an image waits for ever"
    if "createImage" in r.told and not fail:
        assert copies == {r.told["createImage"]: "active"}, "an accepted snapshot was forgotten"
    await w.stop()


@pytest.mark.parametrize("fail", [False, True], ids=["good path", "hosts fail"])
def test_rebuild_and_snapshot_survive_a_kill_at_every_point(tmp_path: Path, fail: bool) -> None:
    traced = Remains(tmp_path / "traced.db")
    _, runtime = simulation.run(lambda rt: rebuilt_and_copied(traced, rt, fail=fail), seed=1)
    assert runtime.points > 30, "the trace is too short to mean anything"
    for k in range(1, runtime.points + 1):
        r = Remains(tmp_path / f"{k}.db")
        _, dead = simulation.run(lambda rt, r=r: rebuilt_and_copied(r, rt, fail=fail), seed=1, kill_at=k)  # type: ignore[misc]
        assert dead.dead, f"point {k} was never reached"
        r.bury()
        try:
            simulation.run(lambda rt, r=r: agreement(r, rt, fail=fail), seed=2, start=100.0)  # type: ignore[misc]
        except AssertionError as error:
            raise AssertionError(f"killed at point {k} ({dead.events[-1]}): {error}") from error


POWER: tuple[tuple[str, dict[str, Any], str], ...] = (
    ("stop", {"os-stop": None}, "SHUTOFF"),
    ("start", {"os-start": None}, "ACTIVE"),
    ("soft reboot", {"reboot": {"type": "SOFT"}}, "ACTIVE"),
    ("hard reboot", {"reboot": {"type": "HARD"}}, "ACTIVE"),
    ("stop again", {"os-stop": None}, "SHUTOFF"),
)


async def stopped_started_rebooted(r: Remains, runtime: SimRuntime) -> None:
    """`told` holds each verb that was answered, with how often the guest had booted by then."""
    w = r.world(runtime)
    await w.start()
    server_id = (await w.client().post("/v2.1/servers", BODY)).json["server"]["id"]
    await wait(w, server_id, "ACTIVE")
    for name, body, status in POWER:
        boots = str(boots_of(r, server_id))
        reply = await w.client().post(f"/v2.1/servers/{server_id}/action", body)
        assert reply.status == 202, reply
        r.told[name] = boots
        await at_rest(w)
        await wait(w, server_id, status)
    await w.stop()


def boots_of(r: Remains, server_id: str) -> int:
    return next(guest.boots for machine in r.machines.values() for guest in machine.guests.values() if guest.spec.server_id == server_id)


async def powered_as_told(r: Remains, runtime: SimRuntime) -> None:
    """The last verb that was answered is done (or the next one, whose answer did not come); row and guest agree."""
    w = r.world(runtime)
    await w.start()
    await at_rest(w)
    servers = (await w.client().get("/v2.1/servers/detail")).json["servers"]
    if servers:
        (server,) = servers
        assert server["OS-EXT-STS:task_state"] is None, server
        (guest,) = [guest for machine in r.machines.values() for guest in machine.guests.values()]
        assert (server["status"], int(guest.power_state)) in (("ACTIVE", 1), ("SHUTOFF", 4)), (server["status"], guest.power_state)
        assert server["OS-EXT-STS:power_state"] == int(guest.power_state)
        if r.told:
            at = len(r.told) - 1
            assert server["status"] in {status for _, _, status in POWER[at : at + 2]}, f"an accepted {POWER[at][0]} was forgotten"
            name, before = list(r.told.items())[-1]
            if "reboot" in name:
                assert guest.boots > int(before), f"an accepted {name} was forgotten"
        await messages_are_whole(w, server["id"])
    else:
        assert not r.told
    await w.stop()


async def messages_are_whole(w: ComputeWorld, server_id: str) -> None:
    """Each verb has ended once, and well."""
    actions = (await w.client("admin:p1").get(f"/v2.1/servers/{server_id}/os-instance-actions")).json["instanceActions"]
    for action in actions:
        shown = (await w.client("admin:p1").get(f"/v2.1/servers/{server_id}/os-instance-actions/{action['request_id']}")).json
        assert [event["result"] for event in shown["instanceAction"]["events"]] == ["Success"], shown


def test_stop_start_and_reboot_survive_a_kill_at_every_point(tmp_path: Path) -> None:
    traced = Remains(tmp_path / "traced.db")
    _, runtime = simulation.run(lambda rt: stopped_started_rebooted(traced, rt), seed=1)
    assert runtime.points > 50, "the trace is too short to mean anything"
    for k in range(1, runtime.points + 1):
        r = Remains(tmp_path / f"{k}.db")
        _, dead = simulation.run(lambda rt, r=r: stopped_started_rebooted(r, rt), seed=1, kill_at=k)  # type: ignore[misc]
        assert dead.dead, f"point {k} was never reached"
        r.bury()
        try:
            simulation.run(lambda rt, r=r: powered_as_told(r, rt), seed=2, start=100.0)  # type: ignore[misc]
        except AssertionError as error:
            raise AssertionError(f"killed at point {k} ({dead.events[-1]}): {error}") from error
