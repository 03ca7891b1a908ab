"""Databases: one facade for SQLite, PostgreSQL and MariaDB. Statements are SQLAlchemy Core, compiled once, run by our own runner.

    GET = prepared(select(servers).where(servers.c.id == bindparam("id")))

    server = await db.one(GET, {"id": x})                # a committed read
    async def body(tx: Transaction) -> int:              # a transaction is a function: it may be run again after a deadlock
        return await tx.run(UPDATE, {...})               # rows changed
    changed = await db.transact(body)                    # returns when it is on disk

Rules that keep all three databases happy: no UPDATE … RETURNING, no SELECT … FOR UPDATE, no deferred constraints; a check and the
write that depends on it are one conditional UPDATE (look at its row count) or a unique constraint; every SELECT of several
rows has ORDER BY; a transaction awaits nothing but its own statements; times are integers (microseconds).

What needs SQLAlchemy is had from its own module (`statements`, `opening`, `sqlite`): an agent knows what a lost database is and loads none.
"""

from kilonova.core.db.attempts import attempts
from kilonova.core.db.facade import Database, Duplicate, Lost, OutcomeUnknown, Reader, Transaction, Unfit, Unmatched

__all__ = ["Database", "Duplicate", "Lost", "OutcomeUnknown", "Reader", "Transaction", "Unfit", "Unmatched", "attempts"]
