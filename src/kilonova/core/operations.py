"""Long verbs are rows. The intent is a row, not a coroutine: `run` and `recover` take nothing else.

A verb is a module with `begin`, `run(service, op)`, `recover(service, op)` and `give_up(service, op, error)`. `begin` opens the operation
inside the same transaction that claims the resource; after the commit `Operations.start` runs it here (embedded) or any conductor claims
it by lease. Each claim raises the epoch; every command to a node carries (operation id, epoch) and a node refuses lower epochs, so that a
runner that was asleep and wakes up does no harm. `finish` deletes the row, conditional on the epoch.

What settles a verb is in `run`. An exception that leaves it (a mistake, a database that is away, a service that does not answer) does not:
the operation waits a moment, takes a new epoch and goes through `recover`; after MAX_ATTEMPTS it is given up, which settles it with a
fault. A row that nobody runs (its runner died, or a commit was reported as lost and was not) is found by `adopt`, which is called again
and again.
"""

import asyncio
from collections.abc import Callable, Coroutine, Mapping
from typing import Any, TypeVar

import msgspec
import sqlalchemy as sa

from kilonova.core.bus.interface import NoBroker
from kilonova.core.context import Context
from kilonova.core.db import Database, Lost, Transaction
from kilonova.core.db.statements import Json, inserted, prepared
from kilonova.core.errors import Error, Unavailable
from kilonova.core.log import Log, request_id
from kilonova.core.runtime import Runtime
from kilonova.core.tasks import Tasks

LEASE_S = 30
RENEW_S = 10.0
"""How often `renew` and `adopt` are to be called."""
MAX_ATTEMPTS = 15
PAUSE_S = 1.0
PAUSE_MAX_S = 30.0
"""Between attempts: doubles from the first to the second, less up to half by chance. All attempts of a verb that fails at once take some
five minutes."""
PATIENT_S = 2.0
"""Between looks at a database or a broker that is away."""
BATCH = 500
TIDY_S = 5.0
"""After an operation was lost, until what its last step made is put away."""
NOBODY = ""
A = TypeVar("A")


class LostLease(Unavailable):
    code = "operations.lost_lease"
    title = "Operation {operation} has been taken over by another runner."


class GivenUp(Error):
    """Nobody will try again. `why` is a sentence fit for users."""

    code = "operations.given_up"
    title = "The request was given up after {attempts} attempts. {why}"
    advice = "The log tells of each attempt; grep for the operation {operation}."


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
    """The functions of one verb, bound to their service. Each settles the operation itself (Operations.finish)."""

    run: Callable[[Operation], Coroutine[Any, Any, None]]
    recover: Callable[[Operation], Coroutine[Any, Any, None]]
    give_up: Callable[[Operation, Error], Coroutine[Any, Any, None]]
    """Settle with a fault whatever can still be settled."""
    overtaken: Callable[[Operation], Coroutine[Any, Any, None]] | None = None
    """After another runner has taken it over from this one, which was asleep and may have done one more step when it woke: put away what
    that step made, if nobody else can want it."""


class _Running:
    """One operation as this runner runs it. valid_until: on the monotonic clock; later somebody else may have it."""

    __slots__ = ("op", "task", "valid_until")

    def __init__(self, op: Operation, task: asyncio.Task[Any] | None, valid_until: float) -> None:
        self.op, self.task, self.valid_until = op, task, valid_until


