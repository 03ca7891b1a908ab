"""Servers, on the cell side. Each write raises `revision` and sets `updated_at`; views are cached by revision."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import msgspec
import sqlalchemy as sa

from kilonova.compute.model import Server
from kilonova.compute.store.cell_tables import servers as t
from kilonova.core.db import Reader, Transaction
from kilonova.core.db.statements import Prepared, inserted, prepared

FIELDS = Server.__struct_fields__
_COLUMNS = [t.c[name] for name in FIELDS]
_INSERT = inserted(t)
_GET = prepared(sa.select(*_COLUMNS).where(t.c.id == sa.bindparam("id")))
_OUTLINE = prepared(sa.select(t.c.revision, t.c.project_id, t.c.user_id, t.c.host, t.c.deleted).where(t.c.id == sa.bindparam("id")))
_GENERATION = prepared(sa.select(t.c.generation).where(t.c.id == sa.bindparam("id"), t.c.deleted == sa.false()))
_MANY = prepared(sa.select(*_COLUMNS).where(t.c.id.in_(sa.bindparam("ids", expanding=True))).order_by(t.c.id))
_OF_HOST = prepared(
    sa.select(*_COLUMNS).where(t.c.host == sa.bindparam("host"), t.c.deleted == sa.bindparam("deleted", type_=sa.Boolean)).order_by(t.c.id)
)
_updates: dict[tuple[tuple[str, ...], str, bool], Prepared] = {}

IF_ALIVE = "alive"
IF_GENERATION = "generation"
IF_UNCHANGED = "unchanged"
IF_BUILDING = "building"
IF_BUILDING_HERE = "building here"
IF_ALLOWED = "allowed"


def _server(row: tuple[Any, ...]) -> Server:
    return Server(**dict(zip(FIELDS, row, strict=True)))


async def insert(tx: Transaction, server: Server) -> None:
    await tx.later(_INSERT, msgspec.structs.asdict(server))


async def get(reader: Reader, server_id: str) -> Server | None:
    row = await reader.one(_GET, {"id": server_id})
    return _server(row) if row else None


class Outline(NamedTuple):
    """What says whether a document that was made of a server still holds, and who may see it."""

    revision: int
    project_id: str
    user_id: str
    host: str | None
    deleted: bool


async def outline(reader: Reader, server_id: str) -> Outline | None:
    row = await reader.one(_OUTLINE, {"id": server_id})
    return Outline(*row) if row else None


async def generation(reader: Reader, server_id: str) -> int | None:
    """Which verb the server is at; None when it is deleted or was never there."""
    row = await reader.one(_GENERATION, {"id": server_id})
    return row[0] if row else None


async def many(reader: Reader, ids: Sequence[str]) -> list[Server]:
    return [_server(row) for row in await reader.all(_MANY, {"ids": list(ids)})] if ids else []


async def of_host(reader: Reader, host: str) -> list[Server]:
    return [_server(row) for row in await reader.all(_OF_HOST, {"host": host, "deleted": False})]


def _update(columns: tuple[str, ...], condition: str, *, new_verb: bool = False) -> Prepared:
    key = (columns, condition, new_verb)
    found = _updates.get(key)
    if found is None:
        where: list[Any] = [t.c.id == sa.bindparam("key"), t.c.deleted == sa.false()]
        if condition in (IF_GENERATION, IF_UNCHANGED, IF_BUILDING, IF_BUILDING_HERE):
            where.append(t.c.generation == sa.bindparam("at_generation"))
        if condition in (IF_BUILDING, IF_BUILDING_HERE):
            where.append(t.c.state == sa.bindparam("building"))
        if condition in (IF_UNCHANGED, IF_BUILDING_HERE):
            where.append(t.c.revision == sa.bindparam("at_revision"))
        if condition == IF_BUILDING_HERE:
            where.append(t.c.host == sa.bindparam("here"))
        if condition == IF_ALLOWED:
            where += [
                t.c.state.in_(sa.bindparam("states", expanding=True)),
                sa.func.coalesce(t.c.task, "").in_(sa.bindparam("tasks", expanding=True)),
            ]
        values: dict[str, Any] = {name: sa.bindparam("to_" + name, type_=t.c[name].type) for name in columns}
        values["revision"] = t.c.revision + 1
        if new_verb:
            values["generation"] = t.c.generation + 1
        found = _updates[key] = prepared(sa.update(t).where(*where).values(values))
    return found


async def update(tx: Transaction, server_id: str, now: int, **changes: Any) -> int:
    """Change columns of a server that is not deleted."""
    changes["updated_at"] = now
    return await tx.run(_update(tuple(changes), IF_ALIVE), {"key": server_id, **{"to_" + k: v for k, v in changes.items()}})


async def update_at(tx: Transaction, server_id: str, generation: int, now: int, **changes: Any) -> int:
    """The same, only while no later verb has begun."""
    changes["updated_at"] = now
    values = {"key": server_id, "at_generation": generation, **{"to_" + k: v for k, v in changes.items()}}
    return await tx.run(_update(tuple(changes), IF_GENERATION), values)


async def update_unchanged(tx: Transaction, server_id: str, generation: int, revision: int, now: int, **changes: Any) -> int:
    """The same, only while nobody has written it since it was read."""
    changes["updated_at"] = now
    values = {"key": server_id, "at_generation": generation, "at_revision": revision, **{"to_" + k: v for k, v in changes.items()}}
    return await tx.run(_update(tuple(changes), IF_UNCHANGED), values)


async def place(tx: Transaction, server_id: str, generation: int, now: int, **changes: Any) -> int:
    """The same, only while it is being built: a runner that was asleep comes too late."""
    changes["updated_at"] = now
    values = {"key": server_id, "at_generation": generation, "building": "building", **{"to_" + k: v for k, v in changes.items()}}
    return await tx.run(_update(tuple(changes), IF_BUILDING), values)


async def built(tx: Transaction, server_id: str, generation: int, revision: int, host: str, now: int, **changes: Any) -> None:
    """The same, only while it is being built on this host, and nobody has written it since. Raises Unmatched, perhaps at the commit."""
    changes["updated_at"] = now
    values = {"key": server_id, "at_generation": generation, "building": "building", "here": host, "at_revision": revision}
    await tx.later(_update(tuple(changes), IF_BUILDING_HERE), values | {"to_" + k: v for k, v in changes.items()}, rows=1)


async def begin(tx: Transaction, server_id: str, states: Sequence[str], tasks: Sequence[str | None], now: int, task: str) -> int:
    """Claim a server for a verb: set its task and raise its generation when state and task allow it. 0: they do not."""
    values = {"key": server_id, "states": list(states), "tasks": [x or "" for x in tasks], "to_task": task, "to_updated_at": now}
    return await tx.run(_update(("task", "updated_at"), IF_ALLOWED, new_verb=True), values)


async def supersede(tx: Transaction, server_id: str, now: int, task: str) -> int:
    """Claim a server for a verb that overtakes any other (delete)."""
    values = {"key": server_id, "to_task": task, "to_updated_at": now}
    return await tx.run(_update(("task", "updated_at"), IF_ALIVE, new_verb=True), values)


async def ids(
    reader: Reader, where: Sequence[Any], order: Sequence[Any], limit: int | None, keys: Sequence[Any] = ()
) -> list[tuple[Any, ...]]:
    """(id, revision, host, and `keys`) of the servers that a list shows."""
    query = sa.select(t.c.id, t.c.revision, t.c.host, *keys).where(*where).order_by(*order)
    return [tuple(row) for row in await reader.all(query.limit(limit) if limit is not None else query)]


def ordering(order: Sequence[tuple[Any, bool]]) -> list[Any]:
    """ORDER BY of (column, descending) pairs. NULL comes before every value, on each database."""
    out: list[Any] = []
    for column, descending in order:
        parts = [column.is_not(None), column] if column.nullable else [column]
        out += [part.desc() if descending else part.asc() for part in parts]
    return out


def merged(pages: Sequence[Sequence[tuple[Any, ...]]], directions: Sequence[bool], first: int) -> list[tuple[Any, ...]]:
    """Rows of several databases in one order: that of their columns from `first` on, each descending or not. The databases compare texts
    by code points, as Python does. A server that was deleted before it came into a cell has a row in each: it is listed once."""
    rows = list({row[0]: row for page in pages for row in page}.values())
    for at, descending in reversed(list(enumerate(directions, first))):
        rows.sort(key=lambda row: (row[at] is not None, row[at] if row[at] is not None else 0), reverse=descending)
    return rows
