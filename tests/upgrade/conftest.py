"""Collected only when asked for by name: it takes the repository's history, a database, a broker, and two minutes."""

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.engines import rabbitmq
from tests.engines.postgresql import PostgreSQL
from tests.upgrade.cloud import Cloud
from tests.upgrade.older import COMMIT, Release, older


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    return None if any("tests/upgrade" in str(argument) for argument in config.invocation_params.args) else True


@pytest.fixture(scope="session")
def before(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Release:
    """N−1. A test may name another commit."""
    return older(tmp_path_factory.mktemp("older"), getattr(request, "param", COMMIT))


@pytest.fixture
def cloud(before: Release) -> Iterator[Cloud]:
    """Nothing runs yet but a database with N−1's tables and a broker."""
    folder = Path(tempfile.mkdtemp(prefix="kn-upgrade-"))
    folder.chmod(0o755)
    database = PostgreSQL().start()
    try:
        with rabbitmq.own(folder / "broker") as broker:
            made = Cloud(folder, database.url(), broker.url, before)
            try:
                made.sync(before)
                yield made
            finally:
                made.cluster.stop()
    finally:
        database.stop()
        shutil.rmtree(folder, ignore_errors=True)
