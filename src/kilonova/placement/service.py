"""The placement service: its collaborators, and the contract that compute uses."""

from collections.abc import Mapping, Sequence

from kilonova.core.config import Settings
from kilonova.core.context import Context
from kilonova.core.db import Database, Duplicate, Transaction
from kilonova.core.errors import PolicyForbids
from kilonova.core.log import Log
from kilonova.core.runtime import Runtime
from kilonova.placement.contract import Allocation, Inventory, InventoryUsage, ProviderUsage
from kilonova.placement.domain import allocations as claims
from kilonova.placement.domain import providers as hosts
from kilonova.placement.errors import AlreadyClaimed, ConsumerConflict, GenerationConflict
from kilonova.placement.store import allocations, inventories, providers
from kilonova.placement.store.tables import metadata

TRIES = 5
GONE_US = 3_600_000_000


class PlacementService:
    name = "placement"
    metadata = metadata

    def __init__(self, *, db: Database, runtime: Runtime, log: Log, settings: Mapping[str, Settings]) -> None:
        self.db = db
        self.runtime = runtime
        self.log = log
        self.settings = settings

    async def start(self) -> None:
        """Nothing runs in the background."""

    async def stop(self) -> None:
        """Nothing runs in the background."""

    # ---- the contract

    async def put_provider(
        self, ctx: Context, provider_id: str, name: str, inventories: Sequence[Inventory], traits: Sequence[str]
    ) -> None:
        _allow(ctx, "placement:resource_providers:update")
        now = self.runtime.now_us()
        for left in reversed(range(TRIES)):
            try:
                await self.db.transact(lambda tx: hosts.put(tx, provider_id, name, inventories, traits, now))
                return
            except GenerationConflict:
                # A claim came between (never in SQLite, which runs one transaction at a time).
                if not left:
                    raise
            except Duplicate as error:
                raise hosts.duplicate(error, provider_id, name) from None

    async def remove_provider(self, ctx: Context, provider_id: str) -> None:
        _allow(ctx, "placement:resource_providers:delete")

        async def body(tx: Transaction) -> None:
            if await providers.get(tx, provider_id) is not None:
                await hosts.delete(tx, provider_id)

        await self.db.transact(body)

    async def claim(
        self,
        ctx: Context,
        consumer_id: str,
        provider_id: str,
        resources: Mapping[str, int],
        project_id: str,
        user_id: str,
        *,
        generation: int = 1,
    ) -> None:
        _allow(ctx, "placement:allocations:update")
        now = self.runtime.now_us()
        together = True

        async def body(tx: Transaction) -> None:
            await claims.claim(tx, consumer_id, provider_id, resources, project_id, user_id, now, generation=generation, together=together)

        for _ in range(TRIES):
            try:
                return await self.db.transact(body)
            except claims.NotAllFit:
                together = False
            except Duplicate:
                # In a transaction too, since what the consumer holds may not be committed yet.
                if await self.db.transact(lambda tx: claims.same(tx, consumer_id, provider_id, resources, generation)):
                    return None
        raise ConsumerConflict(expected="a free consumer", got=consumer_id)

    async def release(self, ctx: Context, consumer_id: str, *, up_to: int | None = None, for_good: bool = False) -> None:
        _allow(ctx, "placement:allocations:delete")
        now = self.runtime.now_us()

        async def body(tx: Transaction) -> None:
            if for_good:
                await allocations.mark_gone(tx, consumer_id, now, now - GONE_US)
            await claims.release(tx, consumer_id, up_to)

        for _ in range(TRIES):
            try:
                return await self.db.transact(body)
            except Duplicate:  # somebody else has just marked it
                continue
        raise ConsumerConflict(expected="a free consumer", got=consumer_id)

    async def transfer(self, ctx: Context, consumer_id: str, to_consumer_id: str) -> None:
        _allow(ctx, "placement:allocations:manage")
        try:
            await self.db.transact(lambda tx: claims.transfer(tx, consumer_id, to_consumer_id))
        except Duplicate:
            held = await self.allocation(ctx, to_consumer_id)
            raise AlreadyClaimed(consumer=to_consumer_id, provider=held.provider_id if held else "") from None

    async def allocation(self, ctx: Context, consumer_id: str) -> Allocation | None:
        _allow(ctx, "placement:allocations:list")
        resources: dict[str, int] = {}
        provider_id = ""
        for held in await allocations.held(self.db, consumer_id):
            provider_id = provider_id or held.provider_id
            if held.provider_id == provider_id:
                resources[held.resource_class] = held.amount
        return Allocation(consumer_id=consumer_id, provider_id=provider_id, resources=resources) if resources else None

    async def allocations(self, ctx: Context) -> tuple[Allocation, ...]:
        _allow(ctx, "placement:allocations:list")
        found: dict[tuple[str, str], dict[str, int]] = {}
        for held in await allocations.every(self.db):
            found.setdefault((held.consumer_id, held.provider_id), {})[held.resource_class] = held.amount
        return tuple(Allocation(consumer_id=c, provider_id=p, resources=resources) for (c, p), resources in found.items())

    async def usages(self, ctx: Context) -> tuple[ProviderUsage, ...]:
        _allow(ctx, "placement:resource_providers:list")
        stocks: dict[str, list[InventoryUsage]] = {}
        for s in await inventories.every(self.db):
            stocks.setdefault(s.provider_id, []).append(
                InventoryUsage(
                    resource_class=s.resource_class,
                    total=s.total,
                    reserved=s.reserved,
                    min_unit=s.min_unit,
                    max_unit=s.max_unit,
                    step_size=s.step_size,
                    allocation_ratio=s.allocation_ratio,
                    capacity=s.capacity,
                    used=s.used,
                )
            )
        return tuple(
            ProviderUsage(
                provider_id=p.id,
                name=p.name,
                inventories=tuple(stocks.get(p.id, ())),
                generation=p.generation,
                traits=p.traits,
                aggregates=p.aggregates,
                parent_id=p.parent_id,
            )
            for p in await providers.every(self.db)
        )


def _allow(ctx: Context, rule: str) -> None:
    """What the REST API's rules ask: admin or service, of the caller or of the service that acts on his behalf."""
    if not ("admin" in ctx.roles or "service" in ctx.roles or "service" in ctx.service_roles):
        raise PolicyForbids(rule=rule)
