"""What other services get: the same rights as over REST."""

import asyncio
from collections.abc import Callable

import pytest

from kilonova.core.context import service_context
from kilonova.core.errors import Forbidden, NotFound
from kilonova.image.contract import ImageFilters, Images, NewImage
from kilonova.testing.tokens import context
from tests.image.conftest import World, md5, qcow2

Run = Callable[..., None]
OWNER, STRANGER, READER = context("member", "p1"), context("member", "p2"), context("reader", "p1")


def test_a_snapshot_from_create_to_delete(run: Run) -> None:
    async def story(w: World) -> None:
        images: Images = w.service
        new = NewImage(
            name="snap", disk_format="qcow2", container_format="bare", visibility="private", properties={"image_type": "snapshot"}
        )
        image = await images.create(OWNER, new)
        path = w.state / "disk"
        path.write_bytes(qcow2())
        assert await images.local_path(OWNER, image) is None
        info = await images.write(OWNER, image, str(path))
        assert (info.status, info.size, info.virtual_size, info.checksum) == ("active", 1 << 18, 1 << 30, md5(path.read_bytes()))
        assert info.properties == {"image_type": "snapshot"}
        where = await images.local_path(OWNER, image)
        assert where is not None
        with open(where, "rb") as file:
            assert file.read() == path.read_bytes()
        assert await images.read(OWNER, image, 0, 4) == b"QFI\xfb"
        assert await images.read(OWNER, image, 1 << 18, 10) == b""
        changed = await images.update(OWNER, image, {"a": "b"}, remove=("image_type",), min_disk=5)
        assert (changed.properties, changed.min_disk) == ({"a": "b"}, 5)
        await images.delete(OWNER, image)
        with pytest.raises(NotFound):
            await images.get(OWNER, image)

    run(story)


def test_rights_are_those_of_the_caller(run: Run) -> None:
    async def story(w: World) -> None:
        images: Images = w.service
        image = await w.active(b"x", visibility="private")
        for call in (
            lambda: images.get(STRANGER, image),
            lambda: images.read(STRANGER, image, 0, 1),
            lambda: images.local_path(STRANGER, image),
            lambda: images.delete(STRANGER, image),
            lambda: images.update(STRANGER, image, {}),
        ):
            with pytest.raises(NotFound):
                await call()
        assert (await images.get(READER, image)).id == image
        for call in (
            lambda: images.read(READER, image, 0, 1),
            lambda: images.local_path(READER, image),
            lambda: images.delete(READER, image),
            lambda: images.create(READER, NewImage(name="x")),
            lambda: images.create(OWNER, NewImage(name="x", visibility="public")),
            lambda: images.create(OWNER, NewImage(name="x", owner="p2")),
            lambda: images.update(OWNER, image, {}, visibility="public"),
        ):
            with pytest.raises(Forbidden):
                await call()
        assert await images.read(service_context("compute"), image, 0, 9) == b"x"

    run(story)


def test_lists(run: Run) -> None:
    async def story(w: World) -> None:
        images: Images = w.service
        await w.active(name="a", min_ram=5, kind="x")
        await w.image(name="b")
        await w.image(w.other, name="c", visibility="private")

        async def listed(**filters: object) -> list[str]:
            return sorted(str(i.name) for i in await images.list(OWNER, ImageFilters(**filters)))  # type: ignore[arg-type]

        assert await listed() == ["a", "b"]
        assert await listed(name="a") == ["a"]
        assert await listed(status=("queued", "saving")) == ["b"]
        assert await listed(properties=(("kind", "x"),)) == ["a"]
        assert await listed(changed_since=w.runtime.now_us() + 2_000_000) == []
        assert await listed(limit=0) == []
        assert len(await images.list(OWNER, ImageFilters(limit=1))) == 1

    run(story)


def test_changes_at_the_same_time_are_all_kept(run: Run) -> None:
    async def story(w: World) -> None:
        image = await w.image()
        replies = await asyncio.gather(*(w.member.put(f"/v2/images/{image}/tags/t{i}") for i in range(20)))
        assert {r.status for r in replies} == {204}
        assert sorted((await w.member.get(f"/v2/images/{image}")).json["tags"]) == sorted(f"t{i}" for i in range(20))

    run(story)
