"""Nouns whose rows need nothing special (roles, groups, services, endpoints, regions): one set of statements for each table."""

from typing import Any, Generic, TypeVar

import msgspec
import sqlalchemy as sa

from kilonova.core.db import Reader, Transaction
from kilonova.core.db.statements import inserted, prepared
from kilonova.identity.model import Endpoint, Group, Region, Role, Service
from kilonova.identity.store import tables

S = TypeVar("S", bound=msgspec.Struct)


class Rows(Generic[S]):
    def __init__(self, table: sa.Table, kind: type[S]) -> None:
        self.table = table
        self.kind = kind
        self._columns = [table.c[name] for name in kind.__struct_fields__]
        self._insert = inserted(table)
        self._get = prepared(sa.select(*self._columns).where(table.c.id == sa.bindparam("id")))
        self._many = prepared(sa.select(*self._columns).where(table.c.id.in_(sa.bindparam("ids", expanding=True))).order_by(table.c.id))
        self._delete = prepared(sa.delete(table).where(table.c.id == sa.bindparam("id")))

    def _struct(self, row: tuple[Any, ...]) -> S:
        return self.kind(**dict(zip(self.kind.__struct_fields__, row, strict=True)))

    def _values(self, row: S) -> dict[str, Any]:
        values = msgspec.structs.asdict(row)
        if "unique_name" in self.table.c:
            values["unique_name"] = f"{values['domain_id'] or ''}/{values['name']}"
        return values

    async def insert(self, tx: Transaction, row: S) -> None:
        """Raises Duplicate."""
        await tx.run(self._insert, self._values(row))

    async def change(self, tx: Transaction, row: S, **columns: Any) -> S | None:
        """Write these columns only, so that two changes at once do not undo each other. The row as it is then; None: it is gone.

        Raises Duplicate."""
        changed = msgspec.structs.replace(row, **columns)
        if "unique_name" in self.table.c and "name" in columns:
            columns["unique_name"] = self._values(changed)["unique_name"]
        if not columns:
            return changed
        key = self.table.c.id == row.id  # type: ignore[attr-defined]
        return changed if await tx.run(sa.update(self.table).where(key).values(**columns)) else None

    async def delete(self, tx: Transaction, row_id: str) -> int:
        return await tx.run(self._delete, {"id": row_id})

    async def get(self, reader: Reader, row_id: str) -> S | None:
        row = await reader.one(self._get, {"id": row_id})
        return self._struct(row) if row else None

    async def every(self, reader: Reader, **equal: Any) -> list[S]:
        """All whose columns equal the given values, by id."""
        query = sa.select(*self._columns).where(*(self.table.c[name] == value for name, value in equal.items()))
        return [self._struct(row) for row in await reader.all(query.order_by(self.table.c.id))]

    async def many(self, reader: Reader, ids: list[str]) -> list[S]:
        """Those of the ids that exist, by id."""
        return [self._struct(row) for row in await reader.all(self._many, {"ids": ids})]

    async def delete_where(self, tx: Transaction, **equal: Any) -> int:
        return await tx.run(sa.delete(self.table).where(*(self.table.c[name] == value for name, value in equal.items())))


roles = Rows(tables.roles, Role)
groups = Rows(tables.groups, Group)
services = Rows(tables.services, Service)
endpoints = Rows(tables.endpoints, Endpoint)
regions = Rows(tables.regions, Region)
