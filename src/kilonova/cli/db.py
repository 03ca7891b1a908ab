"""kilonova db: the database without a running cloud."""

import asyncio
import sqlite3
from pathlib import Path

import click

from kilonova.cli.failure import Failure
from kilonova.cli.output import state_option
from kilonova.cli.state import StateDir, default_path, prepare


@click.group("db")
def command() -> None:
    """The database of a cloud that is not running."""


@command.command("sync")
@state_option
def sync(state: str | None) -> None:
    """Make the tables that are missing. `kilonova up` does it by itself."""
    found = prepare(Path(state).expanduser().resolve() if state else default_path())
    found.lock()
    try:
        had, has = asyncio.run(_sync(found))
    finally:
        found.unlock()
    made = has - had
    click.echo(f"{found.database} has {has} tables" + (f"; {made} were made." if made else "; nothing was missing."))


async def _sync(state: StateDir) -> tuple[int, int]:
    """Tables before and after."""
    from kilonova.app import Cloud, Plan
    from kilonova.cli.process import failure_of
    from kilonova.core.log import Sink
    from kilonova.core.runtime import Runtime

    before = count(state.database)
    with state.log_file.open("a") as log:
        try:
            cloud = Cloud(Plan(state=str(state.path), cloud_id=state.mark.id, driver="fake"), Runtime(), Sink(log))
            try:
                await cloud.create_tables()
            finally:
                await cloud.stop()
        except Exception as error:
            raise failure_of(error, state) from error
    return before, count(state.database)


def count(database: Path) -> int:
    if not database.exists():
        return 0
    try:
        with sqlite3.connect(f"file:{database}?mode=ro", uri=True) as connection:
            return int(connection.execute("SELECT count(*) FROM sqlite_master WHERE type = 'table'").fetchone()[0])
    except sqlite3.DatabaseError as error:
        raise Failure(f"{database} is not a database of Kilonova ({error}).", "Restore it from a backup.") from None
