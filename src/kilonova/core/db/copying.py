"""All rows of one database into another, empty one. JSON travels as the text that it is, so that nothing is lost of it."""

from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa

from kilonova.core.db.facade import Database, Transaction
from kilonova.core.db.schema import History, check, sync
from kilonova.core.db.statements import Json, Prepared
from kilonova.core.errors import Conflict, Error

BATCH = 500


class NotEmpty(Conflict):
    code = "core.database_not_empty"
    title = "The target is not empty: {table} has {rows} rows."
    advice = "Import into a new database."


class NotAllCopied(Error):
    code = "core.copy_incomplete"
    title = "{table} has {rows} rows after the copy instead of {wanted}."
    advice = "Something else writes to the target; import into a new database."


async def copy(source: Database, target: Database, histories: Sequence[History]) -> list[tuple[str, int]]:
    """(table, rows), in the order of the copy. Everything or nothing: one transaction of the target.

    Raises NotMigrated when the source is not at this program's revision, NotEmpty, NotAllCopied."""
    await check(source, histories)
    await sync(target, histories)
    tables = [table for history in histories for table in history.metadata.sorted_tables]
    for table in tables:
        if rows := await _count(target, table):
            raise NotEmpty(table=table.name, rows=rows)

    async def body(tx: Transaction) -> list[tuple[str, int]]:
        return [(table.name, await _copy(source, tx, table)) for table in tables]

    copied = await target.transact(body)
    for table, (_, wanted) in zip(tables, copied, strict=True):
        rows = await _count(target, table)
        if rows != wanted or wanted != await _count(source, table):
            raise NotAllCopied(table=table.name, rows=rows, wanted=wanted)
    return copied


async def _copy(source: Database, tx: Transaction, table: sa.Table) -> int:
    names = [column.name for column in table.columns]
    kinds = [sa.Text() if isinstance(column.type, Json) else column.type for column in table.columns]
    page = (
        sa.select(*(sa.type_coerce(column, kind) for column, kind in zip(table.columns, kinds, strict=True)))
        .order_by(*table.primary_key.columns)
        .limit(BATCH)
        .offset(sa.bindparam("at", type_=sa.Integer))
    )
    read = Prepared(page)
    write = Prepared(sa.insert(table).values({n: sa.bindparam(n, type_=k) for n, k in zip(names, kinds, strict=True)}))
    done = 0
    while rows := await source.all(read, {"at": done}):
        await tx.many(write, [dict(zip(names, row, strict=True)) for row in rows])
        done += len(rows)
    return done


async def _count(db: Database, table: sa.Table) -> int:
    row: Any = await db.one(sa.select(sa.func.count()).select_from(table))
    return int(row[0])
