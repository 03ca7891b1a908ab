"""Grants: a role for a user or a group on a project, a domain or the system; with OS-INHERIT on what is below it instead.

One set of handlers for all: which actor and target it is about, the names of the path's variables say.
"""

from typing import Any

from kilonova.core.context import Context
from kilonova.core.db import Transaction
from kilonova.core.http import Request
from kilonova.identity.api import views
from kilonova.identity.domain import targets
from kilonova.identity.errors import CouldNotFind, ForeignRole, NoSuchGrant
from kilonova.identity.model import Assignment, Group, Project, Role, User
from kilonova.identity.service import IdentityService
from kilonova.identity.store import assignments, projects, users
from kilonova.identity.store import revision as revisions
from kilonova.identity.store.rows import groups, roles

INHERITED = "inherited_to_projects"


class Parties:
    """Who and what a grant's path names, as far as they exist."""

    def __init__(self, req: Request, path: dict[str, str]) -> None:
        self.user: User | None = None
        self.group: Group | None = None
        self.project: Project | None = None
        self.role: Role | None = None
        self.role_id = path.get("role_id", "")
        self.actor_type = "user" if "user_id" in path else "group"
        self.actor_id = path.get("user_id") or path.get("group_id") or ""
        self.target_type = "project" if "project_id" in path else "domain" if "domain_id" in path else "system"
        self.target_id = path.get("project_id") or path.get("domain_id") or "all"
        self.inherited = req.route.path.endswith(INHERITED)

    @property
    def assignment(self) -> Assignment:
        return Assignment(
            actor_type=self.actor_type,
            actor_id=self.actor_id,
            target_type=self.target_type,
            target_id=self.target_id,
            role_id=self.role_id,
            inherited=self.inherited,
        )

    def target(self) -> dict[str, Any]:
        """For policy, from rows only."""
        out: dict[str, Any] = {}
        if self.user is not None:
            out |= targets.of_user(self.user)
        if self.group is not None:
            out |= targets.of_group(self.group)
        if self.project is not None:
            out |= targets.of_project(self.project) if self.target_type == "project" else targets.of_domain(self.project)
        if self.role is not None:
            out |= targets.of_role(self.role)
        return out

    async def load(self, c: IdentityService) -> None:
        if self.actor_type == "user":
            self.user = await users.get(c.db, self.actor_id)
        else:
            self.group = await groups.get(c.db, self.actor_id)
        if self.target_type != "system":
            found = await projects.get(c.db, self.target_id)
            self.project = found if found is not None and (found.is_domain or self.target_type == "project") else None
        if self.role_id:
            self.role = await roles.get(c.db, self.role_id)

    def target_exists(self) -> None:
        if self.target_type != "system" and self.project is None:
            raise CouldNotFind(what=self.target_type, id=self.target_id)

    def actor_exists(self) -> None:
        if self.user is None and self.group is None:
            raise CouldNotFind(what=self.actor_type, id=self.actor_id)

    def role_exists(self) -> None:
        if self.role_id and self.role is None:
            raise CouldNotFind(what="role", id=self.role_id)


async def _parties(c: IdentityService, req: Request, path: dict[str, str], verb: str) -> Parties:
    """Loaded and allowed. Who may nothing is not told what exists."""
    parties = Parties(req, path)
    await parties.load(c)
    if parties.target_type == "system":
        rule = f"identity:{verb.replace('grant', 'system_grant')}_for_{parties.actor_type}"
    else:
        rule = f"identity:{verb}"
    req.authorize(rule, parties.target())
    parties.role_exists()
    parties.target_exists()
    return parties


async def list(c: IdentityService, ctx: Context, req: Request, **path: str) -> Any:
    parties = await _parties(c, req, path, "list_grants")
    parties.actor_exists()
    found = await assignments.every(
        c.db,
        actor_type=parties.actor_type,
        actor_id=parties.actor_id,
        target_type=parties.target_type,
        target_id=parties.target_id,
        inherited=parties.inherited,
    )
    by_id = (await c.roles()).by_id
    return views.collection(req, "roles", [views.role(req, by_id[a.role_id]) for a in found if a.role_id in by_id])


async def show(c: IdentityService, ctx: Context, req: Request, **path: str) -> None:
    parties = await _parties(c, req, path, "check_grant")
    if not await assignments.exists(c.db, parties.assignment):
        raise _missing(parties)


def _missing(parties: Parties) -> NoSuchGrant:
    return NoSuchGrant(role=parties.role_id, actor=parties.actor_id, target=parties.target_id)


async def grant(c: IdentityService, ctx: Context, req: Request, **path: str) -> None:
    parties = await _parties(c, req, path, "create_grant")
    parties.actor_exists()
    assert parties.role is not None
    if parties.role.domain_id is not None and (parties.project is None or parties.project.domain_id != parties.role.domain_id):
        raise ForeignRole(target=parties.target_id, role=parties.role_id)

    async def write(tx: Transaction) -> None:
        # Nothing may be granted to, on or of what was deleted since it was looked up.
        actor = await (users.get(tx, parties.actor_id) if parties.user else groups.get(tx, parties.actor_id))
        if actor is None:
            raise CouldNotFind(what=parties.actor_type, id=parties.actor_id)
        if parties.project is not None and await projects.get(tx, parties.target_id) is None:
            raise CouldNotFind(what=parties.target_type, id=parties.target_id)
        if await roles.get(tx, parties.role_id) is None:
            raise CouldNotFind(what="role", id=parties.role_id)
        await assignments.insert(tx, parties.assignment)
        await revisions.bump(tx)

    await c.db.transact(write)


async def revoke(c: IdentityService, ctx: Context, req: Request, **path: str) -> None:
    """Works for an actor that is gone, too."""
    parties = await _parties(c, req, path, "revoke_grant")

    async def write(tx: Transaction) -> None:
        if not await assignments.delete(tx, parties.assignment):
            raise _missing(parties)
        await revisions.bump(tx)

    await c.db.transact(write)
