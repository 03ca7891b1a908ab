"""Key pairs, on the api side. They belong to users, not to projects."""

from typing import Any

import msgspec
import sqlalchemy as sa

from kilonova.compute.model import Keypair
from kilonova.compute.store.api_tables import keypairs
from kilonova.core.db import Reader, Transaction
from kilonova.core.db.statements import inserted, prepared

_FIELDS = Keypair.__struct_fields__
_COLUMNS = [keypairs.c[name] for name in _FIELDS]
_INSERT = inserted(keypairs)
_mine = keypairs.c.user_id == sa.bindparam("user_id")
_GET = prepared(sa.select(*_COLUMNS).where(_mine, keypairs.c.name == sa.bindparam("name")))
_OF = prepared(sa.select(*_COLUMNS).where(_mine).order_by(keypairs.c.name))
_COUNT = prepared(sa.select(sa.func.count()).select_from(keypairs).where(_mine))
_DELETE = prepared(sa.delete(keypairs).where(_mine, keypairs.c.name == sa.bindparam("name")))


def _keypair(row: tuple[Any, ...]) -> Keypair:
    return Keypair(**dict(zip(_FIELDS, row, strict=True)))


async def insert(tx: Transaction, keypair: Keypair) -> None:
    """Raises Duplicate (keypairs.user_id, keypairs.name)."""
    await tx.run(_INSERT, msgspec.structs.asdict(keypair))


async def get(reader: Reader, user_id: str, name: str) -> Keypair | None:
    row = await reader.one(_GET, {"user_id": user_id, "name": name})
    return _keypair(row) if row else None


async def of(reader: Reader, user_id: str) -> list[Keypair]:
    """By name."""
    return [_keypair(row) for row in await reader.all(_OF, {"user_id": user_id})]


async def count(reader: Reader, user_id: str) -> int:
    row = await reader.one(_COUNT, {"user_id": user_id})
    return int(row[0]) if row else 0


async def delete(tx: Transaction, user_id: str, name: str) -> int:
    return await tx.run(_DELETE, {"user_id": user_id, "name": name})
