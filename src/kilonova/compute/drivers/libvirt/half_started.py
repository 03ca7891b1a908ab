"""Guests in the middle of whose start an earlier process was killed: they are ended before embedded libvirt can see them.

libvirt writes a guest's status file before there is a QEMU, and again when QEMU has a pid, when it talks, and when its CPUs may run. One
that it finds in the first of these (`state='paused' reason='starting up'`, no QEMU, or one that ended by itself when we died) it tries
to adopt for ever: whoever asks for that guest gets "cannot acquire state change lock" (libvirt 9.0). The later ones it ends itself, after
a second or two. None of them has run an instruction, so nothing is lost: whoever wanted the guest starts it anew.

A QEMU holds a lock on its pid file from before it is QEMU until it ends: that, not the number in the file, says which process it is.
"""

import fcntl
import logging
import os
import select
import shutil
import signal
import struct
from pathlib import Path
from xml.etree import ElementTree

log = logging.getLogger(__name__)
_FLOCK = "hhqqi4x"  # struct flock of <bits/fcntl.h> on 64 bits: type, whence, start, len, pid
_END_S = 10.0


def starting(status: bytes) -> bool:
    """Whether libvirt's status of a guest says that its start was under way and its CPUs never ran. What is not understood is libvirt's."""
    try:
        top = ElementTree.fromstring(status)
    except ElementTree.ParseError:
        return False
    return top.tag == "domstatus" and (top.get("state"), top.get("reason")) == ("paused", "starting up")


def end_all(embed_root: Path) -> list[str]:
    """Names of the guests that were ended. Blocks; no libvirt may have this root open."""
    ended = []
    for file in sorted((embed_root / "run" / "qemu").glob("*.xml")):
        status = file.read_bytes()
        if starting(status):
            _end(file, ElementTree.fromstring(status), embed_root)
            ended.append(file.stem)
    return ended


def _end(file: Path, status: ElementTree.Element, embed_root: Path) -> None:
    """Its status goes last: until then the next process begins again here."""
    pid_file = file.with_suffix(".pid")
    if not _end_holder(pid_file):
        log.warning("guest %s was half started and its process does not end; libvirt may not be able to use it", file.stem)
        return
    pid_file.unlink(missing_ok=True)
    monitor = status.find("monitor")
    folder = Path(monitor.get("path", "") if monitor is not None else "").parent
    if folder.parent == embed_root / "lib" / "qemu":
        shutil.rmtree(folder, ignore_errors=True)
    file.unlink()
    log.warning("guest %s was half started when the process before this one ended; it was ended and can be started again", file.stem)


def lock_holder(path: Path) -> int | None:
    """Pid of the process with a lock on the file; None: nobody, or no such file."""
    try:
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        answer = fcntl.fcntl(fd, fcntl.F_GETLK, struct.pack(_FLOCK, fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0))
    finally:
        os.close(fd)
    kind, _, _, _, pid = struct.unpack(_FLOCK, answer)
    return None if kind == fcntl.F_UNLCK or pid <= 0 else int(pid)


def _end_holder(path: Path) -> bool:
    """Whether nobody holds the lock any more. By a pidfd, and only if its process holds the lock after that was opened: never another
    process of that number."""
    pid = lock_holder(path)
    if pid is None:
        return True
    try:
        fd = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        if lock_holder(path) != pid:
            return lock_holder(path) is None
        signal.pidfd_send_signal(fd, signal.SIGKILL)
        poll = select.poll()
        poll.register(fd, select.POLLIN)
        return bool(poll.poll(_END_S * 1000))
    except ProcessLookupError:
        return True
    finally:
        os.close(fd)
