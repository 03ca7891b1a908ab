"""Two image processes over one database and one folder: uploads are left alone while their leases hold, and taken over after that."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from kilonova.core.log import Log, Sink
from kilonova.core.runtime import Runtime
from kilonova.image.domain.uploads import LEASE_S, RENEW_S
from kilonova.image.drivers import IMAGE
from kilonova.image.drivers.file import FileStore, FileWriter
from kilonova.image.errors import Overtaken, Vanished
from kilonova.image.model import Image
from kilonova.image.service import ImageService
from kilonova.image.store import images
from tests.image.conftest import OCTETS, World

FIRST, SECOND = b"first" * 1000, b"second" * 1000
STEPS = ("make part", "part made", "commit", "committed", "bytes")


class Clock(Runtime):
    """Time goes on as usual, and by leaps."""

    leapt_s = 0.0

    def now(self) -> float:
        return super().now() + self.leapt_s

    def monotonic(self) -> float:
        return super().monotonic() + self.leapt_s


class SleepyStore(FileStore):
    """Whoever comes to the step `at` waits there, once."""

    def __init__(self, folder: str) -> None:
        super().__init__(folder)
        self.at = ""
        self.there, self.go = asyncio.Event(), asyncio.Event()

    async def step(self, name: str) -> None:
        if name == self.at:
            self.at = ""
            self.there.set()
            await self.go.wait()

    async def writer(self, image_id: str, kind: str = IMAGE) -> FileWriter:
        await self.step("make part")
        made = await super().writer(image_id, kind)
        commit = made.commit

        async def slowly() -> None:
            await self.step("commit")
            await commit()
            await self.step("committed")

        made.commit = slowly  # type: ignore[method-assign]
        await self.step("part made")
        return made

    async def promote(self, image_id: str) -> None:
        await self.step("promote")
        await super().promote(image_id)
        await self.step("promoted")


class Two:
    def __init__(self, w: World, store: SleepyStore) -> None:
        self.w, self.store = w, store
        self.clock = Clock()
        w.service.runtime = w.service.uploads.runtime = w.db.runtime = self.clock  # type: ignore[attr-defined]
        self.first = w.service
        self.second = self.process()

    def process(self) -> ImageService:
        w = self.w
        return ImageService(
            db=w.db,
            runtime=self.clock,
            log=Log("second", Sink(w.log)),
            settings=w.service.settings,
            policy=w.policy,
            data=w.store,
            exclusive=False,
        )

    async def image(self) -> Image:
        found = await images.get(self.w.db, await self.w.image())
        assert found is not None
        return found

    async def pieces(self, data: bytes) -> AsyncIterator[bytes]:
        yield data[:100]
        await self.store.step("bytes")
        yield data[100:]

    def upload(self, service: ImageService, image: Image, data: bytes, verb: str = "upload") -> "asyncio.Task[None]":
        return asyncio.ensure_future(service.receive(verb, image, self.pieces(data)))

    async def asleep(self, image: Image, step: str) -> "asyncio.Task[None]":
        """An upload of the first process that stands still at a step."""
        self.store.at = step
        task = self.upload(self.first, image, FIRST)
        await self.store.there.wait()
        return task

    async def bytes_of(self, image: Image) -> bytes:
        return bytes((await self.w.member.get(f"/v2/images/{image.id}/file")).body)


Story = Callable[[Two], Awaitable[None]]


def run(folder: Path, story: Story) -> None:
    async def main() -> None:
        store = SleepyStore(str(folder / "images"))
        w = World(folder, store=store, exclusive=False)
        await w.db.create(w.service.metadata)
        two = Two(w, store)
        try:
            await story(two)
        finally:
            await two.second.tasks.stop()
            await w.stop()
            two.clock.close()

    asyncio.run(main())


@pytest.mark.parametrize("step", STEPS)
def test_another_process_that_starts_leaves_alone_what_is_under_way(tmp_path: Path, step: str) -> None:
    async def story(t: Two) -> None:
        image = await t.image()
        task = await t.asleep(image, step)
        stored = await t.w.names_stored()
        t.clock.leapt_s += LEASE_S - 1
        await t.second.start()
        assert (await t.w.status(image.id), await t.w.names_stored()) == ("saving", stored)
        t.store.go.set()
        await task
        assert (await t.w.status(image.id), await t.bytes_of(image)) == ("active", FIRST)
        assert await t.w.names_stored() == [image.id]

    run(tmp_path, story)


def test_a_long_upload_keeps_its_lease(tmp_path: Path) -> None:
    async def story(t: Two) -> None:
        image = await t.image()
        task = await t.asleep(image, "bytes")
        for _ in range(20):
            t.clock.leapt_s += RENEW_S
            await t.first.uploads.renew()
            await t.second.uploads.mend()
        t.store.go.set()
        await task
        assert await t.bytes_of(image) == FIRST

    run(tmp_path, story)


@pytest.mark.parametrize("again", [True, False])
@pytest.mark.parametrize("step", STEPS)
def test_an_uploader_that_overslept_its_lease_does_no_harm(tmp_path: Path, step: str, again: bool) -> None:
    """The other process takes the image back, and perhaps has uploaded to it when the first one wakes up."""

    async def story(t: Two) -> None:
        image = await t.image()
        task = await t.asleep(image, step)
        t.clock.leapt_s += LEASE_S + 1
        await t.second.uploads.mend()
        assert (await t.w.status(image.id), await t.w.names_stored()) == ("queued", [])
        if again:
            await t.upload(t.second, image, SECOND)
        t.store.go.set()
        with pytest.raises(Overtaken):
            await task
        await t.first.uploads.mend()
        if again:
            assert (await t.w.status(image.id), await t.bytes_of(image)) == ("active", SECOND)
        else:
            assert await t.w.status(image.id) == "queued"
        assert await t.w.names_stored() == [image.id] * again

    run(tmp_path, story)


def test_an_uploader_that_overslept_and_whom_nobody_missed_goes_on(tmp_path: Path) -> None:
    async def story(t: Two) -> None:
        image = await t.image()
        task = await t.asleep(image, "bytes")
        t.clock.leapt_s += 10 * LEASE_S
        t.store.go.set()
        await task
        assert await t.bytes_of(image) == FIRST

    run(tmp_path, story)


@pytest.mark.parametrize("step", STEPS)
def test_an_image_that_another_process_deletes_leaves_no_bytes(tmp_path: Path, step: str) -> None:
    async def story(t: Two) -> None:
        image = await t.image()
        task = await t.asleep(image, step)
        assert await t.w.db.transact(lambda tx: images.delete(tx, image.id, 0))
        await t.second.uploads.deleted(image.id)
        await t.first.uploads.renew()
        t.store.go.set()
        with pytest.raises(Vanished):
            await task
        assert await t.w.names_stored() == []

    run(tmp_path, story)


@pytest.mark.parametrize("step", ["promote", "promoted"])
def test_an_importer_that_overslept_finds_it_done(tmp_path: Path, step: str) -> None:
    async def story(t: Two) -> None:
        image = await t.image()
        await t.upload(t.first, image, FIRST, "stage")
        staged = await images.get(t.w.db, image.id)
        assert staged is not None
        t.store.at = step
        task = asyncio.ensure_future(t.first.uploads.promote(staged))
        await t.store.there.wait()
        await t.second.uploads.mend()
        assert await t.w.status(image.id) == "importing"
        t.clock.leapt_s += LEASE_S + 1
        await t.second.uploads.mend()
        assert (await t.w.status(image.id), await t.bytes_of(image)) == ("active", FIRST)
        t.store.go.set()
        with pytest.raises(Overtaken):
            await task
        assert (await t.bytes_of(image), await t.w.names_stored()) == (FIRST, [image.id])

    run(tmp_path, story)


def test_what_a_process_lost_itself_it_takes_back_at_once(tmp_path: Path) -> None:
    async def story(t: Two) -> None:
        image = await t.image()
        task = await t.asleep(image, "bytes")
        task.cancel()
        t.store.delete = _broken  # type: ignore[method-assign]
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await t.w.status(image.id) == "saving"
        del t.store.delete
        await t.second.uploads.mend()
        assert await t.w.status(image.id) == "saving"
        await t.first.uploads.mend()
        assert await t.w.status(image.id) == "queued"

    run(tmp_path, story)


async def _broken(image_id: str, kind: str = "") -> None:
    raise OSError(5, "Input/output error")


def test_an_upload_of_a_release_without_leases_has_a_day(tmp_path: Path) -> None:
    async def story(t: Two) -> None:
        image = await t.image()
        now = t.clock.now_us()
        assert await t.w.db.transact(lambda tx: images.begin(tx, "upload", image.id, "old", 0, now))
        t.clock.leapt_s += 3600
        await t.second.uploads.mend()
        assert await t.w.status(image.id) == "saving"
        t.clock.leapt_s += 86400
        await t.second.uploads.mend()
        assert await t.w.status(image.id) == "queued"

    run(tmp_path, story)


def test_the_sweep_takes_leftovers_and_nothing_else(tmp_path: Path) -> None:
    async def story(t: Two) -> None:
        active, queued, staged, busy = [await t.image() for _ in range(4)]
        await t.upload(t.first, active, FIRST)
        assert (await t.w.member.put(f"/v2/images/{staged.id}/stage", raw=FIRST, headers=OCTETS)).status == 204
        task = await t.asleep(busy, "bytes")
        kept = await t.w.names_stored()
        for name in (queued.id, f".{queued.id}.x.part", f"{queued.id}.staged", f".{active.id}.x.part", f"{active.id}.staged", staged.id):
            (tmp_path / "images" / name).write_bytes(b"left")
        (tmp_path / "images" / "00000000-0000-4000-8000-000000000000").write_bytes(b"left")
        t.second.uploads.doubt()
        await t.second.uploads.mend()
        assert await t.w.names_stored() == kept
        t.store.go.set()
        await task
        await t.upload(t.second, queued, SECOND)
        body = {"method": {"name": "glance-direct"}}
        assert (await t.w.member.post(f"/v2/images/{staged.id}/import", body)).status == 202
        assert [await t.bytes_of(i) for i in (active, queued, staged, busy)] == [FIRST, SECOND, FIRST, FIRST]

    run(tmp_path, story)


def test_a_part_of_a_dead_process_goes_though_its_image_was_deleted_within_the_lease(tmp_path: Path) -> None:
    async def story(t: Two) -> None:
        image = await t.image()
        now = t.clock.now_us()
        assert await t.w.db.transact(lambda tx: images.begin(tx, "upload", image.id, "dead", now + 30_000_000, now))
        (tmp_path / "images" / f".{image.id}.x.part").write_bytes(b"left")
        await t.second.start()
        assert len(await t.w.names_stored()) == 1
        assert (await t.w.member.delete(f"/v2/images/{image.id}")).status == 204
        await t.second.uploads.mend()
        assert await t.w.names_stored() == []

    run(tmp_path, story)
