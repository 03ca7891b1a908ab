"""Servers through the edge: from request to guest and back to nothing."""

import asyncio
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from kilonova.compute.model import Host, Scheduling
from kilonova.compute.ops import create
from kilonova.compute.scheduler.snapshot import Request
from kilonova.compute.store import servers
from kilonova.core.context import service_context
from kilonova.core.db import Lost
from kilonova.core.operations import Operation
from kilonova.placement.contract import ConsumerGone
from kilonova.testing.asgi import Client
from kilonova.testing.compute import ComputeWorld
from kilonova.testing.fakes import IMAGE, NETWORK
from tests.compute.test_flavors import client

Run = Callable[..., None]


def wanted(**changes: Any) -> dict[str, Any]:
    return {"server": {"name": "s1", "imageRef": IMAGE, "flavorRef": "1", "networks": [{"uuid": NETWORK}], **changes}}


async def until(c: Client, server_id: str, status: str) -> dict[str, Any]:
    for _ in range(500):
        reply = await c.get(f"/v2.1/servers/{server_id}")
        if reply.status == 404 and status == "gone":
            return {}
        assert reply.status == 200, reply
        server: dict[str, Any] = reply.json["server"]
        if server["status"] == status and server["OS-EXT-STS:task_state"] is None:
            return server
        await asyncio.sleep(0.005)
    raise AssertionError(f"still {server['status']} {server.get('fault')}")


async def ended(w: ComputeWorld, server_id: str) -> None:
    """No operation of the server is left: what its status does not show has been done, too."""
    for _ in range(500):
        if not await w.compute.api_ops.of(server_id):
            return
        await asyncio.sleep(0.005)
    raise AssertionError(f"still under way: {await w.compute.api_ops.of(server_id)}")


async def boot(c: Client, **changes: Any) -> dict[str, Any]:
    reply = await c.post("/v2.1/servers", wanted(**changes))
    assert reply.status == 202, reply
    return await until(c, reply.json["server"]["id"], "ACTIVE")


def test_a_server_boots_stops_starts_reboots_and_goes(compute: Run) -> None:
    async def story(w: ComputeWorld) -> None:
        member, admin = client(w), client(w, "admin:p9")
        reply = await member.post("/v2.1/servers", wanted(metadata={"a": "b"}, description="d"))
        assert reply.status == 202
        made = reply.json["server"]
        assert set(made) == {"id", "links", "OS-DCF:diskConfig", "security_groups", "adminPass"}
        assert reply.headers["location"] == f"http://localhost/v2.1/servers/{made['id']}"
        assert reply.headers["x-compute-request-id"] == reply.headers["x-openstack-request-id"]
        server = await until(member, made["id"], "ACTIVE")
        assert server["addresses"]["private"][0]["addr"] == "10.0.0.1"
        assert server["metadata"] == {"a": "b"}
        assert "OS-EXT-SRV-ATTR:host" not in server
        seen = (await admin.get(f"/v2.1/servers/{made['id']}")).json["server"]
        assert seen["OS-EXT-SRV-ATTR:host"] in w.machines
        assert seen["host_status"] == "UP"
        assert made["id"] in w.machines[seen["OS-EXT-SRV-ATTR:host"]].guests
        for action, status in (
            ({"os-stop": None}, "SHUTOFF"),
            ({"os-start": None}, "ACTIVE"),
            ({"reboot": {"type": "HARD"}}, "ACTIVE"),
            ({"reboot": {"type": "SOFT"}}, "ACTIVE"),
        ):
            assert (await member.post(f"/v2.1/servers/{made['id']}/action", action)).status == 202
            await until(member, made["id"], status)
        assert (await member.post(f"/v2.1/servers/{made['id']}/action", {"os-start": None})).status == 409
        output = await member.post(f"/v2.1/servers/{made['id']}/action", {"os-getConsoleOutput": {"length": 5}})
        assert output.status == 200
        assert output.json["output"]
        assert (await member.delete(f"/v2.1/servers/{made['id']}")).status == 204
        await until(member, made["id"], "gone")
        assert not any(m.guests for m in w.machines.values())
        assert await w.placement.allocations(service_context("test")) == ()
        assert w.network.ports == {}

    compute(story)


