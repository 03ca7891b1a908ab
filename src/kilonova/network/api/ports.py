"""Ports."""

from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa

from kilonova.core.context import Context
from kilonova.core.db import Reader
from kilonova.core.errors import PolicyForbids
from kilonova.core.http import Request
from kilonova.core.times import iso
from kilonova.network.api import attributes as a
from kilonova.network.api import collection, creation
from kilonova.network.api import networks as network_api
from kilonova.network.api.attributes import attr
from kilonova.network.api.collection import Resource, View, Views
from kilonova.network.api.subnets import networks_by_id
from kilonova.network.domain import ipam, networks, ports
from kilonova.network.domain.work import Work
from kilonova.network.errors import PortNotFound
from kilonova.network.model import Network, Port
from kilonova.network.service import NetworkService
from kilonova.network.store import rows
from kilonova.network.store.tables import ip_allocations, port_security_groups
from kilonova.network.store.tables import networks as networks_table
from kilonova.network.store.tables import ports as table

VNIC_TYPES = (
    "normal", "direct", "macvtap", "baremetal", "direct-physical", "virtio-forwarder", "smart-nic", "vdpa", "accelerator-direct",
    "accelerator-direct-physical", "remote-managed",
)  # fmt: skip
BOUND_DETAILS = {"port_filter": True, "connectivity": "l2"}


def fixed_ips(value: Any) -> Any:
    found = a.list_of(lambda item: a.members(item, (), subnet_id=a.uuid, ip_address=a.or_none(a.ip_address)), unique=False)(value)
    seen: dict[str, None] = {}
    for item in found:
        ip = item.get("ip_address")
        if ip is not None and ip in seen:
            raise ValueError(f"Duplicate IP address '{ip}'")
        if ip is not None:
            seen[ip] = None
        if ip is None and item.get("subnet_id") is None:
            raise ValueError("a fixed IP needs subnet_id or ip_address")
    return found


def plain(limit: int) -> a.Check:
    """Text for a configuration: one line of printable characters."""

    def check(value: Any) -> str:
        found: str = a.text(limit)(str(value) if isinstance(value, int) and not isinstance(value, bool) else value)
        if not found.isprintable():
            raise ValueError(f"'{a.shown(found.encode('unicode_escape').decode())}' has line breaks or control characters")
        return found

    return check


def address_or_subnet(value: Any) -> str:
    found: str = a.subnet(value) if isinstance(value, str) and "/" in value else a.ip_address(value)
    return found.removesuffix("/32") if ":" not in found else found.removesuffix("/128")


PAIRS = a.none_to_empty(a.list_of(lambda item: a.members(item, ("ip_address",), ip_address=address_or_subnet, mac_address=a.mac_address)))
OPTIONS = a.none_to_empty(
    a.list_of(
        lambda item: a.members(
            item,
            ("opt_name", "opt_value"),
            opt_name=plain(64),
            opt_value=a.or_none(plain(255)),
            ip_version=lambda value: a.one_of(4, 6)(a.integer(value)),
        )
    )
)
ATTRIBUTES = a.Attributes(
    "port",
    "ports",
    a.ID,
    attr("name", a.name_text, "cufs", ""),
    attr("network_id", a.uuid, "cfs", a.REQUIRED),
    attr("admin_state_up", a.boolean, "cufs", True),
    attr("mac_address", a.or_none(a.mac_address), "cufsp"),
    attr("fixed_ips", a.or_none(fixed_ips), "cup", parts=("ip_address", "subnet_id")),
    attr("device_id", a.text(), "cufsp", ""),
    attr("device_owner", a.text(), "cufsp", ""),
    a.TENANT,
    a.PROJECT,
    attr("status", None, "fs"),
    attr("allowed_address_pairs", PAIRS, "cup", parts=("mac_address", "ip_address")),
    attr("extra_dhcp_opts", OPTIONS, "cu"),
    attr("security_groups", a.or_none(a.list_of(a.uuid)), "cu"),
    attr("port_security_enabled", a.boolean, "cup"),
    attr("binding:vif_type", None, "p"),
    attr("binding:vif_details", None, "p"),
    attr("binding:vnic_type", a.one_of(*VNIC_TYPES), "cup", "normal"),
    attr("binding:host_id", a.or_none(a.text()), "cufp", column="host"),
    attr("binding:profile", a.or_none(a.dictionary), "cup"),
    attr("ip_allocation"),
    attr("resource_request", None, "p"),
    a.TAGS,
    *a.standard(),
)
PRIVATE = ("network:project_id", "network:tenant_id", "shared")


async def views(reader: Reader, found: Sequence[Port]) -> Views:
    parents = await networks_by_id(reader, [port.network_id for port in found])
    return [view(port, parents.get(port.network_id)) for port in found]


