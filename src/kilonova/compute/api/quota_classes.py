"""Quota classes. Only `default` has an effect: it replaces the configured limits of every project that has none of its own."""

from typing import Any

import msgspec

from kilonova.compute.api import quota_sets
from kilonova.compute.domain import quotas
from kilonova.compute.service import ComputeService
from kilonova.compute.store import mappings
from kilonova.core.context import Context
from kilonova.core.errors import BadRequest
from kilonova.core.http import Request

LONGEST = 60


class Update(msgspec.Struct, forbid_unknown_fields=True):
    quota_class_set: dict[str, Any]


async def _limits(c: ComputeService, quota_class: str) -> dict[str, int]:
    scope = f"class:{quota_class}"
    return {**await quotas.defaults(c), **(await mappings.limits(c.api_db, [scope]))[scope]}


async def show(c: ComputeService, ctx: Context, req: Request, quota_class: str) -> Any:
    names = quotas.of_class(req.version)
    return {"quota_class_set": {"id": quota_class, **quotas.shown(await _limits(c, quota_class), names)}}


async def update(c: ComputeService, ctx: Context, req: Request, quota_class: str, body: Update) -> Any:
    if len(quota_class) > LONGEST:
        raise BadRequest(f"The name of a quota class has at most {LONGEST} characters.")
    # Before 2.50 the body may name the limits of server groups, though the answer does not show them.
    names = quotas.of_class(req.version)
    limits = quota_sets.wanted("quota_class_set", body.quota_class_set, (*names, "server_groups", "server_group_members"))
    await quota_sets.put(c, f"class:{quota_class}", limits)
    return {"quota_class_set": quotas.shown(await _limits(c, quota_class), names)}
