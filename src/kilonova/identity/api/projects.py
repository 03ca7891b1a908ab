"""Projects, their place in the tree, and their tags."""

import urllib.parse
from collections.abc import Callable, Sequence
from typing import Any

import msgspec
from msgspec import UNSET, UnsetType

from kilonova.core.context import Context
from kilonova.core.db import Duplicate as DuplicateRow
from kilonova.core.db import Transaction, attempts
from kilonova.core.errors import Conflict, Forbidden
from kilonova.core.http import Reply, Request
from kilonova.identity.api import views
from kilonova.identity.api.bodies import (
    Body,
    Flag,
    Ident,
    Immutable,
    ProjectName,
    Tag,
    Tags,
    distinct_tags,
    entity,
    flag,
    given,
    required,
    sent,
)
from kilonova.identity.domain import grants, targets
from kilonova.identity.domain import projects as tree
from kilonova.identity.domain.options import may_change, merged
from kilonova.identity.errors import CouldNotFind, Duplicate, Invalid
from kilonova.identity.model import Project
from kilonova.identity.service import IdentityService
from kilonova.identity.store import projects
from kilonova.identity.store import revision as revisions

FILTERS = ("name", "domain_id", "enabled", "parent_id", "is_domain", "id")


class ProjectIn(msgspec.Struct, kw_only=True):
    name: ProjectName | UnsetType = UNSET
    domain_id: Ident | None | UnsetType = UNSET
    parent_id: Ident | None | UnsetType = UNSET
    is_domain: Flag | UnsetType = UNSET
    description: str | None | UnsetType = UNSET
    enabled: Flag | UnsetType = UNSET
    tags: Tags | UnsetType = UNSET
    options: Immutable | UnsetType = UNSET


class TagsIn(msgspec.Struct, forbid_unknown_fields=True):
    tags: Tags


async def _get(c: IdentityService, req: Request, project_id: str, rule: str) -> Project:
    """The project when the caller may; who may nothing is not told whether it exists."""
    project = await projects.get(c.db, project_id)
    req.authorize(rule, targets.of_project(project) if project else {})
    if project is None:
        raise CouldNotFind(what="project", id=project_id)
    return project


async def list(c: IdentityService, ctx: Context, req: Request) -> Any:
    req.authorize("identity:list_projects", {"target.domain_id": ctx.domain_id})
    wanted = {"is_domain": flag(_word(req.one("is_domain")), False)}
    found = await projects.every(c.db, **views.named(req), **wanted, **({"domain_id": ctx.domain_id} if ctx.domain_id else {}))
    documents = [views.project(req, p) for p in _tagged(req, found)]
    return views.collection(req, "projects", views.filtered(req, documents, FILTERS))


def _word(text: str | None) -> bool | None:
    return None if text is None else text.lower() not in views.NO


def _tagged(req: Request, found: Sequence[Project]) -> Sequence[Project]:
    for name, asked in req.query:
        wanted = {t for t in asked.split(",") if t}
        if name == "tags":
            found = [p for p in found if wanted <= set(p.tags)]
        elif name == "tags-any":
            found = [p for p in found if wanted & set(p.tags)]
        elif name == "not-tags":
            found = [p for p in found if not wanted <= set(p.tags)]
        elif name == "not-tags-any":
            found = [p for p in found if not wanted & set(p.tags)]
    return found


async def create(c: IdentityService, ctx: Context, req: Request, body: Body) -> Reply:
    wanted, extra = entity(body, "project", ProjectIn)
    is_domain = flag(wanted.is_domain, False)
    domain_id = wanted.domain_id or None
    if not is_domain and domain_id is None:
        domain_id = ctx.domain_id or c.settings["identity"].default_domain_id
    req.authorize("identity:create_project", {"target.project.domain_id": domain_id})
    required(body, "project", wanted, "name")
    assert wanted.name is not UNSET
    ident = c.runtime.uuid_hex()
    if is_domain and (domain_id is not None or wanted.parent_id):
        raise Invalid(field="is_domain", value="true", reason="A project that acts as a domain has neither a domain nor a parent.")
    project = new(
        c,
        id=ident,
        name=wanted.name.strip(),
        domain_id=domain_id or ident,
        parent_id=None if is_domain else wanted.parent_id or domain_id,
        is_domain=is_domain,
        enabled=flag(wanted.enabled, True),
        description=wanted.description or "",
        tags=wanted.tags or [],
        options=wanted.options,
        extra=extra,
    )
    return Reply({"project": views.project(req, await insert(c, project))}, 201)