class Operations:
    """The operations of one database, seen from one runner. `owner` names this life of this process."""

    def __init__(
        self,
        db: Database,
        table: sa.Table,
        runtime: Runtime,
        tasks: Tasks,
        log: Log,
        owner: str,
        hand_over: Callable[[str], None] | None = None,
    ) -> None:
        """hand_over: this process runs nothing; called with the id of an operation that somebody else may take up now."""
        self.db = db
        self.runtime = runtime
        self.tasks = tasks
        self.log = log
        self.owner = owner
        self.hand_over = hand_over
        self.verbs: Mapping[str, Verb] = {}
        self.running: dict[str, _Running] = {}
        self.given_up = 0
        self._pauses = 0
        self._asleep: dict[int, asyncio.Event] = {}
        self._taking: dict[str, None] = {}
        """Operations that somebody in this process is claiming at this moment."""
        self._opened: dict[str, float] = {}
        """Operations that this runner has opened and not started yet, with the monotonic time until which they may."""
        c, bind = table.c, sa.bindparam
        mine = sa.and_(c.id == bind("op"), c.owner == bind("me"), c.epoch == bind("at"))
        self._insert = inserted(table)
        self._get = prepared(sa.select(table).where(c.id == bind("id")))
        self._of = prepared(sa.select(table).where(c.resource_id == bind("resource_id")).order_by(c.created_at, c.id))
        self._idle = prepared(
            sa.select(c.id, c.owner, c.lease_until)
            .where(sa.or_(c.owner == bind("me"), c.lease_until < bind("now"), bind("all", type_=sa.Integer) == 1))
            .order_by(c.created_at, c.id)
        )
        self._claim = prepared(
            sa.update(table)
            .where(c.id == bind("op"), c.owner == bind("was"), c.epoch == bind("at"), c.lease_until == bind("was_until"))
            .values(owner=bind("me"), epoch=c.epoch + 1, lease_until=bind("until"), attempts=c.attempts + bind("more"))
        )
        among = sa.and_(c.owner == bind("me"), c.id.in_(bind("ids", expanding=True)))
        self._renew = prepared(sa.update(table).where(among).values(lease_until=bind("until")))
        self._held = prepared(sa.select(c.id, c.epoch).where(among).order_by(c.id))
        self._touch = prepared(sa.update(table).where(mine).values(lease_until=bind("until")))
        self._give = prepared(sa.update(table).where(among).values(owner=NOBODY, lease_until=0))
        self._step = prepared(sa.update(table).where(mine).values(step=bind("next")))
        self._delete = prepared(sa.delete(table).where(mine))

    async def open(self, tx: Transaction, verb: str, resource_id: str, ctx: Context, args: Any) -> Operation:
        """Insert an operation that this runner owns (with `hand_over`, nobody yet). Call `start` with it after the commit."""
        mine = self.hand_over is None
        op = Operation(
            id=self.runtime.uuid(),
            verb=verb,
            resource_id=resource_id,
            args=msgspec.Raw(msgspec.json.encode(args)),
            ctx=ctx.on_behalf("kilonova"),
            step="",
            owner=self.owner if mine else NOBODY,
            lease_until=self._until() if mine else 0,
            epoch=int(mine),
            attempts=int(mine),
            created_at=self.runtime.now_us(),
        )
        if mine:
            self._opened[op.id] = self.runtime.monotonic() + LEASE_S
        await tx.later(self._insert, msgspec.structs.asdict(op))
        return op

    def _until(self) -> int:
        return self.db.now_us() + LEASE_S * 1_000_000

    # ---- running

    def start(self, op: Operation, *, recover: bool = False) -> asyncio.Task[Any] | None:
        """Run it, here and now; or tell those who do."""
        if self.hand_over is not None:
            self.hand_over(op.id)
            return None
        running = _Running(op, None, self.runtime.monotonic() + LEASE_S)
        running.task = self.tasks.start(f"{op.verb} {op.resource_id}", self._run(running, recover=recover))
        self.running[op.id] = running
        self._opened.pop(op.id, None)
        return running.task

    async def take_up(self, op_id: str) -> bool:
        """Claim and run an operation that has no runner. False when somebody else was quicker, or it is settled."""
        return await self._claimed(op_id, lambda op: op.lease_until < self.db.now_us()) is not None

    async def _claimed(self, op_id: str, free: Callable[[Operation], bool]) -> Operation | None:
        """Claim it and run it here, unless it runs here already, somebody here is about to, or it is not free."""
        if op_id in self.running or op_id in self._taking:
            return None
        self._taking[op_id] = None
        try:
            row = await self.db.one(self._get, {"id": op_id})
            known = _operation(row) if row is not None else None
            if known is None or op_id in self.running or not free(known):
                return None
            mine = await self._take(known)
            if mine is not None:
                self.start(mine, recover=mine.attempts > 1)
            return mine
        finally:
            del self._taking[op_id]

    async def _run(self, running: _Running, *, recover: bool) -> None:
        op = running.op
        request_id.set(op.ctx.request_id)
        why: Exception | None = None
        try:
            while True:
                try:
                    await self._attempt(op, why, recover=recover)
                    return
                except LostLease:
                    raise
                except Exception as error:
                    why = error
                    log = (
                        self.log.debug if isinstance(error, NoBroker) else self.log.warning if isinstance(error, Error) else self.log.error
                    )
                    log("attempt failed", operation=op.id, verb=op.verb, resource=op.resource_id, attempt=op.attempts, error=error)
                again = await self._again(op, patient=isinstance(why, (NoBroker, Lost)))
                if again is None:
                    return
                op = running.op = again
                running.valid_until = self.runtime.monotonic() + LEASE_S
                recover = True
        except LostLease:
            self._overtaken(op)
        finally:
            if self.running.get(op.id) is running:
                del self.running[op.id]

    async def _attempt(self, op: Operation, why: Exception | None, *, recover: bool) -> None:
        verb = self.verbs[op.verb]
        if op.attempts <= MAX_ATTEMPTS:
            await (verb.recover(op) if recover else verb.run(op))
            return
        reason = (
            why.message if isinstance(why, Error) else "An unexpected error came each time." if why else "It was interrupted each time."
        )
        error = GivenUp(operation=op.id, attempts=MAX_ATTEMPTS, why=reason)
        self.log.error("operation is given up", operation=op.id, verb=op.verb, resource=op.resource_id, step=op.step, reason=reason)
        await verb.give_up(op, error)
        self.given_up += 1

    async def _again(self, op: Operation, *, patient: bool = False) -> Operation | None:
        """After a pause the operation with a new epoch; None when it turns out to be settled. Raises LostLease. A database or a broker that
        is away (`patient`) is waited for, and costs no attempt."""
        pause_s = PATIENT_S if patient else min(PAUSE_S * 2.0 ** (op.attempts - 1), PAUSE_MAX_S)
        while True:
            await self._pause(pause_s * self.runtime.random.uniform(0.5, 1.0))
            try:
                row = await self.db.one(self._get, {"id": op.id})
                if row is None:
                    return None
                known = _operation(row)
                if known.owner != self.owner or known.epoch < op.epoch:
                    raise LostLease(operation=op.id)
                claimed = await self._take(known, counts=not patient)
            except LostLease:
                raise
            except Exception as error:
                self.log.warning("operation waits for its database", operation=op.id, verb=op.verb, error=error)
                pause_s = PATIENT_S
                continue
            if claimed is not None:
                return claimed

    async def _pause(self, seconds: float) -> None:
        """Until the time is over, or `wake` is called."""
        up = asyncio.Event()
        key = self._pauses = self._pauses + 1
        self._asleep[key] = up
        timer = asyncio.get_running_loop().call_later(seconds, up.set)
        try:
            await up.wait()
        finally:
            timer.cancel()
            del self._asleep[key]

    def wake(self) -> None:
        """What was away is back: operations that wait for their next attempt need not wait any longer."""
        for up in self._asleep.values():
            up.set()

    async def _take(self, op: Operation, *, counts: bool = True) -> Operation | None:
        """The operation in our name with a new epoch, or None when somebody was quicker. counts: as an attempt."""
        until = self._until()
        attempts = op.attempts + counts

        values = {"op": op.id, "was": op.owner, "at": op.epoch, "was_until": op.lease_until, "me": self.owner, "until": until}
        if not await self.db.run(self._claim, {**values, "more": int(counts)}):
            return None
        return msgspec.structs.replace(op, owner=self.owner, epoch=op.epoch + 1, lease_until=until, attempts=attempts)

    # ---- what verbs ask

    async def step(self, tx: Transaction, op: Operation, name: str) -> None:
        if not await tx.run(self._step, {"op": op.id, "me": op.owner, "at": op.epoch, "next": name}):
            raise LostLease(operation=op.id)

    async def finish(self, tx: Transaction, op: Operation) -> None:
        """The verb is settled, in the same transaction that settles the resource. Raises LostLease, perhaps only at the commit, when it is
        no longer ours."""
        await tx.later(self._delete, {"op": op.id, "me": op.owner, "at": op.epoch}, rows=1, otherwise=LostLease(operation=op.id))

    async def end(self, op: Operation) -> None:
        """As `finish`, where there is nothing else to settle."""
        if not await self.db.run(self._delete, {"op": op.id, "me": op.owner, "at": op.epoch}):
            raise LostLease(operation=op.id)

    async def held(self, op: Operation) -> bool:
        """Whether the operation is still ours, for a whole lease from now on. Ask before undoing what another runner may have built on."""
        until = self._until()
        values = {"op": op.id, "me": op.owner, "at": op.epoch, "until": until}
        return await self.db.run(self._touch, values) > 0

    def valid(self, operation_id: str) -> bool:
        """Whether the lease is known to hold, without asking the database."""
        running = self.running.get(operation_id)
        return running is not None and self.runtime.monotonic() < running.valid_until

    async def of(self, resource_id: str) -> list[Operation]:
        return [_operation(row) for row in await self.db.all(self._of, {"resource_id": resource_id})]

    # ---- leases

    async def adopt(self, *, everything: bool = False) -> int:
        """Take over operations that nobody runs: their lease ran out (or, with `everything`, they are of an earlier life and this database
        is ours alone), or they are in our name and not running."""
        now, monotonic = self.db.now_us(), self.runtime.monotonic()
        self._opened = {op: until for op, until in self._opened.items() if until > monotonic}
        taken = 0
        for op_id, owner, lease_until in await self.db.all(self._idle, {"me": self.owner, "now": now, "all": int(everything)}):
            if op_id in self.running or op_id in self._opened or (owner != self.owner and not everything and lease_until >= now):
                continue
            mine = await self._claimed(op_id, lambda op: everything or op.owner == self.owner or op.lease_until < now)
            if mine is not None:
                self.log.info("operation adopted", operation=mine.id, verb=mine.verb, resource=mine.resource_id, step=mine.step)
                taken += 1
        return taken

    async def give_back(self, ids: list[str]) -> None:
        """Operations that ran here until a moment ago are nobody's: others need not wait for their leases to run out."""
        for at in range(0, len(ids), BATCH):
            batch = ids[at : at + BATCH]
            await self.db.run(self._give, {"me": self.owner, "ids": batch})

    async def renew(self) -> None:
        """Keep what runs here. A runner whose operation somebody else has taken over is stopped, without undoing anything."""
        before = dict(self.running)
        ids = list(before)
        for at in range(0, len(ids), BATCH):
            batch = ids[at : at + BATCH]
            began = self.runtime.monotonic()
            until = self._until()

            async def body(tx: Transaction, batch: list[str] = batch, until: int = until) -> dict[str, int]:
                await tx.run(self._renew, {"me": self.owner, "ids": batch, "until": until})
                return {row[0]: row[1] for row in await tx.all(self._held, {"me": self.owner, "ids": batch})}

            held = await self.db.transact(body)
            for op_id in batch:
                running = before[op_id]
                if self.running.get(op_id) is not running:
                    continue
                if op_id in held and held[op_id] == running.op.epoch:
                    running.valid_until = began + LEASE_S
                elif op_id not in held and running.task is not None and self.runtime.monotonic() >= running.valid_until:
                    running.task.cancel()
                    self._overtaken(running.op)

    def _overtaken(self, op: Operation) -> None:
        self.log.warning("operation was taken over", operation=op.id, verb=op.verb, resource=op.resource_id)
        tidy = self.verbs[op.verb].overtaken
        if tidy is not None and not self.tasks.closed:
            self.tasks.start(f"after the loss of {op.verb} {op.resource_id}", self._tidied(tidy, op))

    async def _tidied(self, tidy: Callable[[Operation], Coroutine[Any, Any, None]], op: Operation) -> None:
        """What was on its way has arrived by then."""
        await self.runtime.sleep(TIDY_S)
        await tidy(op)


def _operation(row: tuple[Any, ...]) -> Operation:
    return Operation(**dict(zip(Operation.__struct_fields__, row, strict=True)))
