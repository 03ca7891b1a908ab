"""Images as files: <folder>/<image id>, <id>.staged, and .<id>.<chance>.part while they are written.

A commit is fsync of the file, rename, fsync of the folder. While a long file is written, another thread already asks the disk for
what was written so far, so that the fsync at the end has little left to do. Writes and cold reads go through a bounded pool; a read of
what the page cache holds is done at once, on the loop.
"""

import asyncio
import errno
import os
import tempfile
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

from kilonova.image.drivers import IMAGE, STAGED, Entry, Full, Missing

T = TypeVar("T")
THREADS = 4
SYNC_EVERY_BYTES = 64 << 20
_NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class FileStore:
    kind = "file"

    def __init__(self, datadir: str) -> None:
        self.folder = datadir
        os.makedirs(datadir, mode=0o700, exist_ok=True)
        self._pool = ThreadPoolExecutor(THREADS, thread_name_prefix="image-file")
        self._sync_pool = ThreadPoolExecutor(1, thread_name_prefix="image-sync")

    def describe(self) -> dict[str, Any]:
        return {"data_dir": self.folder, "chunk_size": SYNC_EVERY_BYTES, "thin_provisioning": False}

    async def run(self, function: Callable[..., T], *arguments: Any) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._pool, function, *arguments)

    def sync_soon(self, descriptor: int) -> "Future[None]":
        return self._sync_pool.submit(os.fdatasync, descriptor)

    def path(self, image_id: str, kind: str = IMAGE) -> str:
        if not image_id or "/" in image_id or image_id.startswith("."):
            raise Missing(image_id)
        return os.path.join(self.folder, image_id if kind == IMAGE else f"{image_id}.{kind}")

    async def writer(self, image_id: str, kind: str = IMAGE) -> "FileWriter":
        final = self.path(image_id, kind)
        descriptor, part = await self.run(lambda: tempfile.mkstemp(prefix=f".{image_id}.", suffix=".part", dir=self.folder))
        return FileWriter(self, descriptor, part, final)

    async def open(self, image_id: str) -> "FileOpened":
        try:
            descriptor = os.open(self.path(image_id), os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            raise Missing(image_id) from None
        return FileOpened(self, descriptor)

    async def promote(self, image_id: str) -> None:
        await self.run(self._promote, image_id)

    def _promote(self, image_id: str) -> None:
        try:
            os.replace(self.path(image_id, STAGED), self.path(image_id))
        except FileNotFoundError:
            if not os.path.exists(self.path(image_id)):
                raise Missing(image_id) from None
        self.sync_folder()

    def sync_folder(self) -> None:
        descriptor = os.open(self.folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    async def delete(self, image_id: str, kind: str = "") -> None:
        for each in (kind,) if kind else (IMAGE, STAGED):
            await self.run(_unlink, self.path(image_id, each))

    async def entries(self) -> list[Entry]:
        return await self.run(lambda: sorted(_entry(name) for name in os.listdir(self.folder)))

    async def remove(self, entry: Entry) -> None:
        await self.run(_unlink, os.path.join(self.folder, entry.name))

    def local_path(self, image_id: str) -> str | None:
        path = self.path(image_id)
        return path if os.path.exists(path) else None

    def close(self) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)
        self._sync_pool.shutdown(wait=False, cancel_futures=True)


def _entry(name: str) -> Entry:
    if name.startswith("."):
        return Entry(name.split(".")[1], "part", name)
    image_id, _, kind = name.partition(".")
    return Entry(image_id, kind or IMAGE, name)


def _unlink(path: str) -> None:
    try:
        os.unlink(path)
    except FileNotFoundError:
        return


class FileWriter:
    def __init__(self, store: FileStore, descriptor: int, part: str, final: str) -> None:
        self._store = store
        self._descriptor: int | None = descriptor
        self._part, self._final = part, final
        self._unsynced = 0
        self._syncing: Future[None] | None = None
        self._lock = threading.Lock()  # a cancelled write or commit goes on in its thread while abort begins in another

    async def write(self, pieces: Sequence[bytes]) -> None:
        await self._guarded(self._write, pieces)

    def _write(self, pieces: Sequence[bytes]) -> None:
        with self._lock:
            descriptor = self._descriptor
            if descriptor is None:
                return
            _append(descriptor, pieces)
            self._unsynced += sum(map(len, pieces))
            if self._unsynced >= SYNC_EVERY_BYTES and (self._syncing is None or self._syncing.done()):
                self._unsynced = 0
                self._syncing = self._store.sync_soon(descriptor)

    async def _guarded(self, function: Callable[..., None], *arguments: Any) -> None:
        try:
            await self._store.run(function, *arguments)
        except OSError as error:
            if error.errno in _NO_SPACE:
                raise Full from None
            raise

    async def commit(self) -> None:
        await self._guarded(self._commit)

    def _commit(self) -> None:
        with self._lock:
            self._settle()
            descriptor = self._descriptor
            if descriptor is None:
                return
            os.fsync(descriptor)
            self._descriptor = None
            os.close(descriptor)
            os.replace(self._part, self._final)
        self._store.sync_folder()

    def _settle(self) -> None:
        """Wait for a sync under way: its descriptor must not be closed (and given to another file) beneath it."""
        if self._syncing is not None and not self._syncing.cancel():
            self._syncing.exception()
        self._syncing = None

    async def abort(self) -> None:
        await self._store.run(self._abort)

    def _abort(self) -> None:
        with self._lock:
            self._settle()
            descriptor, self._descriptor = self._descriptor, None
            _unlink(self._part)
            if descriptor is not None:
                os.close(descriptor)


def _append(descriptor: int, pieces: Sequence[bytes]) -> None:
    wanted = sum(map(len, pieces))
    written = os.writev(descriptor, pieces)
    if written < wanted:
        rest = memoryview(b"".join(pieces))[written:]
        while rest:
            rest = rest[os.write(descriptor, rest) :]


class FileOpened:
    def __init__(self, store: FileStore, descriptor: int) -> None:
        self._store = store
        self._descriptor = descriptor
        self._closed = False
        self._nowait = True
        self.size = os.fstat(descriptor).st_size

    async def read(self, offset: int, length: int) -> bytes | bytearray:
        length = min(length, self.size - offset)
        if length <= 0:
            return b""
        if self._nowait:
            try:
                buffer = bytearray(length)
                got = os.preadv(self._descriptor, [buffer], offset, os.RWF_NOWAIT)
                if got == length:
                    return buffer
                if got > 0:
                    return bytes(memoryview(buffer)[:got])
            except BlockingIOError:
                pass
            except OSError:
                self._nowait = False  # this file system does not know it
        return await self._store.run(os.pread, self._descriptor, length, offset)

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            os.close(self._descriptor)
