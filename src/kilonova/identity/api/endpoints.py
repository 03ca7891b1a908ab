"""Endpoints of the catalog."""

from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

from kilonova.core.context import Context
from kilonova.core.db import Transaction
from kilonova.core.errors import BadRequest
from kilonova.core.http import Reply, Request
from kilonova.identity.api import views
from kilonova.identity.api.bodies import Body, entity, required
from kilonova.identity.domain import catalog
from kilonova.identity.errors import CouldNotFind
from kilonova.identity.model import Endpoint, Region
from kilonova.identity.service import IdentityService
from kilonova.identity.store import revision as revisions
from kilonova.identity.store.rows import endpoints, regions, services

Url = Annotated[str, Meta(max_length=225, pattern="^[a-zA-Z0-9+.-]+:.+")]
MALFORMED = (
    "The server could not comply with the request since it is either malformed or otherwise incorrect. "
    "The client is assumed to be in error."
)


class EndpointIn(msgspec.Struct, kw_only=True):
    service_id: str | UnsetType = UNSET
    interface: Literal["admin", "internal", "public"] | UnsetType = UNSET
    url: Url | UnsetType = UNSET
    region_id: str | None | UnsetType = UNSET
    region: str | None | UnsetType = UNSET
    """The older name: a region that does not exist is made."""
    enabled: bool | UnsetType = UNSET


async def list(c: IdentityService, ctx: Context, req: Request) -> Any:
    documents = [views.endpoint(req, e) for e in await endpoints.every(c.db)]
    return views.collection(req, "endpoints", views.filtered(req, documents, ("interface", "service_id", "region_id", "region", "id")))


def _url(wanted: str | UnsetType) -> None:
    if isinstance(wanted, str) and not catalog.fillable(wanted):
        raise BadRequest(f"Cannot create an endpoint with an invalid URL: {wanted}.")


async def _region(tx: Transaction, wanted: EndpointIn) -> str | None:
    """Raises BadRequest for a region_id that there is not; a `region` is made."""
    if isinstance(wanted.region_id, str):
        if await regions.get(tx, wanted.region_id) is None:
            raise BadRequest(f"Expecting to find endpoint region_id in region table. {MALFORMED}")
        return wanted.region_id
    if isinstance(wanted.region, str):
        if await regions.get(tx, wanted.region) is None:
            await regions.insert(tx, Region(id=wanted.region, parent_region_id=None, description="", extra={}))
        return wanted.region
    return None


async def _service(tx: Transaction, service_id: str) -> None:
    if await services.get(tx, service_id) is None:
        raise BadRequest(f"Expecting to find endpoint service_id in service table. {MALFORMED}")


async def create(c: IdentityService, ctx: Context, req: Request, body: Body) -> Reply:
    wanted, extra = entity(body, "endpoint", EndpointIn)
    required(body, "endpoint", wanted, "interface", "service_id", "url")
    _url(wanted.url)

    async def write(tx: Transaction) -> Endpoint:
        assert wanted.service_id is not UNSET and wanted.interface is not UNSET and wanted.url is not UNSET
        await _service(tx, wanted.service_id)
        endpoint = Endpoint(
            id=c.runtime.uuid_hex(),
            service_id=wanted.service_id,
            interface=wanted.interface,
            region_id=await _region(tx, wanted),
            url=wanted.url,
            enabled=wanted.enabled is not False,
            extra=extra,
        )
        await endpoints.insert(tx, endpoint)
        await revisions.bump(tx)
        return endpoint

    return Reply({"endpoint": views.endpoint(req, await c.db.transact(write))}, 201)


async def show(c: IdentityService, ctx: Context, req: Request, endpoint_id: str) -> Any:
    endpoint = await endpoints.get(c.db, endpoint_id)
    if endpoint is None:
        raise CouldNotFind(what="endpoint", id=endpoint_id)
    return {"endpoint": views.endpoint(req, endpoint)}


async def update(c: IdentityService, ctx: Context, req: Request, endpoint_id: str, body: Body) -> Any:
    wanted, extra = entity(body, "endpoint", EndpointIn)
    _url(wanted.url)
    fields = {"service_id": wanted.service_id, "interface": wanted.interface, "url": wanted.url, "enabled": wanted.enabled}
    columns: dict[str, Any] = {name: value for name, value in fields.items() if value is not UNSET}

    async def write(tx: Transaction) -> Endpoint:
        now = await endpoints.get(tx, endpoint_id)
        if now is None:
            raise CouldNotFind(what="endpoint", id=endpoint_id)
        if isinstance(wanted.service_id, str):
            await _service(tx, wanted.service_id)
        if wanted.region_id is not UNSET or wanted.region is not UNSET:
            columns["region_id"] = await _region(tx, wanted)
        if extra:
            columns["extra"] = {**now.extra, **extra}
        await revisions.bump(tx)
        return await endpoints.change(tx, now, **columns) or now

    return {"endpoint": views.endpoint(req, await c.db.transact(write))}


async def delete(c: IdentityService, ctx: Context, req: Request, endpoint_id: str) -> None:
    async def write(tx: Transaction) -> None:
        if not await endpoints.delete(tx, endpoint_id):
            raise CouldNotFind(what="endpoint", id=endpoint_id)
        await revisions.bump(tx)

    await c.db.transact(write)
