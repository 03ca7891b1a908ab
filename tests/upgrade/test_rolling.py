"""Every process is replaced, one by one, under load: nothing fails and nothing gets lost."""

import asyncio
import statistics
import time

import pytest

from tests.cluster.cluster import Api
from tests.upgrade.cloud import ROLES, Cloud
from tests.upgrade.older import DRAINS, Release, ours
from tests.upgrade.traffic import RATE, Traffic

QUIET_S = 3.0
"""Of traffic between two replacements."""


def settled(api: Api, traffic: Traffic) -> None:
    """Each server that was promised is ACTIVE or, if its end was asked for, gone."""
    for server in traffic.alive:
        api.until(server, "ACTIVE", 90)
    for server in traffic.deleted:
        api.until(server, "GONE", 90)


def agree(api: Api, traffic: Traffic) -> None:
    """Servers, guests' ports and allocations are those that were promised."""
    status, answer = api("compute", "GET", "/v2.1/servers?limit=1000")
    assert status == 200 and sorted(s["id"] for s in answer["servers"]) == sorted(traffic.alive)
    status, answer = api("network", "GET", "/v2.0/ports?device_owner=compute:nova")
    assert status == 200 and sorted(p["device_id"] for p in answer["ports"]) == sorted(traffic.alive)
    assert all(p["status"] == "ACTIVE" for p in answer["ports"]), [p for p in answer["ports"] if p["status"] != "ACTIVE"]


async def under_load(traffic: Traffic, work: list[str], cloud: Cloud, release: Release) -> dict[str, float]:
    """Seconds that each process took to end."""
    over = asyncio.Event()
    load = asyncio.get_running_loop().create_task(traffic.run(over))
    took: dict[str, float] = {}
    try:
        await asyncio.sleep(QUIET_S)
        print(await asyncio.to_thread(cloud.sync, release))
        for name in work:
            failed = len(traffic.failed)
            took[name] = await asyncio.to_thread(cloud.replace, name, release)
            await asyncio.sleep(QUIET_S)
            print(f"  {name} replaced by {release.name}; its end took {took[name]:.2f} s; {len(traffic.failed) - failed} requests failed")
    finally:
        over.set()
        await load
    return took


def told(traffic: Traffic, count: int, seconds: float) -> str:
    took = sorted(traffic.took_s)
    return (
        f"{count} requests in {seconds:.0f} s ({count / seconds:.0f}/s): {dict(sorted(traffic.sent.items()))}; "
        f"{len(traffic.failed)} failed, {traffic.balancer.retried} taken to the other process; p50 {statistics.median(took) * 1e3:.0f} ms, "
        f"p99 {took[int(len(took) * 0.99)] * 1e3:.0f} ms, longest {took[-1] * 1e3:.0f} ms"
    )


@pytest.mark.parametrize("before", [DRAINS], indirect=True)
def test_each_process_is_replaced_under_load(cloud: Cloud, before: Release) -> None:
    """N−1 by N, and then N by N: a restart of every process."""
    for name in ROLES:
        cloud.start(name, before)
    api = cloud.api()
    ids = api.prepare()
    api.until(api.boot(ids), "ACTIVE")
    for server in api("compute", "GET", "/v2.1/servers")[1]["servers"]:
        assert api("compute", "DELETE", f"/v2.1/servers/{server['id']}")[0] == 204
        api.until(server["id"], "GONE")
    traffic = Traffic(cloud.apis, api.token, ids)
    for round_ in (1, 2):
        began, sent = time.monotonic(), sum(traffic.sent.values())
        asyncio.run(under_load(traffic, list(ROLES), cloud, ours()))
        seconds = time.monotonic() - began
        traffic.balancer.idle.clear()
        count = sum(traffic.sent.values()) - sent
        print(told(traffic, count, seconds))
        traffic.took_s.clear()
        assert not traffic.failed, "\n".join(traffic.failed[:20])
        assert count >= 0.9 * RATE * seconds, "the load was not what it is meant to be"
        settled(api, traffic)
        agree(api, traffic)
        print(f"round {round_}: all {len(traffic.alive)} servers are there, {len(traffic.deleted)} are gone")
    print(cloud.sync(ours()))
