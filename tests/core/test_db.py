"""The facade over SQLite: conversions, group commit, isolation, errors."""

import asyncio
import contextlib
import sqlite3
from pathlib import Path
from typing import Any

import msgspec
import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kilonova.core.db import Duplicate, Lost, Transaction
from kilonova.core.db.sqlite import SQLite
from kilonova.core.db.statements import Json, inserted, prepared
from kilonova.core.runtime import Runtime


class Tag(msgspec.Struct, frozen=True):
    name: str


metadata = sa.MetaData()
things = sa.Table(
    "things",
    metadata,
    sa.Column("id", sa.String(36), primary_key=True),
    sa.Column("name", sa.String(255), unique=True),
    sa.Column("on", sa.Boolean),
    sa.Column("tags", Json(tuple[Tag, ...])),
    sa.Column("size", sa.BigInteger),
)
INSERT = inserted(things)
GET = prepared(sa.select(things).where(things.c.id == sa.bindparam("id")))
ANY = prepared(sa.select(things.c.id).where(things.c.id.in_(sa.bindparam("ids", expanding=True))).order_by(things.c.id))
SIZES = prepared(sa.select(things.c.id, things.c.size).order_by(things.c.id))
GROW = prepared(
    sa.update(things)
    .where(things.c.id == sa.bindparam("key"), things.c.size + sa.bindparam("by") <= 10)
    .values(size=things.c.size + sa.bindparam("by"))
)


def row(i: int, **changes: Any) -> dict[str, Any]:
    return {"id": f"t{i}", "name": f"n{i}", "on": True, "tags": (Tag("a"),), "size": i, **changes}


async def opened(path: Path) -> SQLite:
    db = SQLite(str(path / "t.db"), Runtime())
    await db.create(metadata)
    return db


TWO_LISTS = prepared(
    sa.select(things.c.id)
    .where(
        things.c.id.in_(sa.bindparam("ids", expanding=True)),
        things.c.size < sa.bindparam("below"),
        sa.not_(things.c.on.in_(sa.bindparam("not_on", expanding=True, type_=sa.Boolean))),
    )
    .order_by(things.c.id)
)


def test_lists_of_any_length_again_and_again(tmp_path: Path) -> None:
    """The SQL is kept for each length; the values must not be."""

    async def main() -> None:
        db = await opened(tmp_path)
        await db.transact(lambda tx: tx.many(INSERT, [row(i, on=i % 2 == 0) for i in range(9)]))
        for turn in range(3):
            for count in range(8):
                for not_on in ([], [True], [True, False]):
                    ids = [f"t{(i + turn) % 9}" for i in range(count)]
                    wanted = [(f"t{i}",) for i in range(7) if f"t{i}" in ids and (i % 2 == 0) not in not_on]
                    assert await db.all(TWO_LISTS, {"ids": ids, "below": 7, "not_on": not_on}) == wanted
        await db.stop()

    asyncio.run(main())


def test_a_statement_may_have_lists_and_constants_of_its_own(tmp_path: Path) -> None:
    found = sa.select(things.c.id).where(things.c.on.in_([True]), things.c.size < 4, things.c.name != sa.bindparam("name"))
    statement = prepared(found.order_by(things.c.id))
    grow = prepared(sa.update(things).where(things.c.id == sa.bindparam("key"), things.c.on == sa.true()).values(size=things.c.size + 1))

    async def main() -> None:
        db = await opened(tmp_path)
        await db.transact(lambda tx: tx.many(INSERT, [row(i, on=i % 2 == 0) for i in range(6)]))
        for _ in range(2):
            assert await db.all(statement, {"name": "n0"}) == [("t2",)]
            assert await db.all(statement, {"name": "n1"}) == [("t0",), ("t2",)]
        assert await db.transact(lambda tx: tx.run(grow, {"key": "t2"})) == 1
        assert await db.one(GET, {"id": "t2"}) == ("t2", "n2", True, (Tag("a"),), 3)
        with pytest.raises(KeyError):
            await db.transact(lambda tx: tx.run(grow, {}))
        await db.stop()

    asyncio.run(main())


def test_values_are_converted_both_ways(tmp_path: Path) -> None:
    async def main() -> None:
        db = await opened(tmp_path)
        await db.transact(lambda tx: tx.run(INSERT, row(1)))
        assert await db.one(GET, {"id": "t1"}) == ("t1", "n1", True, (Tag("a"),), 1)
        assert await db.one(GET, {"id": "t2"}) is None
        await db.transact(lambda tx: tx.many(INSERT, [row(2), row(3, tags=None)]))
        assert await db.all(ANY, {"ids": ["t3", "t1", "zz"]}) == [("t1",), ("t3",)]
        assert await db.all(ANY, {"ids": ["t2"]}) == [("t2",)]
        assert await db.all(sa.select(things.c.id).where(things.c.on.is_(True), things.c.size > 1).order_by(things.c.id)) == [
            ("t2",),
            ("t3",),
        ]
        await db.stop()

    asyncio.run(main())


def test_a_conditional_update_counts_its_rows(tmp_path: Path) -> None:
    async def main() -> None:
        db = await opened(tmp_path)
        await db.transact(lambda tx: tx.run(INSERT, row(8)))
        assert await db.transact(lambda tx: tx.run(GROW, {"key": "t8", "by": 2})) == 1
        assert await db.transact(lambda tx: tx.run(GROW, {"key": "t8", "by": 1})) == 0
        await db.stop()

    asyncio.run(main())


