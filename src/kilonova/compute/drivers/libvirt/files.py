"""A guest's folder: its record, and its disks. Everything here blocks and runs in the driver's pool for files."""

import os
import shutil
import subprocess
import uuid
from pathlib import Path

import msgspec

from kilonova.compute import config_drive
from kilonova.compute.drivers import GuestSpec, qcow2
from kilonova.compute.drivers.libvirt import domain

RECORD = "instance.json"
_PAGE = 4096


def write_durably(path: Path, data: bytes, sparse: bool = False) -> None:
    """The whole new content or the old one, also after a power failure. `sparse`: leave holes where `data` has whole zero pages."""
    temporary = path.with_name(f".{path.name}.new")
    with open(temporary, "wb") as file:
        os.fchmod(file.fileno(), 0o600)
        if sparse:
            _write_sparse(file.fileno(), data)
        else:
            file.write(data)
        file.flush()
        os.fsync(file.fileno())
    os.rename(temporary, path)
    sync_folder(path.parent)


def _write_sparse(fd: int, data: bytes) -> None:
    os.ftruncate(fd, len(data))
    zeros = bytes(_PAGE)
    for at in range(0, len(data), _PAGE):
        page = data[at : at + _PAGE]
        if page != zeros[: len(page)]:
            os.pwrite(fd, page, at)


def sync_folder(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def write_record(folder: Path, instance: domain.Instance) -> None:
    write_durably(folder / RECORD, msgspec.json.encode(instance))


def read_records(instances: Path) -> dict[str, domain.Instance | None]:
    """Server id -> record of each guest's folder; None where a spawn did not get as far as that."""
    found: dict[str, domain.Instance | None] = {}
    for folder in sorted(instances.iterdir()):
        if not folder.is_dir() or folder.name.startswith("_"):
            continue
        try:
            found[folder.name] = msgspec.json.decode((folder / RECORD).read_bytes(), type=domain.Instance)
        except (FileNotFoundError, msgspec.DecodeError):
            found[folder.name] = None
    return found


def make_root(folder: Path, size_bytes: int, backing: Path | None, backing_format: str | None) -> None:
    image = qcow2.empty(size_bytes, None if backing is None else str(backing), backing_format)
    write_durably(folder / "disk", image, sparse=True)


def make_ephemeral(folder: Path, size_gb: int) -> None:
    """A raw disk with an empty ext4 file system, as Nova gives it."""
    path = folder / "disk.eph0"
    _make_hole(path, size_gb << 30)
    command = ["mkfs.ext4", "-q", "-F", "-L", "ephemeral0", "-E", "lazy_itable_init=1,lazy_journal_init=1,nodiscard", str(path)]
    subprocess.run(command, check=True, capture_output=True, timeout=60, env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"})


def make_swap(folder: Path, size_mb: int, identity: uuid.UUID) -> None:
    """A raw disk with a swap header (version 1: <linux/swap.h>, union swap_header), as mkswap writes it."""
    path = folder / "disk.swap"
    _make_hole(path, size_mb << 20)
    header = (1).to_bytes(4, "little") + ((size_mb << 20) // _PAGE - 1).to_bytes(4, "little") + bytes(4) + identity.bytes
    with open(path, "r+b") as file:
        file.seek(1024)
        file.write(header)
        file.seek(_PAGE - 10)
        file.write(b"SWAPSPACE2")


def _make_hole(path: Path, size: int) -> None:
    with open(path, "wb") as file:
        os.fchmod(file.fileno(), 0o600)
        file.truncate(size)


def make_config_drive(folder: Path, content: dict[str, bytes], image_format: str) -> None:
    write_durably(folder / "disk.config", config_drive.build(content, image_format), sparse=True)


def remove_guest(folder: Path, log_file: Path | None) -> None:
    shutil.rmtree(folder, ignore_errors=False) if folder.exists() else None
    if log_file is not None:
        log_file.unlink(missing_ok=True)


def without_config_drive(spec: GuestSpec) -> GuestSpec:
    """Its content may hold a password: it is on the drive, once is enough."""
    return msgspec.structs.replace(spec, config_drive=None)


def listing(instances: Path) -> list[str]:
    """Files of guests, relative to the folder of instances; the cache of base images is not theirs."""
    found = []
    for folder in sorted(instances.iterdir()):
        if folder.name.startswith("_"):
            continue
        found.append(folder.name)
        found += [f"{folder.name}/{file.name}" for file in sorted(folder.iterdir())] if folder.is_dir() else []
    return found
