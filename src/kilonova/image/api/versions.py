"""Discovery: GET /, /versions and /v2, without a token."""

from kilonova.core.context import Context
from kilonova.core.http import Reply, Request
from kilonova.image.service import ImageService
from kilonova.image.versions import document


async def choices(c: ImageService, ctx: Context, req: Request) -> Reply:
    return Reply(document(req.base_url), 300)


async def list(c: ImageService, ctx: Context, req: Request) -> Reply:
    return Reply(document(req.base_url), 200)


async def redirect(c: ImageService, ctx: Context, req: Request) -> Reply:
    """/v2 is not a document; clients find versions at /."""
    return Reply(None, 302, {"location": f"{req.base_url}/v2/"})
