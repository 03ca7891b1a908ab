"""What runs on a hypervisor: commands in, a driver's verbs out, facts up. An agent never opens the database.

Commands for one server are carried out one after the other; one that carries a lower (generation, epoch, number) than the agent has seen
for the server is refused: it comes from a runner that was overtaken, or it came late or twice.

Every few minutes the agent compares its guests with what the rows say (`report`): messages get lost, and a delete passes over a host
that is down. A guest of nobody is ended; of a server that no verb is working on the true state is told.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

from kilonova.compute import rpc
from kilonova.compute.drivers import Driver, DriverError, GuestEvent, GuestSpec, ImageSpec, NicSpec, PowerState
from kilonova.compute.errors import Overtaken
from kilonova.core.bus import Bus
from kilonova.core.errors import Error
from kilonova.core.log import Log
from kilonova.core.runtime import Runtime
from kilonova.core.tasks import Tasks

FACTS = "compute.facts"
REPORT_INTERVAL_S = 120.0
RETRY_S = 5.0
"""After a report that was not taken."""
Fetch = Callable[[str, str], Awaitable[None]]
"""(image id, path): an image's bytes into a file."""
Store = Callable[[str, str], Awaitable[None]]
"""(image id, path): a file's bytes into an image that waits for them."""


class HypervisorFailed(Error):
    """A driver could not do what it was told. The reason is fit for users; details are in the host's log."""

    code = "compute.hypervisor_failed"
    title = "{reason}"


class _Turn:
    """Of the commands for one server. A lock that somebody waits for must not be forgotten, even while nobody holds it."""

    __slots__ = ("lock", "users")

    def __init__(self) -> None:
        self.lock = asyncio.Lock()
        self.users = 0


