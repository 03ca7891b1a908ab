"""What each host shall realise, derived from the rows: pure.

`put_*` and `drop_*` tell it of one row's new state; it keeps indices (who is on which network, who is member of which group) and marks what
has changed for whom. `take(host)` turns the marks of a host into commands; `state(host)` compiles everything from scratch and is the
truth. A test plays random changes and compares both. Nothing here waits or reads: the service feeds it after each commit.

A host is told of a network only while something of that network sits on it: a guest's port, or a router.

What concerns many hosts costs one entry, not one mark for each of them: addresses on a VXLAN network go to the network's journal, of which
every host has read up to some place, and groups with new members are marked for their hosts when the news is collected (`waiting`).
"""

import bisect
from collections.abc import Iterable, Mapping
from typing import TypeVar

import msgspec

from kilonova.network import model, rpc
from kilonova.network.domain import ipam

T = TypeVar("T")
RemoteKey = tuple[str, str]
"""(network id, MAC)"""


JOURNAL = 8192
"""Entries that a network's journal keeps. A host that has fallen back further is synchronised."""


class Order(msgspec.Struct, frozen=True):
    """Commands for one host, in stages: those of one stage may run at once. `resync`: too much was missed to say what has changed."""

    stages: tuple[tuple[rpc.Command, ...], ...]
    resync: bool = False

    def __bool__(self) -> bool:
        return bool(self.stages) or self.resync


class _News(msgspec.Struct, frozen=True):
    """A piece of a journal, as a host reads it on which none of these addresses is or was."""

    puts: tuple[rpc.RemotePort, ...]
    gone: tuple[RemoteKey, ...]
    own: dict[str, dict[str, str]]
    """host -> the MACs of the piece that are or were there -> where each was before, "" for nowhere"""


