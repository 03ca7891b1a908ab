"""Of a server that is deleted nothing comes late: the whole cloud, whose compute hears nothing from network."""

from pathlib import Path
from typing import Any

import pytest

from kilonova.core.bus import Unreachable
from kilonova.core.context import Context, service_context
from kilonova.network.contract import Allocate, InterfacesReleased
from kilonova.testing import simulation
from kilonova.testing.asgi import Client
from kilonova.testing.cloud import WholeCloud
from kilonova.testing.simulation import SimRuntime


class Silent:
    """Network as compute sees it. `mute`: methods whose answers do not arrive; nothing is done for them, but what was asked is kept."""

    def __init__(self, real: Any, *mute: str) -> None:
        self.real = real
        self.mute = mute
        self.asked: list[tuple[str, tuple[Any, ...], dict[str, Any]]] = []

    def __getattr__(self, name: str) -> Any:
        if name not in self.mute:
            return getattr(self.real, name)

        async def call(*given: Any, **named: Any) -> Any:
            self.asked.append((name, given, named))
            raise Unreachable(address="network", why="no answer")

        return call


async def begun(runtime: SimRuntime, state: Path, *mute: str) -> tuple[WholeCloud, Silent, Client, str, str]:
    w = WholeCloud(runtime, str(state))
    await w.start()
    token = await w.token()
    ids = await w.prepare(token)
    assert w.cloud.compute is not None
    silent = Silent(w.cloud.compute.network, *mute)
    w.cloud.compute.network = silent
    compute = w.client("compute", token)
    body = {"server": {"name": "s1", "imageRef": ids["image"], "flavorRef": ids["flavor"], "networks": [{"uuid": ids["network"]}]}}
    reply = await compute.post("/v2.1/servers", body)
    assert reply.status == 202, reply
    return w, silent, compute, reply.json["server"]["id"], token


async def until(w: WholeCloud, compute: Client, server_id: str, wanted: str) -> dict[str, Any]:
    for _ in range(3000):
        reply = await compute.get(f"/v2.1/servers/{server_id}")
        if reply.status == 404 and wanted == "gone":
            return {}
        if reply.status == 200 and reply.json["server"]["status"] == wanted:
            server: dict[str, Any] = reply.json["server"]
            return server
        await w.runtime.sleep(1)
    raise AssertionError(f"{server_id} never became {wanted}")


async def nothing_is_left(w: WholeCloud, token: str) -> None:
    ports = (await w.client("network", token).get("/v2.0/ports")).json["ports"]
    assert [p for p in ports if p["device_owner"].startswith("compute:")] == []
    assert w.cloud.placement is not None
    assert await w.cloud.placement.allocations(service_context("test")) == ()


async def late_allocates(runtime: SimRuntime, state: Path) -> None:
    w, silent, compute, server_id, token = await begun(runtime, state, "allocate")
    while len(silent.asked) < 2:  # two runners' words are under way
        await runtime.sleep(0.1)
    assert (await compute.delete(f"/v2.1/servers/{server_id}")).status == 204
    await until(w, compute, server_id, "gone")
    for name, given, named in silent.asked:
        with pytest.raises(InterfacesReleased):
            await getattr(silent.real, name)(*given, **named)
    await nothing_is_left(w, token)
    turns = [given[1].turn for _, given, _ in silent.asked]
    assert turns == sorted(set(turns))

    shown = (await compute.get(f"/v2.1/servers/{server_id}/os-instance-actions")).json["instanceActions"]
    assert {a["action"]: a["message"] for a in shown} == {"create": "Error", "delete": None}
    request_id = next(a["request_id"] for a in shown if a["action"] == "create")
    action = (await compute.get(f"/v2.1/servers/{server_id}/os-instance-actions/{request_id}")).json["instanceAction"]
    (event,) = action["events"]
    assert (event["event"], event["result"]) == ("compute__do_build_and_run_instance", "Error")
    assert event["finish_time"]
    await w.stop()


def test_an_allocate_that_comes_after_the_delete_makes_no_port(tmp_path: Path) -> None:
    simulation.run(lambda rt: late_allocates(rt, tmp_path), seed=1)


async def late_in_a_create(runtime: SimRuntime, state: Path) -> None:
    """An earlier runner's allocate, and its undo, come when a later one has built the server."""
    w, silent, compute, server_id, _ = await begun(runtime, state, "allocate")
    while not silent.asked:
        await runtime.sleep(0.1)
    silent.mute = ()
    server = await until(w, compute, server_id, "ACTIVE")
    ((_, (ctx, request, *_), _),) = silent.asked
    assert isinstance(ctx, Context)
    assert isinstance(request, Allocate)
    with pytest.raises(InterfacesReleased):
        await silent.real.allocate(ctx, request)
    await silent.real.release(ctx, server_id, up_to=request.turn)
    assert len(await silent.real.nics(ctx, server_id)) == 1
    assert (await compute.get(f"/v2.1/servers/{server_id}")).json["server"]["addresses"] == server["addresses"] != {}
    await w.stop()


def test_an_earlier_runners_words_change_nothing_of_a_later_one(tmp_path: Path) -> None:
    simulation.run(lambda rt: late_in_a_create(rt, tmp_path), seed=1)


async def away_for_long(runtime: SimRuntime, state: Path) -> None:
    w, silent, compute, server_id, token = await begun(runtime, state, "allocate", "release")
    server = await until(w, compute, server_id, "ERROR")
    assert "given up after 15 attempts" in server["fault"]["message"]
    assert server["OS-EXT-STS:task_state"] is None
    asked = len(silent.asked)
    await runtime.sleep(300)
    assert len(silent.asked) == asked, "it is still tried"
    assert w.log.getvalue().count("operation is given up") == 1
    for name, given, named in silent.asked[:1]:
        await getattr(silent.real, name)(*given, **named)  # this one came late, while nobody had released anything
    silent.mute = ()
    assert (await compute.delete(f"/v2.1/servers/{server_id}")).status == 204
    await until(w, compute, server_id, "gone")
    await nothing_is_left(w, token)
    await w.stop()


def test_a_create_is_given_up_while_network_is_away_and_its_delete_frees_everything(tmp_path: Path) -> None:
    simulation.run(lambda rt: away_for_long(rt, tmp_path), seed=1)
