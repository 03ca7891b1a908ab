"""Users."""

from typing import Any

import msgspec
import sqlalchemy as sa

from kilonova.core.db import Reader, Transaction
from kilonova.core.db.statements import inserted, prepared
from kilonova.identity.model import User
from kilonova.identity.store.tables import users

_INSERT = inserted(users)
_GET = prepared(sa.select(users).where(users.c.id == sa.bindparam("id")))
_BY_NAME = prepared(sa.select(users).where(users.c.domain_id == sa.bindparam("domain_id"), users.c.name == sa.bindparam("name")))
_MANY = prepared(sa.select(users).where(users.c.id.in_(sa.bindparam("ids", expanding=True))).order_by(users.c.created_at, users.c.id))
_FORGET_PROJECT = prepared(sa.update(users).where(users.c.default_project_id == sa.bindparam("key")).values(default_project_id=sa.null()))
_END_TOKENS = prepared(
    sa.update(users).where(users.c.id.in_(sa.bindparam("ids", expanding=True))).values(tokens_valid_from=sa.bindparam("now"))
)
_DELETE = prepared(sa.delete(users).where(users.c.id == sa.bindparam("id")))


def _user(row: tuple[Any, ...]) -> User:
    return User(**dict(zip(User.__struct_fields__, row, strict=True)))


async def insert(tx: Transaction, user: User) -> None:
    """Raises Duplicate (users.domain_id, users.name)."""
    await tx.run(_INSERT, msgspec.structs.asdict(user))


async def change(tx: Transaction, user: User, **columns: Any) -> User | None:
    """Write these columns only, so that two changes at once do not undo each other. None: the user is gone. Raises Duplicate."""
    if columns and not await tx.run(sa.update(users).where(users.c.id == user.id).values(**columns)):
        return None
    return msgspec.structs.replace(user, **columns)


async def end_tokens(tx: Transaction, user_ids: list[str], now: int) -> None:
    """No token that was issued before now is good any longer."""
    await tx.run(_END_TOKENS, {"ids": user_ids, "now": now})


async def forget_project(tx: Transaction, project_id: str) -> None:
    """It is nobody's default any more."""
    await tx.run(_FORGET_PROJECT, {"key": project_id})


async def delete(tx: Transaction, user_id: str) -> int:
    return await tx.run(_DELETE, {"id": user_id})


async def get(reader: Reader, user_id: str) -> User | None:
    row = await reader.one(_GET, {"id": user_id})
    return _user(row) if row else None


async def by_name(reader: Reader, name: str, domain_id: str) -> User | None:
    row = await reader.one(_BY_NAME, {"name": name, "domain_id": domain_id})
    return _user(row) if row else None


async def every(reader: Reader, **equal: Any) -> list[User]:
    query = sa.select(users).where(*(users.c[name] == value for name, value in equal.items()))
    return [_user(row) for row in await reader.all(query.order_by(users.c.created_at, users.c.id))]


async def many(reader: Reader, ids: list[str]) -> list[User]:
    """Those of the ids that exist, oldest first."""
    return [_user(row) for row in await reader.all(_MANY, {"ids": ids})]
