"""Of several processes of the network service one leads: it serves the agents' address and tells hosts what they shall realise.

The lease says which; its epoch goes out with every command, and agents refuse lower ones. Whoever gets the lease first brings its topology
up to date, then takes office. Whoever cannot renew it leaves office before it runs out.
"""

import asyncio
from collections.abc import Awaitable, Callable

from kilonova.core.leases import Lease
from kilonova.core.log import Log
from kilonova.core.runtime import Runtime
from kilonova.core.tasks import Tasks

RENEW_S = 2.0
TRY_S = 1.0
ATTEMPT_S = 2.0


class Leadership:
    """`prepare` is awaited before office is taken, `take` begins it (with the epoch), `leave` ends it."""

    def __init__(
        self,
        *,
        lease: Lease,
        runtime: Runtime,
        tasks: Tasks,
        log: Log,
        prepare: Callable[[], Awaitable[None]],
        take: Callable[[int], None],
        leave: Callable[[], None],
    ) -> None:
        self.lease = lease
        self.runtime = runtime
        self.tasks = tasks
        self.log = log
        self.epoch = 0
        """Of the office held now; 0: none."""
        self._preparing = False
        self._prepare = prepare
        self._take = take
        self._leave = leave

    def acting(self) -> bool:
        """Whether this process leads, by its own clock too."""
        return self.epoch != 0 and self.lease.valid

    async def run(self) -> None:
        """For ever."""
        while True:
            if self.epoch and not self.lease.valid:
                self.leave()  # even if nobody else has taken it: commands may have been held back
            await self._attempt()
            if self.epoch and not (self.lease.valid and self.lease.epoch == self.epoch):
                self.leave()
            if self.lease.valid and not self.epoch and not self._preparing:
                self._preparing = True
                self.tasks.start("prepare to lead the network agents", self._prepared(self.lease.epoch))
            await self.runtime.sleep(RENEW_S if self.lease.valid else TRY_S)

    async def _attempt(self) -> None:
        """At most as long as what is held is valid."""
        limit_s = min(ATTEMPT_S, self.lease.left_s) if self.lease.valid else ATTEMPT_S
        try:
            async with asyncio.timeout(limit_s):
                await self.lease.attempt()
        except Exception as error:
            self.log.warning("the lease on the network agents could not be asked for", leading=self.epoch != 0, error=error)

    async def _prepared(self, epoch: int) -> None:
        try:
            await self._prepare()
            if self.lease.valid and self.lease.epoch == epoch and not self.epoch:
                self.epoch = epoch
                self.log.info("this process leads the network agents", epoch=epoch)
                self._take(epoch)
        finally:
            self._preparing = False

    def leave(self) -> None:
        """Leave office, if it is held."""
        if self.epoch:
            self.log.warning("this process leads the network agents no more", epoch=self.epoch)
            self.epoch = 0
            self._leave()

    async def release(self) -> None:
        """Let another process take it at once. `run` must have ended."""
        try:
            async with asyncio.timeout(ATTEMPT_S):
                await self.lease.release()
        except Exception as error:
            self.log.warning("the lease on the network agents could not be released; it runs out", error=error)
