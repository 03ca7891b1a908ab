"""Bytes in and out: checks, crashes, races. Rows of docs/security.md stand in the names."""

import asyncio
import hashlib
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from kilonova.core.db import Transaction
from kilonova.core.http import Disconnected
from kilonova.image.drivers.memory import MemoryStore
from kilonova.image.store import images
from kilonova.testing.asgi import Response
from tests.image.conftest import OCTETS, World, md5, qcow2

Run = Callable[..., None]


DATA = b"abc" * 1000


def test_what_goes_up_comes_down(run: Run) -> None:
    async def story(w: World) -> None:
        data = bytes(range(256)) * 40_000  # 10 MB: more than two lists
        image = await w.active(data)
        shown = (await w.member.get(f"/v2/images/{image}")).json
        assert (shown["status"], shown["size"], shown["virtual_size"]) == ("active", len(data), len(data))
        assert shown["checksum"] == md5(data)
        assert (shown["os_hash_algo"], shown["os_hash_value"]) == ("sha512", hashlib.sha512(data).hexdigest())
        reply = await w.member.get(f"/v2/images/{image}/file")
        assert (reply.status, reply.body == data) == (200, True)
        assert (reply.headers["content-md5"], reply.headers["content-length"]) == (md5(data), str(len(data)))
        assert (w.state / "images" / image).read_bytes() == data
        assert (w.state / "images" / image).stat().st_mode & 0o077 == 0

    run(story)


def test_an_empty_image_is_an_image(run: Run) -> None:
    async def story(w: World) -> None:
        image = await w.active(b"")
        reply = await w.member.get(f"/v2/images/{image}/file")
        assert (reply.status, reply.body) == (200, b"")
        assert (await w.member.get(f"/v2/images/{image}/file", headers={"range": "bytes=0-"})).status == 416

    run(story)


@pytest.mark.parametrize(
    ("header", "status", "expected"),
    [
        ("bytes=0-9", 206, b"0123456789"),
        ("bytes=95-", 206, b"56789"),
        ("bytes=95-500", 206, b"56789"),
        ("bytes=-3", 206, b"789"),
        ("bytes=-500", 206, b"0123456789" * 10),
        ("bytes=100-", 416, b""),
        ("bytes=9-5", 416, b""),
        ("bytes=-0", 416, b""),
        ("bytes=0-1,5-6", 416, b""),
        ("bytes=a-b", 416, b""),
        ("bytes=-", 416, b""),
    ],
)
def test_ranges(run: Run, header: str, status: int, expected: bytes) -> None:
    async def story(w: World) -> None:
        image = await w.active(b"0123456789" * 10)
        reply = await w.member.get(f"/v2/images/{image}/file", headers={"range": header})
        assert reply.status == status
        if status == 206:
            assert reply.body == expected
            assert reply.headers["content-range"].endswith("/100")

    run(story)


def test_row_1_2_3_images_that_point_elsewhere_are_refused(run: Run) -> None:
    async def story(w: World) -> None:
        evil = {
            "backing file": qcow2(backing=b"/etc/passwd"),
            "json backing": qcow2(backing=b'json:{"driver":"file","filename":"/etc/shadow"}'),
            "data file": qcow2(incompatible=4),
        }
        for what, data in evil.items():
            for declared in ("qcow2", "raw", "vmdk"):
                image = await w.image(disk_format=declared)
                reply = await w.upload(image, data)
                assert reply.status == 415, (what, declared, reply)
                assert "/etc" not in reply.json["message"]
                assert await w.status(image) == "queued"
                assert (await w.member.get(f"/v2/images/{image}/file")).status == 204
        assert await w.names_stored() == []

    run(story)


def test_row_3_unsafe_content_is_refused_even_when_formats_need_not_match(run: Run) -> None:
    async def story(w: World) -> None:
        lax = await w.image(disk_format="vmdk")
        assert (await w.upload(lax, b"anything")).status == 204
        for declared, data in (("raw", qcow2()), ("qcow2", qcow2(backing=b"/x")), ("raw", qcow2(incompatible=4))):
            assert (await w.upload(await w.image(disk_format=declared), data)).status == 415

    run(story, image_format__require_image_format_match=False)


