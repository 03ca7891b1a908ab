"""Nouns whose rows need nothing special (roles, groups, services, endpoints, regions): one set of statements for each table."""

from typing import Any, Generic, TypeVar

import msgspec
import sqlalchemy as sa

from kilonova.core.db import Reader, Transaction, inserted, prepared
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
        self._update = prepared(
            sa.update(table)
            .where(table.c.id == sa.bindparam("key"))
            .values({c.name: sa.bindparam(c.name, type_=c.type) for c in table.columns if c.name != "id"})
        )
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

    async def update(self, tx: Transaction, row: S) -> int:
        return await tx.run(self._update, {"key": row.id, **self._values(row)})  # type: ignore[attr-defined]

    async def delete(self, tx: Transaction, row_id: str) -> int:
        return await tx.run(self._delete, {"id": row_id})

    async def get(self, reader: Reader, row_id: str) -> S | None:
        row = await reader.one(self._get, {"id": row_id})
        return self._struct(row) if row else None

    async def every(self, reader: Reader, **equal: Any) -> list[S]:
        """All whose columns equal the given values, by id."""
        query = sa.select(*self._columns).where(*(self.table.c[name] == value for name, value in equal.items()))
        return [self._struct(row) for row in await reader.all(query.order_by(self.table.c.id))]

    async def delete_where(self, tx: Transaction, **equal: Any) -> int:
        return await tx.run(sa.delete(self.table).where(*(self.table.c[name] == value for name, value in equal.items())))


roles = Rows(tables.roles, Role)
groups = Rows(tables.groups, Group)
services = Rows(tables.services, Service)
endpoints = Rows(tables.endpoints, Endpoint)
regions = Rows(tables.regions, Region)
