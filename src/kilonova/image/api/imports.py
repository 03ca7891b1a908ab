"""Import: staged bytes become the image's. They were hashed and looked at when they came, so an import is a rename."""

from typing import Any

import msgspec

from kilonova.core.context import Context
from kilonova.core.errors import BadRequest
from kilonova.core.http import Reply, Request
from kilonova.image.api import bodies, views
from kilonova.image.api.images import IMPORT_METHODS
from kilonova.image.domain import access
from kilonova.image.errors import FormatMissing, NotStaged, UnknownStore
from kilonova.image.model import Image, Task
from kilonova.image.service import ImageService
from kilonova.image.store import tasks

KEEP_US = 48 * 3600 * 1_000_000


def _wanted(c: ImageService, body: dict[str, Any]) -> None:
    method = body.get("method")
    name = method.get("name") if isinstance(method, dict) else None
    if name is None:
        raise BadRequest("Import request requires a 'method' field with a 'name'.")
    if name not in IMPORT_METHODS:
        raise BadRequest(f"Unknown import method name '{str(name)[:80]}'.")
    stores = body.get("stores")
    if stores is not None and (not isinstance(stores, list) or not all(isinstance(s, str) for s in stores)):
        raise BadRequest("Invalid import request: 'stores' must be a list of store identifiers.")
    if stores is not None and body.get("all_stores"):
        raise BadRequest("All_stores parameter can't be used with x-image-meta-store header or stores parameter")


async def create(c: ImageService, ctx: Context, req: Request, image_id: str) -> Reply:
    body = await bodies.entity(req)
    _wanted(c, body)
    image, _ = await access.find(c.db, ctx, req.allowed, image_id, "modify_image")
    if image.status != "uploading" or image.staged is None:
        raise NotStaged(image=image_id)
    for name in ("container_format", "disk_format"):
        if getattr(image, name) is None:
            raise FormatMissing(name=name)
    for store in body.get("stores") or ():
        if store != c.backend:
            raise UnknownStore(store=store[:80])
    c.uploads.check_format(image, image.staged.format)
    await c.uploads.promote(image)
    await _record(c, ctx, image, body)
    return Reply(None, 202)


async def _record(c: ImageService, ctx: Context, image: Image, body: dict[str, Any]) -> None:
    """What happened, for those who ask afterwards. The properties are how clients see that nothing is left to do."""
    now = c.runtime.now_us()
    task = Task(
        id=c.runtime.uuid(),
        image_id=image.id,
        type="api_image_import",
        status="success",
        owner=ctx.project_id,
        user_id=ctx.user_id,
        request_id=ctx.request_id,
        input={"image_id": image.id, "import_req": body, "backend": [c.backend]},
        message=f"Copied {(image.size or 0) >> 20} MiB",
        created_at=now,
        updated_at=now,
        expires_at=now + KEEP_US,
    )
    await c.db.transact(lambda tx: tasks.insert(tx, task))
    done = {"os_glance_importing_to_stores": "", "os_glance_failed_import": ""}
    await c.change(
        ctx, lambda rule, target: True, image.id, lambda image: msgspec.structs.replace(image, properties={**image.properties, **done})
    )


async def list_tasks(c: ImageService, ctx: Context, req: Request, image_id: str) -> Any:
    image, _ = await access.find(c.db, ctx, req.allowed, image_id, "get_image")
    return {"tasks": [views.task(task) for task in await tasks.of(c.db, image.id)]}
