"""Projects that images are shared with."""

import msgspec
import sqlalchemy as sa

from kilonova.core.db import Reader, Transaction
from kilonova.core.db.statements import inserted, prepared
from kilonova.image.model import Member
from kilonova.image.store.tables import members

_COLUMNS = [members.c[name] for name in Member.__struct_fields__]
_ONE = sa.and_(members.c.image_id == sa.bindparam("image"), members.c.member_id == sa.bindparam("member"))
_INSERT = inserted(members)
_GET = prepared(sa.select(*_COLUMNS).where(_ONE))
_OF = prepared(sa.select(*_COLUMNS).where(members.c.image_id == sa.bindparam("image")).order_by(members.c.created_at, members.c.member_id))
_COUNT = prepared(sa.select(sa.func.count()).select_from(members).where(members.c.image_id == sa.bindparam("image")))
_SET = prepared(sa.update(members).where(_ONE).values(status=sa.bindparam("new_status"), updated_at=sa.bindparam("now")))
_DELETE = prepared(sa.delete(members).where(_ONE))


async def insert(tx: Transaction, member: Member) -> None:
    """Raises Duplicate."""
    await tx.run(_INSERT, msgspec.structs.asdict(member))


async def get(reader: Reader, image_id: str, member_id: str) -> Member | None:
    row = await reader.one(_GET, {"image": image_id, "member": member_id})
    return Member(**dict(zip(Member.__struct_fields__, row, strict=True))) if row else None


async def of(reader: Reader, image_id: str) -> list[Member]:
    rows = await reader.all(_OF, {"image": image_id})
    return [Member(**dict(zip(Member.__struct_fields__, row, strict=True))) for row in rows]


async def count(reader: Reader, image_id: str) -> int:
    row = await reader.one(_COUNT, {"image": image_id})
    return int(row[0]) if row else 0


async def set_status(tx: Transaction, image_id: str, member_id: str, status: str, now: int) -> bool:
    return bool(await tx.run(_SET, {"image": image_id, "member": member_id, "new_status": status, "now": now}))


async def delete(tx: Transaction, image_id: str, member_id: str) -> bool:
    return bool(await tx.run(_DELETE, {"image": image_id, "member": member_id}))
