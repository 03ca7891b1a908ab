"""Where images' bytes lie. Every store keeps two kinds of bytes for an image: the image itself, and bytes staged for an import.

Bytes become visible under an id in one step (`Writer.commit`), and only complete; what an interrupted writer leaves behind is
listed by `leftovers` and never read.
"""

from collections.abc import Sequence
from typing import Any, Protocol

import msgspec

from kilonova.core import plugins

IMAGE, STAGED = "image", "staged"
BUILTIN = {"file": "kilonova.image.drivers.file:FileStore", "memory": "kilonova.image.drivers.memory:MemoryStore"}


class Missing(Exception):
    """The store holds no such bytes."""


class Full(Exception):
    """The store has no space left."""


class Entry(msgspec.Struct, frozen=True, order=True):
    """Something in the store: an image's bytes, staged bytes, or (kind "part") what a dead writer left."""

    image_id: str
    kind: str
    name: str


class Writer(Protocol):
    async def write(self, pieces: Sequence[bytes]) -> None:
        """Append. Raises Full."""
        ...

    async def commit(self) -> None:
        """The bytes are durable and stand under their id when this returns. Raises Full."""
        ...

    async def abort(self) -> None:
        """Leave nothing behind. After a commit it does nothing."""
        ...


class Opened(Protocol):
    """Bytes being read; they stay readable until `close`, even when the image is deleted meanwhile."""

    size: int

    async def read(self, offset: int, length: int) -> bytes | bytearray:
        """At least one byte, at most `length`; empty only at the end."""
        ...

    def close(self) -> None: ...


class Store(Protocol):
    kind: str

    def describe(self) -> dict[str, Any]:
        """What operators may know of it."""
        ...

    async def writer(self, image_id: str, kind: str = IMAGE) -> Writer: ...

    async def open(self, image_id: str) -> Opened:
        """Raises Missing."""
        ...

    async def promote(self, image_id: str) -> None:
        """Staged bytes become the image's. Does nothing when they already are. Raises Missing."""
        ...

    async def delete(self, image_id: str, kind: str = "") -> None:
        """All bytes of an image, or those of one kind. Deleting what is not there is no error."""
        ...

    async def entries(self) -> list[Entry]:
        """Everything in the store, parts of dead and living writers too."""
        ...

    async def remove(self, entry: Entry) -> None: ...

    def local_path(self, image_id: str) -> str | None:
        """A file on this machine, when it is one."""
        ...

    def close(self) -> None: ...


def load(name: str, datadir: str) -> Store:
    """The store called `name`, in a folder (which "memory" does not use)."""
    store: Store = plugins.load("kilonova.image.store", name, BUILTIN)(datadir)
    return store
