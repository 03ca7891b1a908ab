"""Routers: their gateway, their interfaces, their routes. A router is realised on one host."""

from collections.abc import Sequence
from typing import Any

import msgspec

from kilonova.network import model
from kilonova.network.domain import addresses, ipam, ports, quotas
from kilonova.network.domain.work import Work
from kilonova.network.errors import (
    BadResource,
    Invalid,
    InvalidRoutes,
    NetworkNotFound,
    PortInUse,
    PortNotFound,
    RouterExternalGatewayInUseByFloatingIp,
    RouterInterfaceInUseByFloatingIP,
    RouterInterfaceInUseByRoute,
    RouterInterfaceNotFound,
    RouterInterfaceNotFoundForSubnet,
    RouterInUse,
    RouterNotFound,
    SubnetNotFound,
)
from kilonova.network.model import Network, Port, Route, Router, Subnet
from kilonova.network.store import rows


async def get(w: Work, router_id: str) -> Router:
    found = await rows.routers.get(w.tx, router_id)
    if found is None:
        raise RouterNotFound(id=router_id)
    return found


async def interfaces(w: Work, router_id: str) -> list[Port]:
    return await rows.ports.where(w.tx, device_id=router_id, device_owner=model.ROUTER_INTERFACE)


async def create(w: Work, values: dict[str, Any]) -> Router:
    quotas.take(w, values["project_id"], "router")
    router = Router(
        id=w.runtime.uuid(), project_id=values["project_id"], name=values["name"], description=values["description"],
        admin_state_up=values["admin_state_up"], status="ACTIVE", gateway_port_id=None, gateway_network_id=None, enable_snat=True,
        routes=(), host=w.topology.router_host(), availability_zone_hints=values["availability_zone_hints"], tags=values.get("tags", ()),
        created_at=w.now, updated_at=w.now, revision=1,
    )  # fmt: skip
    gateway = values.get("external_gateway_info")
    if gateway:
        router = await _with_gateway(w, router, gateway, [])
    await rows.routers.insert(w.tx, router)
    w.wrote(router)
    return router


async def _save(w: Work, old: Router, new: Router) -> Router:
    new = msgspec.structs.replace(new, updated_at=w.now, revision=old.revision + 1)
    await rows.routers.save(w.tx, old, new)
    w.wrote(new)
    return new


async def update(w: Work, old: Router, changes: dict[str, Any]) -> Router:
    new = msgspec.structs.replace(old, **{name: changes[name] for name in ("name", "description", "admin_state_up") if name in changes})
    if "external_gateway_info" in changes:
        new = await _with_gateway(w, new, changes["external_gateway_info"] or None, await interfaces(w, old.id))
    if "routes" in changes:
        new = await with_routes(w, new, changes["routes"])
    return await _save(w, old, new)


# ---- gateway


async def _with_gateway(w: Work, router: Router, info: dict[str, Any] | None, have: Sequence[Port]) -> Router:
    """The router with this gateway, or none. Ports are written; the router's row is left to the caller."""
    if info is None:
        return await _without_gateway(w, router)
    network = await rows.networks.get(w.tx, info["network_id"])
    if network is None:
        raise NetworkNotFound(id=info["network_id"])
    if not network.external:
        raise BadResource(f"Network {network.id} is not an external network", resource="router")
    snat = info.get("enable_snat")
    router = msgspec.structs.replace(router, enable_snat=router.enable_snat if snat is None else snat)
    subnets = await rows.subnets.where(w.tx, network_id=network.id)
    wanted = info.get("external_fixed_ips")
    port = await rows.ports.get(w.tx, router.gateway_port_id) if router.gateway_port_id else None
    if port is not None and router.gateway_network_id == network.id:
        if wanted:
            fixed = await addresses.chosen(w, network.id, subnets, wanted, port.mac_address, port.id, port.fixed_ips)
            if fixed != port.fixed_ips:
                await ports.save(w, port, msgspec.structs.replace(port, fixed_ips=fixed, updated_at=w.now, revision=port.revision + 1))
        return router
    if port is not None:
        router = await _without_gateway(w, router)
    await _check_overlap(w, router.id, subnets, have)
    new = ports.bare(w, network, project_id="", owner=model.ROUTER_GATEWAY, device_id=router.id)
    if wanted:
        fixed = await addresses.chosen(w, network.id, subnets, wanted, new.mac_address, new.id)
    else:
        fixed = await addresses.automatic(w, network.id, subnets, new.mac_address, new.id, model.ROUTER_GATEWAY)
    await ports.insert(w, msgspec.structs.replace(new, fixed_ips=fixed))
    return msgspec.structs.replace(router, gateway_port_id=new.id, gateway_network_id=network.id)


