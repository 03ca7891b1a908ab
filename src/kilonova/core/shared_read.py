"""One read for all who ask while another is under way."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class SharedRead(Generic[T]):
    """What `read` says, read after each caller has asked: nobody gets an answer that is older than his question."""

    def __init__(self, read: Callable[[], Awaitable[T]]) -> None:
        self._read = read
        self._turn = asyncio.Lock()
        self._begun = 0
        self._answer: tuple[int, T] | None = None
        """(which read it was, what it said)"""

    async def get(self) -> T:
        asked = self._begun
        async with self._turn:
            if self._answer is not None and self._answer[0] > asked:
                return self._answer[1]
            number = self._begun = self._begun + 1
            said = await self._read()
            self._answer = (number, said)
            return said
