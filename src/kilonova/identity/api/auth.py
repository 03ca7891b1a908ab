"""Tokens: issue, validate, revoke; and what the caller's token opens (catalog, projects, domains, system)."""

from typing import Any

import msgspec

from kilonova.core import times
from kilonova.core.context import Context
from kilonova.core.errors import BadRequest, NotFound, Unauthorized
from kilonova.core.http import Reply, Request
from kilonova.identity.api import views
from kilonova.identity.domain import catalog, grants, passwords
from kilonova.identity.domain.tokens import audit_id
from kilonova.identity.errors import UnsupportedMethod, WrongCredentials
from kilonova.identity.model import Project, Token, User
from kilonova.identity.service import IdentityService, Validated
from kilonova.identity.store import projects, users

MAX_CHAIN = 16
"""Tokens that a token may descend from: each makes it 24 characters longer."""
_encode = msgspec.json.Encoder().encode


class DomainRef(msgspec.Struct):
    id: str | None = None
    name: str | None = None


class UserRef(msgspec.Struct):
    password: str
    id: str | None = None
    name: str | None = None
    domain: DomainRef | None = None


class PasswordMethod(msgspec.Struct):
    user: UserRef


class TokenMethod(msgspec.Struct):
    id: str


class IdentityIn(msgspec.Struct):
    methods: list[str]
    password: PasswordMethod | None = None
    token: TokenMethod | None = None


class ProjectRef(msgspec.Struct):
    id: str | None = None
    name: str | None = None
    domain: DomainRef | None = None


class SystemRef(msgspec.Struct):
    all: bool = False


class ScopeIn(msgspec.Struct):
    project: ProjectRef | None = None
    domain: DomainRef | None = None
    system: SystemRef | None = None


class AuthIn(msgspec.Struct):
    identity: IdentityIn
    scope: ScopeIn | str | None = None


class CreateToken(msgspec.Struct):
    auth: AuthIn


async def create(c: IdentityService, ctx: Context, req: Request, body: CreateToken) -> Reply:
    auth = body.auth
    methods = list(dict.fromkeys(auth.identity.methods))
    if not methods:
        raise BadRequest("Invalid input for field/attribute methods. The list must name at least one method.")
    if len(auth.identity.methods) > 8:
        raise BadRequest("Invalid input for field/attribute methods. A method may be named once.")
    now = c.runtime.now_us()
    expires = now + c.settings["token"].expiration * 1_000_000
    expires -= expires % 1_000_000
    user: User | None = None
    chain: tuple[str, ...] = ()
    used: dict[str, None] = {}
    rescoped = False
    for method in methods:
        if method == "password":
            found = await _by_password(c, auth.identity)
            used["password"] = None
        elif method == "token":
            if auth.identity.token is None:
                raise BadRequest("Expecting to find token in identity.")
            try:
                old = await c.validate(auth.identity.token.id)
            except Unauthorized:
                raise WrongCredentials from None
            found, expires, chain, rescoped = old.user, min(expires, old.token.expires_at), old.token.audit_ids, True
            if len(chain) >= MAX_CHAIN:
                raise WrongCredentials(reason="the token was derived too often")
            for name in old.token.methods:
                used[name] = None
            used["token"] = None
        else:
            raise UnsupportedMethod
        if user is not None and user.id != found.id:
            raise WrongCredentials
        user = found
    assert user is not None
    scope, scope_id = await _scope(c, auth.scope, user, rescoped)
    token = Token(
        user_id=user.id,
        methods=tuple(used),
        scope=scope,
        scope_id=scope_id,
        issued_at=now,
        expires_at=expires,
        audit_ids=(audit_id(c.runtime), *chain),
    )
    try:
        validated = await c.resolve(token)
    except Unauthorized:
        raise WrongCredentials from None
    document = await _document(c, validated, with_catalog=req.one("nocatalog") is None)
    return Reply(document, 201, {"x-subject-token": c.seal(token)})


async def _by_password(c: IdentityService, identity: IdentityIn) -> User:
    if identity.password is None:
        raise BadRequest("Expecting to find password in identity.")
    wanted = identity.password.user
    settings = c.settings["identity"]
    if wanted.id is None and (wanted.name is None or wanted.domain is None or (wanted.domain.id is None and wanted.domain.name is None)):
        raise BadRequest("Invalid input for field/attribute user. Give its id, or its name and domain.")
    if len(wanted.password) > settings.max_password_length:
        raise WrongCredentials
    user = None
    if wanted.id is not None:
        user = await users.get(c.db, wanted.id)
    elif wanted.name is not None and wanted.domain is not None:
        domain = await _domain(c, wanted.domain)
        user = await users.by_name(c.db, wanted.name, domain.id) if domain else None
    right = await passwords.matches(c.runtime, wanted.password, user.password_hash if user else None, settings.password_hash_rounds)
    if user is None or not right or not user.enabled:
        raise WrongCredentials
    if user.password_expires_at is not None and user.password_expires_at <= c.runtime.now_us():
        raise WrongCredentials
    return user


async def _domain(c: IdentityService, wanted: DomainRef) -> Project | None:
    found = await projects.get(c.db, wanted.id) if wanted.id is not None else await projects.domain_by_name(c.db, wanted.name or "")
    return found if found is not None and found.is_domain else None


