"""The verbs by name, as operations store them."""

import functools

from kilonova.compute.ops import create, delete, reboot, rebuild, snapshot, start, stop
from kilonova.compute.service import ComputeService
from kilonova.core.errors import Error
from kilonova.core.operations import Operation, Verb


def register(c: ComputeService) -> None:
    """Tell the service's operations how to run and recover each verb."""

    def verb(module: object) -> Verb:
        run, recover, give_up = module.run, module.recover, module.give_up  # type: ignore[attr-defined]

        async def bound_run(op: Operation) -> None:
            await run(c, op)

        async def bound_recover(op: Operation) -> None:
            await recover(c, op)

        async def bound_give_up(op: Operation, error: Error) -> None:
            await give_up(c, op, error)

        overtaken = getattr(module, "overtaken", None)
        return Verb(bound_run, bound_recover, bound_give_up, functools.partial(overtaken, c) if overtaken else None)

    c.api_ops.verbs = {"create": verb(create), "delete": verb(delete)}
    c.cell_verbs |= {
        "start": verb(start),
        "stop": verb(stop),
        "reboot_soft": verb(reboot),
        "reboot_hard": verb(reboot),
        "rebuild": verb(rebuild),
        "snapshot": verb(snapshot),
    }
