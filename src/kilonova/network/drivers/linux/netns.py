"""Network namespaces by name, in /run/netns as iproute2 keeps them, without forking.

A network namespace belongs to a thread: `create` and `entered` move only the calling thread, and always move it back.
"""

import ctypes
import errno
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NoReturn

DIRECTORY = Path("/run/netns")
_SELF = "/proc/thread-self/ns/net"
_CLONE_NEWNET = 0x4000_0000
_MS_BIND, _MS_REC, _MS_SHARED, _MNT_DETACH = 0x1000, 0x4000, 1 << 20, 2
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,199}")
_libc = ctypes.CDLL(None, use_errno=True)


def _call(name: str, *arguments: object, about: str) -> None:
    if getattr(_libc, name)(*arguments) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}", about)


def path(name: str) -> Path:
    if not _NAME.fullmatch(name):
        raise ValueError(f"{name!r} is not a usable namespace name.")
    return DIRECTORY / name


def exists(name: str) -> bool:
    """A file left over without its mount does not count."""
    try:
        return path(name).stat().st_dev == os.stat("/proc/self/ns/net").st_dev
    except FileNotFoundError:
        return False


def names(prefix: str) -> list[str]:
    try:
        return sorted(entry for entry in os.listdir(DIRECTORY) if entry.startswith(prefix))
    except FileNotFoundError:
        return []


def _share_directory() -> None:
    """Mounts made in the directory shall show in other mount namespaces too, as with iproute2."""
    DIRECTORY.mkdir(mode=0o755, parents=True, exist_ok=True)
    where = os.fsencode(DIRECTORY)
    try:
        _call("mount", b"", where, b"none", _MS_SHARED | _MS_REC, None, about=str(DIRECTORY))
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        _call("mount", where, where, b"none", _MS_BIND | _MS_REC, None, about=str(DIRECTORY))
        _call("mount", b"", where, b"none", _MS_SHARED | _MS_REC, None, about=str(DIRECTORY))


def create(name: str) -> bool:
    """True if it was made now, False if it was there."""
    target = path(name)
    if exists(name):
        return False
    _share_directory()
    target.touch(mode=0o444)
    with _return():
        _call("unshare", _CLONE_NEWNET, about=name)
        _call("mount", os.fsencode(_SELF), os.fsencode(target), b"none", _MS_BIND, None, about=name)
    return True


def remove(name: str) -> bool:
    """True if it was there. The kernel frees it once no process and no socket is left in it."""
    target = path(name)
    there = exists(name)
    with suppress(OSError):
        _call("umount2", os.fsencode(target), _MNT_DETACH, about=name)
    with suppress(FileNotFoundError):
        target.unlink()
    return there


@contextmanager
def opened(name: str) -> Iterator[int]:
    """A descriptor that stands for the namespace."""
    descriptor = os.open(path(name), os.O_RDONLY | os.O_CLOEXEC)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def enter(name: str) -> None:
    """Move the calling thread for good: for initialisers of threads."""
    with opened(name) as descriptor:
        _call("setns", descriptor, _CLONE_NEWNET, about=name)


@contextmanager
def _return() -> Iterator[None]:
    home = os.open(_SELF, os.O_RDONLY | os.O_CLOEXEC)
    try:
        yield
    finally:
        _call("setns", home, _CLONE_NEWNET, about="the former namespace")
        os.close(home)


@contextmanager
def entered(name: str) -> Iterator[None]:
    """The calling thread is inside for the length of the block. Sockets opened there stay there."""
    with _return():
        enter(name)
        yield


def write_sysctl(key: str, value: int | str) -> None:
    """`key` with slashes (`net/ipv4/ip_forward`), in the namespace of the calling thread."""
    descriptor = os.open(f"/proc/sys/{key}", os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(descriptor, str(value).encode())
    finally:
        os.close(descriptor)


def read_sysctl(key: str) -> str | None:
    try:
        return Path("/proc/sys", key).read_text().strip()
    except FileNotFoundError:
        return None


def command(name: str, argv: Sequence[str]) -> list[str]:
    """The command line that runs `argv` inside (util-linux's nsenter, which every Debian has)."""
    return ["nsenter", f"--net={path(name)}", "--", *argv]


def execute(name: str, argv: Sequence[str]) -> NoReturn:
    """Replace this process by `argv`, inside. Needs neither `ip` nor `nsenter`."""
    enter(name)
    os.execvp(argv[0], list(argv))
