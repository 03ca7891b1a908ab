"""Ports: making, changing, binding and removing them."""

from collections.abc import Sequence
from typing import Any

import msgspec
from msgspec import UNSET

from kilonova.network import model
from kilonova.network.domain import addresses, ipam, quotas, security_groups
from kilonova.network.domain.work import Work
from kilonova.network.errors import (
    AddressPairAndPortSecurityRequired,
    DeviceIDNotOwnedByTenant,
    Invalid,
    MacAddressInUse,
    PortNotFound,
    PortSecurityAndIPRequiredForSecurityGroups,
    PortSecurityPortHasSecurityGroup,
    ServicePortInUse,
)
from kilonova.network.model import FixedIp, Network, Port, Subnet
from kilonova.network.store import addresses as address_store
from kilonova.network.store import rows

BOUND = "bridge"
UNBOUND = "unbound"
BINDING_FAILED = "binding_failed"
UNCOUNTED = (model.DHCP, model.ROUTER_GATEWAY, model.FLOATING_IP)
"""Owners of ports that do not count against a project's quota: nobody asked for them."""


def random_mac(w: Work) -> str:
    return str(w.default.base_mac)[:9] + ":".join(f"{byte:02x}" for byte in w.runtime.token_bytes(3))


def bare(w: Work, network: Network, *, project_id: str, owner: str, device_id: str = "") -> Port:
    """A port as it is before anything is known of it. Not yet written."""
    return Port(
        id=w.runtime.uuid(), network_id=network.id, project_id=project_id, name="", description="", admin_state_up=True, status="DOWN",
        mac_address=random_mac(w), device_id=device_id, device_owner=owner, fixed_ips=(), security_groups=(), port_security_enabled=False,
        allowed_address_pairs=(), extra_dhcp_opts=(), host="", vif_type=UNBOUND, vnic_type="normal", profile={},
        allocated=False, nic_index=0, nic_tag=None, hostname="", wiring_error="", tags=(), created_at=w.now,
        updated_at=w.now, revision=1,
    )  # fmt: skip


async def _share(w: Work, table: rows.Rows[Any], ids: Sequence[str]) -> None:
    missing = sorted(set(ids).difference(w.shared))
    if missing:
        await (table.share_later if w.joins else table.share)(w.tx, *missing)
        w.shared.update(dict.fromkeys(missing))


async def insert(w: Work, port: Port) -> None:
    """Write a new port whose addresses are taken already."""
    as_read = w.as_read.get(port.network_id)
    if as_read is not None and port.network_id not in w.shared:
        await rows.networks.share_as_read(w.tx, port.network_id, as_read)
        w.shared[port.network_id] = None
    elif as_read is None:
        await _share(w, rows.networks, [port.network_id])
        await _share(w, rows.subnets, [fixed.subnet_id for fixed in port.fixed_ips])
    await _share(w, rows.security_groups, port.security_groups)
    if port.project_id and port.device_owner not in UNCOUNTED:
        quotas.take(w, port.project_id, "port")
    await rows.ports.insert(w.tx, port)
    await address_store.join_groups(w.tx, port.id, port.security_groups)
    w.wrote(port)


async def create(w: Work, network: Network, subnets: Sequence[Subnet], values: dict[str, Any]) -> Port:
    """values: attributes by their API names, decoded; what is not given may be missing."""
    project_id = values["project_id"]
    owner = values.get("device_owner", "")
    port = bare(w, network, project_id=project_id, owner=owner, device_id=values.get("device_id", ""))
    await _check_device(w, port)
    mac = values.get("mac_address", UNSET)
    if isinstance(mac, str):
        await _check_mac(w, network.id, mac)
    else:
        mac = port.mac_address
    secure = values.get("port_security_enabled", UNSET)
    secure = (network.port_security_enabled and not owner.startswith("network:")) if secure is UNSET else secure
    groups = await _groups_for(w, project_id, owner, secure, values.get("security_groups", UNSET))
    wanted = values.get("fixed_ips", UNSET)
    if wanted is UNSET or wanted is None:
        fixed = await addresses.automatic(w, network.id, subnets, mac, port.id, owner)
    else:
        fixed = await addresses.chosen(w, network.id, subnets, wanted, mac, port.id)
    pairs = values.get("allowed_address_pairs", ())
    if pairs and not secure:
        raise AddressPairAndPortSecurityRequired
    host = values.get("binding:host_id") or ""
    port = msgspec.structs.replace(
        port,
        name=values.get("name", ""),
        description=values.get("description", ""),
        admin_state_up=values.get("admin_state_up", True),
        mac_address=mac,
        fixed_ips=fixed,
        security_groups=groups,
        port_security_enabled=secure,
        allowed_address_pairs=_pairs(w, pairs, mac),
        extra_dhcp_opts=_options(values.get("extra_dhcp_opts")),
        vnic_type=values.get("binding:vnic_type", "normal"),
        profile=values.get("binding:profile") or {},
        host=host,
        vif_type=await vif_type(w, host),
        hostname=values.get("hostname", ""),
        allocated=values.get("allocated", False),
        nic_index=values.get("nic_index", 0),
        nic_tag=values.get("nic_tag"),
        tags=values.get("tags", ()),
    )
    await insert(w, port)
    return port


