"""The schema of each service in a database: made whole in a new one, brought forward in an old one, refused by a program too old for it.

A service's tables have a history of numbered revisions, `store/migrations/0001_….py`, each with a function `upgrade` of Alembic
operations that only add. A new database skips them: its tables are made from the metadata, and a test compares the two ways.
`alembic_version_<service>` holds which revision the tables are at and the oldest one whose program may still work on them.
"""

import importlib
import pkgutil
import re
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager, nullcontext
from typing import Any

import msgspec
import sqlalchemy as sa

from kilonova.core.db.facade import Database, Transaction
from kilonova.core.errors import Error

FIRST = 1
_MAKES = re.compile(r"\s*CREATE (?:TABLE|(?:UNIQUE )?INDEX \S+ ON) (\S+)")
"""What a statement of a first revision makes, or makes an index of."""
_SQLITE_TABLES = sa.text("SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY name")


class History(msgspec.Struct, frozen=True, kw_only=True):
    """`head`: the newest revision in `package`. `compatible_back_to`: the oldest one whose program can work on tables at head."""

    service: str
    metadata: sa.MetaData
    package: str
    head: int
    compatible_back_to: int

    @property
    def versions(self) -> sa.Table:
        return sa.Table(
            f"alembic_version_{self.service}",
            sa.MetaData(),
            sa.Column("version_num", sa.String(32), primary_key=True),
            sa.Column("schema", sa.Integer, nullable=False),
            sa.Column("compatible_back_to", sa.Integer, nullable=False),
        )

    def revisions(self) -> list[tuple[int, str]]:
        """(number, name of the module), in order."""
        package = importlib.import_module(self.package)
        names = sorted(name for _, name, _ in pkgutil.iter_modules(package.__path__) if name[:4].isdigit())
        return [(int(name[:4]), name) for name in names]


class State(msgspec.Struct, frozen=True, kw_only=True):
    """Of one service in one database. `schema`: the revision it is at; 0: no tables; None: tables from before there were revisions."""

    service: str
    schema: int | None
    compatible_back_to: int
    head: int

    @property
    def pending(self) -> int:
        """Revisions to go; -1 when there are no tables."""
        return -1 if self.schema == 0 else max(0, self.head - (FIRST if self.schema is None else self.schema))

    @property
    def verdict(self) -> str:
        """In a few words, for people."""
        if self.schema == 0:
            return "not made yet"
        if self.schema is None:
            return "from before there were revisions"
        if self.schema > self.head:
            return "too new for this program" if self.head < self.compatible_back_to else "newer than this program, and compatible"
        return f"{self.pending} revisions to go" if self.pending else "up to date"


class TooOld(Error):
    """The database belongs to a newer program."""

    code = "core.schema_too_new"
    title = (
        "The database is at revision {schema} of {service}, which needs a program that knows {compatible_back_to} or newer; "
        "this one knows {head}."
    )
    advice = "Install the release of Kilonova that the other processes run, or a newer one."


class NotMigrated(Error):
    code = "core.schema_too_old"
    title = "The database's tables of {service} are not those of this program (revision {schema} of {head})."
    advice = "Run `kilonova db sync` with this release."


async def table_names(db: Database) -> list[str]:
    statement = _SQLITE_TABLES if db.dialect.name == "sqlite" else db.dialect.table_names
    return [row[0] for row in await db.all(statement)]


async def states(db: Database, histories: Sequence[History]) -> list[State]:
    have = set(await table_names(db))
    return [await _state(db, history, have) for history in histories]


async def _state(db: Database, history: History, have: set[str]) -> State:
    schema: int | None = None
    compatible_back_to = FIRST
    versions = history.versions
    if versions.name in have:
        row = await db.one(sa.select(versions.c.schema, versions.c.compatible_back_to).order_by(versions.c.schema))
        if row is not None:
            schema, compatible_back_to = row
    elif not any(name in have for name in history.metadata.tables):
        schema = 0
    return State(service=history.service, schema=schema, compatible_back_to=compatible_back_to, head=history.head)


