"""Reading, deciding and writing on the condition that nothing changed: whoever loses the race reads again, a moment later."""

from collections.abc import AsyncIterator

from kilonova.core.runtime import Runtime

PAUSE_S = 0.003
LONGEST_S = 0.1


async def attempts(runtime: Runtime, most: int = 40) -> AsyncIterator[int]:
    """0, 1, 2, …: with pauses by chance that grow, so that the losers of a race do not run it all at once again."""
    for number in range(most):
        if number:
            await runtime.sleep(runtime.random.random() * min(LONGEST_S, PAUSE_S * number))
        yield number
