"""Subnets."""

from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa

from kilonova.core.context import Context
from kilonova.core.db import Reader
from kilonova.core.http import Request
from kilonova.core.times import iso
from kilonova.network.api import attributes as a
from kilonova.network.api import collection, creation
from kilonova.network.api import networks as network_api
from kilonova.network.api.attributes import attr
from kilonova.network.api.collection import Resource, View, Views
from kilonova.network.domain import networks, subnets
from kilonova.network.domain.work import Work
from kilonova.network.errors import SubnetNotFound
from kilonova.network.model import Network, Pool, Route, Subnet
from kilonova.network.service import NetworkService
from kilonova.network.store import rows
from kilonova.network.store.tables import networks as networks_table
from kilonova.network.store.tables import subnets as table

MODES = a.one_of("dhcpv6-stateful", "dhcpv6-stateless", "slaac")
ROUTES = a.none_to_empty(a.list_of(a.struct(Route, ("destination", "nexthop"), destination=a.subnet, nexthop=a.ip_address)))


def pools(value: Any) -> Any:
    found = a.list_of(lambda item: a.members(item, ("start", "end"), start=a.ip_address, end=a.ip_address))(value)
    return tuple(Pool(item["start"], item["end"]) for item in found)


def pool_id(value: Any) -> Any:
    return None if value is None or value == "prefix_delegation" else a.uuid(value)


ATTRIBUTES = a.Attributes(
    "subnet",
    "subnets",
    a.ID,
    attr("name", a.name_text, "cufs", ""),
    attr("ip_version", lambda value: a.one_of(4, 6)(a.integer(value)), "cfs"),
    attr("network_id", a.uuid, "cfs", a.REQUIRED),
    attr("subnetpool_id", pool_id, "cfs"),
    attr("use_default_subnetpool", a.boolean, "ch", False),
    attr("prefixlen", a.non_negative, "ch"),
    attr("cidr", a.or_none(a.subnet), "cfs"),
    attr("gateway_ip", a.or_none(a.ip_address), "cufs"),
    attr("allocation_pools", pools, "cu"),
    attr("dns_nameservers", a.none_to_empty(a.list_of(a.ip_address)), "cu"),
    attr("host_routes", ROUTES, "cu"),
    a.TENANT,
    a.PROJECT,
    attr("enable_dhcp", a.boolean, "cufs", True),
    attr("ipv6_ra_mode", MODES, "cfs"),
    attr("ipv6_address_mode", MODES, "cfs"),
    attr("service_types", a.list_of(a.text()), "cup"),
    a.TAGS,
    *a.standard(),
)
PRIVATE = ("network:project_id", "network:tenant_id", "shared", "router:external")


async def networks_by_id(reader: Reader, ids: Sequence[str]) -> dict[str, Network]:
    """Few: by id, many: all at once."""
    distinct = tuple(dict.fromkeys(ids))
    if len(distinct) <= network_api.FEW:
        found = [network for network_id in distinct if (network := await rows.networks.get(reader, network_id)) is not None]
    else:
        found = await rows.networks.where(reader)
    return {network.id: network for network in found}


async def views(reader: Reader, found: Sequence[Subnet]) -> Views:
    parents = await networks_by_id(reader, [subnet.network_id for subnet in found])
    return [view(subnet, parents.get(subnet.network_id)) for subnet in found]


def view(s: Subnet, network: Network | None) -> View:
    return {
        "id": s.id,
        "name": s.name,
        "tenant_id": s.project_id,
        "project_id": s.project_id,
        "network_id": s.network_id,
        "ip_version": s.ip_version,
        "subnetpool_id": s.subnetpool_id,
        "enable_dhcp": s.enable_dhcp,
        "ipv6_ra_mode": s.ipv6_ra_mode,
        "ipv6_address_mode": s.ipv6_address_mode,
        "gateway_ip": s.gateway_ip,
        "cidr": s.cidr,
        "allocation_pools": s.allocation_pools,
        "host_routes": s.host_routes,
        "dns_nameservers": s.dns_nameservers,
        "service_types": s.service_types,
        "description": s.description,
        "tags": s.tags,
        "created_at": iso(s.created_at),
        "updated_at": iso(s.updated_at),
        "revision_number": s.revision,
        "network:project_id": network.project_id if network else None,
        "network:tenant_id": network.project_id if network else None,
        "shared": network.shared if network else False,
        "router:external": network.external if network else False,
    }


def scope() -> Any:
    seen = sa.select(networks_table.c.id).where(network_api.scope())
    return sa.or_(table.c.project_id == sa.bindparam("scope_project"), table.c.network_id.in_(seen))


def _of_networks(column: Any) -> Any:
    def condition(values: Any) -> Any:
        wanted = [value.lower() in ("true", "1") for value in values]
        return table.c.network_id.in_(sa.select(networks_table.c.id).where(column.in_(wanted)))

    return condition


SUBNETS = Resource(
    ATTRIBUTES,
    rows.subnets,
    missing=SubnetNotFound,
    views=views,
    scope=scope,
    private=PRIVATE,
    custom={"shared": _of_networks(networks_table.c.shared), "router:external": _of_networks(networks_table.c.external)},
)


async def list(c: NetworkService, ctx: Context, req: Request) -> Any:
    return await collection.listing(c, ctx, req, SUBNETS)


async def show(c: NetworkService, ctx: Context, req: Request, subnet_id: str) -> Any:
    return await collection.show(c, req, SUBNETS, subnet_id)


async def create(c: NetworkService, ctx: Context, req: Request, body: Any) -> Any:
    async def target(values: creation.Values) -> creation.Values:
        network = await network_api.visible(c, ctx, values["network_id"])
        return {"network:project_id": network.project_id, "network:tenant_id": network.project_id, "shared": network.shared}

    async def make(w: Work, values: creation.Values) -> Subnet:
        return await subnets.create(w, await networks.get(w, values["network_id"]), values)

    return await creation.create(c, ctx, req, SUBNETS, body, make, target)


async def update(c: NetworkService, ctx: Context, req: Request, subnet_id: str, body: Any) -> Any:
    return await creation.update(c, ctx, req, SUBNETS, subnet_id, body, subnets.update)


async def delete(c: NetworkService, ctx: Context, req: Request, subnet_id: str) -> None:
    await creation.delete(c, ctx, req, SUBNETS, subnet_id, subnets.delete)
