"""Boots in a cloud of several processes, while parts of it die."""

import signal
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from kilonova.compute.drivers.fake.journal import GuestJournal
from tests.cluster.cluster import Api, Process
from tests.cluster.conftest import APIS, Stand

OFFSET = 11000


def started(stand: Stand, conductors: int = 2) -> Api:
    cluster = stand.cluster
    front = cluster.start("api0", APIS, offset=OFFSET)
    for number in range(conductors):
        cluster.start(f"conductor{number}", ["conductor"], offset=OFFSET)
    for number in range(2):
        cluster.start(f"hypervisor{number}", ["hypervisor"], offset=OFFSET)
    return Api({service: front.url(service) for service in ("identity", "image", "compute", "network")})


def loaded(process: Process) -> str:
    return Path(f"/proc/{process.pid}/maps").read_text()


def hosts(api: Api) -> dict[str, str]:
    status, answer = api("compute", "GET", "/v2.1/os-services")
    assert status == 200, answer
    return {f"{s['binary']} {s['host']}": s["state"] for s in answer["services"]}


def test_a_server_lives_and_each_process_is_seen(stand: Stand) -> None:
    api = started(stand)
    ids = api.prepare()
    server = api.boot(ids)
    found = api.until(server, "ACTIVE")["server"]
    assert found["OS-EXT-SRV-ATTR:host"] in ("hypervisor0", "hypervisor1")
    for action, state in (({"os-stop": None}, "SHUTOFF"), ({"os-start": None}, "ACTIVE"), ({"reboot": {"type": "HARD"}}, "ACTIVE")):
        status, answer = api("compute", "POST", f"/v2.1/servers/{server}/action", action)
        assert status == 202, answer
        api.until(server, state)
    status, answer = api("compute", "POST", f"/v2.1/servers/{server}/action", {"createImage": {"name": "copy"}})
    assert status in (200, 202), answer
    end = time.monotonic() + 30
    while [i["status"] for i in api("image", "GET", "/v2/images?name=copy")[1]["images"]] != ["active"]:
        assert time.monotonic() < end
        time.sleep(0.1)
    assert hosts(api) == {
        "nova-conductor conductor0": "up", "nova-scheduler conductor0": "up", "nova-conductor conductor1": "up",
        "nova-scheduler conductor1": "up", "nova-compute hypervisor0": "up", "nova-compute hypervisor1": "up",
    }  # fmt: skip
    assert api("compute", "DELETE", f"/v2.1/servers/{server}")[0] == 204
    api.until(server, "GONE")
    for process in stand.cluster.processes.values():
        assert '"level":"error"' not in process.log(), process.log()
    # What a process has loaded shows in its memory map: an agent cannot open a database.
    assert "/sqlalchemy/" in loaded(stand.cluster.processes["conductor0"])
    assert "/sqlalchemy/" not in loaded(stand.cluster.processes["hypervisor0"])


def test_a_killed_conductor_leaves_nothing_behind(stand: Stand) -> None:
    """Its operations are taken over when their lease has run out."""
    api = started(stand)
    ids = api.prepare()
    with ThreadPoolExecutor(8) as pool:
        booting = [pool.submit(api.boot, ids, f"s{n}") for n in range(40)]
        time.sleep(0.4)
        stand.cluster.processes["conductor0"].kill(signal.SIGKILL)
        servers = [found.result() for found in booting]
    for server in servers:
        api.until(server, "ACTIVE", 90)
    assert guests(stand) == len(servers)


def test_boots_outlive_an_absent_broker(stand: Stand) -> None:
    """What was accepted is done soon after the broker's return: in ten seconds, and some more for a busy machine."""
    api = started(stand)
    ids = api.prepare()
    with ThreadPoolExecutor(8) as pool:
        servers = list(pool.map(lambda n: api.boot(ids, f"s{n}"), range(30)))
    stand.broker.kill()
    more = [api.boot(ids, f"t{n}") for n in range(10)]
    time.sleep(8)
    stand.broker.start()
    back = time.monotonic()
    for server in [*servers, *more]:
        api.until(server, "ACTIVE", 60)
    took_s = time.monotonic() - back
    assert guests(stand) == len(servers) + len(more)
    assert took_s <= 15, f"{took_s:.1f} s after the broker's return"


def guests(stand: Stand) -> int:
    """Fake guests of all hypervisors, from their journals."""
    found = 0
    for number in range(2):
        journal = GuestJournal(stand.folder / f"hypervisor{number}" / "state" / "instances" / "fake-guests.jsonl")
        found += sum(len(host.guests) for host in journal.hosts.values())
    return found
