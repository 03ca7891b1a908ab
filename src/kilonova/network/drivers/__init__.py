"""What a network driver is, and which ones come along.

A driver realises the desired state of one host. `sync` is the truth: full and idempotent, removing what is not wanted. Every
other verb is an increment for speed and must land in the state that a `sync` of the same wishes gives. The life of a driver:
make, `start`, `sync`, then any verb in any order, `stop`. Stopping leaves the dataplane as it is, for guests live on; a driver
started later on the same names takes it over at its first `sync`. Verbs before the first `sync` raise.
"""

from collections.abc import Awaitable, Callable
from typing import Protocol

from kilonova.network import rpc

BUILTIN = {"linux": "kilonova.network.drivers.linux.driver:LinuxDriver", "fake": "kilonova.network.drivers.fake:FakeDriver"}

MetadataHandler = Callable[[rpc.MetadataRequest], Awaitable[rpc.MetadataReply]]


class DriverError(Exception):
    """The one error of drivers. Its text is a sentence with the thing concerned and, where known, what to do."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class Driver(Protocol):
    async def start(self) -> None:
        """Make what does not depend on any network: namespaces, underlay, external bridges, sockets."""

    async def stop(self) -> None:
        """Close sockets and threads; everything in the kernel stays."""

    async def teardown(self) -> None:
        """Remove every namespace, link and rule of this host. Idempotent, also before `start` and after `stop`."""

    async def sync(self, state: rpc.HostState) -> rpc.HostSynced:
        """Realise exactly `state`. What cannot be realised is named in the answer and does not hinder the rest."""
        ...

    async def plug(
        self, port: rpc.Port, network: rpc.Network, subnets: tuple[rpc.Subnet, ...], groups: tuple[rpc.SecurityGroup, ...]
    ) -> rpc.PortWired:
        """Wire a port, or change it. `groups`: the port's own, and those that their rules name."""
        ...

    async def unplug(self, port_id: str) -> rpc.PortUnplugged: ...

    async def put_network(self, network: rpc.Network, subnets: tuple[rpc.Subnet, ...]) -> rpc.NetworkReady: ...

    async def delete_network(self, network_id: str) -> bool:
        """False when it was not there. Raises while ports or routers still use it."""
        ...

    async def put_router(self, router: rpc.Router) -> rpc.RouterReady: ...

    async def delete_router(self, router_id: str) -> bool: ...

    async def put_group(self, group: rpc.SecurityGroup) -> None: ...

    async def delete_group(self, group_id: str) -> bool:
        """False when it was not there. Raises while a port still has it."""
        ...

    async def put_remote_ports(self, remote_ports: tuple[rpc.RemotePort, ...]) -> None:
        """Replaces what was known of the same (network, MAC). Ports of networks that this host does not have are refused."""

    async def delete_remote_ports(self, keys: tuple[tuple[str, str], ...]) -> None:
        """Pairs of network id and MAC; unknown ones are passed over."""

    async def put_peers(self, peers: tuple[rpc.Peer, ...]) -> None: ...

    async def describe(self) -> rpc.DriverDescription: ...

    async def snapshot(self) -> rpc.Snapshot: ...
