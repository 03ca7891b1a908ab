"""Who has which role where: as it was granted, or in effect (groups taken apart, inheritance and implied roles spelled out)."""

from collections.abc import Mapping, Sequence

import msgspec

from kilonova.core.db import Reader
from kilonova.identity.domain.grants import RoleTable, ancestors, below
from kilonova.identity.model import Assignment
from kilonova.identity.store import assignments, projects

Tree = Sequence[tuple[str, str | None, str]]


class Held(msgspec.Struct, frozen=True, kw_only=True):
    """A line of the list. `grant` is what it comes from."""

    actor_type: str
    actor_id: str
    target_type: str
    target_id: str
    role_id: str
    grant: Assignment
    prior_role_id: str | None = None
    """The role that implies this one."""

    @property
    def inherited(self) -> bool:
        """Shown as a grant for what is below the target."""
        return self.grant.inherited and self.target_id == self.grant.target_id and self.target_type == self.grant.target_type


class Filter(msgspec.Struct, frozen=True, kw_only=True):
    """None: any."""

    user_id: str | None = None
    group_id: str | None = None
    role_id: str | None = None
    target_type: str | None = None
    target_ids: frozenset[str] | None = None
    inherited: bool | None = None

    def takes(self, held: Held) -> bool:
        return (
            (self.user_id is None or (held.actor_type, held.actor_id) == ("user", self.user_id))
            and (self.group_id is None or (held.actor_type, held.actor_id) == ("group", self.group_id))
            and (self.role_id is None or held.role_id == self.role_id)
            and (self.target_type is None or held.target_type == self.target_type)
            and (self.target_ids is None or held.target_id in self.target_ids)
            and (self.inherited is None or held.grant.inherited == self.inherited)
        )


def granted(found: Sequence[Assignment]) -> list[Held]:
    return [
        Held(actor_type=a.actor_type, actor_id=a.actor_id, target_type=a.target_type, target_id=a.target_id, role_id=a.role_id, grant=a)
        for a in found
    ]


def effective(found: Sequence[Assignment], members: Mapping[str, Sequence[str]], tree: Tree, table: RoleTable) -> list[Held]:
    """Users only, projects, domains and system as they are, each role with those that it implies. Roles of a domain are left out."""
    out: list[Held] = []
    for a in found:
        people = [a.actor_id] if a.actor_type == "user" else members.get(a.actor_id, ())
        places = [("project", ident) for ident in below(tree, [a.target_id])] if a.inherited else [(a.target_type, a.target_id)]
        held_roles = _with_implied(a.role_id, table)
        for user_id in people:
            for target_type, target_id in places:
                for role_id, prior in held_roles:
                    out.append(
                        Held(
                            actor_type="user",
                            actor_id=user_id,
                            target_type=target_type,
                            target_id=target_id,
                            role_id=role_id,
                            grant=a,
                            prior_role_id=prior,
                        )
                    )
    return out


def _with_implied(role_id: str, table: RoleTable) -> list[tuple[str, str | None]]:
    """(role, the role that implies it), nearest first."""
    seen: dict[str, str | None] = {role_id: None}
    todo = [role_id]
    while todo:
        at = todo.pop(0)
        for implied in table.edges.get(at, ()):
            if implied not in seen:
                seen[implied] = at
                todo.append(implied)
    return [(ident, prior) for ident, prior in seen.items() if ident in table.by_id and table.by_id[ident].domain_id is None]


async def listing(reader: Reader, wanted: Filter, table: RoleTable, *, in_effect: bool) -> list[Held]:
    if not in_effect:
        equal: dict[str, object] = {}
        if wanted.user_id is not None:
            equal |= {"actor_type": "user", "actor_id": wanted.user_id}
        if wanted.group_id is not None:
            equal |= {"actor_type": "group", "actor_id": wanted.group_id}
        if wanted.role_id is not None:
            equal["role_id"] = wanted.role_id
        if wanted.target_type is not None:
            equal["target_type"] = wanted.target_type
        held = granted(await assignments.every(reader, **equal))
    else:
        found, members = await _grants_behind(reader, wanted)
        tree = await projects.tree(reader) if any(a.inherited for a in found) else []
        held = effective(found, members, tree, table)
    return [h for h in held if wanted.takes(h) and h.role_id in table.by_id]


async def _grants_behind(reader: Reader, wanted: Filter) -> tuple[list[Assignment], dict[str, list[str]]]:
    """The grants that can have an effect on what is wanted, and the members of groups."""
    if wanted.user_id is not None:
        groups = await assignments.groups_of(reader, wanted.user_id)
        own = {("user", wanted.user_id), *(("group", g) for g in groups)}
        of_actors = await assignments.of_actors(reader, [wanted.user_id, *groups])
        return [a for a in of_actors if (a.actor_type, a.actor_id) in own], {g: [wanted.user_id] for g in groups}
    members: dict[str, list[str]] = {}
    for group_id, user_id in await assignments.memberships(reader):
        members.setdefault(group_id, []).append(user_id)
    if wanted.target_ids is None:
        return await assignments.every(reader), members
    places: dict[str, None] = dict.fromkeys(sorted(wanted.target_ids))
    if wanted.target_type == "project":
        for ident in sorted(wanted.target_ids):
            places.update(dict.fromkeys(await ancestors(reader, ident)))
    return await assignments.on_targets(reader, [*places]), members
