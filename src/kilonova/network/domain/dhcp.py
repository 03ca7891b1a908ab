"""The port through which a network's guests get DHCP and metadata. It has an address in every subnet with DHCP; every host answers its own
guests under the same address and MAC."""

import msgspec

from kilonova.network import model
from kilonova.network.domain import addresses, ipam, ports
from kilonova.network.domain.work import Work
from kilonova.network.model import Network, Port, Subnet
from kilonova.network.store import rows

DEVICE = "kilonova-dhcp"


def _served(subnet: Subnet) -> bool:
    return subnet.enable_dhcp and subnet.ipv6_address_mode not in ipam.AUTO_ADDRESS_MODES


async def port_of(w: Work, network_id: str) -> Port | None:
    found = await rows.ports.where(w.tx, network_id=network_id, device_owner=model.DHCP)
    return found[0] if found else None


async def ensure(w: Work, network: Network, subnets: list[Subnet]) -> None:
    """Make, change or remove the network's DHCP port so that it fits the network's subnets."""
    served = [subnet for subnet in subnets if _served(subnet)]
    port = await port_of(w, network.id)
    if not served:
        if port is not None:
            await ports.remove(w, port)
        return
    if port is None:
        port = ports.bare(w, network, project_id=network.project_id, owner=model.DHCP, device_id=f"{DEVICE}-{network.id}"[:255])
        fixed = await _addresses(w, port, served)
        port = msgspec.structs.replace(port, fixed_ips=fixed)
        await ports.insert(w, port)
        return
    fixed = await _addresses(w, port, served)
    if fixed != port.fixed_ips:
        new = msgspec.structs.replace(port, fixed_ips=fixed, updated_at=w.now, revision=port.revision + 1)
        await rows.ports.save(w.tx, port, new)
        w.wrote(new)


async def _addresses(w: Work, port: Port, served: list[Subnet]) -> tuple[model.FixedIp, ...]:
    """The port's addresses: kept where they are good. A subnet that has none left goes without DHCP."""
    have = {fixed.subnet_id: fixed for fixed in port.fixed_ips}
    wanted = {subnet.id: subnet for subnet in served}
    await addresses.free(w, [fixed for fixed in port.fixed_ips if fixed.subnet_id not in wanted])
    out = []
    for subnet in served:
        if subnet.id in have:
            out.append(have[subnet.id])
            continue
        value = await addresses.pick(w, subnet)
        if value is not None:
            out.append(await addresses.take(w, subnet, value, port.id))
    return tuple(out)


async def remove(w: Work, network: Network) -> None:
    port = await port_of(w, network.id)
    if port is not None:
        await ports.remove(w, port)
