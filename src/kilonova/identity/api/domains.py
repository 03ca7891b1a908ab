"""Domains: projects that hold users, groups and projects."""

from typing import Annotated, Any

import msgspec
from msgspec import UNSET, Meta, UnsetType

from kilonova.core.context import Context
from kilonova.core.http import Reply, Request
from kilonova.identity.api import projects as projects_api
from kilonova.identity.api import views
from kilonova.identity.api.bodies import Body, Flag, Ident, Immutable, ProjectName, Tags, entity, flag, required, sent
from kilonova.identity.domain import projects as tree
from kilonova.identity.domain import targets
from kilonova.identity.errors import CouldNotFind, Invalid
from kilonova.identity.model import Project
from kilonova.identity.service import IdentityService
from kilonova.identity.store import projects


class DomainIn(msgspec.Struct, kw_only=True):
    name: ProjectName | UnsetType = UNSET
    description: Annotated[str, Meta(max_length=255)] | None | UnsetType = UNSET
    enabled: Flag | UnsetType = UNSET
    explicit_domain_id: Ident | UnsetType = UNSET
    tags: Tags | UnsetType = UNSET
    options: Immutable | UnsetType = UNSET


async def _get(c: IdentityService, req: Request, domain_id: str, rule: str) -> Project:
    domain = await projects.get(c.db, domain_id)
    req.authorize(rule, targets.of_domain(domain) if domain else {})
    if domain is None or not domain.is_domain:
        raise CouldNotFind(what="domain", id=domain_id)
    return domain


async def list(c: IdentityService, ctx: Context, req: Request) -> Any:
    req.authorize("identity:list_domains", {"target.domain.id": ctx.domain_id})
    found = await projects.every(c.db, is_domain=True, **({"id": ctx.domain_id} if ctx.domain_id else {}))
    return views.collection(req, "domains", views.filtered(req, [views.domain(req, d) for d in found], ("name", "enabled", "id")))


async def create(c: IdentityService, ctx: Context, req: Request, body: Body) -> Reply:
    wanted, extra = entity(body, "domain", DomainIn)
    required(body, "domain", wanted, "name")
    assert wanted.name is not UNSET
    ident = wanted.explicit_domain_id or c.runtime.uuid_hex()
    if ident.lower() == "none":
        # Policy writes a missing domain as None; no domain may be called so.
        raise Invalid(field="explicit_domain_id", value=ident, reason="Choose another id.")
    project = projects_api.new(
        c,
        id=ident,
        name=wanted.name.strip(),
        domain_id=ident,
        parent_id=None,
        is_domain=True,
        enabled=flag(wanted.enabled, True),
        description=wanted.description or "",
        tags=wanted.tags or [],
        options=wanted.options,
        extra=extra,
    )
    return Reply({"domain": views.domain(req, await projects_api.insert(c, project))}, 201)


async def show(c: IdentityService, ctx: Context, req: Request, domain_id: str) -> Any:
    return {"domain": views.domain(req, await _get(c, req, domain_id, "identity:get_domain"))}


async def update(c: IdentityService, ctx: Context, req: Request, domain_id: str, body: Body) -> Any:
    domain = await _get(c, req, domain_id, "identity:update_domain")
    wanted, extra = entity(body, "domain", DomainIn)
    domain = await projects_api.change(c, domain, wanted, extra, sent(body, "domain"))
    return {"domain": views.changed(views.domain(req, domain), domain.extra)}


async def delete(c: IdentityService, ctx: Context, req: Request, domain_id: str) -> None:
    await _get(c, req, domain_id, "identity:delete_domain")
    await c.db.transact(lambda tx: tree.delete_domain(tx, domain_id))
