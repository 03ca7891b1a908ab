"""Which projects may use a private flavor."""

from typing import Annotated, Any

import msgspec
from msgspec import Meta

from kilonova.compute.api.flavors import find
from kilonova.compute.errors import FlavorNotFound
from kilonova.compute.model import Flavor
from kilonova.compute.service import ComputeService
from kilonova.compute.store import flavors
from kilonova.core.context import Context
from kilonova.core.db import Duplicate, Transaction
from kilonova.core.errors import BadRequest, Conflict, NotFound
from kilonova.core.http import Request


class Tenant(msgspec.Struct, forbid_unknown_fields=True):
    tenant: Annotated[str, Meta(min_length=1, max_length=255)]


class Add(msgspec.Struct, forbid_unknown_fields=True):
    addTenantAccess: Tenant


class Remove(msgspec.Struct, forbid_unknown_fields=True):
    removeTenantAccess: Tenant


async def _view(c: ComputeService, flavor: Flavor) -> dict[str, Any]:
    return {"flavor_access": [{"flavor_id": flavor.id, "tenant_id": p} for p in await flavors.projects(c.api_db, flavor.id)]}


async def index(c: ComputeService, ctx: Context, req: Request, flavor_id: str) -> Any:
    flavor = await find(c, ctx, flavor_id)
    if flavor.is_public:
        raise NotFound("Access list not available for public flavors.")
    return await _view(c, flavor)


async def _known(c: ComputeService, project_id: str) -> None:
    if not await c.identity.project_exists(project_id):
        raise BadRequest(f"Project ID {project_id} is not a valid project.")


async def add(c: ComputeService, ctx: Context, req: Request, flavor_id: str, body: Add) -> Any:
    project_id = body.addTenantAccess.tenant
    await _known(c, project_id)
    flavor = await find(c, ctx, flavor_id)
    if flavor.is_public and req.version >= (2, 7):
        raise Conflict("Can not add access to a public flavor.")

    async def write(tx: Transaction) -> None:
        if await flavors.get(tx, flavor.id) is None:
            raise FlavorNotFound(flavor=flavor.id)
        await flavors.give(tx, flavor.id, project_id)

    try:
        await c.api_db.transact(write)
    except Duplicate:
        raise Conflict(f"Flavor access already exists for flavor {flavor.id} and project {project_id} combination.") from None
    return await _view(c, flavor)


async def remove(c: ComputeService, ctx: Context, req: Request, flavor_id: str, body: Remove) -> Any:
    """A project that is gone may still be taken off the list."""
    project_id = body.removeTenantAccess.tenant
    flavor = await find(c, ctx, flavor_id)
    if not await c.api_db.transact(lambda tx: flavors.take(tx, flavor.id, project_id)):
        await _known(c, project_id)
        raise NotFound(f"Flavor access not found for {flavor.id} / {project_id} combination.")
    return await _view(c, flavor)
