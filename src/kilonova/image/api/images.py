"""Images: create, list, show, change, delete."""

import urllib.parse
from typing import Any

from kilonova.core.context import Context
from kilonova.core.http import Reply, Request
from kilonova.image.api import bodies, patches, queries, views
from kilonova.image.contract import NewImage
from kilonova.image.domain import access, images
from kilonova.image.service import ImageService

IMPORT_METHODS = ("glance-direct",)


async def create(c: ImageService, ctx: Context, req: Request) -> Reply:
    body = await bodies.entity(req)
    given = {name: bodies.checked(name, value) for name, value in body.items()}
    known = {name: given.pop(name) for name in [*given] if name in bodies.CHECKS}
    hidden = known.pop("os_hidden", False)
    owner = known.pop("owner", ctx.project_id)
    new = NewImage(**{"name": None, **known}, properties=given)
    image = await images.create(c.db, c.runtime, ctx, req.allowed, c.quotas, new, owner=owner, hidden=hidden)
    headers = {
        "location": f"{req.base_url}/v2/images/{image.id}",
        "openstack-image-import-methods": ",".join(IMPORT_METHODS),
        "openstack-image-store-ids": c.backend,
    }
    return Reply(views.image(image, c.backend), 201, headers)


async def list(c: ImageService, ctx: Context, req: Request) -> Any:
    settings = c.settings["DEFAULT"]
    query = queries.parsed(req, settings.limit_param_default, settings.api_limit_max)
    found = await images.page(c.db, ctx, query)
    store = c.backend
    out = {"images": [views.row(row, store) for row in found], "first": _link(req, None), "schema": "/v2/schemas/images"}
    if found and len(found) == query.limit:
        out["next"] = _link(req, found[-1][0])
    return out


def _link(req: Request, marker: str | None) -> str:
    fields = [(name, value) for name, value in req.query if name != "marker"]
    if marker is not None:
        fields.append(("marker", marker))
    return "/v2/images" + ("?" + urllib.parse.urlencode(fields) if fields else "")


async def show(c: ImageService, ctx: Context, req: Request, image_id: str) -> Any:
    image, _ = await access.find(c.db, ctx, req.allowed, image_id, "get_image")
    return views.image(image, c.backend)


async def update(c: ImageService, ctx: Context, req: Request, image_id: str) -> Any:
    await access.find(c.db, ctx, req.allowed, image_id, "modify_image")
    kind = patches.kind_of(req.header("content-type"))
    patch = patches.changes(kind, await bodies.document(req))
    image = await c.change(ctx, req.allowed, image_id, lambda image: patches.applied(image, patch))
    return views.image(image, c.backend)


async def delete(c: ImageService, ctx: Context, req: Request, image_id: str) -> None:
    await c.remove(ctx, req.allowed, image_id)
