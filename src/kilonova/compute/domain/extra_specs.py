"""Flavor extra specs that compute knows: from 2.86 on a known name must have a sensible value, and a known prefix a known name.

A table of (pattern of the name, check of the value). Pure.
"""

import re
from collections.abc import Callable

Check = Callable[[str], str]
"""What is wrong with a value; empty when nothing is."""


def _one_of(*values: str) -> Check:
    return lambda value: "" if value in values else f"'{value}' is not one of: {', '.join(values)}"


def _integer(minimum: int = 0, maximum: int | None = None) -> Check:
    def check(value: str) -> str:
        if not re.fullmatch(r"-?[0-9]{1,18}", value):
            return f"'{value}' could not be parsed as an integer"
        if int(value) < minimum:
            return f"'{value}' is less than the minimum of {minimum}"
        return f"'{value}' is greater than the maximum of {maximum}" if maximum is not None and int(value) > maximum else ""

    return check


def _boolean(value: str) -> str:
    known = ("true", "false", "1", "0", "yes", "no", "on", "off", "t", "f", "y", "n")
    return "" if value.lower() in known else f"'{value}' could not be parsed as a boolean"


def _like(pattern: str) -> Check:
    return lambda value: "" if re.fullmatch(pattern, value) else f"'{value}' does not match '{pattern}'"


def _any(value: str) -> str:
    return ""


_CPUS = r"\^?\d+((-\d+)?(,\^?\d+(-\d+)?)?)*"
KNOWN: tuple[tuple[str, Check], ...] = (
    (r"hw:cpu_policy", _one_of("dedicated", "shared", "mixed")),
    (r"hw:cpu_thread_policy", _one_of("prefer", "isolate", "require")),
    (r"hw:emulator_threads_policy", _one_of("isolate", "share")),
    (r"hw:cpu_dedicated_mask", _like(_CPUS)),
    (r"hw:cpu_realtime", _boolean),
    (r"hw:cpu_realtime_mask", _like(_CPUS)),
    (r"hw:cpu_sockets|hw:cpu_cores|hw:cpu_threads|hw:cpu_max_sockets|hw:cpu_max_cores|hw:cpu_max_threads", _integer(1)),
    (r"hw:numa_nodes", _integer(1)),
    (r"hw:numa_cpus\.\d+", _like(_CPUS)),
    (r"hw:numa_mem\.\d+", _integer(1)),
    (r"hw:pci_numa_affinity_policy", _one_of("required", "preferred", "legacy", "socket")),
    (r"hw:mem_page_size", _like(r"(large|small|any)|\d+([kKMGT]i?)?(b|bit|B)?")),
    (r"hw:mem_encryption|hw:pmu|hw:boot_menu|hw:watchdog_enabled|hw:hide_hypervisor_id|hide_hypervisor_id|hw:locked_memory", _boolean),
    (r"hw:watchdog_action", _one_of("none", "pause", "poweroff", "reset", "disabled")),
    (r"hw:serial_port_count", _integer(0)),
    (r"hw:tpm_version", _one_of("1.2", "2.0")),
    (r"hw:tpm_model", _one_of("tpm-tis", "tpm-crb")),
    (r"hw:vif_multiqueue_enabled|hw:viommu_enabled", _boolean),
    (r"hw:viommu_model", _one_of("intel", "smmuv3", "virtio", "auto")),
    (r"hw:maxphysaddr_mode", _one_of("passthrough", "emulate")),
    (r"hw:maxphysaddr_bits", _integer(1)),
    (r"hw:virtio_packed_ring", _boolean),
    (r"hw:pmem", _any),
    (r"hw:sound_model|hw:usb_model|hw:redirected_usb_ports|hw:input_bus|hw:machine_type", _any),
    (r"hw:tdx|hw:firmware_type|hw:firmware_stateless", _any),
    (r"hw_video:ram_max_mb", _integer(0)),
    (r"hw_rng:allowed", _boolean),
    (r"hw_rng:rate_bytes|hw_rng:rate_period", _integer(0)),
    (r"os:secure_boot", _one_of("disabled", "optional", "required")),
    (r"os:monitors", _any),
    (r"quota:(cpu_quota|cpu_period|cpu_shares)", _integer(-1)),
    (r"quota:(disk|vif)_(read|write|inbound|outbound)_(bytes|iops|average|peak|burst)(_sec|_sec_max)?", _integer(0)),
    (r"quota:disk_total_(bytes|iops)_sec(_max)?", _integer(0)),
    (r"quota:disk_io_(limit|reservation|shares_share)|quota:disk_io_shares_level", _any),
    (r"resources([0-9a-zA-Z_-]{1,64})?:(VCPU|MEMORY_MB|DISK_GB|PCPU|[A-Z0-9_]+)", _integer(0)),
    (r"trait([0-9a-zA-Z_-]{1,64})?:[A-Z0-9_]+", _one_of("required", "forbidden")),
    (r"group_policy", _one_of("isolate", "none")),
    (r"pci_passthrough:alias", _like(r"[^:]+:\d+(\s*,\s*[^:]+:\d+)*")),
    (r"accel:device_profile", _any),
)
PREFIXES = frozenset({"accel", "hw", "hw_rng", "hw_video", "os", "pci_passthrough", "quota"})
_COMPILED = [(re.compile(pattern), check) for pattern, check in KNOWN]


def wrong(name: str, value: str) -> str:
    """Why this extra spec is refused; empty when it is fine (names outside known prefixes are anybody's)."""
    for pattern, check in _COMPILED:
        if pattern.fullmatch(name):
            problem = check(value)
            return f"Validation failed; {problem}." if problem else ""
    if name.partition(":")[0] in PREFIXES and ":" in name:
        return f"Validation failed; extra spec '{name}' does not appear to be a valid extra spec."
    return ""
