"""kill -9 of the real process at random moments under load, and what must be true within 30 seconds of the next start.

Every accepted create is ACTIVE, unless its delete was accepted; every accepted delete is done; placement, ports, quota and the hosts'
guests agree with the servers; nothing is under way any more. A request whose answer never came may or may not have been accepted.

    KILONOVA_SEED=7 KILONOVA_PROBE_KILLS=40 .venv/bin/python -m pytest tests/probe/test_kill.py

runs longer; a seed gives the same moments, not the same interleaving. (`make probe` is a cloud of many processes: `python -m tests.probe`.)
"""

import asyncio
import os
import random
import secrets
import sqlite3
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from kilonova.compute.drivers.fake.journal import GuestJournal
from tests.probe.http import Answer, Broken, Http
from tests.probe.process import CloudProcess

SEED = int(os.environ.get("KILONOVA_SEED", "1"))
KILLS = int(os.environ.get("KILONOVA_PROBE_KILLS", "4"))
WORKERS = 16
HOSTS = 20
MOST_SERVERS = 120
WITHIN_S = 30.0
RAM_MB = 64


class Books:
    """What was asked and what came of it."""

    def __init__(self) -> None:
        self.created: dict[str, None] = {}
        self.deleted: dict[str, None] = {}
        self.maybe_deleted: dict[str, None] = {}
        self.lost = Counter[str]()
        """Requests without an answer."""

    @property
    def must_live(self) -> list[str]:
        return [i for i in self.created if i not in self.deleted and i not in self.maybe_deleted]


class Load:
    """Workers that create and delete servers until they are stopped, or the process under them is."""

    def __init__(self, cloud: CloudProcess, token: str, flavor: str, image: str, network: str, books: Books, chance: random.Random) -> None:
        self.cloud, self.token, self.books, self.chance = cloud, token, books, chance
        wanted = {"name": "probe", "flavorRef": flavor, "imageRef": image, "networks": [{"uuid": network}]}
        self.body = {"server": wanted}
        self.wrong: list[str] = []
        self.stopped = False

    async def run(self) -> None:
        await asyncio.gather(*(self.worker() for _ in range(WORKERS)))

    async def worker(self) -> None:
        http = Http(self.token)
        try:
            while not self.stopped:
                alive = self.books.must_live
                if len(alive) >= MOST_SERVERS or (alive and self.chance.random() < 0.4):
                    await self.delete(http, self.chance.choice(alive))
                else:
                    await self.create(http)
                await asyncio.sleep(self.chance.uniform(0, 0.02))
        except Broken:
            return
        finally:
            http.close()

    async def create(self, http: Http) -> None:
        try:
            answer = await http("POST", self.cloud.port("compute"), "/v2.1/servers", self.body)
        except Broken:
            self.books.lost["create"] += 1
            raise
        if answer.status == 202:
            self.books.created[answer.json["server"]["id"]] = None
        else:
            self.wrong.append(f"create: {answer.status} {answer.body[:300]!r}")

    async def delete(self, http: Http, server: str) -> None:
        self.books.maybe_deleted[server] = None
        try:
            answer = await http("DELETE", self.cloud.port("compute"), f"/v2.1/servers/{server}")
        except Broken:
            self.books.lost["delete"] += 1
            raise
        if answer.status == 204:
            self.books.deleted[server] = None
        elif answer.status != 404:
            self.wrong.append(f"delete: {answer.status} {answer.body[:300]!r}")


async def good(http: Http, method: str, port: int, path: str, body: Any = None, **headers: str) -> Any:
    answer = await http(method, port, path, body, **headers)
    assert answer.status < 300, f"{method} {path}: {answer.status} {answer.body[:300]!r}"
    return answer.json if answer.body else None


async def login(cloud: CloudProcess) -> str:
    user = {"name": "admin", "password": cloud.password(), "domain": {"id": "default"}}
    scope = {"project": {"name": "admin", "domain": {"id": "default"}}}
    body = {"auth": {"identity": {"methods": ["password"], "password": {"user": user}}, "scope": scope}}
    answer: Answer = await Http()("POST", cloud.port("identity"), "/v3/auth/tokens", body)
    assert answer.status == 201, answer.body
    return answer.headers["x-subject-token"]


