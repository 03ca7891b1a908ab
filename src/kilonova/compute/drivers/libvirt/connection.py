"""libvirt's connection: embedded in this process or a daemon's, its threads, its events.

* Calls block, so they run in a bounded pool; its threads have entered the host's network namespace, and the QEMUs that they start are
  born there.
* Embedded libvirt needs its settings before it is opened, an event loop that runs, and (cold) some seconds to probe each QEMU binary;
  the result of probing is kept outside the state folder, so that a new cloud on the same machine does not pay again.
* libvirt allows one embedded driver for each process and its event loop cannot be registered twice: hence the two class attributes.
"""

import asyncio
import contextlib
import ctypes
import grp
import hashlib
import logging
import os
import pwd
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

from kilonova.compute.drivers import DriverError
from kilonova.compute.drivers.libvirt import half_started, threads

T = TypeVar("T")
log = logging.getLogger(__name__)
_CLONE_NEWNET = 0x40000000
QEMU_BINARY = Path("/usr/bin/qemu-system-x86_64")
QEMU_USER = "libvirt-qemu"

QEMU_CONF = """\
# Written by Kilonova at each start.
user = "root"
group = "root"
dynamic_ownership = 0
remember_owner = 0
security_driver = "none"
stdio_handler = "file"
namespaces = []
cgroup_controllers = []
"""


def import_libvirt() -> Any:
    """The bindings, with a sentence instead of a traceback when they are missing."""
    try:
        import libvirt
    except ImportError as error:
        raise DriverError("The libvirt driver needs libvirt's Python bindings; install python3-libvirt.", str(error)) from error
    return libvirt


def ensure_qemu_user() -> None:
    """libvirt refuses to load its QEMU driver unless this user and group exist, even when it is configured not to use them."""
    missing = []
    try:
        grp.getgrnam(QEMU_USER)
    except KeyError:
        missing.append(["groupadd", "-r", QEMU_USER])
    try:
        pwd.getpwnam(QEMU_USER)
    except KeyError:
        missing.append(["useradd", "-r", "-g", QEMU_USER, "-d", "/nonexistent", "-s", "/usr/sbin/nologin", QEMU_USER])
    for command in missing:
        if os.geteuid() != 0:
            raise DriverError(f"libvirt needs the user and group {QEMU_USER}; make them as root: {' '.join(command)}.")
        done = subprocess.run(["/usr/sbin/" + command[0], *command[1:]], capture_output=True, text=True, timeout=30)
        if done.returncode not in (0, 9):  # 9: somebody else was quicker
            raise DriverError(f"The user and group {QEMU_USER} could not be made.", done.stderr.strip())


class ProbeCache:
    """What libvirt found out about QEMU, kept by QEMU's path, size and age. libvirt itself checks that each file still fits."""

    def __init__(self, folder: Path, root: Path, binary: Path = QEMU_BINARY):
        self.inside = root / "cache" / "qemu" / "capabilities"
        try:
            status = binary.stat()
        except FileNotFoundError:
            raise DriverError("QEMU is not installed; install qemu-system-x86.", str(binary)) from None
        key = hashlib.sha256(f"{binary} {status.st_size} {status.st_mtime_ns}".encode()).hexdigest()[:16]
        self.outside = folder / f"libvirt-{key}"

    def load(self) -> None:
        self.inside.mkdir(parents=True, exist_ok=True)
        if self.outside.is_dir():
            for file in sorted(self.outside.glob("*.xml")):
                if not (self.inside / file.name).exists():
                    shutil.copyfile(file, self.inside / file.name)

    def save(self) -> None:
        """Keep what is new; a cache that cannot be written is only slow."""
        try:
            self.outside.mkdir(parents=True, exist_ok=True, mode=0o700)
            for file in sorted(self.inside.glob("*.xml")):
                there = self.outside / file.name
                if not there.exists() or there.read_bytes() != file.read_bytes():
                    with tempfile.NamedTemporaryFile(dir=self.outside, delete=False) as copy:
                        copy.write(file.read_bytes())
                    os.rename(copy.name, there)
        except OSError as error:
            log.warning("the probe cache could not be kept: %s", error)


def enter_network_namespace(name: str | None) -> None:
    """Move the calling thread into /run/netns/NAME (os.setns comes with Python 3.12)."""
    if name is None:
        return
    fd = os.open(f"/run/netns/{name}", os.O_RDONLY | os.O_CLOEXEC)
    try:
        if ctypes.CDLL(None, use_errno=True).setns(fd, _CLONE_NEWNET) != 0:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    finally:
        os.close(fd)


class EventThread:
    """Runs libvirt's own event loop in a thread, once for each process, as long as one connection is open."""

    _registered = False
    _users = 0
    _lock = threading.Lock()
    _thread: threading.Thread | None = None
    _timer: int | None = None

    @classmethod
    def acquire(cls, libvirt: Any) -> None:
        with cls._lock:
            if not cls._registered:
                libvirt.registerErrorHandler(_ignore_error, None)
                libvirt.virEventRegisterDefaultImpl()
                cls._registered = True
            cls._users += 1
            if cls._users == 1:
                cls._timer = libvirt.virEventAddTimeout(-1, _wake, None)
                cls._thread = threading.Thread(target=cls._run, args=(libvirt,), name="libvirt-events", daemon=True)
                cls._thread.start()

    @classmethod
    def release(cls, libvirt: Any) -> None:
        with cls._lock:
            cls._users -= 1
            if cls._users == 0 and cls._thread is not None:
                libvirt.virEventUpdateTimeout(cls._timer, 0)
                cls._thread.join()
                libvirt.virEventRemoveTimeout(cls._timer)
                cls._thread = None

    @classmethod
    def _run(cls, libvirt: Any) -> None:
        while cls._users:
            libvirt.virEventRunDefaultImpl()


