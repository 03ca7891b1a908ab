"""What a call over RabbitMQ costs, beside a bare aio-pika echo in the same run.

    bench/rpc.py [--calls N] [--abreast N] [--runs N] [--url rabbit://…]

Starts a broker of its own (Debian's package) unless it is given one, and each server in a process of its own; clients run here, on
uvloop. Prints the time of a call alone (median, 99th percentile, ms), calls a second with many abreast, and for both the CPU time of a
call (µs, of the caller's and the server's process together: it holds beside others' work too), of:

    kilonova    a contract's method through a stub and RabbitBus: envelope, order, confirms, memory of what ran
    bus         a struct through RabbitBus alone
    bare        aio-pika as its tutorial does it: confirms, a reply queue, acknowledgements
    barest      aio-pika without confirms and acknowledgements, direct reply-to: nothing can be less

The bars: kilonova alone ≤ 3 ms, and ≥ 50 % of bare's calls a second.
"""

import argparse
import asyncio
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import aio_pika
import uvloop
from aio_pika.abc import AbstractIncomingMessage

TOP = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(TOP))

from bench.cluster import tree_cpu_s  # noqa: E402
from tests.engines import rabbitmq  # noqa: E402

from kilonova.core import binding  # noqa: E402
from kilonova.core.bus.config import RabbitOptions, parse_url  # noqa: E402
from kilonova.core.bus.rabbitmq import RabbitBus  # noqa: E402
from kilonova.core.context import Context, service_context  # noqa: E402
from kilonova.core.log import Log, Sink  # noqa: E402
from kilonova.core.runtime import Runtime  # noqa: E402
from kilonova.network.contract import Network, ServerOfAddress  # noqa: E402
from kilonova.network.rpc import Heartbeat, NetworkReady  # noqa: E402

Once = Callable[[], Awaitable[Any]]
RUNTIME = Runtime()


class Echo:
    """The one method of a contract that is measured."""

    async def server_of(
        self, ctx: Context, *, ip: str, network_id: str | None = None, router_id: str | None = None
    ) -> ServerOfAddress | None:
        return ServerOfAddress(server_id=ip, project_id="p")

    def __getattr__(self, name: str) -> Any:
        return self.server_of


async def bus_of(url: str) -> RabbitBus:
    brokers, vhost = parse_url(url)
    bus = RabbitBus(RabbitOptions(brokers=brokers, vhost=vhost), RUNTIME, Log("", Sink(level="error", now_us=RUNTIME.now_us)))
    await bus.start(10.0)
    return bus


# ---- servers


async def serve_kilonova(url: str) -> None:
    bus = await bus_of(url)
    binding.serve(bus, "bench.network", Network, Echo())

    async def beat(message: Heartbeat) -> NetworkReady:
        return NetworkReady(network_id=message.host)

    bus.serve("bench.bus", {Heartbeat: beat})
    await bus.ready()


async def serve_bare(url: str, queue: str, *, careful: bool) -> None:
    connection = await aio_pika.connect(url.replace("rabbit://", "amqp://"))
    channel = await connection.channel(publisher_confirms=careful)
    await channel.set_qos(prefetch_count=64)
    declared = await channel.declare_queue(queue, auto_delete=True)

    async def answer(message: AbstractIncomingMessage) -> None:
        reply = aio_pika.Message(message.body, correlation_id=message.correlation_id)
        await channel.default_exchange.publish(reply, routing_key=message.reply_to or "")
        if careful:
            await message.ack()

    await declared.consume(answer, no_ack=not careful)


async def serve(kind: str, url: str) -> None:
    if kind == "kilonova":
        await serve_kilonova(url)
    else:
        await serve_bare(url, f"bench.{kind}", careful=kind == "bare")
    print("ready", flush=True)
    await asyncio.Event().wait()


# ---- clients


async def bare_client(url: str, queue: str, *, careful: bool) -> Once:
    connection = await aio_pika.connect(url.replace("rabbit://", "amqp://"))
    channel = await connection.channel(publisher_confirms=careful)
    waiting: dict[str, asyncio.Future[bytes]] = {}

    async def heard(message: AbstractIncomingMessage) -> None:
        waiting.pop(message.correlation_id or "").set_result(message.body)

    if careful:
        replies = await channel.declare_queue(exclusive=True)
    else:
        replies = await channel.get_queue("amq.rabbitmq.reply-to", ensure=False)
    await replies.consume(heard, no_ack=True)
    count, body = 0, b"x" * 300  # about what an envelope with a context is

    async def once() -> None:
        nonlocal count
        count += 1
        ident = str(count)
        future = waiting[ident] = asyncio.get_running_loop().create_future()
        message = aio_pika.Message(body, correlation_id=ident, reply_to=replies.name)
        await channel.default_exchange.publish(message, routing_key=queue)
        await future

    return once


