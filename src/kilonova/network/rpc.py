"""What crosses between the network service and the agent on a host: structs only, JSON and msgpack both carry them.

Downwards goes desired state. `HostState` is all of it for one host and is the truth; the other commands are increments that
land in the same state, only sooner. Upwards come facts in the past tense. New fields come with defaults.
"""

import msgspec

NETWORK_KINDS = ("vxlan", "flat", "local")


class Network(msgspec.Struct, frozen=True, kw_only=True):
    """A layer-2 segment that has something on this host. `flat` sits on the bridge of its `physical_network`."""

    id: str
    kind: str = "vxlan"
    segmentation_id: int | None = None
    physical_network: str | None = None
    mtu: int = 1450
    external: bool = False
    dhcp_mac: str | None = None
    """MAC of the network's DHCP port. The same on every host: each host answers its own guests. None derives one from the id."""
    dns_domain: str | None = None


class HostRoute(msgspec.Struct, frozen=True, kw_only=True):
    destination: str
    nexthop: str


class Subnet(msgspec.Struct, frozen=True, kw_only=True):
    id: str
    network_id: str
    cidr: str
    ip_version: int = 4
    gateway_ip: str | None = None
    enable_dhcp: bool = True
    dhcp_ip: str | None = None
    """Address of the network's DHCP port in this subnet; without one there is no DHCP and no metadata address here."""
    dns_nameservers: tuple[str, ...] = ()
    host_routes: tuple[HostRoute, ...] = ()
    ipv6_ra_mode: str | None = None
    ipv6_address_mode: str | None = None


class FixedIp(msgspec.Struct, frozen=True, kw_only=True):
    subnet_id: str
    ip: str


class AddressPair(msgspec.Struct, frozen=True, kw_only=True):
    """An extra source a guest may use: an address or a prefix, and another MAC if it is not the port's own."""

    ip: str
    mac: str | None = None


class DhcpOption(msgspec.Struct, frozen=True, kw_only=True):
    """`name` is a name of `drivers.linux.dhcp.NAMED_OPTIONS` or a number."""

    name: str
    value: str
    ip_version: int = 4


class Port(msgspec.Struct, frozen=True, kw_only=True):
    """A guest's port on this host. `device_name` is the tap that the hypervisor opens by name."""

    id: str
    network_id: str
    device_name: str
    mac: str
    fixed_ips: tuple[FixedIp, ...] = ()
    allowed_address_pairs: tuple[AddressPair, ...] = ()
    security_group_ids: tuple[str, ...] = ()
    port_security_enabled: bool = True
    admin_state_up: bool = True
    hostname: str | None = None
    mtu: int | None = None
    """None means the network's."""
    device_id: str = ""
    dhcp_options: tuple[DhcpOption, ...] = ()


class RemotePort(msgspec.Struct, frozen=True, kw_only=True):
    """A port (guest's or router's) of a VXLAN network that sits on another host."""

    network_id: str
    mac: str
    ips: tuple[str, ...] = ()
    vtep_ip: str


class Peer(msgspec.Struct, frozen=True, kw_only=True):
    """Another host. Floods of its networks go there; None means of all."""

    vtep_ip: str
    network_ids: tuple[str, ...] | None = None


class SecurityGroupRule(msgspec.Struct, frozen=True, kw_only=True):
    """At most one of the two remotes is set; neither means anywhere. An address group becomes one rule per prefix.

    For ICMP the port range is type and code, as in the API.
    """

    direction: str
    ethertype: str = "IPv4"
    protocol: str | None = None
    port_range_min: int | None = None
    port_range_max: int | None = None
    remote_ip_prefix: str | None = None
    remote_group_id: str | None = None


class SecurityGroup(msgspec.Struct, frozen=True, kw_only=True):
    """Rules, and the addresses of all members in the whole cloud (addresses or prefixes, both families).

    Groups that are only named as somebody's remote group are wanted here too, for their members.
    """

    id: str
    rules: tuple[SecurityGroupRule, ...] = ()
    member_ips: tuple[str, ...] = ()


