"""What this kernel can do, found by trying it in the host namespace."""

import errno
from contextlib import suppress

from kilonova.network.drivers.linux import netns, rtnl, tap
from kilonova.network.drivers.linux.nft import Nft, NftError
from kilonova.network.drivers.linux.rtnl import Route

_BRIDGE_CALLS = ("net/bridge/bridge-nf-call-iptables", "net/bridge/bridge-nf-call-ip6tables")


def _loads(nft: Nft, family: str, rule: str) -> bool:
    script = f"add table {family} kn_probe\nadd chain {family} kn_probe try {{ type filter hook prerouting priority 0; }}\n"
    try:
        nft.run(f"{script}add rule {family} kn_probe try {rule}\n")
    except NftError:
        return False
    nft.run(f"delete table {family} kn_probe\n")
    return True


def _link(route: Route, kind: str) -> bool:
    """A kernel that has the kind but wants more arguments (a VLAN needs its parent) says something else than "not supported"."""
    try:
        route.do(rtnl.add_kind("kn-probe", kind))
    except OSError as error:
        return error.errno not in (errno.EOPNOTSUPP, errno.EPERM)
    with suppress(OSError):
        route.do(rtnl.delete_link("kn-probe"))
    return True


def bridge_netfilter() -> bool:
    """br_netfilter is there and switched on for this namespace: without it nothing established would pass."""
    for key in _BRIDGE_CALLS:
        if netns.read_sysctl(key) is None:
            return False
        netns.write_sysctl(key, 1)
    return True


def capabilities(route: Route, nft: Nft) -> dict[str, bool]:
    return {
        "bridge_netfilter": bridge_netfilter(),
        "bridge_conntrack": _loads(nft, "bridge", "ct state established accept"),
        "nftables_bridge": _loads(nft, "bridge", "ether type ip accept"),
        "nat": _loads(nft, "inet", "ct status dnat accept"),
        "tun": tap.available(),
        "vlan": _link(route, "vlan"),
        "ifb": _link(route, "ifb"),
    }
