"""The rows of the table "Speed and size", one function each: start what it needs, measure the cloud and its floor in turn, give figures."""

import asyncio
import contextlib
import json
import os
import re
import secrets
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import uvloop

import cycle
from cloud import TOP, Cloud
from figures import Figure
from load import Load, load, request

HERE = Path(__file__).resolve().parent
PYTHON = sys.executable
GUEST = TOP / ".setup" / "cirros.qcow2"
NO_QUOTA = "[network_quotas]\nquota_port = -1\n[quota]\ninstances = -1\ncores = -1\nram = -1\n"


class Skip(Exception):
    """This row cannot be measured here; the text says why."""


class Bench:
    """What all rows share: where files go, how often, how much."""

    def __init__(self, scratch: Path, runs: int, *, quick: bool = False) -> None:
        self.scratch = scratch
        self.runs = runs
        self.quick = quick
        self.made = 0

    def folder(self, name: str) -> Path:
        self.made += 1
        return self.scratch / f"{name}-{self.made}"

    def cloud(self, name: str, *arguments: str, **more: Any) -> Cloud:
        return Cloud(self.folder(name), *arguments, **more)


@contextlib.contextmanager
def bare(*arguments: str, preload: str = "") -> Iterator[int]:
    """The port of a bare app in a process of its own."""
    environment = {**os.environ, **({"LD_PRELOAD": preload} if preload else {})}
    process = subprocess.Popen([PYTHON, str(HERE / "bare.py"), *arguments], stdout=subprocess.PIPE, text=True, env=environment)
    try:
        assert process.stdout is not None
        yield int(process.stdout.readline())
    finally:
        process.terminate()
        process.wait()


