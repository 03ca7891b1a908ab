"""createImage: a server's disk becomes an image."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

from kilonova.core import disk_formats
from kilonova.core.context import Context
from kilonova.core.errors import Forbidden
from kilonova.image.contract import ImageInfo, NewImage
from kilonova.testing.compute import ComputeWorld
from kilonova.testing.fakes import IMAGE
from tests.compute.test_flavors import client
from tests.compute.test_servers import boot, until, wanted

Run = Callable[..., None]


def body(**changes: Any) -> dict[str, Any]:
    return {"createImage": {"name": "copy", **changes}}


async def event(w: ComputeWorld, server_id: str) -> dict[str, Any]:
    """The newest action's only event, for admins."""
    admin = client(w, "admin:p1")
    newest = (await admin.get(f"/v2.1/servers/{server_id}/os-instance-actions")).json["instanceActions"][0]
    assert newest["action"] == "createImage"
    found = (await admin.get(f"/v2.1/servers/{server_id}/os-instance-actions/{newest['request_id']}")).json["instanceAction"]["events"]
    assert len(found) == 1
    out: dict[str, Any] = found[0]
    return out


def test_the_image_is_there_at_once_and_tells_where_it_comes_from(compute: Run) -> None:
    async def story(w: ComputeWorld) -> None:
        seen: list[disk_formats.DiskFormat] = []
        write = w.images.write

        async def look(ctx: Context, image_id: str, path: str) -> ImageInfo:
            data = Path(path).read_bytes()
            inspector = disk_formats.Inspector()
            inspector.eat(data)
            seen.append(inspector.finish(len(data)))
            assert w.images.images[image_id].status == "queued"
            return await write(ctx, image_id, path)

        w.images.write = look  # type: ignore[method-assign]
        w.images.put(IMAGE, min_ram=64, properties={"os_distro": "debian", "img_signature": "x"})
        c = client(w)
        server = await boot(c)
        reply = await c.post(f"/v2.1/servers/{server['id']}/action", body(metadata={"image_type": "mine", "a": "b"}))
        assert reply.status == 202, reply
        assert reply.json["image_id"] in w.images.images
        now = await until(c, server["id"], "ACTIVE")
        image = w.images.images[reply.json["image_id"]]
        assert (image.status, image.min_ram, image.visibility, image.min_disk, image.disk_format) == ("active", 64, "private", 1, "qcow2")
        assert image.properties == {
            "os_distro": "debian", "image_type": "mine", "a": "b", "instance_uuid": server["id"], "base_image_ref": IMAGE,
            "user_id": server["user_id"], "owner_id": "p1", "boot_roles": "member,reader",
        }  # fmt: skip
        assert [(f.format, f.virtual_size) for f in seen] == [("qcow2", 1 << 30)]
        assert now["OS-SRV-USG:launched_at"] == server["OS-SRV-USG:launched_at"]
        told = await event(w, server["id"])
        assert (told["event"], told["result"]) == ("compute_snapshot_instance", "Success")
        old = await client(w, version="2.44").post(f"/v2.1/servers/{server['id']}/action", body())
        assert (old.status, old.body) == (202, b"")
        assert old.headers["location"].rpartition("/images/")[2] in w.images.images

    compute(story)


def test_a_stopped_or_locked_server_can_be_copied(compute: Run) -> None:
    async def story(w: ComputeWorld) -> None:
        c = client(w)
        server = await boot(c)
        path = f"/v2.1/servers/{server['id']}/action"
        await c.post(path, {"os-stop": None})
        await until(c, server["id"], "SHUTOFF")
        await c.post(path, {"lock": None})
        reply = await c.post(path, body())
        assert reply.status == 202
        await until(c, server["id"], "SHUTOFF")
        assert w.images.images[reply.json["image_id"]].status == "active"

    compute(story)


