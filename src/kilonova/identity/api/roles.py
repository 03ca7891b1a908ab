"""Roles, of the cloud or of a domain, and which role implies which."""

from typing import Any

import msgspec
from msgspec import UNSET, UnsetType

from kilonova.core.context import Context
from kilonova.core.db import Duplicate as DuplicateRow
from kilonova.core.db import Transaction
from kilonova.core.http import Reply, Request
from kilonova.identity.api import views
from kilonova.identity.api.bodies import Body, Ident, Immutable, Name, entity, given, required, sent
from kilonova.identity.domain import projects as tree
from kilonova.identity.domain import removal, targets
from kilonova.identity.domain.options import keep_immutable, may_change, merged
from kilonova.identity.errors import CouldNotFind, Duplicate, Invalid, MayNotBeImplied
from kilonova.identity.model import Role
from kilonova.identity.service import IdentityService
from kilonova.identity.store import assignments
from kilonova.identity.store import revision as revisions
from kilonova.identity.store.rows import roles

NEVER_IMPLIED = ("admin",)


class RoleIn(msgspec.Struct, kw_only=True):
    name: Name | UnsetType = UNSET
    domain_id: Ident | None | UnsetType = UNSET
    description: str | None | UnsetType = UNSET
    options: Immutable | UnsetType = UNSET


async def _get(c: IdentityService, req: Request, role_id: str, verb: str) -> Role:
    """The role when the caller may; who may nothing is not told whether it exists."""
    role = await roles.get(c.db, role_id)
    kind = "domain_role" if role is not None and role.domain_id is not None else "role"
    req.authorize(f"identity:{verb}_{kind}", targets.of_role(role) if role else {})
    if role is None:
        raise CouldNotFind(what="role", id=role_id)
    return role


def _twice(name: str, domain_id: str | None) -> Duplicate:
    where = f" at domain ID {domain_id}" if domain_id else ""
    return Duplicate(what="role", reason=f"Duplicate entry found with name {name}{where}.")


async def list(c: IdentityService, ctx: Context, req: Request) -> Any:
    """The roles of the cloud; with domain_id those of that domain."""
    domain_id = req.one("domain_id") or None
    req.authorize("identity:list_domain_roles" if domain_id else "identity:list_roles", {})
    found = await roles.every(c.db, domain_id=domain_id, **views.named(req))
    return views.collection(req, "roles", views.filtered(req, [views.role(req, r) for r in found], ("name", "id")))


async def create(c: IdentityService, ctx: Context, req: Request, body: Body) -> Reply:
    wanted, extra = entity(body, "role", RoleIn)
    domain_id = wanted.domain_id or None
    req.authorize("identity:create_domain_role" if domain_id else "identity:create_role", {"target.role.domain_id": domain_id})
    required(body, "role", wanted, "name")
    assert wanted.name is not UNSET
    role = Role(
        id=c.runtime.uuid_hex(),
        name=wanted.name.strip(),
        domain_id=domain_id,
        description=wanted.description or None,
        options=merged({}, given(wanted.options)) if isinstance(wanted.options, Immutable) else {},
        extra=extra,
    )

    async def write(tx: Transaction) -> None:
        if domain_id is not None:
            await tree.domain(tx, domain_id)
        await roles.insert(tx, role)
        await revisions.bump(tx)

    try:
        await c.db.transact(write)
    except DuplicateRow:
        raise _twice(role.name, domain_id) from None
    return Reply({"role": views.role(req, role)}, 201)


async def show(c: IdentityService, ctx: Context, req: Request, role_id: str) -> Any:
    return {"role": views.role(req, await _get(c, req, role_id, "get"))}


async def update(c: IdentityService, ctx: Context, req: Request, role_id: str, body: Body) -> Any:
    role = await _get(c, req, role_id, "update")
    wanted, extra = entity(body, "role", RoleIn)
    if wanted.domain_id is not UNSET and wanted.domain_id != role.domain_id:
        raise Invalid(field="domain_id", value=wanted.domain_id, reason="The domain of a role cannot change.")

    async def write(tx: Transaction) -> Role | None:
        now = await roles.get(tx, role_id)
        if now is None:
            return None
        may_change(now.options, "role", role_id, sent(body, "role"))
        columns: dict[str, Any] = {"extra": {**now.extra, **extra}} if extra else {}
        if wanted.name is not UNSET:
            columns["name"] = wanted.name.strip()
        if wanted.description is not UNSET:
            columns["description"] = wanted.description
        if isinstance(wanted.options, Immutable):
            columns["options"] = merged(now.options, given(wanted.options))
        await revisions.bump(tx)
        return await roles.change(tx, now, **columns)

    try:
        changed = await c.db.transact(write)
    except DuplicateRow:
        raise _twice(str(wanted.name), role.domain_id) from None
    if changed is None:
        raise CouldNotFind(what="role", id=role_id)
    return {"role": views.role(req, changed)}


