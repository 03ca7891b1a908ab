"""The ordeal of a cloud of several processes: two with API and conductor, four of hypervisors, one database, one broker.

Each process has clocks, a life and a loop of its own (`processes`). Processes are killed, at a point or from outside, and stopped for
longer than their leases; the broker goes away; clocks differ, run unequally, and jump. The rest of the weather is the single process's.
"""

from collections.abc import Callable, Coroutine
from typing import Any

from kilonova.app import HISTORIES, Cloud
from kilonova.compute.config import OPTIONS as COMPUTE_OPTIONS
from kilonova.compute.drivers import PowerState
from kilonova.core import config
from kilonova.core.bus import Bus
from kilonova.core.db import schema
from kilonova.core.log import Log
from kilonova.core.operations import Operation
from kilonova.core.tasks import Tasks
from kilonova.hypervisor import Hypervisors, ReachOverBus
from kilonova.network.config import OPTIONS as NETWORK_OPTIONS
from kilonova.plan import Plan
from kilonova.testing.asgi import Client
from kilonova.testing.broker import Broker
from kilonova.testing.cloud import PASSWORD, WholeCloud
from kilonova.testing.databases import open_test_database
from kilonova.testing.faults import FaultRuntime, FaultyDataplane, FaultyHypervisor
from kilonova.testing.invariants import open_operations
from kilonova.testing.processes import Died, Process, ProcessLoop, ProcessRuntime, Remote, WorldLoop
from kilonova.testing.workload import PEOPLE, Workload

CONTROLS = ("control-0", "control-1")
NODES = ("node-0", "node-1", "node-2", "node-3")
PATIENCE_S = 60.0
"""Of a client, with one request."""
SKEW_S = 3.0
DRIFT = 1e-4
FARTHEST_S = 20.0
"""A wall clock may be that wrong. Hosts count as down when a heartbeat is 60 s old by the reader's clock."""
Question = Callable[[Operation], Coroutine[Any, Any, bool]]


class OnBroker(Cloud):
    """A process's composition with a bus that is given."""

    def __init__(self, bus: Bus, *arguments: Any, **options: Any) -> None:
        self._given = bus
        super().__init__(*arguments, **options)

    def _broker(self) -> Bus:
        return self._given


class Front:
    """What clients see: a load balancer before the control processes, which finds them by trying."""

    def __init__(self, several: "Several") -> None:
        self._several = several

    def anonymous(self, service: str) -> Client:
        return Client(_Balanced(self._several, service), host=f"{service}.example")

    token = WholeCloud.token
    prepare = WholeCloud.prepare

    def client(self, service: str, token: str, version: str = "") -> Client:
        headers = {"x-auth-token": token}
        if service == "compute":
            headers["openstack-api-version"] = f"compute {version or '2.100'}"
        return Client(_Balanced(self._several, service), headers, host=f"{service}.example")


class _Balanced:
    def __init__(self, several: "Several", service: str) -> None:
        self._several, self._service = several, service

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        several = self._several
        there = [name for name in CONTROLS if name in several.up]
        try:
            if not there:
                raise Died("no process is there")
            name = several.world.wishes.choice(there)
            edge = several.clouds[name].edges[self._service]
            await several.processes[name].ask(lambda: edge(scope, receive, send), PATIENCE_S)
        except Died as error:
            several.runtime.note(f"no answer: {error}")
            await send({"type": "http.response.start", "status": 503, "headers": []})
            await send({"type": "http.response.body", "body": b"{}"})


class View:
    """The cloud as `invariants` look at it: from outside of all processes."""

    def __init__(self, several: "Several") -> None:
        self._several = several
        self.db = several.db

    @property
    def compute(self) -> Any:
        return next(iter(self._several.clouds.values())).compute

    @property
    def network_agents(self) -> list[Any]:
        return [agent for name in NODES for agent in self._several.nodes[name].network_agents]


def _then_stopped(runtime: ProcessRuntime, held: Question) -> Question:
    """The question whether an operation is still ours, after whose answer the process may be stopped."""

    async def asked(op: Operation) -> bool:
        answer = await held(op)
        if answer and runtime.freeze_held is not None:
            before, seconds = runtime.freeze_held
            runtime.freeze_held = (before - 1, seconds) if before else None
            if not before:
                runtime.note(f"! stopped for {seconds:.1f} s after it heard that {op.verb} of {op.resource_id} is still its own")
                runtime.stall(seconds)
        return answer

    return asked


