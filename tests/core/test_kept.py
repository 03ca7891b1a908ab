"""Kept answers: as if they had been asked for anew, whatever is written between, and by whom it is undone."""

import asyncio
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kilonova.core.db import Transaction
from kilonova.core.db.kept import MOST
from kilonova.core.db.sqlite import SQLite
from kilonova.core.db.statements import inserted, prepared
from kilonova.core.runtime import Runtime

metadata = sa.MetaData()
colours = sa.Table("colours", metadata, sa.Column("id", sa.Integer, primary_key=True, autoincrement=False), sa.Column("name", sa.String(9)))
sizes = sa.Table("sizes", metadata, sa.Column("id", sa.Integer, primary_key=True, autoincrement=False), sa.Column("name", sa.String(9)))
KEPT, FRESH = (
    [
        prepared(sa.select(colours).order_by(colours.c.id), kept=kept),
        prepared(sa.select(colours.c.name).where(colours.c.id == sa.bindparam("n")), kept=kept),
        prepared(
            sa.select(colours.c.name, sizes.c.name).select_from(colours.join(sizes, colours.c.id == sizes.c.id)).order_by(colours.c.id),
            kept=kept,
        ),
        prepared(sa.select(sizes.c.name).where(sizes.c.id.in_(sa.bindparam("ns", expanding=True))).order_by(sizes.c.id), kept=kept),
    ]
    for kept in (True, False)
)
INSERT = {"colours": inserted(colours), "sizes": inserted(sizes)}
DELETE = {t.name: prepared(sa.delete(t).where(t.c.id == sa.bindparam("n"))) for t in (colours, sizes)}


class Undone(Exception):
    pass


async def agree(reader: Any) -> None:
    for kept, fresh in zip(KEPT, FRESH, strict=True):
        for values in ({"n": 1, "ns": [1, 2]}, {"n": 2, "ns": [2]}, {"n": 3, "ns": []}):
            assert await reader.all(kept, values) == await reader.all(fresh, values)
            assert await reader.one(kept, values) == await reader.one(fresh, values)


STEPS = st.lists(
    st.tuples(st.sampled_from(["colours", "sizes"]), st.sampled_from(["insert", "delete", "text"]), st.integers(1, 3), st.booleans()),
    max_size=12,
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(STEPS)
def test_answers_are_those_of_now(tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[str, str, int, bool]]) -> None:
    async def main() -> None:
        db = SQLite(str(tmp_path_factory.mktemp("kept") / "t.db"), Runtime(), synchronous="OFF")
        await db.create(metadata)

        async def step(table: str, what: str, number: int, undone: bool) -> None:
            async def body(tx: Transaction) -> None:
                await agree(tx)
                if what == "text":
                    await tx.run(sa.text(f"UPDATE {table} SET name = 'changed'"))
                else:
                    await tx.run(DELETE[table], {"n": number})
                if what == "insert":
                    await tx.run(INSERT[table], {"id": number, "name": f"{table}{number}"})
                await agree(tx)
                if undone:
                    raise Undone

            try:
                await db.transact(body)
            except Undone:
                pass
            await agree(db)

        for at in range(0, len(steps), 3):
            await asyncio.gather(*(step(*one) for one in steps[at : at + 3]), agree(db))
            await agree(db)
        await db.stop()

    asyncio.run(main())


def test_what_is_kept_is_bounded_and_an_answer_is_nobodys_list(tmp_path: Path) -> None:
    async def main() -> None:
        db = SQLite(str(tmp_path / "t.db"), Runtime(), synchronous="OFF")
        await db.create(metadata)
        (await db.all(KEPT[0])).append((9, "mine"))
        assert await db.all(KEPT[0]) == []
        for number in range(MOST + 10):
            assert await db.one(KEPT[1], {"n": number}) is None
        assert len(db._kept._answers) <= MOST
        await db.stop()

    asyncio.run(main())


def test_it_is_not_asked_again(tmp_path: Path) -> None:
    async def main() -> None:
        db = SQLite(str(tmp_path / "t.db"), Runtime(), synchronous="OFF")
        await db.create(metadata)
        await db.all(KEPT[0])
        asked: list[str] = []
        db._writer_connection.set_trace_callback(asked.append)
        await db.all(KEPT[0])
        assert not asked
        await db.all(FRESH[0])
        assert len(asked) == 1
        await db.stop()

    asyncio.run(main())
