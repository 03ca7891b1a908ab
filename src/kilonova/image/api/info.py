"""What this service can do: import methods, stores, usage."""

from typing import Any

from kilonova.core.context import Context
from kilonova.core.http import Request
from kilonova.image.api.images import IMPORT_METHODS
from kilonova.image.service import ImageService


async def import_methods(c: ImageService, ctx: Context, req: Request) -> Any:
    return {"import-methods": {"description": "Import methods available.", "type": "array", "value": IMPORT_METHODS}}


async def stores(c: ImageService, ctx: Context, req: Request) -> Any:
    return {"stores": [{"id": c.backend, "default": "true"}]}


async def stores_detail(c: ImageService, ctx: Context, req: Request) -> Any:
    return {"stores": [{"id": c.backend, "default": "true", "type": c.data.kind, "properties": c.data.describe(), "weight": 0}]}


async def usage(c: ImageService, ctx: Context, req: Request) -> Any:
    """Empty, as Glance answers without limits registered in identity."""
    return {"usage": {}}
