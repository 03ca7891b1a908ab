"""The whole cloud on the virtual clock: a thousand servers on a hundred hosts, the same log for the same seed.

Requests enter through the edges with real tokens; all services, the SQLite code and the scheduler are the real ones.
"""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from kilonova.core.context import service_context
from kilonova.testing import simulation
from kilonova.testing.asgi import Client
from kilonova.testing.cloud import WholeCloud
from kilonova.testing.simulation import SimRuntime

SERVERS = 1000
CONCURRENCY = 50
UNLIMITED = {("quota", "instances"): -1, ("quota", "cores"): -1, ("quota", "ram"): -1, ("network_quotas", "quota_port"): -1}


async def one_server(w: WholeCloud, compute: Client, ids: dict[str, str], number: int) -> None:
    body = {"server": {"name": f"s{number}", "imageRef": ids["image"], "flavorRef": ids["flavor"], "networks": [{"uuid": ids["network"]}]}}
    reply = await compute.post("/v2.1/servers", body)
    assert reply.status == 202, reply
    server_id = reply.json["server"]["id"]
    for wanted in ("ACTIVE", "gone"):
        for _ in range(1000):
            reply = await compute.get(f"/v2.1/servers/{server_id}")
            status = "gone" if reply.status == 404 else reply.json["server"]["status"]
            assert status != "ERROR", reply
            if status == wanted:
                break
            await w.runtime.sleep(0.05)
        else:
            raise AssertionError(f"{server_id} is {status}, not {wanted}")
        w.runtime.note(f"{server_id} {wanted}")  # type: ignore[attr-defined]
        if wanted == "ACTIVE":
            assert (await compute.delete(f"/v2.1/servers/{server_id}")).status == 204


async def story(runtime: SimRuntime, state: Path, servers: int) -> None:
    state.mkdir()
    w = WholeCloud(runtime, str(state), hosts=100, overrides=UNLIMITED)
    await w.start()
    token = await w.token()
    ids = await w.prepare(token)
    compute = w.client("compute", token)
    numbers = iter(range(servers))

    async def worker() -> None:
        for number in numbers:
            await runtime.sleep(runtime.random.uniform(0, 0.01))
            await one_server(w, compute, ids, number)

    await w.cloud.tasks.gather("worker", [worker() for _ in range(CONCURRENCY)], limit=CONCURRENCY)
    assert not any(machine.guests for machine in w.machines.guests.values())
    assert w.cloud.placement is not None
    assert await w.cloud.placement.allocations(service_context("test")) == ()
    ports = (await w.client("network", token).get("/v2.0/ports?device_owner=compute:nova")).json["ports"]
    assert ports == []
    await w.stop()


def digest(state: Path, seed: int, servers: int = SERVERS) -> tuple[str, int]:
    _, runtime = simulation.run(lambda rt: story(rt, state, servers), seed)
    return runtime.digest(), len(runtime.events)


def test_a_thousand_servers_twice_with_one_seed_are_one_log(tmp_path: Path) -> None:
    first, length = digest(tmp_path / "a", 7)
    assert length > 10 * SERVERS
    assert digest(tmp_path / "b", 7) == (first, length)
    assert digest(tmp_path / "c", 8, 50)[0] != digest(tmp_path / "d", 7, 50)[0], "another seed must give another log"


def test_the_log_does_not_depend_on_how_python_hashes(tmp_path: Path) -> None:
    place = f"Path({str(tmp_path)!r}) / 'h' / str(1)"
    code = f"from tests.sim.test_whole_cloud import digest; from pathlib import Path; print(digest({place}, 3, 30))"
    outputs = []
    for number in ("1", "2"):
        (tmp_path / "h").mkdir(exist_ok=True)
        command = [sys.executable, "-c", code.replace("str(1)", f"str({number})")]
        environment = {**os.environ, "PYTHONHASHSEED": number}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=Path(__file__).parents[2], check=False)
        assert done.returncode == 0, done.stderr
        outputs.append(done.stdout)
    assert outputs[0] == outputs[1]


def test_a_planted_read_of_the_wall_clock_fails_the_simulation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from kilonova.compute.domain import hosts

    real = hosts.disk_gb
    monkeypatch.setattr(hosts, "disk_gb", lambda flavor: (time.time() and 0) + real(flavor))
    with pytest.raises(simulation.WallClock, match=r"time\.time was called"):
        digest(tmp_path / "w", 7, 3)
