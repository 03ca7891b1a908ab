"""The process of `serve hypervisor`: agents and drivers, without the services that command them and without a database."""

import asyncio
from collections.abc import Callable, Mapping, Sequence

import uvloop

from kilonova.cli.failure import Failure
from kilonova.cli.lifetime import Lifetime, Tell
from kilonova.cli.settle import Settled, driver_for
from kilonova.cli.state import StateDir
from kilonova.compute.drivers.fake.journal import GuestJournal
from kilonova.core import config
from kilonova.core.bus import Bus
from kilonova.core.bus.agents import from_control
from kilonova.core.bus.config import OPTIONS as BUS_OPTIONS
from kilonova.core.bus.config import rabbit_options
from kilonova.core.config import Settings
from kilonova.core.runtime import Runtime
from kilonova.hypervisor import OPTIONS, Hypervisors, Machines, ReachOverBus
from kilonova.plan import Plan

BROKER_WAIT_S = 15.0
RENEWAL_S = 3600.0
"""Between two looks whether the certificate is to be renewed."""


class HypervisorProcess(Lifetime):
    def __init__(self, settled: Settled, state: StateDir, tell: Tell) -> None:
        super().__init__(settled, state, tell)
        if not settled.broker:
            raise Failure("A hypervisor reaches its cloud through a broker.", "Set [DEFAULT] transport_url in the configuration file.")
        self.driver = driver_for(settled.driver, state.mark)
        hosts = settled.hosts or state.mark.hosts
        if hosts > 1 and self.driver != "fake":
            raise Failure("[cloud] hosts makes fake hypervisors.", "Use it with compute_driver = fake.")
        state.remember(driver=self.driver, hosts=hosts)
        self.plan = Plan(
            state=str(state.path),
            cloud_id=state.mark.id,
            services=(),
            conducts=False,
            driver=self.driver,
            hosts=hosts,
            node=settled.node,
            my_ip=settled.my_ip,
            config_files=settled.config,
        )

    async def run(self, ready: Callable[[], None]) -> None:
        """Until SIGTERM or SIGINT. Guests and their networks live on."""
        runtime = self.begin()
        hypervisors: Hypervisors | None = None
        bus = control = None
        try:
            try:
                from kilonova.core.bus.rabbitmq import RabbitBus

                settings = self._settings()
                bus = RabbitBus(rabbit_options(settings[1]), runtime, self.log.child("bus"), name=self.plan.node, admit=from_control)
                await bus.start(BROKER_WAIT_S)
                control_url = settings[0]["cell"].control_transport_url
                if control_url:
                    options = rabbit_options(settings[1], control_url)
                    control = RabbitBus(options, runtime, self.log.child("control"), name=self.plan.node, admit=from_control)
                    await control.start(BROKER_WAIT_S)
                hypervisors = self._hypervisors(runtime, bus, control or bus, settings[0])
                (control or bus).when_back(hypervisors.broker_is_back)
                await self._unless_stopped(self._start(hypervisors))
            except Exception as error:
                raise self.failed(error) from error
            ready()
            self._settle_down()
            self._stay_member(runtime)
            await self.ended.wait()
        finally:
            if hypervisors is not None:
                for one in dict.fromkeys((bus, control)):  # commands that run are finished; nobody sends more
                    if one is not None:
                        await one.retire(self.settled.grace_s)
                await hypervisors.stop()
            for one in (control, bus):
                if one is not None:
                    await one.stop()
            await self.tasks.stop()
            runtime.close()
            self.close_log()

    def _stay_member(self, runtime: Runtime) -> None:
        """Where this machine has joined with a token, and runs with what it was given: renew its certificate in time."""
        if str(self.state.path / "join" / "kilonova.conf") not in self.settled.config:
            return
        from kilonova.cli import membership

        known = membership.of(self.state.path)

        def renew() -> int:
            assert known is not None
            return membership.renew(self.state, known) if membership.renewal_due(self.state, runtime.now_us()) else 0

        async def look() -> None:
            try:
                until = await runtime.blocking(renew)
            except Failure as failure:
                self.log.warning("the host's certificate was not renewed", reason=failure.message)
                return
            if until:
                self.log.info("the host's certificate was renewed", until_s=until // 1_000_000)

        if known is not None:
            self.tasks.every("renewal of the host's certificate", RENEWAL_S, look, at_once=True)

    def _settings(self) -> tuple[dict[str, Settings], dict[str, Settings]]:
        """(of the agents, of the bus)"""
        conf = config.build([*OPTIONS, BUS_OPTIONS], self.plan.config_files)
        compute, network = OPTIONS
        agents = {group: config.settings(conf, options, group) for options in (network, compute) for group in options}
        return agents, {group: config.settings(conf, BUS_OPTIONS, group) for group in BUS_OPTIONS}

    def _hypervisors(self, runtime: Runtime, bus: Bus, control: Bus, settings: dict[str, Settings]) -> Hypervisors:
        """bus: the cell's. control: where network and images are."""
        machines = Machines(GuestJournal(self.state.path / "instances" / "fake-guests.jsonl")) if self.driver == "fake" else None
        reach = ReachOverBus(control, runtime, self.plan.node)
        return Hypervisors(self.plan, runtime, self.log, control, settings, reach, machines=machines, cell_bus=bus)

    async def _start(self, hypervisors: Hypervisors) -> None:
        await hypervisors.start_networks()
        await hypervisors.start_guests()
        hypervisors.start_heart()
        names = self.plan.hypervisors()
        self.tell(f"  hypervisor {names[0]}{f' and {len(names) - 1} more' if len(names) > 1 else ''}, driver {self.driver}")


def run_hypervisor(settled: Settled, state: StateDir, tell: Tell, ready: Callable[[Sequence[str], Mapping[str, str]], None]) -> None:
    """Until a signal. The lock on the state must be ours."""
    process = HypervisorProcess(settled, state, tell)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(process.run(lambda: ready((), {})))
