"""Users."""

from typing import Any

import msgspec
import sqlalchemy as sa

from kilonova.core.db import Reader, Transaction, inserted, prepared
from kilonova.identity.model import User
from kilonova.identity.store.tables import users

_INSERT = inserted(users)
_GET = prepared(sa.select(users).where(users.c.id == sa.bindparam("id")))
_BY_NAME = prepared(sa.select(users).where(users.c.domain_id == sa.bindparam("domain_id"), users.c.name == sa.bindparam("name")))
_UPDATE = prepared(
    sa.update(users)
    .where(users.c.id == sa.bindparam("key"))
    .values({c.name: sa.bindparam(c.name, type_=c.type) for c in users.columns if c.name not in ("id", "created_at")})
)
_DELETE = prepared(sa.delete(users).where(users.c.id == sa.bindparam("id")))


def _user(row: tuple[Any, ...]) -> User:
    return User(**dict(zip(User.__struct_fields__, row, strict=True)))


async def insert(tx: Transaction, user: User) -> None:
    """Raises Duplicate (users.domain_id, users.name)."""
    await tx.run(_INSERT, msgspec.structs.asdict(user))


async def update(tx: Transaction, user: User) -> int:
    return await tx.run(_UPDATE, {"key": user.id, **msgspec.structs.asdict(user)})


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