def refuse(state: State) -> None:
    """Raises TooOld."""
    if state.schema is not None and state.schema > state.head < state.compatible_back_to:
        raise TooOld(**msgspec.structs.asdict(state))


async def check(db: Database, histories: Sequence[History]) -> None:
    """For a process that must not change the schema. Raises TooOld and NotMigrated."""
    for state in await states(db, histories):
        refuse(state)
        if state.pending:
            raise NotMigrated(service=state.service, schema=state.schema or 0, head=state.head)


async def sync(db: Database, histories: Sequence[History]) -> list[str]:
    """Make what is missing and bring the rest to head; a sentence for each thing done. Raises TooOld, before anything is touched."""
    found = await states(db, histories)
    for state in found:
        refuse(state)
    if all(state.pending == 0 and state.schema is not None for state in found):
        return []
    done = []
    async with _alone(db):
        for history, state in zip(histories, await states(db, histories), strict=True):
            if state.schema == 0:
                await db.create(history.metadata)
                await _stamp(db, history, history.head)
                done.append(f"{history.service}: {len(history.metadata.tables)} tables made, at revision {history.head}")
                continue
            at = state.schema
            if at is None:
                await _complete(db, history)
                await _stamp(db, history, FIRST)
                at = FIRST
                done.append(f"{history.service}: found from before there were revisions, counted as {FIRST}")
            done += await forward(db, history, at)
    return done


def _alone(db: Database) -> AbstractAsyncContextManager[Any]:
    """One process at a time changes the schema. (SQLite's file has one process only, by the lock of its state directory.)"""
    alone = getattr(db, "alone", None)  # of server.py, which the embedded mode never imports
    return alone("kilonova.schema") if alone else nullcontext()


async def _complete(db: Database, history: History) -> None:
    """Make what the first revision has and tables from before it lack: it grew until it was released."""
    have = set(await table_names(db))
    _, name = history.revisions()[0]
    missing = [s for s in rendered(db.dialect, f"{history.package}.{name}") if (m := _MAKES.search(s)) and m[1].strip('"`') not in have]
    await _run(db, missing)


async def _run(db: Database, statements: Sequence[str]) -> None:
    async def body(tx: Transaction) -> None:
        for statement in statements:
            await tx.run(sa.text(statement.replace(":", r"\:")))

    await db.transact(body)


async def forward(db: Database, history: History, at: int) -> list[str]:
    """Run the revisions after `at`, each in a transaction where the database has such for its tables (MariaDB has not)."""
    done = []
    for number, name in history.revisions():
        if number > at:
            await _run(db, rendered(db.dialect, f"{history.package}.{name}"))
            await _stamp(db, history, number)
            done.append(f"{history.service}: revision {name}")
    return done


def rendered(dialect: Any, module: str) -> list[str]:
    """A revision as the statements that this database is to run."""
    try:
        from alembic.migration import MigrationContext
        from alembic.operations import Operations
    except ImportError:
        raise Error("A database of an older release is brought forward by Alembic, which is missing: pip install alembic.") from None

    statements: list[str] = []
    context = MigrationContext.configure(dialect=dialect, opts={"as_sql": True})
    setattr(context.impl, "static_output", lambda text: statements.append(text.rstrip().rstrip(";")))  # noqa: B010
    with Operations.context(context):
        importlib.import_module(module).upgrade()
    return statements


async def _stamp(db: Database, history: History, number: int) -> None:
    versions = history.versions
    await db.create(versions.metadata)
    row = {"version_num": f"{number:04}", "schema": number, "compatible_back_to": history.compatible_back_to}

    async def body(tx: Transaction) -> None:
        await tx.run(sa.delete(versions))
        await tx.run(sa.insert(versions).values(row))

    await db.transact(body)