def test_foreign_servers_are_not_there(compute: Run) -> None:
    async def story(w: ComputeWorld) -> None:
        server = await boot(client(w))
        other, reader = client(w, "member:p2"), client(w, "reader:p1")
        path = f"/v2.1/servers/{server['id']}"
        assert (await other.get(path)).status == 404
        assert (await other.delete(path)).status == 404
        assert (await other.post(path + "/action", {"os-stop": None})).status == 404
        assert (await other.get("/v2.1/servers")).json["servers"] == []
        assert (await reader.get(path)).status == 200
        assert (await reader.delete(path)).status == 403
        assert (await reader.post(path + "/action", {"os-stop": None})).status == 403
        assert (await client(w).get(f"/v2.1/{'a' * 32}/servers")).status == 400

    compute(story)


def test_no_host_says_why_for_each_filter(compute: Run) -> None:
    async def story(w: ComputeWorld) -> None:
        admin = client(w, "admin:p1")
        flavors = {"id": "9", "name": "huge", "vcpus": 1, "ram_mb": 10_000_000, "root_gb": 1}
        from kilonova.compute.model import Flavor
        from kilonova.compute.store import flavors as store

        await w.db.transact(lambda tx: store.insert(tx, Flavor(**flavors)))  # type: ignore[arg-type]
        reply = await admin.post("/v2.1/servers", wanted(flavorRef="9"))
        assert reply.status == 202, reply
        server = await until(admin, reply.json["server"]["id"], "ERROR")
        assert server["fault"]["message"].startswith("No valid host was found. ResourceFilter refused 2 of 2 (host-1:")
        assert "MiB of memory free of 10000000 wanted" in server["fault"]["message"]
        why = (await admin.get(f"/v2.1/kilonova/servers/{server['id']}/explanation")).json
        assert [h["filter"] for h in why["hosts"]] == ["ResourceFilter", "ResourceFilter"]
        assert (await admin.delete(f"/v2.1/servers/{server['id']}")).status == 204
        await until(admin, server["id"], "gone")

    compute(story, settings={("quota", "ram"): -1})


def test_wiring_is_not_waited_for_when_no_time_is_given(compute: Run) -> None:
    async def story(w: ComputeWorld) -> None:
        w.network.fail_wiring = 99
        await boot(client(w))

    compute(story, settings={("DEFAULT", "vif_plugging_timeout"): 0})


def test_a_failing_host_is_left_for_another_and_nothing_leaks(compute: Run) -> None:
    async def story(w: ComputeWorld) -> None:
        for driver in list(w.drivers.values())[:1]:
            driver.fail_next(1)
        w.network.fail_wiring = 1
        server = await boot(client(w))
        assert server["status"] == "ACTIVE"
        assert sum(len(m.guests) for m in w.machines.values()) == 1
        assert len(await w.placement.allocations(service_context("test"))) == 1

    compute(story, hosts=3)


def test_when_every_host_fails_the_server_tells_it(compute: Run) -> None:
    async def story(w: ComputeWorld) -> None:
        w.network.fail_wiring = 99
        reply = await client(w).post("/v2.1/servers", wanted())
        server = await until(client(w), reply.json["server"]["id"], "ERROR")
        assert "could not be wired: the host's agent says no" in server["fault"]["message"]
        assert await w.placement.allocations(service_context("test")) == ()
        assert w.network.ports == {}

    compute(story)


def test_an_undo_that_came_to_nothing_leaves_nothing(compute: Run) -> None:
    """Its question whether the operation is still ours was not answered; as in seed 20093 of several processes."""

    async def story(w: ComputeWorld) -> None:
        w.network.fail_wiring = 99
        held, asked = w.compute.api_ops.held, []

        async def unanswered(op: Operation) -> bool:
            asked.append(op.epoch)
            if len(asked) == 1:
                raise Lost(reason="the connection broke")
            return await held(op)

        w.compute.api_ops.held = unanswered  # type: ignore[method-assign]
        reply = await client(w).post("/v2.1/servers", wanted())
        server = await until(client(w), reply.json["server"]["id"], "ERROR")
        assert "could not be wired" in server["fault"]["message"]
        assert asked[1:] == [1] * (len(asked) - 1) != []
        assert await w.placement.allocations(service_context("test")) == ()
        assert w.network.ports == {}

    compute(story, hosts=1)


