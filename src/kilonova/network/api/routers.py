"""Routers, their interfaces and extra routes."""

from collections.abc import Sequence
from typing import Any

from kilonova.core.context import Context
from kilonova.core.db import Reader
from kilonova.core.http import Request
from kilonova.core.times import iso
from kilonova.network.api import attributes as a
from kilonova.network.api import collection, creation
from kilonova.network.api import networks as network_api
from kilonova.network.api.attributes import attr, shown, wrapped
from kilonova.network.api.collection import Resource, View, Views
from kilonova.network.api.ports import fixed_ips
from kilonova.network.api.subnets import ROUTES
from kilonova.network.domain import networks, routers
from kilonova.network.domain.work import Work
from kilonova.network.errors import BadBody, BadResource, Invalid, NetworkNotFound, PortNotFound, RouterNotFound, SubnetNotFound
from kilonova.network.model import Port, Router
from kilonova.network.service import NetworkService
from kilonova.network.store import rows


def gateway_info(value: Any) -> Any:
    if value is None or value == {}:
        return None
    return a.members(value, ("network_id",), network_id=a.uuid, enable_snat=a.boolean, external_fixed_ips=fixed_ips)


ATTRIBUTES = a.Attributes(
    "router",
    "routers",
    a.ID,
    attr("name", a.name_text, "cufs", ""),
    attr("admin_state_up", a.boolean, "cufs", True),
    attr("status", None, "fs"),
    a.TENANT,
    a.PROJECT,
    attr("external_gateway_info", gateway_info, "cup", None, parts=("network_id", "enable_snat", "external_fixed_ips")),
    attr("routes", ROUTES, "u"),
    attr("availability_zone_hints", a.list_of(a.text()), "c", ()),
    attr("availability_zones"),
    attr("flavor_id"),
    a.TAGS,
    *a.standard(),
)


async def views(reader: Reader, found: Sequence[Router]) -> Views:
    ids = tuple(router.gateway_port_id for router in found if router.gateway_port_id)
    gateways: dict[str, Port] = {}
    for at in range(0, len(ids), 500):
        gateways.update({port.id: port for port in await rows.ports.where(reader, id=ids[at : at + 500])})
    return [view(router, gateways.get(router.gateway_port_id or "")) for router in found]


def view(r: Router, gateway: Port | None) -> View:
    info = None
    if r.gateway_network_id is not None:
        info = {
            "network_id": r.gateway_network_id,
            "enable_snat": r.enable_snat,
            "external_fixed_ips": gateway.fixed_ips if gateway else (),
        }
    return {
        "id": r.id,
        "name": r.name,
        "tenant_id": r.project_id,
        "project_id": r.project_id,
        "admin_state_up": r.admin_state_up,
        "status": r.status,
        "external_gateway_info": info,
        "routes": r.routes,
        "availability_zone_hints": r.availability_zone_hints,
        "availability_zones": r.availability_zone_hints or ("nova",),
        "flavor_id": None,
        "description": r.description,
        "tags": r.tags,
        "created_at": iso(r.created_at),
        "updated_at": iso(r.updated_at),
        "revision_number": r.revision,
    }


ROUTERS = Resource(ATTRIBUTES, rows.routers, missing=RouterNotFound, views=views)


async def list(c: NetworkService, ctx: Context, req: Request) -> Any:
    return await collection.listing(c, ctx, req, ROUTERS)


async def show(c: NetworkService, ctx: Context, req: Request, router_id: str) -> Any:
    return await collection.show(c, req, ROUTERS, router_id)


async def _check_gateway(c: NetworkService, ctx: Context, values: creation.Values) -> None:
    """The external network must be the caller's to see."""
    info = values.get("external_gateway_info")
    if info:
        await network_api.visible(c, ctx, info["network_id"])


async def create(c: NetworkService, ctx: Context, req: Request, body: Any) -> Any:
    async def target(values: creation.Values) -> creation.Values:
        await _check_gateway(c, ctx, values)
        return {}

    return await creation.create(c, ctx, req, ROUTERS, body, routers.create, target)


async def update(c: NetworkService, ctx: Context, req: Request, router_id: str, body: Any) -> Any:
    async def change(w: Work, router: Router, values: creation.Values) -> Router:
        return await routers.update(w, router, values)

    await collection.found(c, req, ROUTERS, router_id)
    if isinstance(body, dict) and isinstance(body.get("router"), dict):
        info = body["router"].get("external_gateway_info")
        if isinstance(info, dict) and isinstance(info.get("network_id"), str):
            await _check_gateway(c, ctx, {"external_gateway_info": info})
    return await creation.update(c, ctx, req, ROUTERS, router_id, body, change)


async def delete(c: NetworkService, ctx: Context, req: Request, router_id: str) -> None:
    await creation.delete(c, ctx, req, ROUTERS, router_id, routers.delete)


