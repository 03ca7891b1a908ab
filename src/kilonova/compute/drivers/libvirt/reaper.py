"""Reaping QEMU processes.

libvirt makes each QEMU a daemon and, when it ends one, polls until its pid is gone.  Somebody must therefore reap it promptly: process 1 of
many containers does so late or never (measured: 1.6 s instead of 0.2 s; a QEMU that fails at its start costs 80 s when nobody reaps).
So this process becomes the subreaper and waits for QEMU's pids, each by its own pidfd, never for "any child": libvirt and asyncio wait
for children of their own.

Before a start has told its pid, failures are found by looking through our children while a start is under way.
"""

import contextlib
import ctypes
import os
import select
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

_PR_SET_CHILD_SUBREAPER = 36
_SCAN_INTERVAL_S = 0.02
_LINGER_S, _LINGER_SCAN_S = 1.0, 0.2


def become_subreaper() -> None:
    if ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_CHILD_SUBREAPER) failed")


class Reaper:
    def __init__(self) -> None:
        self._lock = threading.Condition()
        self._starting = 0
        self._look_until = 0.0  # by the monotonic clock: what a start leaves behind may die a little later
        self._ending = False
        self._pids: dict[int, int] = {}  # pidfd -> pid
        self._poll = select.epoll()
        self._bell = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._poll.register(self._bell, select.EPOLLIN)
        self._thread = threading.Thread(target=self._run, name="qemu-reaper", daemon=True)

    def start(self) -> None:
        become_subreaper()
        self._thread.start()

    def stop(self) -> None:
        self._ending = True
        os.eventfd_write(self._bell, 1)
        self._thread.join()
        for fd in self._pids:
            os.close(fd)
        self._poll.close()
        os.close(self._bell)

    def terminate(self, pid: int, timeout_s: float) -> bool:
        """Ask `pid`, which is watched, to end (QEMU flushes its disks and does so in milliseconds); whether it has. By its pidfd: never
        another process of that number."""
        with self._lock:
            fd = next((fd for fd, watched in self._pids.items() if watched == pid), None)
            if fd is not None:
                with contextlib.suppress(ProcessLookupError):
                    signal.pidfd_send_signal(fd, signal.SIGTERM)
            return self._lock.wait_for(lambda: pid not in self._pids.values(), timeout_s)

    def watch(self, pid: int) -> None:
        """Reap `pid` when it ends, if it is our child by then."""
        try:
            fd = os.pidfd_open(pid)
        except ProcessLookupError:
            return
        with self._lock:
            if pid in self._pids.values():
                os.close(fd)
                return
            self._pids[fd] = pid
            self._poll.register(fd, select.EPOLLIN)

    @contextlib.contextmanager
    def starting(self) -> Iterator[None]:
        """Around a call in which a QEMU may come and go before its pid is known."""
        with self._lock:
            self._starting += 1
        os.eventfd_write(self._bell, 1)
        try:
            yield
        finally:
            with self._lock:
                self._starting -= 1
                self._look_until = time.monotonic() + _LINGER_S
            os.eventfd_write(self._bell, 1)

    def _run(self) -> None:
        while not self._ending:
            looking = self._starting > 0 or time.monotonic() < self._look_until
            for fd, _ in self._poll.poll((_SCAN_INTERVAL_S if self._starting else _LINGER_SCAN_S) if looking else None):
                if fd == self._bell:
                    with contextlib.suppress(BlockingIOError):
                        os.eventfd_read(self._bell)
                else:
                    self._reap(fd)
            if looking:
                for pid in orphaned_zombies():
                    _wait(pid)

    def _reap(self, fd: int) -> None:
        with self._lock:
            pid = self._pids[fd]
            self._poll.unregister(fd)
            _wait(pid)
            del self._pids[fd]
            os.close(fd)
            self._lock.notify_all()


def _wait(pid: int) -> None:
    with contextlib.suppress(ChildProcessError):
        os.waitpid(pid, os.WNOHANG)


def orphaned_zombies() -> list[int]:
    """Dead QEMU daemons among our children: those in a session of their own. A QEMU that libvirt waits for itself (to ask its version) is
    in ours and is left to it."""
    found = []
    own_session = os.getsid(0)
    for listing in Path("/proc/self/task").glob("*/children"):
        with contextlib.suppress(OSError):
            for word in listing.read_text().split():
                pid = int(word)
                name, _, rest = Path(f"/proc/{pid}/stat").read_text().partition("(")[2].rpartition(")")
                fields = rest.split()
                if fields[0] == "Z" and name.startswith("qemu-system") and int(fields[3]) != own_session:
                    found.append(pid)
    return sorted(found)
