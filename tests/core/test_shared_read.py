"""Nobody gets an answer older than his question, and few reads serve many."""

import asyncio

import pytest

from kilonova.core.shared_read import SharedRead


def test_who_asks_during_a_read_shares_the_next_one() -> None:
    async def main() -> None:
        truth, reads = 0, 0

        async def read() -> int:
            nonlocal reads
            reads += 1
            seen = truth
            await asyncio.sleep(0.01)
            return seen

        shared = SharedRead(read)
        first = asyncio.create_task(shared.get())
        await asyncio.sleep(0)
        truth = 1
        late = [asyncio.create_task(shared.get()) for _ in range(5)]
        await asyncio.sleep(0)
        late[0].cancel()
        assert await first == 0
        assert await asyncio.gather(*late[1:]) == [1] * 4
        assert reads == 2
        truth = 2
        assert await shared.get() == 2

    asyncio.run(main())


def test_a_read_that_fails_is_its_askers_alone() -> None:
    async def main() -> None:
        fail = True

        async def read() -> str:
            await asyncio.sleep(0)
            if fail:
                raise OSError
            return "said"

        shared = SharedRead(read)
        asked = [asyncio.create_task(shared.get()) for _ in range(2)]
        await asyncio.sleep(0)
        with pytest.raises(OSError):
            await asked[0]
        fail = False
        assert await asked[1] == "said"

    asyncio.run(main())
