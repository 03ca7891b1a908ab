"""The journal of what the topology is made of: written with each change, read by every process.

A transaction takes the next number of one lane as its last step but one, and so holds the lane's row until it ends: within a lane, numbers
are committed in their order and without a gap. Whoever reads number n of a lane has everything before it, or sees that it was swept.
"""

from collections.abc import Sequence

import sqlalchemy as sa

from kilonova.core.db import Database, Duplicate, Reader, Transaction
from kilonova.core.db.statements import inserted, prepared
from kilonova.network.store.tables import changes, lanes

LANES = 32
Change = tuple[str, str, str]
"""(kind, id of the row, id of the row that it belongs to or "")"""
c = changes.c
_bind = sa.bindparam
_CLOCKS = prepared(sa.select(lanes.c.lane, lanes.c.number).order_by(lanes.c.lane))
_ADD_LANE = inserted(lanes)
_NEXT = prepared(sa.update(lanes).where(lanes.c.lane == _bind("at")).values(number=lanes.c.number + _bind("one", type_=sa.BigInteger)))
_number = sa.select(lanes.c.number).where(lanes.c.lane == _bind("at")).scalar_subquery()
_RECORD = prepared(
    sa.insert(changes)
    .values(
        lane=_bind("lane", type_=c.lane.type),
        number=_number,
        made_at=_bind("made_at", type_=c.made_at.type),
        items=_bind("what", type_=c["items"].type),
    )
    .inline()
)
_SINCE = prepared(
    sa.select(c.number, c["items"]).where(c.lane == _bind("at"), c.number > _bind("first"), c.number <= _bind("last")).order_by(c.number)
)
_SWEEP = prepared(sa.delete(changes).where(c.lane == _bind("at"), c.made_at < _bind("before")))


async def make_lanes(db: Database) -> None:
    """Those that are missing. Several processes may do it at once."""
    have = await clocks(db)
    for lane in range(LANES):
        if lane not in have:
            try:
                await db.transact(lambda tx, lane=lane: tx.run(_ADD_LANE, {"lane": lane, "number": 0}))  # type: ignore[misc]
            except Duplicate:
                continue


async def clocks(reader: Reader) -> dict[int, int]:
    """lane -> its last number. One statement: what it shows was all committed, and so was everything that came before any of it."""
    return {row[0]: row[1] for row in await reader.all(_CLOCKS)}


async def record(tx: Transaction, lane: int, made_at: int, items: Sequence[Change]) -> None:
    """The last thing that a transaction does."""
    if not await tx.run(_NEXT, {"at": lane, "one": 1}):
        await tx.run(_ADD_LANE, {"lane": lane, "number": 1})
    await tx.later(_RECORD, {"at": lane, "lane": lane, "made_at": made_at, "what": tuple(items)})


async def since(reader: Reader, lane: int, first: int, last: int) -> list[tuple[int, tuple[Change, ...]]]:
    """(number, what changed) after `first` and up to `last`."""
    return [(row[0], row[1]) for row in await reader.all(_SINCE, {"at": lane, "first": first, "last": last})]


async def sweep(tx: Transaction, lane: int, before: int) -> int:
    return await tx.run(_SWEEP, {"at": lane, "before": before})
