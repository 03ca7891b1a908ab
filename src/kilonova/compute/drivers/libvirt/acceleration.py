"""Whether KVM really works here.

/dev/kvm that opens, and libvirt's capabilities that list kvm, are no proof: a kernel may offer KVM without hardware virtualisation, and
guests then die early in an instruction emulator while libvirt calls them running. On x86 the CPU flags decide.
"""

import os
from pathlib import Path

import msgspec

from kilonova.compute.drivers import DriverError


class Acceleration(msgspec.Struct, frozen=True, kw_only=True):
    kvm_usable: bool
    reason: str


def probe(kvm_device: Path, cpuinfo: Path) -> Acceleration:
    try:
        os.close(os.open(kvm_device, os.O_RDWR | os.O_CLOEXEC))
    except OSError as error:
        return Acceleration(kvm_usable=False, reason=f"KVM is not usable on this host: its device cannot be opened ({error.strerror}).")
    try:
        flags = _flags(cpuinfo.read_text(errors="replace"))
    except OSError as error:
        return Acceleration(kvm_usable=False, reason=f"KVM is not usable on this host: its CPU flags cannot be read ({error.strerror}).")
    if not flags & {"vmx", "svm"}:
        return Acceleration(kvm_usable=False, reason="KVM is not usable on this host: the CPU flags show neither vmx nor svm.")
    return Acceleration(kvm_usable=True, reason="KVM is usable on this host.")


def _flags(cpuinfo: str) -> set[str]:
    """Flags of the first processor."""
    for line in cpuinfo.splitlines():
        name, _, value = line.partition(":")
        if name.strip() == "flags":
            return set(value.split())
    return set()


def choose(wanted: str, found: Acceleration) -> str:
    """kvm or qemu; DriverError if KVM is demanded where it cannot work."""
    if wanted == "auto":
        return "kvm" if found.kvm_usable else "qemu"
    if wanted == "kvm" and not found.kvm_usable:
        raise DriverError(found.reason)
    if wanted not in ("kvm", "qemu"):
        raise DriverError(f"The virt_type {wanted} is not known; use auto, kvm or qemu.")
    return wanted
