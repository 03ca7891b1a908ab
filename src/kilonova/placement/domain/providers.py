"""Providers and their trees."""

from collections.abc import Iterable, Sequence

import msgspec

from kilonova.core.db import Duplicate, Transaction
from kilonova.placement.contract import Inventory
from kilonova.placement.domain import inventories as stocks
from kilonova.placement.errors import (
    CannotCreateProvider,
    CannotDeleteParent,
    CannotSaveProvider,
    DuplicateName,
    GenerationChanged,
    ProviderInUse,
    ProviderNotFound,
    UnknownTrait,
)
from kilonova.placement.model import Provider, Stock, capacity, is_custom_name
from kilonova.placement.store import inventories, names, providers

NO_PARENT = "parent provider UUID does not exist."
OWN_PARENT = "parent provider UUID cannot be same as UUID. Please set parent provider UUID to None if there is no parent."


async def get(tx: Transaction, provider_id: str) -> Provider:
    return await providers.get(tx, provider_id) or _missing(provider_id)


def _missing(provider_id: str) -> Provider:
    raise ProviderNotFound(provider=provider_id)


def new(provider_id: str, name: str, now: int) -> Provider:
    """A root without anything."""
    return Provider(provider_id, name, 0, None, provider_id, (), (), 0, now, now)


async def create(tx: Transaction, provider_id: str, name: str, parent_id: str | None, now: int) -> Provider:
    """Raises CannotCreateProvider; Duplicate (see `duplicate`)."""
    provider = new(provider_id, name, now)
    if parent_id is not None:
        if parent_id == provider_id:
            raise CannotCreateProvider(name=name, provider=provider_id, reason=OWN_PARENT)
        if not await providers.count_children(tx, parent_id, 1):
            raise CannotCreateProvider(name=name, provider=provider_id, reason=NO_PARENT)
        root_id = (await get(tx, parent_id)).root_id
        provider = msgspec.structs.replace(provider, parent_id=parent_id, root_id=root_id)
    await providers.insert(tx, provider)
    return provider


def duplicate(error: Duplicate, provider_id: str, name: str) -> DuplicateName:
    """What a refused row means. The primary key is told as ….id (SQLite), a constraint's name elsewhere."""
    by_id = error.what.endswith((".id", "PRIMARY", "pkey"))
    return DuplicateName(field="uuid" if by_id else "name", value=provider_id if by_id else name)


async def rename(tx: Transaction, provider_id: str, name: str, now: int) -> None:
    """Raises Duplicate."""
    await providers.rename(tx, provider_id, name, now)


async def move(tx: Transaction, provider_id: str, parent_id: str | None, now: int, *, free: bool) -> None:
    """Hang a provider, with all below it, under another one or (None) make it a root. Without `free` (before 1.37) only a root may be
    moved. Both roots are written before the trees are read, so that two moves cannot make a loop between them."""
    provider = await get(tx, provider_id)
    if parent_id == provider.parent_id:
        return

    def refuse(reason: str) -> CannotSaveProvider:
        return CannotSaveProvider(provider=provider_id, reason=reason)

    if provider.parent_id is not None and not free:
        raise refuse(f"{'un' if parent_id is None else 're'}-parenting a provider is not currently allowed.")
    if parent_id == provider_id:
        raise refuse(OWN_PARENT)
    parent = await providers.get(tx, parent_id) if parent_id is not None else None
    if parent_id is not None and parent is None:
        raise refuse(NO_PARENT)
    for root_id in sorted({provider.root_id, parent.root_id if parent else provider.root_id}):
        await providers.touch(tx, root_id, now)
    provider = await get(tx, provider_id)
    below = _subtree(provider_id, await providers.tree(tx, provider.root_id))
    if parent_id is not None and parent_id in {p.id for p in below}:
        raise refuse("creating loop in the provider tree is not allowed.")
    if provider.parent_id is not None:
        await providers.count_children(tx, provider.parent_id, -1)
    root_id = provider_id
    if parent_id is not None:
        if not await providers.count_children(tx, parent_id, 1):
            raise refuse(NO_PARENT)
        root_id = (await get(tx, parent_id)).root_id
    for p in below:
        await providers.place(tx, p.id, parent_id if p.id == provider_id else p.parent_id, root_id, now)


def _subtree(root_id: str, tree: Iterable[Provider]) -> list[Provider]:
    children: dict[str | None, list[Provider]] = {}
    found: list[Provider] = []
    for p in tree:
        children.setdefault(p.parent_id, []).append(p)
        if p.id == root_id:
            found.append(p)
    for p in found:
        found.extend(children.get(p.id, ()))
    return found