class RouterInterface(msgspec.Struct, frozen=True, kw_only=True):
    port_id: str
    subnet_id: str
    network_id: str
    ip: str
    prefix: int
    mac: str
    mtu: int | None = None
    ra_mode: str | None = None
    """For IPv6: `slaac`, `dhcpv6-stateless`, `dhcpv6-stateful`, or None for no router advertisements."""


class RouterGateway(msgspec.Struct, frozen=True, kw_only=True):
    """The leg into the external network. `ips` carry their prefix (`203.0.113.5/24`); the first IPv4 is the SNAT source."""

    port_id: str
    network_id: str
    ips: tuple[str, ...]
    mac: str
    next_hop: str | None = None
    enable_snat: bool = True
    mtu: int | None = None


class FloatingIp(msgspec.Struct, frozen=True, kw_only=True):
    floating_ip: str
    fixed_ip: str


class Router(msgspec.Struct, frozen=True, kw_only=True):
    """A router realised on this host. Its networks must be put first."""

    id: str
    interfaces: tuple[RouterInterface, ...] = ()
    gateway: RouterGateway | None = None
    floating_ips: tuple[FloatingIp, ...] = ()
    routes: tuple[HostRoute, ...] = ()
    admin_state_up: bool = True


class HostState(msgspec.Struct, frozen=True, kw_only=True):
    """All that one host shall realise, and nothing else."""

    networks: tuple[Network, ...] = ()
    subnets: tuple[Subnet, ...] = ()
    ports: tuple[Port, ...] = ()
    remote_ports: tuple[RemotePort, ...] = ()
    peers: tuple[Peer, ...] = ()
    security_groups: tuple[SecurityGroup, ...] = ()
    routers: tuple[Router, ...] = ()
    session: str = ""
    """Names this telling of the state."""
    epoch: int = 0
    """Of the process that leads the agents; 0 where there is only one."""
    facts_address: str = ""
    """Where that process hears facts. Empty: FACTS."""


class Ordered(msgspec.Struct, frozen=True, kw_only=True):
    """What all commands carry: the `session` of the HostState that they change. Over a broker a command may overtake the state it belongs
    to; the agent keeps it until it has that state, and refuses one that belongs to another.

    `number` counts the commands of a session from 1: after a gap or a repeat the agent asks for the whole state. `epoch` is that of the
    process that leads: an agent that has heard of a higher one refuses."""

    session: str = ""
    number: int = 0
    epoch: int = 0


class Sync(Ordered, frozen=True, kw_only=True, tag=True):
    state: HostState


class Plug(Ordered, frozen=True, kw_only=True, tag=True):
    """`groups` are the port's groups and the groups that their rules name as remote."""

    port: Port
    network: Network
    subnets: tuple[Subnet, ...] = ()
    groups: tuple[SecurityGroup, ...] = ()


class Unplug(Ordered, frozen=True, kw_only=True, tag=True):
    port_id: str


class PutNetwork(Ordered, frozen=True, kw_only=True, tag=True):
    network: Network
    subnets: tuple[Subnet, ...] = ()


class DeleteNetwork(Ordered, frozen=True, kw_only=True, tag=True):
    network_id: str


class PutRouter(Ordered, frozen=True, kw_only=True, tag=True):
    router: Router


class DeleteRouter(Ordered, frozen=True, kw_only=True, tag=True):
    router_id: str


class PutGroup(Ordered, frozen=True, kw_only=True, tag=True):
    group: SecurityGroup


class DeleteGroup(Ordered, frozen=True, kw_only=True, tag=True):
    group_id: str


class PutRemotePorts(Ordered, frozen=True, kw_only=True, tag=True):
    """Replaces what was known of the same (network, MAC)."""

    remote_ports: tuple[RemotePort, ...]


