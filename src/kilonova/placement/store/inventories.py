"""Inventories. `used` changes by conditional increments only."""

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import sqlalchemy as sa

from kilonova.core.db import Reader, Transaction
from kilonova.core.db.statements import inserted, prepared
from kilonova.placement.contract import Inventory
from kilonova.placement.model import Stock, capacity
from kilonova.placement.store.tables import inventories

i = inventories.c
_PROVIDER, _CLASS = sa.bindparam("provider", type_=sa.String()), sa.bindparam("class_", type_=sa.String())
_N = sa.bindparam("n", type_=sa.BigInteger())
_ZERO = sa.bindparam("zero", type_=sa.BigInteger())
_HERE = (i.provider_id == _PROVIDER, i.resource_class == _CLASS)
_INSERT = inserted(inventories)
_OF = prepared(sa.select(inventories).where(i.provider_id == _PROVIDER).order_by(i.resource_class))
_OF_SOME = prepared(
    sa.select(inventories).where(i.provider_id.in_(sa.bindparam("ids", expanding=True))).order_by(i.provider_id, i.resource_class)
)
_ALL = prepared(sa.select(inventories).order_by(i.provider_id, i.resource_class))
_ONE = prepared(sa.select(inventories).where(*_HERE))
_SETTINGS = ("total", "reserved", "min_unit", "max_unit", "step_size", "allocation_ratio", "capacity", "updated_at")
_UPDATE = prepared(sa.update(inventories).where(*_HERE).values({name: sa.bindparam(name) for name in _SETTINGS}))
_DELETE_UNUSED = prepared(sa.delete(inventories).where(*_HERE, i.used == _ZERO))
_TAKE = prepared(
    sa.update(inventories)
    .where(*_HERE, i.used + _N <= i.capacity, i.min_unit <= _N, i.max_unit >= _N, _N % i.step_size == _ZERO)
    .values(used=i.used + _N)
)
_AMOUNT = sa.case(
    (i.resource_class == sa.bindparam("class_1", type_=sa.String()), sa.bindparam("n_1", type_=sa.BigInteger())),
    (i.resource_class == sa.bindparam("class_2", type_=sa.String()), sa.bindparam("n_2", type_=sa.BigInteger())),
    else_=sa.bindparam("n_3", type_=sa.BigInteger()),
)
_TAKE_THREE = prepared(
    sa.update(inventories)
    .where(
        i.provider_id == _PROVIDER,
        i.resource_class.in_([sa.bindparam(f"class_{k}", type_=sa.String()) for k in (1, 2, 3)]),
        i.used + _AMOUNT <= i.capacity,
        i.min_unit <= _AMOUNT,
        i.max_unit >= _AMOUNT,
        _AMOUNT % i.step_size == _ZERO,
    )
    .values(used=i.used + _AMOUNT)
)
_GROW = prepared(sa.update(inventories).where(*_HERE, i.used + _N <= i.capacity).values(used=i.used + _N))
_GIVE_BACK = prepared(sa.update(inventories).where(*_HERE).values(used=i.used - _N))


def settings(inventory: Inventory, now: int) -> dict[str, Any]:
    values = msgspec.structs.asdict(inventory)
    return {**values, "capacity": capacity(inventory), "updated_at": now}


async def insert(tx: Transaction, provider_id: str, inventory: Inventory, now: int) -> None:
    """Raises Duplicate."""
    await tx.run(_INSERT, {"provider_id": provider_id, "used": 0, **settings(inventory, now)})


async def update(tx: Transaction, provider_id: str, inventory: Inventory, now: int) -> bool:
    values = settings(inventory, now)
    return await tx.run(_UPDATE, {"provider": provider_id, "class_": values.pop("resource_class"), **values}) > 0


async def delete_unused(tx: Transaction, provider_id: str, resource_class: str) -> bool:
    """False when it is in use or not there."""
    return await tx.run(_DELETE_UNUSED, {"provider": provider_id, "class_": resource_class, "zero": 0}) > 0


async def of(reader: Reader, provider_id: str) -> list[Stock]:
    return [Stock(*row) for row in await reader.all(_OF, {"provider": provider_id})]


async def of_some(reader: Reader, provider_ids: Sequence[str]) -> list[Stock]:
    return [Stock(*row) for row in await reader.all(_OF_SOME, {"ids": list(provider_ids)})] if provider_ids else []


async def every(reader: Reader) -> list[Stock]:
    return [Stock(*row) for row in await reader.all(_ALL)]


async def one(reader: Reader, provider_id: str, resource_class: str) -> Stock | None:
    row = await reader.one(_ONE, {"provider": provider_id, "class_": resource_class})
    return Stock(*row) if row else None


async def take(tx: Transaction, provider_id: str, resource_class: str, amount: int) -> bool:
    """The whole check of a claim, and the claim."""
    return await tx.run(_TAKE, {"provider": provider_id, "class_": resource_class, "n": amount, "zero": 0}) > 0


async def take_three(tx: Transaction, provider_id: str, resources: Mapping[str, int], otherwise: Exception) -> None:
    """`take` of three classes in one statement. Raises `otherwise`, perhaps only at the commit, when one of them does not fit."""
    values: dict[str, Any] = {"provider": provider_id, "zero": 0}
    for k, (name, amount) in enumerate(resources.items(), 1):
        values[f"class_{k}"], values[f"n_{k}"] = name, amount
    await tx.later(_TAKE_THREE, values, rows=3, otherwise=otherwise)


async def grow(tx: Transaction, provider_id: str, resource_class: str, amount: int) -> bool:
    """More is used; only the capacity is checked."""
    return await tx.run(_GROW, {"provider": provider_id, "class_": resource_class, "n": amount}) > 0


async def give_back(tx: Transaction, provider_id: str, resource_class: str, amount: int) -> None:
    await tx.run(_GIVE_BACK, {"provider": provider_id, "class_": resource_class, "n": amount})