async def _without_gateway(w: Work, router: Router) -> Router:
    if router.gateway_port_id is None:
        return router
    if await rows.floating_ips.where(w.tx, router_id=router.id):
        raise RouterExternalGatewayInUseByFloatingIp(router=router.id, network=router.gateway_network_id)
    port = await rows.ports.get(w.tx, router.gateway_port_id)
    if port is not None:
        await ports.remove(w, port)
    return msgspec.structs.replace(router, gateway_port_id=None, gateway_network_id=None, enable_snat=True)


# ---- interfaces


async def _check_overlap(w: Work, router_id: str, subnets: Sequence[Subnet], have: Sequence[Port]) -> None:
    """No two networks of a router may hold the same addresses."""
    ids = tuple(dict.fromkeys(fixed.subnet_id for port in have for fixed in port.fixed_ips))
    for other in await rows.subnets.where(w.tx, id=ids):
        for subnet in subnets:
            if other.id == subnet.id:
                raise BadResource(f"Router already has a port on subnet {subnet.id}", resource="router")
            if ipam.overlap(other.cidr, subnet.cidr):
                raise BadResource(
                    f"Cidr {subnet.cidr} of subnet {subnet.id} overlaps with cidr {other.cidr} of subnet {other.id}", resource="router"
                )


async def _all_ports(w: Work, router: Router) -> list[Port]:
    found = await interfaces(w, router.id)
    gateway = await rows.ports.get(w.tx, router.gateway_port_id) if router.gateway_port_id else None
    return [*found, *([gateway] if gateway is not None else [])]


async def add_interface(w: Work, router: Router, network: Network, subnet: Subnet | None, port: Port | None) -> tuple[Router, Port]:
    """By subnet: a new port with the subnet's gateway address. By port: that port, which must be free."""
    if port is None:
        assert subnet is not None
        if subnet.gateway_ip is None:
            raise BadResource("Subnet for router interface must have a gateway IP", resource="router")
        await _check_overlap(w, router.id, [subnet], await _all_ports(w, router))
        new = ports.bare(w, network, project_id=router.project_id, owner=model.ROUTER_INTERFACE, device_id=router.id)
        wanted = [{"subnet_id": subnet.id, "ip_address": subnet.gateway_ip}]
        fixed = await addresses.chosen(w, network.id, [subnet], wanted, new.mac_address, new.id)
        new = msgspec.structs.replace(new, fixed_ips=fixed)
        await ports.insert(w, new)
    else:
        new = await _adopted(w, router, port)
    return await _save(w, router, router), new


async def _adopted(w: Work, router: Router, port: Port) -> Port:
    if port.device_id:
        raise PortInUse(id=port.id, network=port.network_id, device=port.device_id)
    if not port.fixed_ips:
        raise BadResource("Router port must have at least one fixed IP", resource="router")
    subnets = await rows.subnets.where(w.tx, id=tuple(dict.fromkeys(fixed.subnet_id for fixed in port.fixed_ips)))
    if sum(1 for fixed in port.fixed_ips if ipam.version_of(fixed.ip_address) == 4) > 1:
        raise BadResource("Cannot have multiple IPv4 subnets on router port", resource="router")
    await _check_overlap(w, router.id, subnets, await _all_ports(w, router))
    new = msgspec.structs.replace(
        port, device_id=router.id, device_owner=model.ROUTER_INTERFACE, security_groups=(), port_security_enabled=False,
        allowed_address_pairs=(), host="", vif_type=ports.UNBOUND, status="DOWN", updated_at=w.now, revision=port.revision + 1,
    )  # fmt: skip
    await ports.save(w, port, new)
    return new