def test_a_group_keeps_the_good_and_drops_the_bad(tmp_path: Path) -> None:
    async def main() -> None:
        db = await opened(tmp_path)
        commits: list[str] = []
        db.runtime.point = commits.append  # type: ignore[method-assign]

        async def one(i: int) -> None:
            async def body(tx: Transaction) -> None:
                await tx.run(INSERT, row(i))
                if i % 10 == 0:
                    await tx.run(INSERT, row(i + 1000, name=f"n{i}"))

            if i % 10 == 0:
                with pytest.raises(Duplicate, match=r"things\.name"):
                    await db.transact(body)
            else:
                await db.transact(body)

        await asyncio.gather(*(one(i) for i in range(1, 200)))
        assert len(await db.all(prepared(sa.select(things.c.id).order_by(things.c.id)))) == 180
        assert commits.count("commit") < 40, "transactions must share commits"
        await db.stop()

    asyncio.run(main())


def test_reads_outside_see_only_what_is_committed(tmp_path: Path) -> None:
    async def main() -> None:
        db = await opened(tmp_path)
        seen: list[Any] = []

        async def body(tx: Transaction) -> None:
            await tx.run(INSERT, row(1))
            seen.append((await tx.one(GET, {"id": "t1"}) is not None, await db.one(GET, {"id": "t1"}) is not None))

        await db.transact(body)
        assert seen == [(True, False)]
        assert await db.one(GET, {"id": "t1"}) is not None
        await db.stop()

    asyncio.run(main())


def test_a_body_that_waits_keeps_others_out_and_nesting_is_refused(tmp_path: Path) -> None:
    async def main() -> None:
        db = await opened(tmp_path)
        gate = asyncio.Event()

        async def slow(tx: Transaction) -> None:
            await tx.run(INSERT, row(1))
            await gate.wait()
            raise ValueError("no")

        async def nested(tx: Transaction) -> None:
            await db.transact(lambda inner: inner.run(INSERT, row(5)))

        first = asyncio.ensure_future(db.transact(slow))
        await asyncio.sleep(0)
        second = asyncio.ensure_future(db.transact(lambda tx: tx.run(INSERT, row(2))))
        third = asyncio.ensure_future(db.transact(lambda tx: tx.run(INSERT, row(3))))
        await asyncio.sleep(0.01)
        assert not second.done()
        second.cancel()
        gate.set()
        with pytest.raises(ValueError, match="no"):
            await first
        await third
        assert await db.one(GET, {"id": "t1"}) is None
        with pytest.raises(RuntimeError, match="inside a transaction"):
            await db.transact(nested)
        await db.transact(lambda tx: tx.run(INSERT, row(6)))
        await db.stop()
        with pytest.raises(Lost):
            await db.transact(lambda tx: tx.run(INSERT, row(7)))

    asyncio.run(main())


def test_what_was_answered_is_on_disk(tmp_path: Path) -> None:
    async def main() -> None:
        db = await opened(tmp_path)
        await db.transact(lambda tx: tx.run(INSERT, row(1)))
        other = sqlite3.connect(tmp_path / "t.db")
        assert other.execute("SELECT count(*) FROM things").fetchone() == (1,)
        other.close()
        await db.stop()

    asyncio.run(main())


def test_a_failed_commit_fails_every_member(tmp_path: Path) -> None:
    async def main() -> None:
        db = await opened(tmp_path)

        def broken(name: str) -> None:
            if name == "commit":
                raise sqlite3.OperationalError("disk full")

        db.runtime.point = broken  # type: ignore[method-assign]
        results = await asyncio.gather(*(db.transact(lambda tx, i=i: tx.run(INSERT, row(i))) for i in range(3)), return_exceptions=True)  # type: ignore[misc]
        assert [type(r) for r in results] == [Lost] * 3
        db.runtime.point = lambda name: None  # type: ignore[method-assign]
        assert await db.all(prepared(sa.select(things.c.id).order_by(things.c.id))) == []
        await db.stop()

    asyncio.run(main())


class Wrong(Exception):
    pass


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(st.tuples(st.integers(0, 5), st.sampled_from(["good", "bad", "bad after writing", "twice"])), max_size=14),
    st.sampled_from([0, 3, 256]),
)
def test_whatever_fails_in_a_group_the_others_are_as_if_alone(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[int, str]], careful: int
) -> None:
    """Against a dict in which one runs after the other."""

    async def main() -> None:
        db = await opened(tmp_path_factory.mktemp("group"))
        db.CAREFUL = careful  # type: ignore[misc]
        expected: dict[str, int] = {}
        known: list[int | None] = []

        async def step(number: int, what: str) -> int:
            async def body(tx: Transaction) -> int:
                if what == "bad":
                    raise Wrong
                found = await tx.one(GET, {"id": f"t{number}"})
                if found is None:
                    await tx.run(INSERT, row(number, size=0))
                elif await tx.run(GROW, {"key": f"t{number}", "by": 3}) != 1:
                    raise Wrong
                if what == "bad after writing":
                    raise Wrong
                if what == "twice":
                    with contextlib.suppress(Duplicate):
                        await tx.run(INSERT, row(number))
                size = await tx.one(GET, {"id": f"t{number}"})
                assert size is not None
                return int(size[4])

            return await db.transact(body)

        for number, what in steps:
            size = expected.get(f"t{number}")
            good = what in ("good", "twice") and (size is None or size + 3 <= 10)
            if good:
                expected[f"t{number}"] = 0 if size is None else size + 3
            known.append(expected[f"t{number}"] if good else None)
        got = await asyncio.gather(*(step(*one) for one in steps), return_exceptions=True)
        assert [None if isinstance(one, Wrong) else one for one in got] == known
        assert dict(await db.all(SIZES)) == expected
        await db.stop()

    asyncio.run(main())
