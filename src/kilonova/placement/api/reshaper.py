"""/reshaper: inventories and allocations of several providers in one step, e.g. when VGPUs move to a child provider."""

from kilonova.core.context import Context
from kilonova.core.db import Transaction
from kilonova.core.http import Request
from kilonova.placement.api.allocations import wanted
from kilonova.placement.api.bodies import Reshape, Reshape1_34, Reshape1_38
from kilonova.placement.domain import allocations, inventories
from kilonova.placement.errors import Invalid, ProviderNotFound
from kilonova.placement.model import Stock, canonical_uuid
from kilonova.placement.service import PlacementService


async def reshape(c: PlacementService, ctx: Context, req: Request, body: Reshape | Reshape1_34 | Reshape1_38) -> None:
    """New and changed inventories first, then the allocations, then what is no longer an inventory goes."""
    now = c.runtime.now_us()
    shape = [(canonical_uuid(uuid) or uuid, one) for uuid, one in body.inventories.items()]
    claims = [wanted(uuid, one) for uuid, one in body.allocations.items()]

    async def write(tx: Transaction) -> None:
        gone: list[Stock] = []
        for provider_id, one in shape:
            try:
                await inventories.bump(tx, provider_id, one.resource_provider_generation, now)
            except ProviderNotFound:
                raise Invalid(f"Resource provider {provider_id} in inventories does not exist.") from None
            for inventory in one.listed():
                inventories.check(provider_id, inventory)
            gone += await inventories.put(tx, provider_id, one.listed(), now)
        await allocations.replace(tx, claims, now)
        await inventories.drop(tx, gone, "Unable to reshape: ")

    await c.db.transact(write)
