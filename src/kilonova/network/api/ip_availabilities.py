"""How many addresses of each network and subnet are in use."""

from collections.abc import Sequence
from typing import Any

from kilonova.core.context import Context
from kilonova.core.http import Request
from kilonova.network.api.attributes import shown
from kilonova.network.domain import ipam
from kilonova.network.errors import NetworkNotFound
from kilonova.network.model import Network, Subnet
from kilonova.network.service import NetworkService
from kilonova.network.store import addresses, rows

RULE = "get_network_ip_availability"


def _view(network: Network, subnets: Sequence[Subnet], used: dict[str, int]) -> dict[str, Any]:
    parts = [
        {
            "subnet_id": subnet.id,
            "subnet_name": subnet.name,
            "cidr": subnet.cidr,
            "ip_version": subnet.ip_version,
            "total_ips": ipam.count(ipam.pool_ranges(subnet.allocation_pools)),
            "used_ips": used.get(subnet.id, 0),
        }
        for subnet in subnets
    ]
    return {
        "network_id": network.id,
        "network_name": network.name,
        "tenant_id": network.project_id,
        "project_id": network.project_id,
        "total_ips": sum(part["total_ips"] for part in parts),
        "used_ips": sum(part["used_ips"] for part in parts),
        "subnet_ip_availability": parts,
    }


async def _views(c: NetworkService, networks: Sequence[Network], version: str | None) -> Sequence[dict[str, Any]]:
    used = await addresses.counts(c.db)
    by_network: dict[str, Any] = {}
    for subnet in await rows.subnets.where(c.db):
        if version is None or str(subnet.ip_version) == version:
            by_network.setdefault(subnet.network_id, []).append(subnet)
    return [_view(network, by_network.get(network.id, []), used) for network in networks]


async def list(c: NetworkService, ctx: Context, req: Request) -> Any:
    req.authorized = True
    found = await rows.networks.where(c.db)
    for name, read in (("network_id", "id"), ("network_name", "name"), ("tenant_id", "project_id"), ("project_id", "project_id")):
        values = req.every(name)
        if values:
            found = [network for network in found if getattr(network, read) in values]
    views = await _views(c, found, req.one("ip_version"))
    return {"network_ip_availabilities": [view for view in views if req.allowed(RULE, view)]}


async def show(c: NetworkService, ctx: Context, req: Request, network_id: str) -> Any:
    req.authorize(RULE, {}, NetworkNotFound(id=shown(network_id)))
    network = await rows.networks.get(c.db, network_id)
    if network is None:
        raise NetworkNotFound(id=shown(network_id))
    return {"network_ip_availability": (await _views(c, [network], req.one("ip_version")))[0]}
