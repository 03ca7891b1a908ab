"""Agents of one release, everything else of the other: servers live and die."""

import pytest

from tests.upgrade.cloud import ROLES, Cloud
from tests.upgrade.older import Release, ours


@pytest.mark.parametrize("agents", ["N-1", "N"])
def test_servers_live_on_agents_of_another_release(cloud: Cloud, before: Release, agents: str) -> None:
    cloud.sync(ours())
    for name in ROLES:
        old = name.startswith("hypervisor") == (agents == "N-1")
        if name != "api1":
            cloud.start(name, before if old else ours())
    api = cloud.api()
    ids = api.prepare()
    servers = [api.boot(ids, f"s{n}") for n in range(6)]
    for server in servers:
        api.until(server, "ACTIVE")
    for action, state in (({"os-stop": None}, "SHUTOFF"), ({"os-start": None}, "ACTIVE"), ({"reboot": {"type": "HARD"}}, "ACTIVE")):
        status, answer = api("compute", "POST", f"/v2.1/servers/{servers[0]}/action", action)
        assert status == 202, answer
        api.until(servers[0], state)
    for server in servers:
        assert api("compute", "DELETE", f"/v2.1/servers/{server}")[0] == 204
        api.until(server, "GONE")
    assert api("network", "GET", "/v2.0/ports?device_owner=compute:nova")[1]["ports"] == []
    assert not cloud.errors()
