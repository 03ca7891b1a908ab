"""/images/{id}/metadata, a proxy up to 2.38: custom properties of an image."""

from typing import Any

from kilonova.compute.api.images import find, missing
from kilonova.compute.api.server_metadata import Item, Metadata, Whole
from kilonova.compute.service import ComputeService
from kilonova.core.context import Context
from kilonova.core.errors import BadRequest, Forbidden, NotFound
from kilonova.core.http import Reply, Request


async def _write(c: ComputeService, ctx: Context, image_id: str, properties: Metadata, remove: tuple[str, ...] = ()) -> Metadata:
    limit = (await c.quota_limits(ctx.project_id or ""))["metadata_items"]
    if 0 <= limit < len(properties):
        raise Forbidden("Image metadata limit exceeded")
    try:
        return (await c.images.update(ctx, image_id, properties, remove)).properties
    except NotFound:
        raise missing(image_id) from None


async def index(c: ComputeService, ctx: Context, req: Request, image_id: str) -> Any:
    return {"metadata": (await find(c, ctx, image_id)).properties}


async def show(c: ComputeService, ctx: Context, req: Request, image_id: str, key: str) -> Any:
    image = await find(c, ctx, image_id)
    if key not in image.properties:
        raise NotFound("Metadata item was not found")
    return {"meta": {key: image.properties[key]}}


async def create(c: ComputeService, ctx: Context, req: Request, image_id: str, body: Whole) -> Any:
    image = await find(c, ctx, image_id)
    return {"metadata": await _write(c, ctx, image.id, {**image.properties, **body.metadata})}


async def replace(c: ComputeService, ctx: Context, req: Request, image_id: str, body: Whole) -> Any:
    image = await find(c, ctx, image_id)
    gone = tuple(sorted(set(image.properties) - set(body.metadata)))
    return {"metadata": await _write(c, ctx, image.id, dict(body.metadata), gone)}


async def update(c: ComputeService, ctx: Context, req: Request, image_id: str, key: str, body: Item) -> Any:
    if key not in body.meta:
        raise BadRequest("Request body and URI mismatch")
    image = await find(c, ctx, image_id)
    await _write(c, ctx, image.id, {**image.properties, **body.meta})
    return {"meta": body.meta}


async def delete(c: ComputeService, ctx: Context, req: Request, image_id: str, key: str) -> Reply:
    image = await find(c, ctx, image_id)
    if key not in image.properties:
        raise NotFound("Metadata item was not found")
    await _write(c, ctx, image.id, {}, (key,))
    return Reply(None, 204)
