"""A network's service namespace (DHCP and metadata) as a plan, and what DHCP tells each guest. Pure."""

import ipaddress
import struct
from collections.abc import Iterable

from kilonova.network import rpc
from kilonova.network.drivers.linux import dhcp, names
from kilonova.network.drivers.linux.namespaces import Leg, NamespacePlan, RouteWish
from kilonova.network.drivers.linux.rtnl import mac_bytes, mac_text
from kilonova.network.drivers.linux.security_groups import METADATA_IP

LEASE_S = 86_400
_SYSCTLS = (("net/ipv6/conf/default/disable_ipv6", 1), ("net/ipv4/conf/all/arp_ignore", 1), ("net/ipv4/conf/all/promote_secondaries", 1))


def served(subnets: Iterable[rpc.Subnet]) -> list[rpc.Subnet]:
    """The IPv4 subnets in which we answer."""
    return [subnet for subnet in subnets if subnet.ip_version == 4 and subnet.enable_dhcp and subnet.dhcp_ip is not None]


def service_mac(network: rpc.Network) -> str:
    if network.dhcp_mac is not None:
        return mac_text(mac_bytes(network.dhcp_mac))
    return names.derived_mac("fa:16:3e", "dhcp", network.id)


def plan(network: rpc.Network, subnets: Iterable[rpc.Subnet], host_namespace: str, bridge: str) -> NamespacePlan | None:
    """None where no subnet wants DHCP."""
    every = [subnet for subnet in subnets if subnet.ip_version == 4]
    here = served(every)
    if not here:
        return None
    addresses = [f"{subnet.dhcp_ip}/{ipaddress.IPv4Network(subnet.cidr).prefixlen}" for subnet in here]
    others = [subnet for subnet in every if subnet not in here]
    leg = Leg(
        name=names.SERVICE_LEG,
        host_name=names.service_link(network.id),
        bridge=bridge,
        mac=service_mac(network),
        mtu=network.mtu,
        addresses=(*addresses, f"{METADATA_IP}/32"),
    )
    return NamespacePlan(
        namespace=names.service_namespace(host_namespace, network.id),
        legs=(leg,),
        routes=tuple(RouteWish(destination=subnet.cidr, leg=leg.name) for subnet in others),
        sysctls=_SYSCTLS,
        announced=False,
    )


def lease(port: rpc.Port, network: rpc.Network, subnets: Iterable[rpc.Subnet]) -> dhcp.Lease | None:
    """For the first of the port's addresses that lies in a subnet with DHCP. Raises ValueError for an option that cannot be sent."""
    by_id = {subnet.id: subnet for subnet in served(subnets)}
    for fixed in port.fixed_ips:
        subnet = by_id.get(fixed.subnet_id)
        if subnet is not None and subnet.dhcp_ip is not None:
            return _lease(port, network, subnet, fixed.ip, subnet.dhcp_ip)
    return None


def _routes(subnet: rpc.Subnet, dhcp_ip: str) -> list[tuple[str, str]]:
    """With option 121 a client ignores option 3, so the default route is in it too."""
    routes = [(dhcp.METADATA_ROUTE, dhcp_ip)]
    routes += [(route.destination, route.nexthop) for route in subnet.host_routes if ":" not in route.destination]
    if subnet.gateway_ip is not None and not any(destination == "0.0.0.0/0" for destination, _ in routes):
        routes.append(("0.0.0.0/0", subnet.gateway_ip))
    return routes


def _lease(port: rpc.Port, network: rpc.Network, subnet: rpc.Subnet, ip: str, dhcp_ip: str) -> dhcp.Lease:
    cidr = ipaddress.IPv4Network(subnet.cidr)
    options = {
        dhcp.MASK: cidr.netmask.packed,
        dhcp.BROADCAST: cidr.broadcast_address.packed,
        dhcp.MTU: struct.pack(">H", port.mtu or network.mtu),
        dhcp.LEASE_TIME: struct.pack(">I", LEASE_S),
        dhcp.RENEWAL: struct.pack(">I", LEASE_S // 2),
        dhcp.REBINDING: struct.pack(">I", LEASE_S * 7 // 8),
        dhcp.CLASSLESS_ROUTES: dhcp.encode_routes(_routes(subnet, dhcp_ip)),
    }
    options[dhcp.MICROSOFT_ROUTES] = options[dhcp.CLASSLESS_ROUTES]
    if subnet.gateway_ip is not None:
        options[dhcp.ROUTER] = ipaddress.IPv4Address(subnet.gateway_ip).packed
    servers = [ipaddress.IPv4Address(server).packed for server in subnet.dns_nameservers if ":" not in server]
    if servers:
        options[dhcp.DNS] = b"".join(servers)
    if port.hostname:
        options[dhcp.HOSTNAME] = port.hostname.encode()
    if network.dns_domain:
        options[dhcp.DOMAIN] = network.dns_domain.rstrip(".").encode()
    extra = [dhcp.encode_option(option.name, option.value) for option in port.dhcp_options if option.ip_version == 4]
    options |= {code: value for code, value in extra if code}
    next_server = next((str(ipaddress.IPv4Address(value[:4])) for code, value in extra if code == 0), "0.0.0.0")
    return dhcp.Lease(ip=str(ipaddress.IPv4Address(ip)), server_ip=dhcp_ip, next_server_ip=next_server, options=options)