def cloudbench(environment: dict[str, str], scratch: Path, *arguments: str) -> dict[str, Any]:
    """Results of one run of cloudbench.py by step. Raises RuntimeError with what it said went wrong."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith("OS_")}
    out = scratch / "cloudbench.json"
    command = [PYTHON, str(HERE / "cloudbench.py"), "--repeat", "1", "-o", str(out), *arguments]
    done = subprocess.run(command, env={**kept, **environment}, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"cloudbench: {done.stderr[-500:]}")
    document = json.loads(out.read_text())
    if document["notes"].get("errors"):
        raise RuntimeError(f"cloudbench: {document['notes']['errors'][:3]}")
    results: dict[str, Any] = document["results"]
    return results


def bare_environment(port: int) -> dict[str, str]:
    return {"OS_AUTH_URL": f"http://127.0.0.1:{port}/v3", "OS_USERNAME": "u", "OS_PASSWORD": "p", "OS_REGION_NAME": "RegionOne"}


def run_load(port: int, requests: list[bytes], **more: Any) -> Load:
    loaded: Load = uvloop.run(load(port, requests, **more))
    if loaded.errors:
        raise RuntimeError(f"answers with other statuses than wanted: {loaded.errors}")
    return loaded


def root_or_skip() -> None:
    if os.geteuid() != 0:
        raise Skip("it needs root, for the libvirt driver")


def median(values: list[float]) -> float:
    return statistics.median(values)


# ---------------------------------------------------------------- start


def start(b: Bench) -> list[Figure]:
    """`up --detach` on an existing empty state until every API answers; a login, GET /servers and an `up` hypervisor at that moment."""
    figures = []
    for driver in ("libvirt", "fake"):
        if driver == "libvirt" and os.geteuid() != 0:
            continue
        with b.cloud("start", "--driver", driver) as cloud:
            ours, inside, floor = [], [], []
            for _ in range(b.runs):
                cloud.down()
                started = time.perf_counter()
                inside.append(cloud.up())
                cloud.login()
                cloud.call("compute", "GET", "/v2.1/servers")
                hypervisors = cloud.call("compute", "GET", "/v2.1/os-hypervisors")["hypervisors"]
                ours.append(time.perf_counter() - started)
                if not any(h["state"] == "up" for h in hypervisors):
                    raise RuntimeError(f"no hypervisor is up right after the start: {hypervisors}")
                floor.append(bare_start())
        figures.append(
            Figure(
                row="start",
                what=f"`up --detach` to APIs, login, GET /servers, hypervisor up ({driver})",
                unit="s",
                ours=ours,
                floor=floor,
                floor_is="bare: interpreter, uvicorn, one app",
                bar="≤ 1.5",
                met=median(ours) <= 1.5,
                notes={"of it `up --detach` itself, s": round(median(inside), 2)},
            )
        )
    return figures


def bare_start() -> float:
    started = time.perf_counter()
    with bare("hello") as port:
        run_load(port, [request("GET", "/")], connections=1, seconds=0.01)
        return time.perf_counter() - started


# ---------------------------------------------------------------- memory


def memory(b: Bench) -> list[Figure]:
    """RSS of all our processes, QEMU apart, libvirt driver, idle for a minute after one demo cycle."""
    root_or_skip()
    ours, fresh, runs = [], [], 1 if b.quick else min(3, b.runs)
    for _ in range(runs):
        with b.cloud("memory", "--driver", "libvirt") as cloud:
            fresh.append(cloud.rss_mb())
            cycle.run(cloud, GUEST)
            time.sleep(5 if b.quick else 60)
            ours.append(cloud.rss_mb())
            processes = len(cloud.tree())
    notes: dict[str, str | float | int] = {"right after the start, MB": round(median(fresh), 1), "processes": processes}
    return [
        Figure(
            row="memory",
            what="RSS, libvirt, idle 60 s after one demo cycle",
            unit="MB",
            ours=ours,
            floor=[bare_rss()],
            floor_is="bare uvicorn app",
            bar="≤ 150",
            met=median(ours) <= 150,
            notes=notes,
        )
    ]


def bare_rss() -> float:
    process = subprocess.Popen([PYTHON, str(HERE / "bare.py"), "hello"], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        process.stdout.readline()
        found = re.search(r"^VmRSS:\s+(\d+) kB", Path(f"/proc/{process.pid}/status").read_text(), re.M)
        return int(found.group(1)) * 1024 / 1e6 if found else 0.0
    finally:
        process.terminate()
        process.wait()


# ---------------------------------------------------------------- boots


def boot(b: Bench) -> list[Figure]:
    """POST /servers → ACTIVE, one at a time, on the fake driver; with and without a port."""
    arguments = ["-s", "boots", "--boots", "50" if b.quick else "200", "--boot-concurrency", "1", "--poll", "0.002"]
    plain: list[float] = []
    wired: list[float] = []
    floor: list[float] = []
    server_ms: list[float] = []
    with b.cloud("boot", "--driver", "fake", "--hosts", "20", config=NO_QUOTA) as cloud, bare("cloud", str(b.folder("bare"))) as port:
        network = shared_network(cloud)
        pids = ["--pids", str(cloud.pid)]
        for _ in range(b.runs):
            for into, extra in ((plain, []), (wired, ["--boot-network", network])):
                step = one(cloudbench(cloud.openrc(), b.scratch, *arguments, *pids, *extra))
                into.append(step["active_p50_s"] * 1e3)
            server_ms.append(step["server_ms"])
            floor.append(one(cloudbench(bare_environment(port), b.scratch, *arguments))["active_p50_s"] * 1e3)
    shared = {"unit": "ms (p50)", "floor": floor, "floor_is": "bare app, one SQLite commit a POST, same client", "bar": "≤ 15"}
    return [
        Figure(row="boot", what="POST /servers → ACTIVE, one at a time, fake", ours=plain, met=median(plain) <= 15, **shared),  # type: ignore[arg-type]
        Figure(
            row="boot",
            what="the same with a port on a network",
            ours=wired,
            met=median(wired) <= 15,
            notes={"CPU ms of the cloud for each": round(median(server_ms), 2)},
            **shared,  # type: ignore[arg-type]
        ),
    ]


def one(results: dict[str, Any]) -> dict[str, Any]:
    """The medians of the only boots step. Raises RuntimeError when a boot failed."""
    (step,) = (value for name, value in results.items() if name.startswith("boots"))
    if step["errors"]:
        raise RuntimeError(f"{step['errors']} boots failed: {step['runs'][0]['errors']}")
    medians: dict[str, Any] = step["median"]
    return medians


def shared_network(cloud: Cloud) -> str:
    network = cloud.network()
    cloud.call("network", "PUT", f"/v2.0/networks/{network}", {"network": {"shared": True}})
    return network


def sustained(b: Bench) -> list[Figure]:
    """Boots at concurrency 16, 200 fake hosts, each with a port; also on a disk whose syncs take 1.5 ms longer."""
    figures = [_sustained(b, "sustained boots, fake, 200 hosts, c=16, with a port", 400, "", {})]
    library = slow_sync(b)
    if library is None:
        print("  The slow disk is left out: there is no gcc to build bench/slow_sync.c with.", flush=True)
        return figures
    return [*figures, _sustained(b, "the same, each disk sync 1.5 ms longer", 250, library, {"KILONOVA_SYNC_DELAY_US": "1500"})]


def _sustained(b: Bench, what: str, bar: int, preload: str, environment: dict[str, str]) -> Figure:
    arguments = ["-s", "boots", "--boots", "200" if b.quick else "1000", "--boot-concurrency", "16", "--poll", "0.01"]
    ours, floor, server_ms, p50, p99, noise = [], [], [], [], [], []
    hosts = ["--driver", "fake", "--hosts", "200"]
    os.environ.update(environment)
    try:
        with (
            b.cloud("boots", *hosts, config=NO_QUOTA, preload=preload, environment=environment) as cloud,
            bare("cloud", str(b.folder("bare")), preload=preload) as port,
        ):
            wanted = [*arguments, "--boot-network", shared_network(cloud), "--pids", str(cloud.pid)]
            for _ in range(b.runs):
                step = one(cloudbench(cloud.openrc(), b.scratch, *wanted))
                ours.append(step["servers_s"])
                server_ms.append(step["server_ms"])
                p50.append(step["active_p50_s"] * 1e3)
                p99.append(step["active_p99_s"] * 1e3)
                noise.append(step["other_cpu"])
                floor.append(one(cloudbench(bare_environment(port), b.scratch, *arguments))["servers_s"])
    finally:
        for name in environment:
            os.environ.pop(name, None)
    return Figure(
        row="sustained",
        what=what,
        unit="servers/s",
        ours=ours,
        floor=floor,
        floor_is="bare app, one SQLite commit a POST, same client",
        bar=f"≥ {bar}",
        met=median(ours) >= bar,
        notes={
            "CPU ms of the cloud for each": round(median(server_ms), 2),
            "p50 / p99 to ACTIVE, ms": f"{median(p50):.0f} / {median(p99):.0f}",
            "CPUs that others used meanwhile": round(median(noise), 2),
        },
    )


def slow_sync(b: Bench) -> str | None:
    """Build the library that makes disk syncs slower; None without a compiler."""
    out = b.scratch / "slow_sync.so"
    try:
        subprocess.run(["gcc", "-O2", "-shared", "-fPIC", "-o", str(out), str(HERE / "slow_sync.c"), "-ldl", "-pthread"], check=True)
    except FileNotFoundError:
        return None
    return str(out)


# ---------------------------------------------------------------- reads


def reads(b: Bench) -> list[Figure]:
    """GET /servers/detail with 1,000 servers; GET /servers/ID."""
    count = 100 if b.quick else 1000
    seconds = 1.0 if b.quick else 3.0
    detail: list[Load] = []
    single: list[Load] = []
    many: list[Load] = []
    floor_detail: list[Load] = []
    floor_single: list[Load] = []
    floor_many: list[Load] = []
    with b.cloud("reads", "--driver", "fake", "--hosts", "50", config=NO_QUOTA) as cloud:
        ids = fill(cloud, count)
        heads = {"X-Auth-Token": cloud.token, "OpenStack-API-Version": "compute 2.37"}
        all_of_them = [request("GET", "/v2.1/servers/detail", heads)]
        each = [request("GET", f"/v2.1/servers/{i}", heads) for i in ids]
        port = cloud.port("compute")
        size_all = run_load(port, all_of_them, connections=1, seconds=0.2).body_bytes
        size_one = run_load(port, each, connections=1, seconds=0.2).body_bytes
        with bare("bytes", str(size_all)) as big, bare("bytes", str(size_one)) as small:
            for _ in range(b.runs):
                detail.append(run_load(port, all_of_them, connections=1, seconds=seconds))
                floor_detail.append(run_load(big, all_of_them, connections=1, seconds=seconds))
                single.append(run_load(port, each, connections=1, seconds=seconds))
                floor_single.append(run_load(small, each, connections=1, seconds=seconds))
                many.append(run_load(port, each, connections=16, seconds=seconds))
                floor_many.append(run_load(small, each, connections=16, seconds=seconds))

    def p50(loads: list[Load]) -> list[float]:
        return [one.percentile_ms(50) for one in loads]

    def p99(loads: list[Load]) -> float:
        return round(median([one.percentile_ms(99) for one in loads]), 2)

    same = "bare app, as many bytes"
    rate = [one.per_s for one in many]
    return [
        Figure(
            row="reads",
            what=f"GET /servers/detail, {count:,} servers with a port each",
            unit="ms (p50)",
            ours=p50(detail),
            floor=p50(floor_detail),
            floor_is=same,
            bar="≤ 12",
            met=median(p50(detail)) <= 12,
            notes={"bytes": size_all, "p99, ms": p99(detail)},
        ),
        Figure(
            row="reads",
            what="GET /servers/ID, one connection",
            unit="ms (p50)",
            ours=p50(single),
            floor=p50(floor_single),
            floor_is=same,
            bar="≤ 1",
            met=median(p50(single)) <= 1,
            notes={"bytes": size_one, "p99, ms": p99(single)},
        ),
        Figure(
            row="reads",
            what="GET /servers/ID, 16 connections",
            unit="per s",
            ours=rate,
            floor=[one.per_s for one in floor_many],
            floor_is=same,
            bar="≥ 3,000",
            met=median(rate) >= 3000,
        ),
    ]


def fill(cloud: Cloud, count: int) -> list[str]:
    """Boot servers with a port each until there are `count`, all ACTIVE."""
    flavor, image = cloud.flavor(), cloud.image(secrets.token_bytes(1 << 16), "raw")
    networks = [{"uuid": cloud.network()}]
    for _ in range(count // 50):
        cloud.server(flavor, image, networks, min_count=50, max_count=50)

    def ready() -> list[str]:
        found = cloud.call("compute", "GET", "/v2.1/servers/detail?limit=1000")["servers"]
        states = {server["status"] for server in found}
        if "ERROR" in states:
            raise RuntimeError(f"a server is in ERROR: {[s.get('fault') for s in found if s['status'] == 'ERROR'][:1]}")
        return [server["id"] for server in found] if states == {"ACTIVE"} and len(found) == count else []

    ids: list[str] = cloud.until(ready, f"{count} ACTIVE servers", timeout_s=300, poll_s=0.5)
    return ids


# ---------------------------------------------------------------- tokens


def tokens(b: Bench) -> list[Figure]:
    """Validation over HTTP, with the revocation seen by the next call; password logins beside bare bcrypt, other requests not held up."""
    seconds = 1.0 if b.quick else 3.0
    valid: list[float] = []
    floor_valid: list[float] = []
    with b.cloud("tokens", "--services", "identity") as cloud:
        token = cloud.login()
        checked = [request("GET", "/v3/auth/tokens", {"X-Auth-Token": token, "X-Subject-Token": token})]
        port = cloud.port("identity")
        size = run_load(port, checked, seconds=0.2).body_bytes
        with bare("bytes", str(size)) as same:
            for _ in range(b.runs):
                valid.append(run_load(port, checked, seconds=seconds).per_s)
                floor_valid.append(run_load(same, checked, seconds=seconds).per_s)
        late = revocations_seen_late(cloud, 20)
        logins, floor_logins, lag, floor_lag = password_logins(b, cloud)
    share = median(logins) / median(floor_logins)
    return [
        Figure(
            row="tokens",
            what="token validation over HTTP, 16 connections",
            unit="per s",
            ours=valid,
            floor=floor_valid,
            floor_is="bare app, as many bytes",
            bar="≥ 10,000, revocation at once",
            met=median(valid) >= 10_000 and not late,
            notes={"bytes": size, "revocations of 20 that the next call did not see": late},
        ),
        Figure(
            row="tokens",
            what="password logins, 2 at a time (bcrypt, 12 rounds)",
            unit="per s",
            ours=logins,
            floor=floor_logins,
            floor_is="bare app with bcrypt in threads",
            bar="≥ 0.9 × floor",
            met=share >= 0.9,
        ),
        Figure(
            row="tokens",
            what="a GET beside those logins",
            unit="ms (p99)",
            ours=lag,
            floor=floor_lag,
            floor_is="the same beside the bare app's",
            bar="≤ 25",
            notes={"a login takes, ms": round(2e3 / median(logins))},
            met=median(lag) <= 25,
        ),
    ]


def revocations_seen_late(cloud: Cloud, count: int) -> int:
    """Of `count` tokens validated, revoked and validated again: how many were still good."""
    admin, late = cloud.login(), 0
    for _ in range(count):
        other = cloud.login()
        heads = {"X-Auth-Token": admin, "X-Subject-Token": other}
        before = cloud.raw("identity", "GET", "/v3/auth/tokens", headers=heads)[0]
        revoked = cloud.raw("identity", "DELETE", "/v3/auth/tokens", headers=heads)[0]
        after = cloud.raw("identity", "GET", "/v3/auth/tokens", headers=heads)[0]
        if (before, revoked) != (200, 204):
            raise RuntimeError(f"token: validated {before}, revoked {revoked}")
        late += after != 404
    return late


def password_logins(b: Bench, cloud: Cloud) -> tuple[list[float], list[float], list[float], list[float]]:
    """Logins per second and p99 in ms of a GET meanwhile: the cloud's and the bare app's, in turn."""
    rc = cloud.openrc()
    user = {"name": rc["OS_USERNAME"], "password": rc["OS_PASSWORD"], "domain": {"name": "Default"}}
    body = {
        "auth": {
            "identity": {"methods": ["password"], "password": {"user": user}},
            "scope": {"project": {"name": "admin", "domain": {"name": "Default"}}},
        }
    }
    post = [request("POST", "/v3/auth/tokens", {"Content-Type": "application/json"}, json.dumps(body).encode())]
    token = cloud.login()
    get = [request("GET", "/v3/auth/tokens", {"X-Auth-Token": token, "X-Subject-Token": token})]
    rates: tuple[list[float], list[float]] = ([], [])
    lags: tuple[list[float], list[float]] = ([], [])
    with bare("login") as floor:
        for _ in range(b.runs):
            for place, port in enumerate((cloud.port("identity"), floor)):
                per_s, p99 = uvloop.run(_logins_and_gets(port, post, get, 3.0 if b.quick else 8.0))
                rates[place].append(per_s)
                lags[place].append(p99)
    return rates[0], rates[1], lags[0], lags[1]


async def _logins_and_gets(port: int, post: list[bytes], get: list[bytes], seconds: float) -> tuple[float, float]:
    logins, gets = await asyncio.gather(load(port, post, connections=2, seconds=seconds, expected=201), _now_and_then(port, get, seconds))
    if logins.errors:
        raise RuntimeError(f"logins failed: {logins.errors}")
    return logins.per_s, sorted(gets)[int(len(gets) * 0.99)] * 1e3


async def _now_and_then(port: int, get: list[bytes], seconds: float) -> list[float]:
    """Latencies of one GET every 10 ms."""
    found = []
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        one = await load(port, get, connections=1, seconds=0.0005)
        found += one.latencies_s[:1]
        await asyncio.sleep(0.01)
    return found


# ---------------------------------------------------------------- a real VM


def vm(b: Bench) -> list[Figure]:
    """POST → ACTIVE with a warm image, over the bare `qemu-img create` and libvirt create of the same domain."""
    root_or_skip()
    if not GUEST.exists():
        raise Skip(f"{GUEST} is missing; `make setup` builds it")
    figures = []
    with b.cloud("vm", "--driver", "libvirt") as cloud:
        flavor, image = cloud.flavor(ram_mb=128), cloud.image(GUEST.read_bytes(), "qcow2")
        nets: list[tuple[str, Any]] = [("no NIC", "none"), ("with a port", [{"uuid": cloud.network()}])]
        for name, networks in nets:
            figures.append(_vm(b, cloud, name, flavor, image, networks))
    return figures


def _vm(b: Bench, cloud: Cloud, name: str, flavor: str, image: str, networks: Any) -> Figure:
    first = cloud.server(flavor, image, networks)
    cloud.until(lambda: cloud.status(first) == "ACTIVE", "ACTIVE")
    record = b.scratch / f"{first}.json"
    record.write_bytes((cloud.state / "instances" / first / "instance.json").read_bytes())
    (running,) = (cloud.state / "libvirt" / "run" / "qemu").glob("instance-*.xml")
    found = re.search(r"<domain type='(\w+)'", running.read_text())
    virt_type = found.group(1) if found else "qemu"
    cloud.delete_server(first)
    ours, floor = [], []
    with bare_machine(b, cloud, record, virt_type, networks != "none") as bare_boot:
        for _ in range(b.runs):
            started = time.perf_counter()
            server = cloud.server(flavor, image, networks)
            cloud.until(lambda server=server: cloud.status(server) == "ACTIVE", "ACTIVE", poll_s=0.002)  # type: ignore[misc]
            ours.append(time.perf_counter() - started)
            cloud.delete_server(server)
            time.sleep(0.5)
            floor.append(bare_boot())
            time.sleep(0.5)
    ratio = median(ours) / median(floor)
    return Figure(
        row="vm",
        what=f"real VM, warm image, POST → ACTIVE, {name}",
        unit="s",
        ours=ours,
        floor=floor,
        floor_is="bare qemu-img create + createXML",
        bar="≤ 1.5 × floor",
        met=ratio <= 1.5,
        notes={"virt_type": virt_type},
    )


@contextlib.contextmanager
def bare_machine(b: Bench, cloud: Cloud, record: Path, virt_type: str, nic: bool) -> Iterator[Callable[[], float]]:
    scratch = b.folder("bare-vm")
    scratch.mkdir()
    command = [PYTHON, str(HERE / "bare_vm.py"), str(record), str(cloud.state / "instances" / "_base"), str(scratch)]
    namespace = f"knbench{os.getpid()}"
    if nic:
        for line in (
            f"ip netns add {namespace}",
            f"ip -n {namespace} tuntap add dev bare0 mode tap vnet_hdr",
            f"ip -n {namespace} link set bare0 up",
        ):
            subprocess.run(line.split(), check=True)
        command = ["ip", "netns", "exec", namespace, *command, "bare0"]
    environment = {**os.environ, "KILONOVA_BENCH_VIRT_TYPE": virt_type}
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment, bufsize=1)
    assert process.stdin is not None and process.stdout is not None
    try:
        if process.stdout.readline().strip() != "ready":
            raise RuntimeError("the bare libvirt did not start")

        def boot() -> float:
            assert process.stdin is not None and process.stdout is not None
            process.stdin.write("boot\n")
            return float(process.stdout.readline())

        boot()  # the first warms caches, as the cloud's first server did
        yield boot
    finally:
        process.stdin.close()
        process.wait()
        if nic:
            subprocess.run(["ip", "netns", "del", namespace], check=True)


# ---------------------------------------------------------------- images


def images(b: Bench) -> list[Figure]:
    """Upload and download of one large image beside a bare uvicorn app that does the same work on its loop (bench/images.py)."""
    mib = 128 if b.quick else 1024
    with tempfile.TemporaryDirectory(dir=b.scratch) as folder:
        command = [PYTHON, str(HERE / "images.py"), "--mib", str(mib), "--repeat", str(b.runs), "--dir", folder]
        done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"images.py: {done.stderr[-500:]}")
    told = json.loads(done.stdout)
    ours, bare_app, memory_mib = told["kilonova"], told["bare"], told["kilonova"]["memory_mib"]
    figures = []
    for verb, bar in (("upload", 1.2), ("download", 0.9)):
        mine, floor = ours[f"{verb}_mib_s"], bare_app[f"{verb}_mib_s"]
        values, floors = triple(mine), triple(floor)
        figures.append(
            Figure(
                row="images",
                what=f"image {verb}, {mib} MiB",
                unit="MiB/s",
                ours=values,
                floor=floors,
                floor_is="bare app, file and both hashes on its loop" if verb == "upload" else "bare app, reads of 256 KiB",
                bar=f"≥ {bar} × floor",
                met=median(values) / median(floors) >= bar,
                notes={"RSS MiB before / at most / after": " / ".join(str(memory_mib[k]) for k in ("before", "peak", "now"))},
            )
        )
    return figures


def triple(told: dict[str, Any]) -> list[float]:
    """images.py tells median and range, not its runs."""
    least, most = told["range"]
    return [least, told["median"], most]


ROWS: dict[str, Callable[[Bench], list[Figure]]] = {
    "start": start,
    "memory": memory,
    "boot": boot,
    "sustained": sustained,
    "reads": reads,
    "tokens": tokens,
    "vm": vm,
    "images": images,
}
