"""Resource providers."""

from collections.abc import Sequence

import msgspec
import sqlalchemy as sa

from kilonova.core.db import Reader, Transaction
from kilonova.core.db.statements import inserted, prepared
from kilonova.placement.model import Provider
from kilonova.placement.store.tables import providers

p = providers.c
_KEY = sa.bindparam("key", type_=sa.String())
_NOW = sa.bindparam("now", type_=sa.BigInteger())
_ONE = sa.bindparam("one", type_=sa.BigInteger())
_ZERO = sa.bindparam("zero", type_=sa.Integer())
_INSERT = inserted(providers)
_GET = prepared(sa.select(providers).where(p.id == _KEY))
_ALL = prepared(sa.select(providers).order_by(p.created_at, p.id))
_TREE = prepared(sa.select(providers).where(p.root_id == sa.bindparam("root")).order_by(p.created_at, p.id))
_SOME = prepared(sa.select(providers).where(p.id.in_(sa.bindparam("ids", expanding=True))).order_by(p.created_at, p.id))
_DELETE = prepared(sa.delete(providers).where(p.id == _KEY, p.children == _ZERO))
_RENAME = prepared(sa.update(providers).where(p.id == _KEY).values(name=sa.bindparam("to"), updated_at=_NOW))
_PLACE = prepared(
    sa.update(providers).where(p.id == _KEY).values(parent_id=sa.bindparam("parent"), root_id=sa.bindparam("root"), updated_at=_NOW)
)
_BUMP = prepared(sa.update(providers).where(p.id == _KEY).values(generation=p.generation + _ONE))
_BUMP_IF = prepared(
    sa.update(providers).where(p.id == _KEY, p.generation == sa.bindparam("was")).values(generation=p.generation + _ONE, updated_at=_NOW)
)
_CHILDREN = prepared(sa.update(providers).where(p.id == _KEY).values(children=p.children + sa.bindparam("by")))
_TOUCH = prepared(sa.update(providers).where(p.id == _KEY).values(updated_at=_NOW))
_TRAITS = prepared(sa.update(providers).where(p.id == _KEY).values(traits=sa.bindparam("names", type_=p.traits.type)))
_AGGREGATES = prepared(
    sa.update(providers).where(p.id == _KEY).values(aggregates=sa.bindparam("ids", type_=p.aggregates.type), updated_at=_NOW)
)


async def insert(tx: Transaction, provider: Provider) -> None:
    """Raises Duplicate (placement_providers.id or .name)."""
    await tx.run(_INSERT, msgspec.structs.asdict(provider))


async def get(reader: Reader, provider_id: str) -> Provider | None:
    row = await reader.one(_GET, {"key": provider_id})
    return Provider(*row) if row else None


async def every(reader: Reader) -> list[Provider]:
    return [Provider(*row) for row in await reader.all(_ALL)]


async def tree(reader: Reader, root_id: str) -> list[Provider]:
    return [Provider(*row) for row in await reader.all(_TREE, {"root": root_id})]


async def some(reader: Reader, ids: Sequence[str]) -> list[Provider]:
    return [Provider(*row) for row in await reader.all(_SOME, {"ids": list(ids)})] if ids else []


async def delete(tx: Transaction, provider_id: str) -> bool:
    """False when it has children or does not exist."""
    return await tx.run(_DELETE, {"key": provider_id, "zero": 0}) > 0


async def rename(tx: Transaction, provider_id: str, name: str, now: int) -> None:
    """Raises Duplicate."""
    await tx.run(_RENAME, {"key": provider_id, "to": name, "now": now})


async def place(tx: Transaction, provider_id: str, parent_id: str | None, root_id: str, now: int) -> None:
    await tx.run(_PLACE, {"key": provider_id, "parent": parent_id, "root": root_id, "now": now})


async def bump(tx: Transaction, provider_id: str) -> None:
    """A new generation because allocations changed."""
    await tx.later(_BUMP, {"key": provider_id, "one": 1})


async def bump_if(tx: Transaction, provider_id: str, generation: int, now: int) -> bool:
    """A new generation if it still is the given one."""
    return await tx.run(_BUMP_IF, {"key": provider_id, "was": generation, "one": 1, "now": now}) > 0


async def count_children(tx: Transaction, provider_id: str, by: int) -> bool:
    """False when it does not exist."""
    return await tx.run(_CHILDREN, {"key": provider_id, "by": by}) > 0


async def touch(tx: Transaction, provider_id: str, now: int) -> None:
    """Write the row, so that nobody else changes it until the transaction ends."""
    await tx.run(_TOUCH, {"key": provider_id, "now": now})


async def set_traits(tx: Transaction, provider_id: str, names: tuple[str, ...]) -> None:
    await tx.run(_TRAITS, {"key": provider_id, "names": names})


async def set_aggregates(tx: Transaction, provider_id: str, ids: tuple[str, ...], now: int) -> None:
    await tx.run(_AGGREGATES, {"key": provider_id, "ids": ids, "now": now})