def _ignore_error(_context: Any, _error: Any) -> None:
    """Errors are raised as exceptions; libvirt would print them, too."""


def _wake(_timer: int, _opaque: Any) -> None:
    """The timer exists only to end a turn of the event loop."""


class Connection:
    """`call(function, ...)` runs function(libvirt connection, ...) in the pool."""

    def __init__(
        self, *, uri: str, embed_root: Path, probe_cache_folder: Path, log_file: Path, network_namespace: str | None, threads: int
    ):
        self.embedded = uri == "auto"
        self.uri = f"qemu:///embed?root={embed_root}" if self.embedded else uri
        self.embed_root = embed_root
        self._probe_cache_folder = probe_cache_folder
        self._log_file = log_file
        self._namespace = network_namespace
        self._threads = threads
        self._pool: ThreadPoolExecutor | None = None
        self._connection: Any = None
        self._callback: int | None = None
        self.libvirt: Any = None
        self.capabilities = ""

    async def open(self, on_lifecycle: Callable[[str, int, int], None]) -> None:
        """on_lifecycle(server id, libvirt's event, its detail) is called in libvirt's thread."""
        if self._namespace is not None and not Path(f"/run/netns/{self._namespace}").exists():
            raise DriverError("The host's network namespace does not exist; the network agent must make it first.", self._namespace)
        self._pool = ThreadPoolExecutor(self._threads, "libvirt", initializer=enter_network_namespace, initargs=(self._namespace,))
        await self._in_pool(self._open, on_lifecycle, timeout_s=120)

    def _open(self, on_lifecycle: Callable[[str, int, int], None]) -> None:
        os.environ.setdefault("LIBVIRT_LOG_OUTPUTS", f"4:file:{self._log_file}")
        self.libvirt = import_libvirt()
        cache = None
        if self.embedded:
            if os.geteuid() != 0:
                raise DriverError("The libvirt driver needs root; run as root, or use --driver fake.")
            ensure_qemu_user()
            cache = ProbeCache(self._probe_cache_folder, self.embed_root)
            (self.embed_root / "etc").mkdir(parents=True, exist_ok=True)
            (self.embed_root / "etc" / "qemu.conf").write_text(QEMU_CONF)
            cache.load()
            half_started.end_all(self.embed_root)
        EventThread.acquire(self.libvirt)
        try:
            self._connection = self.libvirt.open(self.uri)
            self.capabilities = self._connection.getCapabilities()

            def heard(_connection: Any, guest: Any, event: int, detail: int, _opaque: Any) -> None:
                on_lifecycle(guest.UUIDString(), event, detail)

            self._callback = self._connection.domainEventRegisterAny(None, self.libvirt.VIR_DOMAIN_EVENT_ID_LIFECYCLE, heard, None)
        except BaseException:
            EventThread.release(self.libvirt)
            raise
        if cache is not None:
            cache.save()

    async def close(self) -> None:
        if self._pool is None:
            return
        if self._connection is not None:
            with contextlib.suppress(DriverError):
                await self._in_pool(self._close, timeout_s=10)
        self._pool.shutdown(wait=False)
        self._pool = None

    def _close(self) -> None:
        connection, self._connection = self._connection, None
        if self._callback is not None:
            connection.domainEventDeregisterAny(self._callback)
        connection.close()
        EventThread.release(self.libvirt)

    async def call(self, function: Callable[..., T], *arguments: Any, timeout_s: float = 60) -> T:
        if self._pool is None or self._connection is None:
            raise DriverError("The hypervisor driver is not started.")
        return await self._in_pool(function, self._connection, *arguments, timeout_s=timeout_s)

    async def _in_pool(self, function: Callable[..., T], *arguments: Any, timeout_s: float) -> T:
        assert self._pool is not None
        try:
            return await threads.run(self._pool, function, *arguments, timeout_s=timeout_s)
        except (DriverError, asyncio.CancelledError):
            raise
        except threads.Overdue:
            name = getattr(function, "__name__", str(function))
            raise DriverError("The hypervisor did not answer in time.", f"{name} took over {timeout_s} s") from None
        except Exception as error:
            raise translate(error) from error


_KNOWN = (
    ("managed='no' but specified dev doesn't exist", "A network device of the server does not exist on the host."),
    ("Cannot allocate memory", "The host has not enough free memory for the server."),
    ("cannot set up guest memory", "The host has not enough free memory for the server."),
    ("No space left on device", "The host has no disk space left."),
    ("unsupported machine type", "The host does not offer the machine type that the server needs."),
    ("already in use by", "A device or name of the server is in use by another guest."),
    ("Failed to connect", "The hypervisor's daemon does not answer."),
)


def translate(error: Exception) -> DriverError:
    """The sentence for users; libvirt's own text (which names paths) goes to the detail."""
    text = str(error)
    for part, reason in _KNOWN:
        if part in text:
            return DriverError(reason, text)
    if isinstance(error, OSError):
        return DriverError(f"The host could not handle the server's files ({error.strerror or 'input/output error'}).", text)
    return DriverError("The hypervisor could not carry out the request.", f"{type(error).__name__}: {text}")
