"""Consumers and what they hold. A consumer's row is the lock of its allocations: whoever changes them writes it first."""

from collections.abc import Sequence
from typing import Any

import msgspec
import sqlalchemy as sa

from kilonova.core.db import Reader, Transaction
from kilonova.core.db.statements import inserted, prepared
from kilonova.placement.model import Consumer, Held
from kilonova.placement.store.tables import allocations, consumers, gone

a, k = allocations.c, consumers.c
_KEY = sa.bindparam("key", type_=sa.String())
_GONE = prepared(sa.select(gone.c.consumer_id).where(gone.c.consumer_id == _KEY))
_MARK_GONE = inserted(gone)
_FORGET_GONE = prepared(sa.delete(gone).where(gone.c.released_at < sa.bindparam("before")))
_INSERT_CONSUMER = inserted(consumers)
_CONSUMER = prepared(sa.select(consumers).where(k.id == _KEY))
_UPDATE_CONSUMER = prepared(
    sa.update(consumers)
    .where(k.id == _KEY, k.generation == sa.bindparam("was"))
    .values({name: sa.bindparam(name) for name in ("project_id", "user_id", "consumer_type", "generation", "updated_at")})
)
_DELETE_CONSUMER = prepared(sa.delete(consumers).where(k.id == _KEY))
_DELETE_OLDER = prepared(sa.delete(consumers).where(k.id == _KEY, k.generation <= sa.bindparam("up_to")))
_TAKE_OVER = prepared(
    sa.update(consumers).where(k.id == _KEY, k.generation < sa.bindparam("later")).values(generation=sa.bindparam("later"))
)
_RENAME_CONSUMER = prepared(
    sa.update(consumers).where(k.id == _KEY).values(id=sa.bindparam("to"), generation=k.generation + sa.bindparam("one"))
)
_INSERT = inserted(allocations)
_OF_CONSUMER = prepared(sa.select(allocations).where(a.consumer_id == _KEY).order_by(a.provider_id, a.resource_class))
_ALL = prepared(sa.select(allocations).order_by(a.consumer_id, a.provider_id, a.resource_class))
_OF_PROVIDER = prepared(
    sa.select(a.consumer_id, k.generation, a.resource_class, a.amount, a.updated_at)
    .join_from(allocations, consumers, k.id == a.consumer_id)
    .where(a.provider_id == _KEY)
    .order_by(a.consumer_id, a.resource_class)
)
_DELETE = prepared(sa.delete(allocations).where(a.consumer_id == _KEY))
_RENAME = prepared(sa.update(allocations).where(a.consumer_id == _KEY).values(consumer_id=sa.bindparam("to")))


async def is_gone(reader: Reader, consumer_id: str) -> bool:
    """Whether it was released for good."""
    return await reader.one(_GONE, {"key": consumer_id}) is not None


async def refuse_gone(tx: Transaction, consumer_id: str, error: Exception) -> None:
    """Raises `error`, perhaps only at the commit, if it was."""
    if tx.joins:
        await tx.later(_GONE, {"key": consumer_id}, rows=0, otherwise=error)
    elif await is_gone(tx, consumer_id):
        raise error


async def mark_gone(tx: Transaction, consumer_id: str, now: int, before: int) -> None:
    """Forgets those that are gone since before `before`."""
    await tx.run(_FORGET_GONE, {"before": before})
    if not await is_gone(tx, consumer_id):
        await tx.run(_MARK_GONE, {"consumer_id": consumer_id, "released_at": now})


async def insert_consumer(tx: Transaction, consumer: Consumer, *, later: bool = False) -> None:
    """Raises Duplicate, at once or `later` (`Transaction.later`)."""
    await (tx.later if later else tx.run)(_INSERT_CONSUMER, msgspec.structs.asdict(consumer))


async def consumer(reader: Reader, consumer_id: str) -> Consumer | None:
    row = await reader.one(_CONSUMER, {"key": consumer_id})
    return Consumer(*row) if row else None


async def update_consumer(tx: Transaction, changed: Consumer, was: int) -> bool:
    """False when its generation is no longer `was`."""
    values = msgspec.structs.asdict(changed)
    del values["created_at"]
    return await tx.run(_UPDATE_CONSUMER, {"key": values.pop("id"), "was": was, **values}) > 0


async def delete_consumer(tx: Transaction, consumer_id: str, up_to: int | None = None) -> bool:
    """up_to: unless its generation is later."""
    if up_to is not None:
        return await tx.run(_DELETE_OLDER, {"key": consumer_id, "up_to": up_to}) > 0
    return await tx.run(_DELETE_CONSUMER, {"key": consumer_id}) > 0


async def take_over(tx: Transaction, consumer_id: str, generation: int) -> None:
    """Its generation is this one at least."""
    await tx.run(_TAKE_OVER, {"key": consumer_id, "later": generation})


async def rename_consumer(tx: Transaction, consumer_id: str, to: str) -> bool:
    """With all that it holds. Raises Duplicate."""
    if not await tx.run(_RENAME_CONSUMER, {"key": consumer_id, "to": to, "one": 1}):
        return False
    await tx.run(_RENAME, {"key": consumer_id, "to": to})
    return True


async def insert(tx: Transaction, consumer_id: str, provider_id: str, resources: dict[str, int], now: int) -> None:
    for name, amount in resources.items():
        values = {"consumer_id": consumer_id, "provider_id": provider_id, "resource_class": name, "amount": amount, "updated_at": now}
        await tx.later(_INSERT, values)


async def held(reader: Reader, consumer_id: str) -> list[Held]:
    return [Held(*row) for row in await reader.all(_OF_CONSUMER, {"key": consumer_id})]


async def every(reader: Reader) -> list[Held]:
    return [Held(*row) for row in await reader.all(_ALL)]


async def of_provider(reader: Reader, provider_id: str) -> Sequence[tuple[Any, ...]]:
    """(consumer, its generation, class, amount, updated_at)"""
    return await reader.all(_OF_PROVIDER, {"key": provider_id})


async def delete(tx: Transaction, consumer_id: str) -> None:
    await tx.run(_DELETE, {"key": consumer_id})


async def usages(reader: Reader, project_id: str, user_id: str | None) -> list[tuple[str | None, str, int]]:
    """(consumer type, class, sum) of a project, or of one user in it."""
    where = [k.project_id == project_id, *([k.user_id == user_id] if user_id is not None else [])]
    query = (
        sa.select(k.consumer_type, a.resource_class, sa.cast(sa.func.sum(a.amount), sa.BigInteger))
        .join_from(allocations, consumers, k.id == a.consumer_id)
        .where(*where)
        .group_by(k.consumer_type, a.resource_class)
        .order_by(k.consumer_type, a.resource_class)
    )
    return [(row[0], row[1], int(row[2])) for row in await reader.all(query)]


async def consumer_counts(reader: Reader, project_id: str, user_id: str | None) -> list[tuple[str | None, int]]:
    """(consumer type, how many consumers) of a project, or of one user in it."""
    where = [k.project_id == project_id, *([k.user_id == user_id] if user_id is not None else [])]
    query = sa.select(k.consumer_type, sa.func.count()).where(*where).group_by(k.consumer_type).order_by(k.consumer_type)
    return [(row[0], row[1]) for row in await reader.all(query)]
