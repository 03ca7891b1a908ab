"""A whole cloud for some minutes of bad weather, and then a rest: `run(seed, minutes)`.

The process lives until a fault kills it; the next life goes on with the same file, hypervisors, image disk and clients. Everything that
happens is in one log, whose digest tells whether two runs were the same. After the trouble the weather clears, the cloud gets time to
come to rest, and is looked at from all sides (`invariants`).
"""

import collections
import hashlib
import random
import shutil
import tempfile
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import msgspec

from kilonova.app import Cloud
from kilonova.compute.agent import ComputeAgent
from kilonova.compute.drivers import PowerState
from kilonova.compute.edge import edge as compute_edge
from kilonova.compute.ops.delete import LEFT_BEHIND
from kilonova.compute.ops.register import register
from kilonova.compute.policies import RULES as COMPUTE_RULES
from kilonova.compute.service import ComputeService
from kilonova.core.errors import Error
from kilonova.core.log import Log, Sink
from kilonova.core.operations import RENEW_S
from kilonova.core.tasks import Tasks
from kilonova.hypervisor import Machines
from kilonova.network.agent import NetworkAgent
from kilonova.testing import simulation
from kilonova.testing.asgi import Client
from kilonova.testing.cloud import WholeCloud
from kilonova.testing.faults import FaultRuntime, FaultyDataplane, FaultyHypervisor, FaultyStore, Weather, Wires
from kilonova.testing.invariants import Watch, at_rest, open_operations
from kilonova.testing.processes import WorldLoop
from kilonova.testing.several import Several
from kilonova.testing.simulation import Killed
from kilonova.testing.workload import PEOPLE, Told, Workload

HOSTS = 20
MINUTES = 10.0
GAP_REQUEST_S = 1.0
GAP_FAULT_S = 6.0
"""Mean pauses: 60 wishes (some take several requests) and 10 faults a minute."""
LOOK_S = 5.0
REST_S = 900.0
"""By then nothing may be under way any more."""
AFTERMATH_S = 300.0
"""Once nothing is under way: for the rounds of agents that mend what messages did not tell."""
HARMLESS = ("Lost", "OSError", "FileNotFoundError", "DriverError", "Full", "Disconnected", "OperationalError", "TimeoutError")
"""Exceptions that the faults themselves are; any other that is no Error of ours, in the log of errors, is a mistake."""
SETTINGS = {
    ("quota", "instances"): 40,
    ("quota", "cores"): 200,
    ("quota", "ram"): -1,
    ("DEFAULT", "vif_plugging_timeout"): 60,
    ("network_quotas", "quota_floatingip"): 50,
}


class Result(msgspec.Struct, kw_only=True):
    """Of one seed. `log`: the last lines before the end, for whoever looks into a failure."""

    seed: int
    minutes: float
    digest: str
    failures: list[str]
    lives: int
    requests: int
    statuses: dict[int, int]
    faults: dict[str, int]
    simulated_s: float
    log: list[str]


class World:
    """What outlives a process."""

    def __init__(self, seed: int, minutes: float, state: str, hosts: int) -> None:
        self.seed, self.minutes, self.state, self.hosts = seed, minutes, state, hosts
        self.weather = Weather(random.Random(f"faults {seed}"))
        self.wishes = random.Random(f"wishes {seed}")
        self.machines = Machines()
        self.store = FaultyStore(self.weather)
        self.watch = Watch(self.machines)
        self.told = Told()
        self.ids: dict[str, str] = {}
        self.clock = 0.0
        self.lives = 0
        self.faults: dict[str, int] = {}
        self.failures: list[str] = []
        self.digest = hashlib.sha256()
        self.log: collections.deque[str] = collections.deque(maxlen=300_000)
        self.started_at = 0.0
        self.ready = self.done = False
        self.last: Cloud | None = None

    def failed(self, text: str) -> None:
        if len(self.failures) < 50 and text not in self.failures:
            self.failures.append(text)

    def guest_changed(self, runtime: FaultRuntime) -> Callable[[str, str], None]:
        def changed(host: str, verb: str) -> None:
            for text in self.watch.twice():
                self.failed(f"{text} (after {verb} on {host} at {runtime.monotonic():.1f})")

        return changed

    async def look(self, cloud: Any, runtime: FaultRuntime) -> None:
        """At any moment."""
        for text in await self.watch.look(cloud, runtime.monotonic()):
            self.failed(f"{text} (at {runtime.monotonic():.1f})")

    async def looked_at(self, cloud: Any, work: Workload, runtime: FaultRuntime) -> None:
        """At rest, from all sides: what was promised is there, the cloud still works, and when all servers are deleted nothing is left."""
        self.failures += await at_rest(cloud, self.machines, self.store, self.told)
        if self.failures:
            return
        for _ in range(3):
            trouble = await work.boots()
            if trouble:
                self.failed(trouble)
        await work.delete_all()
        await runtime.sleep(60.0)
        found = await at_rest(cloud, self.machines, self.store, self.told)
        self.failures += [f"after everything was deleted: {text}" for text in found]
        left = [f"{len(machine.guests)} guests on {host}" for host, machine in sorted(self.machines.guests.items()) if machine.guests]
        if left:
            self.failed(f"after everything was deleted: {left}")

    def after(self, runtime: FaultRuntime) -> None:
        """A life has ended."""
        self.clock = runtime.monotonic()
        self.digest.update("\n".join(runtime.events).encode())
        self.log.extend(runtime.events)


