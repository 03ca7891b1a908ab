"""A database of each kind, empty, on servers that are started once for each worker."""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from kilonova.core.db import Database
from kilonova.core.log import Log, Sink
from kilonova.core.runtime import Runtime
from kilonova.testing.databases import open_test_database
from tests.engines.mariadb import MariaDB
from tests.engines.postgresql import PostgreSQL

Open = Callable[[], Database]
"""The test's database, opened once more: as another process would."""


@pytest.fixture(scope="session")
def engines() -> Iterator[Callable[[str], str]]:
    """The URL of a running server by the name of its kind; nothing for SQLite."""
    running: dict[str, PostgreSQL | MariaDB] = {}
    with contextlib.ExitStack() as stack:

        def url(kind: str) -> str:
            if kind == "sqlite":
                return ""
            if kind not in running:
                server = PostgreSQL() if kind == "postgresql" else MariaDB()
                stack.callback(server.stop)
                running[kind] = server
                server.start()
            return running[kind].url()

        yield url


@pytest.fixture(params=["sqlite", "postgresql", "mariadb"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def open_it(kind: str, engines: Callable[[str], str], tmp_path: Path) -> Open:
    """Call it inside the event loop that uses the database."""
    server = engines(kind)
    runtime = Runtime()
    return lambda: open_test_database(str(tmp_path / "test.db"), runtime, server=server, log=Log("database", Sink(level="error")))
