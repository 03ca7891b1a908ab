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

T = TypeVar("T")


class Runtime:
    """The real one. `point` is called before and after each thing a crash could separate; tests hook it."""

    def __init__(self, *, threads: int = 8) -> None:
        self.random: random.Random = random.SystemRandom()
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
        """A random (version 4) UUID with dashes."""
        raw = bytearray(self.token_bytes(16))
        raw[6] = raw[6] & 0x0F | 0x40
        raw[8] = raw[8] & 0x3F | 0x80
        text = raw.hex()
        return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"

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

    def point(self, name: str) -> None:
        """A place where the process may die. Does nothing here."""

    def close(self) -> None:
        for executor in self._pools.values():
            executor.shutdown(wait=False, cancel_futures=True)
        self._pools.clear()