async def vif_type(w: Work, host: str) -> str:
    """Whether the host has an agent. Another process may just have heard of it first."""
    if not host:
        return UNBOUND
    if host in w.topology.vteps or (not w.exclusive and await rows.hosts.get(w.tx, host) is not None):
        return BOUND
    return BINDING_FAILED


def _pairs(w: Work, pairs: Sequence[dict[str, Any]], mac: str) -> tuple[model.AddressPair, ...]:
    if len(pairs) > w.default.max_allowed_address_pair:
        raise Invalid(
            f"Exceeded maximum amount of allowed address pairs {w.default.max_allowed_address_pair}", field="allowed_address_pairs"
        )
    return tuple(model.AddressPair(ip_address=pair["ip_address"], mac_address=pair.get("mac_address") or mac) for pair in pairs)


def _options(options: Sequence[dict[str, Any]] | None) -> tuple[model.DhcpOption, ...]:
    return tuple(
        model.DhcpOption(opt_name=option["opt_name"], opt_value=option["opt_value"], ip_version=option.get("ip_version", 4))
        for option in options or ()
        if option.get("opt_value") is not None
    )


async def _check_mac(w: Work, network_id: str, mac: str) -> None:
    if await rows.ports.where(w.tx, network_id=network_id, mac_address=mac):
        raise MacAddressInUse(network=network_id, mac=mac)


async def _check_device(w: Work, port: Port) -> None:
    """A port may not pass itself off as one of somebody else's router."""
    if not port.device_id or w.elevated or not port.device_owner.startswith("network:"):
        return
    router = await rows.routers.get(w.tx, port.device_id)
    if router is not None and router.project_id != port.project_id:
        raise DeviceIDNotOwnedByTenant(device=port.device_id)


async def _groups_for(w: Work, project_id: str, owner: str, secure: bool, wanted: Any) -> tuple[str, ...]:
    if wanted is UNSET or wanted is None:
        if not secure or owner.startswith("network:"):
            return ()
        return (await security_groups.default_id(w, project_id),)
    if wanted and not secure:
        raise PortSecurityAndIPRequiredForSecurityGroups
    return await security_groups.checked(w, project_id, wanted)


async def update(w: Work, old: Port, network: Network, subnets: Sequence[Subnet], changes: dict[str, Any]) -> Port:
    """changes: attributes by their API names, decoded. A change of host is a binding: the port is DOWN until that host has wired it."""
    simple = (
        "name",
        "description",
        "admin_state_up",
        "device_id",
        "device_owner",
        "port_security_enabled",
        "hostname",
        "nic_tag",
        "nic_index",
    )
    fields: dict[str, Any] = {name: changes[name] for name in simple if name in changes}
    if "binding:vnic_type" in changes:
        fields["vnic_type"] = changes["binding:vnic_type"]
    if "binding:profile" in changes:
        fields["profile"] = changes["binding:profile"] or {}
    if "extra_dhcp_opts" in changes:
        fields["extra_dhcp_opts"] = _merged_options(old.extra_dhcp_opts, changes["extra_dhcp_opts"])
    mac = changes.get("mac_address", old.mac_address)
    if mac is None:
        mac = random_mac(w)
    if mac != old.mac_address:
        await _check_mac(w, old.network_id, mac)
        fields["mac_address"] = mac
    secure = fields.get("port_security_enabled", old.port_security_enabled)
    if "allowed_address_pairs" in changes:
        fields["allowed_address_pairs"] = _pairs(w, changes["allowed_address_pairs"], mac)
    if fields.get("allowed_address_pairs", old.allowed_address_pairs) and not secure:
        raise AddressPairAndPortSecurityRequired
    if "security_groups" in changes:
        if changes["security_groups"] and not secure:
            raise PortSecurityAndIPRequiredForSecurityGroups
        fields["security_groups"] = await security_groups.checked(w, old.project_id, changes["security_groups"] or ())
    if fields.get("security_groups", old.security_groups) and not secure:
        raise PortSecurityPortHasSecurityGroup
    if "fixed_ips" in changes:
        fields["fixed_ips"] = await addresses.chosen(w, network.id, subnets, changes["fixed_ips"] or (), mac, old.id, old.fixed_ips)
    if "binding:host_id" in changes:
        host = changes["binding:host_id"] or ""
        if host != old.host:
            fields.update(host=host, vif_type=await vif_type(w, host), status="DOWN", wiring_error="")
    if not w.elevated and fields.get("device_id", old.device_id) != old.device_id and old.host:
        # Its user gives it to another device: it leaves the one that compute has put it on.
        fields.update(host="", vif_type=UNBOUND, status="DOWN", wiring_error="")
    if fields.get("admin_state_up") is False:
        fields["status"] = "DOWN"
    new = msgspec.structs.replace(old, **fields, updated_at=w.now, revision=old.revision + 1)
    await _check_device(w, new)
    await save(w, old, new)
    return new


