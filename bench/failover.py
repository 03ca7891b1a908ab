"""Boots while the database's primary is killed and its standby promoted: PostgreSQL (durable, a synchronous standby) and RabbitMQ.

    bench/failover.py [--boots N] [--abreast N] [--rate N] [--decide S]

Two API processes, two conductors, one process of 20 fake hypervisors. Clients boot servers at `rate` a second; when two fifths are
accepted the primary gets SIGKILL, and `decide` seconds later (the time that whoever watches over it needs to be sure) the standby is
promoted. A client that is refused asks again, under the same name, until it is accepted; it looks for a server of that name first. A probe
asks both APIs for a list every 20 ms throughout.

Prints how long the fail-over took (from the kill until the promoted server takes writes), how long clients saw errors (from the first to
the last answer that was none or 5xx), and how many accepted servers were lost or there twice. The bar: 0, 0, errors ≤ fail-over + 1 s.
"""

import argparse
import asyncio
import json
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from urllib.parse import urlsplit

TOP = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(TOP))

from tests.cluster.cluster import Api, Cluster, Process  # noqa: E402
from tests.engines import rabbitmq  # noqa: E402
from tests.engines.postgresql import PostgreSQL  # noqa: E402
from tests.probe.http import Answer, Broken, Http  # noqa: E402

from kilonova.compute.drivers.fake.journal import GuestJournal  # noqa: E402

APIS = ("identity", "image", "placement", "network", "compute", "metadata")
HOSTS = 20
REST_S = 120.0


class Errors:
    """When clients were refused, by the monotonic clock."""

    def __init__(self) -> None:
        self.at: list[float] = []
        self.kinds = Counter[str]()

    def add(self, what: str) -> None:
        self.at.append(time.monotonic())
        self.kinds[what] += 1

    @property
    def span_s(self) -> float:
        return self.at[-1] - self.at[0] if self.at else 0.0


class Run:
    def __init__(self, apis: list[Process], token: str, ids: dict[str, str], errors: Errors) -> None:
        self.ports = [urlsplit(api.url("compute")).port or 0 for api in apis]
        self.token, self.ids, self.errors = token, ids, errors
        self.accepted: dict[str, str] = {}
        """name -> id"""
        self.stopped = False

    async def ask(self, http: Http, number: int, method: str, path: str, body: object = None) -> Answer | None:
        """None: an error, which has been written down."""
        try:
            answer = await http(method, self.ports[number % len(self.ports)], path, body, OpenStack_API_Version="compute 2.90")
        except Broken as broken:
            self.errors.add(f"no answer: {broken}"[:60])
            return None
        if answer.status >= 500:
            self.errors.add(f"{method} {answer.status}")
            return None
        return answer

    async def boot(self, http: Http, number: int) -> None:
        name, first = f"s{number}", True
        server = {"name": name, "imageRef": self.ids["image"], "flavorRef": "nano", "networks": [{"uuid": self.ids["network"]}]}
        while True:
            if not first:
                await asyncio.sleep(0.1)
                answer = await self.ask(http, number, "GET", f"/v2.1/servers?name=^{name}$")
                if answer is None:
                    continue
                there = answer.json["servers"]
                if there:
                    self.accepted[name] = there[0]["id"]
                    return
            first = False
            answer = await self.ask(http, number, "POST", "/v2.1/servers", {"server": server})
            if answer is not None:
                assert answer.status == 202, answer.body
                self.accepted[name] = answer.json["server"]["id"]
                return

    async def boots(self, count: int, abreast: int, rate: float) -> None:
        began, numbers = time.monotonic(), iter(range(count))

        async def worker() -> None:
            http = Http(self.token, timeout_s=60)
            for number in numbers:
                await asyncio.sleep(max(0.0, began + number / rate - time.monotonic()))
                await self.boot(http, number)
            http.close()

        await asyncio.gather(*(worker() for _ in range(abreast)))

    async def probe(self) -> None:
        async def one(number: int) -> None:
            http = Http(self.token, timeout_s=60)
            while not self.stopped:
                await self.ask(http, number, "GET", "/v2.1/servers?limit=1")
                await asyncio.sleep(0.02)
            http.close()

        await asyncio.gather(*(one(number) for number in range(len(self.ports))))

    async def statuses(self) -> Counter[str]:
        http, found, marker = Http(self.token), Counter[str](), ""
        while True:
            answer = await http("GET", self.ports[0], f"/v2.1/servers/detail?limit=500{marker}", OpenStack_API_Version="compute 2.90")
            page = answer.json["servers"]
            if not page:
                return found
            found.update(server["status"] for server in page)
            marker = f"&marker={page[-1]['id']}"


