"""Networks."""

from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa

from kilonova.core.context import Context
from kilonova.core.db import Reader
from kilonova.core.db.statements import prepared
from kilonova.core.http import Request
from kilonova.core.times import iso
from kilonova.network.api import attributes as a
from kilonova.network.api import collection, creation
from kilonova.network.api.attributes import attr
from kilonova.network.api.collection import Resource, View, Views
from kilonova.network.domain import networks
from kilonova.network.errors import NetworkNotFound
from kilonova.network.model import Network
from kilonova.network.service import NetworkService
from kilonova.network.store import rows
from kilonova.network.store.tables import networks as table
from kilonova.network.store.tables import subnets as subnets_table

ATTRIBUTES = a.Attributes(
    "network",
    "networks",
    a.ID,
    attr("name", a.name_text, "cufs", ""),
    attr("subnets"),
    attr("admin_state_up", a.boolean, "cufs", True),
    attr("status", None, "fs"),
    a.TENANT,
    a.PROJECT,
    attr("shared", a.boolean, "cufp", False),
    attr("router:external", a.boolean, "cufp", False, column="external"),
    attr("is_default", a.boolean, "cufp", False),
    attr("mtu", a.non_negative, "cufs", 0),
    attr("port_security_enabled", a.boolean, "cup", True),
    attr("provider:network_type", a.or_none(a.text(32)), "cufp", column="network_type"),
    attr("provider:physical_network", a.or_none(a.text(64)), "cufp", column="physical_network"),
    attr("provider:segmentation_id", a.or_none(a.integer), "cufp", column="segmentation_id"),
    attr("availability_zone_hints", a.list_of(a.text()), "c", ()),
    attr("availability_zones"),
    attr("ipv4_address_scope"),
    attr("ipv6_address_scope"),
    a.TAGS,
    *a.standard(),
)
_ALL_SUBNETS = prepared(sa.select(subnets_table.c.network_id, subnets_table.c.id).order_by(subnets_table.c.created_at, subnets_table.c.id))
_SUBNETS = prepared(
    sa.select(subnets_table.c.network_id, subnets_table.c.id)
    .where(subnets_table.c.network_id == sa.bindparam("network"))
    .order_by(subnets_table.c.created_at, subnets_table.c.id)
)
FEW = 20
Texts = list[str]


async def subnet_ids(reader: Reader, networks: Sequence[Network]) -> dict[str, Texts]:
    """network -> its subnets, oldest first"""
    out: dict[str, Texts] = {network.id: [] for network in networks}
    if len(networks) <= FEW:
        for network in networks:
            out[network.id] = [row[1] for row in await reader.all(_SUBNETS, {"network": network.id})]
        return out
    for network_id, subnet_id in await reader.all(_ALL_SUBNETS):
        if network_id in out:
            out[network_id].append(subnet_id)
    return out


async def views(reader: Reader, found: Sequence[Network]) -> Views:
    subnets = await subnet_ids(reader, found)
    return [view(network, subnets[network.id]) for network in found]


def view(n: Network, subnets: Texts) -> View:
    return {
        "id": n.id,
        "name": n.name,
        "tenant_id": n.project_id,
        "project_id": n.project_id,
        "admin_state_up": n.admin_state_up,
        "mtu": n.mtu,
        "status": n.status,
        "subnets": subnets,
        "shared": n.shared,
        "router:external": n.external,
        "is_default": n.is_default,
        "port_security_enabled": n.port_security_enabled,
        "provider:network_type": n.network_type,
        "provider:physical_network": n.physical_network,
        "provider:segmentation_id": n.segmentation_id,
        "availability_zone_hints": n.availability_zone_hints,
        "availability_zones": n.availability_zone_hints or ("nova",),
        "ipv4_address_scope": None,
        "ipv6_address_scope": None,
        "description": n.description,
        "tags": n.tags,
        "created_at": iso(n.created_at),
        "updated_at": iso(n.updated_at),
        "revision_number": n.revision,
    }


def scope() -> Any:
    return sa.or_(table.c.project_id == sa.bindparam("scope_project"), table.c.shared.is_(True), table.c.external.is_(True))


NETWORKS = Resource(ATTRIBUTES, rows.networks, missing=NetworkNotFound, views=views, scope=scope)


async def visible(c: NetworkService, ctx: Context, network_id: str) -> Network:
    """A network that the caller may see. Raises NetworkNotFound."""
    found = await rows.networks.get(c.db, network_id)
    if found is None or not (collection.sees_all(ctx) or found.project_id == ctx.project_id or found.shared or found.external):
        raise NetworkNotFound(id=a.shown(network_id))
    return found


async def list(c: NetworkService, ctx: Context, req: Request) -> Any:
    return await collection.listing(c, ctx, req, NETWORKS)


async def show(c: NetworkService, ctx: Context, req: Request, network_id: str) -> Any:
    return await collection.show(c, req, NETWORKS, network_id)


async def create(c: NetworkService, ctx: Context, req: Request, body: Any) -> Any:
    return await creation.create(c, ctx, req, NETWORKS, body, networks.create)


async def update(c: NetworkService, ctx: Context, req: Request, network_id: str, body: Any) -> Any:
    return await creation.update(c, ctx, req, NETWORKS, network_id, body, networks.update)


async def delete(c: NetworkService, ctx: Context, req: Request, network_id: str) -> None:
    await creation.delete(c, ctx, req, NETWORKS, network_id, networks.delete)
