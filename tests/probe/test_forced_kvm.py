"""virt_type=kvm where KVM is unusable: the server ends in ERROR with that reason, and nothing claims to run."""

import asyncio
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from kilonova.compute.drivers.libvirt.acceleration import probe
from tests.probe.http import Http
from tests.probe.process import CloudProcess
from tests.probe.test_kill import good, login, make_things


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
@pytest.mark.skipif(probe(Path("/dev/kvm"), Path("/proc/cpuinfo")).kvm_usable, reason="KVM works on this machine")
def test_a_forced_kvm_that_is_unusable_is_an_error_with_its_reason(tmp_path: Path) -> None:
    config = tmp_path / "kvm.conf"
    config.write_text("[libvirt]\nvirt_type = kvm\n")
    cloud = CloudProcess(tmp_path, "--driver", "libvirt", "--config", str(config))
    cloud.start()
    try:
        cloud.wait_ready()
        fault = asyncio.run(_fault(cloud))
        assert "kvm" in fault.lower(), fault
    finally:
        down = [sys.executable, "-P", "-m", "kilonova", "down", "--state", str(cloud.state), "--destroy"]
        subprocess.run(down, env=cloud.environment, check=True, capture_output=True)
        cloud.process = None


async def _fault(cloud: CloudProcess) -> str:
    token = await login(cloud)
    flavor, image, _ = await make_things(cloud, token)
    http = Http(token)
    head = {"openstack-api-version": "compute 2.90"}
    body = {"server": {"name": "k", "flavorRef": flavor, "imageRef": image, "networks": "none"}}
    made = await good(http, "POST", cloud.port("compute"), "/v2.1/servers", body, **head)
    path = f"/v2.1/servers/{made['server']['id']}"
    end = time.monotonic() + 60
    while time.monotonic() < end:
        server = (await good(http, "GET", cloud.port("compute"), path, **head))["server"]
        if server["status"] not in ("BUILD",):
            break
        await asyncio.sleep(0.1)
    assert server["status"] == "ERROR", server
    await good(http, "DELETE", cloud.port("compute"), path, **head)
    text: str = server["fault"]["message"]
    return text
