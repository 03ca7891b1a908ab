"""/resource_providers"""

from collections.abc import Iterable, Sequence
from typing import Any

from kilonova.core.context import Context
from kilonova.core.db import Duplicate, Reader, Transaction
from kilonova.core.http import Reply, Request
from kilonova.placement.api import query, views
from kilonova.placement.api.bodies import CreateProvider, CreateProvider1_14, UpdateProvider, UpdateProvider1_14
from kilonova.placement.domain import providers as domain
from kilonova.placement.domain.candidates import Snapshot
from kilonova.placement.errors import InvalidBody, ProviderNotFound, UnknownClassInQuery, UnknownTraits
from kilonova.placement.model import Provider, canonical_uuid
from kilonova.placement.service import PlacementService
from kilonova.placement.store import inventories, names, providers

_FILTERS = (("name", (1, 0)), ("uuid", (1, 0)), ("member_of", (1, 3)), ("resources", (1, 4)), ("in_tree", (1, 14)), ("required", (1, 18)))


def provider_id(uuid: str) -> str:
    """The id in a path. Raises ProviderNotFound when it is no UUID."""
    found = canonical_uuid(uuid)
    if found is None:
        raise ProviderNotFound(provider=uuid[:80])
    return found


async def get(reader: Reader, uuid: str) -> Provider:
    """Raises ProviderNotFound."""
    found = await providers.get(reader, provider_id(uuid))
    if found is None:
        raise ProviderNotFound(provider=uuid[:80])
    return found


async def list(c: PlacementService, ctx: Context, req: Request) -> Any:
    query.only(req, [name for name, since in _FILTERS if req.version >= since])
    found: Sequence[Provider] = await providers.every(c.db)
    if req.query:
        found = await _filtered(c, req, found)
    views.dated(req, max((p.updated_at for p in found), default=c.runtime.now_us()))
    return {"resource_providers": views.providers(req, found)}


async def _filtered(c: PlacementService, req: Request, found: Sequence[Provider]) -> Sequence[Provider]:
    wanted = dict(req.query)
    everything = {p.id: p for p in found}
    if "name" in wanted:
        found = [p for p in found if p.name == wanted["name"]]
    if "uuid" in wanted:
        ident = query.uuid("uuid", wanted["uuid"])
        found = [p for p in found if p.id == ident]
    if "in_tree" in wanted:
        inside = everything.get(query.uuid("in_tree", wanted["in_tree"]))
        found = [p for p in found if inside is not None and p.root_id == inside.root_id]
    if "member_of" in wanted:
        members = query.members("member_of", req.every("member_of"), req.version)
        found = [p for p in found if members.matches(frozenset(p.aggregates))]
    if "required" in wanted:
        traits = query.traits("required", req.every("required"), req.version)
        await check_traits(c, [name for some in traits.needed for name in sorted(some)] + sorted(traits.forbidden))
        found = [p for p in found if traits.matches(frozenset(p.traits))]
    if "resources" in wanted:
        amounts = query.resources(wanted["resources"])
        await check_classes(c, amounts)
        snapshot = Snapshot(found, await inventories.every(c.db))
        found = [p for p in found if all(snapshot.fits(p.id, name, amount) for name, amount in amounts.items())]
    return found


async def check_traits(c: PlacementService, wanted: Iterable[str]) -> None:
    """Raises UnknownTraits."""
    unknown = await names.traits.unknown(c.db, dict.fromkeys(wanted))
    if unknown:
        raise UnknownTraits(name=", ".join(unknown))


async def check_classes(c: PlacementService, wanted: Iterable[str]) -> None:
    """Raises UnknownClassInQuery."""
    for name in await names.classes.unknown(c.db, wanted):
        raise UnknownClassInQuery(name=name)


async def create(c: PlacementService, ctx: Context, req: Request, body: CreateProvider) -> Reply:
    ident = _uuid("uuid", body.uuid) if isinstance(body.uuid, str) else c.runtime.uuid()
    parent = body.parent_provider_uuid if isinstance(body, CreateProvider1_14) else None
    parent_id = _uuid("parent_provider_uuid", parent) if parent is not None else None
    now = c.runtime.now_us()
    try:
        made = await c.db.transact(lambda tx: domain.create(tx, ident, body.name, parent_id, now))
    except Duplicate as error:
        raise domain.duplicate(error, ident, body.name) from None
    location = {"location": f"{req.base_url}{req.prefix}/resource_providers/{ident}"}
    if req.version < (1, 20):
        return Reply(None, 201, location)
    views.dated(req, now)
    return Reply(views.provider(req, made), 200, location)


def _uuid(name: str, text: str) -> str:
    found = canonical_uuid(text)
    if found is None:
        raise InvalidBody(f"'{text[:80]}' is not a 'uuid' for {name}.")
    return found


async def show(c: PlacementService, ctx: Context, req: Request, uuid: str) -> Any:
    found = await get(c.db, uuid)
    views.dated(req, found.updated_at)
    return views.provider(req, found)


async def update(c: PlacementService, ctx: Context, req: Request, uuid: str, body: UpdateProvider) -> Any:
    ident, now = provider_id(uuid), c.runtime.now_us()

    async def write(tx: Transaction) -> Provider:
        await domain.get(tx, ident)
        if isinstance(body, UpdateProvider1_14) and (isinstance(body.parent_provider_uuid, str) or body.parent_provider_uuid is None):
            parent = body.parent_provider_uuid
            parent_id = _uuid("parent_provider_uuid", parent) if parent is not None else None
            await domain.move(tx, ident, parent_id, now, free=req.version >= (1, 37))
        await domain.rename(tx, ident, body.name, now)
        return await domain.get(tx, ident)

    try:
        changed = await c.db.transact(write)
    except Duplicate as error:
        raise domain.duplicate(error, ident, body.name) from None
    views.dated(req, now)
    return views.provider(req, changed)


async def delete(c: PlacementService, ctx: Context, req: Request, uuid: str) -> None:
    ident = provider_id(uuid)
    await c.db.transact(lambda tx: domain.delete(tx, ident))
