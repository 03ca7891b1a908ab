"""Leases: of several processes on one database, at most one holds a name at a time.

A row says who holds the name, until when (by the database's clock), and for which time since it was first held (the epoch). The holder
renews it; whoever finds it run out takes it and raises the epoch, by one conditional UPDATE. The holder counts from before it asked, on
its own monotonic clock, and stops acting `margin_s` before the row says so. That keeps two holders apart while clocks run at one rate; a
process that was stopped may still act for a moment when it wakes up, so what it sends carries the epoch, and receivers refuse lower ones.
An epoch is never below the database's time in seconds: receivers outlive a row that is lost with its database.
"""

from typing import Any

import sqlalchemy as sa

from kilonova.core.db import Database, Duplicate, Transaction
from kilonova.core.db.statements import inserted, prepared
from kilonova.core.runtime import Runtime

LEASE_S = 7.0
MARGIN_S = 1.0


def leases_table(metadata: sa.MetaData, name: str) -> sa.Table:
    return sa.Table(
        name,
        metadata,
        sa.Column("name", sa.String(64), primary_key=True),
        sa.Column("owner", sa.String(64), nullable=False),
        sa.Column("epoch", sa.BigInteger, nullable=False),
        sa.Column("lease_until", sa.BigInteger, nullable=False),
    )


class Lease:
    """One name, seen from one process. `owner` names this life of this process; `epoch` is 0 until it has held the name."""

    def __init__(
        self,
        db: Database,
        table: sa.Table,
        runtime: Runtime,
        *,
        name: str,
        owner: str,
        lease_s: float = LEASE_S,
        margin_s: float = MARGIN_S,
    ) -> None:
        self.db = db
        self.runtime = runtime
        self.name = name
        self.owner = owner
        self.lease_s = lease_s
        self.margin_s = margin_s
        self.epoch = 0
        self._valid_until = float("-inf")
        c, bind = table.c, sa.bindparam
        self._get = prepared(sa.select(c.owner, c.epoch, c.lease_until).where(c.name == bind("key")))
        self._insert = inserted(table)
        self._renew = prepared(
            sa.update(table).where(c.name == bind("key"), c.owner == bind("me"), c.epoch == bind("at")).values(lease_until=bind("until"))
        )
        self._take = prepared(
            sa.update(table)
            .where(c.name == bind("key"), c.owner == bind("was"), c.epoch == bind("at"), c.lease_until == bind("was_until"))
            .values(owner=bind("me"), epoch=bind("next"), lease_until=bind("until"))
        )

    @property
    def valid(self) -> bool:
        """Whether the name is ours and may be acted upon, without asking the database."""
        return self.runtime.monotonic() < self._valid_until

    @property
    def left_s(self) -> float:
        """Seconds for which `valid` holds; not above 0 when it does not."""
        return self._valid_until - self.runtime.monotonic()

    async def attempt(self) -> bool:
        """Renew what is ours, take what nobody holds. False when somebody else holds it. Raises Lost; what was valid remains so until
        its time."""
        began = self.runtime.monotonic()
        try:
            epoch = await self.db.transact(self._claim)
        except Duplicate:
            epoch = None
        if epoch is None:
            self._valid_until = float("-inf")
            return False
        self.epoch = epoch
        self._valid_until = began + self.lease_s - self.margin_s
        return True

    async def _claim(self, tx: Transaction) -> int | None:
        """The epoch in which the name is ours, or None."""
        now = self.db.now_us()
        values: dict[str, Any] = {"key": self.name, "me": self.owner, "until": now + int(self.lease_s * 1_000_000)}
        row = await tx.one(self._get, values)
        if row is None:
            first: int = now // 1_000_000
            await tx.run(self._insert, {"name": self.name, "owner": self.owner, "epoch": first, "lease_until": values["until"]})
            return first
        owner, epoch, lease_until = row
        if owner == self.owner:
            return epoch if await tx.run(self._renew, {**values, "at": epoch}) else None
        if lease_until >= now:
            return None
        following: int = max(epoch + 1, now // 1_000_000)
        taken = await tx.run(self._take, {**values, "was": owner, "at": epoch, "was_until": lease_until, "next": following})
        return following if taken else None

    async def release(self) -> None:
        """Let the next one have it at once."""
        self._valid_until = float("-inf")
        if self.epoch:
            values = {"key": self.name, "me": self.owner, "at": self.epoch, "until": 0}
            await self.db.transact(lambda tx: tx.run(self._renew, values))
