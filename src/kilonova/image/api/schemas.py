"""GET /v2/schemas/…"""

from typing import Any

from kilonova.core.context import Context
from kilonova.core.errors import NotFound
from kilonova.core.http import Request
from kilonova.image.schemas import DOCUMENTS
from kilonova.image.service import ImageService


async def show(c: ImageService, ctx: Context, req: Request, name: str) -> Any:
    if name not in DOCUMENTS:
        raise NotFound("The resource could not be found.")
    return DOCUMENTS[name]
