"""Rebuild: the same server on a fresh disk."""

from collections.abc import Callable
from typing import Any

from kilonova.compute.api.server_views import SHAPES
from kilonova.core.context import service_context
from kilonova.testing.compute import ComputeWorld
from kilonova.testing.fakes import IMAGE
from tests.compute.test_flavors import client
from tests.compute.test_servers import boot, until, wanted

Run = Callable[..., None]
OTHER = "00000000-0000-4000-9000-0000000000cc"


def body(**changes: Any) -> dict[str, Any]:
    return {"rebuild": {"imageRef": OTHER, **changes}}


def test_a_server_gets_a_fresh_disk_and_keeps_its_addresses(compute: Run) -> None:
    async def story(w: ComputeWorld) -> None:
        c = client(w)
        w.images.put(OTHER, properties={"os_distro": "debian"}, size=2 << 20)
        server = await boot(c, metadata={"a": "b"}, description="d", user_data="ZWNobw==")
        path = f"/v2.1/servers/{server['id']}"
        host = next(m for m in w.machines.values() if server["id"] in m.guests)
        old = host.guests[server["id"]]
        reply = await c.post(path + "/action", body(name="new", metadata={"c": "d"}, accessIPv4="192.0.2.1", user_data=None, adminPass="x"))
        assert reply.status == 202, reply
        told = reply.json["server"]
        assert (told["status"], told["image"]["id"], told["name"], told["adminPass"]) == ("REBUILD", OTHER, "new", "x")
        assert reply.headers["location"].endswith(path)
        now = await until(c, server["id"], "ACTIVE")
        assert (now["name"], now["metadata"], now["description"], now["accessIPv4"]) == ("new", {"c": "d"}, "d", "192.0.2.1")
        assert now["image"]["properties"] == {"os_distro": "debian"}
        assert now["addresses"] == server["addresses"]
        assert now["OS-SRV-USG:launched_at"] > server["OS-SRV-USG:launched_at"]
        fresh = host.guests[server["id"]]
        assert fresh is not old
        assert fresh.spec.image is not None
        assert fresh.spec.image.id == OTHER
        assert len(await w.placement.allocations(service_context("test"))) == 1
        actions = (await c.get(path + "/os-instance-actions")).json["instanceActions"]
        assert [a["action"] for a in actions] == ["rebuild", "create"]
        event = (await client(w, "admin:p1").get(f"{path}/os-instance-actions/{actions[0]['request_id']}")).json["instanceAction"]["events"]
        assert [(e["event"], e["result"]) for e in event] == [("compute_rebuild_instance", "Success")]

    compute(story)


def test_a_stopped_server_stays_stopped(compute: Run) -> None:
    async def story(w: ComputeWorld) -> None:
        c = client(w)
        w.images.put(OTHER)
        server = await boot(c)
        path = f"/v2.1/servers/{server['id']}"
        await c.post(path + "/action", {"os-stop": None})
        await until(c, server["id"], "SHUTOFF")
        assert (await c.post(path + "/action", body())).json["server"]["status"] == "REBUILD"
        now = await until(c, server["id"], "SHUTOFF")
        assert (now["OS-EXT-STS:power_state"], now["image"]["id"]) == (4, OTHER)

    compute(story)


def test_a_failure_is_told_and_another_try_heals(compute: Run) -> None:
    async def story(w: ComputeWorld) -> None:
        c = client(w)
        w.images.put(OTHER)
        server = await boot(c)
        path = f"/v2.1/servers/{server['id']}"
        for driver in w.drivers.values():
            driver.fail_next(1, "The disk is full.")
        assert (await c.post(path + "/action", body())).status == 202
        assert (await until(c, server["id"], "ERROR"))["fault"]["message"] == "The disk is full."
        assert (await c.post(path + "/action", body())).status == 202
        assert "fault" not in await until(c, server["id"], "ACTIVE")

    compute(story)


def test_a_delete_overtakes_a_rebuild(compute: Run) -> None:
    async def story(w: ComputeWorld) -> None:
        c = client(w)
        w.images.put(OTHER)
        server = await boot(c)
        for driver in w.drivers.values():
            driver.config = type(driver.config)(hypervisor_hostname=driver.config.hypervisor_hostname, spawn_delay_s=0.03)
        assert (await c.post(f"/v2.1/servers/{server['id']}/action", body())).status == 202
        assert (await c.delete(f"/v2.1/servers/{server['id']}")).status == 204
        await until(c, server["id"], "gone")
        assert not any(m.guests for m in w.machines.values())
        assert await w.placement.allocations(service_context("test")) == ()

    compute(story)


def test_bad_rebuilds(compute: Run) -> None:
    async def story(w: ComputeWorld) -> None:
        c = client(w)
        w.images.put(OTHER)
        w.images.put("00000000-0000-4000-9000-0000000000dd", status="queued")
        w.images.put("00000000-0000-4000-9000-0000000000ee", min_ram=1 << 20)
        server = await boot(c)
        path = f"/v2.1/servers/{server['id']}/action"
        for changes, text in (
            ({"imageRef": "a2459075-d96c-40d5-893e-577ff92e7222"}, "Cannot find image for rebuild"),
            ({"imageRef": "x"}, "imageRef"),
            ({"imageRef": "00000000-0000-4000-9000-0000000000dd"}, "is not active"),
            ({"imageRef": "00000000-0000-4000-9000-0000000000ee"}, "memory is too small"),
            ({"name": " "}, "name"),
            ({"foo": 1}, "foo"),
            ({"key_name": "nope"}, "Invalid key_name provided."),
            ({"accessIPv6": "nope"}, "accessIPv6"),
            ({"user_data": "%"}, "user_data"),
            ({"preserve_ephemeral": True}, "preserve_ephemeral"),
            ({"personality": []}, "personality"),
        ):
            reply = await c.post(path, body(**changes))
            assert (reply.status, text in reply.json["badRequest"]["message"]) == (400, True), (changes, reply)
        assert (await c.post(path, body(metadata={str(i): "" for i in range(129)}))).status == 403
        assert (await client(w, "member:p2").post(path, body())).status == 404
        assert (await client(w, "reader:p1").post(path, body())).status == 403
        await c.post(path, {"lock": None})
        locked = await client(w, "member:p1").post(path, body())
        assert (locked.status, locked.json["conflictingRequest"]["message"]) == (409, f"Instance {server['id']} is locked")

    compute(story)


def test_what_has_never_run_cannot_be_rebuilt(compute: Run) -> None:
    async def story(w: ComputeWorld) -> None:
        w.network.fail_wiring = 99
        c = client(w)
        made = (await c.post("/v2.1/servers", wanted())).json["server"]["id"]
        await until(c, made, "ERROR")
        reply = await c.post(f"/v2.1/servers/{made}/action", body(imageRef=IMAGE))
        assert reply.status == 409
        assert reply.json["conflictingRequest"]["message"] == "Cannot 'rebuild' an instance which has never been active"

    compute(story)


def test_answers_at_every_version(compute: Run) -> None:
    """The client compares the answers to rebuild and update with the schema of each version, for members and admins."""

    async def story(w: ComputeWorld) -> None:
        w.images.put(OTHER)
        server = await boot(client(w))
        for token in ("member:p1", "admin:p1"):
            for version in SHAPES:
                c = client(w, token, f"{version[0]}.{version[1]}")
                assert (await c.put(f"/v2.1/servers/{server['id']}", {"server": {"name": "s"}})).status == 200
                assert (await c.post(f"/v2.1/servers/{server['id']}/action", body())).status == 202
                await until(client(w), server["id"], "ACTIVE")

    compute(story)
