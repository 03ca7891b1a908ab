"""Floating IPs: an address of an external network, of a project, on a port or on none."""

from typing import Any

import msgspec

from kilonova.network import model
from kilonova.network.domain import addresses, ipam, ports, quotas
from kilonova.network.domain.work import Work
from kilonova.network.errors import (
    BadResource,
    ExternalGatewayForFloatingIPNotFound,
    FloatingIPNotFound,
    FloatingIPPortAlreadyAssociated,
    InvalidInput,
    IpAddressGenerationFailure,
    PortNotFound,
    SubnetNotFound,
)
from kilonova.network.model import FloatingIp, Network, Port
from kilonova.network.store import rows


async def create(w: Work, network: Network, values: dict[str, Any]) -> FloatingIp:
    """values: attributes by their API names, decoded. The address is held by a port of no project."""
    if not network.external:
        raise BadResource(f"Network {network.id} is not a valid external network", resource="floatingip")
    quotas.take(w, values["project_id"], "floatingip")
    subnets = [subnet for subnet in await rows.subnets.where(w.tx, network_id=network.id) if subnet.ip_version == 4]
    if values.get("subnet_id") is not None:
        subnets = [subnet for subnet in subnets if subnet.id == values["subnet_id"]]
        if not subnets:
            raise SubnetNotFound(id=values["subnet_id"])
    if not subnets:
        raise BadResource(f"Network {network.id} does not contain any IPv4 subnet", resource="floatingip")
    floating_id = w.runtime.uuid()
    holder = ports.bare(w, network, project_id="", owner=model.FLOATING_IP, device_id=floating_id)
    wanted = values.get("floating_ip_address")
    if wanted is not None:
        fixed = await addresses.chosen(w, network.id, subnets, [{"ip_address": wanted}], holder.mac_address, holder.id)
    else:
        fixed = await addresses.automatic(w, network.id, subnets, holder.mac_address, holder.id, model.FLOATING_IP)
    if not fixed:
        raise IpAddressGenerationFailure(network=network.id)
    await ports.insert(w, msgspec.structs.replace(holder, fixed_ips=fixed, status="N/A"))
    floating = FloatingIp(
        id=floating_id, project_id=values["project_id"], floating_network_id=network.id, floating_ip_address=fixed[0].ip_address,
        floating_port_id=holder.id, port_id=None, fixed_ip_address=None, router_id=None, status="DOWN", description=values["description"],
        tags=values.get("tags", ()), created_at=w.now, updated_at=w.now, revision=1,
    )  # fmt: skip
    floating = await _associated(w, floating, values.get("port_id"), values.get("fixed_ip_address"))
    await rows.floating_ips.insert(w.tx, floating)
    w.wrote(floating)
    return floating


async def update(w: Work, old: FloatingIp, changes: dict[str, Any]) -> FloatingIp:
    """A PUT without port_id leaves the association alone; port_id null ends it."""
    new = old
    if "description" in changes:
        new = msgspec.structs.replace(new, description=changes["description"])
    if "port_id" in changes or changes.get("fixed_ip_address") is not None:
        port_id = changes.get("port_id", old.port_id)
        await _tell_server(w, old.port_id)
        new = await _associated(w, new, port_id, changes.get("fixed_ip_address"))
    new = msgspec.structs.replace(new, updated_at=w.now, revision=old.revision + 1)
    await rows.floating_ips.save(w.tx, old, new)
    w.wrote(new)
    return new


async def _tell_server(w: Work, port_id: str | None) -> None:
    port = await rows.ports.get(w.tx, port_id) if port_id else None
    if port is not None and port.is_guest and port.device_id:
        w.servers[port.device_id] = None


async def _associated(w: Work, floating: FloatingIp, port_id: str | None, fixed_ip: str | None) -> FloatingIp:
    """On this port, or on none. Not yet written. It is ACTIVE when the router's host has said so."""
    if port_id is None:
        if fixed_ip is not None:
            raise BadResource("fixed_ip_address cannot be specified without a port_id", resource="floatingip")
        return msgspec.structs.replace(floating, port_id=None, fixed_ip_address=None, router_id=None, status="DOWN")
    port = await rows.ports.get(w.tx, port_id)
    if port is None or (not w.elevated and port.project_id != floating.project_id):
        raise PortNotFound(id=port_id)
    if port.project_id != floating.project_id and not w.elevated:
        raise BadResource(
            f"Port {port.id} is associated with a different tenant than Floating IP {floating.id} and therefore cannot be bound.",
            resource="floatingip",
        )
    fixed = _fixed(port, fixed_ip)
    for other in await rows.floating_ips.where(w.tx, port_id=port.id, fixed_ip_address=fixed.ip_address):
        if other.id != floating.id:
            raise FloatingIPPortAlreadyAssociated(
                address=floating.floating_ip_address,
                id=floating.id,
                port=port.id,
                fixed=fixed.ip_address,
                network=floating.floating_network_id,
            )
    router_id = await _router_for(w, port, fixed, floating.floating_network_id)
    same = (floating.port_id, floating.fixed_ip_address, floating.router_id) == (port.id, fixed.ip_address, router_id)
    if port.is_guest and port.device_id:
        w.servers[port.device_id] = None
    return msgspec.structs.replace(
        floating, port_id=port.id, fixed_ip_address=fixed.ip_address, router_id=router_id, status=floating.status if same else "DOWN"
    )


def _fixed(port: Port, wanted: str | None) -> model.FixedIp:
    found = [fixed for fixed in port.fixed_ips if ipam.version_of(fixed.ip_address) == 4]
    if wanted is not None:
        for fixed in found:
            if fixed.ip_address == wanted:
                return fixed
        raise BadResource(f"Port {port.id} does not have fixed ip {wanted}", resource="floatingip")
    if not found:
        raise BadResource(f"Cannot add floating IP to port {port.id} that has no fixed IPv4 addresses", resource="floatingip")
    if len(found) > 1:
        raise BadResource(
            f"Port {port.id} has multiple fixed IPv4 addresses.  Must provide a specific IPv4 address when assigning a floating IP",
            resource="floatingip",
        )
    return found[0]


async def _router_for(w: Work, port: Port, fixed: model.FixedIp, network_id: str) -> str:
    """The router between the port's subnet and the external network: the subnet's gateway, if several would do."""
    subnet = await rows.subnets.get(w.tx, fixed.subnet_id)
    if subnet is None:
        raise InvalidInput(f"subnet {fixed.subnet_id} of port {port.id} does not exist")
    found: list[tuple[bool, str]] = []
    for interface in await rows.ports.where(w.tx, network_id=port.network_id, device_owner=model.ROUTER_INTERFACE):
        for own in interface.fixed_ips:
            if own.subnet_id == subnet.id:
                found.append((own.ip_address != subnet.gateway_ip, interface.device_id))
    for _, router_id in sorted(found):
        router = await rows.routers.get(w.tx, router_id)
        if router is not None and router.gateway_network_id == network_id:
            return router.id
    raise ExternalGatewayForFloatingIPNotFound(network=network_id, subnet=subnet.id, port=port.id)


async def delete(w: Work, floating: FloatingIp) -> None:
    await _tell_server(w, floating.port_id)
    if not await rows.floating_ips.delete(w.tx, floating.id):
        raise FloatingIPNotFound(id=floating.id)
    w.removed(floating)
    holder = await rows.ports.get(w.tx, floating.floating_port_id)
    if holder is not None:
        await ports.remove(w, holder)
    quotas.give(w, floating.project_id, "floatingip")
