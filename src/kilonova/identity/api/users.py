"""Users, their passwords, and where they have roles."""

from typing import Any

import msgspec
from msgspec import UNSET, UnsetType

from kilonova.core.context import Context
from kilonova.core.db import Duplicate as DuplicateRow
from kilonova.core.db import Reader, Transaction
from kilonova.core.errors import BadRequest
from kilonova.core.http import Reply, Request
from kilonova.identity.api import views
from kilonova.identity.api.bodies import Body, Flag, Ident, Name, entity, flag, given, required
from kilonova.identity.domain import grants, passwords, removal, targets
from kilonova.identity.domain import projects as tree
from kilonova.identity.domain.options import merged
from kilonova.identity.errors import CouldNotFind, Duplicate, Invalid, WrongCredentials
from kilonova.identity.model import User
from kilonova.identity.service import IdentityService
from kilonova.identity.store import projects, users
from kilonova.identity.store import revision as revisions


class UserOptions(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    ignore_change_password_upon_first_use: bool | None | UnsetType = UNSET
    ignore_password_expiry: bool | None | UnsetType = UNSET
    ignore_lockout_failure_attempts: bool | None | UnsetType = UNSET
    ignore_user_inactivity: bool | None | UnsetType = UNSET
    lock_password: bool | None | UnsetType = UNSET
    multi_factor_auth_enabled: bool | None | UnsetType = UNSET
    multi_factor_auth_rules: list[list[str]] | None | UnsetType = UNSET


class UserIn(msgspec.Struct, kw_only=True):
    name: Name | UnsetType = UNSET
    domain_id: Ident | UnsetType = UNSET
    enabled: Flag | UnsetType = UNSET
    default_project_id: str | None | UnsetType = UNSET
    password: str | None | UnsetType = UNSET
    options: UserOptions | UnsetType = UNSET


class PasswordIn(msgspec.Struct, kw_only=True):
    password: str
    original_password: str


async def _get(c: IdentityService, req: Request, user_id: str, rule: str) -> User:
    """The user when the caller may; who may nothing is not told whether it exists."""
    user = await users.get(c.db, user_id)
    req.authorize(rule, targets.of_user(user) if user else {"target.user.id": user_id})
    if user is None:
        raise CouldNotFind(what="user", id=user_id)
    return user


async def list(c: IdentityService, ctx: Context, req: Request) -> Any:
    """With a token of a domain only that domain's users."""
    req.authorize("identity:list_users", {"target.domain_id": ctx.domain_id})
    found = await users.every(c.db, **views.named(req), **({"domain_id": ctx.domain_id} if ctx.domain_id else {}))
    return views.collection(req, "users", views.filtered(req, [views.user(req, u) for u in found], ("name", "domain_id", "enabled", "id")))


async def create(c: IdentityService, ctx: Context, req: Request, body: Body) -> Reply:
    wanted, extra = entity(body, "user", UserIn)
    domain_id = wanted.domain_id or ctx.domain_id or c.settings["identity"].default_domain_id
    req.authorize("identity:create_user", {"target.user.domain_id": domain_id})
    required(body, "user", wanted, "name")
    assert wanted.name is not UNSET
    await tree.domain(c.db, domain_id)
    user = User(
        id=c.runtime.uuid_hex(),
        name=wanted.name.strip(),
        domain_id=domain_id,
        enabled=flag(wanted.enabled, True),
        default_project_id=wanted.default_project_id or None,
        password_hash=await _hashed(c, wanted.password),
        password_expires_at=None,
        tokens_valid_from=0,
        options=merged({}, given(wanted.options)) if isinstance(wanted.options, UserOptions) else {},
        extra=extra,
        created_at=c.runtime.now_us(),
    )

    async def write(tx: Transaction) -> None:
        await tree.domain(tx, domain_id)
        await _default_project(tx, user.default_project_id)
        await users.insert(tx, user)

    try:
        await c.db.transact(write)
    except DuplicateRow:
        raise _twice(user.name, domain_id) from None
    return Reply({"user": views.user(req, user)}, 201)


def _twice(name: str, domain_id: str) -> Duplicate:
    return Duplicate(what="user", reason=f"Duplicate entry found with name {name} at domain ID {domain_id}.")


async def _default_project(reader: Reader, project_id: str | None) -> None:
    """A project that does not exist (yet) is allowed, a domain is not."""
    project = await projects.get(reader, project_id) if project_id else None
    if project is not None and project.is_domain:
        raise Invalid(field="default_project_id", value=project_id, reason="A domain cannot be a user's default project.")


async def _hashed(c: IdentityService, password: str | None | UnsetType) -> str | None:
    if not isinstance(password, str):
        return None
    settings = c.settings["identity"]
    if len(password) > settings.max_password_length:
        raise BadRequest(f"Invalid input for field/attribute password. It is longer than {settings.max_password_length} characters.")
    return await passwords.hashed(c.runtime, password, settings.password_hash_rounds)


async def show(c: IdentityService, ctx: Context, req: Request, user_id: str) -> Any:
    return {"user": views.user(req, await _get(c, req, user_id, "identity:get_user"))}


async def update(c: IdentityService, ctx: Context, req: Request, user_id: str, body: Body) -> Any:
    user = await _get(c, req, user_id, "identity:update_user")
    wanted, extra = entity(body, "user", UserIn)
    if wanted.domain_id is not UNSET and wanted.domain_id != user.domain_id:
        raise Invalid(field="domain_id", value=wanted.domain_id, reason="The domain of a user cannot change.")
    columns: dict[str, Any] = {}
    if wanted.name is not UNSET:
        columns["name"] = wanted.name.strip()
    if wanted.default_project_id is not UNSET:
        columns["default_project_id"] = wanted.default_project_id or None
    if wanted.enabled is not UNSET:
        columns["enabled"] = flag(wanted.enabled, user.enabled)
    if wanted.password is not UNSET:
        columns["password_hash"] = await _hashed(c, wanted.password)
    if wanted.password is not UNSET or columns.get("enabled") is False:
        columns["tokens_valid_from"] = c.runtime.now_us()

    async def write(tx: Transaction) -> User | None:
        now = await users.get(tx, user_id)
        if now is None:
            return None
        await _default_project(tx, columns.get("default_project_id"))
        if isinstance(wanted.options, UserOptions):
            columns["options"] = merged(now.options, given(wanted.options))
        if extra:
            columns["extra"] = {**now.extra, **extra}
        await revisions.bump(tx)
        return await users.change(tx, now, **columns)

    try:
        changed = await c.db.transact(write)
    except DuplicateRow:
        raise _twice(columns["name"], user.domain_id) from None
    if changed is None:
        raise CouldNotFind(what="user", id=user_id)
    return {"user": views.changed(views.user(req, changed), changed.extra)}


async def delete(c: IdentityService, ctx: Context, req: Request, user_id: str) -> None:
    await _get(c, req, user_id, "identity:delete_user")

    async def body(tx: Transaction) -> None:
        if not await removal.user(tx, user_id):
            raise CouldNotFind(what="user", id=user_id)
        await revisions.bump(tx)

    await c.db.transact(body)


async def change_password(c: IdentityService, ctx: Context, req: Request, user_id: str, body: Body) -> None:
    """The caller proves himself with the old password; no token is needed. His tokens end."""
    wanted, _ = entity(body, "user", PasswordIn)
    user = await users.get(c.db, user_id)
    settings = c.settings["identity"]
    if len(wanted.original_password) > settings.max_password_length:
        raise WrongCredentials
    right = await passwords.matches(
        c.runtime, wanted.original_password, user.password_hash if user else None, settings.password_hash_rounds
    )
    domain = await projects.get(c.db, user.domain_id) if user else None
    if user is None or not right or not user.enabled or domain is None or not domain.enabled:
        raise WrongCredentials
    hashed = await _hashed(c, wanted.password)

    async def write(tx: Transaction) -> None:
        now = await users.get(tx, user.id)
        if now is None or now.password_hash != user.password_hash:
            raise WrongCredentials
        await users.change(tx, user, password_hash=hashed, tokens_valid_from=c.runtime.now_us())
        await revisions.bump(tx)

    await c.db.transact(write)


async def list_projects(c: IdentityService, ctx: Context, req: Request, user_id: str) -> Any:
    user = await _get(c, req, user_id, "identity:list_user_projects")
    ids, _, _ = await grants.scopes_of(c.db, user.id)
    documents = [views.project(req, p) for p in await projects.many(c.db, ids)]
    return views.collection(req, "projects", views.filtered(req, documents, ("name", "domain_id", "enabled")))
