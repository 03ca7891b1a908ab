"""One host's dataplane: what is realised, and how to get from there to what is wanted.

Everything here blocks and runs in one thread that lives in the host namespace; `driver.py` is the asyncio side. Servers (DHCP,
metadata, router advertisements) are only made here, with their sockets in the right namespaces; `opened` and `closed` tell the
driver which to start and to end.

Order when a port is wired: rules, lease, tap. A tap on a bridge without rules would be closed anyway (fail closed), but its guest
would wait for its first lease.
"""

import errno
import os
import re
import subprocess
from collections import Counter
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial

import msgspec

from kilonova.network import rpc
from kilonova.network.drivers import DriverError, MetadataHandler
from kilonova.network.drivers.linux import (
    conntrack,
    dhcp,
    forwarding,
    metadata,
    names,
    namespaces,
    netns,
    probe,
    ra,
    routers,
    rtnl,
    security_groups,
    services,
    tap,
    underlay,
)
from kilonova.network.drivers.linux.config import LinuxConfig
from kilonova.network.drivers.linux.conntrack import Conntrack
from kilonova.network.drivers.linux.namespaces import Closable, NamespacePlan
from kilonova.network.drivers.linux.nft import Elements, Nft
from kilonova.network.drivers.linux.rtnl import Link, Route
from kilonova.network.drivers.linux.ruleset import Key, Ruleset
from kilonova.network.drivers.linux.security_groups import Flow, Part

Server = dhcp.Server | metadata.Server | ra.Server
ServerKey = tuple[str, ...]
_ALIAS = re.compile(r"kilonova zone (\d+) network (\S+)")
_DOOMED = 0x6B6E
"""Link group for deletions in bulk."""
_LEARNED_ZONES = 65_535


class Segment(msgspec.Struct, frozen=True, kw_only=True):
    """A realised network. `zone` keeps its connections apart from those of other networks with the same addresses."""

    network: rpc.Network
    subnets: tuple[rpc.Subnet, ...]
    bridge: str
    zone: int
    vxlan: str | None = None

    def alias(self) -> str:
        return f"kilonova zone {self.zone} network {self.network.id}"


