"""Copies of a root disk: by the QEMU of a guest that runs, by qemu-img of one that does not. The result is one qcow2 file that needs
no other.
"""

import subprocess
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

from kilonova.compute.drivers import DriverError

# libvirt's numbers (stable ABI)
_NO_JOB = 0
_COMPLETED = 3
_STATS_OF_COMPLETED = 1
GONE = "The guest ended before its disk was copied."


class ColdCopy:
    """Of a disk that nobody writes to. `stop` may be called from another thread, before or during `run`."""

    def __init__(self, source: Path, source_format: str, target: Path):
        self._command = ["qemu-img", "convert", "-f", source_format, "-O", "qcow2", str(source), str(target)]
        self._process: subprocess.Popen[bytes] | None = None
        self._stopped = False

    def run(self) -> None:
        """Blocks."""
        if not self._stopped:
            self._process = subprocess.Popen(self._command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
            if self._stopped:
                self._process.kill()
            _, said = self._process.communicate()
        if self._stopped:
            raise DriverError(GONE)
        assert self._process is not None
        if self._process.returncode != 0:
            raise DriverError("The server's disk could not be copied.", said.decode("utf-8", "replace")[-500:])

    def stop(self) -> None:
        self._stopped = True
        if self._process is not None:
            self._process.kill()


def begin(connection: Any, server_id: str, source: Path, target: Path) -> None:
    """Ask QEMU for a copy of the disk as it is now. A job that an earlier process left is given up."""
    guest = connection.lookupByUUIDString(server_id)
    if guest.jobInfo()[0] != _NO_JOB:
        guest.abortJob()
    target.touch(0o600)  # the embedded libvirt has no storage driver that would make it; QEMU gives it its format
    guest.backupBegin(_request(guest.XMLDesc(), source, target), None)


def _request(domain_xml: str, source: Path, target: Path) -> str:
    request = ElementTree.Element("domainbackup", mode="push")
    disks = ElementTree.SubElement(request, "disks")
    for disk in ElementTree.fromstring(domain_xml).iterfind("devices/disk"):
        at, file = disk.find("target"), disk.find("source")
        assert at is not None
        wanted = file is not None and file.get("file") == str(source)
        entry = ElementTree.SubElement(disks, "disk", name=at.get("dev", ""), backup="yes" if wanted else "no")
        if wanted:
            entry.set("type", "file")
            ElementTree.SubElement(entry, "target", file=str(target))
            ElementTree.SubElement(entry, "driver", type="qcow2")
    return ElementTree.tostring(request, encoding="unicode")


def finished(connection: Any, server_id: str) -> bool:
    """Raises DriverError when the copy failed or the guest is gone."""
    try:
        guest = connection.lookupByUUIDString(server_id)
        if guest.jobInfo()[0] != _NO_JOB:
            return False
        stats = guest.jobStats(_STATS_OF_COMPLETED)
    except Exception as error:
        raise DriverError(GONE, str(error)) from error
    if stats.get("type") != _COMPLETED:
        raise DriverError("The server's disk could not be copied.", str(stats.get("errmsg", stats)))
    return True


def abort(connection: Any, server_id: str) -> None:
    """Raises DriverError when there is no job any more, or no guest."""
    try:
        connection.lookupByUUIDString(server_id).abortJob()
    except Exception as error:
        raise DriverError(GONE, str(error)) from error