def test_a_runner_that_was_overtaken_after_it_asked_fails_nothing(compute: Run) -> None:
    """It found no host, heard that the operation was still its own, and was stopped; another one built the server. As in seed 50135."""

    async def story(w: ComputeWorld) -> None:
        held, choose, asked = w.compute.api_ops.held, w.compute.hosts.choose, []

        async def none(request: Request) -> tuple[Host | None, Scheduling]:
            w.compute.hosts.choose = choose  # type: ignore[method-assign]
            return None, Scheduling()

        async def overtaken(op: Operation) -> bool:
            asked.append(answer := await held(op))
            if len(asked) == 1:
                (row,) = await w.compute.api_ops.of(op.resource_id)
                other = await w.compute.api_ops._take(row)
                assert other is not None
                await create.run(w.compute, other)
            return answer

        w.compute.hosts.choose = none  # type: ignore[method-assign]
        w.compute.api_ops.held = overtaken  # type: ignore[method-assign]
        server = await boot(client(w))
        for _ in range(500):
            if len(asked) > 1:
                break
            await asyncio.sleep(0.005)
        assert asked[:2] == [True, False]
        assert (await until(client(w), server["id"], "ACTIVE"))["OS-EXT-STS:vm_state"] == "active"
        assert len(await w.placement.allocations(service_context("test"))) == 1
        assert len(w.network.ports) == 1

    compute(story, hosts=1)


def test_a_sleeper_claims_nothing_for_a_server_that_was_given_up(compute: Run) -> None:
    """By another runner meanwhile. As in seeds 320174 and 330812."""

    async def story(w: ComputeWorld) -> None:
        ctx, run = service_context("test"), create.run
        kept: dict[str, Operation] = {}

        async def remember(op: Operation) -> None:
            kept[op.resource_id] = op
            await run(w.compute, op)

        verbs = {**w.compute.api_ops.verbs}
        w.compute.api_ops.verbs = {**verbs, "create": msgspec.structs.replace(verbs["create"], run=remember)}
        good = await boot(client(w))
        (claimed,) = await w.placement.allocations(ctx)

        async def none(request: Request) -> tuple[Host | None, Scheduling]:
            return None, Scheduling()

        w.compute.hosts.choose = none  # type: ignore[method-assign]
        bad = (await client(w).post("/v2.1/servers", wanted())).json["server"]
        await until(client(w), bad["id"], "ERROR")
        await ended(w, bad["id"])  # when nobody may claim any more
        held = await w.placement.allocation(ctx, good["id"])
        assert held is not None
        with pytest.raises(ConsumerGone):
            await w.placement.claim(ctx, bad["id"], held.provider_id, {"VCPU": 1}, "p1", "u1", generation=kept[bad["id"]].epoch)
        for server_id in (bad["id"], good["id"]):
            await create.overtaken(w.compute, kept[server_id])
        assert await w.placement.allocations(ctx) == (claimed,)
        assert len(w.network.ports) == 1

    compute(story, hosts=1)


def test_quota_is_exact_under_concurrency(compute: Run) -> None:
    async def story(w: ComputeWorld) -> None:
        replies = await asyncio.gather(*(client(w).post("/v2.1/servers", wanted()) for _ in range(30)))
        assert sorted(r.status for r in replies) == [202] * 10 + [403] * 20
        refused = next(r for r in replies if r.status == 403)
        assert refused.json["forbidden"]["message"] == "Quota exceeded for instances: Requested 1, but already used 10 of 10 instances"
        ids = [r.json["server"]["id"] for r in replies if r.status == 202]
        await asyncio.gather(*(client(w).delete(f"/v2.1/servers/{i}") for i in ids))
        for i in ids:
            await until(client(w), i, "gone")
        assert (await client(w).post("/v2.1/servers", wanted())).status == 202

    compute(story)


