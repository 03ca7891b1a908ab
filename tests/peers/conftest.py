"""Collected only when asked for by name: these need .venv-peers and .venv-clients, and take a minute."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.peers import running
from tests.peers.running import Glance, Keystone, Ours


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    return None if any("tests/peers" in str(argument) for argument in config.invocation_params.args) else True


@pytest.fixture(scope="session")
def keystone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Keystone]:
    with Keystone(tmp_path_factory.mktemp("keystone")) as program:
        yield program


@pytest.fixture(scope="session")
def glance(keystone: Keystone, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Glance]:
    with Glance(tmp_path_factory.mktemp("glance"), keystone.url, "glance", running.SERVICE_PASSWORD) as program:
        keystone.make_endpoints({"glance": program.url})
        yield program


@pytest.fixture(scope="session")
def ours_on_theirs(keystone: Keystone, glance: Glance, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ours]:
    """Our compute, placement, network and metadata on their Keystone and Glance."""
    config = on_theirs(keystone, glance)
    with Ours(tmp_path_factory.mktemp("ours"), ("placement", "compute", "metadata", "network"), config) as program:
        urls = program.urls
        keystone.make_endpoints({"nova": urls["compute"] + "/v2.1", "placement": urls["placement"], "neutron": urls["network"]})
        yield program


def on_theirs(keystone: Keystone, glance: Glance) -> dict[str, dict[str, str]]:
    """What our configuration says of their Keystone and Glance."""
    return {
        "keystone_authtoken": {
            "auth_url": keystone.url,
            "www_authenticate_uri": keystone.url,
            "auth_type": "password",
            "username": "nova",
            "password": running.SERVICE_PASSWORD,
            "project_name": "service",
            "user_domain_name": "Default",
            "project_domain_name": "Default",
            "token_cache_time": "1",
        },
        "glance": {"endpoint_override": glance.url},
    }


@pytest.fixture(scope="session")
def ours(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ours]:
    """Our identity alone, with tokens that end soon."""
    with Ours(tmp_path_factory.mktemp("identity"), ("identity",), {"token": {"expiration": running.LIFE_S}}) as program:
        yield program