def test_row_4_vmdk_extents_are_refused(run: Run) -> None:
    async def story(w: World) -> None:
        text = b'# Disk DescriptorFile\nversion=1\ncreateType="monolithicFlat"\nRW 2048 FLAT "/etc/passwd" 0\n'
        for declared in ("vmdk", "raw"):
            assert (await w.upload(await w.image(disk_format=declared), text.ljust(4096, b"\0"))).status == 415
        assert await w.names_stored() == []

    run(story)


def test_row_10_tables_that_exhaust_their_reader_are_refused(run: Run) -> None:
    async def story(w: World) -> None:
        for at, value in ((36, 1 << 30), (56, 1 << 20), (60, 1 << 16)):  # entries of L1, clusters of reference counts, snapshots
            bomb = bytearray(qcow2())
            bomb[at : at + 4] = value.to_bytes(4, "big")
            assert (await w.upload(await w.image(disk_format="qcow2"), bytes(bomb))).status == 415
        assert await w.names_stored() == []

    run(story)


def test_row_23_uploads_and_deletes_that_race_leave_no_byte_and_no_quota(run: Run) -> None:
    async def story(w: World) -> None:
        for _ in range(25):
            made = [await w.image() for _ in range(8)]
            uploads = [w.upload(image, b"x" * 100_000) for image in made]
            deletes = [w.member.delete(f"/v2/images/{image}") for image in made]
            replies = await asyncio.gather(*(each for pair in zip(uploads, deletes, strict=True) for each in pair))
            assert {r.status for r in replies[1::2]} == {204}
            assert {r.status for r in replies[::2]} <= {204, 404, 410}
        assert await w.names_stored() == []
        assert await images.used_bytes(w.db, "p1") == 0
        assert (await w.upload(await w.image(), b"x" * 1_000_000)).status == 204

    run(story, DEFAULT__user_storage_quota="1000000")


def test_row_11_a_disk_of_exabytes_is_refused(run: Run) -> None:
    async def story(w: World) -> None:
        image = await w.image(disk_format="qcow2")
        bomb = bytearray(qcow2())
        bomb[24:32] = (1 << 62).to_bytes(8, "big")
        assert (await w.upload(image, bytes(bomb))).status == 415
        assert (await w.upload(image, qcow2(8 << 30))).status == 204
        assert (await w.member.get(f"/v2/images/{image}")).json["virtual_size"] == 8 << 30

    run(story)


def test_the_declared_format_must_be_the_real_one(run: Run) -> None:
    async def story(w: World) -> None:
        image = await w.image(disk_format="qcow2")
        reply = await w.upload(image, b"x" * 5000)
        assert (reply.status, "Image disk_format qcow2 does not match stream data raw" in reply.json["message"]) == (415, True)
        shown = (await w.member.get(f"/v2/images/{image}")).json
        assert (shown["status"], shown["size"], shown["checksum"]) == ("queued", None, None)
        assert (await w.patch(image, ("replace", "/disk_format", "raw"))).status == 200
        assert (await w.upload(image, b"x" * 5000)).status == 204

    run(story)


def test_announced_sizes_content_types_and_limits(run: Run) -> None:
    async def story(w: World) -> None:
        image = await w.image()
        for size, status in (("99", 400), ("-1", 400), ("x", 400)):
            assert (await w.upload(image, b"x" * 100, x_openstack_image_size=size)).status == status
        assert (await w.upload(image, b"x" * 1001)).status == 413
        assert (await w.member.put(f"/v2/images/{image}/file", raw=b"x", headers={"content-type": "text/plain"})).status == 415
        assert (await w.upload(image, b"x", x_image_meta_store="nope")).status == 409
        assert await w.status(image) == "queued"
        assert await w.names_stored() == []
        assert (await w.upload(image, b"x" * 100, x_openstack_image_size="100")).status == 204
        bare = (await w.member.post("/v2/images", {"name": "n"})).json["id"]
        reply = await w.upload(bare, b"x")
        assert (reply.status, "disk_format, container_format" in reply.json["message"]) == (400, True)

    run(story, DEFAULT__image_size_cap=1000)


def test_row_23_the_storage_quota_is_exact(run: Run) -> None:
    async def story(w: World) -> None:
        first = await w.active(b"x" * 600)
        second = await w.image()
        assert (await w.upload(second, b"x" * 401)).status == 413
        assert (await w.upload(await w.image(w.other), b"x" * 1000, w.other)).status == 204
        images = [await w.image() for _ in range(4)]
        statuses = await asyncio.gather(*(w.upload(image, b"x" * 150) for image in images))
        assert sorted(reply.status for reply in statuses) == [204, 204, 413, 413]
        assert (await w.member.delete(f"/v2/images/{first}")).status == 204
        assert (await w.upload(second, b"x" * 700)).status == 204
        assert (await w.upload(await w.image(), b"x")).status == 413

    run(story, DEFAULT__user_storage_quota="1000")


