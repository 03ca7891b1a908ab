"""A real Glance whose users are checked by our identity, and our compute on that Glance: one Keystone, ours, for both."""

import hashlib
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.peers.running import ADMIN_PASSWORD, SERVICE_PASSWORD, Glance, Ours, ask, client_environment, openstack


@pytest.fixture(scope="module")
def cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Ours, Glance, dict[str, str]]]:
    """Our identity, compute, placement, network and metadata; the image service is Glance's. Also the administrator's environment."""
    settings = {
        "username": "nova",
        "password": SERVICE_PASSWORD,
        "project_name": "service",
        "user_domain_name": "Default",
        "project_domain_name": "Default",
    }
    ours = Ours(tmp_path_factory.mktemp("ours"), ("identity", "placement", "compute", "metadata", "network"), {})
    glance = Glance(tmp_path_factory.mktemp("glance"), ours.url, "glance", SERVICE_PASSWORD)
    ours.config = {"keystone_authtoken": settings, "glance": {"endpoint_override": glance.url}}
    environment = client_environment(ours.url, "admin", ADMIN_PASSWORD, "admin")
    with ours:
        commands = ["project create --or-show --domain Default service"]
        for name in ("glance", "nova"):
            commands += [
                f"user create --domain Default --password {SERVICE_PASSWORD} {name}",
                f"role add --project service --user {name} admin",
                f"role add --project service --user {name} service",
            ]
        commands += ["service create --name glance image"]
        commands += [f"endpoint create --region RegionOne glance {kind} {glance.url}" for kind in ("public", "internal")]
        commands += ["flavor create --ram 64 --disk 1 --vcpus 1 nano"]
        openstack(environment, *commands)
        with glance:
            yield ours, glance, environment


def show(environment: dict[str, str], kind: str, name: str) -> Any:
    return json.loads(openstack(environment, f"{kind} show -f json {name}"))


def test_upload_and_boot(cloud: tuple[Ours, Glance, dict[str, str]], tmp_path: Path) -> None:
    ours, _, admin = cloud
    data = bytes(range(256)) * 8192
    (tmp_path / "disk").write_bytes(data)
    demo = client_environment(ours.url, "demo", ADMIN_PASSWORD, "demo")
    openstack(demo, f"image create --disk-format raw --container-format bare --file {tmp_path / 'disk'} tiny")
    image = show(demo, "image", "tiny")
    assert image["status"] == "active" and image["properties"]["os_hash_value"] == hashlib.sha512(data).hexdigest()
    assert image["owner"] == show(admin, "project", "demo")["id"]
    openstack(demo, f"image save --file {tmp_path / 'back'} tiny")
    assert (tmp_path / "back").read_bytes() == data
    openstack(demo, "network create private", "subnet create --network private --subnet-range 10.1.0.0/24 private")
    openstack(demo, "server create --image tiny --flavor nano --network private --wait one")
    assert show(demo, "server", "one")["status"] == "ACTIVE"
    openstack(demo, "server image create --name copy --wait one")
    assert show(demo, "image", "copy")["status"] == "active"
    openstack(demo, "server delete --wait one")


def test_tokens_at_the_real_glance(cloud: tuple[Ours, Glance, dict[str, str]]) -> None:
    """Good, bad, revoked; and the middleware's answer names our identity."""
    ours, glance, _ = cloud
    token, images = ours.token("demo", "demo"), f"{glance.url}/v2/images"
    assert ask("GET", images, token).status == 200
    bad = ask("GET", images, "nonsense")
    assert bad.status == 401 and bad.headers["www-authenticate"] == f'Keystone uri="{ours.url}"'
    assert ask("POST", images, token, {"name": "x", "visibility": "public"}).status == 403
    assert ask("DELETE", f"{ours.url}/auth/tokens", ours.token(), X_Subject_Token=token).status == 204
    assert ask("GET", images, token).status == 401


def test_no_secret_in_our_log(cloud: tuple[Ours, Glance, dict[str, str]]) -> None:
    ours, _, _ = cloud
    time.sleep(1.5)  # the log is written every second
    assert SERVICE_PASSWORD not in ours.log and "gAAAA" not in ours.log
