"""Network's nouns. Fields stand in the order of the tables' columns: a row becomes a struct positionally. Times are microseconds."""

import msgspec

ROUTER_INTERFACE = "network:router_interface"
ROUTER_GATEWAY = "network:router_gateway"
FLOATING_IP = "network:floatingip"
DHCP = "network:dhcp"
AUTO_DELETED = (DHCP,)
"""Owners of ports that nobody asked for: they do not keep a network or subnet from being deleted."""


class FixedIp(msgspec.Struct, frozen=True):
    """As on the wire."""

    subnet_id: str
    ip_address: str


class AddressPair(msgspec.Struct, frozen=True, kw_only=True):
    mac_address: str
    ip_address: str


class DhcpOption(msgspec.Struct, frozen=True, kw_only=True):
    opt_name: str
    opt_value: str
    ip_version: int = 4


class Pool(msgspec.Struct, frozen=True):
    """First and last address that may be handed out, as on the wire."""

    start: str
    end: str


class Route(msgspec.Struct, frozen=True, kw_only=True):
    destination: str
    nexthop: str


class Network(msgspec.Struct, frozen=True):
    id: str
    project_id: str
    name: str
    description: str
    admin_state_up: bool
    status: str
    shared: bool
    external: bool
    is_default: bool
    mtu: int
    port_security_enabled: bool
    network_type: str
    physical_network: str | None
    segmentation_id: int | None
    availability_zone_hints: tuple[str, ...]
    tags: tuple[str, ...]
    created_at: int
    updated_at: int
    revision: int


class Subnet(msgspec.Struct, frozen=True):
    id: str
    network_id: str
    project_id: str
    name: str
    description: str
    ip_version: int
    cidr: str
    gateway_ip: str | None
    allocation_pools: tuple[Pool, ...]
    enable_dhcp: bool
    dns_nameservers: tuple[str, ...]
    host_routes: tuple[Route, ...]
    ipv6_ra_mode: str | None
    ipv6_address_mode: str | None
    subnetpool_id: str | None
    service_types: tuple[str, ...]
    tags: tuple[str, ...]
    created_at: int
    updated_at: int
    revision: int


class Port(msgspec.Struct, frozen=True):
    """`allocated`: made for a server by `allocate`, and deleted with it. `nic_index` orders a server's ports. `hostname` is the guest's
    name for DHCP. `wiring_error` is why the host could not wire the port."""

    id: str
    network_id: str
    project_id: str
    name: str
    description: str
    admin_state_up: bool
    status: str
    mac_address: str
    device_id: str
    device_owner: str
    fixed_ips: tuple[FixedIp, ...]
    security_groups: tuple[str, ...]
    port_security_enabled: bool
    allowed_address_pairs: tuple[AddressPair, ...]
    extra_dhcp_opts: tuple[DhcpOption, ...]
    host: str
    vif_type: str
    vnic_type: str
    profile: dict[str, object]
    allocated: bool
    nic_index: int
    nic_tag: str | None
    hostname: str
    wiring_error: str
    tags: tuple[str, ...]
    created_at: int
    updated_at: int
    revision: int

    @property
    def is_guest(self) -> bool:
        """A port that a hypervisor plugs, once it is bound."""
        return not self.device_owner.startswith("network:")


class Router(msgspec.Struct, frozen=True):
    """`host`: where it is realised; "" while no host is known."""

    id: str
    project_id: str
    name: str
    description: str
    admin_state_up: bool
    status: str
    gateway_port_id: str | None
    gateway_network_id: str | None
    enable_snat: bool
    routes: tuple[Route, ...]
    host: str
    availability_zone_hints: tuple[str, ...]
    tags: tuple[str, ...]
    created_at: int
    updated_at: int
    revision: int


class FloatingIp(msgspec.Struct, frozen=True):
    id: str
    project_id: str
    floating_network_id: str
    floating_ip_address: str
    floating_port_id: str
    port_id: str | None
    fixed_ip_address: str | None
    router_id: str | None
    status: str
    description: str
    tags: tuple[str, ...]
    created_at: int
    updated_at: int
    revision: int


class SecurityGroup(msgspec.Struct, frozen=True):
    id: str
    project_id: str
    name: str
    description: str
    stateful: bool
    shared: bool
    is_default: bool
    tags: tuple[str, ...]
    created_at: int
    updated_at: int
    revision: int


class SecurityGroupRule(msgspec.Struct, frozen=True):
    id: str
    security_group_id: str
    project_id: str
    direction: str
    ethertype: str
    protocol: str | None
    port_range_min: int | None
    port_range_max: int | None
    remote_ip_prefix: str | None
    remote_group_id: str | None
    description: str
    created_at: int
    updated_at: int
    revision: int


class SubnetPool(msgspec.Struct, frozen=True):
    id: str
    project_id: str
    name: str
    description: str
    ip_version: int
    prefixes: tuple[str, ...]
    default_prefixlen: int
    min_prefixlen: int
    max_prefixlen: int
    default_quota: int | None
    shared: bool
    is_default: bool
    tags: tuple[str, ...]
    created_at: int
    updated_at: int
    revision: int


class Host(msgspec.Struct, frozen=True):
    """A host whose network agent has reported."""

    host: str
    vtep_ip: str
    availability_zone: str
    driver: str
    configurations: dict[str, object]
    created_at: int
    started_at: int
    heartbeat_at: int


class Agent(msgspec.Struct, frozen=True):
    id: str
    host: str
    agent_type: str
    admin_state_up: bool
    description: str | None
