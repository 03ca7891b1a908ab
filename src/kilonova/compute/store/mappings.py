"""Where each server lives, requests that have no host yet, and quota: the api side of a server.

A server counts against its project's quota exactly while its mapping exists: both are written in one transaction.
"""

import asyncio
from collections.abc import Sequence
from typing import Any

import msgspec
import sqlalchemy as sa

from kilonova.compute.model import Outline, Server
from kilonova.compute.store.api_tables import build_requests, counters, quota_limits, quota_usages, server_mappings
from kilonova.core.db import Database, Duplicate, Reader, Transaction
from kilonova.core.db.statements import inserted, prepared


class Mapping(msgspec.Struct, frozen=True):
    server_id: str
    project_id: str
    cell: str
    vcpus: int
    ram_mb: int
    deleting: bool
    created_at: int


_m, _b, _u = server_mappings.c, build_requests.c, quota_usages.c
_INSERT = inserted(server_mappings)
_INSERT_REQUEST = inserted(build_requests)
_COLUMNS = [_m[name] for name in Mapping.__struct_fields__]
_GET = prepared(sa.select(*_COLUMNS).where(_m.server_id == sa.bindparam("id")))
_OUTLINE = prepared(sa.select(_m.outline).where(_m.server_id == sa.bindparam("id")))
_in_cells = sa.and_(_m.cell.in_(sa.bindparam("cells", expanding=True)), _m.deleting == sa.false())
_newest = (_m.created_at.desc(), _m.server_id.desc())
_OF_CELLS = prepared(sa.select(*_COLUMNS).where(_in_cells).order_by(*_newest).limit(sa.bindparam("limit", type_=sa.Integer)))
_OF_CELLS_AND_PROJECT = prepared(
    sa.select(*_COLUMNS)
    .where(_in_cells, _m.project_id == sa.bindparam("project_id"))
    .order_by(*_newest)
    .limit(sa.bindparam("limit", type_=sa.Integer))
)
_COUNT = prepared(sa.select(sa.func.count()).select_from(server_mappings).where(_m.cell.in_(sa.bindparam("cells", expanding=True))))
_REQUEST = prepared(sa.select(_b.server).where(_b.server_id == sa.bindparam("id")))
_WANTED = prepared(
    sa.select(*_COLUMNS, _b.server)
    .select_from(server_mappings.outerjoin(build_requests, _b.server_id == _m.server_id))
    .where(_m.server_id == sa.bindparam("id"))
)
_REQUESTS = prepared(sa.select(_b.server).order_by(_b.server_id))
_REQUESTS_OF = prepared(sa.select(_b.server).where(_b.project_id == sa.bindparam("project_id")).order_by(_b.server_id))
_PLACE = prepared(sa.update(server_mappings).where(_m.server_id == sa.bindparam("key")).values(cell=sa.bindparam("to_cell")))
_MARK = prepared(
    sa.update(server_mappings).where(_m.server_id == sa.bindparam("key"), _m.deleting == sa.false()).values(deleting=sa.true())
)
_UNMARK = prepared(sa.update(server_mappings).where(_m.server_id == sa.bindparam("key")).values(deleting=sa.false()))
_DROP = prepared(sa.delete(server_mappings).where(_m.server_id == sa.bindparam("id")))
_DROP_REQUEST = prepared(sa.delete(build_requests).where(_b.server_id == sa.bindparam("id")))
_UPDATE_REQUEST = prepared(
    sa.update(build_requests)
    .where(_b.server_id == sa.bindparam("key"))
    .values(server=sa.bindparam("to_server", type_=build_requests.c.server.type))
)
_USAGE = prepared(sa.select(_u.instances, _u.cores, _u.ram_mb).where(_u.project_id == sa.bindparam("id")))
_NEW_USAGE = inserted(quota_usages)
_FITS = [
    sa.or_(
        sa.bindparam("max_" + name, type_=sa.BigInteger) < 0,
        _u[name] + sa.bindparam("n_" + name) <= sa.bindparam("max_" + name, type_=sa.BigInteger),
    )
    for name in ("instances", "cores", "ram_mb")
]
_TAKE = prepared(
    sa.update(quota_usages)
    .where(_u.project_id == sa.bindparam("key"), *_FITS)
    .values(**{name: _u[name] + sa.bindparam("n_" + name) for name in ("instances", "cores", "ram_mb")})
)
_GIVE = prepared(
    sa.update(quota_usages)
    .where(_u.project_id == sa.bindparam("key"))
    .values(instances=_u.instances - 1, cores=_u.cores - sa.bindparam("n_cores"), ram_mb=_u.ram_mb - sa.bindparam("n_ram_mb"))
)
_LIMITS = prepared(
    sa.select(quota_limits.c.scope, quota_limits.c.resource, quota_limits.c.maximum)
    .where(quota_limits.c.scope.in_(sa.bindparam("scopes", expanding=True)))
    .order_by(quota_limits.c.scope, quota_limits.c.resource),
    kept=True,
)
_NEXT = prepared(sa.update(counters).where(counters.c.name == sa.bindparam("key")).values(value=counters.c.value + sa.bindparam("by")))
_VALUE = prepared(sa.select(counters.c.value).where(counters.c.name == sa.bindparam("name")))
_NEW_COUNTER = inserted(counters)


