"""This machine: QEMU, libvirt, KVM, disk, memory, clock."""

import datetime
import importlib.util
import os
import platform
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

from kilonova.cli.checks import Finding, Subject
from kilonova.cli.state import default_path

DISK_LOW_BYTES = 1 << 30
DISK_SHORT_BYTES = 5 << 30
MEMORY_SHORT_MB = 512
CLOCK_JUMP_S = 120


def _needs_guests(subject: Subject) -> bool:
    return subject.state is None or subject.state.mark.driver in ("", "libvirt")


def hypervisor(subject: Subject) -> Iterator[Finding]:
    if not _needs_guests(subject):
        return
    binary = f"qemu-system-{platform.machine()}"
    severity = "error" if subject.state is not None and subject.state.mark.driver == "libvirt" else "warning"
    instead = " (Clouds with --driver fake need none.)"
    for program in (binary, "qemu-img"):
        if shutil.which(program) is None:
            yield Finding(
                check="hypervisor",
                severity=severity,
                sentence=f"{program} is not installed.",
                hint="On Debian: apt-get install qemu-system-x86 qemu-utils." + instead,
            )
    if importlib.util.find_spec("libvirt") is None:
        yield Finding(
            check="hypervisor",
            severity=severity,
            sentence="Python's libvirt bindings are not installed.",
            hint="On Debian: apt-get install python3-libvirt, then make setup." + instead,
        )


def kvm_verdict(device: Path = Path("/dev/kvm"), cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """Empty when KVM is usable, else why not. A device that opens is not enough: without vmx or svm guests hang in an emulator."""
    try:
        os.close(os.open(device, os.O_RDWR | os.O_CLOEXEC))
    except FileNotFoundError:
        return f"there is no {device}"
    except OSError as error:
        return f"{device} cannot be opened ({error.strerror})"
    if platform.machine() not in ("x86_64", "i686"):
        return ""
    try:
        flags = {word for line in cpuinfo.read_text().splitlines() if line.startswith("flags") for word in line.split()}
    except OSError:
        flags = set()
    return "" if flags & {"vmx", "svm"} else f"{device} opens, but the processor offers neither vmx nor svm"


def kvm(subject: Subject) -> Iterator[Finding]:
    verdict = kvm_verdict() if _needs_guests(subject) else ""
    if verdict:
        yield Finding(
            check="kvm",
            severity="note",
            sentence=f"Guests run emulated, which is slow: {verdict}.",
            hint="Enable virtualisation in the firmware, or nested virtualisation for this virtual machine.",
        )


def disk(subject: Subject) -> Iterator[Finding]:
    path = subject.state.path if subject.state else default_path()
    while not path.exists():
        path = path.parent
    about = os.statvfs(path)
    free = about.f_bavail * about.f_frsize
    if free < DISK_SHORT_BYTES:
        yield Finding(
            check="disk",
            severity="error" if free < DISK_LOW_BYTES else "warning",
            sentence=f"{free / (1 << 30):.1f} GiB are free where {path} lies.",
            hint="Make room, or move the state to a larger disk; images and guests' disks grow there.",
        )
    if about.f_files and about.f_favail < 10_000:
        yield Finding(
            check="disk", severity="warning", sentence=f"{about.f_favail} files can still be made in {path}.", hint="Remove some."
        )


def memory(subject: Subject) -> Iterator[Finding]:
    try:
        lines = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
        free_mb = int(lines["MemAvailable"].split()[0]) // 1024
    except (OSError, KeyError, ValueError):
        return
    if free_mb < MEMORY_SHORT_MB:
        yield Finding(
            check="memory", severity="warning", sentence=f"{free_mb} MiB of memory are available.", hint="Delete servers, or add memory."
        )


def clock(subject: Subject) -> Iterator[Finding]:
    """Tokens and leases live by it."""
    hint = "Set the clock, and keep it with NTP."
    if datetime.datetime.now(datetime.UTC).year < 2026:
        yield Finding(check="clock", severity="error", sentence="The clock is in the past.", hint=hint)
    if subject.state is None:
        return
    newest = 0.0
    for name in ("kilonova.db", "kilonova.db-wal", "run/pid", "log/kilonova.log"):
        try:
            newest = max(newest, (subject.state.path / name).stat().st_mtime)
        except OSError:
            continue
    ahead_s = newest - time.time()
    if ahead_s > CLOCK_JUMP_S:
        yield Finding(
            check="clock",
            severity="error",
            sentence=f"The clock went back by at least {ahead_s:.0f} s: the state has files of the future.",
            hint=hint,
        )
