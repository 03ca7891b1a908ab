"""Effective roles: direct grants, grants of groups, roles inherited from the domain or a parent project, and implied roles."""

from collections.abc import Sequence

import msgspec

from kilonova.core.db import Reader
from kilonova.identity.model import Assignment, Role
from kilonova.identity.store import assignments, projects
from kilonova.identity.store.rows import roles


class RoleTable(msgspec.Struct, frozen=True):
    """All roles and what each implies, directly or not (itself among them)."""

    by_id: dict[str, Role]
    closure: dict[str, tuple[str, ...]]
    edges: dict[str, tuple[str, ...]]
    """What each role implies directly."""

    def expand(self, role_ids: list[str]) -> list[Role]:
        """With implied roles; each once, in the order they are reached. A role of a domain counts only for what it implies."""
        seen: dict[str, None] = {}
        for role_id in role_ids:
            for implied in self.closure.get(role_id, ()):
                seen[implied] = None
        return [role for role_id in seen if (role := self.by_id[role_id]).domain_id is None]


async def role_table(reader: Reader) -> RoleTable:
    by_id = {role.id: role for role in await roles.every(reader)}
    edges: dict[str, list[str]] = {}
    for prior, implied in await assignments.implications(reader):
        edges.setdefault(prior, []).append(implied)
    closure = {}
    for role_id in by_id:
        reached: dict[str, None] = {}
        todo = [role_id]
        while todo:
            at = todo.pop()
            if at not in reached and at in by_id:
                reached[at] = None
                todo.extend(reversed(edges.get(at, [])))
        closure[role_id] = tuple(reached)
    return RoleTable(by_id, closure, {prior: tuple(i for i in implied if i in by_id) for prior, implied in edges.items()})


async def grants_of_user(reader: Reader, user_id: str) -> list[Assignment]:
    groups = await assignments.groups_of(reader, user_id)
    own = await assignments.of_actors(reader, [user_id, *groups])
    allowed = {(user_id, "user"), *((g, "group") for g in groups)}
    # An id that is a user's and a group's at once must not mix their roles.
    return [a for a in own if (a.actor_id, a.actor_type) in allowed]


async def ancestors(reader: Reader, project_id: str) -> list[str]:
    """The parents of a project, nearest first, its domain last."""
    out: list[str] = []
    project = await projects.get(reader, project_id)
    while project is not None and project.parent_id is not None and len(out) < 32:
        out.append(project.parent_id)
        project = await projects.get(reader, project.parent_id)
    if project is not None and not project.is_domain and project.domain_id not in out:
        out.append(project.domain_id)
    return out


async def role_ids_on(reader: Reader, user_id: str, scope: str, scope_id: str) -> list[str]:
    """Roles granted on exactly this scope, or inherited by it; implied ones are not added yet."""
    above = await ancestors(reader, scope_id) if scope == "project" else []
    found: dict[str, None] = {}
    for a in await grants_of_user(reader, user_id):
        if scope == "system":
            if a.target_type == "system":
                found[a.role_id] = None
        elif a.target_type != "system":
            if (a.target_id == scope_id and not a.inherited and a.target_type == scope) or (a.inherited and a.target_id in above):
                found[a.role_id] = None
    return list(found)


async def scopes_of(reader: Reader, user_id: str) -> tuple[list[str], list[str], bool]:
    """(projects, domains, system): where the user has any role."""
    project_ids: dict[str, None] = {}
    domain_ids: dict[str, None] = {}
    inherited_from: list[str] = []
    system = False
    for a in await grants_of_user(reader, user_id):
        if a.target_type == "system":
            system = True
        elif a.inherited:
            inherited_from.append(a.target_id)
        elif a.target_type == "project":
            project_ids[a.target_id] = None
        else:
            domain_ids[a.target_id] = None
    if inherited_from:
        for ident in below(await projects.tree(reader), inherited_from):
            project_ids[ident] = None
    return list(project_ids), list(domain_ids), system


def below(tree: Sequence[tuple[str, str | None, str]], tops: Sequence[str]) -> list[str]:
    """The projects of a tree (id, parent, domain) that are under one of these domains or projects."""
    above = {ident: (parent, domain) for ident, parent, domain in tree}
    wanted = set(tops)
    out = []
    for ident, parent, domain in tree:
        at = parent
        steps = 0
        while at is not None and at not in wanted and at in above and steps < 64:
            at, steps = above[at][0], steps + 1
        if at in wanted or domain in wanted:
            out.append(ident)
    return out
