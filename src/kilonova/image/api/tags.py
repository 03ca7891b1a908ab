"""Tags, one at a time."""

import msgspec

from kilonova.core.context import Context
from kilonova.core.http import Request
from kilonova.image.api import bodies
from kilonova.image.errors import TagNotFound
from kilonova.image.model import Image
from kilonova.image.service import ImageService


async def add(c: ImageService, ctx: Context, req: Request, image_id: str, tag: str) -> None:
    (wanted,) = bodies.checked("tags", [tag])

    def edit(image: Image) -> Image:
        return image if wanted in image.tags else msgspec.structs.replace(image, tags=(*image.tags, wanted))

    await c.change(ctx, req.allowed, image_id, edit)


async def remove(c: ImageService, ctx: Context, req: Request, image_id: str, tag: str) -> None:
    def edit(image: Image) -> Image:
        if tag not in image.tags:
            raise TagNotFound
        return msgspec.structs.replace(image, tags=tuple(each for each in image.tags if each != tag))

    await c.change(ctx, req.allowed, image_id, edit)