async def numbers(tx: Transaction, name: str, count: int) -> int:
    """Reserve `count` consecutive numbers of a series; the first of them."""
    if not await tx.run(_NEXT, {"key": name, "by": count}):
        try:
            await tx.run(_NEW_COUNTER, {"name": name, "value": count})
        except Duplicate:
            await tx.run(_NEXT, {"key": name, "by": count})
    row = await tx.one(_VALUE, {"name": name})
    assert row is not None
    return int(row[0]) - count + 1


class Numbers:
    """Numbers of a series that this process has in hand, where other processes take some, too: else each request would write their row and
    wait for the others' commits. What is left when the process ends is nobody's."""

    BLOCK = 64

    def __init__(self, db: Database, name: str) -> None:
        self._db = db
        self._name = name
        self._next = self._end = 0
        self._turn = asyncio.Lock()

    async def take(self, count: int) -> int:
        """The first of `count` consecutive ones. Not to be called inside a transaction."""
        async with self._turn:
            if self._end - self._next < count:
                block = max(self.BLOCK, count)
                self._next = await self._db.transact(lambda tx: numbers(tx, self._name, block))
                self._end = self._next + block
            first = self._next
            self._next += count
            return first


async def insert(tx: Transaction, server: Server) -> None:
    flavor = server.flavor
    await tx.later(
        _INSERT,
        {
            "server_id": server.id,
            "project_id": server.project_id,
            "cell": "",
            "vcpus": flavor.vcpus,
            "ram_mb": flavor.ram_mb,
            "deleting": False,
            "created_at": server.created_at,
            "outline": Outline(
                user_id=server.user_id,
                flavor=flavor,
                image_id=server.image_id,
                image_properties=server.image_properties,
                availability_zone=server.availability_zone,
            ),
        },
    )
    await tx.later(_INSERT_REQUEST, {"server_id": server.id, "project_id": server.project_id, "server": server})


async def get(reader: Reader, server_id: str) -> Mapping | None:
    row = await reader.one(_GET, {"id": server_id})
    return Mapping(*row) if row else None


async def wanted(reader: Reader, server_id: str) -> tuple[Mapping | None, Server | None]:
    """The mapping, and the server as it was asked for while it has no cell."""
    row = await reader.one(_WANTED, {"id": server_id})
    return (Mapping(*row[:-1]), row[-1]) if row else (None, None)


async def outline(reader: Reader, server_id: str) -> Outline | None:
    row = await reader.one(_OUTLINE, {"id": server_id})
    return row[0] if row else None


