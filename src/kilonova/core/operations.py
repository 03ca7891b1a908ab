"""Long verbs are rows. The intent is a row, not a coroutine: `run` and `recover` take nothing else.

A verb is a module with `begin`, `run(service, op)` and `recover(service, op)`. `begin` opens the operation inside the same transaction
that claims the resource; after the commit `Operations.start` runs it here (embedded) or any conductor claims it by lease. Each
claim raises the epoch; every command to a node carries (operation id, epoch) and a node refuses lower epochs, so that a runner that
was asleep and wakes up does no harm. `finish` deletes the row, conditional on the epoch.
"""

import asyncio
from collections.abc import Callable, Coroutine, Mapping
from typing import Any, TypeVar

import msgspec
import sqlalchemy as sa

from kilonova.core.context import Context
from kilonova.core.db import Database, Json, Transaction, inserted, prepared
from kilonova.core.errors import Error
from kilonova.core.log import Log, request_id
from kilonova.core.runtime import Runtime
from kilonova.core.tasks import Tasks

LEASE_S = 30
MAX_ATTEMPTS = 20
A = TypeVar("A")


class LostLease(Error):
    code = "operations.lost_lease"
    title = "Operation {operation} has been taken over by another runner."


class Operation(msgspec.Struct, frozen=True, kw_only=True):
    """One long verb under way. `args` is the verb's own struct as JSON; times are microseconds."""

    id: str
    verb: str
    resource_id: str
    args: msgspec.Raw
    ctx: Context
    step: str
    owner: str
    lease_until: int
    epoch: int
    attempts: int
    created_at: int

    def arguments(self, kind: type[A]) -> A:
        return msgspec.json.decode(self.args, type=kind)


class Raw(Json):
    """JSON kept as it is, decoded by whoever knows the verb."""

    cache_ok = True

    def __init__(self) -> None:
        super().__init__(msgspec.Raw)


