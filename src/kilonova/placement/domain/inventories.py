"""What a provider has. Writers of inventories raise the provider's generation first, which also keeps other writers out."""

from collections.abc import Sequence

from kilonova.core.db import Duplicate, Transaction
from kilonova.placement.contract import Inventory
from kilonova.placement.errors import (
    BadInventory,
    GenerationConflict,
    InventoryExists,
    InventoryInUse,
    NothingToDelete,
    NothingToUpdate,
    OneInventoryInUse,
    ProviderNotFound,
    UnknownClassInInventory,
)
from kilonova.placement.model import Stock
from kilonova.placement.store import inventories, names, providers


def check(provider_id: str, inventory: Inventory, *, full_reserve: bool = True) -> None:
    """full_reserve: everything may be reserved (since 1.26). Raises BadInventory."""
    over = inventory.reserved - inventory.total
    if over > 0 or (over == 0 and not full_reserve):
        relation = "greater than" if full_reserve else "greater than or equal to"
        raise BadInventory(provider=provider_id, resource_class=inventory.resource_class, relation=relation)


async def bump(tx: Transaction, provider_id: str, generation: int, now: int) -> None:
    """Raises GenerationConflict, ProviderNotFound."""
    if not await providers.bump_if(tx, provider_id, generation, now):
        if await providers.get(tx, provider_id) is None:
            raise ProviderNotFound(provider=provider_id)
        raise GenerationConflict


async def put(tx: Transaction, provider_id: str, wanted: Sequence[Inventory], now: int) -> list[Stock]:
    """Insert and change; what is no longer wanted is returned and stays, for `drop`. Raises UnknownClassInInventory."""
    have = {stock.resource_class: stock for stock in await inventories.of(tx, provider_id)}
    for inventory in wanted:
        old = have.pop(inventory.resource_class, None)
        if old is None:
            await _insert(tx, provider_id, inventory, now)
        else:
            await inventories.update(tx, provider_id, inventory, now)
    return list(have.values())


async def _insert(tx: Transaction, provider_id: str, inventory: Inventory, now: int) -> None:
    if not await names.classes.use(tx, inventory.resource_class, 1):
        raise UnknownClassInInventory(provider=provider_id, name=inventory.resource_class)
    await inventories.insert(tx, provider_id, inventory, now)


async def drop(tx: Transaction, stocks: Sequence[Stock], prefix: str = "") -> None:
    """Raises InventoryInUse."""
    for stock in stocks:
        if not await inventories.delete_unused(tx, stock.provider_id, stock.resource_class):
            raise InventoryInUse(prefix=prefix, resource_class=stock.resource_class, provider=stock.provider_id)
        await names.classes.use(tx, stock.resource_class, -1)


async def add(tx: Transaction, provider_id: str, inventory: Inventory, now: int) -> int:
    """One class more; the new generation. Raises ProviderNotFound, InventoryExists, UnknownClassInInventory."""
    provider = await providers.get(tx, provider_id)
    if provider is None:
        raise ProviderNotFound(provider=provider_id)
    if await inventories.one(tx, provider_id, inventory.resource_class) is not None:
        raise InventoryExists(provider=provider_id, resource_class=inventory.resource_class)
    await bump(tx, provider_id, provider.generation, now)
    try:
        await _insert(tx, provider_id, inventory, now)
    except Duplicate:
        raise InventoryExists(provider=provider_id, resource_class=inventory.resource_class) from None
    return provider.generation + 1


async def change(tx: Transaction, provider_id: str, inventory: Inventory, generation: int, now: int) -> None:
    """Raises ProviderNotFound, GenerationConflict, NothingToUpdate."""
    await bump(tx, provider_id, generation, now)
    if not await inventories.update(tx, provider_id, inventory, now):
        raise NothingToUpdate(provider=provider_id, resource_class=inventory.resource_class)


async def remove(tx: Transaction, provider_id: str, resource_class: str, generation: int, now: int) -> None:
    """Raises GenerationConflict, OneInventoryInUse, NothingToDelete."""
    await bump(tx, provider_id, generation, now)
    if not await inventories.delete_unused(tx, provider_id, resource_class):
        if await inventories.one(tx, provider_id, resource_class) is None:
            raise NothingToDelete(resource_class=resource_class, provider=provider_id)
        raise OneInventoryInUse(resource_class=resource_class, provider=provider_id)
    await names.classes.use(tx, resource_class, -1)
