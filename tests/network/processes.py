"""Several network services over one database and one broker, in one event loop: each with its own memory, clock, connection and end.

A process can die without a goodbye, or be stopped and go on later (SIGSTOP): what it had sent before waits in its socket, what is sent to
it waits too, and its callers give up. Messages take a moment, in order from one sender to one address.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from kilonova.core import config as config_module
from kilonova.core.bus import Undelivered, Unreachable, wire
from kilonova.core.bus.interface import HandlerTable
from kilonova.core.context import Context
from kilonova.core.db import Database
from kilonova.core.errors import Error
from kilonova.core.log import Log
from kilonova.core.runtime import Runtime
from kilonova.network.agent import NetworkAgent
from kilonova.network.config import OPTIONS
from kilonova.network.domain.journal import topology_of
from kilonova.network.drivers.fake import FakeDriver
from kilonova.network.edge import edge
from kilonova.network.service import NetworkService
from kilonova.testing.asgi import Client
from kilonova.testing.tokens import FakeTokens, context

from .conftest import Neutron
from .test_topology import sorted_state

SILENCE_S = 9.0
"""After which the caller of a process that is stopped gives up."""


class ProcessRuntime(Runtime):
    """A runtime whose sleepers sleep on while the process is stopped. `lost_s`: how far its monotonic clock has stayed behind."""

    def __init__(self, inner: Runtime) -> None:
        super().__init__()
        self.inner = inner
        self.random = inner.random
        self.going = asyncio.Event()
        self.going.set()
        self.lost_s = 0.0

    def now(self) -> float:
        return self.inner.now()

    def monotonic(self) -> float:
        return self.inner.monotonic() - self.lost_s

    async def sleep(self, seconds: float) -> None:
        await self.inner.sleep(seconds)
        await self.going.wait()

    def token_bytes(self, count: int) -> bytes:
        return self.inner.token_bytes(count)


class ProcessDatabase:
    """The common database, through a connection of this process."""

    def __init__(self, db: Database, runtime: ProcessRuntime) -> None:
        self._db = db
        self._going = runtime.going
        self.dialect = db.dialect
        self.reachable = asyncio.Event()
        self.reachable.set()

    async def _through(self, awaited: Callable[[], Awaitable[Any]]) -> Any:
        await self._going.wait()
        await self.reachable.wait()
        result = await awaited()
        await self._going.wait()
        return result

    async def all(self, statement: Any, parameters: Any = None) -> Any:
        return await self._through(lambda: self._db.all(statement, parameters or {}))

    async def one(self, statement: Any, parameters: Any = None) -> Any:
        return await self._through(lambda: self._db.one(statement, parameters or {}))

    async def transact(self, body: Any) -> Any:
        return await self._through(lambda: self._db.transact(body))

    async def run(self, statement: Any, parameters: Any = None) -> Any:
        return await self._through(lambda: self._db.run(statement, parameters or {}))

    async def create(self, metadata: Any) -> None:
        await self._db.create(metadata)

    def now_us(self) -> int:
        return self._db.now_us()

    def stamp(self) -> None:
        return None

    async def stop(self) -> None:
        return


class Broker:
    """Addresses with competing consumers, and topics."""

    def __init__(self, runtime: Runtime, slowness_s: float = 0.005) -> None:
        self.runtime = runtime
        self.slowness_s = slowness_s
        self.ends: list[End] = []
        self._turn: dict[str, int] = {}
        self._queues: dict[tuple[str, str], deque[Callable[[], None]]] = {}
        self.tasks: list[asyncio.Task[Any]] = []

    def start(self, coroutine: Any) -> asyncio.Task[Any]:
        task = asyncio.get_running_loop().create_task(coroutine)
        self.tasks.append(task)
        return task

    def end(self, name: str, runtime: ProcessRuntime) -> "End":
        end = End(self, name, runtime)
        self.ends.append(end)
        return end

    def server(self, address: str) -> "End | None":
        found = [end for end in self.ends if end.alive and address in end.handlers]
        if not found:
            return None
        self._turn[address] = self._turn.get(address, 0) + 1
        return found[self._turn[address] % len(found)]

    def post(self, sender: "End", address: str, deliver: Callable[[], None]) -> None:
        """In order from this sender to this address, after a moment, and not before the sender goes on."""
        key = (sender.name, address)
        queue = self._queues.setdefault(key, deque())
        queue.append(deliver)
        if len(queue) == 1:
            self.start(self._carry(sender, queue))

    async def _carry(self, sender: "End", queue: deque[Callable[[], None]]) -> None:
        while queue:
            await self.runtime.sleep(self.slowness_s * self.runtime.random.random())
            await sender.runtime.going.wait()
            await sender.open.wait()
            queue[0]()
            queue.popleft()

    async def stop(self) -> None:
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)


class End:
    """One process's Bus."""

    def __init__(self, broker: Broker, name: str, runtime: ProcessRuntime) -> None:
        self.broker = broker
        self.name = name
        self.runtime = runtime
        self.alive = True
        self.open = asyncio.Event()
        self.open.set()
        self.handlers: dict[str, HandlerTable] = {}
        self.topics: dict[str, list[Callable[[Any], Awaitable[None]]]] = {}
        self.running: dict[asyncio.Task[Any], asyncio.Future[bytes] | None] = {}
        self.refusals: list[str] = []
        """Codes of errors that handlers here answered with."""

    def serve(self, address: str, handlers: HandlerTable) -> None:
        self.handlers[address] = handlers

    def silence(self, address: str) -> None:
        self.handlers.pop(address, None)

    def subscribe(self, topic: str, receive: Callable[[Any], Awaitable[None]]) -> None:
        self.topics.setdefault(topic, []).append(receive)

    async def call(self, address: str, message: Any, timeout_s: float = 60.0) -> Any:
        reply: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        data = wire.request("", message, "", timeout_s)

        def deliver() -> None:
            server = self.broker.server(address)
            if server is not None:
                server.handle(address, data, reply)
            elif not reply.done():
                reply.set_exception(Undelivered(address=address))

        self.broker.post(self, address, deliver)
        try:
            async with asyncio.timeout(min(timeout_s, SILENCE_S)):
                answer = await reply
        except TimeoutError:
            raise Unreachable(address=address) from None
        await self.runtime.going.wait()
        return wire.read_reply(answer)

    def handle(self, address: str, data: bytes, reply: "asyncio.Future[bytes] | None") -> None:
        task = self.broker.start(self._handle(address, data, reply))
        self.running[task] = reply
        task.add_done_callback(lambda done: self.running.pop(done, None))

    async def _handle(self, address: str, data: bytes, reply: "asyncio.Future[bytes] | None") -> None:
        await self.runtime.going.wait()
        request = wire.read_request(data)
        message = wire.body(request.name, request.body)
        handler = self.handlers.get(address, {}).get(type(message))
        try:
            if handler is None:
                raise Undelivered(address=address)
            answer = wire.reply(await handler(message))
        except Error as error:
            self.refusals.append(error.code)
            answer = wire.refusal(error)
        await self.runtime.going.wait()
        await asyncio.sleep(0.002)
        if reply is not None and not reply.done():
            reply.set_result(answer)

    def cast(self, address: str, message: Any) -> None:
        data = wire.request("", message, "", 60.0)

        def deliver() -> None:
            server = self.broker.server(address)
            if server is not None:
                server.handle(address, data, None)

        self.broker.post(self, address, deliver)

    def publish(self, topic: str, message: Any) -> None:
        data = wire.request("", message, "", 60.0)

        def deliver() -> None:
            for end in self.broker.ends:
                for receive in end.topics.get(topic, ()) if end.alive else ():
                    self.broker.start(end.hear(receive, data))

        self.broker.post(self, topic, deliver)

    async def hear(self, receive: Callable[[Any], Awaitable[None]], data: bytes) -> None:
        await self.runtime.going.wait()
        request = wire.read_request(data)
        await receive(wire.body(request.name, request.body))

    async def stop(self) -> None:
        return

    async def die(self) -> None:
        """What it was at is cut off; who waits for it hears so at once."""
        self.alive = False
        running = dict(self.running)
        for task in running:
            task.cancel()
        for reply in running.values():
            if reply is not None and not reply.done():
                reply.set_exception(Unreachable(address=self.name))


