"""Floating IPs."""

from collections.abc import Sequence
from typing import Any

from kilonova.core.context import Context
from kilonova.core.db import Reader
from kilonova.core.http import Request
from kilonova.core.times import iso
from kilonova.network.api import attributes as a
from kilonova.network.api import collection, creation
from kilonova.network.api import networks as network_api
from kilonova.network.api.attributes import attr
from kilonova.network.api.collection import Resource, View, Views
from kilonova.network.domain import floating_ips, networks
from kilonova.network.domain.work import Work
from kilonova.network.errors import FloatingIPNotFound
from kilonova.network.model import FloatingIp, Port
from kilonova.network.service import NetworkService
from kilonova.network.store import rows

ATTRIBUTES = a.Attributes(
    "floatingip",
    "floatingips",
    a.ID,
    attr("floating_ip_address", a.or_none(a.ip_address), "cfsp", None),
    attr("subnet_id", a.or_none(a.uuid), "ch", None),
    attr("floating_network_id", a.uuid, "cfs", a.REQUIRED),
    attr("router_id", None, "fs"),
    attr("port_id", a.or_none(a.uuid), "cuf", None),
    attr("fixed_ip_address", a.or_none(a.ip_address), "cufs", None),
    a.TENANT,
    a.PROJECT,
    attr("status", None, "fs"),
    attr("port_details"),
    a.TAGS,
    *a.standard(),
)


async def views(reader: Reader, found: Sequence[FloatingIp]) -> Views:
    ids = tuple(dict.fromkeys(floating.port_id for floating in found if floating.port_id))
    on: dict[str, Port] = {}
    for at in range(0, len(ids), 500):
        on.update({port.id: port for port in await rows.ports.where(reader, id=ids[at : at + 500])})
    return [view(floating, on.get(floating.port_id or "")) for floating in found]


def view(f: FloatingIp, port: Port | None) -> View:
    details = None
    if port is not None:
        details = {
            "name": port.name,
            "network_id": port.network_id,
            "mac_address": port.mac_address,
            "admin_state_up": port.admin_state_up,
            "status": port.status,
            "device_id": port.device_id,
            "device_owner": port.device_owner,
        }
    return {
        "id": f.id,
        "tenant_id": f.project_id,
        "project_id": f.project_id,
        "floating_network_id": f.floating_network_id,
        "floating_ip_address": f.floating_ip_address,
        "fixed_ip_address": f.fixed_ip_address,
        "port_id": f.port_id,
        "router_id": f.router_id,
        "status": f.status,
        "port_details": details,
        "description": f.description,
        "tags": f.tags,
        "created_at": iso(f.created_at),
        "updated_at": iso(f.updated_at),
        "revision_number": f.revision,
    }


FLOATING_IPS = Resource(ATTRIBUTES, rows.floating_ips, missing=FloatingIPNotFound, views=views)


async def list(c: NetworkService, ctx: Context, req: Request) -> Any:
    return await collection.listing(c, ctx, req, FLOATING_IPS)


async def show(c: NetworkService, ctx: Context, req: Request, floatingip_id: str) -> Any:
    return await collection.show(c, req, FLOATING_IPS, floatingip_id)


async def create(c: NetworkService, ctx: Context, req: Request, body: Any) -> Any:
    async def target(values: creation.Values) -> creation.Values:
        await network_api.visible(c, ctx, values["floating_network_id"])
        return {}

    async def make(w: Work, values: creation.Values) -> FloatingIp:
        return await floating_ips.create(w, await networks.get(w, values["floating_network_id"]), values)

    return await creation.create(c, ctx, req, FLOATING_IPS, body, make, target)


async def update(c: NetworkService, ctx: Context, req: Request, floatingip_id: str, body: Any) -> Any:
    return await creation.update(c, ctx, req, FLOATING_IPS, floatingip_id, body, floating_ips.update)


async def delete(c: NetworkService, ctx: Context, req: Request, floatingip_id: str) -> None:
    await creation.delete(c, ctx, req, FLOATING_IPS, floatingip_id, floating_ips.delete)