async def delete(tx: Transaction, provider_id: str) -> None:
    """Raises ProviderNotFound, CannotDeleteParent, ProviderInUse."""
    provider = await get(tx, provider_id)
    if provider.children:
        raise CannotDeleteParent(provider=provider_id)
    for stock in await inventories.of(tx, provider_id):
        if not await inventories.delete_unused(tx, provider_id, stock.resource_class):
            raise ProviderInUse(provider=provider_id)
        await names.classes.use(tx, stock.resource_class, -1)
    for name in provider.traits:
        await names.traits.use(tx, name, -1)
    if not await providers.delete(tx, provider_id):
        raise CannotDeleteParent(provider=provider_id)
    if provider.parent_id is not None:
        await providers.count_children(tx, provider.parent_id, -1)


async def set_traits(tx: Transaction, provider_id: str, generation: int, wanted: Iterable[str], now: int) -> tuple[str, ...]:
    """Raises ProviderNotFound, GenerationChanged, UnknownTrait."""
    provider = await get(tx, provider_id)
    if not await providers.bump_if(tx, provider_id, generation, now):
        raise GenerationChanged
    return await _replace_traits(tx, provider, wanted)


async def _replace_traits(tx: Transaction, provider: Provider, wanted: Iterable[str]) -> tuple[str, ...]:
    after = tuple(sorted(set(wanted)))
    for name in after:
        if name not in provider.traits and not await names.traits.use(tx, name, 1):
            raise UnknownTrait(name=name)
    for name in provider.traits:
        if name not in after:
            await names.traits.use(tx, name, -1)
    await providers.set_traits(tx, provider.id, after)
    return after


async def set_aggregates(tx: Transaction, provider_id: str, generation: int | None, ids: Iterable[str], now: int) -> Provider:
    """generation None: do not look at it, do not raise it (before 1.19). Raises ProviderNotFound, GenerationChanged."""
    await get(tx, provider_id)
    if generation is not None and not await providers.bump_if(tx, provider_id, generation, now):
        raise GenerationChanged
    await providers.set_aggregates(tx, provider_id, tuple(sorted(set(ids))), now)
    return await get(tx, provider_id)


# ---- what compute says of its hosts


async def put(tx: Transaction, provider_id: str, name: str, wanted: Sequence[Inventory], traits: Sequence[str], now: int) -> None:
    """contract.Placement.put_provider. Raises Duplicate."""
    provider = await providers.get(tx, provider_id)
    if provider is None:
        provider = await create(tx, provider_id, name, None, now)
    elif provider.name != name:
        await rename(tx, provider_id, name, now)
    for inventory in wanted:
        stocks.check(provider_id, inventory)
    after = sorted({*traits, *(t for t in provider.traits if is_custom_name(t))})
    gone = _vanished(await inventories.of(tx, provider_id), wanted)
    changes = _changes(await inventories.of(tx, provider_id), [*wanted, *gone])
    if not changes and tuple(after) == provider.traits:
        return
    await stocks.bump(tx, provider_id, provider.generation, now)
    await _make(tx, names.classes, [inventory.resource_class for inventory in wanted], now)
    await _make(tx, names.traits, after, now)
    if changes:
        await stocks.drop(tx, await stocks.put(tx, provider_id, [*wanted, *gone], now))
    if tuple(after) != provider.traits:
        await _replace_traits(tx, provider, after)


async def _make(tx: Transaction, table: names.Names, wanted: Iterable[str], now: int) -> None:
    for name in await table.unknown(tx, wanted):
        if is_custom_name(name):
            await table.insert(tx, name, now)


def _vanished(have: Sequence[Stock], wanted: Sequence[Inventory]) -> list[Inventory]:
    """What is used but no longer offered: it stays, with everything reserved."""
    given = {inventory.resource_class for inventory in wanted}
    return [
        Inventory(resource_class=stock.resource_class, total=stock.total, reserved=stock.total)
        for stock in have
        if stock.used and stock.resource_class not in given
    ]


def _changes(have: Sequence[Stock], wanted: Sequence[Inventory]) -> bool:
    old = {(s.resource_class, s.total, s.reserved, s.min_unit, s.max_unit, s.step_size, s.allocation_ratio, s.capacity) for s in have}
    new = {(i.resource_class, i.total, i.reserved, i.min_unit, i.max_unit, i.step_size, i.allocation_ratio, capacity(i)) for i in wanted}
    return old != new
