"""Host aggregates. None can be made yet, so there are none; tools that show a hypervisor ask for the list."""

from typing import Any

from kilonova.compute.service import ComputeService
from kilonova.core.context import Context
from kilonova.core.http import Request


async def index(c: ComputeService, ctx: Context, req: Request) -> Any:
    return {"aggregates": []}
