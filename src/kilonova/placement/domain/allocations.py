"""Claims. A claim is one conditional UPDATE for each class (`used + n <= capacity`): whoever loses the race changes nothing.

Two ways in: `claim`, `release` and `transfer` for compute (one provider, few statements), and `replace` for the REST API (any number of
consumers and providers at once). Both keep the invariant that `used` of an inventory is the sum of its allocations.
"""

from collections.abc import Mapping, Sequence

import msgspec

from kilonova.core.db import Duplicate, Transaction
from kilonova.placement.errors import (
    AlreadyClaimed,
    ConsumerConflict,
    ConsumerGone,
    Invalid,
    NoAllocations,
    NoCapacity,
    NotInInventory,
    UnknownClassInAllocation,
    UnknownProvider,
    ViolatesInventory,
)
from kilonova.placement.model import UNKNOWN_OWNER, Consumer
from kilonova.placement.store import allocations, inventories, names, providers

# ---- for compute


class NotAllFit(Exception):
    """Ask again one by one to hear which."""


async def claim(
    tx: Transaction,
    consumer_id: str,
    provider_id: str,
    resources: Mapping[str, int],
    project_id: str,
    user_id: str,
    now: int,
    *,
    generation: int = 1,
    together: bool = False,
) -> None:
    """Raises NoCapacity; ConsumerGone; Duplicate when the consumer exists (then see `same`). together: a server's usual three classes by
    one statement, which raises NotAllFit without saying which one does not."""
    await allocations.refuse_gone(tx, consumer_id, ConsumerGone(consumer=consumer_id))
    wanted = {name: resources[name] for name in sorted(resources) if resources[name]}
    if together and len(wanted) == 3:
        await inventories.take_three(tx, provider_id, wanted, NotAllFit())
    else:
        for name, amount in wanted.items():
            if not await inventories.take(tx, provider_id, name, amount):
                raise await _no_capacity(tx, provider_id, name, amount)
    await allocations.insert_consumer(tx, Consumer(consumer_id, project_id, user_id, "INSTANCE", generation, now, now), later=True)
    await allocations.insert(tx, consumer_id, provider_id, wanted, now)
    await providers.bump(tx, provider_id)


async def _no_capacity(tx: Transaction, provider_id: str, resource_class: str, wanted: int) -> NoCapacity:
    stock = await inventories.one(tx, provider_id, resource_class)
    free = 0
    if stock is not None:
        most = max(0, min(stock.capacity - stock.used, stock.max_unit))
        free = most - most % stock.step_size
    return NoCapacity(provider=provider_id, resource_class=resource_class, wanted=wanted, free=free)


async def same(tx: Transaction, consumer_id: str, provider_id: str, resources: Mapping[str, int], generation: int) -> bool:
    """Whether the consumer holds just this; then it is of this generation from now on. False when it holds nothing by now. Raises
    AlreadyClaimed when it holds anything else, or of a later generation. The consumer's row is written first: who releases an earlier
    generation at this moment comes before, and it is gone, or after, and finds a later one."""
    await allocations.take_over(tx, consumer_id, generation)
    row = await allocations.consumer(tx, consumer_id)
    if row is None:
        return False
    if row.generation > generation:
        raise AlreadyClaimed(consumer=consumer_id, provider=provider_id)
    held = {(h.provider_id, h.resource_class): h.amount for h in await allocations.held(tx, consumer_id)}
    if held != {(provider_id, name): amount for name, amount in resources.items() if amount}:
        raise AlreadyClaimed(
            consumer=consumer_id, provider=next((provider for provider, _ in held if provider != provider_id), provider_id)
        )
    return True


async def release(tx: Transaction, consumer_id: str, up_to: int | None = None) -> bool:
    """False when there was nothing, or nothing up to this generation. The consumer's row goes first: of two who release, one finds it."""
    if not await allocations.delete_consumer(tx, consumer_id, up_to):
        return False
    for held in await allocations.held(tx, consumer_id):
        await inventories.give_back(tx, held.provider_id, held.resource_class, held.amount)
    await allocations.delete(tx, consumer_id)
    return True


async def transfer(tx: Transaction, consumer_id: str, to: str) -> None:
    """Raises Duplicate when the second consumer holds something."""
    await allocations.rename_consumer(tx, consumer_id, to)


# ---- for the REST API


class Wanted(msgspec.Struct, frozen=True, kw_only=True):
    """What a consumer shall hold from now on: {provider: {class: amount}}, empty for nothing. UNSET: the request's version does not say
    it; for generation that means not to check it."""

    consumer_id: str
    allocations: dict[str, dict[str, int]]
    project_id: str | msgspec.UnsetType = msgspec.UNSET
    user_id: str | msgspec.UnsetType = msgspec.UNSET
    generation: int | None | msgspec.UnsetType = msgspec.UNSET
    consumer_type: str | msgspec.UnsetType = msgspec.UNSET


