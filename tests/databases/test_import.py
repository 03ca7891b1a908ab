"""kilonova db sync, status and import, on servers."""

import asyncio
import json
from pathlib import Path

import pytest
import sqlalchemy as sa
from click.testing import CliRunner, Result

from kilonova.cli.db import command
from kilonova.core.runtime import Runtime
from kilonova.testing.cloud import WholeCloud
from tests.databases.conftest import Open


def kilonova_db(*arguments: str) -> Result:
    return CliRunner().invoke(command, list(arguments))


@pytest.fixture(params=["postgresql", "mariadb"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def config(path: Path, open_it: Open) -> tuple[str, str]:
    """--config FILE for an empty database, which is there already."""

    async def touch() -> str:
        db = open_it()
        await db.one(sa.text("SELECT 1"))
        await db.stop()
        url = db.url  # type: ignore[attr-defined]
        [(host, port)] = url.hosts
        return f"{url.kind}://{url.user}:{url.password}@{host}:{port}/{url.database}"

    (path / "kilonova.conf").write_text(f"[database]\nconnection = {asyncio.run(touch())}\n")
    return "--config", str(path / "kilonova.conf")


def test_an_embedded_cloud_moves_to_a_server(open_it: Open, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KILONOVA_TEST_DATABASE", raising=False)
    state = tmp_path / "state"
    state.mkdir()

    async def embedded() -> str:
        w = WholeCloud(Runtime(), str(state), synchronous="OFF")
        await w.start()
        token = await w.token()
        project = (await w.client("identity", token).post("/v3/projects", {"project": {"name": "Größe % \\ 'x'", "tags": ["a b"]}})).json
        await w.stop()
        return str(project["project"]["id"])

    project_id = asyncio.run(embedded())
    where = config(tmp_path, open_it)
    told = kilonova_db("status", *where, "-o", "json")
    assert told.exit_code == 0, told.output
    assert "secret" not in told.output
    assert {s["schema"] for s in json.loads(told.output)["services"]} == {0}

    done = kilonova_db("import", "--from", f"sqlite:///{state}/kilonova.db", *where)
    assert done.exit_code == 0, done.output
    assert "the counts agree" in done.output
    again = kilonova_db("import", "--from", f"sqlite:///{state}/kilonova.db", *where)
    assert again.exit_code == 1
    assert "The target is not empty" in again.output
    assert "up to date" in kilonova_db("status", *where).output
    assert "nothing was missing" in kilonova_db("sync", *where).output

    async def on_the_server() -> None:
        w = WholeCloud(Runtime(), str(state), database=open_it())
        await w.start()
        identity = w.client("identity", await w.token())
        project = (await identity.get(f"/v3/projects/{project_id}")).json["project"]
        assert (project["name"], project["tags"]) == ("Größe % \\ 'x'", ["a b"])
        await w.stop()

    asyncio.run(on_the_server())


def test_sync_makes_a_database_and_a_missing_server_is_one_sentence(open_it: Open, tmp_path: Path, kind: str) -> None:
    where = config(tmp_path, open_it)
    made = kilonova_db("sync", *where)
    assert made.exit_code == 0, made.output
    assert "tables made, at revision 1" in made.output
    scheme = "mysql" if kind == "mariadb" else kind
    (tmp_path / "gone.conf").write_text(f"[database]\nconnection = {scheme}://u:hush@127.0.0.1:1/d\npool_timeout = 1\n")
    gone = kilonova_db("sync", "--config", str(tmp_path / "gone.conf"))
    assert gone.exit_code == 1
    assert "127.0.0.1:1 is unreachable" in gone.output
    assert "hush" not in gone.output


def test_a_source_that_is_not_there_is_refused(tmp_path: Path) -> None:
    refused = kilonova_db("import", "--from", f"sqlite:///{tmp_path}/nothing.db")
    assert refused.exit_code == 1
    assert "existing SQLite file" in refused.output
