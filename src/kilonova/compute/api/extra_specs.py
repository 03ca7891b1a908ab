"""Extra specs of flavors: what a flavor asks of its host beyond sizes."""

import re
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from kilonova.compute.api import values
from kilonova.compute.api.flavors import find
from kilonova.compute.domain import extra_specs
from kilonova.compute.errors import FlavorNotFound
from kilonova.compute.model import Flavor
from kilonova.compute.service import ComputeService
from kilonova.compute.store import flavors
from kilonova.core.context import Context
from kilonova.core.db import Transaction, attempts
from kilonova.core.errors import BadRequest, NotFound
from kilonova.core.http import Reply, Request

Value = Annotated[str, Meta(max_length=255)] | int | float
_NAME = re.compile(r"^[a-zA-Z0-9\-_:. ]{1,255}$")


class Create(msgspec.Struct, forbid_unknown_fields=True):
    extra_specs: dict[str, Value]


Update = Annotated[dict[str, Value], Meta(min_length=1, max_length=1)]


def _checked(req: Request, wanted: dict[str, Value]) -> dict[str, str]:
    out = {}
    for name, value in wanted.items():
        if not _NAME.match(name):
            raise values.invalid("extra_specs", name, f"'{name[:50]}' does not match '^[a-zA-Z0-9-_:. ]{{1,255}}$'")
        out[name] = str(value)
        problem = extra_specs.wrong(name, out[name]) if req.version >= (2, 86) else ""
        if problem:
            raise BadRequest(problem)
    return out


async def _change(c: ComputeService, flavor_id: str, changes: dict[str, str], remove: str = "") -> None:
    """Conditional on what was read, and again when somebody else was quicker."""

    async def body(tx: Transaction) -> int:
        flavor = await flavors.get(tx, flavor_id)
        if flavor is None:
            raise FlavorNotFound(flavor=flavor_id[:255])
        if remove and remove not in flavor.extra_specs:
            raise _missing(flavor_id, remove)
        specs = {k: v for k, v in {**flavor.extra_specs, **changes}.items() if k != remove}
        return await flavors.set_extra_specs(tx, flavor_id, flavor.extra_specs, specs)

    async for _ in attempts(c.runtime):
        if await c.api_db.transact(body):
            return
    raise BadRequest("The extra specs are being changed by others at the same moment; try again.")


def _missing(flavor_id: str, name: str) -> NotFound:
    return NotFound(f"Flavor {flavor_id[:255]} has no extra specs with key {name[:255]}.")


async def index(c: ComputeService, ctx: Context, req: Request, flavor_id: str) -> Any:
    return {"extra_specs": (await find(c, ctx, flavor_id)).extra_specs}


async def show(c: ComputeService, ctx: Context, req: Request, flavor_id: str, spec: str) -> Any:
    flavor: Flavor = await find(c, ctx, flavor_id)
    if spec not in flavor.extra_specs:
        raise _missing(flavor_id, spec)
    return {spec: flavor.extra_specs[spec]}


async def create(c: ComputeService, ctx: Context, req: Request, flavor_id: str, body: Create) -> Any:
    await _change(c, flavor_id, _checked(req, body.extra_specs))
    return {"extra_specs": body.extra_specs}


async def update(c: ComputeService, ctx: Context, req: Request, flavor_id: str, spec: str, body: dict[str, Value]) -> Any:
    if spec not in body:
        raise BadRequest("Request body and URI mismatch")
    await _change(c, flavor_id, _checked(req, body))
    return body


async def delete(c: ComputeService, ctx: Context, req: Request, flavor_id: str, spec: str) -> Reply:
    await _change(c, flavor_id, {}, remove=spec)
    return Reply(b"", 200)
