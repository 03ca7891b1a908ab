"""kilonova db: the database without a running cloud."""

import asyncio
import contextlib
import fcntl
import os
import sqlite3
from collections.abc import Awaitable, Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import click
import msgspec

from kilonova.cli.failure import Failure, plain
from kilonova.cli.output import format_option, show_json, show_table, state_option
from kilonova.cli.state import StateDir, default_path, prepare

F = TypeVar("F", bound=Callable[..., Any])
T = TypeVar("T")


def config_option(function: F) -> F:
    """--config, as the parameter `config_files`."""
    text = "Configuration file; its [database] connection is the database. May be repeated."
    return click.option("--config", "config_files", multiple=True, metavar="FILE", help=text)(function)


@click.group("db")
def command() -> None:
    """The database of a cloud that is not running."""


@command.command("sync")
@state_option
@config_option
def sync(state: str | None, config_files: tuple[str, ...]) -> None:
    """Make the tables that are missing and bring the others forward. `kilonova up` does it by itself."""
    from kilonova.core.db import schema

    with _opened(state, config_files) as (run, name):
        done = run(lambda db: schema.sync(db, _histories()))
        has = len(run(schema.table_names))
    for told in done:
        click.echo(told)
    click.echo(f"{name} has {has} tables; " + ("it is up to date." if done else "nothing was missing."))


@command.command("status")
@state_option
@config_option
@format_option
def status(state: str | None, config_files: tuple[str, ...], output: str) -> None:
    """Which revision the tables of each service are at. Changes nothing."""
    from kilonova.core.db import schema

    with _opened(state, config_files, fresh=False) as (run, name):
        states = run(lambda db: schema.states(db, _histories()))
    if output == "json":
        show_json({"database": name, "services": [msgspec.to_builtins(s) for s in states]})
        return
    click.echo(name)
    rows = [(s.service, "-" if s.schema is None else s.schema or "no tables", s.head, s.compatible_back_to, s.verdict) for s in states]
    show_table(("service", "revision", "this program", "compatible back to", "is"), rows)


@command.command("import")
@click.option("--from", "source", required=True, metavar="URL", help="sqlite:///PATH of the database to copy; its cloud must be stopped.")
@state_option
@config_option
def import_(source: str, state: str | None, config_files: tuple[str, ...]) -> None:
    """Copy every table of an embedded database into the empty one that --config names."""
    from kilonova.core.db import copying, url
    from kilonova.core.db.sqlite import SQLite
    from kilonova.core.runtime import Runtime

    try:
        found = url.parse(source)
    except url.BadUrl as error:
        raise Failure(f"--from: {error}.") from None
    path = Path(found.database)
    if found.kind != "sqlite" or not path.is_file():
        raise Failure(f"--from takes the URL of an existing SQLite file; {found} is none.", "sqlite:////var/lib/kilonova/kilonova.db, say.")

    async def copy(target: Any) -> list[tuple[str, int]]:
        origin = SQLite(str(path), Runtime())
        try:
            return await copying.copy(origin, target, _histories())
        finally:
            await origin.stop()

    with _still(path), _opened(state, config_files) as (run, name):
        counts = run(copy)
    for table, rows in counts:
        if rows:
            click.echo(f"{rows:>8}  {table}")
    click.echo(f"{sum(rows for _, rows in counts)} rows of {len(counts)} tables were copied from {path} to {name}; the counts agree.")


def _histories() -> Sequence[Any]:
    from kilonova.app import HISTORIES

    return [history for service in HISTORIES.values() for history in service]


Run = Callable[[Callable[[Any], Awaitable[T]]], T]


@contextlib.contextmanager
def _opened(state: str | None, config_files: tuple[str, ...], *, fresh: bool = True) -> Iterator[tuple[Run[Any], str]]:
    """A function that runs something on the database, and the database's name. That of a state directory is locked meanwhile.

    fresh: a state directory may be made. Errors become Failures."""
    from kilonova.cli.settle import OPTIONS, readable
    from kilonova.core import config
    from kilonova.core.db import config as db_config
    from kilonova.core.db import url
    from kilonova.core.db.opening import open_database
    from kilonova.core.log import Log, Sink
    from kilonova.core.runtime import Runtime

    try:
        conf = config.build([OPTIONS], readable(config_files))
        settings = config.settings(conf, db_config.DATABASE_OPTIONS, "database")
        connection = str(settings.connection)
        name = str(url.parse(connection)) if connection else ""
    except config.ConfigError as error:
        raise Failure(plain(str(error)), "Correct the file.") from None
    except url.BadUrl as error:
        raise Failure(f"[database] connection: {error}.", "Correct the file.") from None

    found: StateDir | None = None
    if not connection:
        found = _state(state, fresh)
        name = str(found.database)
        connection = f"sqlite:///{found.database}"

    async def on(work: Callable[[Any], Awaitable[T]]) -> T:
        db = open_database(connection, Runtime(), Log("database", Sink(level="error")), settings)
        try:
            return await work(db)
        finally:
            await db.stop()

    def run(work: Callable[[Any], Awaitable[T]]) -> T:
        try:
            return asyncio.run(on(work))
        except Exception as error:
            raise _failure(error, name) from error

    try:
        yield run, name
    finally:
        if found is not None:
            found.unlock()


def _failure(error: Exception, name: str) -> Failure:
    from kilonova.core.config import ConfigError
    from kilonova.core.db import Lost
    from kilonova.core.errors import Error

    if isinstance(error, Failure):
        return error
    if isinstance(error, ConfigError):
        return Failure(plain(str(error)))
    if isinstance(error, Lost | sqlite3.Error):
        return Failure(f"The database {name} cannot be used: {error}.", "Is its server running, or has the file been damaged?")
    if isinstance(error, Error):
        return Failure(error.message, error.advice)
    return Failure(f"A mistake in the program: {type(error).__name__}: {error}.", expected=False)


def _state(state: str | None, fresh: bool) -> StateDir:
    path = Path(state).expanduser().resolve() if state else default_path()
    if not fresh and not (path / "kilonova.db").exists():
        raise Failure(f"{path} holds no database.", "Name another directory with --state, or a file with --config.")
    found = prepare(path)
    found.lock()
    if found.database.exists():
        count(found.database)
    return found


@contextlib.contextmanager
def _still(database: Path) -> Iterator[None]:
    """While its file is copied no cloud runs on it."""
    lock = database.parent / "run" / "lock"
    if not lock.exists():
        yield
        return
    descriptor = os.open(lock, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError:
        raise Failure(f"A cloud runs on {database}.", f"Stop it with `kilonova down --state {database.parent}`.") from None
    finally:
        os.close(descriptor)


def count(database: Path) -> int:
    """Tables in the file. Raises Failure when it is no database."""
    if not database.exists():
        return 0
    try:
        with sqlite3.connect(f"file:{database}?mode=ro", uri=True) as connection:
            return int(connection.execute("SELECT count(*) FROM sqlite_master WHERE type = 'table'").fetchone()[0])
    except sqlite3.DatabaseError as error:
        raise Failure(f"{database} is not a database of Kilonova ({error}).", "Restore it from a backup.") from None