async def make_things(cloud: CloudProcess, token: str) -> tuple[str, str, str]:
    """Ids of a flavor, an image and a network."""
    http = Http(token)
    flavor = {"flavor": {"name": "probe", "ram": RAM_MB, "vcpus": 1, "disk": 1}}
    flavor_id: str = (await good(http, "POST", cloud.port("compute"), "/v2.1/flavors", flavor))["flavor"]["id"]
    image = {"name": "probe", "disk_format": "raw", "container_format": "bare"}
    image_id: str = (await good(http, "POST", cloud.port("image"), "/v2/images", image))["id"]
    await good(http, "PUT", cloud.port("image"), f"/v2/images/{image_id}/file", secrets.token_bytes(4096))
    network_id: str = (await good(http, "POST", cloud.port("network"), "/v2.0/networks", {"network": {"name": "probe"}}))["network"]["id"]
    subnet = {"subnet": {"network_id": network_id, "ip_version": 4, "cidr": "10.33.0.0/16"}}
    await good(http, "POST", cloud.port("network"), "/v2.0/subnets", subnet)
    http.close()
    return flavor_id, image_id, network_id


# ---------------------------------------------------------------- what must be true


async def servers_of(cloud: CloudProcess, http: Http) -> dict[str, dict[str, Any]]:
    listed = await good(http, "GET", cloud.port("compute"), "/v2.1/servers/detail?all_tenants=1&limit=1000")
    return {server["id"]: server for server in listed["servers"]}


def unsettled(servers: dict[str, dict[str, Any]], books: Books) -> list[str]:
    """What is still to happen."""
    found = [f"{i} is {s['status']}, {s['OS-EXT-STS:task_state']}" for i, s in servers.items() if s["status"] == "BUILD"]
    found += [f"{i} has task {s['OS-EXT-STS:task_state']}" for i, s in servers.items() if s["OS-EXT-STS:task_state"] is not None]
    return found + [f"{i} is not deleted yet" for i in books.deleted if i in servers]


async def allocated(cloud: CloudProcess, http: Http) -> dict[str, str]:
    """Consumer -> name of the provider that it holds resources of."""
    port, found = cloud.port("placement"), {}
    for provider in (await good(http, "GET", port, "/resource_providers"))["resource_providers"]:
        held = (await good(http, "GET", port, f"/resource_providers/{provider['uuid']}/allocations"))["allocations"]
        for consumer, allocation in held.items():
            assert allocation["resources"] == {"VCPU": 1, "MEMORY_MB": RAM_MB, "DISK_GB": 1}, allocation
            assert consumer not in found, f"{consumer} holds resources of two hosts"
            found[consumer] = provider["name"]
    return found


async def disagreements(cloud: CloudProcess, http: Http, servers: dict[str, dict[str, Any]]) -> list[str]:
    """Between the servers and the books of placement, network and quota."""
    found = []
    held = await allocated(cloud, http)
    hosts = {i: s["OS-EXT-SRV-ATTR:hypervisor_hostname"] for i, s in servers.items()}
    if held != hosts:
        found.append(f"placement: {sorted(set(held.items()) ^ set(hosts.items()))}")
    ports = [
        p for p in (await good(http, "GET", cloud.port("network"), "/v2.0/ports"))["ports"] if p["device_owner"].startswith("compute:")
    ]
    users = Counter(p["device_id"] for p in ports)
    if users != Counter(dict.fromkeys(servers, 1)):
        found.append(f"ports: of {sorted(set(users) - set(servers))}, none of {sorted(set(servers) - set(users))}, {users.most_common(1)}")
    found += [f"port {p['id']} is {p['status']}" for p in ports if p["status"] != "ACTIVE"]
    addresses = {f["ip_address"] for p in ports for f in p["fixed_ips"]}
    if len(addresses) != len(ports):
        found.append(f"{len(ports)} ports have {len(addresses)} addresses")
    limits = (await good(http, "GET", cloud.port("compute"), "/v2.1/limits"))["limits"]["absolute"]
    used = (limits["totalInstancesUsed"], limits["totalCoresUsed"], limits["totalRAMUsed"])
    if used != (len(servers), len(servers), RAM_MB * len(servers)):
        found.append(f"quota: {used} is counted for {len(servers)} servers")
    return found


