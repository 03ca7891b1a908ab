"""Sends each host what has changed for it, in order, one batch at a time.

What a host's own ports and routers wait for goes out at once; news about others (addresses, members of groups, peers) is collected for a
moment, so that a storm of boots becomes few messages: for `window_s`, and the longer the last round took, so that news costs a bounded
share of the process. A round tells each host once: what comes up meanwhile waits for the next round. A host that does not answer is left
alone until its agent asks for its state.

Where several processes could do this, only the one that leads does (`leadership.py`): `lead` begins it, `rest` ends it, and before each
stage of commands it is asked whether it still may.
"""

from collections.abc import Callable

import msgspec

from kilonova.core.bus import Bus
from kilonova.core.errors import Error
from kilonova.core.log import Log
from kilonova.core.runtime import Runtime
from kilonova.core.tasks import Tasks
from kilonova.network import rpc
from kilonova.network.domain.topology import Topology

SIDE_BY_SIDE = 8
CALL_TIMEOUT_S = 120.0
PAUSE = 99
"""A round of news is followed by a pause this many times as long as it took, at most MAX_WINDOW_S."""
MAX_WINDOW_S = 2.0


class Dispatcher:
    def __init__(self, *, topology: Topology, bus: Bus, tasks: Tasks, runtime: Runtime, log: Log, window_s: float) -> None:
        self.topology = topology
        self.bus = bus
        self.tasks = tasks
        self.runtime = runtime
        self.log = log
        self.window_s = window_s
        self.leading = True
        self.epoch = 0
        self.facts_address = ""
        self.acting: Callable[[], bool] | None = None
        """Asked before each stage; None: nobody else could be."""
        self.online: dict[str, int] = {}
        """Hosts whose agents take commands -> how often they have asked for their state."""
        self.sent = 0
        self._asked = 0
        self._numbers: dict[str, int] = {}
        """host -> commands sent in its session"""
        self._life = runtime.uuid_hex()[:8]
        self._sending: dict[str, bool] = {}
        """Hosts that are being told something -> whether they shall be told news about others too, before that ends"""
        self._collecting = False
        self._round_began: float | None = None
        self._round_s = 0.0

    def lead(self, epoch: int, facts_address: str) -> None:
        """From now on this process commands: nobody has been told anything by it."""
        self.leading, self.epoch, self.facts_address = True, epoch, facts_address
        self._life = self.runtime.uuid_hex()[:8]
        self.online.clear()

    def rest(self) -> None:
        """Somebody else does."""
        self.leading = False
        self.online.clear()
        self.topology.forget_news()

    def may_act(self) -> bool:
        return self.leading and (self.acting is None or self.acting())

    def call_in(self, host: str) -> None:
        """Ask a host's agent to ask for its state."""
        self.bus.cast(rpc.agent_address(host), rpc.Resync(epoch=self.epoch, facts_address=self.facts_address))

    def forget_told(self) -> list[str]:
        """What hosts were told is not so any more: they get nothing until they ask. Returns who they were."""
        hosts = list(self.online)
        self.online.clear()
        return hosts

    def kick(self) -> None:
        """Something may have changed."""
        if not self.leading:
            return
        for host in self.topology.urgent():
            self._start(host, news=False)
        if self.topology.has_news and not self._collecting and not self.tasks.closed and self.online:
            self._collecting = True
            self.tasks.start("collect network news", self._collect())

    async def _collect(self) -> None:
        await self.runtime.sleep(max(self.window_s, min(PAUSE * self._round_s, MAX_WINDOW_S)))
        self._collecting = False
        self._round_began = self.runtime.monotonic()
        urgent, calm = self.topology.waiting()
        self.topology.has_news = False
        for host in [*urgent, *calm]:
            self._start(host, news=True)

    def _start(self, host: str, *, news: bool) -> None:
        if host in self._sending:
            self._sending[host] |= news
        elif host in self.online and not self.tasks.closed:
            self._sending[host] = news
            self.tasks.start(f"network commands to {host}", self._send(host))

    async def _send(self, host: str) -> None:
        epoch = self.online.get(host)
        try:
            while self.online.get(host) == epoch and self.may_act():
                news, self._sending[host] = self._sending[host], False  # what comes from now on waits for the next round
                order = self.topology.take(host, news=news)
                if not order:
                    return
                if order.resync:
                    self.online.pop(host, None)
                    self.call_in(host)
                    return
                for stage in order.stages:
                    if self.online.get(host) != epoch:
                        return
                    if not self.may_act():
                        self.online.pop(host, None)  # it has not got all of the order
                        return
                    await self._stage(host, stage, self._session(epoch))
        except Exception as error:
            if self.online.get(host) == epoch:
                self.online.pop(host, None)
                log = self.log.warning if isinstance(error, Error) else self.log.error
                log("host does not take commands; it is synchronised when it is back", host=host, error=error)
        finally:
            self._sending.pop(host, None)
            if not self._sending and self._round_began is not None:
                self._round_s, self._round_began = self.runtime.monotonic() - self._round_began, None
            if self.online.get(host) not in (None, epoch):
                self.kick()

    def _session(self, epoch: int | None) -> str:
        return f"{self._life}-{epoch}"

    async def _stage(self, host: str, stage: tuple[rpc.Command, ...], session: str) -> None:
        address = rpc.agent_address(host)
        first, at = self._numbers.get(host, 0) + 1, self.epoch
        stage = tuple([msgspec.structs.replace(c, session=session, number=n, epoch=at) for n, c in enumerate(stage, first)])
        self._numbers[host] = first + len(stage) - 1
        self.sent += len(stage)
        if len(stage) == 1:
            await self.bus.call(address, stage[0], CALL_TIMEOUT_S)
        else:
            calls = [self.bus.call(address, command, CALL_TIMEOUT_S) for command in stage]
            await self.tasks.gather(f"network commands to {host}", calls, SIDE_BY_SIDE)

    def whole(self, host: str) -> rpc.HostState:
        """The host's whole state; from now on it is sent changes."""
        self._asked += 1
        self.online[host] = self._asked
        self._numbers[host] = 0
        state = self.topology.told(host)
        self.kick()
        session = self._session(self._asked)
        return msgspec.structs.replace(state, session=session, epoch=self.epoch, facts_address=self.facts_address)
