"""Services of the catalog."""

from typing import Any

import msgspec
from msgspec import UNSET, UnsetType

from kilonova.core.context import Context
from kilonova.core.db import Transaction
from kilonova.core.http import Reply, Request
from kilonova.identity.api import views
from kilonova.identity.api.bodies import Body, Name, entity, required
from kilonova.identity.errors import CouldNotFind
from kilonova.identity.model import Service
from kilonova.identity.service import IdentityService
from kilonova.identity.store import revision as revisions
from kilonova.identity.store.rows import endpoints, services


class ServiceIn(msgspec.Struct, kw_only=True):
    type: Name | UnsetType = UNSET
    name: str | UnsetType = UNSET
    description: str | None | UnsetType = UNSET
    enabled: bool | UnsetType = UNSET


async def list(c: IdentityService, ctx: Context, req: Request) -> Any:
    documents = [views.service(req, s) for s in await services.every(c.db)]
    return views.collection(req, "services", views.filtered(req, documents, ("name", "type", "id")))


async def create(c: IdentityService, ctx: Context, req: Request, body: Body) -> Reply:
    wanted, extra = entity(body, "service", ServiceIn)
    required(body, "service", wanted, "type")
    assert wanted.type is not UNSET
    service = Service(
        id=c.runtime.uuid_hex(),
        type=wanted.type,
        name=wanted.name or "",
        description=wanted.description if isinstance(wanted.description, str) else None,
        enabled=wanted.enabled is not False,
        extra=extra,
    )

    async def write(tx: Transaction) -> None:
        await services.insert(tx, service)
        await revisions.bump(tx)

    await c.db.transact(write)
    return Reply({"service": views.service(req, service)}, 201)


async def show(c: IdentityService, ctx: Context, req: Request, service_id: str) -> Any:
    service = await services.get(c.db, service_id)
    if service is None:
        raise CouldNotFind(what="service", id=service_id)
    return {"service": views.service(req, service)}


async def update(c: IdentityService, ctx: Context, req: Request, service_id: str, body: Body) -> Any:
    wanted, extra = entity(body, "service", ServiceIn)
    fields = {"type": wanted.type, "name": wanted.name, "description": wanted.description, "enabled": wanted.enabled}
    columns = {name: value for name, value in fields.items() if value is not UNSET}

    async def write(tx: Transaction) -> Service | None:
        now = await services.get(tx, service_id)
        await revisions.bump(tx)
        return await services.change(tx, now, **columns, **({"extra": {**now.extra, **extra}} if extra else {})) if now else None

    service = await c.db.transact(write)
    if service is None:
        raise CouldNotFind(what="service", id=service_id)
    return {"service": views.service(req, service)}


async def delete(c: IdentityService, ctx: Context, req: Request, service_id: str) -> None:
    """Its endpoints go with it."""

    async def write(tx: Transaction) -> None:
        await endpoints.delete_where(tx, service_id=service_id)
        if not await services.delete(tx, service_id):
            raise CouldNotFind(what="service", id=service_id)
        await revisions.bump(tx)

    await c.db.transact(write)
