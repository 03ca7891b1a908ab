"""A database and a broker for the clusters of this folder."""

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster.cluster import Cluster
from tests.engines import rabbitmq
from tests.engines.postgresql import PostgreSQL
from tests.engines.rabbitmq import Rabbit

APIS = ("identity", "image", "placement", "network", "compute", "metadata")


class Stand:
    """One cluster's surroundings; tests may kill and restart what is in it."""

    def __init__(self, folder: Path, database: PostgreSQL, broker: Rabbit) -> None:
        self.folder, self.database, self.broker = folder, database, broker
        self.cluster = Cluster(folder, database.url(), broker.url)


@pytest.fixture
def stand() -> Iterator[Stand]:
    folder = Path(tempfile.mkdtemp(prefix="kn-cluster-"))
    folder.chmod(0o755)
    database = PostgreSQL().start()
    try:
        with rabbitmq.own(folder / "broker") as broker:
            found = Stand(folder, database, broker)
            try:
                found.cluster.sync()
                yield found
            finally:
                found.cluster.stop()
    finally:
        database.stop()
        shutil.rmtree(folder, ignore_errors=True)
