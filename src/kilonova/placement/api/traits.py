"""/traits and /resource_providers/{uuid}/traits"""

from collections.abc import Sequence
from typing import Any

from kilonova.core.context import Context
from kilonova.core.db import Duplicate, Transaction
from kilonova.core.http import Reply, Request
from kilonova.placement.api import query, views
from kilonova.placement.api.bodies import SetTraits
from kilonova.placement.api.providers import get, provider_id
from kilonova.placement.domain import providers as domain
from kilonova.placement.errors import BadTraitName, Invalid, StandardTrait, TraitInUse, TraitNotFound
from kilonova.placement.model import is_custom_name
from kilonova.placement.service import PlacementService
from kilonova.placement.standard_names import TRAIT_SET, TRAITS
from kilonova.placement.store import names, providers


async def list(c: PlacementService, ctx: Context, req: Request) -> Any:
    query.only(req, ("name", "associated"))
    custom = await names.traits.every(c.db)
    found: Sequence[str] = [*TRAITS, *(name for name, _, _ in custom)]
    wanted, associated = req.one("name"), req.one("associated")
    if wanted is not None:
        found = _named(found, wanted)
    if associated is not None:
        if associated.lower() not in ("true", "false"):
            raise Invalid(f'The query parameter "associated" only accepts "true" or "false". Got: {associated[:40]}')
        used = {name for p in await providers.every(c.db) for name in p.traits}
        found = [name for name in found if (name in used) == (associated.lower() == "true")]
    views.dated(req, max((created for _, created, _ in custom), default=c.runtime.now_us()))
    return {"traits": found}


def _named(found: Sequence[str], wanted: str) -> Sequence[str]:
    operator, colon, value = wanted.partition(":")
    if colon and operator == "in":
        some = value.split(",")
        return [name for name in found if name in some]
    if colon and operator == "startswith":
        return [name for name in found if name.startswith(value)]
    form = "?name=[in|startswith]:[name1,name2|prefix]"
    raise Invalid(f'Badly formatted name parameter. Expected name query string parameter in form: {form}. Got: "{wanted[:200]}"')


async def show(c: PlacementService, ctx: Context, req: Request, name: str) -> None:
    created = await names.traits.created_at(c.db, name)
    if created is None and name not in TRAIT_SET:
        raise TraitNotFound(name=name[:255])
    views.dated(req, created or c.runtime.now_us())


async def put(c: PlacementService, ctx: Context, req: Request, name: str) -> Reply:
    if not is_custom_name(name):
        raise BadTraitName
    now = c.runtime.now_us()
    created = await names.traits.created_at(c.db, name)
    status = 204
    if created is None:
        try:
            await c.db.transact(lambda tx: names.traits.insert(tx, name, now))
            status = 201
        except Duplicate:
            pass
    views.dated(req, created or now)
    return Reply(None, status, {"location": f"{req.base_url}{req.prefix}/traits/{name}"})


async def delete(c: PlacementService, ctx: Context, req: Request, name: str) -> None:
    if name in TRAIT_SET:
        raise StandardTrait(name=name)

    async def write(tx: Transaction) -> None:
        if not await names.traits.delete(tx, name):
            if await names.traits.created_at(tx, name) is None:
                raise TraitNotFound(name=name[:255])
            raise TraitInUse(name=name)

    await c.db.transact(write)


async def list_of_provider(c: PlacementService, ctx: Context, req: Request, uuid: str) -> Any:
    provider = await get(c.db, uuid)
    views.dated(req, provider.updated_at)
    return {"traits": provider.traits, "resource_provider_generation": provider.generation}


async def set_of_provider(c: PlacementService, ctx: Context, req: Request, uuid: str, body: SetTraits) -> Any:
    ident, now, generation = provider_id(uuid), c.runtime.now_us(), body.resource_provider_generation
    after = await c.db.transact(lambda tx: domain.set_traits(tx, ident, generation, body.traits, now))
    views.dated(req, now)
    return {"traits": after, "resource_provider_generation": generation + 1}


async def clear_of_provider(c: PlacementService, ctx: Context, req: Request, uuid: str) -> None:
    ident, now = provider_id(uuid), c.runtime.now_us()

    async def write(tx: Transaction) -> None:
        provider = await get(tx, ident)
        await domain.set_traits(tx, ident, provider.generation, (), now)

    await c.db.transact(write)