class Process:
    """One network service with everything of its own."""

    def __init__(self, cloud: "Cloud", name: str) -> None:
        self.name = name
        self.runtime = ProcessRuntime(cloud.runtime)
        self.db = ProcessDatabase(cloud.db, self.runtime)
        self.bus = cloud.broker.end(name, self.runtime)
        self.service = NetworkService(
            db=self.db, runtime=self.runtime, log=cloud.log, settings=cloud.settings, bus=self.bus, exclusive=False
        )  # fmt: skip
        self.edge = edge(self.service, authenticate=FakeTokens().authenticate, identity_url="http://localhost:5000")
        self.alive = True

    def client(self, who: str = "member:p1") -> Neutron:
        return Neutron(Client(self.edge, {"x-auth-token": who}))

    def ctx(self, role: str = "member", project: str = "p1") -> Context:
        return context(role, project)

    async def die(self) -> None:
        self.alive = False
        await self.bus.die()
        await self.service.tasks.stop()

    def freeze(self) -> None:
        self.runtime.going.clear()

    def thaw(self) -> None:
        self.runtime.going.set()


class Cloud:
    def __init__(self, runtime: Runtime, db: Database, log: Log, overrides: Mapping[tuple[str, str], Any] | None = None) -> None:
        self.runtime = runtime
        self.db = db
        self.log = log
        conf = config_module.build([OPTIONS], (), {("network_agent", "batch_window"): 0.002, **(overrides or {})})
        self.settings = {group: config_module.settings(conf, OPTIONS, group) for group in OPTIONS}
        self.broker = Broker(runtime)
        self.processes: dict[str, Process] = {}
        self.agents: dict[str, NetworkAgent] = {}
        self.ends: dict[str, End] = {}
        self.drivers: dict[str, FakeDriver] = {}

    async def process(self, name: str) -> Process:
        made = self.processes[name] = Process(self, name)
        await made.service.start()
        return made

    async def host(self, name: str) -> FakeDriver:
        driver = self.drivers[name] = FakeDriver(host=name, sleep=self.runtime.sleep)
        end = self.ends[name] = self.broker.end(name, ProcessRuntime(self.runtime))
        agent = self.agents[name] = NetworkAgent(
            host=name, driver=driver, bus=end, runtime=self.runtime, log=self.log, vtep_ip=f"192.0.2.{len(self.drivers)}"
        )
        await agent.start()
        return driver

    def alive(self) -> list[Process]:
        return [process for process in self.processes.values() if process.alive]

    def leaders(self) -> list[Process]:
        return [process for process in self.alive() if process.service.leading]

    async def leader(self, within_s: float = 20.0) -> Process:
        """The one that leads, once there is one."""
        for _ in range(int(within_s / 0.05)):
            found = self.leaders()
            if found:
                return found[0]
            await self.runtime.sleep(0.05)
        raise AssertionError("nobody leads")

    async def settle(self, within_s: float = 60.0) -> None:
        """Wait until nothing is under way."""
        calm = 0
        for _ in range(int(within_s / 0.05)):
            await self.runtime.sleep(0.05)
            calm = calm + 1 if await self._calm() else 0
            if calm >= 3:
                return
        raise AssertionError("not settled")

    async def _calm(self) -> bool:
        leaders = self.leaders()
        if len(leaders) != 1:
            return False
        for process in self.alive():
            await process.service.follower.caught_up()
        service = leaders[0].service
        dispatcher = service.dispatcher
        urgent, calm = service.topology.waiting()
        waiting = [host for host in (*urgent, *calm) if host in dispatcher.online]
        busy = any(agent._facts or agent._sync_due or agent._gate.running or agent._gate._alone for agent in self.agents.values())
        return (
            not waiting
            and not busy
            and all(host in dispatcher.online for host in self.agents)
            and not any(_busy(process.service) for process in self.alive())
        )

    async def agree(self) -> None:
        """The rows, every process's memory and every host say the same."""
        await self.settle()
        rebuilt = await topology_of(self.db)
        for host, driver in self.drivers.items():
            wanted = rebuilt.state(host)
            for process in self.alive():
                assert process.service.topology.state(host) == wanted, (process.name, host)
            assert sorted_state(driver.state) == sorted_state(wanted), host
        for process in self.alive():
            topology = process.service.topology
            assert topology.vteps == rebuilt.vteps
            assert sorted(topology.ports) == sorted(rebuilt.ports)
            assert sorted(topology.routers) == sorted(rebuilt.routers)
            assert topology.networks == rebuilt.networks
            assert {k: v for k, v in topology.subnets.items() if v} == rebuilt.subnets
            assert {k: v for k, v in topology.rules.items() if v} == rebuilt.rules

    async def stop(self) -> None:
        for agent in self.agents.values():
            await agent.stop()
        for process in self.alive():
            process.thaw()
            process.bus.open.set()
            await process.service.stop()
        await self.broker.stop()
        await self.db.stop()


def _busy(service: NetworkService) -> bool:
    return bool(service.dispatcher._sending or service._hinting or service._housing)