class ComputeAgent:
    def __init__(
        self,
        *,
        host: str,
        driver: Driver,
        bus: Bus,
        runtime: Runtime,
        log: Log,
        fetch: Fetch,
        store: Store,
        builds: int = 16,
        report_interval_s: float = REPORT_INTERVAL_S,
    ) -> None:
        self.host = host
        self.driver = driver
        self.bus = bus
        self.runtime = runtime
        self.log = log
        self.tasks = Tasks(runtime, log)
        self._fetch = fetch
        self._store = store
        self._builds = asyncio.Semaphore(builds)
        self._report_interval_s = report_interval_s
        self._seen: dict[str, tuple[int, int, int]] = {}
        """Server -> generation, epoch and number of the highest command."""
        self._turns: dict[str, _Turn] = {}

    async def start(self) -> None:
        """Start the driver, take commands, and introduce this host (again and again, while nobody takes its report)."""
        await self.driver.start(self._happened)
        self.bus.serve(
            f"compute.{self.host}",
            {
                rpc.Spawn: self.spawn,
                rpc.Destroy: self.destroy,
                rpc.PowerOn: self.power_on,
                rpc.PowerOff: self.power_off,
                rpc.Reboot: self.reboot,
                rpc.Snapshot: self.snapshot,
                rpc.ReadConsole: self.read_console,
            },
        )
        introduced = await self._introduced()
        self.tasks.start(f"report of {self.host}", self._reports(introduced=introduced))

    async def _introduced(self) -> bool:
        try:
            await self.report()
        except (Error, DriverError) as error:
            self.log.warning("report not taken", host=self.host, error=error)
            return False
        return True

    async def _reports(self, *, introduced: bool) -> None:
        while True:
            await self.runtime.sleep(self._report_interval_s if introduced else RETRY_S)
            try:
                introduced = await self._introduced()
            except Exception as error:
                introduced = False
                self.log.error("report failed", host=self.host, error=error)

    async def report(self) -> None:
        """Tell the resources; then end guests that belong to nobody, and tell the state of those whose row says another."""
        r = await self.driver.resources()
        before = {guest.server_id: self._seen.get(guest.server_id) for guest in await self.driver.list_guests()}
        accepted: rpc.HostAccepted = await self.bus.call(
            FACTS,
            rpc.HostReport(
                host=self.host,
                hypervisor_hostname=r.hypervisor_hostname,
                hypervisor_type=r.hypervisor_type,
                hypervisor_version=r.hypervisor_version,
                vcpus=r.vcpus,
                ram_mb=r.ram_mb,
                disk_gb=r.disk_gb,
                cpu_info=r.cpu_info,
            ),
        )
        if accepted.complete:
            ours = frozenset(accepted.servers)
            for server_id, seen in before.items():
                if server_id not in ours:
                    await self._remove(server_id, seen)
        states = {guest.server_id: guest for guest in await self.driver.list_guests()}
        for server_id, (generation, known) in accepted.settled.items():
            guest = states.get(server_id)
            power_state = int(guest.power_state) if guest is not None else int(PowerState.SHUTDOWN)
            if power_state != known:
                reason = (guest.reason if guest is not None else "") or "seen by its host"
                changed = rpc.GuestChanged(
                    host=self.host, server_id=server_id, power_state=power_state, reason=reason, generation=generation
                )
                await self.bus.call(FACTS, changed)

    async def _remove(self, server_id: str, seen: tuple[int, int, int] | None) -> None:
        """End a guest that belongs to nobody, unless a command for it has come meanwhile."""
        async with self._turn(server_id):
            if self._seen.get(server_id) == seen:
                self.log.warning("guest belongs to no server; removing it", server=server_id, host=self.host)
                try:
                    await self.driver.destroy(server_id)
                except DriverError as error:
                    self.log.error("guest of nobody was not removed; it is tried again", server=server_id, host=self.host, error=error)

    async def stop(self) -> None:
        """Guests live on."""
        self.bus.silence(f"compute.{self.host}")
        await self.tasks.stop()
        await self.driver.stop()

    async def _happened(self, event: GuestEvent) -> None:
        changed = rpc.GuestChanged(
            host=self.host,
            server_id=event.server_id,
            power_state=int(event.power_state),
            reason=event.reason,
            generation=self._seen.get(event.server_id, (0, 0, 0))[0],
        )
        try:
            await self.bus.call(FACTS, changed)
        except Error as error:
            self.log.warning("fact not delivered", server=event.server_id, error=error)

    # ---- commands

    @contextlib.asynccontextmanager
    async def _turn(self, server_id: str) -> AsyncIterator[None]:
        turn = self._turns.setdefault(server_id, _Turn())
        turn.users += 1
        try:
            async with turn.lock:
                yield
        finally:
            turn.users -= 1

    async def _ordered(self, fence: rpc.Fence, server_id: str, verb: Callable[[], Awaitable[Any]]) -> Any:
        mine = (fence.generation, fence.epoch, fence.number)
        self._admit(server_id, mine)
        async with self._turn(server_id):
            self._admit(server_id, mine)
            try:
                self.runtime.point(f"driver {self.host}")
                result = await verb()
                self.runtime.point(f"driven {self.host}")
            except DriverError as error:
                self.log.error("hypervisor failed", server=server_id, host=self.host, error=error, detail=getattr(error, "detail", ""))
                raise HypervisorFailed(error.reason) from error
            except Error:
                raise
            except Exception as error:
                # Its text is the system's (paths, addresses): it stays in the log.
                self.log.error("hypervisor failed unexpectedly", server=server_id, host=self.host, error=error)
                raise HypervisorFailed("The hypervisor failed unexpectedly; the log of the server's host has the details.") from error
        return result

    def _admit(self, server_id: str, mine: tuple[int, int, int]) -> None:
        if mine < self._seen.get(server_id, (0, 0, 0)):
            raise Overtaken(server=server_id)
        self._seen[server_id] = mine

    async def spawn(self, command: rpc.Spawn) -> rpc.Done:
        async def verb() -> rpc.Done:
            async with self._builds:
                await self.driver.spawn(_spec(command.guest), self._fetch, replace_disk=command.replace_disk)
            return await self._state(command.guest.server_id)

        return await self._ordered(command.fence, command.guest.server_id, verb)  # type: ignore[no-any-return]

    async def destroy(self, command: rpc.Destroy) -> rpc.Done:
        async def verb() -> rpc.Done:
            await self.driver.destroy(command.server_id)
            return rpc.Done(power_state=0)

        done: rpc.Done = await self._ordered(command.fence, command.server_id, verb)
        turn = self._turns.get(command.server_id)
        if turn is not None and not turn.users:
            self._turns.pop(command.server_id, None)
        if len(self._seen) > 100_000:
            self._seen = {k: v for k, v in self._seen.items() if k in self._turns}
        return done

    async def power_on(self, command: rpc.PowerOn) -> rpc.Done:
        async def verb() -> rpc.Done:
            await self.driver.power_on(_spec(command.guest))
            return await self._state(command.guest.server_id)

        return await self._ordered(command.fence, command.guest.server_id, verb)  # type: ignore[no-any-return]

    async def power_off(self, command: rpc.PowerOff) -> rpc.Done:
        async def verb() -> rpc.Done:
            await self.driver.power_off(command.server_id, command.timeout_s)
            return await self._state(command.server_id)

        return await self._ordered(command.fence, command.server_id, verb)  # type: ignore[no-any-return]

    async def reboot(self, command: rpc.Reboot) -> rpc.Done:
        async def verb() -> rpc.Done:
            if command.hard:
                await self.driver.reboot_hard(_spec(command.guest))
            else:
                await self.driver.reboot_soft(command.guest.server_id)
            return await self._state(command.guest.server_id)

        return await self._ordered(command.fence, command.guest.server_id, verb)  # type: ignore[no-any-return]

    async def snapshot(self, command: rpc.Snapshot) -> rpc.Done:
        """It takes no turn: a delete must not wait until a large disk is copied."""
        self._admit(command.server_id, (command.fence.generation, command.fence.epoch, command.fence.number))

        async def store(path: str) -> None:
            await self._store(command.image_id, path)

        try:
            self.runtime.point(f"driver {self.host}")
            await self.driver.snapshot(command.server_id, store)
            self.runtime.point(f"driven {self.host}")
        except DriverError as error:
            self.log.error("snapshot failed", server=command.server_id, host=self.host, error=error, detail=error.detail)
            raise HypervisorFailed(error.reason) from error
        return await self._state(command.server_id)

    async def read_console(self, command: rpc.ReadConsole) -> rpc.Console:
        try:
            return rpc.Console(text=await self.driver.console_output(command.server_id, command.lines))
        except DriverError as error:
            raise HypervisorFailed(error.reason) from error

    async def _state(self, server_id: str) -> rpc.Done:
        state = await self.driver.state(server_id)
        return rpc.Done(power_state=int(state.power_state) if state is not None else 4)