def operations_table(metadata: sa.MetaData, name: str) -> sa.Table:
    return sa.Table(
        name,
        metadata,
        sa.Column("id", sa.String(36), primary_key=True),
        sa.Column("verb", sa.String(64), nullable=False),
        sa.Column("resource_id", sa.String(36), nullable=False, index=True),
        sa.Column("args", Raw(), nullable=False),
        sa.Column("ctx", Json(Context), nullable=False),
        sa.Column("step", sa.String(64), nullable=False),
        sa.Column("owner", sa.String(64), nullable=False),
        sa.Column("lease_until", sa.BigInteger, nullable=False),
        sa.Column("epoch", sa.Integer, nullable=False),
        sa.Column("attempts", sa.Integer, nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
    )


class Verb(msgspec.Struct, frozen=True):
    """run and recover of one verb, bound to their service. Both settle the operation themselves (Operations.finish)."""

    run: Callable[[Operation], Coroutine[Any, Any, None]]
    recover: Callable[[Operation], Coroutine[Any, Any, None]]


class Operations:
    """The operations of one database, seen from one runner. `owner` names this life of this process."""

    def __init__(self, db: Database, table: sa.Table, runtime: Runtime, tasks: Tasks, log: Log, owner: str) -> None:
        self.db = db
        self.runtime = runtime
        self.tasks = tasks
        self.log = log
        self.owner = owner
        self.verbs: Mapping[str, Verb] = {}
        self.running: dict[str, str] = {}
        c, bind = table.c, sa.bindparam
        mine = sa.and_(c.id == bind("op"), c.owner == bind("me"), c.epoch == bind("at"))
        self._insert = inserted(table)
        self._get = prepared(sa.select(table).where(c.id == bind("id")))
        self._of = prepared(sa.select(table).where(c.resource_id == bind("resource_id")).order_by(c.created_at, c.id))
        self._dead = prepared(
            sa.select(table)
            .where(c.owner != bind("me"), sa.or_(c.lease_until < bind("now"), bind("all", type_=sa.Integer) == 1))
            .order_by(c.created_at, c.id)
        )
        self._claim = prepared(
            sa.update(table)
            .where(c.id == bind("op"), c.owner == bind("was"), c.epoch == bind("at"))
            .values(owner=bind("me"), epoch=c.epoch + 1, lease_until=bind("until"), attempts=c.attempts + 1)
        )
        self._renew = prepared(sa.update(table).where(c.owner == bind("me")).values(lease_until=bind("until")))
        self._step = prepared(sa.update(table).where(mine).values(step=bind("next")))
        self._delete = prepared(sa.delete(table).where(mine))

    async def open(self, tx: Transaction, verb: str, resource_id: str, ctx: Context, args: Any) -> Operation:
        """Insert an operation that this runner owns. Call `start` with it after the commit."""
        now = self.runtime.now_us()
        op = Operation(
            id=self.runtime.uuid(),
            verb=verb,
            resource_id=resource_id,
            args=msgspec.Raw(msgspec.json.encode(args)),
            ctx=ctx.on_behalf("kilonova"),
            step="",
            owner=self.owner,
            lease_until=now + LEASE_S * 1_000_000,
            epoch=1,
            attempts=1,
            created_at=now,
        )
        await tx.run(self._insert, msgspec.structs.asdict(op))
        return op

    def start(self, op: Operation, *, recover: bool = False) -> asyncio.Task[Any]:
        verb = self.verbs[op.verb]
        return self.tasks.start(f"{op.verb} {op.resource_id}", self._run(op, verb.recover if recover else verb.run))

    async def _run(self, op: Operation, function: Callable[[Operation], Coroutine[Any, Any, None]]) -> None:
        request_id.set(op.ctx.request_id)
        self.running[op.id] = op.verb
        try:
            await function(op)
        except LostLease:
            self.log.warning("operation was taken over", operation=op.id, verb=op.verb, resource=op.resource_id)
        finally:
            self.running.pop(op.id, None)

    async def step(self, tx: Transaction, op: Operation, name: str) -> None:
        if not await tx.run(self._step, {"op": op.id, "me": op.owner, "at": op.epoch, "next": name}):
            raise LostLease(operation=op.id)

    async def finish(self, tx: Transaction, op: Operation) -> None:
        """The verb is settled, in the same transaction that settles the resource. Raises LostLease when it is no longer ours."""
        if not await tx.run(self._delete, {"op": op.id, "me": op.owner, "at": op.epoch}):
            raise LostLease(operation=op.id)

    async def of(self, resource_id: str) -> list[Operation]:
        return [
            Operation(**dict(zip(Operation.__struct_fields__, row, strict=True)))
            for row in await self.db.all(self._of, {"resource_id": resource_id})
        ]

    async def adopt(self, *, everything: bool = False) -> int:
        """Take over operations whose runner died (lease ran out; or all of other owners, when this database is ours alone)."""
        now = self.db.now_us()
        taken = 0
        for row in await self.db.all(self._dead, {"me": self.owner, "now": now, "all": int(everything)}):
            op = Operation(**dict(zip(Operation.__struct_fields__, row, strict=True)))
            if op.attempts >= MAX_ATTEMPTS and not everything:
                continue
            until = now + LEASE_S * 1_000_000

            async def claim(tx: Transaction, op: Operation = op, until: int = until) -> int:
                return await tx.run(self._claim, {"op": op.id, "was": op.owner, "at": op.epoch, "me": self.owner, "until": until})

            if await self.db.transact(claim):
                mine = msgspec.structs.replace(op, owner=self.owner, epoch=op.epoch + 1, lease_until=until, attempts=op.attempts + 1)
                self.log.info("operation adopted", operation=op.id, verb=op.verb, resource=op.resource_id, step=op.step)
                self.start(mine, recover=True)
                taken += 1
        return taken

    async def renew(self) -> None:
        if self.running:
            until = self.db.now_us() + LEASE_S * 1_000_000
            await self.db.transact(lambda tx: tx.run(self._renew, {"me": self.owner, "until": until}))
