"""The guests of fake hosts in a file, so that they outlive the process that a `kill -9` ends, as QEMU's processes do.

One line of JSON for each change: a guest as it is now, or that it is gone. Lines reach the kernel at once and the disk whenever it likes:
a fake guest need not survive the machine. Opening reads the file, leaves out a torn last line, and writes it anew with what is alive.

On a full disk a verb fails with a DriverError; the file keeps its whole lines, and the next verb that finds room writes it anew.
"""

import errno
import os
from functools import partial
from pathlib import Path

import msgspec

from kilonova.compute.drivers import DriverError
from kilonova.compute.drivers.fake.host import FakeHost, GuestRow, guest_of, row_of

REWRITE_BYTES = 64 << 20
"""How much may be appended before the file is written anew."""


class Change(msgspec.Struct, omit_defaults=True):
    host: str
    server_id: str
    guest: GuestRow | None = None


class GuestJournal:
    """The hosts of one process. The file's folder is made when it is missing."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.hosts: dict[str, FakeHost] = {}
        self._encode = msgspec.json.Encoder().encode
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        if path.exists():
            self._replay(path.read_bytes())
        self._descriptor = -1
        self._behind = False
        """The file lacks something that has happened."""
        self._bytes = self._kept = 0
        """Of the file, now and when it was written anew."""
        self._rewrite()

    def of(self, host: str) -> FakeHost:
        found = self.hosts.get(host)
        if found is None:
            found = self.hosts[host] = FakeHost()
            found.changed = partial(self._changed, host)
        return found

    def close(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def _replay(self, data: bytes) -> None:
        decode = msgspec.json.Decoder(Change).decode
        for line in data.split(b"\n")[:-1]:
            change = decode(line)
            guests = self.of(change.host).guests
            if change.guest is None:
                guests.pop(change.server_id, None)
            else:
                guests[change.server_id] = guest_of(change.guest)

    def _line(self, host: str, server_id: str) -> bytes:
        guest = self.hosts[host].guests.get(server_id)
        return self._encode(Change(host=host, server_id=server_id, guest=None if guest is None else row_of(guest))) + b"\n"

    def _changed(self, host: str, server_id: str) -> None:
        """Raises DriverError."""
        if self._descriptor < 0:
            return
        try:
            if self._behind or self._bytes - self._kept > REWRITE_BYTES:
                self._rewrite()
            else:
                self._append(self._line(host, server_id))
        except OSError as error:
            self._behind = True
            raise DriverError(f"The guest's state cannot be written: {error.strerror}.") from None

    def _append(self, line: bytes) -> None:
        written = -1
        try:
            written = os.write(self._descriptor, line)
            if written < len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        finally:
            if written != len(line):
                os.ftruncate(self._descriptor, self._bytes)
        self._bytes += len(line)

    def _rewrite(self) -> None:
        fresh = self.path.with_name(f"{self.path.name}.new")
        try:
            with open(fresh, "wb") as file:
                os.fchmod(file.fileno(), 0o600)
                for name, host in self.hosts.items():
                    file.writelines(self._line(name, server_id) for server_id in host.guests)
        except OSError:
            fresh.unlink(missing_ok=True)
            raise
        fresh.replace(self.path)
        self.close()
        self._descriptor = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)
        self._bytes = self._kept = os.fstat(self._descriptor).st_size
        self._behind = False