def test_one_of_many_uploads_wins(run: Run) -> None:
    async def story(w: World) -> None:
        image = await w.image()
        replies = await asyncio.gather(*(w.upload(image, bytes([i]) * 100_000) for i in range(5)))
        assert sorted(r.status for r in replies) == [204, 409, 409, 409, 409]
        winner = [r.status for r in replies].index(204)
        assert (await w.member.get(f"/v2/images/{image}/file")).body == bytes([winner]) * 100_000
        assert await w.names_stored() == [image]

    run(story)


async def broken_stream(data: bytes, error: BaseException) -> AsyncIterator[bytes]:
    yield data
    raise error


def test_a_client_that_goes_away_leaves_nothing(run: Run) -> None:
    async def story(w: World) -> None:
        image_id = await w.image()
        image = await images.get(w.db, image_id)
        assert image is not None
        with pytest.raises(Disconnected):
            await w.service.receive("upload", image, broken_stream(b"x" * (9 << 20), Disconnected()))
        assert await w.status(image_id) == "queued"
        assert await w.names_stored() == []
        assert (await w.upload(image_id, b"again")).status == 204

    run(story)


def test_a_cancelled_upload_leaves_nothing(run: Run) -> None:
    async def story(w: World) -> None:
        image_id = await w.image()
        image = await images.get(w.db, image_id)
        assert image is not None
        waiting = asyncio.Event()

        async def slow() -> AsyncIterator[bytes]:
            yield b"x" * (9 << 20)
            waiting.set()
            await asyncio.Event().wait()

        task = asyncio.ensure_future(w.service.receive("upload", image, slow()))
        await waiting.wait()
        assert await w.status(image_id) == "saving"
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await w.status(image_id) == "queued"
        assert await w.names_stored() == []

    run(story)


@pytest.mark.parametrize("done", [True, False])
def test_who_is_cancelled_at_the_commit_keeps_the_bytes_if_it_was_done(run: Run, monkeypatch: pytest.MonkeyPatch, done: bool) -> None:
    async def story(w: World) -> None:
        image_id = await w.image()
        image = await images.get(w.db, image_id)
        assert image is not None
        transact, landing = w.db.transact, asyncio.Event()

        async def unheard(body: Callable[[Transaction], Awaitable[bool]]) -> bool:
            result = await transact(body) if done or "_land" not in body.__qualname__ else False
            if "_land" in body.__qualname__:
                landing.set()
                await asyncio.Event().wait()
            return result

        async def data() -> AsyncIterator[bytes]:
            yield b"x" * 100

        monkeypatch.setattr(w.db, "transact", unheard)
        task = asyncio.ensure_future(w.service.receive("upload", image, data()))
        await landing.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        monkeypatch.undo()
        await w.service.uploads.mend()
        assert await w.status(image_id) == ("active" if done else "queued")
        assert len(await w.names_stored()) == int(done)

    run(story)


def test_row_23_delete_during_upload_leaves_nothing(run: Run) -> None:
    """At every piece of the stream, and after the last one."""

    async def story(w: World) -> None:
        for at in range(6):
            image_id = await w.image()
            image = await images.get(w.db, image_id)
            assert image is not None

            async def pieces(image_id: str = image_id, at: int = at) -> AsyncIterator[bytes]:
                for i in range(5):
                    if i == at:
                        assert (await w.member.delete(f"/v2/images/{image_id}")).status == 204
                    yield b"x" * (3 << 20)
                if at == 5:
                    assert (await w.member.delete(f"/v2/images/{image_id}")).status == 204

            with pytest.raises(Exception, match="may have been deleted"):
                await w.service.receive("upload", image, pieces())
            assert await w.names_stored() == []
            assert (await w.member.get(f"/v2/images/{image_id}")).status == 404

    run(story)


