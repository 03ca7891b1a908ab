"""A guest as libvirt's domain XML. Pure: specs in, text out; everything a user could have said is checked against a list or escaped."""

import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import msgspec

from kilonova.compute.drivers import DriverError, GuestSpec

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.\-]{0,62}")
_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_MAC = re.compile(r"([0-9a-fA-F]{2}:){5}[0-9a-fA-F]{2}")
_DEVICE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.\-]{0,14}")
_PREFIX = {"virtio": "vd", "scsi": "sd", "sata": "sd", "usb": "sd", "ide": "hd"}
DISK_BUSES = ("virtio", "scsi", "sata", "usb", "ide")
CDROM_BUSES = ("scsi", "sata", "usb", "ide")
VIF_MODELS = ("virtio", "e1000", "e1000e", "rtl8139", "vmxnet3")
VIDEO_MODELS = ("vga", "cirrus", "virtio", "qxl", "none")


class Disk(msgspec.Struct, frozen=True, kw_only=True):
    """A disk in the guest's folder. `base` is the file's name in the cache of base images; a cdrom is used from there directly."""

    role: str
    """root, ephemeral, swap or config"""
    file: str
    format: str
    bus: str
    device: str = "disk"
    base: str | None = None
    base_format: str | None = None


class Instance(msgspec.Struct, frozen=True, kw_only=True):
    """What is kept in a guest's folder: enough to start it again. `machine` is a full machine type (pc-q35-7.2), so that the guest keeps
    its hardware when QEMU is upgraded. The spec is without the config drive's content."""

    spec: GuestSpec
    machine: str
    disks: tuple[Disk, ...]
    version: int = 1


class Platform(msgspec.Struct, frozen=True, kw_only=True):
    """What does not differ between guests of one start of the driver."""

    virt_type: str
    cpu_model: str = ""
    cachemode: str = "writeback"
    tb_cache_mb: int = 32
    spare_pcie_ports: int = 8


def check_spec(spec: GuestSpec) -> None:
    """DriverError for what could not have come from a sane caller; names become parts of paths and XML."""
    wrong = ""
    if not _UUID.fullmatch(spec.server_id):
        wrong = "server id"
    elif not _NAME.fullmatch(spec.name):
        wrong = "name"
    elif not 1 <= spec.vcpus <= 288 or not 16 <= spec.ram_mb <= 1 << 24:
        wrong = "size"
    elif spec.root_gb < 0 or spec.ephemeral_gb < 0 or spec.swap_mb < 0:
        wrong = "disk size"
    for nic in spec.nics:
        if not _MAC.fullmatch(nic.mac) or not _DEVICE.fullmatch(nic.device_name) or not 68 <= nic.mtu <= 65535:
            wrong = "network device"
    if wrong:
        raise DriverError(f"The server's {wrong} is not valid.")


def check_server_id(server_id: str) -> None:
    if not _UUID.fullmatch(server_id):
        raise DriverError("The server's id is not valid.")


def machines(capabilities: str, arch: str = "x86_64") -> dict[str, str]:
    """Machine types that this libvirt offers: name or alias -> full name."""
    found: dict[str, str] = {}
    for machine in ElementTree.fromstring(capabilities).iterfind(f"./guest/arch[@name='{arch}']/machine"):
        found.setdefault(machine.text or "", machine.get("canonical") or machine.text or "")
    return found


def cpu_info(capabilities: str) -> dict[str, Any]:
    """The host's CPU in the form of Nova's hypervisor API."""
    cpu = ElementTree.fromstring(capabilities).find("./host/cpu")
    if cpu is None:
        return {}
    topology = cpu.find("topology")
    sizes = {} if topology is None else {k: int(topology.get(k, "1")) for k in ("sockets", "cores", "threads")}
    return {
        "arch": cpu.findtext("arch", ""), "model": cpu.findtext("model", ""), "vendor": cpu.findtext("vendor", ""),
        "topology": {"cells": 1, **sizes}, "features": sorted(f.get("name", "") for f in cpu.iterfind("feature")),
    }  # fmt: skip


def choose_machine(spec: GuestSpec, offered: dict[str, str]) -> str:
    wanted = spec.properties.get("hw_machine_type", "q35")
    full = offered.get(wanted)
    if full is None or not full.startswith("pc-"):
        raise DriverError(f"hw_machine_type {_shown(wanted)} is not offered by this host; use q35 or pc.")
    return full


def choose_buses(spec: GuestSpec, machine: str) -> tuple[str, str]:
    """Buses of disks and of CD-ROMs."""
    q35 = is_q35(machine)
    disk = _pick(spec, "hw_disk_bus", "virtio", DISK_BUSES)
    cdrom = _pick(spec, "hw_cdrom_bus", "scsi" if q35 else "ide", CDROM_BUSES)
    for name, bus in (("hw_disk_bus", disk), ("hw_cdrom_bus", cdrom)):
        if bus == "ide" and q35:
            raise DriverError(f"{name} ide does not exist on machine type q35; use sata, scsi or virtio.")
    return disk, cdrom


def is_q35(machine: str) -> bool:
    return "q35" in machine


def _pick(spec: GuestSpec, name: str, default: str, allowed: tuple[str, ...]) -> str:
    value = spec.properties.get(name, default)
    if value not in allowed:
        raise DriverError(f"{name} {_shown(value)} is not supported; use one of {', '.join(allowed)}.")
    return value


def _shown(value: str) -> str:
    return re.sub(r"[^A-Za-z0-9_.\-]", "?", value)[:40]


Element = ElementTree.Element


def _add(parent: Element, tag: str, text: str | None = None, **attributes: Any) -> Element:
    child = ElementTree.SubElement(parent, tag, {name.rstrip("_"): str(value) for name, value in attributes.items()})
    child.text = text
    return child