# ---- interfaces


def _ids(body: Any) -> tuple[str | None, str | None]:
    """(subnet_id, port_id) of a request about an interface."""
    if not isinstance(body, dict):
        raise BadBody("Resource body required")
    found = []
    for name in ("subnet_id", "port_id"):
        value = body.get(name)
        if value is not None:
            try:
                a.uuid(value)
            except ValueError as error:
                raise Invalid(str(error), field=name) from None
        found.append(value)
    if found == [None, None]:
        raise BadResource("Either subnet_id or port_id must be specified", resource="router")
    return found[0], found[1]


def _interface(router: Router, port: Port, subnet_id: str) -> dict[str, Any]:
    return {
        "id": router.id,
        "tenant_id": router.project_id,
        "project_id": router.project_id,
        "port_id": port.id,
        "network_id": port.network_id,
        "subnet_id": subnet_id,
        "subnet_ids": [fixed.subnet_id for fixed in port.fixed_ips] or [subnet_id],
        "tags": router.tags,
    }


async def add_interface(c: NetworkService, ctx: Context, req: Request, router_id: str, body: Any) -> Any:
    await collection.changeable(c, req, ROUTERS, router_id, "add_router_interface")
    subnet_id, port_id = _ids(body)
    if subnet_id is not None and port_id is not None:
        raise BadResource("Cannot specify both subnet-id and port-id", resource="router")
    if subnet_id is not None:
        await _visible(c, ctx, subnet_id=subnet_id)
    if port_id is not None:
        await _visible(c, ctx, port_id=port_id)

    async def run(w: Work) -> tuple[Router, Port]:
        router = await routers.get(w, router_id)
        port = await rows.ports.get(w.tx, port_id) if port_id is not None else None
        subnet = await rows.subnets.get(w.tx, subnet_id) if subnet_id is not None else None
        if port_id is not None and port is None:
            raise PortNotFound(id=port_id)
        if port is None and subnet is None:
            raise SubnetNotFound(id=subnet_id)
        parent = port.network_id if port is not None else subnet.network_id if subnet is not None else ""
        return await routers.add_interface(w, router, await networks.get(w, parent), subnet, port)

    router, port = await c.write(ctx, run)
    return _interface(router, port, subnet_id or port.fixed_ips[0].subnet_id)


async def _visible(c: NetworkService, ctx: Context, *, subnet_id: str = "", port_id: str = "") -> None:
    """Raises NotFound for what the caller may not see."""
    if collection.sees_all(ctx):
        return
    if port_id:
        port = await rows.ports.get(c.db, port_id)
        if port is None or port.project_id != ctx.project_id:
            raise PortNotFound(id=shown(port_id))
        return
    subnet = await rows.subnets.get(c.db, subnet_id)
    if subnet is None:
        raise SubnetNotFound(id=shown(subnet_id))
    try:
        await network_api.visible(c, ctx, subnet.network_id)
    except NetworkNotFound:
        raise SubnetNotFound(id=shown(subnet_id)) from None


async def remove_interface(c: NetworkService, ctx: Context, req: Request, router_id: str, body: Any) -> Any:
    await collection.changeable(c, req, ROUTERS, router_id, "remove_router_interface")
    subnet_id, port_id = _ids(body)

    async def run(w: Work) -> tuple[Router, Port, str]:
        router = await routers.get(w, router_id)
        port, subnet = await routers.remove_interface(w, router, subnet_id=subnet_id, port_id=port_id)
        return router, port, subnet.id

    router, port, where = await c.write(ctx, run)
    return _interface(router, port, where)


# ---- extra routes


def _routes(body: Any) -> Any:
    item = wrapped(body, "router")
    if not isinstance(item, dict) or "routes" not in item:
        raise BadBody("Unable to find 'routes' in request body")
    try:
        return ROUTES(item["routes"])
    except ValueError as error:
        raise Invalid(str(error), field="routes") from None


async def _change_routes(c: NetworkService, ctx: Context, req: Request, router_id: str, body: Any, *, add: bool) -> Any:
    await collection.changeable(c, req, ROUTERS, router_id, "add_extraroutes" if add else "remove_extraroutes")
    routes = _routes(body)

    async def run(w: Work) -> Router:
        router = await routers.get(w, router_id)
        return await routers.add_routes(w, router, routes) if add else await routers.remove_routes(w, router, routes)

    changed = await c.write(ctx, run)
    return {"router": await collection.shown_one(c, req, ROUTERS, changed)}


async def add_routes(c: NetworkService, ctx: Context, req: Request, router_id: str, body: Any) -> Any:
    return await _change_routes(c, ctx, req, router_id, body, add=True)


async def remove_routes(c: NetworkService, ctx: Context, req: Request, router_id: str, body: Any) -> Any:
    return await _change_routes(c, ctx, req, router_id, body, add=False)
