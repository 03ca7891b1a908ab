"""Deleting a noun takes with it all that refers to it: grants, memberships, implications. The caller raises the revision."""

from kilonova.core.db import Transaction
from kilonova.identity.store import assignments, rows, users


async def user(tx: Transaction, user_id: str) -> int:
    """Rows deleted: 0 when somebody else was first."""
    await assignments.delete_where(tx, actor_type="user", actor_id=user_id)
    await assignments.delete_members(tx, user_id=user_id)
    return await users.delete(tx, user_id)


async def group(tx: Transaction, group_id: str) -> int:
    await assignments.delete_where(tx, actor_type="group", actor_id=group_id)
    await assignments.delete_members(tx, group_id=group_id)
    return await rows.groups.delete(tx, group_id)


async def role(tx: Transaction, role_id: str) -> int:
    await assignments.delete_where(tx, role_id=role_id)
    await assignments.forget_role(tx, role_id)
    return await rows.roles.delete(tx, role_id)
