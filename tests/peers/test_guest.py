"""A real guest that boots from the real Glance's bytes."""

import os
import shutil
import time
from pathlib import Path

import pytest

from tests.peers.conftest import on_theirs
from tests.peers.running import ADMIN_PASSWORD, SERVICE_PASSWORD, TOP, Glance, Keystone, Ours, ask, client_environment, openstack

GUEST_IMAGE = Path(os.environ.get("KILONOVA_DEMO_IMAGE", str(TOP / ".setup" / "cirros.qcow2")))

pytestmark = [
    pytest.mark.root,
    pytest.mark.guest,
    pytest.mark.skipif(os.geteuid() != 0, reason="the libvirt driver needs root"),
    pytest.mark.skipif(not GUEST_IMAGE.exists(), reason="there is no guest image; `make setup` builds it"),
    pytest.mark.skipif(shutil.which("qemu-system-x86_64") is None, reason="QEMU is not installed"),
]


def test_a_guest_of_the_real_glance(keystone: Keystone, glance: Glance, tmp_path: Path) -> None:
    """Up to its login prompt: the disk that it boots from came over the binding."""
    admin = client_environment(keystone.url, "admin", ADMIN_PASSWORD, "admin")
    openstack(admin, f"image create --disk-format qcow2 --container-format bare --file {GUEST_IMAGE} guest")
    ours = Ours(tmp_path, ("placement", "compute", "metadata", "network"), on_theirs(keystone, glance), driver="libvirt")
    with ours:
        try:
            token, compute = keystone.token(), ours.urls["compute"] + "/v2.1"
            flavor = {"flavor": {"name": "small", "ram": 128, "disk": 1, "vcpus": 1, "id": "small"}}
            assert ask("POST", f"{compute}/flavors", token, flavor).status == 200
            images = ask("GET", f"{glance.url}/v2/images?name=guest", token).json["images"]
            body = {"server": {"name": "real", "imageRef": images[0]["id"], "flavorRef": "small", "networks": "none"}}
            made = ask("POST", f"{compute}/servers", token, body, X_OpenStack_Nova_API_Version="2.37")
            assert made.status == 202, made
            server = f"{compute}/servers/{made.json['server']['id']}"
            end = time.monotonic() + 120
            while "login:" not in console(server, token):
                shown = ask("GET", server, token).json["server"]
                assert shown["status"] in ("BUILD", "ACTIVE") and time.monotonic() < end, shown
                time.sleep(0.5)
        finally:
            ours.destroy()
    assert SERVICE_PASSWORD not in ours.log


def console(server: str, token: str) -> str:
    answer = ask("POST", f"{server}/action", token, {"os-getConsoleOutput": {}})
    return str(answer.json["output"]) if answer.status == 200 else ""