class _Log(Sink):
    """Errors in the log that are no fault of the weather are failures."""

    def __init__(self, world: World, runtime: FaultRuntime, level: str) -> None:
        super().__init__(level=level)
        self._world, self._runtime = world, runtime

    def write(self, level: str, name: str, message: str, fields: dict[str, Any]) -> None:
        if level == "debug":
            return
        if message == LEFT_BEHIND:
            self._world.watch.left_behind[fields["server"]] = fields["host"]
        error = fields.get("error")
        facts = " ".join(f"{k}={v}" for k, v in fields.items() if k != "error" and isinstance(v, (str, int)))
        self._runtime.note(f"{level} {name}: {message} {facts} {type(error).__name__ if error else ''} {error if error else ''}".rstrip())
        if level == "error" and isinstance(error, BaseException) and not isinstance(error, Error) and type(error).__name__ not in HARMLESS:
            self._world.failed(f"{message}: {type(error).__name__}: {error} ({_where(error)})")

    def access(self, line: dict[str, Any]) -> None:
        """The workload notes its requests itself."""


def _where(error: BaseException) -> str:
    trace, at = error.__traceback__, "?"
    while trace is not None:
        code = trace.tb_frame.f_code
        if "/kilonova/" in code.co_filename:
            at = f"{code.co_filename.rpartition('/kilonova/')[2]}:{trace.tb_lineno}"
        trace = trace.tb_next
    return at


