"""/images, a proxy up to 2.35: the image service's images in compute's older words."""

from typing import Any

from kilonova.compute.api import queries
from kilonova.compute.api.server_views import links
from kilonova.compute.service import ComputeService
from kilonova.core import times
from kilonova.core.context import Context
from kilonova.core.errors import BadRequest, NotFound
from kilonova.core.http import Reply, Request
from kilonova.image.contract import ImageFilters, ImageInfo

_STATUS = {
    "active": "ACTIVE", "queued": "SAVING", "saving": "SAVING", "importing": "SAVING", "uploading": "SAVING", "deleted": "DELETED",
    "pending_delete": "DELETED", "killed": "ERROR",
}  # fmt: skip
_PROGRESS = {"queued": 25, "saving": 50, "active": 100}
_BY_STATUS: dict[str, tuple[str, ...]] = {}
for _name, _shown in _STATUS.items():
    _BY_STATUS[_shown] = (*_BY_STATUS.get(_shown, ()), _name)
LIST: queries.Queries = [((2, 1), queries.Query({"limit": queries.number, "page_size": queries.number}, others=True))]


async def find(c: ComputeService, ctx: Context, image_id: str) -> ImageInfo:
    try:
        return await c.images.get(ctx, image_id)
    except NotFound:
        raise missing(image_id) from None


def missing(image_id: str) -> NotFound:
    return NotFound(f"Image {image_id[:255]} could not be found.")


def brief(c: ComputeService, req: Request, image: ImageInfo) -> dict[str, Any]:
    alternate = f"{c.settings['glance'].endpoint_override.rstrip('/')}/images/{image.id}"
    return {
        "id": image.id,
        "name": image.name,
        "links": [*links(req, "images", image.id), {"rel": "alternate", "type": "application/vnd.openstack.image", "href": alternate}],
    }


def view(c: ComputeService, req: Request, image: ImageInfo) -> dict[str, Any]:
    document = brief(c, req, image)
    document |= {
        "minRam": image.min_ram,
        "minDisk": image.min_disk,
        "metadata": dict(image.properties),
        "created": times.iso(image.created_at),
        "updated": times.iso(image.updated_at),
        "status": _STATUS.get(image.status, "UNKNOWN"),
        "progress": _PROGRESS.get(image.status, 0),
        "OS-EXT-IMG-SIZE:size": image.size or 0,
    }
    server_id = image.properties.get("instance_uuid")
    if server_id:
        document["server"] = {"id": server_id, "links": links(req, "servers", server_id)}
    disk_config = image.properties.get("auto_disk_config")
    if disk_config is not None:
        document["OS-DCF:diskConfig"] = "AUTO" if disk_config.lower() in ("true", "1", "auto") else "MANUAL"
    return document


def _whole(req: Request, name: str) -> int | None:
    text = req.one(name)
    if text is None:
        return None
    if not text.isascii() or not text.isdigit() or len(text) > 9:
        raise BadRequest(f"Invalid input for query parameters {name}. Value: {text[:50]}. It is a whole number.")
    return int(text)


def _filters(req: Request, most: int) -> ImageFilters:
    since = req.one("changes-since")
    try:
        changed_since = times.parse(since) if since else None
    except (ValueError, OverflowError):
        raise BadRequest(f"Invalid input for query parameters changes-since. Value: {(since or '')[:50]}. It is a time.") from None
    properties = [(k.removeprefix("property-"), v) for k, v in req.query if k.startswith("property-")]
    server = req.one("server")
    if server:
        properties.append(("instance_uuid", server.rpartition("/")[2]))
    kind = req.one("type")
    if kind:
        properties.append(("image_type", kind))
    status = req.one("status")
    return ImageFilters(
        name=req.one("name"),
        status=_BY_STATUS.get(status.upper(), ("none",)) if status else (),
        properties=tuple(properties),
        min_disk=_whole(req, "minDisk"),
        min_ram=_whole(req, "minRam"),
        changed_since=changed_since,
        limit=min(int(req.one("limit") or req.one("page_size") or most) or most, most),
        marker=req.one("marker"),
    )


async def _list(c: ComputeService, ctx: Context, req: Request, document: Any) -> Any:
    most = c.settings["api"].max_limit
    try:
        found = await c.images.list(ctx, _filters(req, most))
    except NotFound:
        raise BadRequest(f"marker [{(req.one('marker') or '')[:255]}] not found") from None
    out: dict[str, Any] = {"images": [document(c, req, image) for image in found]}
    following = queries.next_link(req, found, lambda image: image.id, most) if req.one("limit") else []
    if following:
        out["images_links"] = following
    return out


async def index(c: ComputeService, ctx: Context, req: Request) -> Any:
    return await _list(c, ctx, req, brief)


async def detail(c: ComputeService, ctx: Context, req: Request) -> Any:
    return await _list(c, ctx, req, view)


async def show(c: ComputeService, ctx: Context, req: Request, image_id: str) -> Any:
    return {"image": view(c, req, await find(c, ctx, image_id))}


async def delete(c: ComputeService, ctx: Context, req: Request, image_id: str) -> Reply:
    try:
        await c.images.delete(ctx, image_id)
    except NotFound:
        raise missing(image_id) from None
    return Reply(None, 204)