def view(p: Port, network: Network | None) -> View:
    owner = network.project_id if network else None
    return {
        "id": p.id,
        "name": p.name,
        "network_id": p.network_id,
        "tenant_id": p.project_id,
        "project_id": p.project_id,
        "mac_address": p.mac_address,
        "admin_state_up": p.admin_state_up,
        "status": p.status,
        "device_id": p.device_id,
        "device_owner": p.device_owner,
        "fixed_ips": p.fixed_ips,
        "allowed_address_pairs": p.allowed_address_pairs,
        "extra_dhcp_opts": p.extra_dhcp_opts,
        "security_groups": p.security_groups,
        "port_security_enabled": p.port_security_enabled,
        "binding:vnic_type": p.vnic_type,
        "binding:profile": p.profile,
        "binding:host_id": p.host,
        "binding:vif_type": p.vif_type,
        "binding:vif_details": BOUND_DETAILS if p.vif_type == ports.BOUND else {},
        "ip_allocation": "immediate" if p.fixed_ips else "none",
        "resource_request": None,
        "description": p.description,
        "tags": p.tags,
        "created_at": iso(p.created_at),
        "updated_at": iso(p.updated_at),
        "revision_number": p.revision,
        "network:project_id": owner,
        "network:tenant_id": owner,
        "shared": network.shared if network else False,
    }


def scope() -> Any:
    own = sa.select(networks_table.c.id).where(networks_table.c.project_id == sa.bindparam("scope_project"))
    return sa.or_(table.c.project_id == sa.bindparam("scope_project"), table.c.network_id.in_(own))


def _by_fixed_ip(values: Any) -> Any:
    """fixed_ips=ip_address=… or subnet_id=…: values of one kind are alternatives, kinds add up."""
    kinds: dict[str, Any] = {}
    for value in values:
        name, _, wanted = value.partition("=")
        kinds.setdefault(name, []).append(wanted)
    conditions: Any = []
    for name, wanted in kinds.items():
        if name == "subnet_id":
            conditions.append(table.c.id.in_(sa.select(ip_allocations.c.port_id).where(ip_allocations.c.subnet_id.in_(wanted))))
        elif name == "ip_address":
            keys = [ipam.key_of(ip) for ip in wanted if _is_ip(ip)]
            conditions.append(table.c.id.in_(sa.select(ip_allocations.c.port_id).where(ip_allocations.c.ip_key.in_(keys))))
    return sa.and_(*conditions) if conditions else None


def _by_substring(req: Request) -> Any:
    """fixed_ips=ip_address_substr=…: ports with an address that has this in it."""
    parts = [value.partition("=")[2] for value in req.every("fixed_ips") if value.startswith("ip_address_substr=")]
    if not parts:
        return None
    return lambda port: any(part in fixed.ip_address for fixed in port.fixed_ips for part in parts)


def _is_ip(text: str) -> bool:
    try:
        ipam.number(text)
    except ValueError:
        return False
    return "%" not in text


def _by_group(values: Any) -> Any:
    return table.c.id.in_(sa.select(port_security_groups.c.port_id).where(port_security_groups.c.security_group_id.in_(values)))


PORTS = Resource(
    ATTRIBUTES,
    rows.ports,
    missing=PortNotFound,
    views=views,
    scope=scope,
    private=PRIVATE,
    custom={"fixed_ips": _by_fixed_ip, "security_groups": _by_group},
    sieve=_by_substring,
)


async def list(c: NetworkService, ctx: Context, req: Request) -> Any:
    return await collection.listing(c, ctx, req, PORTS)


async def show(c: NetworkService, ctx: Context, req: Request, port_id: str) -> Any:
    return await collection.show(c, req, PORTS, port_id)


def _check_owner(w: Work, verb: str, values: creation.Values) -> None:
    """The network service's own kinds of ports are made by it, or by an admin."""
    if str(values.get("device_owner", "")).startswith("network:") and not w.elevated:
        raise PolicyForbids(rule=f"{verb}_port:device_owner")


async def create(c: NetworkService, ctx: Context, req: Request, body: Any) -> Any:
    async def target(values: creation.Values) -> creation.Values:
        network = await network_api.visible(c, ctx, values["network_id"])
        return {"network:project_id": network.project_id, "network:tenant_id": network.project_id, "shared": network.shared}

    async def make(w: Work, values: creation.Values) -> Port:
        _check_owner(w, "create", values)
        network = await networks.get(w, values["network_id"])
        return await ports.create(w, network, await rows.subnets.where(w.tx, network_id=network.id), values)

    return await creation.create(c, ctx, req, PORTS, body, make, target)


async def update(c: NetworkService, ctx: Context, req: Request, port_id: str, body: Any) -> Any:
    async def change(w: Work, port: Port, values: creation.Values) -> Port:
        if values.get("device_owner", port.device_owner) != port.device_owner:
            _check_owner(w, "update", values)
        network = await networks.get(w, port.network_id)
        return await ports.update(w, port, network, await rows.subnets.where(w.tx, network_id=network.id), values)

    return await creation.update(c, ctx, req, PORTS, port_id, body, change)


async def delete(c: NetworkService, ctx: Context, req: Request, port_id: str) -> None:
    async def remove(w: Work, port: Port) -> None:
        ports.check_deletable(port)
        await ports.remove(w, port)

    await creation.delete(c, ctx, req, PORTS, port_id, remove)
