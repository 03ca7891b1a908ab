"""The journal of what the topology is made of: written with each change, read by every process.

A transaction takes the next number of one lane as its last step but one, and so holds the lane's row until it ends: within a lane, numbers
are committed in their order and without a gap. Whoever reads number n of a lane has everything before it, or sees that it was swept.
"""

from collections.abc import Sequence

import sqlalchemy as sa

from kilonova.core.db import Database, Duplicate, Reader, Transaction
from kilonova.core.db.statements import Prepared, inserted, prepared
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
_since: dict[int, Prepared] = {}
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


_numbered = sa.table("numbered", sa.column("number", sa.BigInteger))
_NUMBERED = prepared(
    sa.update(lanes)
    .where(lanes.c.lane == _bind("at"))
    .values(number=lanes.c.number + _bind("one", type_=sa.BigInteger))
    .returning(lanes.c.number)
)
_RECORD_NUMBERED = prepared(
    sa.insert(changes).from_select(
        ["lane", "number", "made_at", "items"],
        sa.select(
            _bind("lane", type_=c.lane.type),
            _numbered.c.number,
            _bind("made_at", type_=c.made_at.type),
            _bind("what", type_=c["items"].type),
        ),
    )
)


async def record_later(tx: Transaction, lane: int, made_at: int, items: Sequence[Change], otherwise: Exception) -> None:
    """As `record`, in one exchange with what else is put off. Only where `tx.joins`. Raises `otherwise` there if there is no such lane."""
    await tx.later(_NUMBERED, {"at": lane, "one": 1}, rows=1, otherwise=otherwise, name="numbered")
    await tx.later(_RECORD_NUMBERED, {"lane": lane, "made_at": made_at, "what": tuple(items)})


async def record(tx: Transaction, lane: int, made_at: int, items: Sequence[Change]) -> None:
    """The last thing that a transaction does."""
    if not await tx.run(_NEXT, {"at": lane, "one": 1}):
        await tx.run(_ADD_LANE, {"lane": lane, "number": 1})
    await tx.later(_RECORD, {"at": lane, "lane": lane, "made_at": made_at, "what": tuple(items)})


async def since(reader: Reader, pieces: Sequence[tuple[int, int, int]]) -> list[tuple[int, tuple[Change, ...]]]:
    """(lane, what changed) of each piece: a lane, after which number, and up to which."""
    values = {f"{name}_{i}": value for i, piece in enumerate(pieces) for name, value in zip(("at", "first", "last"), piece, strict=True)}
    return [(row[0], row[1]) for row in await reader.all(_since_of(len(pieces)), values)]


def _since_of(count: int) -> Prepared:
    found = _since.get(count)
    if found is None:
        parts = [sa.and_(c.lane == _bind(f"at_{i}"), c.number > _bind(f"first_{i}"), c.number <= _bind(f"last_{i}")) for i in range(count)]
        found = _since[count] = prepared(sa.select(c.lane, c["items"]).where(sa.or_(*parts)).order_by(c.lane, c.number))
    return found


async def sweep(tx: Transaction, lane: int, before: int) -> int:
    return await tx.run(_SWEEP, {"at": lane, "before": before})