class DeleteRemotePorts(Ordered, frozen=True, kw_only=True, tag=True):
    """Pairs of network id and MAC."""

    keys: tuple[tuple[str, str], ...]


class PutPeers(Ordered, frozen=True, kw_only=True, tag=True):
    """The whole list of other hosts, replacing the one before."""

    peers: tuple[Peer, ...]


Command = (
    Sync | Plug | Unplug | PutNetwork | DeleteNetwork | PutRouter | DeleteRouter
    | PutGroup | DeleteGroup | PutRemotePorts | DeleteRemotePorts | PutPeers
)  # fmt: skip


class PortWired(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    port_id: str


class PortFailed(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    port_id: str
    reason: str


class PortUnplugged(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """`existed` is false when there was nothing to remove."""

    port_id: str
    existed: bool = True


class NetworkReady(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    network_id: str


class NetworkFailed(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    network_id: str
    reason: str


class RouterReady(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    router_id: str
    floating_ips: tuple[str, ...] = ()


class RouterFailed(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    router_id: str
    reason: str


class HostSynced(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """What a full realisation did: who is wired now, what could not be, and the names of what was taken away."""

    wired: tuple[str, ...] = ()
    networks: tuple[str, ...] = ()
    routers: tuple[str, ...] = ()
    failed: tuple[PortFailed | NetworkFailed | RouterFailed, ...] = ()
    removed: tuple[str, ...] = ()


Fact = PortWired | PortFailed | PortUnplugged | NetworkReady | NetworkFailed | RouterReady | RouterFailed | HostSynced


class MetadataRequest(msgspec.Struct, frozen=True, kw_only=True):
    """A guest's request to 169.254.169.254. The guest is known by where it came in (exactly one of the ids is set) and by its
    source address, which anti-spoofing has checked. Headers are the guest's own words: never trust them."""

    network_id: str | None = None
    router_id: str | None = None
    source_ip: str
    method: str
    path: str
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes = b""


class MetadataReply(msgspec.Struct, frozen=True, kw_only=True):
    status: int
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes = b""


class DriverDescription(msgspec.Struct, frozen=True, kw_only=True):
    """What the host's kernel can do, and counters since the driver started: for the agent API."""

    driver: str
    namespace: str | None = None
    capabilities: dict[str, bool] = {}
    counters: dict[str, int] = {}
    notes: tuple[str, ...] = ()


class Snapshot(msgspec.Struct, frozen=True, kw_only=True):
    """Names of everything the driver owns on the machine. Empty after a teardown."""

    namespaces: tuple[str, ...] = ()
    links: tuple[str, ...] = ()
    tables: tuple[str, ...] = ()


class AgentStarted(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """An agent is here. It asks for its state next."""

    host: str
    vtep_ip: str = ""
    availability_zone: str = "nova"
    description: DriverDescription


class StateWanted(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """An agent wants all that its host shall realise. The reply is a HostState; commands sent before it are settled by it."""

    host: str


class HostFacts(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """What has become true on a host, in order."""

    host: str
    facts: tuple[Fact, ...]


class Heartbeat(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    host: str


class Resync(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """To an agent: ask for your state anew. `epoch` and `facts_address` as in HostState."""

    epoch: int = 0
    facts_address: str = ""


class TopologyChanged(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Among processes of the network service: there is something new in the journal. A hint."""


class ServersWired(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Among processes of the network service: ports of these servers were wired, or could not be. A hint, but for `port_ids`: those were
    wired where they are bound, and their rows say so."""

    server_ids: tuple[str, ...]
    port_ids: tuple[str, ...] = ()


FACTS = "network.facts"
"""The bus address to which agents report."""
CHANGED = "network.changed"
"""Topic of TopologyChanged."""
WIRED = "network.wired"
"""Topic of ServersWired."""


def leader_address(life: str) -> str:
    """Where one process hears what FACTS is for, while it leads: nobody else answers there."""
    return f"{FACTS}.{life}"


def agent_address(host: str) -> str:
    return f"network.{host}"
