"""Deactivate and reactivate."""

from kilonova.core.context import Context
from kilonova.core.http import Request
from kilonova.image.service import ImageService


async def deactivate(c: ImageService, ctx: Context, req: Request, image_id: str) -> None:
    await c.move(ctx, req.allowed, image_id, "deactivate")


async def reactivate(c: ImageService, ctx: Context, req: Request, image_id: str) -> None:
    await c.move(ctx, req.allowed, image_id, "reactivate")