async def delete(c: IdentityService, ctx: Context, req: Request, role_id: str) -> None:
    await _get(c, req, role_id, "delete")

    async def write(tx: Transaction) -> None:
        now = await roles.get(tx, role_id)
        if now is None:
            raise CouldNotFind(what="role", id=role_id)
        keep_immutable(now.options, "role", role_id)
        await removal.role(tx, role_id)
        await revisions.bump(tx)

    await c.db.transact(write)


# ---- implied roles


def _brief(req: Request, role: Role) -> dict[str, Any]:
    return {"id": role.id, "name": role.name, "links": views.link(req, "roles", role.id)}


async def _role(c: IdentityService, role_id: str) -> Role:
    role = (await c.roles()).by_id.get(role_id)
    if role is None:
        raise CouldNotFind(what="role", id=role_id)
    return role


async def _pair(c: IdentityService, role_id: str, implied_role_id: str) -> tuple[Role, Role]:
    """Raises CouldNotFind unless the one implies the other directly."""
    prior, implied = await _role(c, role_id), await _role(c, implied_role_id)
    if implied.id not in (await c.roles()).edges.get(prior.id, ()):
        raise CouldNotFind(what="implied role", id=f"{prior.id} implies {implied.id}")
    return prior, implied


def _rule(req: Request, prior: Role, implied: Role) -> dict[str, Any]:
    return {
        "role_inference": {"prior_role": _brief(req, prior), "implies": _brief(req, implied)},
        "links": views.link(req, "roles", prior.id, "implies", implied.id),
    }


async def list_implied(c: IdentityService, ctx: Context, req: Request, role_id: str) -> Any:
    prior = await _role(c, role_id)
    table = await c.roles()
    return {
        "role_inference": {
            "prior_role": _brief(req, prior),
            "implies": [_brief(req, table.by_id[i]) for i in table.edges.get(prior.id, ())],
        },
        "links": views.link(req, "roles", prior.id, "implies"),
    }


async def show_implied(c: IdentityService, ctx: Context, req: Request, role_id: str, implied_role_id: str) -> Any:
    return _rule(req, *await _pair(c, role_id, implied_role_id))


async def check_implied(c: IdentityService, ctx: Context, req: Request, role_id: str, implied_role_id: str) -> None:
    await _pair(c, role_id, implied_role_id)


async def imply(c: IdentityService, ctx: Context, req: Request, role_id: str, implied_role_id: str) -> Reply:
    async def write(tx: Transaction) -> tuple[Role, Role]:
        prior, implied = await roles.get(tx, role_id), await roles.get(tx, implied_role_id)
        if prior is None or implied is None:
            raise CouldNotFind(what="role", id=implied_role_id if prior else role_id)
        if implied.name.lower() in NEVER_IMPLIED or (prior.domain_id is None and implied.domain_id is not None):
            raise MayNotBeImplied(role=implied.id)
        await assignments.imply(tx, prior.id, implied.id)
        await revisions.bump(tx)
        return prior, implied

    return Reply(_rule(req, *await c.db.transact(write)), 201)


async def unimply(c: IdentityService, ctx: Context, req: Request, role_id: str, implied_role_id: str) -> None:
    async def write(tx: Transaction) -> None:
        if not await assignments.unimply(tx, role_id, implied_role_id):
            raise CouldNotFind(what="implied role", id=f"{role_id} implies {implied_role_id}")
        await revisions.bump(tx)

    await c.db.transact(write)


async def list_inferences(c: IdentityService, ctx: Context, req: Request) -> Any:
    table = await c.roles()
    rules = [
        {"prior_role": _brief(req, table.by_id[prior]), "implies": [_brief(req, table.by_id[i]) for i in implied]}
        for prior, implied in table.edges.items()
        if prior in table.by_id and implied
    ]
    return {"role_inferences": rules}
