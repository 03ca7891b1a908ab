"""/allocations and /resource_providers/{uuid}/allocations"""

from collections.abc import Mapping
from typing import Any

import msgspec

from kilonova.core.context import Context
from kilonova.core.http import Request
from kilonova.placement.api import views
from kilonova.placement.api.bodies import KeyedAllocation, SetAllocations, SetAllocations1_12
from kilonova.placement.api.providers import get
from kilonova.placement.domain import allocations as domain
from kilonova.placement.domain.allocations import Wanted
from kilonova.placement.errors import Invalid, InvalidBody
from kilonova.placement.model import canonical_uuid
from kilonova.placement.service import PlacementService
from kilonova.placement.store import allocations, providers


def wanted(consumer_id: str, body: Any) -> Wanted:
    """A body of whatever version. What the version does not have stays UNSET."""
    return Wanted(
        consumer_id=_uuid(consumer_id),
        allocations=_listed(body) if isinstance(body, SetAllocations) else _keyed(body.allocations),
        project_id=getattr(body, "project_id", msgspec.UNSET),
        user_id=getattr(body, "user_id", msgspec.UNSET),
        generation=getattr(body, "consumer_generation", msgspec.UNSET),
        consumer_type=getattr(body, "consumer_type", msgspec.UNSET),
    )


def _uuid(text: str) -> str:
    found = canonical_uuid(text)
    if found is None:
        raise Invalid(f"Malformed consumer_uuid: {text[:80]}")
    return found


def _provider(text: str) -> str:
    found = canonical_uuid(text)
    if found is None:
        raise InvalidBody(f"'{text[:80]}' is not a 'uuid'")
    return found


def _listed(body: SetAllocations) -> dict[str, dict[str, int]]:
    out: dict[str, dict[str, int]] = {}
    for one in body.allocations:
        out.setdefault(_provider(one.resource_provider.uuid), {}).update(one.resources)
    return out


def _keyed(given: Mapping[str, KeyedAllocation]) -> dict[str, dict[str, int]]:
    return {_provider(provider_id): one.resources for provider_id, one in given.items()}


async def show(c: PlacementService, ctx: Context, req: Request, consumer_uuid: str) -> Any:
    """Always 200: a consumer that nobody knows holds nothing."""
    ident = canonical_uuid(consumer_uuid) or ""
    held = await allocations.held(c.db, ident)
    views.dated(req, max((h.updated_at for h in held), default=c.runtime.now_us()))
    found: dict[str, dict[str, Any]] = {}
    for p in await providers.some(c.db, list(dict.fromkeys(h.provider_id for h in held))):
        found[p.id] = {"generation": p.generation, "resources": {}}
    for h in held:
        found[h.provider_id]["resources"][h.resource_class] = h.amount
    document: dict[str, Any] = {"allocations": found}
    consumer = await allocations.consumer(c.db, ident) if held else None
    if consumer is not None and req.version >= (1, 12):
        document["project_id"], document["user_id"] = consumer.project_id, consumer.user_id
        if req.version >= (1, 28):
            document["consumer_generation"] = consumer.generation
        if req.version >= (1, 38):
            document["consumer_type"] = consumer.consumer_type or "unknown"
    return document


async def replace(c: PlacementService, ctx: Context, req: Request, consumer_uuid: str, body: SetAllocations | SetAllocations1_12) -> None:
    one, now = wanted(consumer_uuid, body), c.runtime.now_us()
    await c.db.transact(lambda tx: domain.replace(tx, [one], now))


async def replace_many(c: PlacementService, ctx: Context, req: Request, body: Mapping[str, Any]) -> None:
    every, now = [wanted(consumer_uuid, one) for consumer_uuid, one in body.items()], c.runtime.now_us()
    await c.db.transact(lambda tx: domain.replace(tx, every, now))


async def delete(c: PlacementService, ctx: Context, req: Request, consumer_uuid: str) -> None:
    ident = canonical_uuid(consumer_uuid) or consumer_uuid[:80]
    await c.db.transact(lambda tx: domain.delete(tx, ident))


async def list_of_provider(c: PlacementService, ctx: Context, req: Request, uuid: str) -> Any:
    provider = await get(c.db, uuid)
    rows = await allocations.of_provider(c.db, provider.id)
    views.dated(req, max((row[4] for row in rows), default=c.runtime.now_us()))
    found: dict[str, dict[str, Any]] = {}
    for consumer_id, generation, name, amount, _ in rows:
        one = found.get(consumer_id)
        if one is None:
            one = found[consumer_id] = {"resources": {}}
            if req.version >= (1, 28):
                one["consumer_generation"] = generation
        one["resources"][name] = amount
    return {"allocations": found, "resource_provider_generation": provider.generation}
