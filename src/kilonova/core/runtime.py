"""The seam between the cloud and the world: clock, chance, sleep and threads.

Everything outside `core` and the drivers asks a `Runtime` for the time, for randomness and for threads, so that the whole cloud
can run on a virtual clock with seeded faults (`kilonova.testing.simulation` has the other implementation).
"""

import asyncio
import random
import secrets
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from kilonova.core.file_sync import FileSync

T = TypeVar("T")
UUIDS_AT_ONCE = 64
"""A boot takes fourteen; asking the system for each costs as much as a statement."""


class Runtime:
    """The real one. `point` is called before and after each thing a crash could separate; tests hook it."""

    def __init__(self, *, threads: int = 8) -> None:
        self.random: random.Random = random.SystemRandom()
        self._uuids: list[str] = []
        self._threads = threads
        self._pools: dict[str, ThreadPoolExecutor] = {}

    def now(self) -> float:
        """Unix time in seconds."""
        return time.time()

    def now_us(self) -> int:
        """Unix time in microseconds: how the databases keep times."""
        return int(self.now() * 1_000_000)

    def monotonic(self) -> float:
        return time.monotonic()

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    def token_bytes(self, count: int) -> bytes:
        return secrets.token_bytes(count)

    def uuid(self) -> str:
        """A UUID with dashes: version 4 to look at, 106 bits of it random. Its first 16 bits are the time in eighths of a second (they
        come round every 2.3 hours): rows that are made together lie together in every index, which halves what a commit writes."""
        try:
            return self._uuids.pop()
        except IndexError:
            self._uuids = _uuids(f"{int(self.now() * 8) & 0xFFFF:04x}", self.token_bytes(16 * UUIDS_AT_ONCE).hex())
            return self._uuids.pop()

    def uuid_hex(self) -> str:
        """A random UUID without dashes, as Keystone writes ids."""
        return self.uuid().replace("-", "")

    def password(self, length: int = 16) -> str:
        """Random letters and digits; ambiguous ones left out."""
        alphabet = "abcdefghijkmnopqrstuvwxyzABCDEFGHJKLMNPQRSTUVWXYZ23456789"
        return "".join(alphabet[b % len(alphabet)] for b in self.token_bytes(length))

    async def blocking(self, function: Callable[..., T], *arguments: Any, pool: str = "default") -> T:
        """Run a function that blocks (bcrypt, a file) in a bounded pool of threads named after its use."""
        executor = self._pools.get(pool)
        if executor is None:
            executor = self._pools[pool] = ThreadPoolExecutor(self._threads, thread_name_prefix=pool)
        return await asyncio.get_running_loop().run_in_executor(executor, function, *arguments)

    def file_sync(self) -> FileSync | None:
        """Where files go to the disk while the loop goes on; None: whoever needs it waits. Call it in the loop."""
        try:
            return FileSync()
        except OSError:
            return None

    def point(self, name: str) -> None:
        """A place where the process may die. Does nothing here."""

    def close(self) -> None:
        for executor in self._pools.values():
            executor.shutdown(wait=False, cancel_futures=True)
        self._pools.clear()


def _uuids(prefix: str, text: str) -> list[str]:
    """Each 32 hexadecimal digits as a version 4 UUID that begins with `prefix` (four digits)."""
    return [
        f"{prefix}{h[4:8]}-{h[8:12]}-4{h[13:16]}-{'89ab'[int(h[16], 16) & 3]}{h[17:20]}-{h[20:]}"
        for h in (text[at : at + 32] for at in range(0, len(text), 32))
    ]