def test_a_failure_removes_the_image_and_leaves_the_server_alone(compute: Run) -> None:
    async def story(w: ComputeWorld) -> None:
        c = client(w)
        server = await boot(c)
        for driver in w.drivers.values():
            driver.fail_next(1, "The disk is gone.")
        reply = await c.post(f"/v2.1/servers/{server['id']}/action", body())
        assert reply.status == 202
        assert "fault" not in await until(c, server["id"], "ACTIVE")
        assert list(w.images.images) == [IMAGE]
        told = await event(w, server["id"])
        assert (told["result"], told["details"]) == ("Error", "The disk is gone.")

    compute(story)


def test_an_image_that_is_refused_frees_the_server(compute: Run) -> None:
    async def story(w: ComputeWorld) -> None:
        async def refuse(ctx: Context, new: NewImage) -> str:
            raise Forbidden("There are too many images.")

        w.images.create = refuse  # type: ignore[method-assign]
        c = client(w)
        server = await boot(c)
        reply = await c.post(f"/v2.1/servers/{server['id']}/action", body())
        assert (reply.status, reply.json["forbidden"]["message"]) == (403, "There are too many images.")
        assert (await c.get(f"/v2.1/servers/{server['id']}")).json["server"]["OS-EXT-STS:task_state"] is None

    compute(story)


def test_an_image_deleted_meanwhile_ends_it_in_peace(compute: Run) -> None:
    async def story(w: ComputeWorld) -> None:
        c = client(w)
        server = await boot(c)
        write = w.images.write

        async def late(ctx: Context, image_id: str, path: str) -> ImageInfo:
            await w.images.delete(ctx, image_id)
            await w.images.get(ctx, image_id)
            return await write(ctx, image_id, path)

        w.images.write = late  # type: ignore[method-assign]
        assert (await c.post(f"/v2.1/servers/{server['id']}/action", body())).status == 202
        await until(c, server["id"], "ACTIVE")
        assert list(w.images.images) == [IMAGE]

    compute(story)


def test_a_delete_does_not_wait_for_a_copy(compute: Run) -> None:
    async def story(w: ComputeWorld) -> None:
        c = client(w)
        server = await boot(c)
        gate = asyncio.Event()

        async def slow(ctx: Context, image_id: str, path: str) -> ImageInfo:
            await gate.wait()
            return await w.images.get(ctx, image_id)

        w.images.write = slow  # type: ignore[method-assign]
        assert (await c.post(f"/v2.1/servers/{server['id']}/action", body())).status == 202
        busy = await c.post(f"/v2.1/servers/{server['id']}/action", {"os-stop": None})
        assert (busy.status, "task_state image_snapshot" in busy.json["conflictingRequest"]["message"]) == (409, True)
        assert (await c.delete(f"/v2.1/servers/{server['id']}")).status == 204
        await until(c, server["id"], "gone")
        assert not any(m.guests for m in w.machines.values())
        gate.set()

    compute(story)


def test_bad_requests(compute: Run) -> None:
    async def story(w: ComputeWorld) -> None:
        c = client(w)
        server = await boot(c)
        path = f"/v2.1/servers/{server['id']}/action"
        for changes in ({"name": ""}, {"name": "x" * 256}, {"name": " x"}, {"metadata": {"k" * 256: "v"}}, {"foo": 1}):
            assert (await c.post(path, body(**changes))).status == 400, changes
        many = {str(i): "" for i in range(129)}
        assert (await client(w, version="2.38").post(path, body(metadata=many))).status == 403
        assert (await client(w, "member:p2").post(path, body())).status == 404
        assert (await client(w, "reader:p1").post(path, body())).status == 403
        assert list(w.images.images) == [IMAGE]
        w.network.fail_wiring = 99
        failed = (await c.post("/v2.1/servers", wanted())).json["server"]["id"]
        await until(c, failed, "ERROR")
        assert (await c.post(f"/v2.1/servers/{failed}/action", body())).status == 409

    compute(story)
