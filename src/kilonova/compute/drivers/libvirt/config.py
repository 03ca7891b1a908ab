"""Settings of the libvirt driver."""

import hashlib
import os
from pathlib import Path

import msgspec

RUN_FOLDER = Path("/run/kilonova")


def short_alias(state_folder: Path, run_folder: Path = RUN_FOLDER) -> Path:
    """The name that guests know a state folder by whose own is too long for socket paths: a symbolic link."""
    return run_folder / ("s" + hashlib.sha256(os.fsencode(state_folder)).hexdigest()[:10])


class LibvirtConfig(msgspec.Struct, frozen=True, kw_only=True):
    state_folder: Path
    hypervisor_hostname: str = ""
    """Empty: the machine's host name."""
    connection_uri: str = "auto"
    """auto: libvirt embedded in this process, kept under <state>/libvirt. Else a libvirt URI such as qemu:///system."""
    virt_type: str = "auto"
    """auto, kvm or qemu."""
    cpu_model: str = ""
    """Empty: the host's own with KVM, Nehalem (x86-64-v2) when emulating."""
    network_namespace: str | None = None
    """Name under /run/netns in which taps live and guests run; None: the machine's own."""
    config_drive_format: str = "iso9660"
    disk_cachemode: str = "writeback"
    tb_cache_mb: int = 32
    """Translation cache of each emulated guest."""
    spare_pcie_ports: int = 8
    """Room for devices attached later, for each q35 guest."""
    base_cache_bytes: int = 20 << 30
    """Base images that no guest uses are removed, oldest first, when all take more than this."""
    console_log_bytes: int = 1 << 20
    """A console log that grows beyond this is moved aside; one older piece is kept."""
    probe_cache_folder: Path = Path("/var/cache/kilonova")
    kvm_device: Path = Path("/dev/kvm")
    cpuinfo: Path = Path("/proc/cpuinfo")
    run_folder: Path = RUN_FOLDER
    """Where a short alias of the state folder is made when socket paths in it would be too long."""
    libvirt_threads: int = 8
    file_threads: int = 4
