"""Cells on servers: the databases sort and merge as SQLite does, and a server that is stopped is a cell that does not answer."""

import asyncio
import io
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from kilonova.compute.store import fitness
from kilonova.compute.store.cell_mappings import CELL1
from kilonova.core.log import Sink
from kilonova.core.runtime import Runtime
from kilonova.testing.compute import ComputeWorld
from kilonova.testing.databases import VARIABLE
from tests.compute.test_cells import CELL2, boot, cell_of, fill, hang, ids, paged, plain


@pytest.mark.parametrize("kind", ["postgresql", "mariadb"])
def test_two_cells(kind: str, engines: Callable[[str], str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, engines(kind))
    chance = random.Random(3)

    async def story(w: ComputeWorld) -> None:
        made = [await boot(w, name, host=host) for name, host in (("a", "host-1"), ("b", "host-2"))]
        assert [await cell_of(w, s) for s in made] == [CELL1, CELL2]
        assert set(await ids(w)) == set(made)
        looks = [await fitness.look(db) for db in (w.db, *w.cell_dbs.values())]
        assert [(found.api, found.cell, len(found.cells)) for found in looks] == [(True, False, 0)] + [(False, True, 1)] * 3
        assert "is the API database" in fitness.wrong_cell(looks[0], CELL1, "cell1", "x")
        assert f"holds the servers of cell {CELL2}" in fitness.wrong_cell(looks[3], CELL1, "cell1", "x")

        rows = [(f"cell{chance.randrange(3)}", chance.randrange(3), chance.choice([None, "k", "K", "é", "k "]), "x") for _ in range(40)]
        filled = await fill(w, rows)
        for order in ([("key_name", False)], [("key_name", True)], [("created_at", True)], [("key_name", True), ("created_at", False)]):
            query = "".join(f"&sort_key={key}&sort_dir={'desc' if down else 'asc'}" for key, down in order)
            assert await paged(w, query, chance.choice([4, 9])) == plain(filled, order), order

        hang(w, "cell2")
        left = await ids(w, version="2.68")
        assert (made[0] in left, made[1] in left) == (True, False)
        assert set(await ids(w)) == {*left, made[1]}

    async def main() -> None:
        world = ComputeWorld(
            Runtime(), Sink(io.StringIO(), level="error"), str(tmp_path / "db"), cells=2, settings={("api", "cell_timeout"): 2}
        )
        await world.start()
        try:
            await story(world)
        finally:
            await world.stop()

    asyncio.run(main())
