"""Quota of projects, and of single users in them."""

from typing import Any

import msgspec

from kilonova.compute.api import queries, values
from kilonova.compute.domain import quotas
from kilonova.compute.service import ComputeService
from kilonova.compute.store import quotas as store
from kilonova.core.context import Context
from kilonova.core.db import Duplicate, Transaction
from kilonova.core.errors import BadRequest
from kilonova.core.http import Reply, Request

_USER = {"user_id": queries.anything}
ITEM = queries.growing(((2, 1), _USER), strict=(2, 75))


class Update(msgspec.Struct, forbid_unknown_fields=True):
    """The names allowed depend on the version; the handler checks them."""

    quota_set: dict[str, Any]


async def _known(c: ComputeService, project_id: str) -> None:
    if not await c.identity.project_exists(project_id):
        raise BadRequest(f"Project ID {project_id[:255]} is not a valid project.")


def _authorize(req: Request, project_id: str) -> None:
    req.authorize(req.route.policy, {"project_id": project_id})


async def show(c: ComputeService, ctx: Context, req: Request, project_id: str) -> Any:
    _authorize(req, project_id)
    await _known(c, project_id)
    limits = await quotas.limits(c, project_id, req.one("user_id"))
    return {"quota_set": {"id": project_id, **quotas.shown(limits, quotas.of_project(req.version))}}


async def detail(c: ComputeService, ctx: Context, req: Request, project_id: str) -> Any:
    _authorize(req, project_id)
    await _known(c, project_id)
    user_id = req.one("user_id")
    limits = quotas.shown(await quotas.limits(c, project_id, user_id), quotas.of_project(req.version))
    used = await quotas.in_use(c, project_id, user_id)
    return {
        "quota_set": {
            "id": project_id,
            **{name: {"limit": limit, "in_use": used.get(name, 0), "reserved": 0} for name, limit in limits.items()},
        }
    }


async def defaults(c: ComputeService, ctx: Context, req: Request, project_id: str) -> Any:
    await _known(c, project_id)
    return {"quota_set": {"id": project_id, **quotas.shown(await quotas.defaults(c), quotas.of_project(req.version))}}


def wanted(field: str, body: dict[str, Any], names: tuple[str, ...], extra: tuple[str, ...] = ()) -> dict[str, int]:
    """Limits of a body by our names. Raises BadRequest for a name that this version does not have."""
    for name in body:
        if name not in names and name not in extra:
            raise values.invalid(field, body, f"Additional properties are not allowed ('{name[:50]}' was unexpected)")
    return {
        quotas.OURS.get(name, name): values.integer(name, value, -1)
        for name, value in body.items()
        if name in names and name not in quotas.NETWORK
    }


async def update(c: ComputeService, ctx: Context, req: Request, project_id: str, body: Update) -> Any:
    _authorize(req, project_id)
    names = quotas.of_project(req.version)
    limits = wanted("quota_set", body.quota_set, names, ("force",))
    force = values.flag("force", body.quota_set.get("force", False))
    await _known(c, project_id)
    user_id = req.one("user_id")
    if not force:
        await _in_bounds(c, project_id, user_id, limits)
    scope = f"{project_id}:{user_id}" if user_id else project_id
    await put(c, scope, limits)
    return {"quota_set": quotas.shown(await quotas.limits(c, project_id, user_id), names)}


async def put(c: ComputeService, scope: str, limits: dict[str, int]) -> None:
    async def write(tx: Transaction) -> None:
        await store.put(tx, scope, limits)

    try:
        await c.api_db.transact(write)
    except Duplicate:
        # Another request has just set one of them for the first time.
        await c.api_db.transact(write)


def _many(limit: int) -> float:
    return float("inf") if limit < 0 else limit


async def _in_bounds(c: ComputeService, project_id: str, user_id: str | None, limits: dict[str, int]) -> None:
    """Not below what is used, and a user's limit not above his project's."""
    used = await quotas.in_use(c, project_id, user_id)
    most = await quotas.limits(c, project_id) if user_id else {}
    for name, limit in limits.items():
        if _many(limit) < used.get(name, 0):
            raise BadRequest(f"Quota limit {limit} for {name} must be greater than or equal to already used and reserved {used[name]}.")
        if _many(limit) > _many(most.get(name, -1)):
            raise BadRequest(f"Quota limit {limit} for {name} must be less than or equal to {most[name]}.")


async def delete(c: ComputeService, ctx: Context, req: Request, project_id: str) -> Reply:
    """Back to the defaults."""
    _authorize(req, project_id)
    user_id = req.one("user_id")

    async def write(tx: Transaction) -> None:
        await store.delete(tx, f"{project_id}:{user_id}" if user_id else project_id)
        if not user_id:
            await store.delete_users(tx, project_id)

    await c.api_db.transact(write)
    return Reply(b"", 202)
