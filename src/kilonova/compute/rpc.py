"""What crosses to a hypervisor's agent and back: structs only. New fields come with defaults.

Each command carries the server's generation and the operation's epoch; an agent keeps the highest pair it saw for a server and refuses
lower ones, so that a runner that was asleep and wakes up does no harm.
"""

from typing import Any

import msgspec


class Fence(msgspec.Struct, frozen=True, kw_only=True):
    """number: counts the commands of one epoch to one host: one that comes late or twice is not carried out after the next."""

    operation: str
    generation: int
    epoch: int
    number: int = 0


class GuestNic(msgspec.Struct, frozen=True, kw_only=True):
    port_id: str
    mac: str
    device_name: str
    mtu: int = 1500


class GuestImage(msgspec.Struct, frozen=True, kw_only=True):
    id: str
    disk_format: str
    size: int
    virtual_size: int | None = None
    os_hash_algo: str | None = None
    os_hash_value: str | None = None


class Guest(msgspec.Struct, frozen=True, kw_only=True):
    """A guest as the hypervisor needs to know it."""

    server_id: str
    instance_name: str
    vcpus: int
    ram_mb: int
    root_gb: int
    ephemeral_gb: int = 0
    swap_mb: int = 0
    image: GuestImage | None = None
    nics: tuple[GuestNic, ...] = ()
    config_drive: dict[str, bytes] | None = None
    """Path -> content; None: no config drive."""
    properties: dict[str, str] = {}
    """hw_* and os_* of image properties and flavor extra specs."""


class Spawn(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """replace_disk: make the disks anew, of the guest's image, even if there are some (rebuild)."""

    fence: Fence
    guest: Guest
    replace_disk: bool = False


class Destroy(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    fence: Fence
    server_id: str


class PowerOn(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    fence: Fence
    guest: Guest


class PowerOff(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    fence: Fence
    server_id: str
    timeout_s: float = 60.0


class Reboot(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    fence: Fence
    guest: Guest
    hard: bool = False


class Snapshot(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Copy the root disk into an image that waits for its bytes."""

    fence: Fence
    server_id: str
    image_id: str


class ReadConsole(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    server_id: str
    lines: int | None = None


class Console(msgspec.Struct, frozen=True, kw_only=True):
    text: str


class Done(msgspec.Struct, frozen=True, kw_only=True):
    """The command has been carried out; `power_state` in Nova's numbers."""

    power_state: int


class HostReport(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """What a host says of itself when it starts, and when something about it changes."""

    host: str
    hypervisor_hostname: str
    hypervisor_type: str
    hypervisor_version: int
    vcpus: int
    ram_mb: int
    disk_gb: int
    cpu_info: dict[str, Any] = {}
    host_ip: str = "127.0.0.1"


class HostAccepted(msgspec.Struct, frozen=True, kw_only=True):
    """The answer to a report: guests that belong on the host. Others of ours there are left-overs of deleted servers."""

    host_id: str
    servers: tuple[str, ...] = ()
    complete: bool = False
    """Whether `servers` is all of them, so that the agent may remove others."""
    settled: dict[str, tuple[int, int]] = {}
    """Servers of the host that no verb is working on -> (generation, power state as the row has it)."""


class Alive(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Heartbeat of several hosts of one process."""

    hosts: tuple[str, ...]


class GuestChanged(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """A guest did something by itself: it stopped, paused or crashed. Nobody asked for it."""

    host: str
    server_id: str
    power_state: int
    reason: str = ""
    generation: int = 0
    """Of the server when this was true; the fact means nothing once a later verb has begun. 0: not known."""


class OperationReady(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """To the conductors: an operation waits for a runner. A hint only; they look for such operations by themselves, too."""

    operation: str


class StoreImage(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """To the image service: fill an image from a file that `address` gives out in pieces. The reply comes when the image is active."""

    image_id: str
    address: str


class ReadPiece(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """At most `length` bytes; fewer only at the end."""

    offset: int
    length: int


class Piece(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    data: bytes


class HostClaim(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """To the conductors, from other processes of the control plane: has this host that server, a server of that image, or a snapshot under
    way that fills that image? One of the three is asked."""

    host: str
    server_id: str = ""
    image_id: str = ""
    fills_image: str = ""


class ClaimHolds(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    holds: bool
