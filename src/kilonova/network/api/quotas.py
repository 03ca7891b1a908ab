"""Quotas: what a project may have, what it has."""

from typing import Any

from kilonova.core.context import Context
from kilonova.core.errors import PolicyForbids
from kilonova.core.http import Reply, Request
from kilonova.network.api import attributes as a
from kilonova.network.api.attributes import shown, wrapped
from kilonova.network.config import QUOTAS
from kilonova.network.domain.work import Work
from kilonova.network.errors import BadBody, Invalid, InvalidInput, TenantQuotaNotFound
from kilonova.network.service import NetworkService
from kilonova.network.store import quotas

CONTROL = ("force", "check_limit")
"""Members of a PUT that are no limits."""


def _defaults(c: NetworkService) -> dict[str, int]:
    return {name: int(getattr(c.settings["network_quotas"], f"quota_{name}")) for name in QUOTAS}


async def _limits(c: NetworkService, project_id: str) -> dict[str, int]:
    own = await quotas.of(c.db, project_id)
    out = _defaults(c)
    for name, (_, limit) in own.items():
        if limit is not None and name in out:
            out[name] = limit
    return out


def _may_look(req: Request, ctx: Context, project_id: str) -> None:
    """An admin, a manager of the project, or anybody of the project itself."""
    if not req.allowed("get_quota", {"project_id": project_id}) and ctx.project_id != project_id:
        raise PolicyForbids(rule="get_quota")


async def list(c: NetworkService, ctx: Context, req: Request) -> Any:
    req.authorize("get_quota", {"project_id": None})
    defaults = _defaults(c)
    found = await quotas.own_limits(c.db)
    return {"quotas": [{**defaults, **limits, "project_id": project_id, "tenant_id": project_id} for project_id, limits in found.items()]}


async def show(c: NetworkService, ctx: Context, req: Request, project_id: str) -> Any:
    if project_id == "tenant":
        return {"tenant": {"tenant_id": ctx.project_id, "project_id": ctx.project_id}}
    _may_look(req, ctx, project_id)
    return {"quota": await _limits(c, project_id)}


async def default(c: NetworkService, ctx: Context, req: Request, project_id: str) -> Any:
    _may_look(req, ctx, project_id)
    return {"quota": _defaults(c)}


async def details(c: NetworkService, ctx: Context, req: Request, project_id: str) -> Any:
    _may_look(req, ctx, project_id)
    limits = await _limits(c, project_id)
    have = await quotas.of(c.db, project_id)
    return {"quota": {name: {"limit": limit, "used": have.get(name, (0, None))[0], "reserved": 0} for name, limit in limits.items()}}


async def update(c: NetworkService, ctx: Context, req: Request, project_id: str, body: Any) -> Any:
    req.authorize("update_quota", {"project_id": project_id})
    values = wrapped(body, "quota")
    if not isinstance(values, dict):
        raise BadBody("Resource body required")
    unknown = [name for name in values if name not in QUOTAS and name not in (*CONTROL, "project_id", "tenant_id")]
    if unknown:
        raise BadBody(f"Unrecognized attribute(s) '{', '.join(shown(name) for name in unknown)}'")
    limits = {name: _limit(name, values[name]) for name in QUOTAS if name in values}
    checked = bool(values.get("check_limit"))

    async def run(w: Work) -> None:
        have = await quotas.of(w.tx, project_id)
        for name, limit in limits.items():
            used = have.get(name, (0, None))[0]
            if checked and 0 <= limit < used:
                raise InvalidInput(f"Quota limit of {name} {limit} is below what the project has, {used}")
            await quotas.set_limit(w.tx, project_id, name, limit)

    await c.write(ctx, run)
    return {"quota": await _limits(c, project_id)}


def _limit(name: str, value: Any) -> int:
    try:
        found = a.integer(value)
        if found < -1:
            raise ValueError(f"'{found}' is less than -1")
    except ValueError as error:
        raise Invalid(str(error), field=name) from None
    return found


async def delete(c: NetworkService, ctx: Context, req: Request, project_id: str) -> Reply:
    req.authorize("delete_quota", {"project_id": project_id})
    if project_id not in await quotas.own_limits(c.db):
        raise TenantQuotaNotFound(id=shown(project_id))
    await c.write(ctx, lambda w: quotas.reset(w.tx, project_id))
    return Reply(None, 204)