async def of_cells(reader: Reader, cells: Sequence[str], project_id: str | None, limit: int) -> list[Mapping]:
    """Servers that live in these cells, newest first; those that are being deleted are left out."""
    values: dict[str, Any] = {"cells": list(cells), "limit": limit}
    if project_id is None:
        return [Mapping(*row) for row in await reader.all(_OF_CELLS, values)]
    return [Mapping(*row) for row in await reader.all(_OF_CELLS_AND_PROJECT, {**values, "project_id": project_id})]


async def count(reader: Reader, cells: Sequence[str]) -> int:
    row = await reader.one(_COUNT, {"cells": list(cells)})
    return int(row[0]) if row else 0


async def request(reader: Reader, server_id: str) -> Server | None:
    row = await reader.one(_REQUEST, {"id": server_id})
    return row[0] if row else None


async def requests(reader: Reader, project_id: str | None) -> list[Server]:
    rows = await reader.all(_REQUESTS) if project_id is None else await reader.all(_REQUESTS_OF, {"project_id": project_id})
    return [row[0] for row in rows]


async def update_request(tx: Transaction, server: Server) -> int:
    return await tx.run(_UPDATE_REQUEST, {"key": server.id, "to_server": server})


async def place(tx: Transaction, server_id: str, cell: str) -> None:
    """The server lives in a cell now; its build request is done."""
    await tx.later(_PLACE, {"key": server_id, "to_cell": cell})
    await tx.later(_DROP_REQUEST, {"id": server_id})


async def mark_deleting(tx: Transaction, server_id: str) -> int:
    """0: somebody was quicker, or it is gone."""
    return await tx.run(_MARK, {"key": server_id})


async def unmark_deleting(tx: Transaction, server_id: str) -> None:
    await tx.run(_UNMARK, {"key": server_id})


async def drop(tx: Transaction, mapping: Mapping) -> None:
    """Forget a server and give its quota back, once."""
    await tx.run(_DROP_REQUEST, {"id": mapping.server_id})
    if await tx.run(_DROP, {"id": mapping.server_id}):
        await tx.run(_GIVE, {"key": mapping.project_id, "n_cores": mapping.vcpus, "n_ram_mb": mapping.ram_mb})


class QuotaRefused(Exception):
    """Over the limit, or nobody has counted the project yet."""


def _take(project_id: str, wanted: dict[str, int], limits: dict[str, int]) -> dict[str, Any]:
    values: dict[str, Any] = {"key": project_id}
    for name in ("instances", "cores", "ram_mb"):
        values["n_" + name] = wanted[name]
        values["max_" + name] = limits[name]
    return values


async def take_quota_later(tx: Transaction, project_id: str, wanted: dict[str, int], limits: dict[str, int]) -> None:
    """As `take_quota`, in one exchange with what else is put off. Raises QuotaRefused there."""
    await tx.later(_TAKE, _take(project_id, wanted, limits), rows=1, otherwise=QuotaRefused())


async def take_quota(tx: Transaction, project_id: str, wanted: dict[str, int], limits: dict[str, int]) -> bool:
    """Count servers, cores and memory (keys instances, cores, ram_mb) against the project, all or nothing."""
    values = _take(project_id, wanted, limits)
    if await tx.run(_TAKE, values):
        return True
    if await tx.one(_USAGE, {"id": project_id}) is None:
        try:
            await tx.run(_NEW_USAGE, {"project_id": project_id, "instances": 0, "cores": 0, "ram_mb": 0})
        except Duplicate:
            pass
    # Again in any case: the row may have come from another process between the two statements.
    return bool(await tx.run(_TAKE, values))


async def usage(reader: Reader, project_id: str) -> dict[str, int]:
    row = await reader.one(_USAGE, {"id": project_id})
    return dict(zip(("instances", "cores", "ram_mb"), row or (0, 0, 0), strict=True))


async def limits(reader: Reader, scopes: Sequence[str]) -> dict[str, dict[str, int]]:
    """scope -> resource -> limit, only what was set."""
    out: dict[str, dict[str, int]] = {scope: {} for scope in scopes}
    for scope, resource, maximum in await reader.all(_LIMITS, {"scopes": list(scopes)}):
        out[scope][resource] = maximum
    return out