async def settle(cloud: CloudProcess, token: str, books: Books) -> dict[str, dict[str, Any]]:
    """Wait until all is as it must be, at most WITHIN_S from the start of the process. The servers that are left."""
    http = Http(token)
    wrong: list[str] = ["nothing was looked at"]
    servers: dict[str, dict[str, Any]] = {}
    while wrong and time.monotonic() < cloud.started + WITHIN_S:
        servers = await servers_of(cloud, http)
        wrong = unsettled(servers, books) or await disagreements(cloud, http, servers)
        if wrong:
            await asyncio.sleep(0.2)
    http.close()
    errors = {i: s.get("fault") for i, s in servers.items() if s["status"] != "ACTIVE"}
    assert not wrong, f"{WITHIN_S} s after start {cloud.starts}: {wrong[:10]}"
    assert not errors, f"after start {cloud.starts} not ACTIVE: {list(errors.items())[:5]}"
    lost = [i for i in books.must_live if i not in servers]
    assert not lost, f"accepted, not deleted, and gone after start {cloud.starts}: {lost}"
    return servers


def wait_ready_or_kill(cloud: CloudProcess, chance: random.Random) -> None:
    """Start; now and then kill the start itself, while it recovers, and start again."""
    cloud.start()
    while chance.random() < 0.35:
        time.sleep(chance.uniform(0.3, 2.5))
        cloud.kill()
        cloud.start()
    cloud.wait_ready()


def check_after_stop(cloud: CloudProcess, servers: dict[str, dict[str, Any]]) -> None:
    """With nobody at work: no operation is left, and the hosts hold exactly the servers' guests."""
    with sqlite3.connect(f"file:{cloud.state / 'kilonova.db'}?mode=ro", uri=True) as db:
        for table in ("compute_api_operations", "compute_cell_operations"):
            assert db.execute(f"SELECT verb, resource_id, step FROM {table} ORDER BY id").fetchall() == []
    journal = GuestJournal(cloud.state / "instances" / "fake-guests.jsonl")
    guests = {guest: name for name, host in journal.hosts.items() for guest in host.guests}
    journal.close()
    assert guests == {i: s["OS-EXT-SRV-ATTR:host"] for i, s in servers.items()}


@pytest.fixture
def cloud(tmp_path: Path) -> Iterator[CloudProcess]:
    made = CloudProcess(tmp_path, "--driver", "fake", "--hosts", str(HOSTS))
    yield made
    if made.process is not None:
        made.kill()


def test_kill_under_load(cloud: CloudProcess) -> None:
    chance = random.Random(SEED)
    books = Books()
    cloud.start()
    cloud.wait_ready()
    token = asyncio.run(login(cloud))
    things = asyncio.run(make_things(cloud, token))
    for _ in range(KILLS):
        load = Load(cloud, token, *things, books, chance)
        asyncio.run(kill_in_the_middle(cloud, load, chance.uniform(0.05, 2.0)))
        assert not load.wrong, load.wrong[:3]
        wait_ready_or_kill(cloud, chance)
        asyncio.run(settle(cloud, token, books))
    assert books.created and books.deleted
    assert books.lost, "no request was under way at any of the kills"
    print(
        f"{KILLS} kills, {cloud.starts} starts; {len(books.created)} created, {len(books.deleted)} deleted, unanswered {dict(books.lost)}"
    )
    servers = asyncio.run(settle(cloud, token, books))
    cloud.stop()
    check_after_stop(cloud, servers)
    cloud.start()
    cloud.wait_ready()
    asyncio.run(delete_all(cloud, token, books))
    cloud.stop()
    check_after_stop(cloud, {})


async def kill_in_the_middle(cloud: CloudProcess, load: Load, after_s: float) -> None:
    under_way = asyncio.create_task(load.run())
    await asyncio.sleep(after_s)
    cloud.kill()
    load.stopped = True
    await under_way


async def delete_all(cloud: CloudProcess, token: str, books: Books) -> None:
    http = Http(token)
    for server in await servers_of(cloud, http):
        assert (await http("DELETE", cloud.port("compute"), f"/v2.1/servers/{server}")).status == 204
        books.deleted[server] = None
    cloud.started = time.monotonic()
    assert await settle(cloud, token, books) == {}
    http.close()
