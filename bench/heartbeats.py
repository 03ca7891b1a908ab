"""What the heartbeats of many hypervisors cost our own processes, over PostgreSQL (durable) and RabbitMQ.

    bench/heartbeats.py [--agents N] [--processes N] [--seconds S] [--full]

Starts everything on loopback: 2 API and 2 conductor processes, and N hosts with a compute and a network agent each (fake drivers), every
one with heartbeats of its own as from a machine of its own: compute's each 10 s, the network agent's each 30 s. The hosts share few
processes, and a connection to the broker each, since a thousand processes do not fit here; what the control plane is sent is the same.
CPU time is taken from /proc over the same number of seconds without hosts and with them.

`--full` leaves in what else a host says by itself: its report each 120 s, a full synchronisation of its network each 300 s. Without it
these are put off beyond the run: heartbeats alone. At the end one ordinary process of a single hypervisor is measured, idle.
The bar: heartbeats ≤ 5 % of one core in our own processes.
"""

import argparse
import asyncio
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import uvloop

TOP = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(TOP))

from bench.cluster import APIS, tree_cpu_s  # noqa: E402
from tests.cluster.cluster import Api, Cluster, Process  # noqa: E402
from tests.engines import rabbitmq  # noqa: E402
from tests.engines.postgresql import PostgreSQL  # noqa: E402

from kilonova.compute.agent import Heart  # noqa: E402
from kilonova.core import config  # noqa: E402
from kilonova.core.bus.config import OPTIONS as BUS_OPTIONS  # noqa: E402
from kilonova.core.bus.config import rabbit_options  # noqa: E402
from kilonova.core.bus.rabbitmq import RabbitBus  # noqa: E402
from kilonova.core.log import Log, Sink  # noqa: E402
from kilonova.core.runtime import Runtime  # noqa: E402
from kilonova.core.tasks import Tasks  # noqa: E402
from kilonova.hypervisor import OPTIONS, Hypervisors, ReachOverBus  # noqa: E402
from kilonova.plan import Plan  # noqa: E402

NEVER_S = 1e9
UP_S = 300.0


# ---- a process of hosts


async def live(file: str, node: str, count: int, *, full: bool) -> None:
    """For ever. Each compute agent has a heart of its own."""
    runtime = Runtime()
    log = Log("", Sink(sys.stderr, "error", runtime.now_us))
    compute, network = OPTIONS
    conf = config.build([*OPTIONS, BUS_OPTIONS], [file])
    settings = {group: config.settings(conf, options, group) for options in (network, compute) for group in options}
    messaging = {group: config.settings(conf, BUS_OPTIONS, group) for group in BUS_OPTIONS}
    bus = RabbitBus(rabbit_options(messaging), runtime, log, name=node)
    await bus.start(15.0)
    plan = Plan(state="/nonexistent", services=(), conducts=False, driver="fake", hosts=count, node=node, config_files=(file,))
    hypervisors = Hypervisors(plan, runtime, log, bus, settings, ReachOverBus(bus, runtime, node))
    for agent in hypervisors.network_agents:
        agent.resync_interval_s = agent.resync_interval_s if full else NEVER_S
    for guests in hypervisors.compute_agents:
        guests._report_interval_s = guests._report_interval_s if full else NEVER_S
    await hypervisors.start_networks()
    await hypervisors.start_guests()
    tasks = Tasks(runtime, log)
    interval_s = settings["DEFAULT"].report_interval

    async def beats(heart: Heart) -> None:
        await runtime.sleep(runtime.random.uniform(0.0, interval_s))
        tasks.every("heartbeat", interval_s, heart.beat, at_once=True)

    for guests in hypervisors.compute_agents:
        tasks.start("first heartbeat", beats(Heart([guests], bus, interval_s)))
    print("ready", flush=True)
    await asyncio.Event().wait()


# ---- the run


class Costs:
    """CPU seconds of processes between two moments, as per cent of one core."""

    def __init__(self, processes: dict[str, int]) -> None:
        self.processes = processes
        self.began = time.monotonic()
        self.before = {name: tree_cpu_s(pid) for name, pid in processes.items()}

    def percent(self) -> dict[str, float]:
        seconds = time.monotonic() - self.began
        return {name: (tree_cpu_s(pid) - self.before[name]) / seconds * 100 for name, pid in self.processes.items()}


