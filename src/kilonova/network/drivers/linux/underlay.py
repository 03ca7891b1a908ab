"""The cables of a host namespace: VTEP link and external bridges, and the namespace of the cloud in which they meet."""

import threading
from contextlib import suppress

from kilonova.network.drivers.linux import names, netns, rtnl
from kilonova.network.drivers.linux.config import LinuxConfig, PhysicalNetwork, Underlay
from kilonova.network.drivers.linux.rtnl import Route

_BRIDGE = "br0"
_GUARD = threading.Lock()
"""Hosts of one cloud in one process share the underlay."""


def _bridge(route: Route, name: str, mtu: int, owner: str) -> int:
    link = route.link(name)
    if link is None:
        with suppress(FileExistsError):
            route.do(rtnl.add_bridge(name, mtu=mtu, mac=names.derived_mac("fe:16:3e", owner, name)))
    elif link.mtu != mtu or not link.up:
        route.do(rtnl.set_link(name, mtu=mtu, up=True))
    return route.index(name)


def _quiet_ipv6() -> None:
    """No link-local addresses: the host must not answer on tenants' networks."""
    netns.write_sysctl("net/ipv6/conf/default/addr_gen_mode", 1)
    netns.write_sysctl("net/ipv6/conf/default/accept_ra", 0)


def ensure(config: LinuxConfig, route: Route) -> None:
    """Runs in the host namespace's thread."""
    _quiet_ipv6()
    route.do(rtnl.set_link("lo", up=True))
    for physical in config.physical_networks:
        index = _bridge(route, physical.bridge, physical.mtu, config.host_namespace)
        if physical.address is not None and all(a.cidr != physical.address for a in route.addresses() if a.index == index):
            route.do(rtnl.add_address(index, physical.address))
    if config.underlay is None:
        return
    with _GUARD:
        _ensure_shared(config.underlay, config.physical_networks)
        _cable(config, config.underlay, route, names.UNDERLAY_LINK, "u", _BRIDGE, config.underlay.mtu)
        for place, physical in enumerate(config.physical_networks):
            near = f"{names.EXTERNAL_UPLINK}{place}"
            _cable(config, config.underlay, route, near, f"x{place}", physical.bridge, physical.mtu)
            route.do(rtnl.set_link(near, master=route.index(physical.bridge)))
    index = route.index(names.UNDERLAY_LINK)
    cidr = f"{config.vtep_ip}/{config.underlay.prefix}"
    if all(address.cidr != cidr for address in route.addresses() if address.index == index):
        route.do(rtnl.add_address(index, cidr))


def _ensure_shared(underlay: Underlay, physical_networks: tuple[PhysicalNetwork, ...]) -> None:
    netns.create(underlay.namespace)
    with netns.entered(underlay.namespace), Route() as route:
        _quiet_ipv6()
        route.do(rtnl.set_link("lo", up=True))
        _bridge(route, _BRIDGE, underlay.mtu, underlay.namespace)
        for physical in physical_networks:
            _bridge(route, physical.bridge, physical.mtu, underlay.namespace)


def _cable(config: LinuxConfig, underlay: Underlay, route: Route, near: str, prefix: str, bridge: str, mtu: int) -> None:
    far = names.underlay_leg(prefix, config.host_namespace)
    if route.link(near) is None:
        with netns.opened(underlay.namespace) as descriptor:
            route.do(rtnl.add_veth(near, peer=far, peer_namespace_fd=descriptor, mtu=mtu))
    with netns.entered(underlay.namespace), Route() as shared:
        shared.do(rtnl.set_link(far, master=shared.index(bridge), mtu=mtu, up=True))


def release(config: LinuxConfig) -> None:
    """Remove the underlay once no host hangs on it. The host's own cables must be gone."""
    if config.underlay is None or not netns.exists(config.underlay.namespace):
        return
    with _GUARD:
        with netns.entered(config.underlay.namespace), Route() as shared:
            own = {names.underlay_leg("u", config.host_namespace)}
            own |= {names.underlay_leg(f"x{place}", config.host_namespace) for place in range(len(config.physical_networks))}
            cables = [link.name for link in shared.links() if link.kind == "veth"]
            shared.do_all([rtnl.delete_link(name) for name in cables if name in own])
            empty = all(name in own for name in cables)
        if empty:
            netns.remove(config.underlay.namespace)
