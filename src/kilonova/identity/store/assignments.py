"""Grants, group membership and implied roles: everything that effective roles are computed from."""

from typing import Any

import msgspec
import sqlalchemy as sa

from kilonova.core.db import Duplicate, Reader, Transaction
from kilonova.core.db.statements import inserted, prepared
from kilonova.identity.model import Assignment
from kilonova.identity.store.tables import assignments as t
from kilonova.identity.store.tables import group_members, implied_roles

_FIELDS = ("actor_type", "actor_id", "target_type", "target_id", "role_id", "inherited")
_EXACT = sa.and_(*(t.c[name] == sa.bindparam("k_" + name) for name in _FIELDS))
_INSERT = inserted(t)
_DELETE = prepared(sa.delete(t).where(_EXACT))
_FIND = prepared(sa.select(t).where(_EXACT))
_OF_ACTORS = prepared(
    sa.select(t)
    .where(t.c.actor_id.in_(sa.bindparam("ids", expanding=True)))
    .order_by(t.c.target_type, t.c.target_id, t.c.role_id, t.c.actor_id)
)
_ON_TARGETS = prepared(
    sa.select(t)
    .where(t.c.target_id.in_(sa.bindparam("ids", expanding=True)))
    .order_by(t.c.target_type, t.c.target_id, t.c.actor_type, t.c.actor_id, t.c.role_id, t.c.inherited)
)
_GROUPS_OF = prepared(
    sa.select(group_members.c.group_id).where(group_members.c.user_id == sa.bindparam("id")).order_by(group_members.c.group_id)
)
_USERS_OF = prepared(
    sa.select(group_members.c.user_id).where(group_members.c.group_id == sa.bindparam("id")).order_by(group_members.c.user_id)
)
_JOIN = inserted(group_members)
_LEAVE = prepared(
    sa.delete(group_members).where(group_members.c.group_id == sa.bindparam("g"), group_members.c.user_id == sa.bindparam("u"))
)
_IS_MEMBER = prepared(
    sa.select(group_members.c.user_id).where(
        group_members.c.group_id == sa.bindparam("group_id"), group_members.c.user_id == sa.bindparam("user_id")
    )
)
_MEMBERSHIPS = prepared(
    sa.select(group_members.c.group_id, group_members.c.user_id).order_by(group_members.c.group_id, group_members.c.user_id)
)
_FORGET_ROLE = prepared(
    sa.delete(implied_roles).where(
        sa.or_(implied_roles.c.prior_role_id == sa.bindparam("p"), implied_roles.c.implied_role_id == sa.bindparam("i"))
    )
)
_IMPLIED = prepared(sa.select(implied_roles).order_by(implied_roles.c.prior_role_id, implied_roles.c.implied_role_id))
_IMPLY = inserted(implied_roles)
_UNIMPLY = prepared(
    sa.delete(implied_roles).where(implied_roles.c.prior_role_id == sa.bindparam("p"), implied_roles.c.implied_role_id == sa.bindparam("i"))
)


def _assignment(row: tuple[Any, ...]) -> Assignment:
    actor_type, actor_id, target_type, target_id, role_id, inherited = row
    return Assignment(
        actor_type=actor_type, actor_id=actor_id, target_type=target_type, target_id=target_id, role_id=role_id, inherited=inherited
    )


def _key(a: Assignment) -> dict[str, object]:
    return {"k_" + name: getattr(a, name) for name in _FIELDS}


async def insert(tx: Transaction, assignment: Assignment) -> None:
    """Granting twice is granting once."""
    try:
        await tx.run(_INSERT, msgspec.structs.asdict(assignment))
    except Duplicate:
        return


async def delete(tx: Transaction, assignment: Assignment) -> int:
    return await tx.run(_DELETE, _key(assignment))


async def exists(reader: Reader, assignment: Assignment) -> bool:
    return await reader.one(_FIND, _key(assignment)) is not None


async def every(reader: Reader, **equal: object) -> list[Assignment]:
    query = sa.select(t).where(*(t.c[name] == value for name, value in equal.items()))
    order = (t.c.target_type, t.c.target_id, t.c.actor_type, t.c.actor_id, t.c.role_id, t.c.inherited)
    return [_assignment(row) for row in await reader.all(query.order_by(*order))]


async def of_actors(reader: Reader, ids: list[str]) -> list[Assignment]:
    return [_assignment(row) for row in await reader.all(_OF_ACTORS, {"ids": ids})]


async def on_targets(reader: Reader, ids: list[str]) -> list[Assignment]:
    return [_assignment(row) for row in await reader.all(_ON_TARGETS, {"ids": ids})]


async def delete_where(tx: Transaction, **equal: object) -> int:
    return await tx.run(sa.delete(t).where(*(t.c[name] == value for name, value in equal.items())))


async def groups_of(reader: Reader, user_id: str) -> list[str]:
    return [row[0] for row in await reader.all(_GROUPS_OF, {"id": user_id})]


async def users_of(reader: Reader, group_id: str) -> list[str]:
    return [row[0] for row in await reader.all(_USERS_OF, {"id": group_id})]


async def join(tx: Transaction, group_id: str, user_id: str) -> None:
    try:
        await tx.run(_JOIN, {"group_id": group_id, "user_id": user_id})
    except Duplicate:
        return


async def leave(tx: Transaction, group_id: str, user_id: str) -> int:
    return await tx.run(_LEAVE, {"g": group_id, "u": user_id})


async def delete_members(tx: Transaction, *, group_id: str | None = None, user_id: str | None = None) -> None:
    await tx.run(sa.delete(group_members).where(group_members.c.group_id == group_id if group_id else group_members.c.user_id == user_id))


async def implications(reader: Reader) -> list[tuple[str, str]]:
    """(prior, implied) pairs."""
    return [(row[0], row[1]) for row in await reader.all(_IMPLIED)]


async def imply(tx: Transaction, prior: str, implied: str) -> None:
    try:
        await tx.run(_IMPLY, {"prior_role_id": prior, "implied_role_id": implied})
    except Duplicate:
        return


async def unimply(tx: Transaction, prior: str, implied: str) -> int:
    return await tx.run(_UNIMPLY, {"p": prior, "i": implied})


async def is_member(reader: Reader, group_id: str, user_id: str) -> bool:
    return await reader.one(_IS_MEMBER, {"group_id": group_id, "user_id": user_id}) is not None


async def memberships(reader: Reader) -> list[tuple[str, str]]:
    """Every (group, user)."""
    return [(row[0], row[1]) for row in await reader.all(_MEMBERSHIPS)]


async def forget_role(tx: Transaction, role_id: str) -> None:
    """It implies nothing and nothing implies it."""
    await tx.run(_FORGET_ROLE, {"p": role_id, "i": role_id})
