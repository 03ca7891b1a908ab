"""Kill the whole cloud at every point between a create and the end of its delete; the next life on the same state agrees with everybody.

The same as test_crash_everywhere.py, with the real network and image services and their agents.
"""

import shutil
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from kilonova.app import Machines
from kilonova.compute.store import api_tables, cell_tables
from kilonova.core.context import service_context
from kilonova.image.drivers.memory import MemoryStore
from kilonova.testing import simulation
from kilonova.testing.cloud import WholeCloud
from kilonova.testing.simulation import SimRuntime


class Remains:
    """What outlives a process, and what clients were told. `base` is a state that was prepared once and is copied for each story."""

    def __init__(self, base: Path, state: Path, store: MemoryStore, ids: dict[str, str]) -> None:
        shutil.copytree(base, state)
        self.state = str(state)
        self.machines = Machines()
        self.store = store
        self.ids = ids
        self.told: dict[str, str] = {}
        self.last: WholeCloud | None = None

    def life(self, runtime: SimRuntime) -> WholeCloud:
        self.last = WholeCloud(runtime, self.state, hosts=2, machines=self.machines, store=self.store)
        return self.last

    def bury(self) -> None:
        assert self.last is not None
        self.last.cloud.db.abandon()


async def prepare(runtime: SimRuntime, state: Path, store: MemoryStore) -> dict[str, str]:
    w = WholeCloud(runtime, str(state), hosts=2, store=store)
    await w.start()
    ids = await w.prepare(await w.token())
    await w.stop()
    return ids


async def first_life(r: Remains, runtime: SimRuntime, kill_after: int | None) -> int:
    """The number of points passed between the create and the end of the delete."""
    w = r.life(runtime)
    await w.start()
    client = w.client("compute", await w.token())
    begin = runtime.points
    if kill_after is not None:
        runtime.kill_at = begin + kill_after
    body = {"server": {"name": "s1", "imageRef": r.ids["image"], "flavorRef": r.ids["flavor"], "networks": [{"uuid": r.ids["network"]}]}}
    reply = await client.post("/v2.1/servers", body)
    assert reply.status == 202, reply
    server_id = reply.json["server"]["id"]
    r.told[server_id] = "created"
    await wait(w, client, server_id, "ACTIVE")
    r.told[server_id] = "deletion asked"
    assert (await client.delete(f"/v2.1/servers/{server_id}")).status == 204
    r.told[server_id] = "deleted"
    await wait(w, client, server_id, "gone")
    points = runtime.points - begin
    await w.stop()
    return points


async def wait(w: WholeCloud, client: Any, server_id: str, wanted: str) -> None:
    for _ in range(3000):
        reply = await client.get(f"/v2.1/servers/{server_id}")
        if (reply.status == 404 and wanted == "gone") or (reply.status == 200 and reply.json["server"]["status"] == wanted):
            return
        await w.runtime.sleep(0.01)
    raise AssertionError(f"{server_id} never became {wanted}")


async def next_life(r: Remains, runtime: SimRuntime) -> None:
    w = r.life(runtime)
    await w.start()
    token = await w.token()
    compute, network = w.client("compute", token), w.client("network", token)
    for _ in range(3000):
        open_operations: list[Any] = []
        for table in (api_tables.operations, cell_tables.operations):
            open_operations += await w.cloud.db.all(sa.select(table.c.verb).order_by(table.c.id))
        if not open_operations:
            break
        await runtime.sleep(0.01)
    assert not open_operations, f"not finished within 30 s: {open_operations}"
    servers = {s["id"]: s for s in (await compute.get("/v2.1/servers/detail")).json["servers"]}
    for server_id, told in r.told.items():
        assert (told == "deleted") <= (server_id not in servers), "an accepted delete was forgotten"
        assert (told == "created") <= (server_id in servers), "an accepted create was forgotten"
    assert w.cloud.placement is not None
    allocations = {a.consumer_id for a in await w.cloud.placement.allocations(service_context("test"))}
    guests = {guest for machine in r.machines.guests.values() for guest in machine.guests}
    ports = [p for p in (await network.get("/v2.0/ports")).json["ports"] if p["device_owner"].startswith("compute:")]
    assert all(s["status"] == "ACTIVE" and s["OS-EXT-STS:task_state"] is None for s in servers.values()), servers
    assert guests == set(servers), "guests and servers differ"
    assert allocations == set(servers), "allocations and servers differ"
    assert {p["device_id"] for p in ports} == set(servers), "ports and servers differ"
    assert len(ports) == len(servers), "a server has two ports"
    assert all(p["status"] == "ACTIVE" for p in ports), ports
    for agent in w.cloud.network_agents:
        wired = {p.device_id for p in agent.driver.state.ports}  # type: ignore[attr-defined]
        assert wired <= set(servers), "the dataplane has a port of nobody"
    used = (await compute.get("/v2.1/limits")).json["limits"]["absolute"]["totalInstancesUsed"]
    assert used == len(servers), "quota is off"
    await w.stop()


def test_the_whole_cloud_survives_a_kill_at_every_point(tmp_path: Path) -> None:
    base, store = tmp_path / "base", MemoryStore()
    base.mkdir()
    ids, _ = simulation.run(lambda rt: prepare(rt, base, store), seed=1)
    assert ids is not None
    points, _ = simulation.run(lambda rt: first_life(Remains(base, tmp_path / "traced", store, ids), rt, None), seed=2, start=10.0)
    assert points is not None
    assert points > 40, "the trace is too short to mean anything"
    for k in range(1, points + 1):
        r = Remains(base, tmp_path / str(k), store, ids)
        _, dead = simulation.run(lambda rt, r=r, k=k: first_life(r, rt, k), seed=2, start=10.0)  # type: ignore[misc]
        assert dead.dead, f"point {k} was never reached"
        r.bury()
        try:
            simulation.run(lambda rt, r=r: next_life(r, rt), seed=3, start=1000.0)  # type: ignore[misc]
        except AssertionError as error:
            raise AssertionError(f"killed at point {k} of {points} ({dead.events[-1]}): {error}") from error
        shutil.rmtree(r.state)
