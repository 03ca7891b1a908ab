"""GET /v3/role_assignments: the grants of the cloud, filtered, as they were made or in effect."""

from typing import Any

from kilonova.core.context import Context
from kilonova.core.errors import BadRequest
from kilonova.core.http import Request
from kilonova.identity.api import views
from kilonova.identity.domain import projects as tree
from kilonova.identity.domain import targets
from kilonova.identity.domain.role_assignments import Filter, Held, listing
from kilonova.identity.errors import CouldNotFind
from kilonova.identity.model import Assignment
from kilonova.identity.service import IdentityService
from kilonova.identity.store import projects, users
from kilonova.identity.store.rows import groups

INHERITED = "scope.OS-INHERIT:inherited_to"


def _on(req: Request, name: str) -> bool:
    """A flag of the query: there, and not false."""
    value = req.one(name)
    return value is not None and value.lower() not in views.NO


def _wanted(req: Request) -> Filter:
    user, group, role = req.one("user.id"), req.one("group.id"), req.one("role.id")
    project, domain, system = req.one("scope.project.id"), req.one("scope.domain.id"), req.one("scope.system")
    if user and group:
        raise BadRequest("Specify a user or group, not both")
    if sum(bool(part) for part in (project, domain, system)) > 1:
        raise BadRequest("Specify only one of scope.project.id, scope.domain.id and scope.system.")
    inherited = req.one(INHERITED)
    if _on(req, "effective"):
        if group:
            raise BadRequest("Combining effective and group filter will always result in an empty list.")
        if inherited and domain:
            raise BadRequest("Combining effective, domain and inherited filters will always result in an empty list.")
    if inherited not in (None, "projects"):
        raise BadRequest(f"Invalid input for field/attribute {INHERITED}. Its only value is projects.")
    scope = "project" if project else "domain" if domain else "system" if system else None
    return Filter(
        user_id=user or None,
        group_id=group or None,
        role_id=role or None,
        target_type=scope,
        target_ids=frozenset([project or domain or "all"]) if scope else None,
        inherited=True if inherited else None,
    )


async def list(c: IdentityService, ctx: Context, req: Request) -> Any:
    if _on(req, "include_subtree"):
        found = await _of_tree(c, req)
    else:
        req.authorize("identity:list_role_assignments", {"target.domain_id": ctx.domain_id})
        found = await listing(c.db, _wanted(req), await c.roles(), in_effect=_on(req, "effective"))
        if ctx.domain_id is not None:
            found = await _of_domain(c, found, ctx.domain_id)
    names = await _Names.load(c, found) if _on(req, "include_names") else None
    return views.collection(req, "role_assignments", [_view(req, held, names) for held in found])


async def _of_tree(c: IdentityService, req: Request) -> Any:
    project_id = req.one("scope.project.id")
    project = await projects.get(c.db, project_id) if project_id else None
    target = {**targets.of_project(project), "target.domain_id": project.domain_id} if project else {}
    req.authorize("identity:list_role_assignments_for_tree", target)
    if not project_id:
        raise BadRequest("scope.project.id must be specified if include_subtree is also specified")
    if project is None:
        raise CouldNotFind(what="project", id=project_id)
    ids = frozenset([project.id, *(p.id for p in await tree.subtree(c.db, project.id))])
    wanted = _wanted(req)
    everything = Filter(
        user_id=wanted.user_id,
        group_id=wanted.group_id,
        role_id=wanted.role_id,
        target_type="project",
        target_ids=ids,
        inherited=wanted.inherited,
    )
    return await listing(c.db, everything, await c.roles(), in_effect=_on(req, "effective"))


async def _of_domain(c: IdentityService, found: Any, domain_id: str) -> Any:
    inside = {p.id for p in await projects.every(c.db, domain_id=domain_id)}
    return [held for held in found if held.target_type != "system" and held.target_id in inside]


class _Names:
    """Names of everything that a list mentions, read at once."""

    def __init__(self) -> None:
        self.projects: dict[str, Any] = {}
        self.users: dict[str, Any] = {}
        self.groups: dict[str, Any] = {}
        self.roles: dict[str, Any] = {}

    @classmethod
    async def load(cls, c: IdentityService, found: Any) -> "_Names":
        names = cls()
        names.roles = (await c.roles()).by_id
        names.users = {u.id: u for u in await users.many(c.db, _ids(h.actor_id for h in found if h.actor_type == "user"))}
        names.groups = {g.id: g for g in await groups.many(c.db, _ids(h.actor_id for h in found if h.actor_type == "group"))}
        names.projects = {p.id: p for p in await projects.many(c.db, _ids(h.target_id for h in found))}
        owned = [*names.users.values(), *names.groups.values(), *names.projects.values(), *names.roles.values()]
        domains = _ids(x.domain_id for x in owned if x.domain_id is not None)
        names.projects |= {p.id: p for p in await projects.many(c.db, domains)}
        return names

    def domain(self, domain_id: str) -> dict[str, Any]:
        found = self.projects.get(domain_id)
        return {"id": domain_id, "name": found.name if found else ""}

    def full(self, noun: Any, ident: str) -> dict[str, Any]:
        if noun is None:
            return {"id": ident, "name": ""}
        return {"id": ident, "name": noun.name, **({"domain": self.domain(noun.domain_id)} if noun.domain_id is not None else {})}


def _ids(idents: Any) -> Any:
    return [*dict.fromkeys(idents)]


def _view(req: Request, held: Held, names: _Names | None) -> dict[str, Any]:
    scope: dict[str, Any]
    if held.target_type == "system":
        scope = {"system": {"all": True}}
    elif held.target_type == "project":
        found = names.projects.get(held.target_id) if names else None
        scope = {"project": names.full(found, held.target_id) if names else {"id": held.target_id}}
    else:
        scope = {"domain": names.domain(held.target_id) if names else {"id": held.target_id}}
    if held.inherited:
        scope["OS-INHERIT:inherited_to"] = "projects"
    people = (names.users if held.actor_type == "user" else names.groups) if names else {}
    links = {"assignment": _link(req, held.grant)}
    if held.grant.actor_type == "group" and held.actor_type == "user":
        links["membership"] = f"{req.base_url}/v3/groups/{held.grant.actor_id}/users/{held.actor_id}"
    if held.prior_role_id is not None:
        links["prior_role"] = f"{req.base_url}/v3/prior_role/{held.role_id}/implies/{held.prior_role_id}"
    return {
        "links": links,
        "scope": scope,
        held.actor_type: names.full(people.get(held.actor_id), held.actor_id) if names else {"id": held.actor_id},
        "role": names.full(names.roles.get(held.role_id), held.role_id) if names else {"id": held.role_id},
    }


def _link(req: Request, a: Assignment) -> str:
    place = "system" if a.target_type == "system" else f"{a.target_type}s/{a.target_id}"
    path = f"{place}/{a.actor_type}s/{a.actor_id}/roles/{a.role_id}"
    return f"{req.base_url}/v3/OS-INHERIT/{path}/inherited_to_projects" if a.inherited else f"{req.base_url}/v3/{path}"