def test_a_full_store_says_so_and_leaves_nothing(tmp_path: Path) -> None:
    async def main() -> None:
        w = await World(tmp_path, store=MemoryStore(capacity=1000)).start()
        image = await w.image()
        reply = await w.upload(image, b"x" * 2000)
        assert (reply.status, "not enough space" in reply.json["message"]) == (503, True)
        assert await w.status(image) == "queued"
        assert await w.names_stored() == []
        assert (await w.upload(image, b"x" * 900)).status == 204
        await w.stop()

    asyncio.run(main())


def test_missing_or_short_bytes_are_noticed_before_they_are_sent(run: Run) -> None:
    async def story(w: World) -> None:
        image = await w.active(b"x" * 100)
        path = w.state / "images" / image
        path.write_bytes(b"x" * 99)
        assert (await w.member.get(f"/v2/images/{image}/file")).status == 503
        path.unlink()
        assert (await w.member.get(f"/v2/images/{image}/file")).status == 503

    run(story)


def test_row_22_deactivated_images_and_foreign_readers_get_no_bytes(run: Run) -> None:
    async def story(w: World) -> None:
        image = await w.active(b"secret")
        assert (await w.reader.get(f"/v2/images/{image}/file")).status == 403
        assert (await w.other.get(f"/v2/images/{image}/file")).status == 404
        for _ in range(2):
            assert (await w.member.post(f"/v2/images/{image}/actions/deactivate")).status == 204
        assert (await w.member.get(f"/v2/images/{image}/file")).status == 403
        assert (await w.admin.get(f"/v2/images/{image}/file")).body == b"secret"
        assert (await w.member.post(f"/v2/images/{image}/actions/reactivate")).status == 204
        assert (await w.member.get(f"/v2/images/{image}/file")).body == b"secret"
        assert (await w.member.post(f"/v2/images/{await w.image()}/actions/reactivate")).status == 403

    run(story)


def test_stage_and_import(run: Run) -> None:
    async def story(w: World) -> None:
        image = await w.image()
        body = {"method": {"name": "glance-direct"}}
        assert (await w.member.post(f"/v2/images/{image}/import", body)).status == 409
        assert (await w.member.put(f"/v2/images/{image}/stage", raw=b"staged", headers=OCTETS)).status == 204
        shown = (await w.member.get(f"/v2/images/{image}")).json
        assert (shown["status"], shown["size"], shown["checksum"]) == ("uploading", 6, None)
        assert (await w.member.get(f"/v2/images/{image}/file")).status == 204
        assert (await w.upload(image, b"x")).status == 409
        assert await w.names_stored() == [f"{image}.staged"]
        assert (await w.other.post(f"/v2/images/{image}/import", body)).status == 404
        assert (
            await w.member.post(f"/v2/images/{image}/import", {"method": {"name": "web-download", "uri": "http://127.0.0.1/"}})
        ).status == 400
        assert (await w.member.post(f"/v2/images/{image}/import", body)).status == 202
        shown = (await w.member.get(f"/v2/images/{image}")).json
        assert (shown["status"], shown["checksum"]) == ("active", md5(b"staged"))
        assert (await w.member.get(f"/v2/images/{image}/file")).body == b"staged"
        assert [t["status"] for t in (await w.member.get(f"/v2/images/{image}/tasks")).json["tasks"]] == ["success"]
        assert (await w.member.delete(f"/v2/images/{image}")).status == 204
        assert await w.names_stored() == []

    run(story)


def test_an_import_checks_the_format_that_was_declared_meanwhile(run: Run) -> None:
    async def story(w: World) -> None:
        image = (await w.member.post("/v2/images", {"name": "n", "container_format": "bare"})).json["id"]
        assert (await w.member.put(f"/v2/images/{image}/stage", raw=qcow2(), headers=OCTETS)).status == 204
        body = {"method": {"name": "glance-direct"}}
        assert (await w.member.post(f"/v2/images/{image}/import", body)).status == 409
        evil = (await w.member.post("/v2/images", {"name": "n", "container_format": "bare"})).json["id"]
        assert (await w.member.put(f"/v2/images/{evil}/stage", raw=qcow2(backing=b"/x"), headers=OCTETS)).status == 415
        assert (await w.member.delete(f"/v2/images/{image}")).status == 204
        assert await w.names_stored() == []

    run(story)


# ---- crashes


