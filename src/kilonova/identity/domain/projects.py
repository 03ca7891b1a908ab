"""The tree of projects: where a project may hang, what may be disabled, and what goes with a project or a domain that is deleted."""

from kilonova.core.db import Reader, Transaction
from kilonova.core.errors import Forbidden
from kilonova.identity.domain import removal
from kilonova.identity.domain.options import keep_immutable
from kilonova.identity.errors import CouldNotFind, DomainEnabled, Invalid, NotALeaf
from kilonova.identity.model import Project
from kilonova.identity.store import assignments, projects, rows, users
from kilonova.identity.store import revision as revisions


async def domain(reader: Reader, domain_id: str) -> Project:
    """Raises CouldNotFind."""
    found = await projects.get(reader, domain_id)
    if found is None or not found.is_domain:
        raise CouldNotFind(what="domain", id=domain_id)
    return found


async def parents(reader: Reader, project: Project) -> list[Project]:
    """Nearest first, the domain last."""
    out: list[Project] = []
    at: Project | None = project
    while at is not None and at.parent_id is not None and len(out) < 64:
        at = await projects.get(reader, at.parent_id)
        if at is not None:
            out.append(at)
    return out


async def subtree(reader: Reader, project_id: str) -> list[Project]:
    """All below a project, level by level."""
    out: list[Project] = []
    level = [project_id]
    while level:
        found = await projects.children(reader, level)
        out.extend(found)
        level = [p.id for p in found]
    return out


async def place(reader: Reader, name: str, domain_id: str, parent_id: str, max_depth: int) -> None:
    """May a project of this domain hang there? Raises CouldNotFind, Invalid or Forbidden."""
    parent = await projects.get(reader, parent_id)
    if parent is None:
        raise CouldNotFind(what="project", id=parent_id)
    if parent.domain_id != domain_id:
        raise Invalid(
            field="parent_id",
            value=parent_id,
            reason=f"The parent is in the domain {parent.domain_id}, but the project is to be in {domain_id}; both must be in one domain.",
        )
    branch = [parent, *await parents(reader, parent)]
    for above in branch:
        if not above.enabled:
            raise Invalid(field="parent_id", value=parent_id, reason=f"The branch contains a disabled project: {above.id}.")
    if sum(not p.is_domain for p in branch) >= max_depth:
        raise Forbidden(f"Max hierarchy depth reached for {name} branch.")


async def may_be(reader: Reader, project: Project, enabled: bool) -> None:
    """Raises Forbidden when the project's neighbours forbid to enable or disable it."""
    if enabled:
        if not all(p.enabled for p in await parents(reader, project)):
            raise Forbidden(f"Cannot enable project {project.id} since it has disabled parents")
    elif any(p.enabled for p in await subtree(reader, project.id)):
        raise Forbidden(f"Cannot disable project {project.id} since its subtree contains enabled projects.")


async def delete(tx: Transaction, project_id: str) -> None:
    """A leaf with all that refers to it. Raises CouldNotFind, Immutable, NotALeaf."""
    project = await projects.get(tx, project_id)
    if project is None:
        raise CouldNotFind(what="project", id=project_id)
    if project.is_domain:
        await delete_domain(tx, project_id)
        return
    keep_immutable(project.options, "project", project.id)
    if await projects.children(tx, [project.id]):
        raise NotALeaf(project=project.id)
    await _drop(tx, project.id, "project")
    await revisions.bump(tx)


async def _drop(tx: Transaction, project_id: str, target_type: str) -> None:
    await assignments.delete_where(tx, target_type=target_type, target_id=project_id)
    await users.forget_project(tx, project_id)
    await projects.delete(tx, project_id)


async def delete_domain(tx: Transaction, domain_id: str) -> None:
    """A disabled domain with its users, groups, roles and projects. Raises CouldNotFind, DomainEnabled, Immutable."""
    found = await domain(tx, domain_id)
    keep_immutable(found.options, "domain", found.id)
    if found.enabled:
        raise DomainEnabled
    for project in reversed(await subtree(tx, domain_id)):
        keep_immutable(project.options, "project", project.id)
        await _drop(tx, project.id, "project")
    for user in await users.every(tx, domain_id=domain_id):
        await removal.user(tx, user.id)
    for group in await rows.groups.every(tx, domain_id=domain_id):
        await removal.group(tx, group.id)
    for role in await rows.roles.every(tx, domain_id=domain_id):
        await removal.role(tx, role.id)
    await _drop(tx, domain_id, "project")
    await assignments.delete_where(tx, target_type="domain", target_id=domain_id)
    await revisions.bump(tx)
