"""Hypervisor drivers: the verbs that an agent asks for, the structs it hands over, and the list of what is in the tree.

Every verb is idempotent: repeated with the same arguments it lands in the same state, and a verb on a guest that is already so is
no error. A driver keeps what it needs to start a guest again next to the guest, so that it survives its own death; guests never die
with it. Verbs to come (pause, suspend, resize, rebuild, snapshot, migration, attaching disks and NICs) have the same shape: they take a
server id or a `GuestSpec`, and raise `DriverError`.
"""

from collections.abc import Awaitable, Callable
from enum import IntEnum
from typing import Any, Protocol

import msgspec

BUILTIN = {"libvirt": "kilonova.compute.drivers.libvirt:Libvirt", "fake": "kilonova.compute.drivers.fake:Fake"}

CONSOLE_BYTES = 100 << 10
"""The most that `console_output` returns: the tail of the log."""


class DriverError(Exception):
    """A verb failed. `reason` is a sentence fit for users: no paths, no connection strings. `detail` is for the log only."""

    def __init__(self, reason: str, detail: str = ""):
        super().__init__(reason)
        self.reason = reason
        self.detail = detail


class PowerState(IntEnum):
    """Nova's numbers."""

    NOSTATE = 0
    RUNNING = 1
    PAUSED = 3
    SHUTDOWN = 4
    CRASHED = 6
    SUSPENDED = 7


class ImageSpec(msgspec.Struct, frozen=True, kw_only=True):
    """The image that the root disk starts from. `size` is bytes of the file; checks on what is None are left out."""

    id: str
    disk_format: str
    size: int | None = None
    virtual_size: int | None = None
    os_hash_algo: str | None = None
    os_hash_value: str | None = None


class NicSpec(msgspec.Struct, frozen=True, kw_only=True):
    """A NIC whose tap `device_name` the network agent has made beforehand in the host's namespace."""

    port_id: str
    mac: str
    device_name: str
    mtu: int = 1500


class GuestSpec(msgspec.Struct, frozen=True, kw_only=True):
    server_id: str
    name: str
    """`instance-%08x`: what the hypervisor calls the guest."""
    vcpus: int
    ram_mb: int
    root_gb: int
    """0: as large as the image."""
    ephemeral_gb: int = 0
    swap_mb: int = 0
    image: ImageSpec | None = None
    """None: the root disk is blank."""
    nics: tuple[NicSpec, ...] = ()
    config_drive: dict[str, bytes] | None = None
    """Path -> content of the files on the config drive; None: no config drive."""
    properties: dict[str, str] = {}
    """hw_* and os_* of image properties and flavor extra specs; a driver ignores names that it does not know."""


class GuestState(msgspec.Struct, frozen=True, kw_only=True):
    server_id: str
    power_state: PowerState
    reason: str = ""


class HostResources(msgspec.Struct, frozen=True, kw_only=True):
    hypervisor_hostname: str
    hypervisor_type: str
    hypervisor_version: int
    """QEMU 7.2.22 is 7002022."""
    vcpus: int
    ram_mb: int
    disk_gb: int
    free_disk_gb: int
    cpu_info: dict[str, Any] = {}
    virt_type: str = ""
    """What guests get: kvm or qemu (emulation)."""
    supported_virt_types: tuple[str, ...] = ()
    virt_type_reason: str = ""
    """Why `virt_type` is what it is, one sentence."""


class GuestStopped(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """The guest switched itself off."""

    server_id: str
    reason: str = ""
    power_state: PowerState = PowerState.SHUTDOWN


class GuestCrashed(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """The guest, or the process that runs it, died."""

    server_id: str
    reason: str = ""
    power_state: PowerState = PowerState.CRASHED


class GuestPaused(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """The hypervisor stopped running the guest although nobody asked: a disk error, or an emulation failure."""

    server_id: str
    reason: str = ""
    power_state: PowerState = PowerState.PAUSED


GuestEvent = GuestStopped | GuestCrashed | GuestPaused
OnEvent = Callable[[GuestEvent], Awaitable[None]]
FetchImage = Callable[[str, str], Awaitable[None]]
"""fetch(image id, path): put the image's bytes into a new file at `path`."""
StoreImage = Callable[[str], Awaitable[None]]
"""store(path): a file's bytes become an image; the file may go when this returns."""


class Driver(Protocol):
    async def start(self, on_event: OnEvent) -> None:
        """Connect, take up the guests that are there, and from now on tell what guests do by themselves."""

    async def stop(self) -> None:
        """Let go. Guests live on."""

    async def resources(self) -> HostResources: ...

    async def spawn(self, spec: GuestSpec, fetch_image: FetchImage, *, replace_disk: bool = False) -> GuestState:
        """Make the guest's disks and start it. Over an existing guest its disks are kept unless `replace_disk` (rebuild)."""

    async def destroy(self, server_id: str) -> None:
        """End the guest and remove all its files; fine if there is nothing."""

    async def power_on(self, spec: GuestSpec) -> GuestState: ...

    async def power_off(self, server_id: str, timeout_s: float = 60.0) -> GuestState:
        """Ask the guest to switch itself off (ACPI); after `timeout_s` switch it off. 0: at once."""

    async def reboot_soft(self, server_id: str, timeout_s: float = 120.0) -> GuestState:
        """Shut down within `timeout_s` and start again; a guest that does not react is rebooted hard."""

    async def reboot_hard(self, spec: GuestSpec) -> GuestState:
        """A new process on the same disks, whatever state the guest was in."""

    async def snapshot(self, server_id: str, store: StoreImage) -> None:
        """Copy the root disk, as it is at one moment, into one qcow2 file and hand it to `store`. A running guest goes on running; one
        that is destroyed meanwhile ends the copy with DriverError."""

    async def list_guests(self) -> list[GuestState]:
        """All guests of ours on this host, running or not, ordered by id."""

    async def state(self, server_id: str) -> GuestState | None:
        """None: there is no such guest here."""

    async def console_output(self, server_id: str, lines: int | None = None) -> str:
        """The last `lines` lines that the guest wrote to its serial console, at most CONSOLE_BYTES."""

    async def inventory(self) -> tuple[str, ...]:
        """Names of everything that exists because of guests (files, processes), sorted: empty after the last destroy."""
