"""What every database does behind the facade, whichever it is."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
import pytest
import sqlalchemy as sa

from kilonova.core.db import Database, Duplicate, Transaction, Unfit, Unmatched
from kilonova.core.db.statements import Json, inserted, prepared
from kilonova.core.runtime import Runtime
from tests.databases.conftest import Open

Story = Callable[[Database], Awaitable[None]]


class Tag(msgspec.Struct, frozen=True):
    name: str


metadata = sa.MetaData()
things = sa.Table(
    "things",
    metadata,
    sa.Column("id", sa.String(36), primary_key=True),
    sa.Column("name", sa.String(64), unique=True),
    sa.Column("project", sa.String(64)),
    sa.Column("key", sa.String(64)),
    sa.Column("on", sa.Boolean),
    sa.Column("tags", Json(tuple[Tag, ...])),
    sa.Column("size", sa.BigInteger),
    sa.Column("small", sa.Integer),
    sa.Column("ratio", sa.Double),
    sa.Column("text", sa.Text),
    sa.UniqueConstraint("project", "key", name="uq_things_key"),
)
others = sa.Table("others", metadata, sa.Column("id", sa.String(36), primary_key=True), sa.Column("of", sa.String(36)))
INSERT = inserted(things)
INSERT_OTHER = inserted(others)
OTHER = prepared(sa.select(others.c.of).where(others.c.id == sa.bindparam("id")))
MOVE_OTHER = prepared(sa.update(others).where(others.c.id == sa.bindparam("which")).values(of=sa.bindparam("to")))
GET = prepared(sa.select(things).where(things.c.id == sa.bindparam("id")))
NAMES = prepared(sa.select(things.c.name).order_by(things.c.name))
RENAME = prepared(sa.update(things).where(things.c.id == sa.bindparam("which")).values(name=sa.bindparam("to")))
GROW = prepared(
    sa.update(things)
    .where(things.c.id == sa.bindparam("which"), things.c.size + sa.bindparam("by") <= 10)
    .values(size=things.c.size + sa.bindparam("by"))
)
COUNT = prepared(sa.select(sa.func.count(), sa.func.sum(things.c.size), sa.func.max(things.c.name)).select_from(things))
WHERE_ON = prepared(sa.select(things.c.id).where(things.c.on.is_(sa.false())).order_by(things.c.id))


def row(i: int, **changes: Any) -> dict[str, Any]:
    plain: dict[str, Any] = {"id": f"t{i}", "name": f"n{i}", "project": "p", "key": f"k{i}", "on": True, "tags": (Tag("a"),)}
    return {**plain, "size": i, "small": 1, "ratio": 1.5, "text": "", **changes}


@pytest.fixture
def run(open_it: Open) -> Callable[[Story], None]:
    def runner(story: Story) -> None:
        async def main() -> None:
            db = open_it()
            await db.create(metadata)
            try:
                await story(db)
            finally:
                await db.stop()

        asyncio.run(main())

    return runner


Run = Callable[[Story], None]


def add(*rows: dict[str, Any]) -> Callable[[Transaction], Awaitable[None]]:
    async def body(tx: Transaction) -> None:
        for each in rows:
            await tx.run(INSERT, each)

    return body


def test_values_come_back_as_they_went(run: Run) -> None:
    async def story(db: Database) -> None:
        text = "50 % of %s, a 'quote', \"two\", a \\ backslash, $1, ?, :name, Größe 東京 🚀\n\ttab " + "x" * 100_000
        rows = [
            row(1, text=text, size=2**62, small=-(2**31), ratio=0.1, tags=(Tag("ü"), Tag("%"))),
            row(2, name=None, project=None, key=None, on=None, tags=None, size=None, small=None, ratio=None, text=None),
            row(3, on=False, text="", tags=(), ratio=1e300),
        ]
        await db.transact(add(*rows))
        for wanted in rows:
            found = await db.one(GET, {"id": wanted["id"]})
            assert found == tuple(wanted.values())
            assert [type(value) for value in found] == [type(value) for value in wanted.values()]
        assert await db.all(WHERE_ON) == [("t3",)]
        assert await db.one(GET, {"id": "t9"}) is None
        count, total, last = (await db.one(COUNT)) or ()
        assert (count, total, last) == (3, 2**62 + 3, "n3")
        assert type(total) is int

    run(story)


def test_text_is_compared_and_ordered_by_its_characters(run: Run) -> None:
    """Case, accents and trailing spaces count; the order is that of code points."""

    async def story(db: Database) -> None:
        names = ["a", "A", "a ", "á", "Z", "z", "_", "-", "é", "e", "10", "9", "~", " a"]
        await db.transact(add(*(row(i, name=name) for i, name in enumerate(names))))
        assert [name for (name,) in await db.all(NAMES)] == sorted(names)
        for name in names:
            found = await db.all(sa.select(things.c.name).where(things.c.name == name).order_by(things.c.name))
            assert found == [(name,)]

    run(story)


def test_duplicates_name_the_columns(run: Run) -> None:
    async def story(db: Database) -> None:
        await db.transact(add(row(1)))
        for changes, what in (
            ({"name": "other", "key": "other"}, "things.id"),
            ({"id": "t2", "key": "other"}, "things.name"),
            ({"id": "t2", "name": "n1 for key 'x'"}, "things.project, things.key"),
        ):
            with pytest.raises(Duplicate) as caught:
                await db.transact(add({**row(1), **changes}))
            assert caught.value.what == what
        await db.transact(add(row(2)))
        with pytest.raises(Duplicate) as caught:
            await db.transact(lambda tx: tx.run(RENAME, {"which": "t2", "to": "n1"}))
        assert caught.value.what == "things.name"
        with pytest.raises(Duplicate):
            await db.transact(lambda tx: tx.many(INSERT, [row(3), row(1)]))
        assert await db.all(NAMES) == [("n1",), ("n2",)]

    run(story)


def test_a_body_may_go_on_after_a_duplicate(run: Run) -> None:
    async def story(db: Database) -> None:
        await db.transact(add(row(1)))

        async def body(tx: Transaction) -> int:
            made = 0
            for i in range(4):
                try:
                    await tx.run(INSERT, row(i))
                    made += 1
                except Duplicate:
                    assert await tx.one(GET, {"id": "t1"}) is not None
            return made

        assert await db.transact(body) == 3
        assert len(await db.all(NAMES)) == 4

        async def swallow(tx: Transaction) -> None:
            try:
                await tx.run(INSERT, row(1))
            except Duplicate:
                pass

        await db.transact(swallow)
        assert len(await db.all(NAMES)) == 4

    run(story)


def test_rows_matched_are_counted_even_when_nothing_changes(run: Run) -> None:
    async def story(db: Database) -> None:
        await db.transact(add(row(1), row(2)))
        assert await db.transact(lambda tx: tx.run(RENAME, {"which": "t1", "to": "n1"})) == 1
        assert await db.transact(lambda tx: tx.run(RENAME, {"which": "t9", "to": "n1"})) == 0
        assert await db.transact(lambda tx: tx.run(sa.update(things).values(small=1))) == 2
        assert await db.transact(lambda tx: tx.run(sa.delete(things))) == 2

    run(story)


def test_writes_put_off_are_made_together(run: Run) -> None:
    async def story(db: Database) -> None:
        async def many(tx: Transaction) -> int:
            await tx.later(INSERT, row(1))
            await tx.later(INSERT_OTHER, {"id": "o1", "of": "t1"})
            await tx.later(INSERT, row(2))
            await tx.later(RENAME, {"which": "t1", "to": "new"})  # sees the row that was put off before it
            assert await tx.one(OTHER, {"id": "o1"}) == ("t1",)
            return await tx.run(RENAME, {"which": "t2", "to": "newer"})

        assert await db.transact(many) == 1
        assert await db.all(NAMES) == [("new",), ("newer",)]

        async def alone(tx: Transaction) -> None:  # nothing else is written
            assert await tx.one(GET, {"id": "t3"}) is None
            await tx.later(INSERT, row(3))
            await tx.later(INSERT_OTHER, {"id": "o3", "of": "t3"})

        await db.transact(alone)
        assert [(await db.one(OTHER, {"id": name})) for name in ("o1", "o3")] == [("t1",), ("t3",)]

        async def twice(tx: Transaction) -> None:
            await tx.later(INSERT_OTHER, {"id": "o4", "of": "t4"})
            await tx.later(INSERT, row(3, id="t4"))

        for before in (None, RENAME):  # as the whole transaction, and after another write of it

            async def body(tx: Transaction, before: Any = before) -> None:
                if before is not None:
                    await tx.run(before, {"which": "t1", "to": "never"})
                await twice(tx)

            with pytest.raises(Duplicate):
                await db.transact(body)
            assert await db.one(OTHER, {"id": "o4"}) is None
        assert await db.all(NAMES) == [("n3",), ("new",), ("newer",)]

    run(story)


def test_writes_put_off_must_match_as_many_rows_as_was_said(run: Run) -> None:
    async def story(db: Database) -> None:
        await db.transact(add(row(1), row(2)))
        wrong = ValueError("nothing of that name")

        def body(which: str, rows: int, first: bool) -> Callable[[Transaction], Awaitable[None]]:
            async def run_it(tx: Transaction) -> None:
                if first:  # not all of it is put off
                    await tx.run(GROW, {"which": "t2", "by": 1})
                await tx.later(INSERT_OTHER, {"id": "o1", "of": which})
                await tx.later(RENAME, {"which": which, "to": "new"}, rows=rows, otherwise=wrong)

            return run_it

        for first in (True, False):
            for which, rows in (("t9", 1), ("t1", 0), ("t1", 2)):
                with pytest.raises(ValueError, match="nothing of that name"):
                    await db.transact(body(which, rows, first))
                assert await db.one(OTHER, {"id": "o1"}) is None
                assert await db.all(NAMES) == [("n1",), ("n2",)], "nothing of it is kept"
        assert [row[0] for row in await db.all(sa.select(things.c.size).order_by(things.c.id))] == [1, 2]
        await db.transact(body("t1", 1, True))
        assert await db.one(OTHER, {"id": "o1"}) == ("t1",)
        with pytest.raises(Unmatched):
            await db.transact(lambda tx: tx.later(RENAME, {"which": "t9", "to": "x"}, rows=1))

    run(story)


def test_of_several_that_match_wrongly_the_first_is_told(run: Run) -> None:
    async def story(db: Database) -> None:
        await db.transact(add(row(1)))
        await db.run(INSERT_OTHER, {"id": "o1", "of": "t1"})

        async def body(tx: Transaction) -> None:
            await tx.later(RENAME, {"which": "t1", "to": "new"}, rows=1, otherwise=ValueError("fits"))
            await tx.later(MOVE_OTHER, {"which": "o2", "to": "t9"}, rows=1, otherwise=ValueError("first"))
            await tx.later(INSERT, row(2), rows=2, otherwise=ValueError("second"))

        with pytest.raises(ValueError, match="first"):
            await db.transact(body)
        assert await db.all(NAMES) == [("n1",)]

    run(story)


def test_put_off_writes_check_and_name_each_other_where_they_are_joined(run: Run) -> None:
    async def story(db: Database) -> None:
        await db.transact(add(row(1), row(2)))
        gone = ValueError("gone")
        counted = sa.table("counted", sa.column("small", sa.BigInteger))
        count = prepared(
            sa.update(things).where(things.c.id == sa.bindparam("which")).values(small=things.c.small + 1).returning(things.c.small)
        )
        note = prepared(
            sa.insert(others).from_select(
                ["id", "of"], sa.select(sa.bindparam("new_id", type_=sa.String), sa.cast(counted.c.small, sa.String))
            )
        )
        there = prepared(sa.select(things.c.id).where(things.c.id == sa.bindparam("which")).with_for_update(read=True))

        def body(which: str) -> Callable[[Transaction], Awaitable[bool]]:
            async def run_it(tx: Transaction) -> bool:
                if tx.joins:
                    await tx.later(there, {"which": which}, rows=1, otherwise=gone)
                    await tx.later(count, {"which": "t2"}, rows=1, name="counted")
                    await tx.later(note, {"new_id": "o1"})
                return tx.joins

            return run_it

        if await db.transact(body("t1")):
            small = (await db.all(sa.select(things.c.small).where(things.c.id == "t2")))[0][0]
            assert await db.one(OTHER, {"id": "o1"}) == (str(small),)
            with pytest.raises(ValueError, match="gone"):
                await db.transact(body("t9"))
            assert (await db.all(sa.select(things.c.small).where(things.c.id == "t2")))[0][0] == small
        else:
            assert await db.one(OTHER, {"id": "o1"}) is None

    run(story)


def test_one_statement_is_a_transaction(run: Run) -> None:
    async def story(db: Database) -> None:
        assert await db.run(INSERT, row(1)) == 1
        with pytest.raises(Duplicate):
            await db.run(INSERT, row(1))
        assert await db.run(GROW, {"which": "t1", "by": 9}) == 1
        assert await asyncio.gather(*(db.run(GROW, {"which": "t1", "by": 1}) for _ in range(4))) == [0, 0, 0, 0]
        assert await db.run(RENAME, {"which": "t9", "to": "x"}) == 0

    run(story)


def test_a_failed_body_leaves_nothing_and_nobody_sees_half_of_one(run: Run) -> None:
    async def story(db: Database) -> None:
        async def fails(tx: Transaction) -> None:
            await tx.run(INSERT, row(1))
            assert len(await tx.all(NAMES)) == 1
            assert await db.all(NAMES) == []
            raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            await db.transact(fails)
        assert await db.all(NAMES) == []
        await db.transact(add(row(1)))

    run(story)


def test_sixteen_at_once_never_go_over_the_bound(run: Run) -> None:
    async def story(db: Database) -> None:
        await db.transact(add(row(1, size=0)))
        grown = await asyncio.gather(*(db.transact(lambda tx: tx.run(GROW, {"which": "t1", "by": 1})) for _ in range(16)))
        assert sum(grown) == 10
        found = await db.one(GET, {"id": "t1"})
        assert found is not None
        assert found[6] == 10

    run(story)


def test_crossing_transactions_all_end(run: Run) -> None:
    """Half of them lock a then b, half b then a: the server ends some by deadlock, and they are run again."""

    async def story(db: Database) -> None:
        await db.transact(add(row(0, size=0), row(1, size=0)))
        bump = prepared(sa.update(things).where(things.c.id == sa.bindparam("which")).values(size=things.c.size + 1))

        async def cross(first: int) -> None:
            async def body(tx: Transaction) -> None:
                await tx.run(bump, {"which": f"t{first}"})
                await asyncio.sleep(0)
                await tx.all(NAMES)
                await tx.run(bump, {"which": f"t{1 - first}"})

            for _ in range(4):
                await db.transact(body)

        await asyncio.gather(*(cross(i % 2) for i in range(12)))
        assert await db.all(sa.select(things.c.size).order_by(things.c.id)) == [(48,), (48,)]

    run(story)


def test_what_does_not_fit_is_the_clients_mistake(kind: str, run: Run) -> None:
    if kind == "sqlite":
        pytest.skip("SQLite bounds nothing; the APIs do")

    async def story(db: Database) -> None:
        wrong: list[dict[str, Any]] = [{"name": "x" * 65}, {"small": 2**31}]
        if kind == "postgresql":
            wrong.append({"name": "a\0b"})
        for changes in wrong:
            with pytest.raises(Unfit) as caught:
                await db.transact(add(row(1, **changes)))
            assert caught.value.status == 400
        assert await db.all(NAMES) == []

    run(story)


def test_the_clock_is_the_databases(run: Run) -> None:
    async def story(db: Database) -> None:
        await db.all(NAMES)
        assert abs(db.now_us() - Runtime().now_us()) < 1_000_000

    run(story)


def test_a_body_that_is_cancelled_leaves_nothing(run: Run) -> None:
    async def story(db: Database) -> None:
        reached = asyncio.Event()

        async def hangs(tx: Transaction) -> None:
            await tx.run(INSERT, row(1))
            reached.set()
            await asyncio.sleep(60)

        task = asyncio.ensure_future(db.transact(hangs))
        await reached.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await db.all(NAMES) == []
        await db.transact(add(row(1)))

    run(story)
