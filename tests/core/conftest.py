"""One real broker for all tests of a run that want one."""

from collections.abc import Iterator

import pytest

from tests.engines.rabbitmq import Rabbit, shared


@pytest.fixture(scope="session")
def rabbit() -> Iterator[Rabbit]:
    with shared() as node:
        yield node