async def _scope(c: IdentityService, wanted: ScopeIn | str | None, user: User, rescoped: bool) -> tuple[str, str]:
    """What the token is for. Nothing asked: the user's default project when he has a role there, else unscoped."""
    if isinstance(wanted, str):
        if wanted != "unscoped":
            raise BadRequest('Invalid input for field/attribute scope. It is an object, or the word "unscoped".')
        return "unscoped", ""
    if wanted is None:
        default = user.default_project_id
        if default and not rescoped and await grants.role_ids_on(c.db, user.id, "project", default):
            project = await projects.get(c.db, default)
            if project is not None and project.enabled:
                return "project", default
        return "unscoped", ""
    if sum(part is not None for part in (wanted.project, wanted.domain, wanted.system)) != 1:
        raise BadRequest("Invalid input for field/attribute scope. It names exactly one of project, domain and system.")
    if wanted.system is not None:
        if not wanted.system.all:
            raise BadRequest('Invalid input for field/attribute system. Its only scope is {"all": true}.')
        return "system", "all"
    if wanted.domain is not None:
        domain = await _domain(c, wanted.domain)
        if domain is None:
            raise WrongCredentials
        return "domain", domain.id
    assert wanted.project is not None
    ref = wanted.project
    if ref.id is not None:
        return "project", ref.id
    if ref.name is None or ref.domain is None:
        raise BadRequest("Invalid input for field/attribute project. Give its id, or its name and domain.")
    domain = await _domain(c, ref.domain)
    found = await projects.by_name(c.db, ref.name, domain.id) if domain else None
    if found is None:
        raise WrongCredentials
    return "project", found.id


async def _document(c: IdentityService, v: Validated, *, with_catalog: bool) -> dict[str, Any]:
    user = {
        "id": v.user.id,
        "name": v.user.name,
        "domain": {"id": v.user_domain.id, "name": v.user_domain.name},
        "password_expires_at": times.iso_us(v.user.password_expires_at) if v.user.password_expires_at else None,
    }
    token: dict[str, Any] = {
        "methods": list(v.token.methods),
        "user": user,
        "audit_ids": [*v.token.audit_ids[:1], *v.token.audit_ids[1:][-1:]],
        "expires_at": times.iso_us_z(v.token.expires_at),
        "issued_at": times.iso_us_z(v.token.issued_at - v.token.issued_at % 1_000_000),
    }
    if v.project is not None and v.project_domain is not None:
        token["project"] = {
            "id": v.project.id,
            "name": v.project.name,
            "domain": {"id": v.project_domain.id, "name": v.project_domain.name},
        }
        token["is_domain"] = v.project.is_domain
    if v.domain is not None:
        token["domain"] = {"id": v.domain.id, "name": v.domain.name}
    if v.token.scope == "system":
        token["system"] = {"all": True}
    if v.token.scope != "unscoped":
        token["roles"] = [{"id": r.id, "name": r.name} for r in v.roles]
        if with_catalog:
            token["catalog"] = catalog.fill(await c.catalog(), v.project.id if v.project else None, v.user.id)
    return {"token": token}


async def _subject(c: IdentityService, req: Request, rule: str, *, allow_expired: bool = False) -> tuple[Validated, str]:
    """The token asked about. That a token is none is told to everybody: there is nobody whom it concerns."""
    text = req.header("x-subject-token")
    if not text:
        raise NotFound("No token in the request")
    try:
        found = await c.validate(text, allow_expired=allow_expired)
    except Unauthorized:
        raise NotFound("Could not recognize Fernet token") from None
    req.authorize(rule, {"target.token.user_id": found.user.id})
    return found, text


async def validate(c: IdentityService, ctx: Context, req: Request) -> Reply:
    return await _shown(c, req, "identity:validate_token")


async def check(c: IdentityService, ctx: Context, req: Request) -> Reply:
    """HEAD: the headers of the answer only."""
    return await _shown(c, req, "identity:check_token")


async def _shown(c: IdentityService, req: Request, rule: str) -> Reply:
    found, text = await _subject(c, req, rule, allow_expired=req.one("allow_expired") in ("1", "true", "True"))
    with_catalog = req.one("nocatalog") is None
    key = (found.token.audit_ids[0], with_catalog)
    body = c.documents.get(key)
    if body is None:
        body = c.documents[key] = _encode(await _document(c, found, with_catalog=with_catalog))
    return Reply(body, 200, {"x-subject-token": text})


async def revoke(c: IdentityService, ctx: Context, req: Request) -> Reply:
    found, _ = await _subject(c, req, "identity:revoke_token")
    await c.revoke(found.token)
    return Reply(None, 204)


async def show_catalog(c: IdentityService, ctx: Context, req: Request) -> dict[str, Any]:
    return {"catalog": catalog.fill(await c.catalog(), ctx.project_id, ctx.user_id), "links": views.link(req, "auth", "catalog")}


async def list_projects(c: IdentityService, ctx: Context, req: Request) -> dict[str, Any]:
    ids, _, _ = await grants.scopes_of(c.db, ctx.user_id or "")
    return views.collection(req, "projects", [views.project(req, p) for p in await projects.many(c.db, ids) if p.enabled])


async def list_domains(c: IdentityService, ctx: Context, req: Request) -> dict[str, Any]:
    _, ids, _ = await grants.scopes_of(c.db, ctx.user_id or "")
    return views.collection(req, "domains", [views.domain(req, p) for p in await projects.many(c.db, ids) if p.enabled])


async def show_system(c: IdentityService, ctx: Context, req: Request) -> dict[str, Any]:
    _, _, system = await grants.scopes_of(c.db, ctx.user_id or "")
    return {"system": [{"all": True}] if system else [], "links": views.link(req, "auth", "system")}