def new(c: IdentityService, *, tags: Sequence[str], options: Immutable | UnsetType, **attributes: Any) -> Project:
    """Of the two texts that a project and a domain share."""
    kept = merged({}, given(options)) if isinstance(options, Immutable) else {}
    return Project(tags=distinct_tags(tags), options=kept, created_at=c.runtime.now_us(), **attributes)


async def insert(c: IdentityService, project: Project) -> Project:
    """Store a project or a domain. Raises CouldNotFind, Invalid, Forbidden, Conflict."""
    depth = c.settings["DEFAULT"].max_project_tree_depth

    async def write(tx: Transaction) -> None:
        if not project.is_domain:
            await tree.domain(tx, project.domain_id)
            await tree.place(tx, project.name, project.domain_id, project.parent_id or project.domain_id, depth)
        await projects.insert(tx, project)

    try:
        await c.db.transact(write)
    except DuplicateRow:
        raise twice(project) from None
    return project


def twice(project: Project) -> Conflict:
    if project.is_domain:
        return Duplicate(
            what="project", reason=f"it is not permitted to have two projects acting as domains with the same name: {project.name}."
        )
    return Duplicate(
        what="project",
        reason="it is not permitted to have two projects with either the same name or same id in the same domain: "
        f"name is {project.name}, project id {project.id}.",
    )


async def show(c: IdentityService, ctx: Context, req: Request, project_id: str) -> Any:
    project = await _get(c, req, project_id, "identity:get_project")
    document = views.project(req, project)
    asked = {name for name, _ in req.query}
    if asked & {"parents_as_list", "parents_as_ids"}:
        above = [p for p in await tree.parents(c.db, project) if not p.is_domain or "parents_as_ids" in asked]
        document["parents"] = _nested_up(above) if "parents_as_ids" in asked else await _visible(c, ctx, req, above)
    if asked & {"subtree_as_list", "subtree_as_ids"}:
        below = await tree.subtree(c.db, project.id)
        document["subtree"] = _nested_down(project.id, below) if "subtree_as_ids" in asked else await _visible(c, ctx, req, below)
    return {"project": document}


async def _visible(c: IdentityService, ctx: Context, req: Request, found: Sequence[Project]) -> Any:
    """Those on which the caller has a role, as a list of documents."""
    ids, _, _ = await grants.scopes_of(c.db, ctx.user_id or "")
    mine = set(ids)
    return [{"project": views.project(req, p)} for p in found if p.id in mine]


def _nested_up(above: Sequence[Project]) -> dict[str, Any] | None:
    out: dict[str, Any] | None = None
    for project in reversed(above):
        out = {project.id: out}
    return out


def _nested_down(top: str, below: Sequence[Project]) -> dict[str, Any] | None:
    inside: dict[str | None, dict[str, Any]] = {}
    for project in reversed(below):
        inside.setdefault(project.parent_id, {})[project.id] = inside.get(project.id)
    return inside.get(top)


async def update(c: IdentityService, ctx: Context, req: Request, project_id: str, body: Body) -> Any:
    project = await _get(c, req, project_id, "identity:update_project")
    wanted, extra = entity(body, "project", ProjectIn)
    if wanted.parent_id is not UNSET and wanted.parent_id != project.parent_id:
        raise Forbidden("Update of `parent_id` is not allowed.")
    if wanted.is_domain is not UNSET and flag(wanted.is_domain, False) != project.is_domain:
        raise Invalid(field="is_domain", value=flag(wanted.is_domain, False), reason="Update of `is_domain` is not allowed.")
    if wanted.domain_id is not UNSET and wanted.domain_id != (None if project.is_domain else project.domain_id):
        raise Invalid(field="domain_id", value=wanted.domain_id, reason="Update of `domain_id` is not allowed.")
    project = await change(c, project, wanted, extra, sent(body, "project"))
    return {"project": views.changed(views.project(req, project), project.extra)}


