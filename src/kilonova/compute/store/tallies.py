"""Counting servers, on the cell side: by host for hypervisors, by user and time for quota and usage."""

import msgspec
import sqlalchemy as sa

from kilonova.compute.model import Flavor
from kilonova.compute.store.cell_tables import servers as t
from kilonova.core.db import Reader
from kilonova.core.db.statements import prepared

_alive = t.c.deleted == sa.false()
_BY_HOST = prepared(
    sa.select(t.c.host, sa.func.count(), sa.func.count(t.c.task)).where(_alive, t.c.host.is_not(None)).group_by(t.c.host).order_by(t.c.host)
)
_NAMES = prepared(sa.select(t.c.host, t.c.id, t.c.name).where(_alive, t.c.host.is_not(None)).order_by(t.c.host, t.c.created_at, t.c.id))
_FLAVORS_OF_USER = prepared(
    sa.select(t.c.flavor)
    .where(_alive, t.c.project_id == sa.bindparam("project_id"), t.c.user_id == sa.bindparam("user_id"))
    .order_by(t.c.id)
)
_FLAVORS_OF_HOST = prepared(sa.select(t.c.project_id, t.c.flavor).where(_alive, t.c.host == sa.bindparam("host")).order_by(t.c.id))
_during = (
    t.c.launched_at.is_not(None),
    t.c.launched_at < sa.bindparam("end"),
    sa.or_(t.c.terminated_at.is_(None), t.c.terminated_at > sa.bindparam("start")),
)
_USAGE_COLUMNS = (t.c.id, t.c.project_id, t.c.name, t.c.state, t.c.deleted, t.c.launched_at, t.c.terminated_at, t.c.flavor)
_USAGE = prepared(sa.select(*_USAGE_COLUMNS).where(*_during).order_by(t.c.project_id, t.c.launched_at, t.c.id))
_USAGE_OF = prepared(
    sa.select(*_USAGE_COLUMNS).where(*_during, t.c.project_id == sa.bindparam("project_id")).order_by(t.c.launched_at, t.c.id)
)


class Load(msgspec.Struct, frozen=True):
    """Servers on a host, and how many of them have a task under way."""

    servers: int
    busy: int


class Used(msgspec.Struct, frozen=True):
    """A server's life, for usage reports."""

    id: str
    project_id: str
    name: str
    state: str
    deleted: bool
    launched_at: int
    terminated_at: int | None
    flavor: Flavor


async def by_host(reader: Reader) -> dict[str, Load]:
    return {host: Load(count, busy) for host, count, busy in await reader.all(_BY_HOST)}


async def names_by_host(reader: Reader) -> dict[str, list[tuple[str, str]]]:
    """host -> (server id, name)."""
    out: dict[str, list[tuple[str, str]]] = {}
    for host, ident, name in await reader.all(_NAMES):
        out.setdefault(host, []).append((ident, name))
    return out


async def flavors_of_user(reader: Reader, project_id: str, user_id: str) -> list[Flavor]:
    """One for each server."""
    return [row[0] for row in await reader.all(_FLAVORS_OF_USER, {"project_id": project_id, "user_id": user_id})]


async def flavors_of_host(reader: Reader, host: str) -> list[tuple[str, Flavor]]:
    """(project, flavor) for each server."""
    return [(row[0], row[1]) for row in await reader.all(_FLAVORS_OF_HOST, {"host": host})]


async def used(reader: Reader, start: int, end: int, project_id: str | None = None) -> list[Used]:
    """Servers that ran at some time in [start, end), deleted ones too."""
    values = {"start": start, "end": end}
    rows = await reader.all(_USAGE, values) if project_id is None else await reader.all(_USAGE_OF, {**values, "project_id": project_id})
    return [Used(*row) for row in rows]
