"""Run an async story against compute alone."""

import asyncio
import io
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from kilonova.core.log import Sink
from kilonova.core.runtime import Runtime
from kilonova.testing.compute import ComputeWorld

Story = Callable[[ComputeWorld], Awaitable[None]]


@pytest.fixture
def compute(tmp_path: Path) -> Callable[..., None]:
    def runner(story: Story, **options: Any) -> None:
        async def main() -> None:
            log = io.StringIO()
            world = ComputeWorld(Runtime(), Sink(log, level="warning"), str(tmp_path / "compute.db"), **options)
            await world.start()
            try:
                await story(world)
            except BaseException:
                print(log.getvalue())
                raise
            finally:
                await world.stop()

        asyncio.run(main())

    return runner