async def delete(tx: Transaction, consumer_id: str) -> None:
    """Raises NoAllocations."""
    if not await release(tx, consumer_id):
        raise NoAllocations(consumer=consumer_id)


async def replace(tx: Transaction, wanted: Sequence[Wanted], now: int) -> None:
    """All of it or nothing. What moves between these consumers on one provider is counted once, by its difference; only what grows
    must fit. Raises ConsumerConflict, UnknownProvider, UnknownClassInAllocation, NotInInventory, ViolatesInventory."""
    if len({w.consumer_id for w in wanted}) != len(wanted):
        raise Invalid("A consumer is named twice in one request.")
    await _check_names(tx, wanted)
    change: dict[tuple[str, str], int] = {}
    taken = [w for w in wanted if await _take_consumer(tx, w, now)]
    for w in taken:
        for held in await allocations.held(tx, w.consumer_id):
            key = (held.provider_id, held.resource_class)
            change[key] = change.get(key, 0) - held.amount
        for provider_id, resources in w.allocations.items():
            for name, amount in resources.items():
                change[provider_id, name] = change.get((provider_id, name), 0) + amount
    await _check_units(tx, wanted)
    for (provider_id, name), amount in sorted(change.items()):
        if amount < 0:
            await inventories.give_back(tx, provider_id, name, -amount)
    for (provider_id, name), amount in sorted(change.items()):
        if amount > 0 and not await inventories.grow(tx, provider_id, name, amount):
            raise ViolatesInventory(resource_class=name, provider=provider_id, what="exceed the capacity")
    for w in taken:
        await allocations.delete(tx, w.consumer_id)
        for provider_id, resources in w.allocations.items():
            await allocations.insert(tx, w.consumer_id, provider_id, resources, now)
    for provider_id in sorted({provider_id for provider_id, _ in change}):
        await providers.bump(tx, provider_id)


async def _take_consumer(tx: Transaction, w: Wanted, now: int) -> bool:
    """Make, change or delete the consumer's row, which locks what it holds. False when there is none and none is wanted: then what a
    claim of this very moment brings is not ours to touch."""
    row = await allocations.consumer(tx, w.consumer_id)
    if w.generation is not msgspec.UNSET and w.generation != (row.generation if row else None):
        raise ConsumerConflict(expected=row.generation if row else "null", got=w.generation)
    if row is None:
        if w.allocations:
            project, user = _or(w.project_id, UNKNOWN_OWNER), _or(w.user_id, UNKNOWN_OWNER)
            kind = w.consumer_type if isinstance(w.consumer_type, str) else None
            try:
                await allocations.insert_consumer(tx, Consumer(w.consumer_id, project, user, kind, 1, now, now))
            except Duplicate:
                raise ConsumerConflict(expected="another", got=w.generation or None) from None
        return bool(w.allocations)
    changed = msgspec.structs.replace(
        row,
        project_id=_or(w.project_id, row.project_id),
        user_id=_or(w.user_id, row.user_id),
        consumer_type=w.consumer_type if isinstance(w.consumer_type, str) else row.consumer_type,
        generation=row.generation + 1,
        updated_at=now,
    )
    if not await allocations.update_consumer(tx, changed, row.generation):
        raise ConsumerConflict(expected=row.generation + 1, got=row.generation)
    if not w.allocations:
        await allocations.delete_consumer(tx, w.consumer_id)
    return True


def _or(value: str | msgspec.UnsetType, default: str) -> str:
    return value if isinstance(value, str) else default


async def _check_names(tx: Transaction, wanted: Sequence[Wanted]) -> None:
    ids = list(dict.fromkeys(provider_id for w in wanted for provider_id in w.allocations))
    known = {p.id for p in await providers.some(tx, ids)}
    for provider_id in ids:
        if provider_id not in known:
            raise UnknownProvider(provider=provider_id)
    classes = dict.fromkeys((name, w.consumer_id) for w in wanted for resources in w.allocations.values() for name in resources)
    unknown = await names.classes.unknown(tx, dict.fromkeys(name for name, _ in classes))
    for name, consumer_id in classes:
        if name in unknown:
            raise UnknownClassInAllocation(name=name, consumer=consumer_id)


async def _check_units(tx: Transaction, wanted: Sequence[Wanted]) -> None:
    ids = sorted({provider_id for w in wanted for provider_id in w.allocations})
    stocks = {(s.provider_id, s.resource_class): s for s in await inventories.of_some(tx, ids)}
    for w in wanted:
        for provider_id, resources in w.allocations.items():
            for name, amount in resources.items():
                stock = stocks.get((provider_id, name))
                if stock is None:
                    raise NotInInventory(resource_class=name, provider=provider_id)
                if not stock.allows(amount):
                    raise ViolatesInventory(resource_class=name, provider=provider_id, what="violate inventory constraints")
