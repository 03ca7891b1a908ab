"""Revisions and metadata make the same tables on each database; who is too old or too new is told in one sentence."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
import sqlalchemy as sa

from kilonova.compute.store.migrations.api import HISTORY as COMPUTE_API
from kilonova.compute.store.migrations.cell import HISTORY as COMPUTE_CELL
from kilonova.core.db import Database
from kilonova.core.db.schema import History, NotMigrated, TooOld, check, forward, states, sync
from kilonova.core.db.statements import inserted
from kilonova.identity.store.migrations import HISTORY as IDENTITY
from kilonova.image.store.migrations import HISTORY as IMAGE
from kilonova.network.store.migrations import HISTORY as NETWORK
from kilonova.placement.store.migrations import HISTORY as PLACEMENT
from tests.databases.conftest import Open

ALL = (IDENTITY, IMAGE, PLACEMENT, NETWORK, COMPUTE_API, COMPUTE_CELL)
COLUMNS = {
    "sqlite": (
        "SELECT m.name, c.name, c.type, c.\"notnull\", coalesce(c.dflt_value, ''), c.pk FROM sqlite_master m "
        "JOIN pragma_table_info(m.name) c WHERE m.type = 'table' ORDER BY m.name, c.name"
    ),
    "postgresql": (
        "SELECT table_name, column_name, data_type, is_nullable, coalesce(character_maximum_length, 0), coalesce(collation_name, ''), "
        "coalesce(column_default, '') FROM information_schema.columns WHERE table_schema = 'public' ORDER BY table_name, column_name"
    ),
    "mariadb": (
        "SELECT table_name, column_name, column_type, is_nullable, coalesce(collation_name, ''), coalesce(column_default, ''), extra "
        "FROM information_schema.columns WHERE table_schema = database() ORDER BY table_name, column_name"
    ),
}
INDEXES = {
    "sqlite": (
        'SELECT m.name, i."unique", i.origin, (SELECT group_concat(name) FROM pragma_index_info(i.name)) FROM sqlite_master m '
        "JOIN pragma_index_list(m.name) i WHERE m.type = 'table' ORDER BY 1, 2, 3, 4"
    ),
    "postgresql": "SELECT tablename, indexname, indexdef FROM pg_indexes WHERE schemaname = 'public' ORDER BY tablename, indexname",
    "mariadb": (
        "SELECT table_name, index_name, non_unique, seq_in_index, column_name FROM information_schema.statistics "
        "WHERE table_schema = database() ORDER BY table_name, index_name, seq_in_index"
    ),
}


async def shape(db: Database, kind: str) -> tuple[list[Any], list[Any]]:
    """Columns and indexes of the services' tables. Names of unnamed constraints are the database's own affair."""
    columns = [r for r in await db.all(sa.text(COLUMNS[kind].replace(":", r"\:"))) if not str(r[0]).startswith("alembic_version")]
    indexes = [r for r in await db.all(sa.text(INDEXES[kind])) if not str(r[0]).startswith("alembic_version")]
    return columns, indexes


def run(story: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(story())  # type: ignore[arg-type]


@pytest.mark.parametrize("history", ALL, ids=lambda h: h.service)
def test_revisions_make_what_the_metadata_make(history: History, kind: str, open_it: Open, tmp_path: Path) -> None:
    """A difference here wants a revision: tools/revision.py writes it."""

    async def story() -> None:
        db = open_it()
        await forward(db, history, 0)
        by_revisions = await shape(db, kind)
        for table in reversed(history.metadata.sorted_tables):
            await db.transact(lambda tx, table=table: tx.run(sa.text(f"DROP TABLE IF EXISTS {table.name}")))  # type: ignore[misc]
        await db.create(history.metadata)
        by_metadata = await shape(db, kind)
        await db.stop()
        assert by_revisions[0] and by_revisions[1]
        assert by_revisions[0] == by_metadata[0]
        assert by_revisions[1] == by_metadata[1]

    run(story)


@pytest.mark.parametrize("history", ALL, ids=lambda h: h.service)
def test_the_head_is_the_last_revision(history: History) -> None:
    numbers = [number for number, _ in history.revisions()]
    assert numbers == list(range(1, history.head + 1))
    assert 1 <= history.compatible_back_to <= history.head


def test_a_new_database_is_made_whole_and_then_left_alone(open_it: Open) -> None:
    async def story() -> None:
        db = open_it()
        assert [s.pending for s in await states(db, ALL)] == [-1] * len(ALL)
        with pytest.raises(NotMigrated, match="not those of this program"):
            await check(db, ALL)
        assert len(await sync(db, ALL)) == len(ALL)
        assert [(s.schema, s.pending) for s in await states(db, ALL)] == [(h.head, 0) for h in ALL]
        assert await sync(db, ALL) == []
        await check(db, ALL)
        await db.stop()

    run(story)


def test_two_that_start_together_make_it_once(kind: str, open_it: Open) -> None:
    async def story() -> None:
        first, second = open_it(), open_it()
        done = await asyncio.gather(sync(first, (IMAGE, PLACEMENT)), sync(second, (IMAGE, PLACEMENT)))
        assert sorted(len(d) for d in done) == [0, 2]
        await first.stop()
        await second.stop()

    if kind != "sqlite":  # its file belongs to one process, by the lock of the state directory
        run(story)


def test_tables_from_before_there_were_revisions_are_adopted(open_it: Open) -> None:
    async def story() -> None:
        db = open_it()
        await db.create(PLACEMENT.metadata)
        await db.transact(lambda tx: tx.run(sa.text("DROP TABLE placement_consumers")))
        await db.transact(lambda tx: tx.run(sa.text("DROP TABLE placement_gone_consumers")))  # younger than revisions are
        await db.transact(
            lambda tx: tx.run(inserted(PLACEMENT.metadata.tables["placement_traits"]), {"name": "CUSTOM_A", "uses": 0, "created_at": 1})
        )
        assert [s.schema for s in await states(db, [PLACEMENT])] == [None]
        assert len(await sync(db, [PLACEMENT])) >= 1
        assert [s.pending for s in await states(db, [PLACEMENT])] == [0]
        assert await db.one(sa.text("SELECT count(*) FROM placement_traits")) == (1,)
        assert await db.one(sa.text("SELECT count(*) FROM placement_consumers")) == (0,)
        await db.stop()

    run(story)


def test_a_program_too_old_is_refused_and_one_old_enough_is_not(open_it: Open) -> None:
    async def story() -> None:
        db = open_it()
        newer = msgspec.structs.replace(IMAGE, head=7, compatible_back_to=5)
        await sync(db, [newer])
        with pytest.raises(TooOld) as caught:
            await sync(db, [IMAGE])
        assert caught.value.message == (
            f"The database is at revision 7 of image, which needs a program that knows 5 or newer; this one knows {IMAGE.head}."
        )
        with pytest.raises(TooOld):
            await check(db, [IMAGE])
        older = msgspec.structs.replace(IMAGE, head=5, compatible_back_to=5)
        assert await sync(db, [older]) == []
        await check(db, [older])
        await db.stop()

    run(story)
