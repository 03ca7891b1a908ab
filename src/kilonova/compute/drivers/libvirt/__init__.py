"""QEMU guests through libvirt: embedded in this process by default, or a daemon's.

Read driver.py (the verbs), then domain.py (specs to XML), files.py and images.py (what is on disk), connection.py and reaper.py (threads,
events, processes), acceleration.py (KVM or not), snapshot.py, console.py. Why it is so: docs/internals/libvirt.md.
"""

from kilonova.compute.drivers.libvirt.config import LibvirtConfig
from kilonova.compute.drivers.libvirt.driver import Libvirt

__all__ = ["Libvirt", "LibvirtConfig"]