def _spec(guest: rpc.Guest) -> GuestSpec:
    image = guest.image
    return GuestSpec(
        server_id=guest.server_id,
        name=guest.instance_name,
        vcpus=guest.vcpus,
        ram_mb=guest.ram_mb,
        root_gb=guest.root_gb,
        ephemeral_gb=guest.ephemeral_gb,
        swap_mb=guest.swap_mb,
        image=None
        if image is None
        else ImageSpec(
            id=image.id,
            disk_format=image.disk_format,
            size=image.size,
            virtual_size=image.virtual_size,
            os_hash_algo=image.os_hash_algo,
            os_hash_value=image.os_hash_value,
        ),
        nics=tuple(NicSpec(port_id=n.port_id, mac=n.mac, device_name=n.device_name, mtu=n.mtu) for n in guest.nics),
        config_drive=guest.config_drive,
        properties=guest.properties,
    )


class Heart:
    """The heartbeat of all agents of one process: one message for all of them, which nobody answers. One that is lost is made up for by the
    next, long before its hosts count as down."""

    def __init__(self, agents: list[ComputeAgent], bus: Bus, interval_s: float) -> None:
        self._agents = agents
        self._bus = bus
        self.interval_s = interval_s

    async def beat(self) -> None:
        self._bus.cast(FACTS, rpc.Alive(hosts=tuple(agent.host for agent in self._agents)))
