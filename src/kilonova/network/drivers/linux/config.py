"""What a Linux driver is told when it is made."""

import msgspec


class Underlay(msgspec.Struct, frozen=True, kw_only=True):
    """How hosts of one cloud reach each other when all are namespaces of one machine: a bridge in a namespace of its own.

    The MTU leaves room for VXLAN's 50 bytes around tenant frames of 1500.
    """

    namespace: str
    prefix: int = 24
    mtu: int = 1600


class PhysicalNetwork(msgspec.Struct, frozen=True, kw_only=True):
    """A provider network as a bridge in the host namespace. `address` (with prefix length) is the host's own on it; on one host
    of a cloud it is the external subnet's gateway, so that commands run there reach floating IPs."""

    name: str = "public"
    bridge: str = "br-ex"
    address: str | None = None
    mtu: int = 1500


class LinuxConfig(msgspec.Struct, frozen=True, kw_only=True):
    """`host_namespace` must begin with the cloud's prefix; all else on this host is named after it."""

    host_namespace: str
    vtep_ip: str = "192.0.2.1"
    underlay: Underlay | None = None
    machine_tunnels: bool = False
    """Tunnels end on this machine, in the namespace of this process, at `vtep_ip`, which is an IPv4 address there; the rest of them is in
    the host namespace as ever."""
    physical_networks: tuple[PhysicalNetwork, ...] = (PhysicalNetwork(),)