async def begun(w: World, verb: str) -> tuple[str, Callable[[], Awaitable[Response]]]:
    """An image, and the request that does the verb to it."""
    image = await w.image()
    if verb == "import":
        await w.member.put(f"/v2/images/{image}/stage", raw=DATA, headers=OCTETS)
        return image, lambda: w.member.post(f"/v2/images/{image}/import", {"method": {"name": "glance-direct"}})
    path = f"/v2/images/{image}/{'file' if verb == 'upload' else 'stage'}"
    return image, lambda: w.member.put(path, raw=DATA, headers=OCTETS)


async def live_and_die(state: Path, verb: str, number: int) -> int:
    """Die at the number-th point of the verb; how many there were, when it got through."""
    w = await World(state).start()
    image, request = await begun(w, verb)
    (state / "image").write_text(image)
    passed = 0

    def point(name: str) -> None:
        nonlocal passed
        passed += 1
        if passed == number:
            os._exit(0)

    w.runtime.point = point  # type: ignore[method-assign]
    assert (await request()).status in (202, 204)
    return passed


def child(state: Path, verb: str, number: int) -> int:
    """The number of points, 0 when the process died at the one it was to die at, 255 when it failed otherwise."""
    pid = os.fork()
    if pid == 0:
        status = 255
        try:
            status = asyncio.run(live_and_die(state, verb, number))
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


@pytest.mark.parametrize("verb", ["upload", "stage", "import"])
def test_a_process_that_dies_anywhere_leaves_row_and_store_in_agreement(tmp_path: Path, verb: str) -> None:
    """A real process ends at each point in turn; a new one starts on the same state."""

    async def check(state: Path) -> str:
        image = (state / "image").read_text()
        w = await World(state).start()
        shown = (await w.member.get(f"/v2/images/{image}")).json
        stored, status = await w.names_stored(), str(shown["status"])
        if status == "active":
            assert stored == [image]
            assert (await w.member.get(f"/v2/images/{image}/file")).body == DATA
        elif status == "uploading":
            assert stored == [f"{image}.staged"]
            reply = await w.member.post(f"/v2/images/{image}/import", {"method": {"name": "glance-direct"}})
            assert (reply.status, await w.status(image)) == (202, "active")
        else:
            assert (status, shown["size"], stored) == ("queued", None, [])
            assert (await w.upload(image, b"anew")).status == 204
        assert (await w.member.delete(f"/v2/images/{image}")).status == 204
        assert await w.names_stored() == []
        await w.stop()
        return status

    total = child(_folder(tmp_path, "whole"), verb, -1)
    assert 4 <= total < 255
    landed = []
    for number in range(1, total + 1):
        state = _folder(tmp_path, str(number))
        assert child(state, verb, number) == 0
        landed.append(asyncio.run(check(state)))
    assert landed[-1] == {"upload": "active", "stage": "uploading", "import": "active"}[verb]
    assert landed[0] == {"upload": "queued", "stage": "queued", "import": "uploading"}[verb]


def test_a_process_that_dies_at_a_delete_leaves_no_bytes(tmp_path: Path) -> None:
    async def life() -> None:
        w = await World(tmp_path).start()
        image = await w.active(DATA)
        (tmp_path / "image").write_text(image)
        w.runtime.point = lambda name: os._exit(0) if name == "committed" else None  # type: ignore[method-assign]
        await w.member.delete(f"/v2/images/{image}")

    async def check() -> None:
        w = await World(tmp_path).start()
        assert (await w.member.get(f"/v2/images/{(tmp_path / 'image').read_text()}")).status == 404
        assert await w.names_stored() == []
        await w.stop()

    pid = os.fork()
    if pid == 0:
        try:
            asyncio.run(life())
        finally:
            os._exit(1)
    assert os.waitpid(pid, 0)[1] == 0
    asyncio.run(check())


def _folder(parent: Path, name: str) -> Path:
    path = parent / name
    path.mkdir()
    return path


def test_the_sweep_takes_only_what_belongs_to_nobody(tmp_path: Path) -> None:
    async def main() -> None:
        w = await World(tmp_path).start()
        kept = await w.active(b"kept")
        queued = await w.image()
        folder = tmp_path / "images"
        for name in (queued, f".{kept}.abc.part", f"{kept}.staged", "00000000-0000-4000-8000-000000000000"):
            (folder / name).write_bytes(b"orphan")
        await w.stop()
        w = await World(tmp_path).start()
        assert await w.names_stored() == [kept]
        assert (await w.member.get(f"/v2/images/{kept}/file")).body == b"kept"
        await w.stop()

    asyncio.run(main())