class Host:
    def __init__(self, config: LinuxConfig, handler: MetadataHandler) -> None:
        self.config = config
        self._handler = handler
        self.synced = False
        self.segments: dict[str, Segment] = {}
        self.ports: dict[str, rpc.Port] = {}
        self.groups: dict[str, rpc.SecurityGroup] = {}
        self.routers: dict[str, rpc.Router] = {}
        self._router_plans: dict[str, NamespacePlan] = {}
        self._router_nft: dict[str, Nft] = {}
        self._service_plans: dict[str, NamespacePlan] = {}
        self._remotes: dict[tuple[str, str], rpc.RemotePort] = {}
        self._peers: tuple[rpc.Peer, ...] = ()
        self._named: frozenset[str] = frozenset()
        self._combinations: Counter[str] = Counter()
        self._leases: dict[str, dict[str, dhcp.Lease]] = {}
        self._links: dict[str, Link] = {}
        self._some_revoked = False
        self.servers: dict[ServerKey, Server] = {}
        self.opened: list[Server] = []
        self.closed: list[Server] = []
        self.counters: Counter[str] = Counter()
        self._closer = ThreadPoolExecutor(1, thread_name_prefix=f"closer-{config.host_namespace}")

    # Life

    def open(self) -> None:
        if os.geteuid() != 0:
            raise DriverError("The Linux network driver needs root; as another user choose the fake driver.")
        for namespace in (self.config.host_namespace, *([self.config.underlay.namespace] if self.config.underlay else [])):
            netns.path(namespace)
        self._outside = self._machine() if self.config.machine_tunnels else None
        netns.create(self.config.host_namespace)
        netns.enter(self.config.host_namespace)
        self._route = Route()
        self._nft = Nft()
        self._elements = Elements()
        self._conntrack = Conntrack()
        self.ruleset = Ruleset(self._nft, self._elements)
        underlay.ensure(self.config, self._route)
        self._capabilities = probe.capabilities(self._route, self._nft)
        self._require_bridge_netfilter()
        if "table bridge kn\n" not in self._nft.run("list tables"):
            self.ruleset.load({})

    def _machine(self) -> Route:
        """rtnetlink in the namespace of this process, where tunnels end."""
        route, vtep = Route(), self.config.vtep_ip
        if "." not in vtep or vtep not in {address.cidr.partition("/")[0] for address in route.addresses()}:
            route.close()
            raise DriverError(f"my_ip is {vtep}, which is not an IPv4 address of this machine; give the one at which other hosts reach it.")
        return route

    @staticmethod
    def _require_bridge_netfilter() -> None:
        if probe.bridge_netfilter():
            return
        with suppress(OSError):
            subprocess.run(["modprobe", "br_netfilter"], check=False, capture_output=True, timeout=10)
        if not probe.bridge_netfilter():
            raise DriverError("The kernel lacks br_netfilter, which security groups need; load that module.")

    def close(self) -> None:
        """Servers are closed by the driver, in the loop, before."""
        for router_id in list(self._router_nft):
            self._drop_router_rules(router_id)
        self._closer.shutdown(wait=True)
        self._conntrack.close()
        self._route.close()
        if self._outside is not None:
            self._outside.close()
        self._elements.close()
        self._nft.close()

    def discard(self, resource: Closable) -> None:
        """Close something whose closing waits for the kernel."""
        self._closer.submit(resource.close)

    def take_all_servers(self) -> list[Server]:
        servers = [*self.servers.values()]
        self.servers.clear()
        return servers

    def _ready(self) -> None:
        if not self.synced:
            raise DriverError("The driver has not been synchronised yet; call sync first.")

    # Networks

    def _physical_bridge(self, network: rpc.Network) -> str:
        for physical in self.config.physical_networks:
            if physical.name == network.physical_network:
                return physical.bridge
        raise DriverError(f"Network {network.id} wants physical network {network.physical_network}, which this host does not have.")

    def _check_network(self, network: rpc.Network) -> None:
        if not names.is_id(network.id):
            raise DriverError(f"Network id {network.id!r} is not a UUID.")
        if network.kind not in rpc.NETWORK_KINDS:
            raise DriverError(f"Network {network.id} is of kind {network.kind}; this driver has {', '.join(rpc.NETWORK_KINDS)}.")
        if network.kind == "vxlan" and not 0 < (network.segmentation_id or 0) < 1 << 24:
            raise DriverError(f"Network {network.id} needs a segmentation_id from 1 to 16777215.")

    def _zone(self, network_id: str, alias: str | None) -> int:
        """The zone a bridge already has, so that connections outlive us; else a free one."""
        kept = _ALIAS.fullmatch(alias or "")
        if kept is not None and kept[2] == network_id:
            return int(kept[1])
        taken = {segment.zone for segment in self.segments.values()}
        taken |= {int(match[1]) for link in self._links.values() if (match := _ALIAS.fullmatch(link.alias or ""))}
        return next(zone for zone in range(1, _LEARNED_ZONES) if zone not in taken)

    def _remember(self, name: str) -> Link:
        link = self._route.link(name)
        if link is None:
            raise OSError(errno.ENODEV, f"link {name} does not exist")
        self._links[name] = link
        return link

    def _segment(self, network: rpc.Network, subnets: tuple[rpc.Subnet, ...]) -> Segment:
        """The links of a network, made or adopted."""
        self._check_network(network)
        flat = network.kind == "flat"
        bridge = self._physical_bridge(network) if flat else names.bridge(network.id)
        for other in self.segments.values():
            if other.bridge == bridge and other.network.id != network.id:
                raise DriverError(f"Network {network.id} cannot be realised: {other.network.id} has its bridge {bridge}.")
        link = self._links.get(bridge)
        if link is None:
            mac = names.derived_mac("fe:16:3e", "bridge", self.config.host_namespace, network.id)
            self._route.do(rtnl.add_bridge(bridge, mtu=network.mtu, mac=mac))
            link = self._remember(bridge)
        segment = Segment(
            network=network,
            subnets=subnets,
            bridge=bridge,
            zone=self._zone(network.id, link.alias),
            vxlan=names.vxlan(network.id) if network.kind == "vxlan" else None,
        )
        mtu = link.mtu if flat else network.mtu
        if link.alias != segment.alias() or link.mtu != mtu or not link.up:
            self._route.do(rtnl.set_link(bridge, alias=segment.alias(), mtu=mtu, up=True))
            link = self._remember(bridge)
        if segment.vxlan is not None:
            self._vxlan(segment, link.index)
        return segment

    def _vxlan(self, segment: Segment, bridge: int) -> None:
        name, mtu = str(segment.vxlan), segment.network.mtu
        link = self._links.get(name)
        if link is not None and link.alias != self._tunnel_alias():
            self._delete_links([name])  # of another address, or of another namespace
            link = None
        if link is None:
            self._add_vxlan(name, segment.network, bridge)
            self._route.do(rtnl.quiet_bridge_port(name), rtnl.set_link(name, alias=self._tunnel_alias(), up=True))
            tunnel = forwarding.Tunnel(network_id=segment.network.id, bridge=bridge, vxlan=self._remember(name).index)
            flooded = forwarding.floods(tunnel, self._peers, self.config.vtep_ip)
            self._route.do_all(forwarding.change_floods(tunnel, set(), flooded))
        elif link.mtu != mtu or link.master != bridge or not link.up:
            self._route.do(rtnl.set_link(name, mtu=mtu, master=bridge, up=True), rtnl.quiet_bridge_port(name))
            self._remember(name)

    def _add_vxlan(self, name: str, network: rpc.Network, bridge: int) -> None:
        vni, vtep_ip = network.segmentation_id or 0, self.config.vtep_ip
        if self._outside is None:
            self._route.do(rtnl.add_vxlan(name, vni=vni, local_ip=vtep_ip, mtu=network.mtu, master=bridge))
            return
        with netns.opened(self.config.host_namespace) as here:
            self._outside.do(rtnl.add_vxlan(name, vni=vni, local_ip=vtep_ip, mtu=network.mtu, master=bridge, namespace_fd=here))

    def _tunnel_alias(self) -> str:
        return f"kilonova tunnel at {self.config.vtep_ip}{' of the machine' if self.config.machine_tunnels else ''}"

    def _tunnel(self, network_id: str) -> forwarding.Tunnel | None:
        segment = self.segments.get(network_id)
        if segment is None or segment.vxlan is None:
            return None
        return forwarding.Tunnel(network_id=network_id, bridge=self._links[segment.bridge].index, vxlan=self._links[segment.vxlan].index)

    @staticmethod
    def _segment_part(segment: Segment) -> Part:
        local_ips = [str(subnet.dhcp_ip) for subnet in services.served(segment.subnets)]
        return security_groups.network_part(bridge=segment.bridge, zone=segment.zone, vxlan=segment.vxlan, local_ips=local_ips)

    def put_network(self, network: rpc.Network, subnets: tuple[rpc.Subnet, ...]) -> rpc.NetworkReady:
        self._ready()
        self._put_network(network, subnets)
        return rpc.NetworkReady(network_id=network.id)

    def _put_network(self, network: rpc.Network, subnets: tuple[rpc.Subnet, ...]) -> Segment:
        before = self.segments.get(network.id)
        if before is not None and before.network == network and before.subnets == subnets:
            return before
        segment = self._segment(network, subnets)
        self.ruleset.change({("network", network.id): self._segment_part(segment)})
        self.segments[network.id] = segment
        self._serve_network(segment)
        for port in self.ports.values():
            if port.network_id == network.id:
                self._lease(port, segment)
                self._tap(port, segment)
        self.counters["network_puts"] += 1
        return segment

    def delete_network(self, network_id: str) -> bool:
        self._ready()
        users = [f"port {port.id}" for port in self.ports.values() if port.network_id == network_id]
        users += [f"router {router.id}" for router in self.routers.values() if network_id in routers.network_ids(router)]
        if users:
            raise DriverError(f"Network {network_id} is still used here by {users[0]}; remove that first.")
        segment = self.segments.pop(network_id, None)
        if segment is None:
            return False
        self._unserve_network(network_id)
        doomed = [segment.vxlan] if segment.vxlan is not None else []
        if segment.network.kind == "flat":
            self._route.do(rtnl.set_link(segment.bridge, alias=""))
            self._remember(segment.bridge)
        else:
            doomed.append(segment.bridge)
        self._delete_links(doomed)
        self._remotes = {key: remote for key, remote in self._remotes.items() if key[0] != network_id}
        self.ruleset.change({("network", network_id): None})
        return True

    def _delete_links(self, doomed: Iterable[str]) -> None:
        present = [name for name in doomed if name in self._links]
        if len(present) == 1:
            self._route.do(rtnl.delete_link(present[0]))
        elif present:
            self._route.do_all([rtnl.group_link(name, _DOOMED) for name in present])
            self._route.do(rtnl.delete_group(_DOOMED))
        for name in present:
            del self._links[name]

    # DHCP and metadata

    def _bridges(self) -> dict[str, int]:
        return {segment.bridge: self._links[segment.bridge].index for segment in self.segments.values()}

    def _serve_network(self, segment: Segment, *, anew: bool = False) -> None:
        network = segment.network
        plan = services.plan(network, segment.subnets, self.config.host_namespace, segment.bridge)
        before = self._service_plans.get(network.id)
        if plan is None:
            self._unserve_network(network.id)
            return
        if plan == before and not anew:
            return
        realised = namespaces.realise(plan, self._route, self._bridges(), self.discard, None)
        self._service_plans[network.id] = plan
        leases = self._leases.setdefault(network.id, {})
        mac_changed = before is not None and before.legs[0].mac != plan.legs[0].mac
        with netns.entered(plan.namespace):
            if ("dhcp", network.id) not in self.servers or realised.fresh_legs or mac_changed:
                self._close(("dhcp", network.id))
                sockets = dhcp.open_sockets(names.SERVICE_LEG)
                self._open(("dhcp", network.id), dhcp.Server(plan.legs[0].mac, sockets, leases, self.discard))
            if ("metadata", network.id) not in self.servers:
                listening = metadata.open_socket(80)
                self._open(("metadata", network.id), metadata.Server(listening, self._handler, network_id=network.id))

    def _unserve_network(self, network_id: str) -> None:
        self._close(("dhcp", network_id))
        self._close(("metadata", network_id))
        self._leases.pop(network_id, None)
        plan = self._service_plans.pop(network_id, None)
        if plan is not None:
            namespaces.remove(plan, self._route)

    def _open(self, key: ServerKey, server: Server) -> None:
        self.servers[key] = server
        self.opened.append(server)

    def _close(self, key: ServerKey) -> None:
        server = self.servers.pop(key, None)
        if server is not None:
            self.closed.append(server)

    def _lease(self, port: rpc.Port, segment: Segment) -> None:
        leases = self._leases.setdefault(segment.network.id, {})
        lease = services.lease(port, segment.network, segment.subnets)
        mac = security_groups.normal_mac(port.mac)
        if lease is None:
            leases.pop(mac, None)
        else:
            leases[mac] = lease

    # Ports

    def _check_port(self, port: rpc.Port, groups: Mapping[str, rpc.SecurityGroup]) -> Part:
        """The port's rules. Raises DriverError or ValueError before anything was done."""
        if not names.is_tap(port.device_name):
            raise DriverError(f"Port {port.id} has device name {port.device_name!r}; it must be tap and up to 12 letters or digits.")
        for group_id in port.security_group_ids if port.port_security_enabled else ():
            if group_id not in groups:
                raise DriverError(f"Port {port.id} has security group {group_id}, which is not known on this host; send it along.")
        for other in self.ports.values():
            if other.device_name == port.device_name and other.id != port.id:
                raise DriverError(f"Port {port.id} cannot have {port.device_name}: port {other.id} has it.")
        return security_groups.port_part(port)

    def plug(
        self, port: rpc.Port, network: rpc.Network, subnets: tuple[rpc.Subnet, ...], groups: tuple[rpc.SecurityGroup, ...]
    ) -> rpc.PortWired:
        self._ready()
        if port.network_id != network.id:
            raise DriverError(f"Port {port.id} is of network {port.network_id}, not of {network.id}.")
        before = self.ports.get(port.id)
        new_groups = {**self.groups, **{group.id: group for group in groups}}
        part = self._check_port(port, new_groups)
        segment = self._put_network(network, subnets)
        services.lease(port, network, subnets)
        changes, combinations = self._port_changes(before, port)
        changes[("port", port.id)] = part
        group_changes, named = self._group_changes(new_groups)
        doubtful = self._some_revoked or self._losing(new_groups) or before not in (None, port)
        self.ruleset.change(group_changes | changes)
        self.groups, self._named, self._combinations = new_groups, named, combinations
        self._forget_remote(port)
        if before is not None and before.mac != port.mac:
            self._leases.get(port.network_id, {}).pop(security_groups.normal_mac(before.mac), None)
        if before is not None and before.device_name != port.device_name:
            self._delete_links([before.device_name])
        self._lease(port, segment)
        self.ports[port.id] = port
        try:
            self._tap(port, segment)
        except (DriverError, OSError):
            if before is None:
                self.unplug(port.id)
            raise
        if doubtful:
            self._judge()
        self.counters["plugs"] += 1
        return rpc.PortWired(port_id=port.id)

    def _tap(self, port: rpc.Port, segment: Segment) -> None:
        name = port.device_name
        link = self._links.get(name)
        if link is None:
            try:
                tap.create(name)
            except OSError as error:
                if error.errno != errno.EBUSY:
                    raise
            link = Link(index=0, name=name, kind="tun", master=None, mtu=0, mac="", up=False, alias=None)
        master = self._links[segment.bridge].index
        mtu = port.mtu or segment.network.mtu
        if link.master == master and link.mtu == mtu and link.up == port.admin_state_up:
            return
        try:
            self._route.do(rtnl.set_link(name, master=master, mtu=mtu, up=port.admin_state_up))
        except OSError as error:
            if error.errno != errno.EXFULL:
                raise
            self._route.do(rtnl.delete_link(name))
            raise DriverError(f"Network {segment.network.id} already has the 1024 ports that a bridge of one host can have.") from None
        self._links[name] = msgspec.structs.replace(link, master=master, mtu=mtu, up=port.admin_state_up)

    def unplug(self, port_id: str) -> rpc.PortUnplugged:
        self._ready()
        port = self.ports.pop(port_id, None)
        if port is None:
            self.ruleset.change({("port", port_id): None})
            return rpc.PortUnplugged(port_id=port_id, existed=False)
        self._delete_links([port.device_name])
        changes, self._combinations = self._port_changes(port, None)
        self.ruleset.change({**changes, ("port", port_id): None})
        self._leases.get(port.network_id, {}).pop(security_groups.normal_mac(port.mac), None)
        self.counters["unplugs"] += 1
        return rpc.PortUnplugged(port_id=port_id)

    def _port_changes(self, before: rpc.Port | None, after: rpc.Port | None) -> tuple[dict[Key, Part | None], Counter[str]]:
        """Combinations of groups that come or go with a change of one port."""
        combinations = self._combinations.copy()
        changes: dict[Key, Part | None] = {}
        if after is not None and after.port_security_enabled:
            name = security_groups.combination_name(after.security_group_ids)
            combinations[name] += 1
            changes[("combination", name)] = security_groups.combination_part(after.security_group_ids)
        if before is not None and before.port_security_enabled:
            name = security_groups.combination_name(before.security_group_ids)
            combinations[name] -= 1
            if combinations[name] <= 0:
                del combinations[name]
                changes[("combination", name)] = None
        return changes, combinations

    # Security groups

    @staticmethod
    def _referenced(groups: Mapping[str, rpc.SecurityGroup]) -> frozenset[str]:
        return frozenset(rule.remote_group_id for group in groups.values() for rule in group.rules if rule.remote_group_id is not None)

    @staticmethod
    def _wide(groups: Mapping[str, rpc.SecurityGroup], named: Iterable[str]) -> dict[str, list[str]]:
        return {gid: security_groups.split_members(groups[gid])[1] for gid in sorted(named) if gid in groups}

    def _group_changes(self, after: Mapping[str, rpc.SecurityGroup]) -> tuple[dict[Key, Part | None], frozenset[str]]:
        """From the groups we have to `after`; also which groups are named as remote afterwards."""
        before = self.groups
        changed = [gid for gid in sorted({*before, *after}) if before.get(gid) != after.get(gid)]
        if not changed:
            return {}, self._named
        same_rules = all(gid in before and gid in after and before[gid].rules == after[gid].rules for gid in changed)
        named = self._named if same_rules else self._referenced(after)
        touched = {gid for gid in changed if gid in named}
        wide_before, wide_after = self._wide(before, touched), self._wide(after, touched)
        moved = {gid for gid in touched if wide_before.get(gid, []) != wide_after.get(gid, [])}
        render = set(changed) if not same_rules else set()
        if moved:
            render |= {group.id for group in after.values() if any(rule.remote_group_id in moved for rule in group.rules)}
        prefixes = self._wide(after, named) if render else {}
        changes: dict[Key, Part | None] = {}
        for gid in sorted(render):
            changes[("group", gid)] = security_groups.group_part(after[gid], prefixes) if gid in after else None
        for gid in sorted(touched | (named ^ self._named)):
            changes[("members", gid)] = security_groups.members_part(gid, after.get(gid)) if gid in named else None
        return changes, named

    def _losing(self, after: Mapping[str, rpc.SecurityGroup]) -> bool:
        return any(security_groups.loses(group, after.get(gid)) for gid, group in self.groups.items() if group is not after.get(gid))

    def put_group(self, group: rpc.SecurityGroup) -> None:
        self._ready()
        self._put_groups({**self.groups, group.id: group})

    def delete_group(self, group_id: str) -> bool:
        self._ready()
        users = [port.id for port in self.ports.values() if group_id in port.security_group_ids]
        if users:
            raise DriverError(f"Security group {group_id} is still used here by port {users[0]}; change that first.")
        if group_id not in self.groups:
            return False
        self._put_groups({gid: group for gid, group in self.groups.items() if gid != group_id})
        return True

    def _put_groups(self, after: dict[str, rpc.SecurityGroup]) -> None:
        losing = self._losing(after)
        changes, named = self._group_changes(after)
        self.ruleset.change(changes)
        self.groups, self._named = after, named
        if losing or (changes and self._some_revoked):
            self._judge()

    def _judge(self) -> None:
        """Mark the tracked connections that the rules would not let begin now, and unmark those that they would again."""
        by_zone = {segment.zone: network_id for network_id, segment in self.segments.items()}
        owners: dict[tuple[str, str], rpc.Port] = {}
        for port in self.ports.values():
            if port.port_security_enabled:
                ips = [fixed.ip for fixed in port.fixed_ips] + [pair.ip for pair in port.allowed_address_pairs]
                owners |= {(port.network_id, ip): port for ip in ips}
        marks: list[tuple[conntrack.Entry, int]] = []
        some_revoked = False
        for entry in self._conntrack.entries():
            network_id = by_zone.get(entry.zone)
            if network_id is None or entry.destination_port in (67, 68):
                continue
            wanted = 0 if self._permitted(entry, network_id, owners) else conntrack.REVOKED
            some_revoked |= wanted == conntrack.REVOKED
            if entry.mark != wanted:
                marks.append((entry, wanted))
        self._conntrack.mark(marks)
        self._some_revoked = some_revoked
        self.counters["connections_judged"] += len(marks)

    def _permitted(self, entry: conntrack.Entry, network_id: str, owners: Mapping[tuple[str, str], rpc.Port]) -> bool:
        for direction, near, far in (("egress", entry.source, entry.destination), ("ingress", entry.destination, entry.source)):
            port = owners.get((network_id, near))
            if port is None:
                continue
            flow = Flow(
                direction=direction,
                protocol=entry.protocol,
                remote_ip=far,
                port=entry.destination_port,
                icmp_type=entry.icmp_type,
                icmp_code=entry.icmp_code,
            )
            if not security_groups.permits(self.groups, port.security_group_ids, flow):
                return False
        return True

    # Ports elsewhere

    def _forget_remote(self, port: rpc.Port) -> None:
        """What is plugged here is not elsewhere any more."""
        remote = self._remotes.pop((port.network_id, security_groups.normal_mac(port.mac)), None)
        tunnel = self._tunnel(port.network_id)
        if remote is not None and tunnel is not None:
            self._route.do_all(forwarding.delete(remote, tunnel))

    def put_remote_ports(self, remote_ports: tuple[rpc.RemotePort, ...]) -> None:
        self._ready()
        messages = []
        after: dict[tuple[str, str], rpc.RemotePort] = {}
        for remote in remote_ports:
            if remote.network_id not in self.segments:
                raise DriverError(f"Network {remote.network_id} is not on this host; put it first.")
            key = (remote.network_id, security_groups.normal_mac(remote.mac))
            tunnel = self._tunnel(remote.network_id)
            if tunnel is not None and remote.vtep_ip != self.config.vtep_ip:
                messages += forwarding.replace(self._remotes.get(key), remote, tunnel)
                after[key] = remote
        self._route.do_all(messages)
        self._remotes |= after

    def delete_remote_ports(self, keys: tuple[tuple[str, str], ...]) -> None:
        self._ready()
        for network_id, mac in keys:
            remote = self._remotes.pop((network_id, security_groups.normal_mac(mac)), None)
            tunnel = self._tunnel(network_id)
            if remote is not None and tunnel is not None:
                self._route.do_all(forwarding.delete(remote, tunnel))

    def put_peers(self, peers: tuple[rpc.Peer, ...]) -> None:
        self._ready()
        own = self.config.vtep_ip
        messages = []
        for network_id in sorted(self.segments):
            tunnel = self._tunnel(network_id)
            if tunnel is not None:
                before, after = forwarding.floods(tunnel, self._peers, own), forwarding.floods(tunnel, peers, own)
                messages += forwarding.change_floods(tunnel, before, after)
        self._route.do_all(messages)
        self._peers = peers

    # Routers

    def _attachments(self, router: rpc.Router) -> dict[str, routers.Attachment]:
        found: dict[str, routers.Attachment] = {}
        for network_id in routers.network_ids(router):
            segment = self.segments.get(network_id)
            if segment is None:
                raise DriverError(f"Router {router.id} needs network {network_id}, which is not on this host; put it first.")
            found[network_id] = routers.Attachment(bridge=segment.bridge, mtu=segment.network.mtu)
        return found

    def put_router(self, router: rpc.Router) -> rpc.RouterReady:
        self._ready()
        return self._put_router(router)

    def _put_router(self, router: rpc.Router, *, anew: bool = False) -> rpc.RouterReady:
        if not names.is_id(router.id):
            raise DriverError(f"Router id {router.id!r} is not a UUID.")
        attachments = self._attachments(router)
        plan = routers.plan(router, self.config.host_namespace, attachments)
        before, known = self._router_plans.get(router.id), self.routers.get(router.id)
        if plan != before or anew:
            script = None if anew or known is None or before is None else routers.change_script(known, router)
            load = partial(self._load_router_rules, router.id, plan.script if script is None else script)
            realised = namespaces.realise(plan, self._route, self._bridges(), self.discard, load)
            self._end_connections(plan.namespace, routers.ended_addresses(known, router))
        else:
            realised = namespaces.Realised(created=False, fresh_legs=frozenset())
        self._serve_router(router, plan, realised.fresh_legs, routers.advertisements(router, attachments))
        self._router_plans[router.id] = plan
        self.routers[router.id] = router
        self.counters["router_puts"] += 1
        return rpc.RouterReady(router_id=router.id, floating_ips=tuple(pair.floating_ip for pair in router.floating_ips))

    def _load_router_rules(self, router_id: str, script: str | None, created: bool) -> None:
        """Contexts are kept, one for each router: closing one waits for the kernel to be done with the last change."""
        if created:
            self._drop_router_rules(router_id)
        if router_id not in self._router_nft:
            self._router_nft[router_id] = Nft()
        if script:
            self._router_nft[router_id].run(script)

    def _drop_router_rules(self, router_id: str) -> None:
        nft = self._router_nft.pop(router_id, None)
        if nft is not None:
            self.discard(nft)

    def _end_connections(self, namespace: str, floating_ips: frozenset[str]) -> None:
        if not floating_ips:
            return
        with netns.entered(namespace):
            tracked = Conntrack()
        try:
            ended = [e for e in tracked.entries() if e.destination in floating_ips or e.reply_destination in floating_ips]
            tracked.delete(ended)
        finally:
            self.discard(tracked)

    def _serve_router(
        self, router: rpc.Router, plan: NamespacePlan, fresh: frozenset[str], speaking: Mapping[str, ra.Advertisement]
    ) -> None:
        for key in [key for key in self.servers if key[:2] == ("ra", router.id) and (key[2] in fresh or key[2] not in speaking)]:
            self._close(key)
        with netns.entered(plan.namespace):
            if ("router-metadata", router.id) not in self.servers:
                listening = metadata.open_socket(names.METADATA_PORT)
                self._open(("router-metadata", router.id), metadata.Server(listening, self._handler, router_id=router.id))
            for leg, advertisement in speaking.items():
                server = self.servers.get(("ra", router.id, leg))
                if isinstance(server, ra.Server):
                    server.advertisement = advertisement
                else:
                    self._open(("ra", router.id, leg), ra.Server(ra.open_socket(leg), advertisement))

    def delete_router(self, router_id: str) -> bool:
        self._ready()
        plan = self._router_plans.pop(router_id, None)
        self._drop_router_rules(router_id)
        for key in [key for key in self.servers if key[0] in ("ra", "router-metadata") and key[1] == router_id]:
            self._close(key)
        if plan is not None:
            namespaces.remove(plan, self._route)
        return self.routers.pop(router_id, None) is not None

    # The truth

    def sync(self, state: rpc.HostState) -> rpc.HostSynced:
        """Never looks at what we believe is there, only at the kernel; keeps what is right."""
        failed: list[rpc.PortFailed | rpc.NetworkFailed | rpc.RouterFailed] = []
        self._links = {link.name: link for link in self._route.links()}
        self._peers = state.peers
        self._sync_networks(state, failed)
        candidates = self._sync_rules(state, failed)
        for segment in self.segments.values():
            try:
                self._serve_network(segment, anew=True)
            except (OSError, ValueError) as error:
                failed.append(rpc.NetworkFailed(network_id=segment.network.id, reason=reason(error)))
        for port in candidates:
            try:
                self._lease(port, self.segments[port.network_id])
                self._tap(port, self.segments[port.network_id])
                self.ports[port.id] = port
            except (DriverError, OSError, ValueError) as error:
                failed.append(rpc.PortFailed(port_id=port.id, reason=reason(error)))
        self._sync_remotes(state)
        self._sync_routers(state, failed)
        removed = self._sweep()
        self._judge()
        self.synced = True
        self.counters["syncs"] += 1
        return rpc.HostSynced(
            wired=tuple(self.ports),
            networks=tuple(self.segments),
            routers=tuple(self.routers),
            failed=tuple(failed),
            removed=tuple(removed),
        )

    def _sync_networks(self, state: rpc.HostState, failed: list[rpc.PortFailed | rpc.NetworkFailed | rpc.RouterFailed]) -> None:
        subnets: dict[str, list[rpc.Subnet]] = {}
        for subnet in state.subnets:
            subnets.setdefault(subnet.network_id, []).append(subnet)
        self.segments = {}
        for network in state.networks:
            try:
                self.segments[network.id] = self._segment(network, tuple(subnets.get(network.id, ())))
            except (DriverError, OSError, ValueError) as error:
                failed.append(rpc.NetworkFailed(network_id=network.id, reason=reason(error)))
        for network_id in [network_id for network_id in self._service_plans if network_id not in self.segments]:
            self._unserve_network(network_id)

    def _sync_rules(self, state: rpc.HostState, failed: list[rpc.PortFailed | rpc.NetworkFailed | rpc.RouterFailed]) -> list[rpc.Port]:
        """Loads the whole policy in one transaction; returns the ports it was made for."""
        groups = {group.id: group for group in state.security_groups}
        named = self._referenced(groups)
        parts: dict[Key, Part] = {("network", nid): self._segment_part(segment) for nid, segment in self.segments.items()}
        broken: dict[str, str] = {}
        prefixes = self._wide(groups, named)
        for group in groups.values():
            try:
                parts[("group", group.id)] = security_groups.group_part(group, prefixes)
            except ValueError as error:
                broken[group.id] = reason(error)
        parts |= {("members", gid): security_groups.members_part(gid, groups.get(gid)) for gid in named}
        self.ports = {}
        candidates: list[rpc.Port] = []
        combinations: Counter[str] = Counter()
        for port in state.ports:
            try:
                if port.network_id not in self.segments:
                    raise DriverError(f"Network {port.network_id} of port {port.id} is not realised on this host.")
                bad = [gid for gid in port.security_group_ids if gid in broken]
                if bad:
                    raise DriverError(f"Security group {bad[0]} cannot be compiled: {broken[bad[0]]}")
                parts[("port", port.id)] = self._check_port(port, groups)
            except (DriverError, ValueError) as error:
                failed.append(rpc.PortFailed(port_id=port.id, reason=reason(error)))
                continue
            candidates.append(port)
            if port.port_security_enabled:
                name = security_groups.combination_name(port.security_group_ids)
                combinations[name] += 1
                parts[("combination", name)] = security_groups.combination_part(port.security_group_ids)
        self.ruleset.load(parts)
        self.groups = {gid: group for gid, group in groups.items() if gid not in broken}
        self._named, self._combinations = named, combinations
        for leases in self._leases.values():
            leases.clear()
        return candidates

    def _sync_remotes(self, state: rpc.HostState) -> None:
        local = {(port.network_id, security_groups.normal_mac(port.mac)) for port in self.ports.values()}
        self._remotes = {}
        for remote in state.remote_ports:
            key = (remote.network_id, security_groups.normal_mac(remote.mac))
            if key not in local and self._tunnel(remote.network_id) is not None and remote.vtep_ip != self.config.vtep_ip:
                self._remotes[key] = remote
        tunnels = {nid: tunnel for nid in sorted(self.segments) if (tunnel := self._tunnel(nid)) is not None}
        forwarding.settle(self._route, tunnels, self._remotes.values(), self._peers, self.config.vtep_ip)

    def _sync_routers(self, state: rpc.HostState, failed: list[rpc.PortFailed | rpc.NetworkFailed | rpc.RouterFailed]) -> None:
        wanted = {router.id: router for router in state.routers}
        self.synced = True
        for router_id in [router_id for router_id in self._router_plans if router_id not in wanted]:
            self.delete_router(router_id)
        for router in wanted.values():
            try:
                self._put_router(router, anew=True)
            except (DriverError, OSError, ValueError, KeyError) as error:
                self.routers.pop(router.id, None)
                failed.append(rpc.RouterFailed(router_id=router.id, reason=reason(error)))

    def _sweep(self) -> list[str]:
        """Links and namespaces of ours that nothing wanted explains."""
        plans = {plan.namespace: plan for plan in (*self._service_plans.values(), *self._router_plans.values())}
        wanted = {segment.bridge for segment in self.segments.values()} | {physical.bridge for physical in self.config.physical_networks}
        wanted |= {segment.vxlan for segment in self.segments.values() if segment.vxlan is not None}
        wanted |= {port.device_name for port in self.ports.values()}
        wanted |= {leg.host_name for plan in plans.values() for leg in plan.legs}
        self._links = {link.name: link for link in self._route.links()}
        flat = {segment.bridge for segment in self.segments.values()}
        for physical in self.config.physical_networks:
            if physical.bridge not in flat and self._links[physical.bridge].alias:
                self._route.do(rtnl.set_link(physical.bridge, alias=""))
                self._remember(physical.bridge)
        namespace = self.config.host_namespace
        lost = [n for n in netns.names(namespace) if names.owned(namespace, n) and n != namespace and n not in plans]
        strays = [name for name in self._links if name.startswith(names.OWN_LINKS) and name not in wanted]
        self._delete_links(strays)
        for name in lost:
            netns.remove(name)
        return sorted(strays + lost)

    def describe(self) -> rpc.DriverDescription:
        counters = dict(self.counters)
        counters |= {
            "ports": len(self.ports),
            "networks": len(self.segments),
            "routers": len(self.routers),
            "remote_ports": len(self._remotes),
            "rule_transactions": self.ruleset.transactions,
            "rule_transactions_hot": self.ruleset.hot_transactions,
            "rule_reloads": self.ruleset.reloads,
            "dhcp_answers": sum(server.answered for server in self.servers.values() if isinstance(server, dhcp.Server)),
            "dhcp_unanswered": sum(server.refused for server in self.servers.values() if isinstance(server, dhcp.Server)),
            "metadata_requests": sum(server.requests for server in self.servers.values() if isinstance(server, metadata.Server)),
        }
        return rpc.DriverDescription(
            driver="linux", namespace=self.config.host_namespace, capabilities=probe.capabilities(self._route, self._nft), counters=counters
        )


def reason(error: Exception) -> str:
    """One sentence for whoever reads the fact."""
    if isinstance(error, DriverError):
        return error.reason
    text = str(error.args[1] if isinstance(error, OSError) and len(error.args) > 1 else error)
    return text if text.endswith(".") else f"{text[:1].upper()}{text[1:]}."
