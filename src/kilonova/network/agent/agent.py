"""One host's network agent.

It asks for the whole desired state when it starts, every few minutes, after a command has failed, and when it is told to; between, commands
bring changes. Commands of one stage run side by side; a synchronisation runs alone. Commands that were waiting when a whole state arrived
are part of that state and are passed over. Over a broker a command may arrive before the state that it changes: each names the session of
its state.

Several processes may lead, one after the other. The agent reports to the one that told it its state, and to whoever answers the common
address when that one does not; it believes nobody whose epoch is lower than one that it has heard of. (Epoch 0: there is only one process,
or an older program.)
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import Any

from kilonova.core.bus import Bus, Undelivered
from kilonova.core.errors import Conflict, Error
from kilonova.core.log import Log
from kilonova.core.runtime import Runtime
from kilonova.core.tasks import Tasks
from kilonova.network import rpc
from kilonova.network.drivers import Driver, DriverError

RETRY_S = 2.0
RETRY_MAX_S = 60.0


class OtherSession(Conflict):
    code = "network.other_session"
    title = "The agent of {host} was told its state in another session; it is synchronised when it asks again."


class OldEpoch(Conflict):
    code = "network.old_epoch"
    title = "The agent of {host} has heard of a newer leader (epoch {known}) than the one that spoke (epoch {epoch})."


class OutOfTurn(Conflict):
    code = "network.out_of_turn"
    title = "The agent of {host} expected command {expected} of the session and got {number}; it asks for its whole state."


SESSIONS = 4
"""Sessions whose commands are counted: the one that holds, and those whose state has not arrived."""


class NetworkAgent:
    def __init__(
        self,
        *,
        host: str,
        driver: Driver,
        bus: Bus,
        runtime: Runtime,
        log: Log,
        vtep_ip: str = "",
        availability_zone: str = "nova",
        report_interval_s: float = 30.0,
        resync_interval_s: float = 300.0,
    ) -> None:
        self.host = host
        self.driver = driver
        self.bus = bus
        self.runtime = runtime
        self.log = log
        self.vtep_ip = vtep_ip
        self.availability_zone = availability_zone
        self.report_interval_s = report_interval_s
        self.resync_interval_s = resync_interval_s
        self.tasks = Tasks(runtime, log)
        self.syncs = 0
        self.failures = 0
        """Commands and synchronisations failed since the last good synchronisation."""
        self._facts: list[rpc.Fact] = []
        self._reporting = False
        self._sync_due = False
        self._generation = 0
        self._session = ""
        self._epoch = 0
        self._leader = ""
        """Where the process that leads hears facts; empty: the common address."""
        self._numbers: dict[str, int] = {}
        """session -> the last command of it that has arrived"""
        self._hurry = asyncio.Event()
        self._gate = _Gate()

    # ---- life

    async def start(self) -> None:
        """Ready for commands. Without the network service the agent keeps asking for its state until it gets it."""
        await self.driver.start()
        handlers: dict[type[Any], Callable[[Any], Awaitable[Any]]] = {
            rpc.Plug: self._command(lambda m: self.driver.plug(m.port, m.network, m.subnets, m.groups)),
            rpc.Unplug: self._command(lambda m: self.driver.unplug(m.port_id)),
            rpc.PutNetwork: self._command(lambda m: self.driver.put_network(m.network, m.subnets)),
            rpc.DeleteNetwork: self._command(lambda m: self.driver.delete_network(m.network_id)),
            rpc.PutRouter: self._command(lambda m: self.driver.put_router(m.router)),
            rpc.DeleteRouter: self._command(lambda m: self.driver.delete_router(m.router_id)),
            rpc.PutGroup: self._command(lambda m: self.driver.put_group(m.group)),
            rpc.DeleteGroup: self._command(lambda m: self.driver.delete_group(m.group_id)),
            rpc.PutRemotePorts: self._command(lambda m: self.driver.put_remote_ports(m.remote_ports)),
            rpc.DeleteRemotePorts: self._command(lambda m: self.driver.delete_remote_ports(m.keys)),
            rpc.PutPeers: self._command(lambda m: self.driver.put_peers(m.peers)),
            rpc.Resync: self._resync_asked,
        }
        self.bus.serve(rpc.agent_address(self.host), handlers)
        await self.resync()
        self.tasks.every(f"heartbeat of {self.host}", self.report_interval_s, self._heartbeat)
        self.tasks.every(f"resync of {self.host}", self.resync_interval_s, self.resync)

    async def stop(self) -> None:
        """The dataplane stays as it is: guests live on."""
        self.bus.silence(rpc.agent_address(self.host))
        await self.tasks.stop()
        await self.driver.stop()

    async def _heartbeat(self) -> None:
        self.bus.cast(rpc.FACTS, rpc.Heartbeat(host=self.host))

    # ---- the whole state

    async def resync(self) -> bool:
        """Register, ask for the desired state, realise it, and report. False when that did not work; it is tried again then."""
        async with self._gate.alone():
            try:
                described = await self.driver.describe()
                hello = rpc.AgentStarted(
                    host=self.host, vtep_ip=self.vtep_ip, availability_zone=self.availability_zone, description=described
                )
                await self._tell(hello)
                state = await self._tell(rpc.StateWanted(host=self.host))
                self._heed(state.epoch, state.facts_address)
                self._generation += 1
                self._session = state.session
                self._numbers = {state.session: self._numbers.get(state.session, 0)}
                done = await self.driver.sync(state)
            except Exception as error:
                if not isinstance(error, DriverError):
                    self._leader = ""
                log = self.log.warning if isinstance(error, (DriverError, Error)) else self.log.error
                log("synchronisation failed", host=self.host, error=error)
                self._resync_later()
                return False
        self.syncs += 1
        self.failures = 0
        self._report(done)
        if done.failed:
            for failure in done.failed:
                self.log.warning("could not be realised", host=self.host, what=str(failure))
            self._resync_later()
        return True

    async def _tell(self, message: Any) -> Any:
        """To the process that leads, or to whoever answers for it."""
        if self._leader:
            try:
                return await self.bus.call(self._leader, message)
            except Undelivered:
                self._leader = ""
        return await self.bus.call(rpc.FACTS, message)

    def broker_is_back(self) -> None:
        """Commands may have been lost while it was away, and whoever leads thinks that this host is gone."""
        self._resync_later(at_once=True)

    async def _resync_asked(self, message: rpc.Resync) -> None:
        self._heed(message.epoch, message.facts_address)
        self._resync_later(at_once=True)

    def _heed(self, epoch: int, facts_address: str) -> None:
        """Whoever speaks leads, for all that is known. Raises OldEpoch."""
        if 0 < epoch < self._epoch:
            raise OldEpoch(host=self.host, known=self._epoch, epoch=epoch)
        self._epoch, self._leader = epoch, facts_address

    def _resync_later(self, *, at_once: bool = False) -> None:
        """One synchronisation soon, after a pause that grows with the failures in a row."""
        self.failures += 0 if at_once else 1
        if at_once:
            self._hurry.set()
        if self._sync_due or self.tasks.closed:
            return
        self._sync_due = True
        pause_s = 0.0 if at_once else min(RETRY_S * 2 ** min(self.failures - 1, 10), RETRY_MAX_S)
        self.tasks.start(f"resync of {self.host} soon", self._resync_after(pause_s))

    async def _resync_after(self, pause_s: float) -> None:
        """Sooner, when somebody asks for it."""
        if pause_s:
            self._hurry.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause_s):
                    await self._hurry.wait()
        self._sync_due = False
        await self.resync()

    # ---- commands

    def _command(self, run: Callable[[Any], Awaitable[Any]]) -> Callable[[Any], Awaitable[None]]:
        async def handle(message: Any) -> None:
            arrived = self._generation
            if message.number:
                self._count(message)
            async with self._gate.shared():
                if message.session and message.session != self._session:
                    raise OtherSession(host=self.host)
                if not message.session and arrived != self._generation:
                    return
                try:
                    fact = await run(message)
                except Exception as error:
                    log = self.log.warning if isinstance(error, DriverError) else self.log.error
                    log("command failed", host=self.host, command=type(message).__name__, error=error)
                    failure = _failure(message, error.reason if isinstance(error, DriverError) else "an error of the network driver")
                    if failure is not None:
                        self._report(failure)
                    self._resync_later()
                    return
            if isinstance(fact, (rpc.PortWired, rpc.PortUnplugged, rpc.NetworkReady, rpc.RouterReady)):
                self._report(fact)

        return handle

    def _count(self, message: rpc.Ordered) -> None:
        """Handlers start in the order in which commands were sent. Raises OldEpoch, OutOfTurn."""
        if 0 < message.epoch < self._epoch:
            raise OldEpoch(host=self.host, known=self._epoch, epoch=message.epoch)
        last = self._numbers.get(message.session)
        if last is None:
            last = 0
            for old in [session for session in self._numbers if session != self._session][: 1 - SESSIONS]:
                del self._numbers[old]
        if message.number != last + 1:
            self._resync_later(at_once=True)
            raise OutOfTurn(host=self.host, expected=last + 1, number=message.number)
        self._numbers[message.session] = message.number

    # ---- facts

    def _report(self, fact: rpc.Fact) -> None:
        self._facts.append(fact)
        if not self._reporting and not self.tasks.closed:
            self._reporting = True
            self.tasks.start(f"facts of {self.host}", self._send_facts())

    async def _send_facts(self) -> None:
        """In order, each batch until it has been taken."""
        try:
            while self._facts:
                batch = tuple(self._facts)
                try:
                    await self._tell(rpc.HostFacts(host=self.host, facts=batch))
                except Error as error:
                    self._leader = ""
                    self.log.warning("facts were not taken", host=self.host, error=error)
                    await self.runtime.sleep(RETRY_S)
                    continue
                del self._facts[: len(batch)]
        finally:
            self._reporting = False


def _failure(message: Any, reason: str) -> rpc.Fact | None:
    match message:
        case rpc.Plug():
            return rpc.PortFailed(port_id=message.port.id, reason=reason)
        case rpc.PutNetwork():
            return rpc.NetworkFailed(network_id=message.network.id, reason=reason)
        case rpc.PutRouter():
            return rpc.RouterFailed(router_id=message.router.id, reason=reason)
    return None


class _Gate:
    """Many commands, or one synchronisation; a synchronisation that waits lets no further command in."""

    def __init__(self) -> None:
        self.running = 0
        self.waiting = 0
        self._alone = False
        self._free = asyncio.Condition()

    @property
    def wide_open(self) -> bool:
        return not self._alone and not self.waiting

    def shared(self) -> "_Shared":
        return _Shared(self)

    def alone(self) -> "_Alone":
        return _Alone(self)

    async def enter(self) -> None:
        async with self._free:
            while not self.wide_open:
                await self._free.wait()
            self.running += 1

    async def left(self) -> None:
        async with self._free:
            self._free.notify_all()

    async def close(self) -> None:
        async with self._free:
            self.waiting += 1
            try:
                while self._alone or self.running:
                    await self._free.wait()
                self._alone = True
            finally:
                self.waiting -= 1

    async def open(self) -> None:
        async with self._free:
            self._alone = False
            self._free.notify_all()


class _Shared:
    def __init__(self, gate: _Gate) -> None:
        self._gate = gate

    async def __aenter__(self) -> None:
        gate = self._gate
        if gate.wide_open:
            gate.running += 1  # nobody can come between: the usual case needs no lock
        else:
            await gate.enter()

    async def __aexit__(self, *error: object) -> None:
        gate = self._gate
        gate.running -= 1
        if gate.waiting:
            await gate.left()


class _Alone:
    def __init__(self, gate: _Gate) -> None:
        self._gate = gate

    async def __aenter__(self) -> None:
        await self._gate.close()

    async def __aexit__(self, *error: object) -> None:
        await self._gate.open()
