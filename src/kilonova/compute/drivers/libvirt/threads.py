"""Calls that block, in threads."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

T = TypeVar("T")


class Overdue(Exception):
    """The call goes on in its thread."""


async def run(
    pool: ThreadPoolExecutor,
    function: Callable[..., T],
    *arguments: Any,
    timeout_s: float | None = None,
    give_up: Callable[[], None] | None = None,
) -> T:
    """function(*arguments) in a thread of the pool; Overdue after `timeout_s`.

    When the caller is cancelled, a call that has not begun never does, and one that has is waited for: what it did must be known, and
    whoever clears up must not do so beside it. `give_up` is told then, to shorten the wait; it must not block.
    """
    call = pool.submit(function, *arguments)
    future = asyncio.wrap_future(call)
    try:
        done, _ = await asyncio.wait([future], timeout=timeout_s)
    except asyncio.CancelledError:
        if not call.cancel():
            if give_up is not None:
                give_up()
            done, _ = await asyncio.wait([future], timeout=timeout_s)
            if done:
                future.exception()  # nobody else asks
        raise
    if not done:
        raise Overdue
    return future.result()
