"""Regions: places of the catalog, in a tree."""

from typing import Annotated, Any

import msgspec
from msgspec import UNSET, Meta, UnsetType

from kilonova.core.context import Context
from kilonova.core.db import Duplicate as DuplicateRow
from kilonova.core.db import Reader, Transaction
from kilonova.core.errors import BadRequest
from kilonova.core.http import Reply, Request
from kilonova.identity.api import views
from kilonova.identity.api.bodies import Body, entity
from kilonova.identity.errors import CouldNotFind, Duplicate, RegionInUse
from kilonova.identity.model import Region
from kilonova.identity.service import IdentityService
from kilonova.identity.store import revision as revisions
from kilonova.identity.store.rows import endpoints, regions

Text = Annotated[str, Meta(max_length=255)]


class RegionIn(msgspec.Struct, kw_only=True):
    id: Text | None | UnsetType = UNSET
    parent_region_id: Annotated[str, Meta(min_length=1, max_length=255)] | None | UnsetType = UNSET
    description: Text | None | UnsetType = UNSET


async def list(c: IdentityService, ctx: Context, req: Request) -> Any:
    documents = [views.region(req, r) for r in await regions.every(c.db)]
    return views.collection(req, "regions", views.filtered(req, documents, ("parent_region_id",)))


async def create(c: IdentityService, ctx: Context, req: Request, body: Body) -> Reply:
    wanted, extra = entity(body, "region", RegionIn)
    return await _insert(c, req, wanted.id or c.runtime.uuid_hex(), wanted, extra)


async def create_with_id(c: IdentityService, ctx: Context, req: Request, region_id: str, body: Body) -> Reply:
    wanted, extra = entity(body, "region", RegionIn)
    if isinstance(wanted.id, str) and wanted.id != region_id:
        raise BadRequest(f'Conflicting region IDs specified: "{region_id}" != "{wanted.id}"')
    return await _insert(c, req, region_id, wanted, extra)


async def _insert(c: IdentityService, req: Request, ident: str, wanted: RegionIn, extra: dict[str, Any]) -> Reply:
    region = Region(id=ident, parent_region_id=wanted.parent_region_id or None, description=wanted.description or "", extra=extra)

    async def write(tx: Transaction) -> None:
        if region.parent_region_id is not None and await regions.get(tx, region.parent_region_id) is None:
            raise CouldNotFind(what="region", id=region.parent_region_id)
        await regions.insert(tx, region)
        await revisions.bump(tx)

    try:
        await c.db.transact(write)
    except DuplicateRow:
        raise Duplicate(what="region", reason=f"Duplicate ID, {ident}.") from None
    return Reply({"region": views.region(req, region)}, 201)


async def show(c: IdentityService, ctx: Context, req: Request, region_id: str) -> Any:
    region = await regions.get(c.db, region_id)
    if region is None:
        raise CouldNotFind(what="region", id=region_id)
    return {"region": views.region(req, region)}


async def update(c: IdentityService, ctx: Context, req: Request, region_id: str, body: Body) -> Any:
    wanted, extra = entity(body, "region", RegionIn)
    if isinstance(wanted.id, str) and wanted.id != region_id:
        raise BadRequest("Invalid input for field/attribute id. The id of a region cannot change.")

    async def write(tx: Transaction) -> Region:
        now = await regions.get(tx, region_id)
        if now is None:
            raise CouldNotFind(what="region", id=region_id)
        columns: dict[str, Any] = {"extra": {**now.extra, **extra}} if extra else {}
        if wanted.description is not UNSET:
            columns["description"] = wanted.description or ""
        if wanted.parent_region_id is not UNSET:
            await _parent(tx, region_id, wanted.parent_region_id)
            columns["parent_region_id"] = wanted.parent_region_id
        await revisions.bump(tx)
        return await regions.change(tx, now, **columns) or now

    return {"region": views.region(req, await c.db.transact(write))}


async def _parent(tx: Transaction, region_id: str, parent_id: str | None) -> None:
    """Raises CouldNotFind, or BadRequest when the region would be its own ancestor."""
    at = parent_id
    while at is not None:
        if at == region_id:
            raise BadRequest(f"The specified parent region {parent_id} would create a circular region hierarchy.")
        above = await regions.get(tx, at)
        if above is None:
            raise CouldNotFind(what="region", id=at)
        at = above.parent_region_id


async def delete(c: IdentityService, ctx: Context, req: Request, region_id: str) -> None:
    """With the regions below, unless an endpoint is in one of them."""

    async def write(tx: Transaction) -> None:
        if await regions.get(tx, region_id) is None:
            raise CouldNotFind(what="region", id=region_id)
        for ident in reversed(await _with_children(tx, region_id)):
            if await endpoints.every(tx, region_id=ident):
                raise RegionInUse(id=region_id)
            await regions.delete(tx, ident)
        await revisions.bump(tx)

    await c.db.transact(write)


async def _with_children(reader: Reader, region_id: str) -> Any:
    out = [region_id]
    for ident in out:
        out.extend(r.id for r in await regions.every(reader, parent_region_id=ident) if r.id not in out)
    return out