async def clients(url: str) -> dict[str, Once]:
    bus = await bus_of(url)
    network, ctx = binding.stub(Network, bus, "bench.network"), service_context("compute")
    return {
        "kilonova": lambda: network.server_of(ctx, ip="203.0.113.7", network_id="3f0d1c5e-7a63-4a0b-9d3d-0d0e5a6f7b8c"),
        "bus": lambda: bus.call("bench.bus", Heartbeat(host="host-1")),
        "bare": await bare_client(url, "bench.bare", careful=True),
        "barest": await bare_client(url, "bench.barest", careful=False),
    }


async def alone(once: Once, calls: int) -> list[float]:
    times = []
    for _ in range(calls):
        began = time.perf_counter()
        await once()
        times.append((time.perf_counter() - began) * 1000)
    return times


async def many(once: Once, calls: int, abreast: int) -> float:
    left = calls

    async def worker() -> None:
        nonlocal left
        while left > 0:
            left -= 1
            await once()

    began = time.perf_counter()
    await asyncio.gather(*(worker() for _ in range(abreast)))
    return calls / (time.perf_counter() - began)


class Figures:
    def __init__(self) -> None:
        self.times_ms: list[float] = []
        self.rates: list[float] = []
        self.cpu_alone_us: list[float] = []
        self.cpu_abreast_us: list[float] = []


async def measure(url: str, calls: int, abreast: int, runs: int, servers: dict[str, int]) -> bool:
    measured: dict[str, Figures] = {}
    kinds = await clients(url)

    def cpu_s(kind: str) -> float:
        return time.process_time() + tree_cpu_s(servers["kilonova" if kind == "bus" else kind])

    for _ in range(runs):  # in turn, so that a busy moment of the machine is everybody's
        for kind, once in kinds.items():
            await many(once, 200, 8)
            figures = measured.setdefault(kind, Figures())
            begun = cpu_s(kind)
            figures.times_ms += await alone(once, calls // 4)
            between = cpu_s(kind)
            figures.rates.append(await many(once, calls, abreast))
            figures.cpu_alone_us.append((between - begun) / (calls // 4) * 1e6)
            figures.cpu_abreast_us.append((cpu_s(kind) - between) / calls * 1e6)
    for kind, figures in measured.items():
        p50, p99 = statistics.median(figures.times_ms), statistics.quantiles(figures.times_ms, n=100)[98]
        rate, alone_us, abreast_us = (statistics.median(x) for x in (figures.rates, figures.cpu_alone_us, figures.cpu_abreast_us))
        print(
            f"{kind:<10} alone p50 {p50:6.2f} ms  p99 {p99:6.2f} ms  {alone_us:5.0f} µs of CPU   "
            f"{abreast} abreast {rate:7.0f}/s  {abreast_us:5.0f} µs of CPU"
        )
    p50 = statistics.median(measured["kilonova"].times_ms)
    share = statistics.median(measured["kilonova"].rates) / statistics.median(measured["bare"].rates)
    good = p50 <= 3.0 and share >= 0.5
    print(f"{'PASS' if good else 'FAIL'}: p50 {p50:.2f} ms (bar 3 ms), {share:.0%} of bare's throughput (bar 50 %)")
    return good


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--calls", type=int, default=4000)
    parser.add_argument("--abreast", type=int, default=64)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--url", default="")
    parser.add_argument("--serve", default="", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.serve:
        uvloop.run(serve(given.serve, given.url))
        return 0
    if given.url:
        return run(given)
    with tempfile.TemporaryDirectory(prefix="kilonova-rpc-") as folder, rabbitmq.own(Path(folder)) as node:
        given.url = node.url
        return run(given)


def run(given: argparse.Namespace) -> int:
    servers: dict[str, subprocess.Popen[str]] = {}
    try:
        for kind in ("kilonova", "bare", "barest"):
            command = [sys.executable, __file__, "--serve", kind, "--url", given.url]
            servers[kind] = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        for server in servers.values():
            assert server.stdout is not None and server.stdout.readline()
        pids = {kind: server.pid for kind, server in servers.items()}
        return 0 if uvloop.run(measure(given.url, given.calls, given.abreast, given.runs, pids)) else 1
    finally:
        for server in servers.values():
            server.terminate()
            server.wait()


if __name__ == "__main__":
    sys.exit(main())
