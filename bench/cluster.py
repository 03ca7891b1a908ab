"""Boots in a cloud of several processes: two APIs, two conductors and one of fake hypervisors, over PostgreSQL (or MariaDB) and RabbitMQ.

    bench/cluster.py [--boots N] [--abreast N] [--poll S] [--hosts N] [--database postgresql|mariadb] [--apis N] [--conductors N]

Starts everything on loopback. Clients boot servers, each with a port, through the APIs in turn, and ask every --poll seconds until ACTIVE
(stock clients ask every second or two); then they delete them. Prints servers a second, the time from POST to ACTIVE (median, 99th
percentile), and CPU milliseconds that a boot costs each process. The bar: ≥ 100 servers/s on 2 cores. The floor, for PostgreSQL: a bare
asyncpg client that reads and inserts single rows as often as a boot does, each insert durable, after the boots and alone.
"""

import argparse
import asyncio
import json
import statistics
import sys
import tempfile
import time
import uuid
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import asyncpg  # type: ignore[import-untyped]

TOP = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(TOP))

from tests.cluster.cluster import Api, Cluster, Process  # noqa: E402
from tests.engines import rabbitmq  # noqa: E402
from tests.engines.mariadb import MariaDB  # noqa: E402
from tests.engines.postgresql import PostgreSQL  # noqa: E402

WARM_UP = 400
"""Boots before the measured ones: some sixty connections have each statement prepared, and planned five times."""
READS, WRITES = 9, 7
"""Of a boot, without what clients and processes ask for while they wait."""
APIS = ("identity", "image", "placement", "network", "compute", "metadata")


class Link:
    """One kept-alive connection with requests one after the other, cheap enough to leave the cores to the cloud."""

    def __init__(self, url: str, token: str) -> None:
        parts = urlsplit(url)
        self.host, self.port = parts.hostname or "", parts.port or 80
        self.head = f"Host: {parts.netloc}\r\nX-Auth-Token: {token}\r\nOpenStack-API-Version: compute 2.90\r\n"
        self.reader: asyncio.StreamReader | None = None

    async def ask(self, method: str, path: str, body: bytes = b"") -> tuple[int, bytes]:
        if self.reader is None:
            self.reader, self.writer = await asyncio.open_connection(self.host, self.port)
        kind = f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n" if body else ""
        self.writer.write(f"{method} {path} HTTP/1.1\r\n{self.head}{kind}\r\n".encode() + body)
        head = await self.reader.readuntil(b"\r\n\r\n")
        status = int(head[9:12])
        length = 0
        for line in head.split(b"\r\n"):
            if line.lower().startswith(b"content-length:"):
                length = int(line[15:])
        return status, await self.reader.readexactly(length)


async def boots(
    apis: list[Process], token: str, body: bytes, count: int, abreast: int, poll_s: float
) -> tuple[float, list[float], list[str]]:
    """(seconds for all, seconds of each, ids)"""
    left = count
    took: list[float] = []
    ids: list[str] = []

    async def worker(number: int) -> None:
        nonlocal left
        link = Link(apis[number % len(apis)].url("compute"), token)
        while left > 0:
            left -= 1
            began = time.perf_counter()
            status, answer = await link.ask("POST", "/v2.1/servers", body)
            assert status == 202, answer
            server = json.loads(answer)["server"]["id"]
            ids.append(server)
            while True:
                await asyncio.sleep(poll_s)
                status, answer = await link.ask("GET", f"/v2.1/servers/{server}")
                if b'"ACTIVE"' in answer:
                    break
                assert b'"ERROR"' not in answer, answer
            took.append(time.perf_counter() - began)

    began = time.perf_counter()
    await asyncio.gather(*(worker(i) for i in range(abreast)))
    return time.perf_counter() - began, took, ids


async def deletes(apis: list[Process], token: str, ids: list[str], abreast: int) -> float:
    left = list(ids)
    began = time.perf_counter()

    async def worker(number: int) -> None:
        link = Link(apis[number % len(apis)].url("compute"), token)
        while left:
            server = left.pop()
            assert (await link.ask("DELETE", f"/v2.1/servers/{server}"))[0] == 204
            while (await link.ask("GET", f"/v2.1/servers/{server}"))[0] != 404:  # noqa: ASYNC110
                await asyncio.sleep(0.02)

    await asyncio.gather(*(worker(i) for i in range(abreast)))
    return time.perf_counter() - began


def tree_cpu_s(pid: int) -> float:
    """CPU of a process and its children (a database's workers), those that have ended too."""
    total = 0.0
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(path.parent.name) == pid or int(fields[1]) == pid:
            total += sum(int(f) for f in fields[11:15 if int(path.parent.name) == pid else 13]) / 100
    return total


