"""Guests on one machine reach guests on another over VXLAN: two hypervisor processes in two namespaces that share nothing but a switch.

Real guests (QEMU), the real dataplane, `my_ip` the address of each machine. The second guest's user data comes through the metadata service
of the other machine; it pings the first and says so on its console.
"""

import base64
import os
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.cluster.cluster import Api
from tests.probe.stand import Stand, standing

GUEST_IMAGE = Path(os.environ.get("KILONOVA_DEMO_IMAGE", str(Path(__file__).resolve().parents[2] / ".setup" / "cirros.qcow2")))
BOOT_S = 240.0


def boot(api: Api, ids: dict[str, str], host: str, script: str) -> str:
    server = {
        "name": f"on-{host}", "imageRef": ids["image"], "flavorRef": "tiny", "networks": [{"uuid": ids["network"]}],
        "availability_zone": f"nova:{host}", "user_data": base64.b64encode(script.encode()).decode(),
    }  # fmt: skip
    status, answer = api("compute", "POST", "/v2.1/servers", {"server": server})
    assert status == 202, answer
    return str(answer["server"]["id"])


def console(api: Api, server: str, *wanted: str) -> str:
    """Its console, once all of that stands there."""
    end = time.monotonic() + BOOT_S
    while True:
        status, answer = api("compute", "POST", f"/v2.1/servers/{server}/action", {"os-getConsoleOutput": {}})
        text = str(answer["output"]) if status == 200 else ""
        if all(words in text for words in wanted):
            return text
        assert time.monotonic() < end, (status, text[-3000:])
        time.sleep(0.5)


def wait_for_hosts(api: Api, count: int) -> None:
    end = time.monotonic() + 60
    while True:
        services = api("compute", "GET", "/v2.1/os-services?binary=nova-compute")[1]["services"]
        if [service["state"] for service in services] == ["up"] * count:
            return
        assert time.monotonic() < end, services
        time.sleep(0.2)


def prepare(api: Api) -> dict[str, str]:
    image = {"name": "guest", "disk_format": "qcow2", "container_format": "bare"}
    status, made = api("image", "POST", "/v2/images", image)
    assert status == 201, made
    status, answer = api("image", "PUT", f"/v2/images/{made['id']}/file", data=GUEST_IMAGE.read_bytes())
    assert status == 204, answer
    status, answer = api("compute", "POST", "/v2.1/flavors", {"flavor": {"id": "tiny", "name": "tiny", "ram": 128, "vcpus": 1, "disk": 1}})
    assert status == 200, answer
    status, network = api("network", "POST", "/v2.0/networks", {"network": {"name": "net"}})
    assert status == 201, network
    subnet = {"subnet": {"network_id": network["network"]["id"], "ip_version": 4, "cidr": "10.40.0.0/24"}}
    assert api("network", "POST", "/v2.0/subnets", subnet)[0] == 201
    groups = api("network", "GET", "/v2.0/security-groups?name=default")[1]["security_groups"]
    project = api("network", "GET", f"/v2.0/networks/{network['network']['id']}")[1]["network"]["project_id"]
    group = next(g["id"] for g in groups if g["project_id"] == project)
    rule = {"security_group_rule": {"security_group_id": group, "direction": "ingress", "ethertype": "IPv4", "protocol": "icmp"}}
    assert api("network", "POST", "/v2.0/security-group-rules", rule)[0] == 201
    return {"image": made["id"], "network": network["network"]["id"]}


def story() -> None:
    """In a thread of its own, which moves to the client's place in the network."""
    with standing(Stand(controls=1, hypervisors=2, hosts=1, driver="libvirt", disks=False), enter=True) as stand:
        reach(stand)


def reach(stand: Stand) -> None:
    api = Api({service: stand.url("c1", service) for service in ("identity", "image", "compute", "network")})
    ids = prepare(api)
    wait_for_hosts(api, 2)
    first = boot(api, ids, "node-h1", "#!/bin/sh\necho first-is-there\n")
    found = api.until(first, "ACTIVE", BOOT_S)["server"]
    (address,) = (a["addr"] for a in found["addresses"]["net"])
    console(api, first, "first-is-there")
    script = (
        f"#!/bin/sh\nping -c 3 {address} && echo reached-it mtu $(cat /sys/class/net/eth0/mtu)\n"
        f"ping -c 2 -s 1400 {address} && echo reached-it-with-full-frames\n"
    )
    second = boot(api, ids, "node-h2", script)
    assert api.until(second, "ACTIVE", BOOT_S)["server"]["OS-EXT-SRV-ATTR:host"] == "node-h2"
    said = console(api, second, "reached-it mtu 1450", "reached-it-with-full-frames")
    assert "0% packet loss" in said
    # the process dies and comes back: guests and tunnels are as they were
    node = stand.programs["node-h1"]
    node.end()
    node.start()
    node.wait()
    assert api("compute", "POST", f"/v2.1/servers/{second}/action", {"reboot": {"type": "HARD"}})[0] == 202
    api.until(second, "ACTIVE", BOOT_S)
    for server in (first, second):
        assert api("compute", "DELETE", f"/v2.1/servers/{server}")[0] == 204
    for server in (first, second):
        api.until(server, "GONE", 60)
    for program in stand.programs.values():
        assert '"level":"error"' not in program.log(), program.log()[-4000:]


@pytest.mark.root
@pytest.mark.guest
@pytest.mark.skipif(os.geteuid() != 0, reason="network namespaces need root")
@pytest.mark.skipif(not GUEST_IMAGE.exists(), reason="the guest image is not built (make setup)")
def test_guests_of_two_machines_reach_each_other() -> None:
    with ThreadPoolExecutor(1) as pool:
        pool.submit(story).result()