def test_deleting_while_building_leaves_nothing(compute: Run) -> None:
    async def story(w: ComputeWorld) -> None:
        for driver in w.drivers.values():
            driver.config = type(driver.config)(hypervisor_hostname=driver.config.hypervisor_hostname, spawn_delay_s=0.05)
        for wait in (0, 0.001, 0.01, 0.04):
            made = (await client(w).post("/v2.1/servers", wanted())).json["server"]["id"]
            await asyncio.sleep(wait)
            assert (await client(w).delete(f"/v2.1/servers/{made}")).status == 204
            await until(client(w), made, "gone")
        assert not any(m.guests for m in w.machines.values())
        assert await w.placement.allocations(service_context("test")) == ()
        assert w.network.ports == {}

    compute(story)


@pytest.mark.parametrize("cells", [0, 2])
def test_a_create_that_wakes_up_after_the_delete_writes_no_row(compute: Run, monkeypatch: pytest.MonkeyPatch, cells: int) -> None:
    """It was stopped before it wrote the server into its cell; another runner ended it. As in seed 3 of several processes, at 44e491a."""
    asleep, up = asyncio.Event(), asyncio.Event()
    place = create._place

    async def placed(*given: Any, **named: Any) -> int:
        asleep.set()
        await up.wait()
        return await place(*given, **named)

    monkeypatch.setattr(create, "_place", placed)

    async def story(w: ComputeWorld) -> None:
        reply = await client(w).post("/v2.1/servers", wanted())
        server_id = reply.json["server"]["id"]
        await asleep.wait()
        assert (await client(w).delete(f"/v2.1/servers/{server_id}")).status == 204
        (op,) = [op for op in await w.compute.api_ops.of(server_id) if op.verb == "create"]
        other = await w.compute.api_ops._take(op)
        assert other is not None
        await w.db.transact(lambda tx: w.compute.api_ops.finish(tx, other))
        await until(client(w), server_id, "gone")
        await ended(w, server_id)
        up.set()
        woken = w.compute.api_ops.running[op.id].task
        assert woken is not None
        await asyncio.wait([woken], timeout=5)
        rows = [await servers.get(db, server_id) for db in w.cell_dbs.values() or [w.db]]
        assert [row.deleted for row in rows if row is not None] == [True] * len(rows)
        listed = (await client(w, "admin:p1").get("/v2.1/servers?deleted=true&all_tenants=true")).json["servers"]
        assert [shown["id"] for shown in listed] == [server_id]

    compute(story, cells=cells)


def test_bad_requests_say_which_field(compute: Run) -> None:
    async def story(w: ComputeWorld) -> None:
        member = client(w)
        for change, text in (
            ({"flavorRef": "zz"}, "Flavor zz could not be found."),
            ({"imageRef": "a2459075-d96c-40d5-893e-577ff92e7222"}, "Can not find requested image"),
            ({"imageRef": "foo"}, "imageRef"),
            ({"name": ""}, "name"),
            ({"name": "x" * 256}, "name"),
            ({"foo": 1}, "foo"),
            ({"key_name": "nope"}, "Invalid key_name provided."),
            ({"networks": [{"uuid": "11111111-1111-4111-8111-111111111111"}]}, "could not be found"),
            ({"min_count": 2, "max_count": 1}, "min_count must be <= max_count"),
            ({"availability_zone": "nope"}, "The requested availability zone is not available"),
            ({"user_data": "%%%"}, "user_data"),
            ({"metadata": {"k" * 256: "v"}}, "metadata"),
            ({"accessIPv6": "nope"}, "accessIPv6"),
        ):
            reply = await member.post("/v2.1/servers", wanted(**change))
            assert (reply.status, text in reply.json["badRequest"]["message"]) == (400, True), (change, reply)
        reply = await member.post("/v2.1/servers", wanted(availability_zone="nova:host-1"))
        assert reply.status == 403
        body = wanted()
        del body["server"]["networks"]
        assert (await member.post("/v2.1/servers", body)).status == 400
        assert (await client(w, version="2.36").post("/v2.1/servers", body)).status == 202
        assert (await client(w, version="2.999").get("/v2.1/servers")).status == 406
        assert (await client(w, version="x").get("/v2.1/servers")).status == 400
        assert (await member.patch("/v2.1/servers", {})).status == 404

    compute(story)


