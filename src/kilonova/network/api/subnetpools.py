"""Subnet pools."""

from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa

from kilonova.core.context import Context
from kilonova.core.db import Reader
from kilonova.core.http import Request
from kilonova.core.times import iso
from kilonova.network.api import attributes as a
from kilonova.network.api import collection, creation
from kilonova.network.api.attributes import attr
from kilonova.network.api.collection import Resource, View, Views
from kilonova.network.domain import subnets
from kilonova.network.domain.work import Work
from kilonova.network.errors import BadBody, Invalid, SubnetPoolNotFound
from kilonova.network.model import SubnetPool
from kilonova.network.service import NetworkService
from kilonova.network.store import rows
from kilonova.network.store.tables import subnetpools as table

PREFIXES = a.list_of(a.subnet)
ATTRIBUTES = a.Attributes(
    "subnetpool",
    "subnetpools",
    a.ID,
    attr("name", a.not_empty_name, "cufs", a.REQUIRED),
    a.TENANT,
    a.PROJECT,
    attr("prefixes", PREFIXES, "cu", a.REQUIRED),
    attr("default_quota", a.or_none(a.non_negative), "cufs"),
    attr("ip_version", None, "fs"),
    attr("default_prefixlen", a.non_negative, "cufs"),
    attr("min_prefixlen", a.non_negative, "cufs"),
    attr("max_prefixlen", a.non_negative, "cufs"),
    attr("is_default", a.boolean, "cufsp", False),
    attr("shared", a.boolean, "cfsp", False),
    attr("address_scope_id", a.one_of(None), "c", None),
    a.TAGS,
    *a.standard(),
)


async def views(reader: Reader, found: Sequence[SubnetPool]) -> Views:
    return [view(pool) for pool in found]


def view(p: SubnetPool) -> View:
    return {
        "id": p.id,
        "name": p.name,
        "tenant_id": p.project_id,
        "project_id": p.project_id,
        "prefixes": p.prefixes,
        "default_quota": p.default_quota,
        "ip_version": p.ip_version,
        "default_prefixlen": p.default_prefixlen,
        "min_prefixlen": p.min_prefixlen,
        "max_prefixlen": p.max_prefixlen,
        "is_default": p.is_default,
        "shared": p.shared,
        "address_scope_id": None,
        "description": p.description,
        "tags": p.tags,
        "created_at": iso(p.created_at),
        "updated_at": iso(p.updated_at),
        "revision_number": p.revision,
    }


def scope() -> Any:
    return sa.or_(table.c.project_id == sa.bindparam("scope_project"), table.c.shared.is_(True))


SUBNETPOOLS = Resource(ATTRIBUTES, rows.subnetpools, missing=SubnetPoolNotFound, views=views, scope=scope)


async def list(c: NetworkService, ctx: Context, req: Request) -> Any:
    return await collection.listing(c, ctx, req, SUBNETPOOLS)


async def show(c: NetworkService, ctx: Context, req: Request, subnetpool_id: str) -> Any:
    return await collection.show(c, req, SUBNETPOOLS, subnetpool_id)


async def create(c: NetworkService, ctx: Context, req: Request, body: Any) -> Any:
    return await creation.create(c, ctx, req, SUBNETPOOLS, body, subnets.create_pool)


async def update(c: NetworkService, ctx: Context, req: Request, subnetpool_id: str, body: Any) -> Any:
    return await creation.update(c, ctx, req, SUBNETPOOLS, subnetpool_id, body, subnets.update_pool)


async def delete(c: NetworkService, ctx: Context, req: Request, subnetpool_id: str) -> None:
    await creation.delete(c, ctx, req, SUBNETPOOLS, subnetpool_id, subnets.delete_pool)


async def _change(c: NetworkService, ctx: Context, req: Request, subnetpool_id: str, body: Any, *, add: bool) -> Any:
    await collection.changeable(c, req, SUBNETPOOLS, subnetpool_id, "add_prefixes" if add else "remove_prefixes")
    if not isinstance(body, dict) or "prefixes" not in body:
        raise BadBody("Unable to find 'prefixes' in request body")
    try:
        prefixes = PREFIXES(body["prefixes"])
    except ValueError as error:
        raise Invalid(str(error), field="prefixes") from None

    async def run(w: Work) -> SubnetPool:
        pool = await rows.subnetpools.get(w.tx, subnetpool_id)
        if pool is None:
            raise SubnetPoolNotFound(id=subnetpool_id)
        return await subnets.change_prefixes(w, pool, **{"add" if add else "remove": prefixes})

    return {"prefixes": (await c.write(ctx, run)).prefixes}


async def add_prefixes(c: NetworkService, ctx: Context, req: Request, subnetpool_id: str, body: Any) -> Any:
    return await _change(c, ctx, req, subnetpool_id, body, add=True)


async def remove_prefixes(c: NetworkService, ctx: Context, req: Request, subnetpool_id: str, body: Any) -> Any:
    return await _change(c, ctx, req, subnetpool_id, body, add=False)