def measured(processes: dict[str, int], seconds: float) -> dict[str, float]:
    costs = Costs(processes)
    time.sleep(seconds)
    return costs.percent()


def hosts_up(api: Api) -> int:
    status, answer = api("compute", "GET", "/v2.1/os-services?binary=nova-compute")
    return sum(s["state"] == "up" for s in answer["services"]) if status == 200 else 0


def wait_until_up(api: Api, count: int, children: list["subprocess.Popen[bytes]"]) -> float:
    began = time.monotonic()
    while hosts_up(api) < count:
        assert all(child.poll() is None for child in children), "a process of hosts has ended"
        assert time.monotonic() - began < UP_S, f"{hosts_up(api)} of {count} hosts are up"
        time.sleep(1.0)
    return time.monotonic() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--agents", type=int, default=1000)
    parser.add_argument("--processes", type=int, default=4)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--full", action="store_true")
    parser.add_argument("--offset", type=int, default=19000)
    parser.add_argument("--live", nargs=3, metavar=("FILE", "NODE", "COUNT"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.live:
        file, node, count = given.live
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(live(file, node, int(count), full=given.full))
    server = PostgreSQL(durable=True).start()
    folder = Path(tempfile.mkdtemp(prefix="kilonova-heartbeats-"))
    with rabbitmq.own(folder / "broker") as broker:
        cluster = Cluster(folder, server.url(), broker.url)
        children: list[subprocess.Popen[bytes]] = []
        try:
            others = {"postgresql": server.process.pid if server.process else 0, "rabbitmq": broker.pids[-1]}
            measure(given, cluster, others, children)
        finally:
            for child in children:
                child.kill()
                child.wait(10)
            cluster.stop()
            server.stop()


def measure(given: argparse.Namespace, cluster: Cluster, others: dict[str, int], children: list["subprocess.Popen[bytes]"]) -> None:
    cluster.sync()
    ours: list[Process] = [cluster.start(f"api{i}", APIS, offset=given.offset + 100 * i) for i in range(2)]
    ours += [cluster.start(f"conductor{i}", ["conductor"], offset=given.offset) for i in range(2)]
    api = Api({service: ours[0].url(service) for service in ("identity", "compute")})
    control = {process.name: process.pid for process in ours}
    time.sleep(20.0)
    idle = measured(control | others, given.seconds)
    share = given.agents // given.processes
    for number in range(given.processes):
        command = [sys.executable, __file__, "--live", str(cluster.config), f"n{number}", str(share), *(["--full"] if given.full else [])]
        children.append(subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL))
    took_s = wait_until_up(api, share * given.processes, children)
    time.sleep(20.0)
    agents = {f"agents{i}": child.pid for i, child in enumerate(children)}
    busy = measured(control | others | agents, given.seconds)
    assert hosts_up(api) == share * given.processes, "a host is down"
    kind = "heartbeats, reports and synchronisations" if given.full else "heartbeats alone"
    print(f"{share * given.processes} hosts, {kind}, {given.seconds:.0f} s each; all were up after {took_s:.0f} s. Per cent of one core:")
    print(f"  {'':<14}{'idle':>8}{'hosts':>8}{'more':>8}")
    for name in [*control, *others]:
        print(f"  {name:<14}{idle[name]:>8.2f}{busy[name]:>8.2f}{busy[name] - idle[name]:>8.2f}")
    mine = sum(busy[name] - idle[name] for name in control)
    theirs = sum(busy[name] for name in agents)
    print(f"  control processes: {mine:.2f} % for the hosts, {sum(busy[name] for name in control):.2f} % in all")
    print(f"  agents: {theirs:.2f} % together, {theirs / (share * given.processes):.4f} % each")
    lone = cluster.start("lone", ["hypervisor"], offset=given.offset)
    time.sleep(20.0)
    print(f"  a process with one hypervisor: {measured({'lone': lone.pid}, given.seconds)['lone']:.2f} %, {lone.rss_mb():.0f} MB")


if __name__ == "__main__":
    main()
