"""For each server: which turn allocated its interfaces last, and up to which turn they were released (`contract.Allocate.turn`).

Both sides write the same row first, so of an allocate and a release at one moment one comes after the other and sees what it did.
"""

import sqlalchemy as sa

from kilonova.core.db import Reader, Transaction
from kilonova.core.db.statements import inserted, prepared
from kilonova.network.store.tables import server_fences

_bind = sa.bindparam
f = server_fences.c
_mine = f.server_id == _bind("server")
_GET = prepared(sa.select(f.allocated, f.released).where(_mine))
_INSERT = inserted(server_fences)
_TAKE = prepared(
    sa.update(server_fences)
    .where(_mine, f.allocated <= _bind("turn"), f.released < _bind("turn"))
    .values(allocated=_bind("turn"), released_at=_bind("never"))
)
_RELEASE = prepared(
    sa.update(server_fences)
    .where(_mine, f.allocated <= _bind("turn"))
    .values(released=sa.case((f.released < _bind("turn"), _bind("turn", type_=sa.BigInteger)), else_=f.released), released_at=_bind("at"))
)
_END = prepared(sa.update(server_fences).where(_mine).values(released_at=_bind("at")))
_PRUNE = prepared(sa.delete(server_fences).where(f.released_at > _bind("never"), f.released_at < _bind("before")))


async def released(reader: Reader, server_id: str) -> int:
    """Up to which turn."""
    row = await reader.one(_GET, {"server": server_id})
    return int(row[1]) if row is not None else 0


async def take(tx: Transaction, server_id: str, turn: int, *, new: bool = False) -> bool:
    """The server's interfaces are this turn's from now on; False when they were released up to it, or are a later one's. new: there is
    hardly a row yet. Raises Duplicate: somebody else writes the first row at this moment, or has (then again, without `new`)."""
    if not new:
        values = {"server": server_id, "turn": turn, "never": 0}
        if await tx.run(_TAKE, values):
            return True
        if await tx.one(_GET, {"server": server_id}) is not None:
            return bool(await tx.run(_TAKE, values))  # the row may have come only just now
    await tx.later(_INSERT, {"server_id": server_id, "allocated": turn, "released": 0, "released_at": 0})
    return True


async def release(tx: Transaction, server_id: str, turn: int, now: int) -> bool:
    """No turn up to this one allocates any more; False when the interfaces are a later one's. Raises Duplicate as `take` does."""
    values = {"server": server_id, "turn": turn, "at": now}
    if await tx.run(_RELEASE, values):
        return True
    if await tx.one(_GET, {"server": server_id}) is not None:
        return bool(await tx.run(_RELEASE, values))  # the row may have come only just now
    await tx.run(_INSERT, {"server_id": server_id, "allocated": 0, "released": turn, "released_at": now})
    return True


async def ended(tx: Transaction, server_id: str, now: int) -> None:
    """All was released, and nobody said up to which turn."""
    await tx.run(_END, {"server": server_id, "at": now})


async def prune(tx: Transaction, before: int) -> int:
    """Rows of what was released before this time and not allocated again."""
    return await tx.run(_PRUNE, {"never": 0, "before": before})