def domain_xml(instance: Instance, folder: Path, bases: Path, platform: Platform) -> str:
    """The transient domain of a guest whose files are in `folder`."""
    spec, q35 = instance.spec, is_q35(instance.machine)
    domain = ElementTree.Element("domain", {"type": platform.virt_type})
    _add(domain, "name", spec.name)
    _add(domain, "uuid", spec.server_id)
    _add(domain, "memory", str(spec.ram_mb), unit="MiB")
    _add(domain, "vcpu", str(spec.vcpus))
    system = _add(domain, "os")
    _add(system, "type", "hvm", arch="x86_64", machine=instance.machine)
    _add(system, "smbios", mode="sysinfo")
    _sysinfo(domain, spec)
    features = _add(domain, "features")
    _add(features, "acpi")
    _add(features, "apic")
    if platform.virt_type == "qemu":
        _add(_add(features, "tcg"), "tb-cache", str(platform.tb_cache_mb), unit="MiB")
    _cpu(domain, platform)
    _add(domain, "clock", offset="localtime" if spec.properties.get("os_type") == "windows" else "utc")
    for event, action in (("on_poweroff", "destroy"), ("on_reboot", "restart"), ("on_crash", "destroy")):
        _add(domain, event, action)
    devices = _add(domain, "devices")
    if q35:
        _add(devices, "controller", type="pci", model="pcie-root")
        for _ in range(_pcie_devices(instance) + platform.spare_pcie_ports):
            _add(devices, "controller", type="pci", model="pcie-root-port")
    _disks(devices, instance, folder, bases, platform)
    _nics(devices, spec)
    serial = _add(devices, "serial", type="unix")
    _add(serial, "source", mode="bind", path=folder / "serial.sock")
    _add(serial, "log", file=folder / "console.log", append="on")
    channel = _add(devices, "channel", type="unix")
    _add(channel, "source", mode="bind", path=folder / "agent.sock")
    _add(channel, "target", type="virtio", name="org.qemu.guest_agent.0")
    video = _pick(spec, "hw_video_model", "vga", VIDEO_MODELS)
    if video != "none":
        _add(devices, "graphics", type="vnc", socket=folder / "vnc.sock")
    _add(_add(devices, "video"), "model", type=video)
    _add(_add(devices, "rng", model="virtio"), "backend", "/dev/urandom", model="random")
    _add(_add(devices, "memballoon", model="virtio"), "stats", period=10)
    return ElementTree.tostring(domain, encoding="unicode")


def _sysinfo(domain: Element, spec: GuestSpec) -> None:
    """The product name is how cloud-init recognises an OpenStack cloud."""
    system = _add(_add(domain, "sysinfo", type="smbios"), "system")
    for name, value in (
        ("manufacturer", "Kilonova"), ("product", "OpenStack Compute"), ("serial", spec.server_id), ("uuid", spec.server_id),
        ("family", "Virtual Machine"),
    ):  # fmt: skip
        _add(system, "entry", value, name=name)


def _cpu(domain: Element, platform: Platform) -> None:
    if platform.virt_type == "kvm" and not platform.cpu_model:
        _add(domain, "cpu", mode="host-model")
    else:
        _add(_add(domain, "cpu", mode="custom", match="exact"), "model", platform.cpu_model or "Nehalem", fallback="forbid")


def _pcie_devices(instance: Instance) -> int:
    """Devices that take a port each: virtio disks, NICs, one SCSI controller, serial channel, random numbers, balloon."""
    disks = sum(disk.bus == "virtio" for disk in instance.disks)
    return disks + len(instance.spec.nics) + any(disk.bus == "scsi" for disk in instance.disks) + 3


def _disks(devices: Element, instance: Instance, folder: Path, bases: Path, platform: Platform) -> None:
    used: dict[str, int] = {}
    if any(disk.bus == "scsi" for disk in instance.disks):
        _add(devices, "controller", type="scsi", model="virtio-scsi")
    for disk in instance.disks:
        prefix = _PREFIX[disk.bus]
        target = prefix + "abcdefghijklmnopqrstuvwxyz"[used.get(prefix, 0)]
        used[prefix] = used.get(prefix, 0) + 1
        element = _add(devices, "disk", type="file", device=disk.device)
        if disk.device == "cdrom":
            _add(element, "driver", name="qemu", type=disk.format)
        else:
            _add(element, "driver", name="qemu", type=disk.format, cache=platform.cachemode, discard="unmap")
        in_cache = disk.device == "cdrom" and disk.base is not None
        _add(element, "source", file=bases / str(disk.base) if in_cache else folder / disk.file)
        _backing(element, disk, bases)
        _add(element, "target", dev=target, bus=disk.bus)
        if disk.device == "cdrom" or disk.role == "config":
            _add(element, "readonly")
        if disk.role == "root":
            _add(element, "boot", order=1)


def _backing(element: Element, disk: Disk, bases: Path) -> None:
    """The whole chain is said, so that neither libvirt nor QEMU asks the image's own header what to open."""
    if disk.base is None or disk.device == "cdrom":
        _add(element, "backingStore")
        return
    backing = _add(element, "backingStore", type="file")
    _add(backing, "format", type=disk.base_format)
    _add(backing, "source", file=bases / disk.base)
    _add(backing, "backingStore")


def _nics(devices: Element, spec: GuestSpec) -> None:
    model = _pick(spec, "hw_vif_model", "virtio", VIF_MODELS)
    for nic in spec.nics:
        element = _add(devices, "interface", type="ethernet")
        _add(element, "mac", address=nic.mac.lower())
        _add(element, "target", dev=nic.device_name, managed="no")
        _add(element, "model", type=model)
        if model == "virtio":
            _add(element, "mtu", size=nic.mtu)