class Life:
    """One process of the cloud, with its clients and its misfortunes."""

    def __init__(self, world: World, runtime: FaultRuntime) -> None:
        self.world, self.runtime = world, runtime
        weather = world.weather
        runtime.weather = weather
        weather.now, weather.note, weather.calm = runtime.monotonic, runtime.note, True
        sink = _Log(world, runtime, "info")
        self.whole = WholeCloud(
            runtime, world.state, hosts=world.hosts, machines=world.machines, store=world.store, overrides=SETTINGS, sink=sink
        )
        self.cloud = world.last = self.whole.cloud
        self.tasks = Tasks(runtime, Log("story", sink))
        self.wires = Wires(self.cloud.bus, runtime, weather)
        for compute_agent in self.cloud.compute_agents:
            compute_agent.driver = FaultyHypervisor(
                compute_agent.driver, compute_agent.host, runtime, weather, world.guest_changed(runtime)
            )
        for network_agent in self.cloud.network_agents:
            network_agent.driver = FaultyDataplane(network_agent.driver, network_agent.host, runtime, weather)
        self.absent: dict[str, float] = {}
        self._away: dict[str, tuple[ComputeAgent, NetworkAgent]] = {}
        self.work = Workload(self.whole, runtime, world.told, world.wishes, world.ids)

    async def run(self) -> None:
        world, weather, runtime = self.world, self.world.weather, self.runtime
        await self._start()
        self._second_conductor()
        self.tasks.every("look", LOOK_S, lambda: world.look(self.cloud, runtime))
        weather.calm = False
        end = world.started_at + world.minutes * 60
        if runtime.monotonic() < end:
            self.tasks.start("clients", self._clients())
            self.tasks.start("misfortunes", self._misfortunes())
            await runtime.sleep(end - runtime.monotonic())
        await self._rest()
        await world.looked_at(self.cloud, self.work, runtime)
        world.done = True
        await self.tasks.stop()
        await self.second.tasks.stop()
        await self.whole.stop()

    def _second_conductor(self) -> None:
        """Another one on the same databases and bus, with an API of its own. Each may lose touch with the database's clock for a while: it
        renews nothing, and the other takes its operations over while it still runs them."""
        first = self.cloud.compute
        assert first is not None
        second = ComputeService(
            api_db=first.api_db,
            cell_db=first.cell_db,
            runtime=self.runtime,
            log=first.log.child("second"),
            settings=first.settings,
            bus=first.bus,
            identity=first.identity,
            placement=first.placement,
            network=first.network,
            images=first.images,
            owner=self.runtime.uuid(),
            exclusive=False,
        )
        register(second)
        self.second = second
        edge = compute_edge(second, policy=self.cloud.policy(COMPUTE_RULES), **self.cloud._common("compute"))
        for who in PEOPLE:
            client = self.work.clients[(who, "compute")]
            self.work.others[(who, "compute")] = Client(edge, client.headers, host=client.host)
        for name, service in (("first", first), ("second", second)):
            for operations in (service.api_ops, service.cell_ops):
                operations.renew = self._unless_silent(name, operations.renew)  # type: ignore[method-assign]
        second.tasks.every("operation leases", RENEW_S, second._renew)
        second.tasks.every("operations that nobody runs", RENEW_S, second._adopt)

    def _unless_silent(self, name: str, renew: Callable[[], Coroutine[Any, Any, None]]) -> Callable[[], Coroutine[Any, Any, None]]:
        async def renewed() -> None:
            if not self.world.weather.bad("conductor silent", name):
                await renew()

        return renewed

    async def _start(self) -> None:
        """The first start is in peace; later ones may be killed, or meet a disk that fails: then there is one more."""
        world, weather, runtime = self.world, self.world.weather, self.runtime
        if not world.ready:
            await self.whole.start()
            await self._prepare()
            await self.work.log_in()
            return
        trouble = runtime.monotonic() < world.started_at + world.minutes * 60 and weather.dice(0.4)
        if trouble and weather.dice(0.5):
            runtime.kill_at = weather.chance.randint(1, 150)
        weather.calm = not trouble
        try:
            await self.whole.start()
            await self.work.log_in()
        except Exception as error:
            if not trouble:
                raise
            runtime.note(f"the start failed: {type(error).__name__}: {error}")
            runtime.dead = True
            raise Killed from None

    async def _prepare(self) -> None:
        world = self.world
        token = await self.whole.token()
        world.ids.update(await self.whole.prepare(token))
        assert self.cloud.identity is not None
        for who in PEOPLE:
            world.ids[f"project {who}"] = await self.cloud.identity.project_id(who)
        network = self.whole.client("network", token)
        await network.request("PUT", f"/v2.0/networks/{world.ids['network']}", {"network": {"shared": True}})
        found = (await network.get("/v2.0/networks?name=public")).json["networks"]
        world.ids["public"] = found[0]["id"]
        world.started_at = self.runtime.monotonic()
        world.ready = True

    async def _clients(self) -> None:
        while True:
            await self.runtime.sleep(self.world.wishes.expovariate(1 / GAP_REQUEST_S))
            self.tasks.start("client", self.work.one())

    # ---- rest

    async def _rest(self) -> None:
        world, weather, runtime = self.world, self.world.weather, self.runtime
        weather.clear()
        runtime.kill_at = None
        for task in [t for t in self.tasks._running.values() if t.get_name() in ("clients", "misfortunes")]:
            task.cancel()
        runtime.note("the weather clears")
        for host in list(self.absent):
            await self._return(host)
        until = runtime.monotonic() + REST_S
        while await open_operations(self.cloud):
            if runtime.monotonic() > until:
                world.failed(f"not at rest after {REST_S:.0f} s: {await open_operations(self.cloud)}")
                break
            await runtime.sleep(5.0)
        await runtime.sleep(AFTERMATH_S)

    # ---- misfortunes

    async def _misfortunes(self) -> None:
        chance = self.world.weather.chance
        kinds = [
            (3, self.death), (3, self.commit_before), (3, self.commit_after), (1, self.slow_disk), (4, self.bus), (3, self.partition),
            (3, self.agent_death), (2, self.host_death), (3, self.driver_errors), (2, self.driver_hangs), (5, self.guest_by_itself),
            (3, self.dataplane_errors), (1, self.clock_jump), (1, self.image_disk_fails), (1, self.image_disk_full), (1, self.sleeps),
            (4, self.conductor_silent),
        ]  # fmt: skip
        while True:
            await self.runtime.sleep(chance.expovariate(1 / GAP_FAULT_S))
            kind = chance.choices([k for _, k in kinds], [w for w, _ in kinds])[0]
            name = kind.__name__.replace("_", " ")
            self.world.faults[name] = self.world.faults.get(name, 0) + 1
            self.runtime.note(f"! {name}")
            await kind()

    def _host(self) -> str:
        return f"host-{self.world.weather.chance.randint(1, self.world.hosts)}"

    def _busy_host(self) -> str:
        """A host with guests, most of the time."""
        chance = self.world.weather.chance
        found = [host for host in sorted(self.world.machines.guests) if self.world.machines.guests[host].guests]
        return chance.choice(found) if found and chance.random() < 0.8 else self._host()

    async def death(self) -> None:
        self.runtime.kill_at = self.runtime.points + self.world.weather.chance.randint(1, 40)

    async def commit_before(self) -> None:
        self.world.weather.commits.append("before")

    async def commit_after(self) -> None:
        self.world.weather.commits.append("after")

    async def slow_disk(self) -> None:
        self.world.weather.strike("slow disk", seconds=self.world.weather.chance.uniform(2, 15))

    async def bus(self) -> None:
        self.world.weather.strike("bus", seconds=self.world.weather.chance.uniform(3, 30))

    async def partition(self) -> None:
        self.world.weather.strike("partition", self._busy_host(), self.world.weather.chance.uniform(3, 90))

    async def driver_errors(self) -> None:
        self.world.weather.strike("driver errors", self._busy_host(), self.world.weather.chance.uniform(5, 90))

    async def driver_hangs(self) -> None:
        self.world.weather.strike("driver hangs", self._busy_host(), self.world.weather.chance.uniform(5, 60))

    async def dataplane_errors(self) -> None:
        self.world.weather.strike("dataplane errors", self._busy_host(), self.world.weather.chance.uniform(5, 60))

    async def image_disk_fails(self) -> None:
        self.world.weather.strike("image disk fails", seconds=self.world.weather.chance.uniform(5, 60))

    async def image_disk_full(self) -> None:
        self.world.weather.strike("image disk full", seconds=self.world.weather.chance.uniform(5, 60))

    async def clock_jump(self) -> None:
        weather = self.world.weather
        weather.wall_s = max(-900.0, min(900.0, weather.wall_s + weather.chance.choice((-1, 1)) * weather.chance.uniform(1, 400)))

    async def sleeps(self) -> None:
        """The process is stopped for longer than its leases, and goes on."""
        self.runtime.stall(self.world.weather.chance.uniform(20, 60))

    async def conductor_silent(self) -> None:
        chance = self.world.weather.chance
        self.world.weather.strike("conductor silent", chance.choice(("first", "second")), chance.uniform(30, 120))

    async def guest_by_itself(self) -> None:
        chance = self.world.weather.chance
        agents = [a for a in self.cloud.compute_agents if self.world.machines.of(a.host).guests]
        if not agents:
            return
        agent = chance.choice(agents)
        running = [g for g, guest in self.world.machines.of(agent.host).guests.items() if guest.power_state is PowerState.RUNNING]
        if running:
            does = chance.choice(("stop_itself", "crash", "pause_itself"))
            await getattr(agent.driver, does)(chance.choice(running))

    async def agent_death(self) -> None:
        await self._leave(self._busy_host(), self.world.weather.chance.uniform(2, 90))

    async def host_death(self) -> None:
        """The guests lose their power with it; disks stay."""
        host = self._busy_host()
        if await self._leave(host, self.world.weather.chance.uniform(5, 120)):
            for guest in self.world.machines.of(host).guests.values():
                guest.power_state, guest.reason = PowerState.SHUTDOWN, "The host lost its power."

    async def _leave(self, host: str, seconds: float) -> bool:
        """The agents of a host are gone for a while."""
        here = [a for a in self.cloud.compute_agents if a.host == host]
        wires = [a for a in self.cloud.network_agents if a.host == host]
        if not here or not wires or len(self.absent) >= self.world.hosts // 2:
            return False
        self.runtime.note(f"! {host} is gone for {seconds:.0f} s")
        self.absent[host] = seconds
        for service in ("compute", "network"):
            self.cloud.bus.silence(f"{service}.{host}")
        self.wires.cut(host)
        self.cloud.compute_agents.remove(here[0])
        self.cloud.network_agents.remove(wires[0])
        self._away[host] = (here[0], wires[0])
        await here[0].tasks.stop()
        await wires[0].tasks.stop()
        self.tasks.start(f"{host} returns", self._returns(host, seconds))
        return True

    async def _returns(self, host: str, seconds: float) -> None:
        await self.runtime.sleep(seconds)
        await self._return(host)

    async def _return(self, host: str) -> None:
        """New agents on the old host."""
        if self.absent.pop(host, None) is None:
            return
        old_compute, old_network = self._away.pop(host)
        self.runtime.note(f"{host} is back")
        cloud = self.cloud
        compute = ComputeAgent(
            host=host,
            driver=old_compute.driver,
            bus=cloud.bus,
            runtime=self.runtime,
            log=old_compute.log,
            fetch=old_compute._fetch,
            store=old_compute._store,
        )
        network = NetworkAgent(
            host=host,
            driver=old_network.driver,
            bus=cloud.bus,
            runtime=self.runtime,
            log=old_network.log,
            vtep_ip=old_network.vtep_ip,
            report_interval_s=old_network.report_interval_s,
            resync_interval_s=old_network.resync_interval_s,
        )
        cloud.compute_agents.append(compute)
        cloud.network_agents.append(network)
        try:
            await network.start()
            await compute.start()
        except RuntimeError:
            if not (network.tasks.closed and compute.tasks.closed):
                raise
            self.runtime.note(f"{host} is gone again before it was back")