class Several:
    def __init__(self, world: Any, runtime: FaultRuntime, settings: dict[tuple[str, str], Any], sink: Callable[..., Any]) -> None:
        """world: the ordeal's. sink: (world, runtime, level) -> where a process's log goes."""
        self.world, self.runtime = world, runtime
        loop = runtime._loop
        assert isinstance(loop, WorldLoop)
        self.loop = loop
        loop.died = self._died
        weather = world.weather
        runtime.weather = weather
        weather.now, weather.note, weather.calm = runtime.monotonic, runtime.note, True
        self.agents_settings = settings
        self.settings = {**settings, ("identity", "password_hash_rounds"): 4, ("DEFAULT", "transport_url"): "rabbit://simulated/"}
        self.sink = sink
        self.tasks = Tasks(runtime, Log("story", sink(world, runtime, "info")))
        self.db = open_test_database(f"{world.state}/kilonova.db", runtime, joins=bool(world.seed % 2))
        self.broker = Broker(loop, weather, runtime.note)
        self.processes: dict[str, Process] = {}
        self.clouds: dict[str, OnBroker] = {}
        self.nodes: dict[str, Hypervisors] = {}
        self.up: dict[str, None] = {}
        """Processes that have started."""
        self.view: Any = View(self)
        front: Any = Front(self)
        self.front = front
        self.work = Workload(front, runtime, world.told, world.wishes, world.ids)
        self.lives = 0

    # ---- processes

    def _process(self, name: str) -> Process:
        self.lives += 1
        made = self.processes[name] = Process(name, self.runtime, self.loop, self.world.seed * 1000 + self.lives)
        chance = self.world.weather.chance
        made.runtime.weather = self.world.weather
        made.runtime.offset_s, made.runtime.drift = chance.uniform(-SKEW_S, SKEW_S), chance.uniform(-DRIFT, DRIFT)
        return made

    async def start(self, name: str) -> None:
        """Raises Died, or why it could not start."""
        process = self._process(name)
        begin = self._control(process) if name in CONTROLS else self._node(process)
        await process.ask(begin, 300.0)
        self.up[name] = None
        self.runtime.note(f"{name} is up")

    def _control(self, process: Process) -> Callable[[], Any]:
        async def begin() -> None:
            runtime = process.runtime
            sink = self.sink(self.world, runtime, "info")
            plan = Plan(state=self.world.state, driver="fake", runs_guests=False, node=process.name, overrides=self.settings)
            end = self.broker.end(process, Log("bus", sink))
            cloud = self.clouds[process.name] = OnBroker(
                end, plan, runtime, sink, database=Remote(self.db, process), image_store=self.world.store
            )
            assert cloud.compute is not None
            cloud.compute.api_ops.held = _then_stopped(runtime, cloud.compute.api_ops.held)  # type: ignore[method-assign, assignment]
            await cloud.start(dict.fromkeys(PEOPLE, PASSWORD))

        return begin

    def _node(self, process: Process) -> Callable[[], Any]:
        async def begin() -> None:
            runtime, world = process.runtime, self.world
            log = Log("hypervisors", self.sink(world, runtime, "info"))
            count = world.hosts // len(NODES)
            plan = Plan(state=world.state, services=(), conducts=False, driver="fake", hosts=count, node=process.name)
            conf = config.build([COMPUTE_OPTIONS, NETWORK_OPTIONS], (), self.agents_settings)
            groups = {g: config.settings(conf, options, g) for options in (NETWORK_OPTIONS, COMPUTE_OPTIONS) for g in options}
            end = self.broker.end(process, log.child("bus"))
            reach = ReachOverBus(end, runtime, process.name)
            made = Hypervisors(plan, runtime, log, end, groups, reach, machines=world.machines)
            for agent in made.compute_agents:
                agent.driver = FaultyHypervisor(agent.driver, agent.host, runtime, world.weather, world.guest_changed(self.runtime))
            for wires in made.network_agents:
                wires.driver = FaultyDataplane(wires.driver, wires.host, runtime, world.weather)
            self.nodes[process.name] = made
            end.when_back(made.broker_is_back)
            await made.start_networks()
            await made.start_guests()
            made.start_heart()

        return begin

    def _died(self, loop: ProcessLoop) -> None:
        process = next(p for p in self.processes.values() if p.loop is loop)
        self.runtime.note(f"! {process.name} has died")
        self.up.pop(process.name, None)
        process.hang_up()
        self.broker.dead(process)
        self.world.lives += 1
        if not self.tasks.closed:
            self.tasks.start(f"{process.name} returns", self._returns(process.name))

    async def _returns(self, name: str) -> None:
        await self.runtime.sleep(self.world.weather.chance.uniform(0.5, 20.0))
        while self.processes[name].loop.dead:
            try:
                await self.start(name)
            except Died:
                return  # it has died again, and returns again
            except Exception as error:
                self.runtime.note(f"{name} did not start: {type(error).__name__}: {error}")
                self.processes[name].kill()
                return

    # ---- the story

    async def run(self, minutes: float, *, clients: Callable[[Any], Any], look_s: float, rest_s: float, aftermath_s: float) -> None:
        """clients: given a workload's turn, when the next one comes."""
        world, runtime, weather = self.world, self.runtime, self.world.weather
        await schema.sync(self.db, [history for histories in HISTORIES.values() for history in histories])
        for name in (*CONTROLS, *NODES):
            await self.start(name)
        await self._prepare()
        await self.work.log_in()
        self.tasks.every("look", look_s, lambda: world.look(self.view, runtime))
        weather.calm = False
        self.tasks.start("clients", clients(self))
        self.tasks.start("misfortunes", self._misfortunes())
        await runtime.sleep(minutes * 60)
        await self._rest(rest_s, aftermath_s)
        await self.work.log_in()
        await world.looked_at(self.view, self.work, runtime)
        await self.tasks.stop()
        for process in self.processes.values():
            process.loop.bury()
        self.loop.loops.clear()
        await self.db.stop()

    async def _prepare(self) -> None:
        world = self.world
        token = await self.front.token()
        world.ids.update(await self.front.prepare(token))
        first = self.clouds[CONTROLS[0]]
        for who in PEOPLE:
            world.ids[f"project {who}"] = await self.processes[CONTROLS[0]].ask(lambda who=who: first.bound_identity.project_id(who))  # type: ignore[misc]
        network = self.front.client("network", token)
        await network.request("PUT", f"/v2.0/networks/{world.ids['network']}", {"network": {"shared": True}})
        found = (await network.get("/v2.0/networks?name=public")).json["networks"]
        world.ids["public"] = found[0]["id"]

    async def _rest(self, rest_s: float, aftermath_s: float) -> None:
        world, runtime = self.world, self.runtime
        for task in [t for t in self.tasks._running.values() if t.get_name() in ("clients", "misfortunes")]:
            task.cancel()
        world.weather.clear()
        runtime.note("the weather clears")
        self.broker.comes_back()
        for process in self.processes.values():
            process.runtime.kill_at = process.runtime.freeze_at = process.runtime.freeze_after = None
            process.runtime.freeze_held = None
            process.loop.frozen_until = 0.0
        until = runtime.monotonic() + rest_s
        while len(self.up) < len(CONTROLS) + len(NODES) or await open_operations(self.view):
            if runtime.monotonic() > until:
                world.failed(f"not at rest after {rest_s:.0f} s: {list(self.up)} are up; {await open_operations(self.view)}")
                break
            await runtime.sleep(5.0)
        await runtime.sleep(aftermath_s)

    # ---- misfortunes

    async def _misfortunes(self) -> None:
        chance = self.world.weather.chance
        kinds = [
            (4, self.death), (3, self.sleep), (3, self.sleep_in_a_verb), (2, self.sleep_after_a_question), (3, self.broker_away),
            (3, self.commit_before), (3, self.commit_after), (1, self.slow_disk), (4, self.bus), (3, self.partition), (2, self.power_loss),
            (3, self.driver_errors), (2, self.driver_hangs), (4, self.guest_by_itself), (3, self.dataplane_errors), (2, self.clock_jump),
            (1, self.image_disk_fails),
        ]  # fmt: skip
        while True:
            await self.runtime.sleep(chance.expovariate(1 / 6.0))
            kind = chance.choices([k for _, k in kinds], [w for w, _ in kinds])[0]
            name = kind.__name__.replace("_", " ")
            self.world.faults[name] = self.world.faults.get(name, 0) + 1
            self.runtime.note(f"! {name}")
            kind()

    def _victim(self) -> Process:
        """A control process, half of the time."""
        chance = self.world.weather.chance
        return self.processes[chance.choice(CONTROLS if chance.random() < 0.5 else NODES)]

    def _host(self) -> str:
        chance, machines = self.world.weather.chance, self.world.machines
        busy = [host for host in sorted(machines.guests) if machines.guests[host].guests]
        if busy and chance.random() < 0.8:
            return str(chance.choice(busy))
        return f"{chance.choice(NODES)}-{chance.randint(1, self.world.hosts // len(NODES))}"

    def _strike(self, what: str, at: str, least_s: float, most_s: float) -> None:
        self.world.weather.strike(what, at, self.world.weather.chance.uniform(least_s, most_s))

    def death(self) -> None:
        victim, chance = self._victim(), self.world.weather.chance
        if chance.random() < 0.3:
            victim.kill()
        else:
            victim.runtime.kill_at = victim.runtime.points + chance.randint(1, 40)

    def sleep(self) -> None:
        """A process is stopped, often for longer than its leases, and goes on."""
        victim, chance = self._victim(), self.world.weather.chance
        seconds = chance.choice((chance.uniform(1, 12), chance.uniform(20, 60), chance.uniform(35, 90)))
        victim.runtime.freeze_at = (victim.runtime.points + chance.choice((0, chance.randint(1, 60))), seconds)

    def sleep_in_a_verb(self) -> None:
        """At one of the steps after a command: where a runner undoes or settles what another may have taken over when it wakes."""
        chance = self.world.weather.chance
        victim = self.processes[chance.choice(CONTROLS)].runtime
        victim.freeze_after = (
            chance.choice(("called Destroy", "called Destroy", "called Spawn", "call Spawn")),
            chance.randint(0, 8),
            chance.uniform(32, 90),
        )

    def sleep_after_a_question(self) -> None:
        """A runner has heard that its operation is still its own, and is stopped before it undoes a step."""
        chance = self.world.weather.chance
        self.processes[chance.choice(CONTROLS)].runtime.freeze_held = (chance.choice((0, 1, 1, 2)), chance.uniform(32, 90))

    def broker_away(self) -> None:
        if not self.broker.away:
            self.broker.goes_away(self.world.weather.chance.uniform(1, 40))

    def commit_before(self) -> None:
        self.world.weather.commits.append("before")

    def commit_after(self) -> None:
        self.world.weather.commits.append("after")

    def slow_disk(self) -> None:
        self._strike("slow disk", "", 2, 15)

    def bus(self) -> None:
        self._strike("bus", "", 3, 30)

    def partition(self) -> None:
        self._strike("partition", self.world.weather.chance.choice((*CONTROLS, *NODES)), 3, 60)

    def power_loss(self) -> None:
        """Of all hosts of a process; their disks stay."""
        name = self.world.weather.chance.choice(NODES)
        self.processes[name].kill()
        for host, machine in sorted(self.world.machines.guests.items()):
            if host.startswith(f"{name}-"):
                for guest in machine.guests.values():
                    guest.power_state, guest.reason = PowerState.SHUTDOWN, "The host lost its power."

    def driver_errors(self) -> None:
        self._strike("driver errors", self._host(), 5, 90)

    def driver_hangs(self) -> None:
        self._strike("driver hangs", self._host(), 5, 60)

    def dataplane_errors(self) -> None:
        self._strike("dataplane errors", self._host(), 5, 60)

    def image_disk_fails(self) -> None:
        self._strike("image disk fails", "", 5, 60)

    def guest_by_itself(self) -> None:
        chance, machines = self.world.weather.chance, self.world.machines
        host = self._host()
        name = host.rpartition("-")[0]
        running = [g for g, guest in machines.of(host).guests.items() if guest.power_state is PowerState.RUNNING]
        if name not in self.up or not running:
            return
        agent = next(a for a in self.nodes[name].compute_agents if a.host == host)
        does, guest = chance.choice(("stop_itself", "crash", "pause_itself")), chance.choice(running)

        async def act() -> None:
            await getattr(agent.driver, does)(guest)

        self.processes[name].start(act(), f"{guest} does it by itself")

    def clock_jump(self) -> None:
        runtime, chance = self._victim().runtime, self.world.weather.chance
        runtime.offset_s = max(-FARTHEST_S, min(FARTHEST_S, runtime.offset_s + chance.uniform(-FARTHEST_S, FARTHEST_S)))
