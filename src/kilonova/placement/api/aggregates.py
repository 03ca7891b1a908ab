"""/resource_providers/{uuid}/aggregates"""

from collections.abc import Sequence
from typing import Any

from kilonova.core.context import Context
from kilonova.core.http import Request
from kilonova.placement.api import views
from kilonova.placement.api.bodies import SetAggregates1_19
from kilonova.placement.api.providers import get, provider_id
from kilonova.placement.domain import providers as domain
from kilonova.placement.errors import InvalidBody
from kilonova.placement.model import Provider, canonical_uuid
from kilonova.placement.service import PlacementService


def _view(req: Request, provider: Provider) -> dict[str, Any]:
    document: dict[str, Any] = {"aggregates": provider.aggregates}
    if req.version >= (1, 19):
        document["resource_provider_generation"] = provider.generation
    return document


async def list(c: PlacementService, ctx: Context, req: Request, uuid: str) -> Any:
    provider = await get(c.db, uuid)
    views.dated(req, provider.updated_at)
    return _view(req, provider)


async def replace(c: PlacementService, ctx: Context, req: Request, uuid: str, body: SetAggregates1_19 | Sequence[str]) -> Any:
    """Before 1.19 the body is a bare list, and the generation is neither looked at nor raised."""
    given, generation = (body.aggregates, body.resource_provider_generation) if isinstance(body, SetAggregates1_19) else (body, None)
    ids = []
    for text in given:
        found = canonical_uuid(text)
        if found is None:
            raise InvalidBody(f"'{text[:80]}' is not a 'uuid'")
        ids.append(found)
    if len(set(ids)) != len(ids):
        raise InvalidBody("aggregates has non-unique elements")
    ident, now = provider_id(uuid), c.runtime.now_us()
    provider = await c.db.transact(lambda tx: domain.set_aggregates(tx, ident, generation, ids, now))
    views.dated(req, now)
    return _view(req, provider)