async def change(c: IdentityService, project: Project, wanted: Any, extra: dict[str, Any], given_keys: dict[str, Any]) -> Project:
    """Apply what a client wants of a project or a domain. `wanted` has name, description, enabled, tags, options."""
    kind = "domain" if project.is_domain else "project"
    name = wanted.name.strip() if wanted.name is not UNSET else project.name

    async def write(tx: Transaction) -> Project:
        now = await projects.get(tx, project.id)
        if now is None:
            raise CouldNotFind(what=kind, id=project.id)
        may_change(now.options, kind, now.id, given_keys)
        columns: dict[str, Any] = {}
        if wanted.name is not UNSET:
            columns["name"] = name
        if wanted.description is not UNSET:
            columns["description"] = wanted.description or ""
        if wanted.tags is not UNSET:
            columns["tags"] = distinct_tags(wanted.tags)
        if wanted.options is not UNSET:
            columns["options"] = merged(now.options, given(wanted.options))
        if extra:
            columns["extra"] = {**now.extra, **extra}
        enabled = flag(wanted.enabled, now.enabled)
        if enabled != now.enabled:
            if not now.is_domain:
                await tree.may_be(tx, now, enabled)
            columns["enabled"] = enabled
        changed = await projects.change(tx, now, **columns)
        await revisions.bump(tx)
        return changed or now

    try:
        return await c.db.transact(write)
    except DuplicateRow:
        raise twice(msgspec.structs.replace(project, name=name)) from None


async def delete(c: IdentityService, ctx: Context, req: Request, project_id: str) -> None:
    await _get(c, req, project_id, "identity:delete_project")
    await c.db.transact(lambda tx: tree.delete(tx, project_id))


# ---- tags


async def list_tags(c: IdentityService, ctx: Context, req: Request, project_id: str) -> Any:
    return _tags(req, await _get(c, req, project_id, "identity:list_project_tags"))


def _tags(req: Request, project: Project) -> dict[str, Any]:
    return {"tags": [*project.tags], "links": {"self": f"{req.base_url}/v3"}}


async def replace_tags(c: IdentityService, ctx: Context, req: Request, project_id: str, body: TagsIn) -> Any:
    await _get(c, req, project_id, "identity:update_project_tags")
    return _tags(req, await _retag(c, project_id, lambda have: distinct_tags(body.tags)))


async def delete_tags(c: IdentityService, ctx: Context, req: Request, project_id: str) -> None:
    await _get(c, req, project_id, "identity:delete_project_tags")
    await _retag(c, project_id, lambda have: ())


async def show_tag(c: IdentityService, ctx: Context, req: Request, project_id: str, value: str) -> None:
    project = await _get(c, req, project_id, "identity:get_project_tag")
    if value not in project.tags:
        raise CouldNotFind(what="project tag", id=value)


async def add_tag(c: IdentityService, ctx: Context, req: Request, project_id: str, value: str) -> Reply:
    await _get(c, req, project_id, "identity:create_project_tag")
    try:
        msgspec.convert(value, Tag)
    except msgspec.ValidationError as error:
        raise Invalid(field="value", value=value[:80], reason=f"{error}.") from None

    def added(have: tuple[str, ...]) -> tuple[str, ...]:
        if value not in have and len(have) >= 80:
            raise Invalid(field="value", value=value, reason="A project has at most 80 tags.")
        return distinct_tags(sorted({*have, value}))

    await _retag(c, project_id, added)
    return Reply(
        b"",
        201,
        {"location": f"{req.base_url}/v3/projects/{project_id}/tags/{urllib.parse.quote(value)}"},
        content_type="text/html; charset=utf-8",
    )


async def delete_tag(c: IdentityService, ctx: Context, req: Request, project_id: str, value: str) -> None:
    project = await _get(c, req, project_id, "identity:delete_project_tag")
    if value not in project.tags:
        raise CouldNotFind(what="project tag", id=value)
    await _retag(c, project_id, lambda have: tuple(t for t in have if t != value))


async def _retag(c: IdentityService, project_id: str, change: Callable[[tuple[str, ...]], tuple[str, ...]]) -> Project:
    """Change the tags from what they are; again when somebody else changed them meanwhile."""

    async def write(tx: Transaction) -> Project | None:
        project = await projects.get(tx, project_id)
        if project is None:
            raise CouldNotFind(what="project", id=project_id)
        tags = change(project.tags)
        return msgspec.structs.replace(project, tags=tags) if await projects.set_tags(tx, project, tags) else None

    async for _ in attempts(c.runtime):
        done = await c.db.transact(write)
        if done is not None:
            return done
    raise Conflict("The tags of this project are changed by others all the time; try again.")
