"""Base images: fetched once, verified, kept read-only under all guests that start from them.

A base is named after its content (or, without a hash, its image) *and* the declared format, so that bytes accepted as one format are never
opened as another. Formats other than raw and qcow2 are converted to qcow2 by qemu-img, with the format said, under limits.
"""

import asyncio
import contextlib
import hashlib
import os
import re
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from pathlib import Path
from typing import Any

import msgspec

from kilonova.compute.drivers import DriverError, FetchImage, ImageSpec
from kilonova.compute.drivers.libvirt.files import sync_folder
from kilonova.core import disk_formats

RunBlocking = Callable[..., Awaitable[Any]]
_CHUNK = 1 << 20
_CONVERTED = {"vmdk": "vmdk", "vhd": "vpc", "vhdx": "vhdx", "vdi": "vdi"}
_CONVERT_CPU_S, _CONVERT_MEMORY_BYTES, _CONVERT_TIMEOUT_S = 600, 1 << 30, 1800


class Base(msgspec.Struct, frozen=True, kw_only=True):
    name: str
    format: str
    """qcow2 or raw: how QEMU opens it"""
    content: str
    """what the image was: iso matters"""
    virtual_size: int


class BaseCache:
    def __init__(self, folder: Path, limit_bytes: int, blocking: RunBlocking, in_use: Callable[[], Collection[str]]):
        self.folder = folder
        self._limit_bytes = limit_bytes
        self._blocking = blocking
        self._in_use = in_use
        self._fetching: dict[str, asyncio.Task[Base]] = {}
        self._known: dict[str, Base] = {}
        self._pins: dict[str, int] = {}

    def start(self) -> None:
        """Blocks. Removes what an earlier process left half fetched."""
        self.folder.mkdir(parents=True, exist_ok=True)
        for left in sorted(self.folder.glob(".*")):
            left.unlink()

    async def stop(self) -> None:
        tasks = list(self._fetching.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    @contextlib.asynccontextmanager
    async def use(self, image: ImageSpec, fetch: FetchImage) -> AsyncIterator[Base]:
        """The image's base, fetched if need be (once for all who want it now), and not evicted in the meantime."""
        name = base_name(image)
        self._pins[name] = self._pins.get(name, 0) + 1
        try:
            yield await self._get(name, image, fetch)
        finally:
            self._pins[name] -= 1
            if not self._pins[name]:
                del self._pins[name]

    async def _get(self, name: str, image: ImageSpec, fetch: FetchImage) -> Base:
        path = self.folder / name
        if name not in self._fetching:
            found: Base | None = await self._blocking(_look, path, self._known.get(name)) or self._known.get(name)
            if found is not None:
                self._known[name] = found
                return found
        task = self._fetching.get(name)
        if task is None:
            task = self._fetching[name] = asyncio.create_task(self._fetch(name, image, fetch), name=f"fetch base {name}")
            task.add_done_callback(lambda done: self._fetched(name, done))
        return await asyncio.shield(task)

    def _fetched(self, name: str, done: asyncio.Task[Base]) -> None:
        self._fetching.pop(name, None)
        if not done.cancelled():
            done.exception()  # everybody who waited has it; nobody may be left

    async def _fetch(self, name: str, image: ImageSpec, fetch: FetchImage) -> Base:
        part = self.folder / f".{name}.part"
        try:
            await fetch(image.id, str(part))
            base: Base = await self._blocking(_accept, part, self.folder / name, image)
        except (DriverError, asyncio.CancelledError):
            raise
        except disk_formats.DiskFormatError as error:
            raise DriverError(str(error), f"image {image.id}") from error
        except Exception as error:
            raise DriverError(f"Image {image.id} could not be fetched.", f"{type(error).__name__}: {error}") from error
        finally:
            part.unlink(missing_ok=True)
        self._known[name] = base
        await self._blocking(self._evict)
        return base

    def _evict(self) -> None:
        """Blocks. Remove bases that nobody uses, least recently used first, until the rest fits."""
        files = [(file.stat(), file) for file in self.folder.iterdir() if not file.name.startswith(".")]
        total = sum(status.st_blocks * 512 for status, _ in files)
        used = set(self._in_use())
        for status, file in sorted(files, key=lambda item: (item[0].st_mtime_ns, item[1].name)):
            if total <= self._limit_bytes:
                return
            if file.name not in used and file.name not in self._pins:
                file.unlink()
                self._known.pop(file.name, None)
                total -= status.st_blocks * 512


def base_name(image: ImageSpec) -> str:
    if image.disk_format not in disk_formats.ALLOWED:
        raise DriverError(f"Image {image.id} has a disk format that cannot be booted.")
    if image.os_hash_value and re.fullmatch(r"[0-9a-f]{32,128}", image.os_hash_value) and _hash_of(image) is not None:
        return f"{image.os_hash_algo}-{image.os_hash_value[:64]}.{image.disk_format}"
    if not re.fullmatch(r"[0-9A-Za-z\-]{1,64}", image.id):
        raise DriverError("The image's id is not valid.")
    return f"image-{image.id}.{image.disk_format}"


def _hash_of(image: ImageSpec) -> Any:
    if not image.os_hash_value or image.os_hash_algo not in ("sha512", "sha384", "sha256"):
        return None
    return hashlib.new(image.os_hash_algo)


def _look(path: Path, known: Base | None) -> Base | None:
    """The base if it is there; its age is renewed. Bases are raw or qcow2, so the head tells everything."""
    try:
        os.utime(path)
        if known is not None:
            return known
        with path.open("rb") as file:
            found = _inspect_head(file.read(disk_formats.HEAD_BYTES), path.stat().st_size)
    except FileNotFoundError:
        return None
    return _base(path.name, found)


def _inspect_head(head: bytes, size: int) -> disk_formats.DiskFormat:
    inspector = disk_formats.Inspector()
    inspector.eat(head)
    return inspector.finish(size)


def _base(name: str, found: disk_formats.DiskFormat) -> Base:
    """How QEMU shall open it follows the declaration (the name's end), which the content was checked against."""
    declared = name.rpartition(".")[2]
    opened = "qcow2" if declared == "qcow2" or declared in _CONVERTED else "raw"
    return Base(name=name, format=opened, content=declared, virtual_size=found.virtual_size if opened == "qcow2" else _raw_size(found))


def _raw_size(found: disk_formats.DiskFormat) -> int:
    return -(-found.virtual_size // 512) * 512


def _accept(part: Path, path: Path, image: ImageSpec) -> Base:
    """Blocks. Check size, hash and content of a fetched file; then it gets its name."""
    found = _verify(part, image)
    disk_formats.check(image.disk_format, found)
    if image.disk_format in ("luks", "ploop"):
        raise DriverError(f"Image {image.id} has the format {image.disk_format}, which this hypervisor cannot boot.")
    if found.format in _CONVERTED:
        converted = part.with_suffix(".qcow2")
        try:
            _convert(part, converted, found)
            os.rename(converted, part)
        finally:
            converted.unlink(missing_ok=True)
        with part.open("rb") as file:
            found = _inspect_head(file.read(disk_formats.HEAD_BYTES), part.stat().st_size)
    with part.open("rb+") as file:
        if image.disk_format != "qcow2" and found.format != "qcow2":
            file.truncate(_raw_size(found))  # QEMU wants whole sectors
        os.fchmod(file.fileno(), 0o400)
        os.fsync(file.fileno())
    os.rename(part, path)
    sync_folder(path.parent)
    return _base(path.name, found)


def _verify(part: Path, image: ImageSpec) -> disk_formats.DiskFormat:
    digest = _hash_of(image)
    inspector = disk_formats.Inspector()
    with part.open("rb") as file:
        while chunk := file.read(_CHUNK):
            inspector.eat(chunk)
            if digest is not None:
                digest.update(chunk)
    if image.size is not None and inspector.eaten != image.size:
        raise DriverError(f"Image {image.id} arrived with {inspector.eaten} bytes instead of {image.size}.")
    if digest is not None and digest.hexdigest() != image.os_hash_value:
        raise DriverError(f"Image {image.id} arrived damaged: its {image.os_hash_algo} does not match.")
    return inspector.finish(inspector.eaten)


def _convert(source: Path, target: Path, found: disk_formats.DiskFormat) -> None:
    limits = [f"--cpu={_CONVERT_CPU_S}", f"--as={_CONVERT_MEMORY_BYTES}", f"--fsize={found.virtual_size * 5 // 4 + (16 << 20)}", "--core=0"]
    command = ["prlimit", *limits, "--", "qemu-img", "convert", "-f", _CONVERTED[found.format], "-O", "qcow2", str(source), str(target)]
    try:
        subprocess.run(command, check=True, capture_output=True, timeout=_CONVERT_TIMEOUT_S, stdin=subprocess.DEVNULL)
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
        detail = error.stderr.decode("utf-8", "replace")[-500:] if error.stderr else str(error)
        raise DriverError(f"The {found.format} image could not be converted.", detail) from error