async def remove_interface(w: Work, router: Router, *, subnet_id: str | None, port_id: str | None) -> tuple[Port, Subnet]:
    """The port that was the interface (deleted now) and the subnet it was on."""
    have = await interfaces(w, router.id)
    if port_id is not None:
        port = next((p for p in have if p.id == port_id), None)
        if port is None:
            if await rows.ports.get(w.tx, port_id) is None:
                raise PortNotFound(id=port_id)
            raise RouterInterfaceNotFound(router=router.id, port=port_id)
        if subnet_id is not None and all(fixed.subnet_id != subnet_id for fixed in port.fixed_ips):
            raise BadResource(f"Port {port_id} is not on subnet {subnet_id}", resource="router")
    else:
        if await rows.subnets.get(w.tx, subnet_id or "") is None:
            raise SubnetNotFound(id=subnet_id)
        port = next((p for p in have if any(fixed.subnet_id == subnet_id for fixed in p.fixed_ips)), None)
        if port is None:
            raise RouterInterfaceNotFoundForSubnet(router=router.id, subnet=subnet_id)
    ids = tuple(dict.fromkeys(fixed.subnet_id for fixed in port.fixed_ips))
    subnets = await rows.subnets.where(w.tx, id=ids)
    await _check_unused(w, router, subnets)
    await ports.remove(w, port)
    await _save(w, router, router)
    return port, next((subnet for subnet in subnets if subnet.id == subnet_id), subnets[0])


async def _check_unused(w: Work, router: Router, subnets: Sequence[Subnet]) -> None:
    for floating in await rows.floating_ips.where(w.tx, router_id=router.id):
        for subnet in subnets:
            if floating.fixed_ip_address and ipam.contains(ipam.cidr_of(subnet.cidr), floating.fixed_ip_address):
                raise RouterInterfaceInUseByFloatingIP(router=router.id, subnet=subnet.id)
    for route in router.routes:
        for subnet in subnets:
            if ipam.contains(ipam.cidr_of(subnet.cidr), route.nexthop):
                raise RouterInterfaceInUseByRoute(router=router.id, subnet=subnet.id)


# ---- routes


async def with_routes(w: Work, router: Router, routes: Sequence[Route]) -> Router:
    """The router with these extra routes, each with a next hop on one of its networks. Not yet written."""
    limit = w.default.max_routes
    if len(routes) > limit:
        raise Invalid(f"The number of routes exceeds the maximum {limit}", field="routes")
    found = await _all_ports(w, router)
    ids = tuple(dict.fromkeys(fixed.subnet_id for port in found for fixed in port.fixed_ips))
    cidrs = [ipam.cidr_of(subnet.cidr) for subnet in await rows.subnets.where(w.tx, id=ids)]
    own = {fixed.ip_address: None for port in found for fixed in port.fixed_ips}
    for route in routes:
        if not any(ipam.contains(cidr, route.nexthop) for cidr in cidrs):
            raise InvalidRoutes(routes=shown(routes), reason="the nexthop is not connected with router")
        if route.nexthop in own:
            raise InvalidRoutes(routes=shown(routes), reason="the nexthop is used by router")
    return msgspec.structs.replace(router, routes=tuple(_unique(routes)))


def _unique(routes: Sequence[Route]) -> list[Route]:
    return list({(route.destination, route.nexthop): route for route in routes}.values())


def shown(routes: Sequence[Route]) -> str:
    return str([{"destination": route.destination, "nexthop": route.nexthop} for route in routes[:5]])


async def add_routes(w: Work, router: Router, routes: Sequence[Route]) -> Router:
    return await _save(w, router, await with_routes(w, router, _unique([*router.routes, *routes])))


async def remove_routes(w: Work, router: Router, routes: Sequence[Route]) -> Router:
    gone = [(route.destination, route.nexthop) for route in routes]
    left = tuple(route for route in router.routes if (route.destination, route.nexthop) not in gone)
    return await _save(w, router, msgspec.structs.replace(router, routes=left))


async def delete(w: Work, router: Router) -> None:
    if await interfaces(w, router.id):
        raise RouterInUse(id=router.id, reason="still has ports")
    if await rows.floating_ips.where(w.tx, router_id=router.id):
        raise RouterInUse(id=router.id, reason="still has floating IPs")
    await _without_gateway(w, router)
    if not await rows.routers.delete(w.tx, router.id):
        raise RouterNotFound(id=router.id)
    quotas.give(w, router.project_id, "router")
    w.removed(router)
