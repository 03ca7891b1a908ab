"""Networks."""

from typing import Any

import msgspec
from msgspec import UNSET

from kilonova.network import model
from kilonova.network.domain import dhcp, floating_ips, quotas
from kilonova.network.domain.work import Work
from kilonova.network.errors import (
    DefaultExternalNetworkExists,
    ExternalNetworkInUse,
    FlatNetworkInUse,
    InvalidInput,
    InvalidSharedSetting,
    NetworkInUse,
    NetworkNotFound,
    SegmentInUse,
    SubnetNotFound,
)
from kilonova.network.model import Network, Subnet
from kilonova.network.store import rows

VXLAN_OVERHEAD = 50
KINDS = ("vxlan", "flat", "local")


async def get(w: Work, network_id: str) -> Network:
    return await rows.networks.get(w.tx, network_id) or _missing(network_id)


def _missing(network_id: str) -> Network:
    raise NetworkNotFound(id=network_id)


async def create(w: Work, values: dict[str, Any]) -> Network:
    """values: attributes by their API names, decoded."""
    quotas.take(w, values["project_id"], "network")
    kind, physical, segment = _segment(w, values)
    limit = _mtu_limit(w, kind)
    mtu = values["mtu"] or limit
    if mtu > limit:
        raise InvalidInput(f"Requested MTU is too big, maximum is {limit}")
    network = Network(
        id=w.runtime.uuid(), project_id=values["project_id"], name=values["name"], description=values["description"],
        admin_state_up=values["admin_state_up"], status="ACTIVE", shared=values["shared"], external=values["router:external"],
        is_default=values["is_default"], mtu=mtu, port_security_enabled=values["port_security_enabled"], network_type=kind,
        physical_network=physical, segmentation_id=segment, availability_zone_hints=values["availability_zone_hints"],
        tags=values.get("tags", ()), created_at=w.now, updated_at=w.now, revision=1,
    )  # fmt: skip
    await _check_segment(w, network, given="provider:segmentation_id" in values)
    await _check_default(w, network)
    await rows.networks.insert(w.tx, network)
    w.wrote(network)
    return network


def _segment(w: Work, values: dict[str, Any]) -> tuple[str, str | None, int | None]:
    """(type, physical network, segmentation id) of a new network."""
    kind = values.get("provider:network_type", UNSET)
    physical = values.get("provider:physical_network", UNSET) or None
    segment = values.get("provider:segmentation_id", UNSET)
    physical = None if physical is UNSET else physical
    segment = None if segment is UNSET else segment
    if kind is UNSET or kind is None:
        if physical is not None or segment is not None:
            raise InvalidInput("network_type required")
        return "vxlan", None, _free_vni(w)
    if kind not in KINDS:
        raise InvalidInput(f"network_type value '{kind}' not supported; use one of {', '.join(KINDS)}")
    if kind == "flat":
        if physical is None:
            raise InvalidInput("physical_network required for flat provider network")
        if segment is not None:
            raise InvalidInput("segmentation_id prohibited for flat provider network")
        return kind, physical, None
    if physical is not None:
        raise InvalidInput(f"provider:physical_network specified for {kind} network")
    if kind == "local":
        if segment is not None:
            raise InvalidInput("segmentation_id prohibited for local provider network")
        return kind, None, None
    if segment is None:
        return kind, None, _free_vni(w)
    if not 1 <= segment < 1 << 24:
        raise InvalidInput("segmentation_id out of range; a VXLAN network identifier is 1 to 16777215")
    return kind, None, segment


def _free_vni(w: Work) -> int:
    first, _, last = w.settings["ml2_type_vxlan"].vni_ranges.partition(":")
    return w.runtime.random.randint(int(first), int(last or first))


def _mtu_limit(w: Work, kind: str) -> int:
    physical: int = w.default.global_physnet_mtu
    return physical - VXLAN_OVERHEAD if kind == "vxlan" else physical


