"""Groups of users and who is in them."""

from typing import Any

import msgspec
from msgspec import UNSET, UnsetType

from kilonova.core.context import Context
from kilonova.core.db import Duplicate as DuplicateRow
from kilonova.core.db import Transaction
from kilonova.core.http import Reply, Request
from kilonova.identity.api import views
from kilonova.identity.api.bodies import Body, Ident, Name, entity, required
from kilonova.identity.domain import projects as tree
from kilonova.identity.domain import removal, targets
from kilonova.identity.errors import CouldNotFind, Duplicate, Invalid, NotAMember
from kilonova.identity.model import Group, User
from kilonova.identity.service import IdentityService
from kilonova.identity.store import assignments, users
from kilonova.identity.store import revision as revisions
from kilonova.identity.store.rows import groups


class GroupIn(msgspec.Struct, kw_only=True):
    name: Name | UnsetType = UNSET
    domain_id: Ident | UnsetType = UNSET
    description: str | None | UnsetType = UNSET


async def _get(c: IdentityService, req: Request, group_id: str, rule: str) -> Group:
    """The group when the caller may; who may nothing is not told whether it exists."""
    group = await groups.get(c.db, group_id)
    req.authorize(rule, targets.of_group(group) if group else {})
    if group is None:
        raise CouldNotFind(what="group", id=group_id)
    return group


def _twice(name: str, domain_id: str) -> Duplicate:
    return Duplicate(what="group", reason=f"Duplicate entry found with name {name} at domain ID {domain_id}.")


async def list(c: IdentityService, ctx: Context, req: Request) -> Any:
    req.authorize("identity:list_groups", {"target.group.domain_id": ctx.domain_id})
    found = await groups.every(c.db, **views.named(req), **({"domain_id": ctx.domain_id} if ctx.domain_id else {}))
    return views.collection(req, "groups", views.filtered(req, [views.group(req, g) for g in found], ("name", "domain_id", "id")))


async def create(c: IdentityService, ctx: Context, req: Request, body: Body) -> Reply:
    wanted, extra = entity(body, "group", GroupIn)
    domain_id = wanted.domain_id or ctx.domain_id or c.settings["identity"].default_domain_id
    req.authorize("identity:create_group", {"target.group.domain_id": domain_id})
    required(body, "group", wanted, "name")
    assert wanted.name is not UNSET
    group = Group(id=c.runtime.uuid_hex(), name=wanted.name.strip(), domain_id=domain_id, description=wanted.description or "", extra=extra)

    async def write(tx: Transaction) -> None:
        await tree.domain(tx, domain_id)
        await groups.insert(tx, group)

    try:
        await c.db.transact(write)
    except DuplicateRow:
        raise _twice(group.name, domain_id) from None
    return Reply({"group": views.group(req, group)}, 201)


async def show(c: IdentityService, ctx: Context, req: Request, group_id: str) -> Any:
    return {"group": views.group(req, await _get(c, req, group_id, "identity:get_group"))}


async def update(c: IdentityService, ctx: Context, req: Request, group_id: str, body: Body) -> Any:
    group = await _get(c, req, group_id, "identity:update_group")
    wanted, extra = entity(body, "group", GroupIn)
    if wanted.domain_id is not UNSET and wanted.domain_id != group.domain_id:
        raise Invalid(field="domain_id", value=wanted.domain_id, reason="The domain of a group cannot change.")
    columns: dict[str, Any] = {}
    if wanted.name is not UNSET:
        columns["name"] = wanted.name.strip()
    if wanted.description is not UNSET:
        columns["description"] = wanted.description or ""

    async def write(tx: Transaction) -> Group | None:
        now = await groups.get(tx, group_id)
        return await groups.change(tx, now, **columns, **({"extra": {**now.extra, **extra}} if extra else {})) if now else None

    try:
        changed = await c.db.transact(write)
    except DuplicateRow:
        raise _twice(columns["name"], group.domain_id) from None
    if changed is None:
        raise CouldNotFind(what="group", id=group_id)
    return {"group": views.changed(views.group(req, changed), changed.extra)}


async def delete(c: IdentityService, ctx: Context, req: Request, group_id: str) -> None:
    """Members lose what they had by the group: their tokens end."""
    await _get(c, req, group_id, "identity:delete_group")
    now = c.runtime.now_us()

    async def write(tx: Transaction) -> None:
        await users.end_tokens(tx, await assignments.users_of(tx, group_id), now)
        if not await removal.group(tx, group_id):
            raise CouldNotFind(what="group", id=group_id)
        await revisions.bump(tx)

    await c.db.transact(write)


async def list_users(c: IdentityService, ctx: Context, req: Request, group_id: str) -> Any:
    await _get(c, req, group_id, "identity:list_users_in_group")
    found = await users.many(c.db, await assignments.users_of(c.db, group_id))
    documents = views.filtered(req, [views.user(req, u) for u in found], ("name", "domain_id", "enabled", "id"))
    return views.collection(req, "users", documents)


async def _both(c: IdentityService, req: Request, group_id: str, user_id: str, rule: str) -> tuple[Group, User]:
    group, user = await groups.get(c.db, group_id), await users.get(c.db, user_id)
    req.authorize(rule, {**(targets.of_group(group) if group else {}), **(targets.of_user(user) if user else {})})
    if group is None:
        raise CouldNotFind(what="group", id=group_id)
    if user is None:
        raise CouldNotFind(what="user", id=user_id)
    return group, user


async def add_user(c: IdentityService, ctx: Context, req: Request, group_id: str, user_id: str) -> None:
    await _both(c, req, group_id, user_id, "identity:add_user_to_group")

    async def write(tx: Transaction) -> None:
        if await groups.get(tx, group_id) is None or await users.get(tx, user_id) is None:
            raise CouldNotFind(what="group", id=group_id)
        await assignments.join(tx, group_id, user_id)
        await revisions.bump(tx)

    await c.db.transact(write)


async def show_user(c: IdentityService, ctx: Context, req: Request, group_id: str, user_id: str) -> None:
    await _both(c, req, group_id, user_id, "identity:check_user_in_group")
    if not await assignments.is_member(c.db, group_id, user_id):
        raise NotAMember(user=user_id, group=group_id)


async def remove_user(c: IdentityService, ctx: Context, req: Request, group_id: str, user_id: str) -> None:
    """The user's tokens end, as they do in Keystone."""
    await _both(c, req, group_id, user_id, "identity:remove_user_from_group")
    now = c.runtime.now_us()

    async def write(tx: Transaction) -> None:
        if not await assignments.leave(tx, group_id, user_id):
            raise NotAMember(user=user_id, group=group_id)
        await users.end_tokens(tx, [user_id], now)
        await revisions.bump(tx)

    await c.db.transact(write)


async def list_of_user(c: IdentityService, ctx: Context, req: Request, user_id: str) -> Any:
    user = await users.get(c.db, user_id)
    req.authorize("identity:list_groups_for_user", targets.of_user(user) if user else {"user_id": user_id})
    if user is None:
        raise CouldNotFind(what="user", id=user_id)
    found = await groups.many(c.db, await assignments.groups_of(c.db, user_id))
    documents = [{**views.group(req, g), "membership_expires_at": None} for g in found]
    return views.collection(req, "groups", views.filtered(req, documents, ("name", "domain_id", "id")))
