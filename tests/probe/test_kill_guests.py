"""kill -9 of the real process with real QEMU guests: those that run live on, one that is being made gets made, one being deleted goes."""

import asyncio
import os
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.probe.http import Http
from tests.probe.process import CloudProcess
from tests.probe.test_kill import SEED, WITHIN_S, good, login

TOP = Path(__file__).resolve().parents[2]
GUEST_IMAGE = Path(os.environ.get("KILONOVA_DEMO_IMAGE", str(TOP / ".setup" / "cirros.qcow2")))

pytestmark = [
    pytest.mark.root,
    pytest.mark.guest,
    pytest.mark.skipif(os.geteuid() != 0, reason="the libvirt driver needs root"),
    pytest.mark.skipif(not GUEST_IMAGE.exists(), reason="there is no guest image; `make setup` builds it"),
    pytest.mark.skipif(shutil.which("qemu-system-x86_64") is None, reason="QEMU is not installed"),
]


@pytest.fixture
def cloud(tmp_path: Path) -> Iterator[CloudProcess]:
    made = CloudProcess(tmp_path, "--driver", "libvirt")
    yield made
    if made.process is None:
        made.start()
        made.wait_ready()
    command = [sys.executable, "-P", "-m", "kilonova", "down", "--destroy", "--state", str(made.state)]
    subprocess.run(command, env=made.environment, check=True, timeout=60, stdout=subprocess.DEVNULL)
    assert made.process is not None
    made.process.wait(30)


