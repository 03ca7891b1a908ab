"""fdatasync that the loop need not stand still for: Linux' native asynchronous I/O, told by an eventfd that the loop watches.

A thread would do the same and starve: beside a busy loop it gets the interpreter back milliseconds late (docs/internals/database.md).
Layouts and numbers of the calls: io_submit(2), linux/aio_abi.h, and the tables of system calls of both architectures.
"""

import asyncio
import ctypes
import os
import platform
import struct
import sys
from collections.abc import Callable

Done = Callable[[OSError | None], None]
NUMBERS = {"x86_64": (206, 207, 208, 209), "aarch64": (0, 1, 4, 2)}
"""io_setup, io_destroy, io_getevents, io_submit."""
AT_ONCE = 8
IOCB = struct.Struct("<QIIHhIQQqQII")
"""data, key, rw_flags, opcode, priority, descriptor, buffer, bytes, offset, reserved, flags, eventfd."""
EVENT = struct.Struct("<QQqq")
"""data, iocb, result, result2."""
FDSYNC = 3
TELL_EVENTFD = 1


class FileSync:
    """One queue of the kernel's. Made in the loop that it tells."""

    def __init__(self) -> None:
        """Raises OSError where there is no such thing (another kernel, a container that forbids it)."""
        numbers = NUMBERS.get(platform.machine())
        if numbers is None or sys.platform != "linux" or sys.byteorder != "little":
            raise OSError("no asynchronous file synchronisation is known for this machine")
        self._setup, self._destroy, self._getevents, self._submit = numbers
        self._syscall = ctypes.CDLL(None, use_errno=True).syscall
        self._context = ctypes.c_ulong(0)
        self._check(self._syscall(ctypes.c_long(self._setup), ctypes.c_long(AT_ONCE), ctypes.byref(self._context)))
        self._eventfd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._blocks = [ctypes.create_string_buffer(IOCB.size) for _ in range(AT_ONCE)]
        self._pointers = [(ctypes.c_void_p * 1)(ctypes.addressof(block)) for block in self._blocks]
        self._free = list(range(AT_ONCE))
        self._events = ctypes.create_string_buffer(EVENT.size * AT_ONCE)
        self._told: dict[int, Done] = {}
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._eventfd, self._ready)

    def start(self, descriptor: int, done: Done) -> None:
        """Everything written to the file so far goes to the disk; then `done` is called in the loop, with what went wrong or None.
        At most AT_ONCE at a time. Raises OSError."""
        number = self._free.pop()
        IOCB.pack_into(self._blocks[number], 0, number, 0, 0, FDSYNC, 0, descriptor, 0, 0, 0, 0, TELL_EVENTFD, self._eventfd)
        try:
            self._check(self._syscall(ctypes.c_long(self._submit), self._context, ctypes.c_long(1), self._pointers[number]))
        except OSError:
            self._free.append(number)
            raise
        self._told[number] = done

    def _ready(self) -> None:
        try:
            os.eventfd_read(self._eventfd)
        except BlockingIOError:
            return
        found = self._syscall(ctypes.c_long(self._getevents), self._context, ctypes.c_long(0), ctypes.c_long(AT_ONCE), self._events, None)
        for at in range(self._check(found)):
            number, _, result, _ = EVENT.unpack_from(self._events, at * EVENT.size)
            self._free.append(number)
            self._told.pop(number)(OSError(-result, os.strerror(-result)) if result < 0 else None)

    def close(self) -> None:
        """Waits for what is under way; nobody is told any more."""
        if self._eventfd >= 0:
            if not self._loop.is_closed():
                self._loop.remove_reader(self._eventfd)
            self._syscall(ctypes.c_long(self._destroy), self._context)
            os.close(self._eventfd)
            self._eventfd = -1
            self._told = {}

    @staticmethod
    def _check(result: int) -> int:
        if result < 0:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
        return result
