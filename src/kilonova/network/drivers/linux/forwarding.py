"""Where remote ports are: tunnel and bridge forwarding entries and answered neighbours of the VXLAN segments of a host."""

import ipaddress
import socket
from collections.abc import Iterable, Mapping

import msgspec

from kilonova.network import rpc
from kilonova.network.drivers.linux import rtnl
from kilonova.network.drivers.linux.netlink import Message
from kilonova.network.drivers.linux.rtnl import Route
from kilonova.network.drivers.linux.security_groups import normal_mac

_PERMANENT, _STATIC = 0x80, 0x40


class Tunnel(msgspec.Struct, frozen=True, kw_only=True):
    """Link indexes of a VXLAN segment."""

    network_id: str
    bridge: int
    vxlan: int


def floods(tunnel: Tunnel, peers: Iterable[rpc.Peer], own_vtep_ip: str) -> set[str]:
    wanted = {peer.vtep_ip for peer in peers if peer.network_ids is None or tunnel.network_id in peer.network_ids}
    return wanted - {own_vtep_ip}


def put(remote: rpc.RemotePort, tunnel: Tunnel) -> list[Message]:
    mac = normal_mac(remote.mac)
    messages = [rtnl.put_tunnel_entry(tunnel.vxlan, mac, remote.vtep_ip), rtnl.put_bridge_entry(tunnel.vxlan, mac)]
    return messages + [rtnl.put_neighbour(tunnel.bridge, ip, mac) for ip in remote.ips]


def delete(remote: rpc.RemotePort, tunnel: Tunnel) -> list[Message]:
    mac = normal_mac(remote.mac)
    messages = [rtnl.delete_neighbour(tunnel.bridge, ip) for ip in remote.ips]
    return messages + [rtnl.delete_bridge_entry(tunnel.vxlan, mac), rtnl.delete_tunnel_entry(tunnel.vxlan, mac)]


def replace(before: rpc.RemotePort | None, after: rpc.RemotePort, tunnel: Tunnel) -> list[Message]:
    stale = [ip for ip in before.ips if ip not in after.ips] if before is not None else []
    return [rtnl.delete_neighbour(tunnel.bridge, ip) for ip in stale] + put(after, tunnel)


def change_floods(tunnel: Tunnel, before: set[str], after: set[str]) -> list[Message]:
    removed = [rtnl.delete_flood(tunnel.vxlan, vtep_ip) for vtep_ip in sorted(before - after)]
    return removed + [rtnl.add_flood(tunnel.vxlan, vtep_ip) for vtep_ip in sorted(after - before)]


class _Tables:
    """What the kernel's tables shall hold, keyed as the kernel keys them."""

    def __init__(self, tunnels: Mapping[str, Tunnel], remotes: Iterable[rpc.RemotePort]) -> None:
        self.tunnel: dict[tuple[int, str], str] = {}
        self.bridge: set[tuple[int, str]] = set()
        self.neighbours: dict[tuple[int, str], str] = {}
        for remote in remotes:
            at = tunnels[remote.network_id]
            mac = normal_mac(remote.mac)
            self.tunnel[(at.vxlan, mac)] = remote.vtep_ip
            self.bridge.add((at.vxlan, mac))
            self.neighbours |= {(at.bridge, str(ipaddress.ip_address(ip))): mac for ip in remote.ips}


def settle(
    route: Route, tunnels: Mapping[str, Tunnel], remotes: Iterable[rpc.RemotePort], peers: Iterable[rpc.Peer], own_vtep_ip: str
) -> None:
    """Make the kernel's tables exactly this, from whatever they are."""
    want = _Tables(tunnels, remotes)
    flooded: dict[int, set[str]] = {tunnel.vxlan: set() for tunnel in tunnels.values()}
    stale: list[Message] = []
    for entry in route.neighbours(socket.AF_BRIDGE):
        if entry.index not in flooded or entry.mac is None:
            continue
        key = (entry.index, entry.mac)
        if entry.on_device and entry.mac == rtnl.FLOOD_MAC:
            flooded[entry.index].add(entry.ip or "")
        elif entry.on_device and key not in want.tunnel:
            stale.append(rtnl.delete_tunnel_entry(*key))
        elif not entry.on_device and entry.state == _STATIC and key not in want.bridge:
            stale.append(rtnl.delete_bridge_entry(*key))
    bridges = {tunnel.bridge for tunnel in tunnels.values()}
    for entry in (*route.neighbours(socket.AF_INET), *route.neighbours(socket.AF_INET6)):
        if entry.index in bridges and entry.state == _PERMANENT and entry.ip and (entry.index, entry.ip) not in want.neighbours:
            stale.append(rtnl.delete_neighbour(entry.index, entry.ip))
    wanted = [rtnl.put_tunnel_entry(*key, vtep_ip) for key, vtep_ip in sorted(want.tunnel.items())]
    wanted += [rtnl.put_bridge_entry(*key) for key in sorted(want.bridge)]
    wanted += [rtnl.put_neighbour(*key, mac) for key, mac in sorted(want.neighbours.items())]
    for tunnel in tunnels.values():
        wanted += change_floods(tunnel, flooded[tunnel.vxlan], floods(tunnel, peers, own_vtep_ip))
    route.do_all(stale + wanted)
