"""The revision: a counter that each change of who may what raises. Caches of tokens, roles and catalog hold for one revision."""

import sqlalchemy as sa

from kilonova.core.db import Reader, Transaction
from kilonova.core.db.statements import prepared
from kilonova.identity.store.tables import revision

_GET = prepared(sa.select(revision.c.counter).where(revision.c.id == sa.bindparam("id")), kept=True)
_RAISE = prepared(sa.update(revision).where(revision.c.id == sa.bindparam("key")).values(counter=revision.c.counter + sa.bindparam("by")))


async def current(reader: Reader) -> int:
    row = await reader.one(_GET, {"id": 1})
    return row[0] if row else 0


async def bump(tx: Transaction) -> None:
    await tx.run(_RAISE, {"key": 1, "by": 1})
