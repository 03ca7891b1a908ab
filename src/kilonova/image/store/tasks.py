"""Records of imports."""

import msgspec
import sqlalchemy as sa

from kilonova.core.db import Reader, Transaction
from kilonova.core.db.statements import inserted, prepared
from kilonova.image.model import Task
from kilonova.image.store.tables import tasks

_COLUMNS = [tasks.c[name] for name in Task.__struct_fields__]
_INSERT = inserted(tasks)
_OF = prepared(sa.select(*_COLUMNS).where(tasks.c.image_id == sa.bindparam("image")).order_by(tasks.c.created_at.desc(), tasks.c.id))
_PRUNE = prepared(sa.delete(tasks).where(tasks.c.expires_at < sa.bindparam("now")))


async def insert(tx: Transaction, task: Task) -> None:
    await tx.run(_INSERT, msgspec.structs.asdict(task))


async def of(reader: Reader, image_id: str) -> list[Task]:
    """Newest first."""
    rows = await reader.all(_OF, {"image": image_id})
    return [Task(**dict(zip(Task.__struct_fields__, row, strict=True))) for row in rows]


async def prune(tx: Transaction, now: int) -> int:
    """Forget those that have expired."""
    return await tx.run(_PRUNE, {"now": now})
