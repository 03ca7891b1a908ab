"""The same suite over every store."""

import asyncio
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from kilonova.image.drivers import IMAGE, STAGED, Entry, Full, Missing, Store, load

ID, OTHER = "11111111-1111-4111-8111-111111111111", "22222222-2222-4222-8222-222222222222"


@pytest.fixture(params=["file", "memory"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    return load(request.param, str(tmp_path / "images"))


async def put(store: Store, image_id: str, data: bytes, kind: str = IMAGE) -> None:
    writer = await store.writer(image_id, kind)
    await writer.write([data[i : i + 1000] for i in range(0, len(data), 1000)])
    await writer.commit()
    await writer.abort()


async def get(store: Store, image_id: str) -> bytes:
    opened = await store.open(image_id)
    out = b""
    while piece := await opened.read(len(out), 700):
        assert len(piece) <= 700
        out += piece
    assert opened.size == len(out)
    opened.close()
    opened.close()
    return out


def test_bytes_appear_at_the_commit_and_stay_for_readers(store: Store) -> None:
    async def main() -> None:
        data = os.urandom(300_000)
        writer = await store.writer(ID)
        await writer.write([data])
        with pytest.raises(Missing):
            await store.open(ID)
        assert [(e.image_id, e.kind) for e in await store.entries()] == [(ID, "part")]
        await writer.commit()
        assert await get(store, ID) == data
        opened = await store.open(ID)
        await store.delete(ID)
        await store.delete(ID)
        assert await opened.read(299_999, 10) == data[-1:]
        opened.close()
        with pytest.raises(Missing):
            await store.open(ID)
        assert await store.entries() == []
        store.close()

    asyncio.run(main())


def test_an_aborted_writer_leaves_nothing_and_writes_no_more(store: Store) -> None:
    async def main() -> None:
        writer = await store.writer(ID)
        await writer.write([b"x" * 100])
        await writer.abort()
        await writer.abort()
        assert await store.entries() == []
        store.close()

    asyncio.run(main())


def test_staged_bytes_are_promoted_once(store: Store) -> None:
    async def main() -> None:
        await put(store, ID, b"staged", STAGED)
        await put(store, OTHER, b"other")
        with pytest.raises(Missing):
            await store.open(ID)
        assert await store.entries() == sorted([Entry(ID, STAGED, f"{ID}.staged"), Entry(OTHER, IMAGE, OTHER)])
        await store.promote(ID)
        await store.promote(ID)
        assert await get(store, ID) == b"staged"
        await store.delete(ID, STAGED)
        assert await get(store, ID) == b"staged"
        for entry in await store.entries():
            await store.remove(entry)
        with pytest.raises(Missing):
            await store.promote(ID)
        store.close()

    asyncio.run(main())


@pytest.mark.parametrize("name", ["../escape", "a/b", "", ".hidden"])
def test_a_file_store_stays_in_its_folder(tmp_path: Path, name: str) -> None:
    async def main() -> None:
        store = load("file", str(tmp_path / "images"))
        for call in (store.writer, store.open):
            with pytest.raises(Missing):
                await call(name)
        assert list(tmp_path.iterdir()) == [tmp_path / "images"]
        store.close()

    asyncio.run(main())


def test_a_full_disk_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*arguments: object) -> int:
        raise OSError(28, "No space left on device")

    async def main() -> None:
        store = load("file", str(tmp_path / "images"))
        writer = await store.writer(ID)
        monkeypatch.setattr(os, "writev", full)
        with pytest.raises(Full):
            await writer.write([b"x"])
        await writer.abort()
        assert await store.entries() == []
        store.close()

    asyncio.run(main())


def test_short_writes_are_completed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def short(descriptor: int, pieces: list[bytes]) -> int:
        return os.write(descriptor, pieces[0][:10])

    async def main() -> None:
        store = load("file", str(tmp_path / "images"))
        monkeypatch.setattr(os, "writev", short)
        data = os.urandom(5000)
        await put(store, ID, data)
        assert await get(store, ID) == data
        store.close()

    asyncio.run(main())


def test_reads_go_on_where_the_page_cache_is_not_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a cold file, and on a file system that knows no RWF_NOWAIT."""

    async def main(error: Callable[..., int]) -> None:
        store = load("file", str(tmp_path / "images"))
        data = os.urandom(5000)
        await put(store, ID, data)
        monkeypatch.setattr(os, "preadv", error)
        assert await get(store, ID) == data
        store.close()

    def cold(*arguments: object) -> int:
        raise BlockingIOError(11, "again")

    def unknown(*arguments: object) -> int:
        raise OSError(95, "not supported")

    asyncio.run(main(cold))
    asyncio.run(main(unknown))
