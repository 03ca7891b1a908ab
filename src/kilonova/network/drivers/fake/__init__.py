"""A network driver without a network: keeps the wishes, wires ports after a delay, fails when told to.

Deterministic and cheap (microseconds a plug), runs as any user. Sleeping is the caller's function, so a simulation decides what a
delay is.
"""

from collections.abc import Awaitable, Callable

import msgspec

from kilonova.network import rpc
from kilonova.network.drivers import DriverError, MetadataHandler

Sleep = Callable[[float], Awaitable[None]]


async def _no_metadata(request: rpc.MetadataRequest) -> rpc.MetadataReply:
    return rpc.MetadataReply(status=404)


MOST_NEWS = 256
"""Pieces of news about other hosts that are kept as they came."""


class FakeDriver:
    """`wire_delay_s` is waited out in each `plug`, also in those that fail. `fail_plugs` counts down to no more failures."""

    def __init__(
        self, *, host: str = "fake", sleep: Sleep | None = None, wire_delay_s: float = 0.0, metadata: MetadataHandler = _no_metadata
    ) -> None:
        if wire_delay_s > 0 and sleep is None:
            raise ValueError("wire_delay_s needs a sleep function, for the fake never sleeps by itself.")
        self.host = host
        self.wire_delay_s = wire_delay_s
        self.fail_plugs = 0
        self.fail_reason = "The fake driver was told to fail."
        self._sleep = sleep
        self._metadata = metadata
        self._synced = False
        self._forget()
        self._counters = {"plugs": 0, "unplugs": 0, "failures": 0, "syncs": 0}

    def _forget(self) -> None:
        self._networks: dict[str, rpc.Network] = {}
        self._subnets: dict[str, tuple[rpc.Subnet, ...]] = {}
        self._ports: dict[str, rpc.Port] = {}
        self._groups: dict[str, rpc.SecurityGroup] = {}
        self._routers: dict[str, rpc.Router] = {}
        self._known_remotes: dict[tuple[str, str], rpc.RemotePort] = {}
        self._new_remotes: list[tuple[rpc.RemotePort, ...]] = []
        self._peers: tuple[rpc.Peer, ...] = ()

    def fail_next_plugs(self, count: int, reason: str = "The fake driver was told to fail.") -> None:
        self.fail_plugs = count
        self.fail_reason = reason

    @property
    def _remote_ports(self) -> dict[tuple[str, str], rpc.RemotePort]:
        """News is only sorted in when somebody looks: hundreds of hosts in one process are told the same."""
        self._sort_in()
        return self._known_remotes

    def _sort_in(self) -> None:
        for news in self._new_remotes:
            self._known_remotes.update({(remote.network_id, remote.mac): remote for remote in news})
        self._new_remotes.clear()

    @property
    def state(self) -> rpc.HostState:
        """What is realised now, in a stable order: compare it with what should be."""

        def by_id(wanted: dict[str, rpc.Subnet]) -> tuple[rpc.Subnet, ...]:
            return tuple(wanted[key] for key in sorted(wanted))

        subnets = {subnet.id: subnet for found in self._subnets.values() for subnet in found}
        return rpc.HostState(
            networks=tuple(self._networks[key] for key in sorted(self._networks)),
            subnets=by_id(subnets),
            ports=tuple(self._ports[key] for key in sorted(self._ports)),
            remote_ports=tuple(self._remote_ports[key] for key in sorted(self._remote_ports)),
            peers=self._peers,
            security_groups=tuple(self._groups[key] for key in sorted(self._groups)),
            routers=tuple(self._routers[key] for key in sorted(self._routers)),
        )

    async def start(self) -> None:
        """Whatever was realised before stays, as in a kernel."""

    async def stop(self) -> None:
        self._synced = False

    async def teardown(self) -> None:
        self._forget()
        self._synced = False

    def _ready(self) -> None:
        if not self._synced:
            raise DriverError("The driver has not been synchronised yet; call sync first.")

    def _refusal(self) -> str | None:
        """The reason, if this plug shall fail."""
        if self.fail_plugs <= 0:
            return None
        self.fail_plugs -= 1
        self._counters["failures"] += 1
        return self.fail_reason

    async def sync(self, state: rpc.HostState) -> rpc.HostSynced:
        self._counters["syncs"] += 1
        before = {*self._ports, *self._networks, *self._routers}
        wired_before = self._ports
        self._forget()
        self._synced = True
        self._networks = {network.id: network for network in state.networks}
        for network in state.networks:
            self._subnets[network.id] = tuple(subnet for subnet in state.subnets if subnet.network_id == network.id)
        self._groups = {group.id: group for group in state.security_groups}
        self._routers = {router.id: router for router in state.routers}
        self._new_remotes.append(state.remote_ports)
        self._peers = state.peers
        failed: list[rpc.PortFailed | rpc.NetworkFailed | rpc.RouterFailed] = []
        for port in state.ports:
            reason = self._refusal() if port != wired_before.get(port.id) else None
            if reason is not None:
                failed.append(rpc.PortFailed(port_id=port.id, reason=reason))
            else:
                self._ports[port.id] = port
        if self.wire_delay_s > 0 and self._sleep is not None and state.ports:
            await self._sleep(self.wire_delay_s)
        return rpc.HostSynced(
            wired=tuple(self._ports),
            networks=tuple(self._networks),
            routers=tuple(self._routers),
            failed=tuple(failed),
            removed=tuple(sorted(before - {*self._ports, *self._networks, *self._routers})),
        )

    async def plug(
        self, port: rpc.Port, network: rpc.Network, subnets: tuple[rpc.Subnet, ...], groups: tuple[rpc.SecurityGroup, ...]
    ) -> rpc.PortWired:
        self._ready()
        if self.wire_delay_s > 0 and self._sleep is not None:
            await self._sleep(self.wire_delay_s)
        reason = self._refusal()
        if reason is not None:
            raise DriverError(reason)
        self._networks[network.id] = network
        self._subnets[network.id] = subnets
        for group in groups:
            self._groups[group.id] = group
        self._ports[port.id] = port
        self._counters["plugs"] += 1
        return rpc.PortWired(port_id=port.id)

    async def unplug(self, port_id: str) -> rpc.PortUnplugged:
        self._ready()
        self._counters["unplugs"] += 1
        return rpc.PortUnplugged(port_id=port_id, existed=self._ports.pop(port_id, None) is not None)

    async def put_network(self, network: rpc.Network, subnets: tuple[rpc.Subnet, ...]) -> rpc.NetworkReady:
        self._ready()
        self._networks[network.id] = network
        self._subnets[network.id] = subnets
        return rpc.NetworkReady(network_id=network.id)

    async def delete_network(self, network_id: str) -> bool:
        self._ready()
        users = [port.id for port in self._ports.values() if port.network_id == network_id]
        users += [router.id for router in self._routers.values() if network_id in router_networks(router)]
        if users:
            raise DriverError(f"Network {network_id} is still used here by {users[0]}; remove that first.")
        self._subnets.pop(network_id, None)
        self._known_remotes = {key: remote for key, remote in self._remote_ports.items() if key[0] != network_id}
        return self._networks.pop(network_id, None) is not None

    async def put_router(self, router: rpc.Router) -> rpc.RouterReady:
        self._ready()
        for network_id in router_networks(router):
            if network_id not in self._networks:
                raise DriverError(f"Router {router.id} needs network {network_id}, which is not on this host; put it first.")
        self._routers[router.id] = router
        return rpc.RouterReady(router_id=router.id, floating_ips=tuple(pair.floating_ip for pair in router.floating_ips))

    async def delete_router(self, router_id: str) -> bool:
        self._ready()
        return self._routers.pop(router_id, None) is not None

    async def put_group(self, group: rpc.SecurityGroup) -> None:
        self._ready()
        self._groups[group.id] = group

    async def delete_group(self, group_id: str) -> bool:
        self._ready()
        users = [port.id for port in self._ports.values() if group_id in port.security_group_ids]
        if users:
            raise DriverError(f"Security group {group_id} is still used here by port {users[0]}; change that first.")
        return self._groups.pop(group_id, None) is not None

    async def put_remote_ports(self, remote_ports: tuple[rpc.RemotePort, ...]) -> None:
        self._ready()
        for network_id in sorted({remote.network_id for remote in remote_ports}):
            if network_id not in self._networks:
                raise DriverError(f"Network {network_id} is not on this host; put it first.")
        self._new_remotes.append(remote_ports)
        if len(self._new_remotes) > MOST_NEWS:
            self._sort_in()

    async def delete_remote_ports(self, keys: tuple[tuple[str, str], ...]) -> None:
        self._ready()
        known = self._remote_ports
        for key in keys:
            known.pop(key, None)

    async def put_peers(self, peers: tuple[rpc.Peer, ...]) -> None:
        self._ready()
        self._peers = peers

    async def describe(self) -> rpc.DriverDescription:
        counters = {**self._counters, "ports": len(self._ports), "networks": len(self._networks), "routers": len(self._routers)}
        return rpc.DriverDescription(driver="fake", capabilities={}, counters=counters, notes=("No packet moves.",))

    async def snapshot(self) -> rpc.Snapshot:
        return rpc.Snapshot(links=tuple(sorted(port.device_name for port in self._ports.values())))

    async def ask_metadata(self, port_id: str, path: str) -> rpc.MetadataReply:
        """What the guest on a port would get from 169.254.169.254."""
        port = self._ports.get(port_id)
        if port is None or not port.fixed_ips:
            raise DriverError(f"Port {port_id} is not wired here or has no address.")
        request = rpc.MetadataRequest(network_id=port.network_id, source_ip=port.fixed_ips[0].ip, method="GET", path=path)
        return await self._metadata(request)

    def encoded_state(self) -> bytes:
        """For comparing runs byte by byte."""
        return msgspec.msgpack.encode(self.state)


def router_networks(router: rpc.Router) -> tuple[str, ...]:
    found = [interface.network_id for interface in router.interfaces]
    if router.gateway is not None:
        found.append(router.gateway.network_id)
    return tuple(sorted(set(found)))
