"""Users, their passwords, and where they have roles."""

from typing import Annotated, Any

import msgspec
from msgspec import UNSET, Meta, UnsetType

from kilonova.core.context import Context
from kilonova.core.db import Duplicate as DuplicateRow
from kilonova.core.db import Transaction
from kilonova.core.errors import BadRequest
from kilonova.core.http import Reply, Request
from kilonova.identity.api import views
from kilonova.identity.api.bodies import Body, entity, given
from kilonova.identity.domain import grants, passwords
from kilonova.identity.errors import CouldNotFind, Duplicate, WrongCredentials
from kilonova.identity.model import User
from kilonova.identity.service import IdentityService
from kilonova.identity.store import assignments, projects, users
from kilonova.identity.store import revision as revisions

Name = Annotated[str, Meta(min_length=1, max_length=255)]


class UserIn(msgspec.Struct, kw_only=True):
    name: Name | UnsetType = UNSET
    domain_id: str | UnsetType = UNSET
    enabled: bool | UnsetType = UNSET
    default_project_id: str | None | UnsetType = UNSET
    password: str | None | UnsetType = UNSET
    options: dict[str, Any] | UnsetType = UNSET


class PasswordIn(msgspec.Struct, kw_only=True):
    password: str
    original_password: str


def target(user: User) -> dict[str, Any]:
    return {"target.user.id": user.id, "target.user.domain_id": user.domain_id, "user_id": user.id, "target.domain_id": user.domain_id}


async def _get(c: IdentityService, req: Request, user_id: str, rule: str) -> User:
    """The user when the caller may; who may nothing is not told whether it exists."""
    user = await users.get(c.db, user_id)
    req.authorize(rule, target(user) if user else {"target.user.id": user_id})
    if user is None:
        raise CouldNotFind(what="user", id=user_id)
    return user


async def list(c: IdentityService, ctx: Context, req: Request) -> Any:
    domain = req.one("domain_id") or ctx.domain_id
    req.authorize("identity:list_users", {"target.domain_id": domain})
    found = await users.every(c.db, **({"domain_id": ctx.domain_id} if ctx.domain_id and not ctx.is_admin else {}))
    return views.collection(req, "users", views.filtered(req, [views.user(req, u) for u in found], ("name", "domain_id", "enabled", "id")))


async def _domain(c: IdentityService, ctx: Context, wanted: str | UnsetType) -> str:
    ident = wanted if isinstance(wanted, str) else ctx.domain_id or c.settings["identity"].default_domain_id
    domain = await projects.get(c.db, ident)
    if domain is None or not domain.is_domain:
        raise CouldNotFind(what="domain", id=ident)
    return ident


async def create(c: IdentityService, ctx: Context, req: Request, body: Body) -> Reply:
    wanted, extra = entity(body, "user", UserIn)
    if wanted.name is UNSET:
        raise BadRequest("Invalid input for field/attribute user. 'name' is a required property.")
    ident = wanted.domain_id if isinstance(wanted.domain_id, str) else ctx.domain_id or c.settings["identity"].default_domain_id
    req.authorize("identity:create_user", {"target.user.domain_id": ident})
    domain_id = await _domain(c, ctx, wanted.domain_id)
    hashed = await _hashed(c, wanted.password)
    user = User(
        id=c.runtime.uuid_hex(),
        name=wanted.name.strip(),
        domain_id=domain_id,
        enabled=wanted.enabled is not False,
        default_project_id=wanted.default_project_id if isinstance(wanted.default_project_id, str) else None,
        password_hash=hashed,
        password_expires_at=None,
        tokens_valid_from=0,
        options=wanted.options if isinstance(wanted.options, dict) else {},
        extra=extra,
        created_at=c.runtime.now_us(),
    )
    await _store(c, user, new=True)
    return Reply({"user": views.user(req, user)}, 201)


async def _hashed(c: IdentityService, password: str | None | UnsetType) -> str | None:
    if not isinstance(password, str):
        return None
    settings = c.settings["identity"]
    if len(password) > settings.max_password_length:
        raise BadRequest(f"Invalid input for field/attribute password. It is longer than {settings.max_password_length} characters.")
    return await passwords.hashed(c.runtime, password, settings.password_hash_rounds)


async def _store(c: IdentityService, user: User, *, new: bool) -> None:
    async def write(tx: Transaction) -> None:
        if new:
            await users.insert(tx, user)
        elif not await users.update(tx, user):
            raise CouldNotFind(what="user", id=user.id)
        else:
            await revisions.bump(tx)

    try:
        await c.db.transact(write)
    except DuplicateRow:
        raise Duplicate(what="user", reason=f"Duplicate entry found with name {user.name} at domain ID {user.domain_id}.") from None


async def show(c: IdentityService, ctx: Context, req: Request, user_id: str) -> Any:
    return {"user": views.user(req, await _get(c, req, user_id, "identity:get_user"))}


async def update(c: IdentityService, ctx: Context, req: Request, user_id: str, body: Body) -> Any:
    user = await _get(c, req, user_id, "identity:update_user")
    wanted, extra = entity(body, "user", UserIn)
    changes = given(wanted)
    if changes.get("domain_id", user.domain_id) != user.domain_id:
        raise BadRequest("Invalid input for field/attribute domain_id. The domain of a user cannot change.")
    password = changes.pop("password", UNSET)
    if password is not UNSET:
        changes["password_hash"] = await _hashed(c, password)
    if password is not UNSET or changes.get("enabled") is False:
        changes["tokens_valid_from"] = c.runtime.now_us()
    changed = msgspec.structs.replace(user, **changes, extra={**user.extra, **extra})
    await _store(c, changed, new=False)
    document = views.user(req, changed)
    return {"user": {**document, "extra": changed.extra} if changed.extra else document}


async def delete(c: IdentityService, ctx: Context, req: Request, user_id: str) -> None:
    user = await _get(c, req, user_id, "identity:delete_user")

    async def body(tx: Transaction) -> None:
        await assignments.delete_where(tx, actor_type="user", actor_id=user.id)
        await assignments.delete_members(tx, user_id=user.id)
        await users.delete(tx, user.id)
        await revisions.bump(tx)

    await c.db.transact(body)


async def change_password(c: IdentityService, ctx: Context, req: Request, user_id: str, body: Body) -> None:
    """The caller proves himself with the old password; no token is needed."""
    wanted, _ = entity(body, "user", PasswordIn)
    user = await users.get(c.db, user_id)
    rounds = c.settings["identity"].password_hash_rounds
    right = await passwords.matches(c.runtime, wanted.original_password, user.password_hash if user else None, rounds)
    if user is None or not right or not user.enabled:
        raise WrongCredentials
    hashed = await _hashed(c, wanted.password)
    await _store(c, msgspec.structs.replace(user, password_hash=hashed, tokens_valid_from=c.runtime.now_us()), new=False)


async def list_projects(c: IdentityService, ctx: Context, req: Request, user_id: str) -> Any:
    user = await _get(c, req, user_id, "identity:list_user_projects")
    ids, _, _ = await grants.scopes_of(c.db, user.id)
    found = [await projects.get(c.db, ident) for ident in ids]
    documents = [views.project(req, p) for p in found if p is not None]
    return views.collection(req, "projects", views.filtered(req, documents, ("name", "domain_id", "enabled")))
