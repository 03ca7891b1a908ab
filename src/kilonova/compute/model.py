"""Compute's nouns. Times are microseconds; sizes carry their unit."""

from typing import Any

import msgspec

NOSTATE, RUNNING, PAUSED, SHUTDOWN, CRASHED, SUSPENDED = 0, 1, 3, 4, 6, 7
"""Nova's power states."""


class Flavor(msgspec.Struct, frozen=True, kw_only=True):
    id: str
    name: str
    vcpus: int
    ram_mb: int
    root_gb: int
    ephemeral_gb: int = 0
    swap_mb: int = 0
    rxtx_factor: float = 1.0
    is_public: bool = True
    disabled: bool = False
    description: str | None = None
    extra_specs: dict[str, str] = {}
    created_at: int = 0


class Keypair(msgspec.Struct, frozen=True, kw_only=True):
    user_id: str
    name: str
    number: int
    type: str
    public_key: str
    fingerprint: str
    created_at: int


class Fault(msgspec.Struct, frozen=True, kw_only=True):
    """Why a server is in ERROR. `details` is for admins, and so is `with_hosts`, the message with names of hosts; none of them holds a
    secret, a path or text of libvirt."""

    code: int
    message: str
    created: int
    details: str = ""
    with_hosts: str = ""


class FixedIp(msgspec.Struct, frozen=True, kw_only=True):
    ip: str
    version: int
    floating_ips: tuple[str, ...] = ()


class Nic(msgspec.Struct, frozen=True, kw_only=True):
    """A server's port as compute remembers it; the network service has the truth."""

    port_id: str
    network_id: str
    network_name: str
    mac: str
    device_name: str
    mtu: int
    fixed_ips: tuple[FixedIp, ...] = ()
    tag: str | None = None


class NicWish(msgspec.Struct, frozen=True, kw_only=True):
    """What a client asked for: a network (with an address of it), or a port that exists."""

    network_id: str | None = None
    port_id: str | None = None
    fixed_ip: str | None = None
    tag: str | None = None


class Scheduling(msgspec.Struct, frozen=True, kw_only=True):
    """How a host was found, or not: for `explain`. `rejected`: host -> (filter, reason)."""

    chosen: str | None = None
    considered: int = 0
    rejected: dict[str, tuple[str, str]] = {}
    summary: str = ""


class Server(msgspec.Struct, frozen=True, kw_only=True):
    """state and task are Nova's vm_state and task_state. `generation` grows with each verb; a node refuses commands of an older one.
    `revision` grows with each write; views are cached by it."""

    id: str
    number: int
    revision: int
    generation: int
    project_id: str
    user_id: str
    name: str
    hostname: str
    description: str | None
    created_at: int
    updated_at: int
    launched_at: int | None
    terminated_at: int | None
    deleted: bool
    state: str
    task: str | None
    power_state: int
    host: str | None
    node: str | None
    availability_zone: str | None
    pinned_availability_zone: str | None
    flavor: Flavor
    image_id: str | None
    image_properties: dict[str, str]
    key_name: str | None
    public_key: str | None
    metadata: dict[str, str]
    tags: tuple[str, ...]
    access_ip_v4: str | None
    access_ip_v6: str | None
    config_drive: bool
    user_data: str | None
    security_groups: tuple[str, ...]
    nics: tuple[Nic, ...]
    scheduler_hints: dict[str, Any]
    scheduling: Scheduling
    reservation_id: str
    launch_index: int
    disk_config: str
    locked_by: str | None
    locked_reason: str | None
    fault: Fault | None

    @property
    def instance_name(self) -> str:
        return f"instance-{self.number:08x}"


class Outline(msgspec.Struct, frozen=True, kw_only=True):
    """What the api side knows of a server while its cell does not answer."""

    user_id: str
    flavor: Flavor
    image_id: str | None
    image_properties: dict[str, str]
    availability_zone: str | None


class Host(msgspec.Struct, frozen=True, kw_only=True):
    """A hypervisor: one nova-compute service and one node on it. `id` is also its resource provider's."""

    id: str
    number: int
    host: str
    hypervisor_hostname: str
    hypervisor_type: str
    hypervisor_version: int
    vcpus: int
    ram_mb: int
    disk_gb: int
    cpu_info: dict[str, Any]
    host_ip: str
    availability_zone: str
    disabled: bool
    disabled_reason: str | None
    forced_down: bool
    seen_at: int
    created_at: int


class Daemon(msgspec.Struct, frozen=True, kw_only=True):
    """A service without a hypervisor (nova-scheduler, nova-conductor), as `compute service list` shows it."""

    id: str
    number: int
    binary: str
    host: str
    disabled: bool
    disabled_reason: str | None
    seen_at: int
    created_at: int


class Action(msgspec.Struct, frozen=True, kw_only=True):
    """An instance action: a verb somebody asked for, with what became of it."""

    id: str
    server_id: str
    action: str
    request_id: str
    user_id: str | None
    project_id: str | None
    start_at: int
    updated_at: int
    message: str | None


class Event(msgspec.Struct, frozen=True, kw_only=True):
    """A step of an action."""

    id: str
    action_id: str
    event: str
    host: str | None
    start_at: int
    finish_at: int | None
    result: str | None
    details: str | None
