"""Custom resource classes and traits. `uses` counts who needs the name; only an unused one can be deleted or renamed."""

from collections.abc import Iterable

import sqlalchemy as sa

from kilonova.core.db import Reader, Transaction
from kilonova.core.db.statements import inserted, prepared
from kilonova.placement.standard_names import CLASS_SET, TRAIT_SET
from kilonova.placement.store import tables


class Names:
    def __init__(self, table: sa.Table, standard: frozenset[str]) -> None:
        self.standard = standard
        n, name = table.c, sa.bindparam("key", type_=sa.String())
        zero, by = sa.bindparam("zero", type_=sa.Integer), sa.bindparam("by", type_=sa.Integer)
        self._insert = inserted(table)
        self._get = prepared(sa.select(n.created_at).where(n.name == name))
        self._all = prepared(sa.select(n.name, n.created_at, n.uses).order_by(n.created_at, n.name))
        self._delete = prepared(sa.delete(table).where(n.name == name, n.uses == zero))
        self._rename = prepared(sa.update(table).where(n.name == name, n.uses == zero).values(name=sa.bindparam("to")))
        self._count = prepared(sa.update(table).where(n.name == name).values(uses=n.uses + by))

    async def insert(self, tx: Transaction, name: str, now: int) -> None:
        """Raises Duplicate."""
        await tx.run(self._insert, {"name": name, "uses": 0, "created_at": now})

    async def created_at(self, reader: Reader, name: str) -> int | None:
        """Of a custom name; None when it does not exist."""
        row = await reader.one(self._get, {"key": name})
        return row[0] if row else None

    async def every(self, reader: Reader) -> list[tuple[str, int, int]]:
        """(name, created_at, uses) of the custom ones, oldest first."""
        return [(row[0], row[1], row[2]) for row in await reader.all(self._all)]

    async def delete(self, tx: Transaction, name: str) -> bool:
        """False when it is in use or does not exist."""
        return await tx.run(self._delete, {"key": name, "zero": 0}) > 0

    async def rename(self, tx: Transaction, name: str, to: str) -> bool:
        """False when it is in use or does not exist. Raises Duplicate."""
        return await tx.run(self._rename, {"key": name, "zero": 0, "to": to}) > 0

    async def unknown(self, reader: Reader, names: Iterable[str]) -> list[str]:
        """Those of the names that neither are standard nor exist, in the order given."""
        return [n for n in names if n not in self.standard and await self.created_at(reader, n) is None]

    async def use(self, tx: Transaction, name: str, by: int) -> bool:
        """Count one more (1) or one less (-1) user. False when the name does not exist. Standard names are not counted."""
        return name in self.standard or await tx.run(self._count, {"key": name, "by": by}) > 0


classes = Names(tables.classes, CLASS_SET)
traits = Names(tables.traits, TRAIT_SET)