def qemus(server: str) -> list[int]:
    """Processes that run the guest of a server."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            words = (entry / "cmdline").read_bytes().split(b"\0")
            state = (entry / "stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            continue
        if server.encode() in words and b"qemu-system" in words[0] and state != "Z":
            found.append(int(entry.name))
    return found


def taps(cloud: CloudProcess) -> list[str]:
    """Devices of guests in the namespaces of this cloud."""
    mine = f"kn-{msgspec.json.decode((cloud.state / 'kilonova.state').read_bytes())['id']}"
    namespaces = [name for name in os.listdir("/run/netns") if name.startswith(mine)]
    assert namespaces, f"no namespace begins with {mine}"
    shown = [subprocess.run(["ip", "-n", name, "-o", "link"], capture_output=True, text=True, check=True).stdout for name in namespaces]
    names = [line.split(": ")[1] for text in shown for line in text.splitlines()]
    return [name for name in names if name.startswith("tap")]


async def make_things(cloud: CloudProcess, http: Http) -> dict[str, Any]:
    """The body of a request for a server."""
    flavor = {"flavor": {"name": "probe", "ram": 128, "vcpus": 1, "disk": 1}}
    flavor_id = (await good(http, "POST", cloud.port("compute"), "/v2.1/flavors", flavor))["flavor"]["id"]
    image = {"name": "probe", "disk_format": "qcow2", "container_format": "bare"}
    image_id = (await good(http, "POST", cloud.port("image"), "/v2/images", image))["id"]
    await good(http, "PUT", cloud.port("image"), f"/v2/images/{image_id}/file", GUEST_IMAGE.read_bytes())
    network_id = (await good(http, "POST", cloud.port("network"), "/v2.0/networks", {"network": {"name": "probe"}}))["network"]["id"]
    subnet = {"subnet": {"network_id": network_id, "ip_version": 4, "cidr": "10.34.0.0/24"}}
    await good(http, "POST", cloud.port("network"), "/v2.0/subnets", subnet)
    return {"server": {"name": "probe", "flavorRef": flavor_id, "imageRef": image_id, "networks": [{"uuid": network_id}]}}


async def create(cloud: CloudProcess, http: Http, body: dict[str, Any]) -> str:
    made: str = (await good(http, "POST", cloud.port("compute"), "/v2.1/servers", body))["server"]["id"]
    return made


async def statuses(cloud: CloudProcess, http: Http, *servers: str) -> list[str]:
    """Of each: its status and task, "gone" when there is no such server."""
    found = []
    for server in servers:
        answer = await http("GET", cloud.port("compute"), f"/v2.1/servers/{server}")
        shown = answer.json.get("server", {})
        assert shown.get("status") != "ERROR", shown.get("fault")
        found.append("gone" if answer.status == 404 else f"{shown['status']} {shown['OS-EXT-STS:task_state']}")
    return found


async def until(cloud: CloudProcess, http: Http, wanted: str, *servers: str, within_s: float = WITHIN_S) -> None:
    end = time.monotonic() + within_s
    while (seen := await statuses(cloud, http, *servers)) != [wanted] * len(servers):
        assert time.monotonic() < end, f"after {within_s} s: {seen}, wanted {wanted}"
        await asyncio.sleep(0.1)


async def allocations(cloud: CloudProcess, http: Http) -> list[str]:
    port = cloud.port("placement")
    found: list[str] = []
    for provider in (await good(http, "GET", port, "/resource_providers"))["resource_providers"]:
        held = await good(http, "GET", port, f"/resource_providers/{provider['uuid']}/allocations")
        found += held["allocations"]
    return found


async def guest_ports(cloud: CloudProcess, http: Http) -> list[str]:
    listed = (await good(http, "GET", cloud.port("network"), "/v2.0/ports"))["ports"]
    return [port["device_id"] for port in listed if port["device_owner"].startswith("compute:")]


async def in_the_middle_of_a_start(cloud: CloudProcess) -> None:
    """With an odd seed when libvirt has just written down that it starts a second guest (it then forgot a lock), else at any moment."""
    if SEED % 2 == 0:
        await asyncio.sleep(random.Random(SEED).uniform(0.02, 0.5))
        return
    end = time.monotonic() + 10
    while len(list((cloud.state / "libvirt" / "run" / "qemu").glob("*.xml"))) < 2:
        assert time.monotonic() < end, "the second guest was not started"
        await asyncio.sleep(0.002)


def test_kill_with_guests(cloud: CloudProcess) -> None:
    cloud.start()
    cloud.wait_ready()
    asyncio.run(play(cloud))


async def play(cloud: CloudProcess) -> None:
    http = Http(await login(cloud), timeout_s=60)
    body = await make_things(cloud, http)
    runs = await create(cloud, http, body)
    await until(cloud, http, "ACTIVE None", runs, within_s=120)
    before = qemus(runs)
    assert len(before) == 1

    boots = await create(cloud, http, body)
    await in_the_middle_of_a_start(cloud)
    http.close()
    cloud.kill()
    assert qemus(runs) == before, "a guest died with the process"

    cloud.start()
    await asyncio.to_thread(cloud.wait_ready)
    await until(cloud, http, "ACTIVE None", runs, boots)
    assert qemus(runs) == before, "a guest that ran was started anew"
    assert len(qemus(boots)) == 1
    assert sorted(await allocations(cloud, http)) == sorted(await guest_ports(cloud, http)) == sorted([runs, boots])
    assert len(taps(cloud)) == 2

    for server in (runs, boots):
        assert (await http("DELETE", cloud.port("compute"), f"/v2.1/servers/{server}")).status == 204
    http.close()
    cloud.kill()

    cloud.start()
    await asyncio.to_thread(cloud.wait_ready)
    await until(cloud, http, "gone", runs, boots)
    assert qemus(runs) == qemus(boots) == []
    assert await allocations(cloud, http) == await guest_ports(cloud, http) == []
    assert await leftover_taps(cloud) == []
    left = [entry.name for entry in (cloud.state / "instances").iterdir() if not entry.name.startswith("_")]
    assert left == []
    http.close()


async def leftover_taps(cloud: CloudProcess) -> list[str]:
    """The dataplane takes a port away a moment after the API has forgotten it."""
    found = taps(cloud)
    for _ in range(100):
        if not found:
            break
        await asyncio.sleep(0.1)
        found = taps(cloud)
    return found
