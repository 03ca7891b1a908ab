"""Images in memory: for simulations and tests. A copy of `disk` made at any moment is what a crash would leave."""

from collections.abc import Sequence
from typing import Any

from kilonova.image.drivers import IMAGE, STAGED, Entry, Full, Missing


class MemoryStore:
    kind = "memory"

    def __init__(self, datadir: str = "", *, capacity: int = 1 << 62) -> None:
        self.disk: dict[str, bytearray] = {}
        self.capacity = capacity
        self._count = 0

    def describe(self) -> dict[str, Any]:
        return {"capacity": self.capacity}

    async def writer(self, image_id: str, kind: str = IMAGE) -> "MemoryWriter":
        self._count += 1
        return MemoryWriter(self, _name(image_id, kind), f".{image_id}.{self._count}.part")

    async def open(self, image_id: str) -> "MemoryOpened":
        try:
            return MemoryOpened(self.disk[image_id])
        except KeyError:
            raise Missing(image_id) from None

    async def promote(self, image_id: str) -> None:
        staged = self.disk.pop(_name(image_id, STAGED), None)
        if staged is not None:
            self.disk[image_id] = staged
        elif image_id not in self.disk:
            raise Missing(image_id)

    async def delete(self, image_id: str, kind: str = "") -> None:
        for each in (kind,) if kind else (IMAGE, STAGED):
            self.disk.pop(_name(image_id, each), None)

    async def entries(self) -> list[Entry]:
        return sorted(_entry(name) for name in self.disk)

    async def remove(self, entry: Entry) -> None:
        self.disk.pop(entry.name, None)

    def local_path(self, image_id: str) -> str | None:
        return None

    def close(self) -> None:
        self.disk.clear()


def _name(image_id: str, kind: str) -> str:
    return image_id if kind == IMAGE else f"{image_id}.{kind}"


def _entry(name: str) -> Entry:
    if name.startswith("."):
        return Entry(name.split(".")[1], "part", name)
    image_id, _, kind = name.partition(".")
    return Entry(image_id, kind or IMAGE, name)


class MemoryWriter:
    def __init__(self, store: MemoryStore, name: str, part: str) -> None:
        self._store, self._name, self._part = store, name, part
        self._data = store.disk[part] = bytearray()

    async def write(self, pieces: Sequence[bytes]) -> None:
        if sum(map(len, self._store.disk.values())) + sum(map(len, pieces)) > self._store.capacity:
            raise Full
        for piece in pieces:
            self._data += piece

    async def commit(self) -> None:
        if self._part not in self._store.disk:
            raise FileNotFoundError(2, "Somebody has removed it", self._part)  # as a folder would say
        self._store.disk[self._name] = self._store.disk.pop(self._part)

    async def abort(self) -> None:
        self._store.disk.pop(self._part, None)


class MemoryOpened:
    def __init__(self, data: bytearray) -> None:
        self._data = data
        self.size = len(data)

    async def read(self, offset: int, length: int) -> bytes:
        return bytes(self._data[offset : offset + length])

    def close(self) -> None:
        return None