async def _check_segment(w: Work, network: Network, *, given: bool) -> None:
    """A segment that the caller chose is free. One that was drawn is drawn again when its insertion fails."""
    if network.network_type == "flat":
        if await rows.networks.where(w.tx, segment_key=rows.segment_key(network)):
            raise FlatNetworkInUse(physical=network.physical_network)
    elif given and network.network_type == "vxlan" and await rows.networks.where(w.tx, segment_key=rows.segment_key(network)):
        raise SegmentInUse(id=network.segmentation_id)


async def _check_default(w: Work, network: Network) -> None:
    if network.is_default and network.external:
        for other in await rows.networks.where(w.tx, is_default=True, external=True):
            if other.id != network.id:
                raise DefaultExternalNetworkExists(id=other.id)


async def update(w: Work, old: Network, changes: dict[str, Any]) -> Network:
    names = {"router:external": "external"}
    fields = {names.get(name, name): value for name, value in changes.items() if not name.startswith("provider:")}
    if any(changes[name] != current for name, current in _provider(old).items() if name in changes):
        raise InvalidInput(
            "Plugin does not support updating the following provider network attributes: network_type, physical_network, segmentation_id"
        )
    if "mtu" in fields:
        limit = _mtu_limit(w, old.network_type)
        if fields["mtu"] > limit:
            raise InvalidInput(f"Requested MTU is too big, maximum is {limit}")
        fields["mtu"] = fields["mtu"] or limit
    new = msgspec.structs.replace(old, **fields, updated_at=w.now, revision=old.revision + 1)
    if old.external and not new.external and await rows.ports.where(w.tx, network_id=old.id, device_owner=model.ROUTER_GATEWAY):
        raise ExternalNetworkInUse(id=old.id)
    if old.shared and not new.shared:
        for port in await rows.ports.where(w.tx, network_id=old.id):
            if port.project_id not in (old.project_id, ""):
                raise InvalidSharedSetting(network=old.name)
    await _check_default(w, new)
    await rows.networks.save(w.tx, old, new)
    w.wrote(new)
    return new


def _provider(network: Network) -> dict[str, Any]:
    return {
        "provider:network_type": network.network_type,
        "provider:physical_network": network.physical_network,
        "provider:segmentation_id": network.segmentation_id,
    }


async def touch(w: Work, network: Network) -> Network:
    """The network's revision rises whenever a subnet of it comes, changes or goes: two such changes cannot pass each other, and who finds
    the network as it was knows its subnets, too."""
    new = msgspec.structs.replace(network, updated_at=w.now, revision=network.revision + 1)
    await rows.networks.save(w.tx, network, new)
    w.wrote(new)
    return new


async def delete(w: Work, network: Network) -> None:
    """Floating IPs that are on no port go with their network."""
    await rows.networks.hold(w.tx, network.id)
    for floating in await rows.floating_ips.where(w.tx, floating_network_id=network.id):
        if floating.port_id is None:
            await floating_ips.delete(w, floating)
    users = [port.id for port in await rows.ports.where(w.tx, network_id=network.id) if port.device_owner not in model.AUTO_DELETED]
    if users:
        raise NetworkInUse(id=network.id, ports=", ".join(users[:10]))
    await dhcp.remove(w, network)
    for subnet in await rows.subnets.where(w.tx, network_id=network.id):
        await remove_subnet(w, subnet)
    if not await rows.networks.delete(w.tx, network.id):
        raise NetworkNotFound(id=network.id)
    quotas.give(w, network.project_id, "network")
    w.removed(network)


async def remove_subnet(w: Work, subnet: Subnet) -> None:
    """The subnet's row alone: its addresses are free already."""
    if not await rows.subnets.delete(w.tx, subnet.id):
        raise SubnetNotFound(id=subnet.id)
    quotas.give(w, subnet.project_id, "subnet")
    w.hints.pop(subnet.id, None)
    w.removed(subnet)
