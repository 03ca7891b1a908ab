"""Persistent taps that a hypervisor opens later by name. Source: Documentation/networking/tuntap.rst of the kernel."""

import fcntl
import os
import struct

_TUNSETIFF, _TUNSETPERSIST, _TUNSETVNETHDRSZ = 0x4004_54CA, 0x4004_54CB, 0x4004_54D8
_IFF_TAP, _IFF_NO_PI, _IFF_VNET_HDR = 0x0002, 0x1000, 0x4000
VNET_HEADER_BYTES = 10
DEVICE = "/dev/net/tun"


def attach(name: str) -> int:
    """Open the tap (made if it is not there) in the calling thread's namespace. Frames carry a 10-byte virtio-net header."""
    descriptor = os.open(DEVICE, os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        fcntl.ioctl(descriptor, _TUNSETIFF, struct.pack("16sH22x", name.encode(), _IFF_TAP | _IFF_NO_PI | _IFF_VNET_HDR))
        fcntl.ioctl(descriptor, _TUNSETVNETHDRSZ, struct.pack("=i", VNET_HEADER_BYTES))
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def create(name: str) -> None:
    """Make it and let go: it stays until its link is deleted."""
    descriptor = attach(name)
    try:
        fcntl.ioctl(descriptor, _TUNSETPERSIST, 1)
    finally:
        os.close(descriptor)


def available() -> bool:
    try:
        os.close(os.open(DEVICE, os.O_RDWR | os.O_CLOEXEC))
    except OSError:
        return False
    return True
