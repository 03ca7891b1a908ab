"""What policy may know of a noun. Only rows and the ids of the path come in here, never a key of a body that a client sent."""

from typing import Any

from kilonova.identity.model import Group, Project, Role, User

Target = dict[str, Any]


def of_user(user: User) -> Target:
    return {"target.user.id": user.id, "target.user.domain_id": user.domain_id, "user_id": user.id}


def of_group(group: Group) -> Target:
    return {"target.group.id": group.id, "target.group.domain_id": group.domain_id}


def of_project(project: Project) -> Target:
    """A domain seen as a project is in no domain."""
    return {"target.project.id": project.id, "target.project.domain_id": None if project.is_domain else project.domain_id}


def of_domain(domain: Project) -> Target:
    return {"target.domain.id": domain.id}


def of_role(role: Role) -> Target:
    return {"target.role.id": role.id, "target.role.name": role.name, "target.role.domain_id": role.domain_id}
