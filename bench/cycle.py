"""One demo-like cycle through the HTTP APIs: image, key pair, flavor, network, router, a real VM with a floating IP; all gone again."""

import re
from pathlib import Path
from typing import Any

from cloud import Cloud


def run(cloud: Cloud, guest: Path) -> None:
    """Raises Refused or RuntimeError where a step fails."""
    made: list[tuple[str, str]] = []

    def create(service: str, path: str, body: dict[str, Any]) -> dict[str, Any]:
        (kind,) = body
        answer: dict[str, Any] = cloud.call(service, "POST", path, body)[kind]
        made.append((service, f"{path}/{answer.get('id') or answer['name']}"))
        return answer

    image = cloud.image(guest.read_bytes(), "qcow2", "cycle")
    made.append(("image", f"/v2/images/{image}"))
    cloud.call("image", "GET", f"/v2/images/{image}/file")
    create("compute", "/v2.1/os-keypairs", {"keypair": {"name": "cycle"}})
    flavor = create("compute", "/v2.1/flavors", {"flavor": {"name": "cycle", "ram": 128, "vcpus": 1, "disk": 1}})["id"]
    network = create("network", "/v2.0/networks", {"network": {"name": "cycle"}})["id"]
    subnet = create("network", "/v2.0/subnets", {"subnet": {"network_id": network, "ip_version": 4, "cidr": "10.9.0.0/24"}})["id"]
    (public,) = cloud.call("network", "GET", "/v2.0/networks?name=public")["networks"]
    gateway = {"external_gateway_info": {"network_id": public["id"]}}
    router = create("network", "/v2.0/routers", {"router": {"name": "cycle", **gateway}})["id"]
    cloud.call("network", "PUT", f"/v2.0/routers/{router}/add_router_interface", {"subnet_id": subnet})
    server = cloud.server(flavor, image, [{"uuid": network}], key_name="cycle")
    settle(cloud, server, "ACTIVE")
    cloud.until(lambda: re.search("login:", console(cloud, server)), "the login prompt", timeout_s=180, poll_s=1)
    (port,) = cloud.call("network", "GET", f"/v2.0/ports?device_id={server}")["ports"]
    floating = {"floating_network_id": public["id"], "port_id": port["id"]}
    create("network", "/v2.0/floatingips", {"floatingip": floating})
    for action, status in (({"os-stop": None}, "SHUTOFF"), ({"os-start": None}, "ACTIVE"), ({"reboot": {"type": "HARD"}}, "ACTIVE")):
        cloud.call("compute", "POST", f"/v2.1/servers/{server}/action", action)
        settle(cloud, server, status)
    cloud.delete_server(server)
    cloud.call("network", "PUT", f"/v2.0/routers/{router}/remove_router_interface", {"subnet_id": subnet})
    for service, path in reversed(made):
        if "/subnets/" not in path:  # it goes with its network
            cloud.call(service, "DELETE", path)


def settle(cloud: Cloud, server: str, status: str) -> None:
    def look() -> bool:
        found = cloud.call("compute", "GET", f"/v2.1/servers/{server}")["server"]
        if found["status"] == "ERROR":
            raise RuntimeError(f"the server is in ERROR: {found.get('fault')}")
        return bool(found["status"] == status and found["OS-EXT-STS:task_state"] is None)

    cloud.until(look, status, timeout_s=180, poll_s=0.2)


def console(cloud: Cloud, server: str) -> str:
    answer = cloud.call("compute", "POST", f"/v2.1/servers/{server}/action", {"os-getConsoleOutput": {"length": 50}})
    return str(answer["output"])