def test_lists_filter_sort_and_page(compute: Run) -> None:
    async def story(w: ComputeWorld) -> None:
        member = client(w)
        for name in ("a1", "b2", "a3"):
            await boot(member, name=name)

        async def names(query: str) -> list[str]:
            reply = await member.get(f"/v2.1/servers{query}")
            assert reply.status == 200, reply
            return [s["name"] for s in reply.json["servers"]]

        assert await names("") == ["a3", "b2", "a1"]
        assert await names("/detail?name=a") == ["a3", "a1"]
        assert await names("?name=^a\\d") == ["a3", "a1"]
        assert await names("?sort_key=display_name&sort_dir=asc") == ["a1", "a3", "b2"]
        first = (await member.get("/v2.1/servers/detail?limit=2")).json
        assert [s["name"] for s in first["servers"]] == ["a3", "b2"]
        following = first["servers_links"][0]["href"].removeprefix("http://localhost")
        assert [s["name"] for s in (await member.get(following)).json["servers"]] == ["a1"]
        assert await names("?status=ACTIVE&limit=10") == ["a3", "b2", "a1"]
        assert await names("?status=SHUTOFF") == []
        assert await names("?ip=10.0.0.2") == ["b2"]
        for bad in (
            "?marker=zz",
            "?limit=-1",
            "?limit=x",
            "?sort_key=foo",
            "?status=foo",
            "?foo=1",
            "?changes-since=foo",
            "?name=(a%2B)%2B",
        ):
            assert (await member.get("/v2.1/servers" + bad)).status == 400, bad
        assert (await member.get("/v2.1/servers?all_tenants=1")).status == 403
        assert len((await client(w, "admin:p9").get("/v2.1/servers/detail?all_tenants=1")).json["servers"]) == 3
        update = await member.put(
            f"/v2.1/servers/{(await member.get('/v2.1/servers')).json['servers'][0]['id']}", {"server": {"name": "new"}}
        )
        assert update.json["server"]["name"] == "new"
        assert await names("?name=new") == ["new"]

    compute(story)


def test_a_guest_that_stops_by_itself_does_not_stay_active(compute: Run) -> None:
    async def story(w: ComputeWorld) -> None:
        server = await boot(client(w))
        for driver in w.drivers.values():
            if server["id"] in [g.server_id for g in await driver.list_guests()]:
                await driver.stop_itself(server["id"])
        assert (await until(client(w), server["id"], "SHUTOFF"))["OS-EXT-STS:power_state"] == 4

    compute(story)


def test_a_server_tells_its_images_properties_but_kernel_and_ramdisk(compute: Run) -> None:
    async def story(w: ComputeWorld) -> None:
        image = "00000000-0000-4000-9000-0000000000bb"
        w.images.put(image, properties={"kernel_id": IMAGE, "ramdisk_id": IMAGE, "os_distro": "debian"})
        server = await boot(client(w), imageRef=image)
        assert server["image"]["properties"] == {"os_distro": "debian"}
        old = (await client(w, version="2.97").get(f"/v2.1/servers/{server['id']}")).json["server"]
        assert set(old["image"]) == {"id", "links"}

    compute(story)


def test_versions_and_their_refusal(compute: Run) -> None:
    async def story(w: ComputeWorld) -> None:
        c = Client(w.edge)
        for path, ident in (("/v2", "v2.0"), ("/v2/", "v2.0"), ("/v1.1", "v2.0"), ("/v2.1", "v2.1"), ("/v2.1/", "v2.1")):
            assert (await c.get(path)).json["version"]["id"] == ident
        for version in ("2.999", "1.0"):
            reply = await client(w, version=version).get("/v2.1/servers")
            assert reply.status == 406
            assert reply.headers["openstack-api-version"] == f"compute {version}"
            assert reply.headers["x-openstack-nova-api-version"] == version

    compute(story)


def test_a_server_in_error_is_not_healed_by_a_guest_that_runs(compute: Run) -> None:
    async def story(w: ComputeWorld) -> None:
        server, admin = await boot(client(w)), client(w, "admin:p1")
        assert (await admin.post(f"/v2.1/servers/{server['id']}/action", {"os-resetState": {"state": "error"}})).status == 202
        for agent in w.agents:
            await agent.report()
        assert (await client(w).get(f"/v2.1/servers/{server['id']}")).json["server"]["status"] == "ERROR"

    compute(story)