async def floor(url: str, count: int, abreast: int) -> float:
    """Boots a second if they were nothing but their statements."""
    links = [await asyncpg.connect(url) for _ in range(abreast)]
    await links[0].execute("CREATE TABLE bench_floor (id text PRIMARY KEY, body text)")
    body = "x" * 500
    left = count

    async def worker(link: Any) -> None:
        nonlocal left
        while left > 0:
            left -= 1
            for _ in range(WRITES):
                row_id = uuid.uuid4().hex
                await link.execute("INSERT INTO bench_floor VALUES ($1, $2)", row_id, body)
            for _ in range(READS):
                await link.fetchrow("SELECT * FROM bench_floor WHERE id = $1", row_id)

    began = time.perf_counter()
    await asyncio.gather(*(worker(link) for link in links))
    took = time.perf_counter() - began
    for link in links:
        await link.close()
    return count / took


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--boots", type=int, default=1000)
    parser.add_argument("--abreast", type=int, default=32)
    parser.add_argument("--poll", type=float, default=0.1)
    parser.add_argument("--hosts", type=int, default=100)
    parser.add_argument("--apis", type=int, default=2)
    parser.add_argument("--conductors", type=int, default=2)
    parser.add_argument("--database", choices=["postgresql", "mariadb"], default="postgresql")
    parser.add_argument("--offset", type=int, default=15000)
    given = parser.parse_args()
    server: Any = (PostgreSQL(durable=True) if given.database == "postgresql" else MariaDB(durable=True)).start()
    folder = Path(tempfile.mkdtemp(prefix="kilonova-cluster-"))
    with rabbitmq.own(folder / "broker") as broker:
        if given.database == "mariadb":
            server.run_sql("CREATE DATABASE kilonova") if hasattr(server, "run_sql") else None
        cluster = Cluster(folder, server.url(), broker.url)
        try:
            rate = measure(given, cluster, server, broker)
            if given.database == "postgresql":
                cluster.stop()
                bare = asyncio.run(floor(server.url(), given.boots, given.abreast))
                print(f"  floor: {bare:.0f}/s of {READS} reads and {WRITES} inserts each; ratio {rate / bare:.2f}")
        finally:
            cluster.stop()
            server.stop()


def measure(given: argparse.Namespace, cluster: Cluster, server: Any, broker: Any) -> float:
    """Servers a second."""
    cluster.sync()
    offset = given.offset
    apis = [cluster.start(f"api{i}", APIS, offset=offset + 100 * i) for i in range(given.apis)]
    conductors = [cluster.start(f"conductor{i}", ["conductor"], offset=offset) for i in range(given.conductors)]
    hypervisors = cluster.start("hypervisors", ["hypervisor"], offset=offset, extra=f"hosts = {given.hosts}\n")
    api = Api({service: apis[0].url(service) for service in ("identity", "image", "compute", "network")})
    ids = api.prepare()
    server_body = {"name": "b", "imageRef": ids["image"], "flavorRef": "nano", "networks": [{"uuid": ids["network"]}]}
    body = json.dumps({"server": server_body}).encode()
    asyncio.run(boots(apis, api.token, body, WARM_UP, given.abreast, given.poll))
    ours = [*apis, *conductors, hypervisors]
    others = {given.database: server.process.pid, "rabbitmq": broker.pids[-1]}

    def spent_s() -> dict[str, float]:
        return {
            **{process.name: process.cpu_s() for process in ours},
            **{name: tree_cpu_s(pid) for name, pid in others.items() if pid},
            "client": time.process_time(),
        }

    before = spent_s()
    wall, took, made = asyncio.run(boots(apis, api.token, body, given.boots, given.abreast, given.poll))
    between = spent_s()
    took.sort()
    print(
        f"{given.boots} boots, {given.abreast} abreast, asked every {given.poll * 1e3:.0f} ms, {given.hosts} hosts, {given.database}: "
        f"{given.boots / wall:.0f} servers/s, "
        f"POST to ACTIVE {statistics.median(took) * 1e3:.0f} ms, p99 {took[int(len(took) * 0.99)] * 1e3:.0f} ms"
    )
    rss = {process.name: f"{process.rss_mb():.0f} MB" for process in ours}
    wall_deletes = asyncio.run(deletes(apis, api.token, made, given.abreast))
    after = spent_s()
    for name in before:
        boot_ms, delete_ms = [(later[name] - was[name]) / given.boots * 1e3 for was, later in ((before, between), (between, after))]
        print(f"  {name:<12} {boot_ms:6.2f} ms CPU a boot {delete_ms:6.2f} a delete   {rss.get(name, '')}")
    print(f"  deletes: {len(made) / wall_deletes:.0f} servers/s")
    return float(given.boots / wall)


if __name__ == "__main__":
    main()
