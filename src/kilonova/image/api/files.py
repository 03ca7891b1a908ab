"""The bytes of images: upload, stage, download."""

from kilonova.core.context import Context
from kilonova.core.errors import BadRequest
from kilonova.core.http import Reply, Request
from kilonova.image.domain import access, downloads
from kilonova.image.errors import UnknownStore, WrongContentType
from kilonova.image.service import ImageService


def _octets(req: Request) -> None:
    kind = (req.header("content-type") or "").partition(";")[0].strip().lower()
    if kind != "application/octet-stream":
        raise WrongContentType(given=kind or "(none)")


def _count(req: Request, header: str) -> int | None:
    text = req.header(header)
    if text is None:
        return None
    if not text.isdecimal() or len(text) > 18:
        raise BadRequest(f"The header {header} must be a number of bytes, 0 or more.")
    return int(text)


async def _receive(c: ImageService, ctx: Context, req: Request, image_id: str, verb: str) -> None:
    _octets(req)
    expected = _count(req, "x-openstack-image-size")
    announced = _count(req, "content-length")
    store = req.header("x-image-meta-store")
    image, _ = await access.find(c.db, ctx, req.allowed, image_id, "upload_image")
    if store is not None and store != c.backend:
        raise UnknownStore(store=store[:80])
    await c.receive(verb, image, req.stream(), announced=announced, expected=expected)


async def upload(c: ImageService, ctx: Context, req: Request, image_id: str) -> None:
    await _receive(c, ctx, req, image_id, "upload")


async def stage(c: ImageService, ctx: Context, req: Request, image_id: str) -> None:
    await _receive(c, ctx, req, image_id, "stage")


async def download(c: ImageService, ctx: Context, req: Request, image_id: str) -> Reply:
    image, _ = await access.find(c.db, ctx, req.allowed, image_id, "download_image")
    source = await downloads.opened(c.data, c.log, ctx, image)
    if source is None:
        return Reply(None, 204)
    headers = {"content-md5": image.checksum or ""}
    try:
        part = downloads.wanted_range(req.header("range"), source.size)
    except BaseException:
        source.close()
        raise
    offset, length = part or (0, source.size)
    if part is not None:
        headers["content-range"] = f"bytes {offset}-{offset + length - 1}/{source.size}"
    headers["content-length"] = str(length)
    pieces = downloads.stream(source, offset, length)
    return Reply(pieces, 206 if part is not None else 200, headers, content_type="application/octet-stream")
