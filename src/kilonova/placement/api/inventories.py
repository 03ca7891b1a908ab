"""/resource_providers/{uuid}/inventories"""

from collections.abc import Sequence
from typing import Any

from kilonova.core.context import Context
from kilonova.core.db import Transaction
from kilonova.core.http import Reply, Request
from kilonova.placement.api import views
from kilonova.placement.api.bodies import CreateInventory, InventoryIn, SetInventories
from kilonova.placement.api.providers import get, provider_id
from kilonova.placement.contract import Inventory
from kilonova.placement.domain import inventories as domain
from kilonova.placement.errors import InvalidBody, InventoryNotFound, WrongMethod
from kilonova.placement.service import PlacementService
from kilonova.placement.store import inventories


def _all(items: Sequence[Any], generation: int) -> dict[str, Any]:
    return {"resource_provider_generation": generation, "inventories": {i.resource_class: views.inventory(i) for i in items}}


async def list(c: PlacementService, ctx: Context, req: Request, uuid: str) -> Any:
    provider = await get(c.db, uuid)
    found = await inventories.of(c.db, provider.id)
    views.dated(req, max((i.updated_at for i in found), default=c.runtime.now_us()))
    return _all(found, provider.generation)


async def replace(c: PlacementService, ctx: Context, req: Request, uuid: str, body: SetInventories) -> Any:
    ident, now, wanted = provider_id(uuid), c.runtime.now_us(), body.listed()

    async def write(tx: Transaction) -> None:
        await domain.bump(tx, ident, body.resource_provider_generation, now)
        for inventory in wanted:
            _check(req, ident, inventory)
        await domain.drop(tx, await domain.put(tx, ident, wanted, now), "update conflict: ")

    await c.db.transact(write)
    views.dated(req, now)
    return _all(wanted, body.resource_provider_generation + 1)


def _check(req: Request, ident: str, inventory: Inventory) -> None:
    domain.check(ident, inventory, full_reserve=req.version >= (1, 26))


async def create(c: PlacementService, ctx: Context, req: Request, uuid: str, body: CreateInventory) -> Reply:
    ident, now, wanted = provider_id(uuid), c.runtime.now_us(), body.named(body.resource_class)
    _check(req, ident, wanted)
    generation = await c.db.transact(lambda tx: domain.add(tx, ident, wanted, now))
    views.dated(req, now)
    location = f"{req.base_url}{req.prefix}/resource_providers/{ident}/inventories/{body.resource_class}"
    return Reply({**views.inventory(wanted), "resource_provider_generation": generation}, 201, {"location": location})


async def clear(c: PlacementService, ctx: Context, req: Request, uuid: str) -> None:
    ident, now = provider_id(uuid), c.runtime.now_us()

    async def write(tx: Transaction) -> None:
        provider = await get(tx, ident)
        await domain.bump(tx, ident, provider.generation, now)
        await domain.drop(tx, await inventories.of(tx, ident))

    await c.db.transact(write)


async def clear_too_early(c: PlacementService, ctx: Context, req: Request, uuid: str) -> None:
    """Before 1.5 the set of inventories could not be deleted, and the method does not exist."""
    raise WrongMethod(method="DELETE", allowed=["GET", "POST", "PUT"])


async def show(c: PlacementService, ctx: Context, req: Request, uuid: str, resource_class: str) -> Any:
    provider = await get(c.db, uuid)
    found = await inventories.one(c.db, provider.id, resource_class)
    if found is None:
        raise InventoryNotFound(resource_class=resource_class[:80], provider=provider.id)
    views.dated(req, found.updated_at)
    return {**views.inventory(found), "resource_provider_generation": provider.generation}


async def update(c: PlacementService, ctx: Context, req: Request, uuid: str, resource_class: str, body: InventoryIn) -> Any:
    ident, now, wanted, generation = provider_id(uuid), c.runtime.now_us(), body.named(resource_class), body.resource_provider_generation
    if not isinstance(generation, int):
        raise InvalidBody("'resource_provider_generation' is a required property")
    _check(req, ident, wanted)
    await c.db.transact(lambda tx: domain.change(tx, ident, wanted, generation, now))
    views.dated(req, now)
    return {**views.inventory(wanted), "resource_provider_generation": generation + 1}


async def delete(c: PlacementService, ctx: Context, req: Request, uuid: str, resource_class: str) -> None:
    ident, now = provider_id(uuid), c.runtime.now_us()

    async def write(tx: Transaction) -> None:
        provider = await get(tx, ident)
        await domain.remove(tx, ident, resource_class, provider.generation, now)

    await c.db.transact(write)


async def usages(c: PlacementService, ctx: Context, req: Request, uuid: str) -> Any:
    """/resource_providers/{uuid}/usages: every class of the provider, with what is used of it."""
    provider = await get(c.db, uuid)
    found = await inventories.of(c.db, provider.id)
    views.dated(req, c.runtime.now_us())
    return {"resource_provider_generation": provider.generation, "usages": {i.resource_class: i.used for i in found}}