async def fail_over(run: Run, count: int, primary: PostgreSQL, standby: PostgreSQL, decide_s: float) -> tuple[float, float]:
    """(the moment of the kill, seconds until the other takes writes)"""
    while len(run.accepted) < count * 2 // 5:  # noqa: ASYNC110
        await asyncio.sleep(0.01)
    killed = time.monotonic()
    await asyncio.to_thread(primary.kill)
    await asyncio.sleep(decide_s)
    await asyncio.to_thread(standby.promote)
    return killed, time.monotonic() - killed


async def measure(given: argparse.Namespace, run: Run, primary: PostgreSQL, standby: PostgreSQL) -> None:
    probing = asyncio.create_task(run.probe())
    failing = asyncio.create_task(fail_over(run, given.boots, primary, standby, given.decide))
    await run.boots(given.boots, given.abreast, given.rate)
    killed, took_s = await failing
    while (found := await run.statuses()) != {"ACTIVE": given.boots} and time.monotonic() < killed + took_s + REST_S:  # noqa: ASYNC110
        await asyncio.sleep(0.2)
    rest_s = time.monotonic() - killed - took_s
    run.stopped = True
    await probing
    print(f"fail-over: {took_s:.2f} s from the kill until the promoted standby takes writes ({given.decide:g} s of it waiting)")
    print(f"errors to clients: {len(run.errors.at)} within {run.errors.span_s:.2f} s (bar: {took_s + 1:.2f}) {dict(run.errors.kinds)}")
    if run.errors.at:
        print(f"  the first {run.errors.at[0] - killed:.2f} s after the kill, the last {run.errors.at[-1] - killed:.2f} s after it")
    print(f"servers: {dict(found)} of {given.boots} accepted, {rest_s:.1f} s after the fail-over")


def guests(folder: Path) -> Counter[str]:
    """How often each server's guest is there."""
    journal = GuestJournal(folder / "hypervisors" / "state" / "instances" / "fake-guests.jsonl")
    return Counter(server for host in journal.hosts.values() for server in host.guests)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--boots", type=int, default=500)
    parser.add_argument("--abreast", type=int, default=16)
    parser.add_argument("--rate", type=float, default=25.0, help="boots a second")
    parser.add_argument("--decide", type=float, default=1.0, help="seconds from the kill to the promotion")
    parser.add_argument("--offset", type=int, default=16000)
    given = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="kilonova-failover-"))
    folder.chmod(0o755)
    primary = PostgreSQL(durable=True).start()
    standby = primary.standby(durable=True).start()
    primary.wait_for_standbys()
    with rabbitmq.own(folder / "broker") as broker:
        url = f"postgresql://kilonova:secret@127.0.0.1:{primary.port},127.0.0.1:{standby.port}/postgres"
        cluster = Cluster(folder, url, broker.url)
        try:
            cluster.sync()
            apis = [cluster.start(f"api{i}", APIS, offset=given.offset + 100 * i) for i in range(2)]
            for number in range(2):
                cluster.start(f"conductor{number}", ["conductor"], offset=given.offset)
            cluster.start("hypervisors", ["hypervisor"], offset=given.offset, extra=f"hosts = {HOSTS}\n")
            api = Api({service: apis[0].url(service) for service in ("identity", "image", "compute", "network")})
            run = Run(apis, api.token, api.prepare(), Errors())
            asyncio.run(measure(given, run, primary, standby))
            cluster.stop()
            there = guests(folder)
            lost = [name for name, server in run.accepted.items() if not there[server]]
            doubled = [server for server, count in there.items() if count > 1 or server not in run.accepted.values()]
            print(f"lost: {len(lost)}, doubled: {len(doubled)}")
            for process in cluster.processes.values():
                errors = Counter(json.loads(line)["message"] for line in process.log().splitlines() if '"level":"error"' in line)
                print(f"  error lines of {process.name}: {dict(errors.most_common(5))}")
        finally:
            cluster.stop()
            standby.stop()
            primary.stop()


if __name__ == "__main__":
    main()
