"""/resource_classes"""

from typing import Any

from kilonova.core.context import Context
from kilonova.core.db import Duplicate, Transaction
from kilonova.core.http import Reply, Request
from kilonova.placement.api import query, views
from kilonova.placement.api.bodies import NewClass
from kilonova.placement.errors import ClassExists, ClassInUse, ClassNotFound, InvalidBody, StandardClass
from kilonova.placement.model import is_custom_name
from kilonova.placement.service import PlacementService
from kilonova.placement.standard_names import CLASS_SET, CLASSES
from kilonova.placement.store import names


def _location(req: Request, name: str) -> dict[str, str]:
    return {"location": f"{req.base_url}{req.prefix}/resource_classes/{name}"}


async def list(c: PlacementService, ctx: Context, req: Request) -> Any:
    query.only(req, ())
    custom = await names.classes.every(c.db)
    views.dated(req, max((created for _, created, _ in custom), default=c.runtime.now_us()))
    return {"resource_classes": [views.resource_class(req, name) for name in (*CLASSES, *(name for name, _, _ in custom))]}


async def create(c: PlacementService, ctx: Context, req: Request, body: NewClass) -> Reply:
    now = c.runtime.now_us()
    try:
        await c.db.transact(lambda tx: names.classes.insert(tx, body.name, now))
    except Duplicate:
        raise ClassExists(name=body.name) from None
    return Reply(None, 201, _location(req, body.name))


async def show(c: PlacementService, ctx: Context, req: Request, name: str) -> Any:
    created = await names.classes.created_at(c.db, name)
    if created is None and name not in CLASS_SET:
        raise ClassNotFound(name=name[:255])
    views.dated(req, created or c.runtime.now_us())
    return views.resource_class(req, name)


async def put(c: PlacementService, ctx: Context, req: Request, name: str) -> Reply:
    """Since 1.7: make it unless it exists."""
    if not is_custom_name(name):
        raise InvalidBody(f"'{name[:255]}' does not match '^CUSTOM_[A-Z0-9_]+$'")
    now = c.runtime.now_us()
    try:
        await c.db.transact(lambda tx: names.classes.insert(tx, name, now))
    except Duplicate:
        return Reply(None, 204, _location(req, name))
    return Reply(None, 201, _location(req, name))


async def rename(c: PlacementService, ctx: Context, req: Request, name: str, body: NewClass) -> Any:
    """1.2 to 1.6."""
    if name in CLASS_SET:
        raise StandardClass(verb="update", name=name)

    async def write(tx: Transaction) -> None:
        if not await names.classes.rename(tx, name, body.name):
            raise await _why(tx, name)

    try:
        await c.db.transact(write)
    except Duplicate:
        raise ClassExists(name=body.name) from None
    return views.resource_class(req, body.name)


async def delete(c: PlacementService, ctx: Context, req: Request, name: str) -> None:
    if name in CLASS_SET:
        raise StandardClass(verb="delete", name=name)

    async def write(tx: Transaction) -> None:
        if not await names.classes.delete(tx, name):
            raise await _why(tx, name)

    await c.db.transact(write)


async def _why(tx: Transaction, name: str) -> ClassNotFound | ClassInUse:
    return ClassNotFound(name=name[:255]) if await names.classes.created_at(tx, name) is None else ClassInUse(name=name)