def several_processes(seed: int) -> bool:
    """The shape that a seed stands for: every third is a cloud of several processes."""
    return seed % 3 == 2


def run(seed: int, minutes: float = MINUTES, *, hosts: int = HOSTS, several: bool | None = None) -> Result:
    """One seed from beginning to end. The state lies in a folder of its own, which is removed. several: other than the seed says."""
    folder = tempfile.mkdtemp(prefix="kilonova-sim-", dir=_memory())
    world = World(seed, minutes, folder, hosts)
    try:
        if several if several is not None else several_processes(seed):
            _several(world)
        while not world.done and not world.failures and world.lives < 200:
            world.lives += 1
            _life(world)
        if not world.done and not world.failures:
            world.failed("the cloud never came to rest")
        return Result(
            seed=seed,
            minutes=minutes,
            digest=world.digest.hexdigest(),
            failures=world.failures,
            lives=world.lives,
            requests=world.told.requests,
            statuses=dict(sorted(world.told.statuses.items())),
            faults=dict(sorted(world.faults.items())),
            simulated_s=world.clock,
            log=list(world.log),
        )
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _memory() -> str | None:
    return "/dev/shm" if Path("/dev/shm").is_dir() else None


def _life(world: World) -> None:
    runtimes: list[FaultRuntime] = []

    async def story(runtime: FaultRuntime) -> None:
        runtimes.append(runtime)
        life = Life(world, runtime)
        await life.run()

    try:
        simulation.run(story, hash_of(world.seed, world.lives), start=world.clock, kind=FaultRuntime)
    except Exception as error:
        world.failed(f"the story ended with {type(error).__name__}: {error} ({_where(error)})")
    finally:
        world.after(runtimes[0])
        runtimes[0].note(f"process {world.lives} has ended")
        if not world.done and world.last is not None:
            world.last.db.abandon()  # type: ignore[attr-defined]


def _several(world: World) -> None:
    """A cloud whose processes come and go; the world itself does not end before the story does."""
    runtimes: list[FaultRuntime] = []

    async def clients(several: Several) -> None:
        while True:
            await several.runtime.sleep(world.wishes.expovariate(1 / GAP_REQUEST_S))
            several.tasks.start("client", several.work.one())

    async def story(runtime: FaultRuntime) -> None:
        runtimes.append(runtime)
        several = Several(world, runtime, SETTINGS, _Log)
        await several.run(world.minutes, clients=clients, look_s=LOOK_S, rest_s=REST_S, aftermath_s=AFTERMATH_S)

    try:
        simulation.run(story, hash_of(world.seed, 0), kind=FaultRuntime, loop=WorldLoop())
    except Exception as error:
        world.failed(f"the story ended with {type(error).__name__}: {error} ({_where(error)})")
    world.after(runtimes[0])
    world.done = True


def hash_of(seed: int, life: int) -> int:
    return int.from_bytes(hashlib.sha256(f"{seed} {life}".encode()).digest()[:8], "big")