class _Journal:
    """MACs of one network whose place or addresses have changed, in order. Places in it are counted from the network's beginning."""

    __slots__ = ("entries", "first", "news")

    def __init__(self) -> None:
        self.first = 0
        self.entries: list[tuple[str, str]] = []
        self.news: dict[tuple[int, int], _News] = {}

    @property
    def end(self) -> int:
        return self.first + len(self.entries)

    def add(self, mac: str, was: str) -> None:
        self.entries.append((mac, was))
        self.news.clear()
        if len(self.entries) > JOURNAL:
            del self.entries[: JOURNAL // 2]
            self.first += JOURNAL // 2


class _Marks:
    """What has changed for one host since it was last told. Dicts, for their order."""

    __slots__ = ("groups", "networks", "peers", "plugs", "read", "routers", "told_groups", "told_networks", "told_ports", "told_routers")

    def __init__(self) -> None:
        self.plugs: dict[str, None] = {}
        self.networks: dict[str, None] = {}
        self.routers: dict[str, None] = {}
        self.groups: dict[str, None] = {}
        self.peers = False
        self.read: dict[str, int] = {}
        """network -> how far its journal has been read; -1: nothing of it is known"""
        self.told_ports: dict[str, None] = {}
        self.told_networks: dict[str, None] = {}
        self.told_routers: dict[str, None] = {}
        self.told_groups: dict[str, rpc.SecurityGroup] = {}

    def clear(self) -> None:
        for marks in (self.plugs, self.networks, self.routers, self.groups):
            marks.clear()
        self.peers = False

    def __bool__(self) -> bool:
        return bool(self.networks or self.groups or self.plugs or self.routers or self.peers)


class Topology:
    def __init__(self) -> None:
        self.vteps: dict[str, str] = {}
        self.networks: dict[str, model.Network] = {}
        self.subnets: dict[str, dict[str, model.Subnet]] = {}
        self.ports: dict[str, model.Port] = {}
        """Ports that matter to a host: bound guests', routers' and DHCP's."""
        self.routers: dict[str, model.Router] = {}
        self.floating_ips: dict[str, model.FloatingIp] = {}
        self.rules: dict[str, dict[str, model.SecurityGroupRule]] = {}
        self._marks: dict[str, _Marks] = {}
        self._local: dict[str, dict[str, None]] = {}
        self._places: dict[str, dict[str, int]] = {}
        self._remote: dict[str, dict[str, tuple[str, tuple[str, ...]]]] = {}
        self._journals: dict[str, _Journal] = {}
        self._members: dict[str, dict[str, int]] = {}
        self._sorted_members: dict[str, list[str]] = {}
        self._grown_groups: dict[str, None] = {}
        """Groups whose members have changed, and whose hosts are not marked yet."""
        self._urgent: dict[str, None] = {}
        self.has_news = False
        """Something has been marked since the news were collected last."""
        self._group_hosts: dict[str, dict[str, int]] = {}
        self._referrers: dict[str, dict[str, int]] = {}
        self._networks_at: dict[str, dict[str, None]] = {}
        self._groups_at: dict[str, dict[str, int]] = {}
        self._routers_at: dict[str, dict[str, None]] = {}
        self._router_ports: dict[str, dict[str, None]] = {}
        self._router_places: dict[str, tuple[str, tuple[str, ...], tuple[tuple[str, str], ...]]] = {}
        self._router_fips: dict[str, dict[str, None]] = {}
        self._dhcp: dict[str, model.Port] = {}
        self._on_router: dict[str, dict[str, None]] = {}
        self._compiled_networks: dict[str, tuple[rpc.Network, tuple[rpc.Subnet, ...]]] = {}
        self._compiled_groups: dict[str, rpc.SecurityGroup] = {}
        self._compiled_remotes: dict[RemoteKey, rpc.RemotePort] = {}
        self._compiled_peers: dict[tuple[str, ...], dict[str, rpc.Peer]] = {}
        """VXLAN networks -> every host that has one of them, as the others see it."""

    # ---- marks

    def _mark(self, host: str) -> _Marks:
        self.has_news = True
        found = self._marks.get(host)
        if found is None:
            found = self._marks[host] = _Marks()
        return found

    def _hurry(self, host: str) -> _Marks:
        """Marks of a host for which something of its own waits."""
        self._urgent[host] = None
        return self._mark(host)

    def urgent(self) -> list[str]:
        return list(self._urgent)

    def waiting(self) -> tuple[list[str], list[str]]:
        """Hosts with news: those that something of their own waits for, and the others."""
        for group_id in self._grown_groups:
            for host in self._hosts_with(group_id):
                self._mark(host).groups[group_id] = None
        self._grown_groups.clear()
        calm = [host for host, marks in self._marks.items() if host not in self._urgent and (marks or self._behind(marks))]
        return list(self._urgent), calm

    def forget_news(self) -> None:
        """Nobody will be told of what has changed so far: every host is told its whole state before anything else."""
        self._marks.clear()
        self._urgent.clear()
        self._grown_groups.clear()
        self.has_news = False

    def tell_port(self, port_id: str) -> None:
        """Its host is to wire it again."""
        port = self.ports.get(port_id)
        if port is not None and port.is_guest:
            self._hurry(port.host).plugs[port_id] = None

    def tell_router(self, router_id: str) -> None:
        """Its host is to realise it again."""
        self._router_changed(router_id)

    def dhcp_port_id(self, network_id: str) -> str:
        """Empty for none."""
        port = self._dhcp.get(network_id)
        return port.id if port is not None else ""

    def is_on(self, host: str, *, network_id: str = "", router_id: str = "", port_id: str = "") -> bool:
        """Whether the host has the one thing that is named."""
        if port_id:
            port = self.ports.get(port_id)
            return port is not None and port.host == host
        return router_id in self._routers_at.get(host, ()) if router_id else network_id in self._networks_at.get(host, ())

    def in_use(self, network_id: str) -> bool:
        """Whether something of the network sits on any host."""
        return network_id in self._places

    def _behind(self, marks: _Marks) -> bool:
        return any(place < self._end(network_id) for network_id, place in marks.read.items())

    def _end(self, network_id: str) -> int:
        journal = self._journals.get(network_id)
        return journal.end if journal is not None else 0

    # ---- hosts

    def put_host(self, host: str, vtep_ip: str) -> None:
        if self.vteps.get(host) == vtep_ip:
            return
        self.vteps[host] = vtep_ip
        self._compiled_peers.clear()
        for network_id, places in self._places.items():
            if host in places:
                self._peers_changed(network_id)
                for mac, (where, _) in self._remote.get(network_id, {}).items():
                    if where == host:
                        self._tell_remote(network_id, mac, where)

    def drop_host(self, host: str) -> None:
        self._compiled_peers.clear()
        if self.vteps.pop(host, None) is not None:
            for network_id, places in self._places.items():
                if host in places:
                    self._peers_changed(network_id)
                    for mac, (where, _) in self._remote.get(network_id, {}).items():
                        if where == host:
                            self._tell_remote(network_id, mac, where)
        self._marks.pop(host, None)
        self._urgent.pop(host, None)

    def router_host(self) -> str:
        """Where the next router goes: the host with the fewest; "" while there is none."""
        return min(sorted(self.vteps), key=lambda host: len(self._routers_at.get(host, ())), default="")

    # ---- networks and subnets

    def put_network(self, network: model.Network) -> None:
        self.networks[network.id] = network
        self._compiled_peers.clear()
        self._network_changed(network.id)

    def drop_network(self, network_id: str) -> None:
        self.networks.pop(network_id, None)
        self.subnets.pop(network_id, None)
        self._compiled_networks.pop(network_id, None)
        self._compiled_peers.clear()
        self._dhcp.pop(network_id, None)
        self._journals.pop(network_id, None)

    def put_subnet(self, subnet: model.Subnet) -> None:
        self.subnets.setdefault(subnet.network_id, {})[subnet.id] = subnet
        self._network_changed(subnet.network_id)

    def drop_subnet(self, subnet: model.Subnet) -> None:
        self.subnets.get(subnet.network_id, {}).pop(subnet.id, None)
        self._network_changed(subnet.network_id)

    def _network_changed(self, network_id: str) -> None:
        self._compiled_networks.pop(network_id, None)
        for host in self._places.get(network_id, ()):
            self._hurry(host).networks[network_id] = None
        for router_id in self._on_router.get(network_id, ()):
            self._router_changed(router_id)

    # ---- places: which hosts have which network

    def _enter(self, network_id: str, host: str) -> None:
        places = self._places.setdefault(network_id, {})
        count = places.get(host, 0)
        places[host] = count + 1
        if count:
            return
        self._networks_at.setdefault(host, {})[network_id] = None
        marks = self._mark(host)
        marks.networks[network_id] = None
        self._peers_changed(network_id)
        marks.read.setdefault(network_id, -1)  # it may come back before the host was told that it had gone

    def _leave(self, network_id: str, host: str) -> None:
        places = self._places[network_id]
        places[host] -= 1
        if places[host]:
            return
        del places[host]
        del self._networks_at[host][network_id]
        marks = self._mark(host)
        marks.networks[network_id] = None
        if network_id not in marks.told_networks:
            marks.read.pop(network_id, None)
        marks.peers = True
        self._peers_changed(network_id)
        if not places:
            del self._places[network_id]

    def _is_vxlan(self, network_id: str) -> bool:
        network = self.networks.get(network_id)
        return network is not None and network.network_type == "vxlan"

    def _peers_changed(self, network_id: str) -> None:
        self._compiled_peers.clear()
        if self._is_vxlan(network_id):
            for host in self._places.get(network_id, ()):
                self._mark(host).peers = True

    def _put_remote(self, network_id: str, mac: str, host: str, ips: tuple[str, ...]) -> None:
        entries = self._remote.setdefault(network_id, {})
        old = entries.get(mac)
        if old != (host, ips):
            entries[mac] = (host, ips)
            self._tell_remote(network_id, mac, old[0] if old else "")

    def _drop_remote(self, network_id: str, mac: str) -> None:
        entries = self._remote.get(network_id, {})
        found = entries.pop(mac, None)
        if found is not None:
            self._tell_remote(network_id, mac, found[0])
        if not entries:
            self._remote.pop(network_id, None)

    def _tell_remote(self, network_id: str, mac: str, was: str) -> None:
        """An entry of the journal, if anybody reads it."""
        self._compiled_remotes.pop((network_id, mac), None)
        if network_id in self._places or network_id in self._journals:
            self._journals.setdefault(network_id, _Journal()).add(mac, was)
            self.has_news = True

    # ---- ports

    def put_port(self, port: model.Port) -> None:
        """Any port, in any state: what no host needs is forgotten."""
        old = self.ports.get(port.id)
        if old is not None and old.revision > port.revision:
            return
        if port.is_guest:
            self._put_guest(old, port)
        elif port.device_owner == model.DHCP:
            self._put_dhcp(port)
        elif port.device_owner in (model.ROUTER_INTERFACE, model.ROUTER_GATEWAY):
            if old is not None and (old.is_guest or old.device_id != port.device_id):
                self.drop_port(port.id)
            self.ports[port.id] = port
            self._router_ports.setdefault(port.device_id, {})[port.id] = None
            self._router_moved(port.device_id)
        elif old is not None:
            self.drop_port(port.id)

    def drop_port(self, port_id: str) -> None:
        old = self.ports.pop(port_id, None)
        if old is None:
            return
        if old.is_guest:
            self._remove_guest(old)
        elif old.device_owner == model.DHCP:
            self._dhcp.pop(old.network_id, None)
            self._network_changed(old.network_id)
        else:
            self._router_ports.get(old.device_id, {}).pop(port_id, None)
            self._router_moved(old.device_id)

    def _put_dhcp(self, port: model.Port) -> None:
        old = self._dhcp.get(port.network_id)
        self.ports[port.id] = port
        self._dhcp[port.network_id] = port
        if old is None or (old.mac_address, old.fixed_ips) != (port.mac_address, port.fixed_ips):
            self._network_changed(port.network_id)

    def _put_guest(self, old: model.Port | None, port: model.Port) -> None:
        if old is not None and not old.is_guest:
            self.drop_port(port.id)
            old = None
        if not port.host:
            if old is not None:
                self.drop_port(port.id)
            return
        if old is not None and old.host == port.host and compiled_port(old) == compiled_port(port):
            self.ports[port.id] = port
            return
        self.ports[port.id] = port
        self._add_guest(port)
        if old is not None:
            self._remove_guest(old, port)

    def _add_guest(self, port: model.Port) -> None:
        self._local.setdefault(port.host, {})[port.id] = None
        self._enter(port.network_id, port.host)
        self._put_remote(port.network_id, port.mac_address, port.host, own_ips(port))
        for group_id in port.security_groups:
            self._join(group_id, port)
        self._hurry(port.host).plugs[port.id] = None

    def _remove_guest(self, old: model.Port, now: model.Port | None = None) -> None:
        if now is None or now.host != old.host:
            self._local[old.host].pop(old.id, None)
            if not self._local[old.host]:
                del self._local[old.host]
            self._hurry(old.host).plugs[old.id] = None
        if now is None or now.mac_address != old.mac_address:
            self._drop_remote(old.network_id, old.mac_address)
        for group_id in old.security_groups:
            self._part(group_id, old)
        self._leave(old.network_id, old.host)

    # ---- security groups

    def put_rule(self, rule: model.SecurityGroupRule) -> None:
        rules = self.rules.setdefault(rule.security_group_id, {})
        old = rules.get(rule.id)
        rules[rule.id] = rule
        if old is None and rule.remote_group_id:
            _count(self._referrers.setdefault(rule.remote_group_id, {}), rule.security_group_id, 1)
        self._rules_changed(rule.security_group_id)

    def drop_rule(self, rule: model.SecurityGroupRule) -> None:
        old = self.rules.get(rule.security_group_id, {}).pop(rule.id, None)
        if old is None:
            return
        if old.remote_group_id:
            _count(self._referrers.setdefault(old.remote_group_id, {}), old.security_group_id, -1)
        self._rules_changed(rule.security_group_id)

    def drop_group(self, group_id: str) -> None:
        for rule in list(self.rules.get(group_id, {}).values()):
            self.drop_rule(rule)
        self.rules.pop(group_id, None)
        self._compiled_groups.pop(group_id, None)

    def _rules_changed(self, group_id: str) -> None:
        self._compiled_groups.pop(group_id, None)
        for host in self._hosts_with(group_id):
            marks = self._hurry(host)
            marks.groups[group_id] = None
            for rule in self.rules.get(group_id, {}).values():
                if rule.remote_group_id:
                    marks.groups[rule.remote_group_id] = None

    def _join(self, group_id: str, port: model.Port) -> None:
        members = self._members.setdefault(group_id, {})
        changed = False
        for ip in member_ips(port):
            if _count(members, ip, 1) == 1:
                bisect.insort(self._sorted_members.setdefault(group_id, []), ip)
                changed = True
        hosts = self._group_hosts.setdefault(group_id, {})
        _count(self._groups_at.setdefault(port.host, {}), group_id, 1)
        if _count(hosts, port.host, 1) == 1:
            self._rules_changed(group_id)
        if changed:
            self._members_changed(group_id)

    def _part(self, group_id: str, port: model.Port) -> None:
        members, ordered = self._members[group_id], self._sorted_members.get(group_id, [])
        changed = False
        for ip in member_ips(port):
            if _count(members, ip, -1) == 0:
                del ordered[bisect.bisect_left(ordered, ip)]
                changed = True
        hosts = self._group_hosts[group_id]
        _count(self._groups_at[port.host], group_id, -1)
        if _count(hosts, port.host, -1) == 0:
            self._mark(port.host).groups[group_id] = None
        if changed:
            self._members_changed(group_id)

    def _members_changed(self, group_id: str) -> None:
        self._compiled_groups.pop(group_id, None)
        self._grown_groups[group_id] = None
        self.has_news = True

    def _hosts_with(self, group_id: str) -> list[str]:
        """Hosts that know the group: it is on one of their ports, or a rule of a group on one of their ports names it."""
        found = dict.fromkeys(self._group_hosts.get(group_id, ()))
        for referrer in self._referrers.get(group_id, ()):
            found.update(dict.fromkeys(self._group_hosts.get(referrer, ())))
        return list(found)

    # ---- routers

    def put_router(self, router: model.Router) -> None:
        old = self.routers.get(router.id)
        if old is not None and old.revision > router.revision:
            return
        self.routers[router.id] = router
        self._router_moved(router.id)

    def drop_router(self, router_id: str) -> None:
        if self.routers.pop(router_id, None) is not None:
            self._router_moved(router_id)
        self._router_ports.pop(router_id, None)

    def put_floating_ip(self, floating_ip: model.FloatingIp) -> None:
        old = self.floating_ips.get(floating_ip.id)
        if old is not None and old.revision > floating_ip.revision:
            return
        if old is not None and old.router_id and old.router_id != floating_ip.router_id:
            self._router_fips.get(old.router_id, {}).pop(old.id, None)
            self._router_changed(old.router_id)
        self.floating_ips[floating_ip.id] = floating_ip
        if floating_ip.router_id:
            self._router_fips.setdefault(floating_ip.router_id, {})[floating_ip.id] = None
            wired = (floating_ip.floating_ip_address, floating_ip.fixed_ip_address, floating_ip.router_id)
            if old is None or (old.floating_ip_address, old.fixed_ip_address, old.router_id) != wired:
                self._router_changed(floating_ip.router_id)

    def drop_floating_ip(self, floating_ip_id: str) -> None:
        old = self.floating_ips.pop(floating_ip_id, None)
        if old is not None and old.router_id:
            self._router_fips.get(old.router_id, {}).pop(old.id, None)
            self._router_changed(old.router_id)

    def _ports_of_router(self, router_id: str) -> list[model.Port]:
        return [self.ports[port_id] for port_id in sorted(self._router_ports.get(router_id, ()))]

    def _router_moved(self, router_id: str) -> None:
        """Its host or its ports have changed: networks come and go with it."""
        router = self.routers.get(router_id)
        ports = self._ports_of_router(router_id)
        old_host, old_networks, old_macs = self._router_places.pop(router_id, ("", (), ()))
        if old_host:
            del self._routers_at[old_host][router_id]
        host = router.host if router is not None else ""
        networks = tuple(sorted({port.network_id for port in ports})) if host else ()
        macs = tuple((port.network_id, port.mac_address) for port in ports) if host else ()
        for network_id in networks:
            self._enter(network_id, host)
        for port in ports if host else ():
            self._put_remote(port.network_id, port.mac_address, host, own_ips(port))
        for key in old_macs:
            if key not in macs:
                self._drop_remote(*key)
        for network_id in old_networks:
            self._leave(network_id, old_host)
            if network_id not in networks:
                self._on_router.get(network_id, {}).pop(router_id, None)
        for network_id in networks:
            self._on_router.setdefault(network_id, {})[router_id] = None
        if host:
            self._router_places[router_id] = (host, networks, macs)
            self._routers_at.setdefault(host, {})[router_id] = None
        for where in {old_host: None, host: None}:
            if where:
                self._hurry(where).routers[router_id] = None

    def _router_changed(self, router_id: str) -> None:
        router = self.routers.get(router_id)
        if router is not None and router.host:
            self._hurry(router.host).routers[router_id] = None

    # ---- compiling

    def _network(self, network_id: str) -> tuple[rpc.Network, tuple[rpc.Subnet, ...]] | None:
        found = self._compiled_networks.get(network_id)
        if found is None:
            network = self.networks.get(network_id)
            if network is None:
                return None
            subnets = self.subnets.get(network_id, {})
            found = compiled_network(network, [subnets[key] for key in sorted(subnets)], self._dhcp.get(network_id))
            self._compiled_networks[network_id] = found
        return found

    def _group(self, group_id: str) -> rpc.SecurityGroup:
        found = self._compiled_groups.get(group_id)
        if found is None:
            rules = self.rules.get(group_id, {})
            found = rpc.SecurityGroup(
                id=group_id,
                rules=tuple(compiled_rule(rules[key]) for key in sorted(rules)),
                member_ips=tuple(self._sorted_members.get(group_id, ())),
            )
            self._compiled_groups[group_id] = found
        return found

    def _groups_of(self, port: model.Port) -> list[str]:
        """The port's groups and those that their rules name."""
        found = dict.fromkeys(port.security_groups)
        for group_id in port.security_groups:
            for rule in self.rules.get(group_id, {}).values():
                if rule.remote_group_id:
                    found[rule.remote_group_id] = None
        return sorted(found)

    def _groups_on(self, host: str) -> list[str]:
        """Groups of the ports there, and those that their rules name."""
        own = self._groups_at.get(host, {})
        found = dict.fromkeys(own)
        for group_id in own:
            for rule in self.rules.get(group_id, {}).values():
                if rule.remote_group_id:
                    found[rule.remote_group_id] = None
        return sorted(found)

    def _networks_on(self, host: str) -> list[str]:
        return sorted(network_id for network_id in self._networks_at.get(host, ()) if network_id in self.networks)

    def _routers_on(self, host: str) -> list[str]:
        return sorted(self._routers_at.get(host, ()))

    def _remote_port(self, host: str, key: RemoteKey) -> rpc.RemotePort | None:
        """What the host shall know of an address that is on another one."""
        network_id, mac = key
        where, ips = self._remote.get(network_id, {}).get(mac, ("", ()))
        if where in ("", host) or not self.vteps.get(where) or not self._is_vxlan(network_id):
            return None
        found = self._compiled_remotes.get(key)
        if found is None or found.vtep_ip != self.vteps[where] or found.ips != ips:
            found = rpc.RemotePort(network_id=network_id, mac=mac, ips=ips, vtep_ip=self.vteps[where])
            self._compiled_remotes[key] = found
        return found

    def _peers_of(self, host: str, networks: Iterable[str]) -> tuple[rpc.Peer, ...]:
        vxlan = tuple(network_id for network_id in networks if self._is_vxlan(network_id))
        everyone = self._compiled_peers.get(vxlan)
        if everyone is None:
            shared: dict[str, list[str]] = {}
            for network_id in vxlan:
                for other in self._places.get(network_id, ()):
                    if self.vteps.get(other):
                        shared.setdefault(other, []).append(network_id)
            everyone = {other: rpc.Peer(vtep_ip=self.vteps[other], network_ids=tuple(shared[other])) for other in sorted(shared)}
            self._compiled_peers[vxlan] = everyone
        return tuple([peer for other, peer in everyone.items() if other != host])

    def _router(self, router_id: str) -> rpc.Router | None:
        router = self.routers.get(router_id)
        if router is None:
            return None
        fips = [self.floating_ips[key] for key in sorted(self._router_fips.get(router_id, ()))]
        return compiled_router(router, self._ports_of_router(router_id), self.networks, self.subnets, fips)

    def state(self, host: str) -> rpc.HostState:
        """Everything that the host shall realise, from scratch."""
        network_ids = self._networks_on(host)
        compiled = [found for found in map(self._network, network_ids) if found is not None]
        remotes = [
            remote
            for network_id in network_ids
            for mac in sorted(self._remote.get(network_id, ()))
            if (remote := self._remote_port(host, (network_id, mac))) is not None
        ]
        return rpc.HostState(
            networks=tuple(network for network, _ in compiled),
            subnets=tuple(sorted((subnet for _, subnets in compiled for subnet in subnets), key=lambda subnet: subnet.id)),
            ports=tuple(compiled_port(self.ports[port_id]) for port_id in sorted(self._local.get(host, ()))),
            remote_ports=tuple(remotes),
            peers=self._peers_of(host, network_ids),
            security_groups=tuple(self._group(group_id) for group_id in self._groups_on(host)),
            routers=tuple(router for router in map(self._router, self._routers_on(host)) if router is not None),
        )

    def told(self, host: str) -> rpc.HostState:
        """`state`, and what was marked for the host is done with: for a host that asks for all."""
        state = self.state(host)
        marks = self._mark(host)
        marks.clear()
        marks.told_ports = {port.id: None for port in state.ports}
        marks.told_networks = {network.id: None for network in state.networks}
        marks.told_routers = {router.id: None for router in state.routers}
        marks.told_groups = {group.id: group for group in state.security_groups}
        marks.read = {network_id: self._end(network_id) for network_id in self._networks_at.get(host, ())}
        self._urgent.pop(host, None)
        return state

    def take(self, host: str, *, news: bool = True) -> Order:
        """The commands that bring the host from what it was told last to what it shall be now; without `news`, but for where others'
        addresses are."""
        marks = self._marks.get(host)
        if marks is None:
            return Order(())
        self._urgent.pop(host, None)
        local = self._local.get(host, {})
        networks = dict.fromkeys(self._networks_on(host)) if marks.networks or marks.peers else marks.told_networks
        groups = {key: self._group(key) for key in self._groups_on(host)} if marks.groups or marks.plugs else marks.told_groups
        routers = dict.fromkeys(self._routers_on(host)) if marks.routers else marks.told_routers

        unplugs: list[rpc.Command] = [
            rpc.Unplug(port_id=port_id) for port_id in marks.plugs if port_id not in local and port_id in marks.told_ports
        ]
        gone_routers: list[rpc.Command] = [rpc.DeleteRouter(router_id=key) for key in marks.told_routers if key not in routers]
        plugs, carried_networks, carried_groups = self._plugs(marks, local)
        put_networks = [key for key in {**marks.networks, **networks} if key in networks and key not in carried_networks]
        put_networks = [key for key in put_networks if key in marks.networks or key not in marks.told_networks]
        first: list[rpc.Command] = []
        for key in put_networks:
            compiled = self._network(key)
            if compiled is not None:
                first.append(rpc.PutNetwork(network=compiled[0], subnets=compiled[1]))
        put_groups: list[rpc.Command] = [
            rpc.PutGroup(group=group)
            for key, group in groups.items()
            if key not in carried_groups and marks.told_groups.get(key) is not group
        ]
        gone_networks = [key for key in marks.told_networks if key not in networks]
        for key in gone_networks:
            marks.read.pop(key, None)
        remotes, gone_remotes, lost = self._remote_news(host, marks) if news else ((), (), False)
        if lost:
            return Order((), resync=True)
        peers: list[rpc.Command] = [rpc.PutPeers(peers=self._peers_of(host, networks))] if marks.peers else []
        put_routers: list[rpc.Command] = []
        for key in marks.routers:
            router = self._router(key) if key in routers else None
            if router is not None:
                put_routers.append(rpc.PutRouter(router=router))
        far: list[rpc.Command] = []
        if remotes:
            far.append(rpc.PutRemotePorts(remote_ports=remotes))
        if gone_remotes:
            far.append(rpc.DeleteRemotePorts(keys=gone_remotes))
        last: list[rpc.Command] = [rpc.DeleteNetwork(network_id=key) for key in gone_networks]
        last += [rpc.DeleteGroup(group_id=key) for key in marks.told_groups if key not in groups]

        marks.told_ports = dict(local) if marks.plugs else marks.told_ports
        marks.told_networks, marks.told_groups, marks.told_routers = dict(networks), groups, dict(routers)
        marks.clear()
        stages = (gone_routers, unplugs, [*first, *put_groups], plugs, put_routers, peers, far, last)
        return Order(tuple(tuple(stage) for stage in stages if stage))

    def _plugs(self, marks: _Marks, local: Mapping[str, None]) -> tuple[list[rpc.Command], dict[str, None], dict[str, None]]:
        """Commands for new and changed ports, and the networks and groups that come with them."""
        plugs: list[rpc.Command] = []
        networks: dict[str, None] = {}
        groups: dict[str, None] = {}
        for port_id in marks.plugs:
            if port_id not in local:
                continue
            port = self.ports[port_id]
            compiled = self._network(port.network_id)
            if compiled is None:
                continue
            names = self._groups_of(port)
            plugs.append(
                rpc.Plug(
                    port=compiled_port(port), network=compiled[0], subnets=compiled[1], groups=tuple(self._group(key) for key in names)
                )
            )
            networks[port.network_id] = None
            groups.update(dict.fromkeys(names))
        return plugs, networks, groups

    def _remote_news(self, host: str, marks: _Marks) -> tuple[tuple[rpc.RemotePort, ...], tuple[RemoteKey, ...], bool]:
        """(addresses to put, addresses to forget, whether too much was missed) of all networks on the host."""
        puts: list[tuple[rpc.RemotePort, ...]] = []
        gone: list[tuple[RemoteKey, ...]] = []
        for network_id, place in marks.read.items():
            end = self._end(network_id)
            if place == end:
                continue
            journal = self._journals.get(network_id)
            if place < 0:
                found = [self._remote_port(host, (network_id, mac)) for mac in self._remote.get(network_id, ())]
                puts.append(tuple(remote for remote in found if remote is not None))
            elif journal is None or place < journal.first:
                return (), (), True
            else:
                news = self._read(network_id, journal, place)
                own = news.own.get(host)
                if own is None:
                    puts.append(news.puts)
                    gone.append(news.gone)
                else:
                    mine = self._learnt(host, network_id, own)
                    puts.append((*[remote for remote in news.puts if remote.mac not in own], *mine[0]))
                    gone.append((*[key for key in news.gone if key[1] not in own], *mine[1]))
            marks.read[network_id] = end
        return _joined(puts), _joined(gone), False

    def _read(self, network_id: str, journal: _Journal, place: int) -> _News:
        """The journal from a place to its end, read once for all hosts that are at that place."""
        at = (place, journal.end)
        found = journal.news.get(at)
        if found is None:
            macs: dict[str, str] = {}
            for mac, was in journal.entries[place - journal.first :]:
                macs.setdefault(mac, was)
            own: dict[str, dict[str, str]] = {}
            entries = self._remote.get(network_id, {})
            for mac, was in macs.items():
                own.setdefault(was, {})[mac] = was
                own.setdefault(entries[mac][0] if mac in entries else "", {})[mac] = was
            found = journal.news[at] = _News(*self._learnt("", network_id, macs), own)
        return found

    def _learnt(self, host: str, network_id: str, macs: dict[str, str]) -> tuple[tuple[rpc.RemotePort, ...], tuple[RemoteKey, ...]]:
        """What a host ("": any on which none of them is or was) learns of changed addresses: (put, gone)."""
        puts: list[rpc.RemotePort] = []
        gone: list[RemoteKey] = []
        for mac, was in macs.items():
            remote = self._remote_port(host, (network_id, mac))
            if remote is not None:
                puts.append(remote)
            elif was and was != host:
                gone.append((network_id, mac))
        return tuple(puts), tuple(gone)


def _joined(parts: list[tuple[T, ...]]) -> tuple[T, ...]:
    return parts[0] if len(parts) == 1 else tuple([item for part in parts for item in part])


def _count(counts: dict[str, int], key: str, by: int) -> int:
    """Add to a count; at zero the key is gone. Returns what it is now."""
    now = counts.get(key, 0) + by
    if now:
        counts[key] = now
    else:
        counts.pop(key, None)
    return now


def own_ips(port: model.Port) -> tuple[str, ...]:
    """Addresses at which the port answers: its own, and single ones of its allowed pairs."""
    pairs = [pair.ip_address for pair in port.allowed_address_pairs if "/" not in pair.ip_address]
    return tuple(dict.fromkeys([*(fixed.ip_address for fixed in port.fixed_ips), *pairs]))


def member_ips(port: model.Port) -> tuple[str, ...]:
    """Addresses that the port stands for in its groups. A pair that allows every address does not make everybody a member."""
    pairs = [pair.ip_address for pair in port.allowed_address_pairs if not pair.ip_address.endswith("/0")]
    return tuple(dict.fromkeys([*(fixed.ip_address for fixed in port.fixed_ips), *pairs]))


def device_name(port_id: str) -> str:
    return f"tap{port_id[:11]}"


def compiled_port(port: model.Port) -> rpc.Port:
    return rpc.Port(
        id=port.id,
        network_id=port.network_id,
        device_name=device_name(port.id),
        mac=port.mac_address,
        fixed_ips=tuple(rpc.FixedIp(subnet_id=fixed.subnet_id, ip=fixed.ip_address) for fixed in port.fixed_ips),
        allowed_address_pairs=tuple(
            rpc.AddressPair(ip=pair.ip_address, mac=None if pair.mac_address == port.mac_address else pair.mac_address)
            for pair in port.allowed_address_pairs
        ),
        security_group_ids=port.security_groups,
        port_security_enabled=port.port_security_enabled,
        admin_state_up=port.admin_state_up,
        hostname=port.hostname or None,
        device_id=port.device_id,
        dhcp_options=tuple(
            rpc.DhcpOption(name=option.opt_name, value=option.opt_value, ip_version=option.ip_version) for option in port.extra_dhcp_opts
        ),
    )


def compiled_network(
    network: model.Network, subnets: Iterable[model.Subnet], dhcp: model.Port | None
) -> tuple[rpc.Network, tuple[rpc.Subnet, ...]]:
    answers = {fixed.subnet_id: fixed.ip_address for fixed in dhcp.fixed_ips} if dhcp else {}
    return (
        rpc.Network(
            id=network.id,
            kind=network.network_type,
            segmentation_id=network.segmentation_id,
            physical_network=network.physical_network,
            mtu=network.mtu,
            external=network.external,
            dhcp_mac=dhcp.mac_address if dhcp else None,
        ),
        tuple(
            rpc.Subnet(
                id=subnet.id,
                network_id=network.id,
                cidr=subnet.cidr,
                ip_version=subnet.ip_version,
                gateway_ip=subnet.gateway_ip,
                enable_dhcp=subnet.enable_dhcp,
                dhcp_ip=answers.get(subnet.id),
                dns_nameservers=subnet.dns_nameservers,
                host_routes=tuple(rpc.HostRoute(destination=r.destination, nexthop=r.nexthop) for r in subnet.host_routes),
                ipv6_ra_mode=subnet.ipv6_ra_mode,
                ipv6_address_mode=subnet.ipv6_address_mode,
            )
            for subnet in subnets
        ),
    )


def compiled_rule(rule: model.SecurityGroupRule) -> rpc.SecurityGroupRule:
    return rpc.SecurityGroupRule(
        direction=rule.direction,
        ethertype=rule.ethertype,
        protocol=rule.protocol,
        port_range_min=rule.port_range_min,
        port_range_max=rule.port_range_max,
        remote_ip_prefix=rule.remote_ip_prefix,
        remote_group_id=rule.remote_group_id,
    )


def compiled_router(
    router: model.Router,
    ports: Iterable[model.Port],
    networks: Mapping[str, model.Network],
    subnets: Mapping[str, Mapping[str, model.Subnet]],
    floating_ips: Iterable[model.FloatingIp],
) -> rpc.Router:
    interfaces: list[rpc.RouterInterface] = []
    gateway: rpc.RouterGateway | None = None
    for port in ports:
        network = networks.get(port.network_id)
        mtu = network.mtu if network is not None else None
        found = [
            (fixed, subnet) for fixed in port.fixed_ips if (subnet := subnets.get(port.network_id, {}).get(fixed.subnet_id)) is not None
        ]
        if port.device_owner == model.ROUTER_GATEWAY:
            next_hops = [subnet.gateway_ip for _, subnet in found if subnet.gateway_ip and subnet.ip_version == 4]
            next_hops += [subnet.gateway_ip for _, subnet in found if subnet.gateway_ip and subnet.ip_version == 6]
            gateway = rpc.RouterGateway(
                port_id=port.id,
                network_id=port.network_id,
                ips=tuple(f"{fixed.ip_address}/{ipam.cidr_of(subnet.cidr).prefixlen}" for fixed, subnet in found),
                mac=port.mac_address,
                next_hop=next_hops[0] if next_hops else None,
                enable_snat=router.enable_snat,
                mtu=mtu,
            )
        else:
            interfaces += [
                rpc.RouterInterface(
                    port_id=port.id,
                    subnet_id=subnet.id,
                    network_id=port.network_id,
                    ip=fixed.ip_address,
                    prefix=ipam.cidr_of(subnet.cidr).prefixlen,
                    mac=port.mac_address,
                    mtu=mtu,
                    ra_mode=subnet.ipv6_ra_mode if subnet.ip_version == 6 else None,
                )
                for fixed, subnet in found
            ]
    return rpc.Router(
        id=router.id,
        interfaces=tuple(interfaces),
        gateway=gateway,
        floating_ips=tuple(
            rpc.FloatingIp(floating_ip=fip.floating_ip_address, fixed_ip=fip.fixed_ip_address)
            for fip in floating_ips
            if fip.fixed_ip_address
        ),
        routes=tuple(rpc.HostRoute(destination=r.destination, nexthop=r.nexthop) for r in router.routes),
        admin_state_up=router.admin_state_up,
    )