def _merged_options(old: Sequence[model.DhcpOption], changes: Sequence[dict[str, Any]] | None) -> tuple[model.DhcpOption, ...]:
    """Options by (name, version); a value of None removes one."""
    found = {(option.opt_name, option.ip_version): option for option in old}
    for change in changes or ():
        at = (change["opt_name"], change.get("ip_version", 4))
        if change.get("opt_value") is None:
            found.pop(at, None)
        else:
            found[at] = model.DhcpOption(opt_name=at[0], opt_value=change["opt_value"], ip_version=at[1])
    return tuple(found.values())


async def save(w: Work, old: Port, new: Port) -> None:
    """Write a change, keep group membership with it, and let go of floating IPs whose address the port no longer has."""
    await rows.ports.save(w.tx, old, new)
    await address_store.part_groups(w.tx, old.id, [g for g in old.security_groups if g not in new.security_groups])
    joined = sorted(set(new.security_groups) - set(old.security_groups))
    if joined:
        await _share(w, rows.security_groups, joined)
    await address_store.join_groups(w.tx, old.id, joined)
    if new.fixed_ips != old.fixed_ips:
        have = {fixed.ip_address for fixed in new.fixed_ips}
        await unfloat(w, old.id, [fixed.ip_address for fixed in old.fixed_ips if fixed.ip_address not in have])
    if old.is_guest and old.device_id and old.device_id != new.device_id:
        w.servers[old.device_id] = None
    w.wrote(new)


async def unfloat(w: Work, port_id: str, ips: Sequence[str]) -> None:
    """Disassociate the floating IPs of these addresses of a port."""
    for floating in await rows.floating_ips.where(w.tx, port_id=port_id):
        if floating.fixed_ip_address in ips:
            new = msgspec.structs.replace(
                floating,
                port_id=None,
                fixed_ip_address=None,
                router_id=None,
                status="DOWN",
                updated_at=w.now,
                revision=floating.revision + 1,
            )
            await rows.floating_ips.save(w.tx, floating, new)
            w.wrote(new)


def check_deletable(port: Port) -> None:
    """A port that belongs to a router, a floating IP or DHCP goes with its owner."""
    if port.device_owner in (model.ROUTER_INTERFACE, model.ROUTER_GATEWAY, model.FLOATING_IP, model.DHCP):
        raise ServicePortInUse(id=port.id, reason=f"has device owner {port.device_owner}")


async def remove(w: Work, port: Port) -> None:
    """The port, its addresses and memberships. Floating IPs on it stay, unassociated."""
    if not await rows.ports.delete(w.tx, port.id):
        raise PortNotFound(id=port.id)
    await addresses.free(w, port.fixed_ips)
    await address_store.part_groups(w.tx, port.id, port.security_groups)
    if port.is_guest:
        await unfloat(w, port.id, [fixed.ip_address for fixed in port.fixed_ips])
    if port.device_owner not in UNCOUNTED:
        quotas.give(w, port.project_id, "port")
    w.removed(port)


async def remove_orphan(w: Work, port_id: str) -> None:
    """A port whose network is not there any more goes, too."""
    port = await rows.ports.get(w.tx, port_id)
    if port is not None and await rows.networks.get(w.tx, port.network_id) is None:
        await remove(w, port)


def first_v4(fixed_ips: Sequence[FixedIp]) -> FixedIp | None:
    return next((fixed for fixed in fixed_ips if ipam.version_of(fixed.ip_address) == 4), None)
