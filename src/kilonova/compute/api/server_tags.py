"""Tags of a server, from 2.26 on."""

import re
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from kilonova.compute.api.server_metadata import change
from kilonova.compute.api.servers import find
from kilonova.compute.model import Server
from kilonova.compute.service import ComputeService
from kilonova.core.context import Context
from kilonova.core.errors import BadRequest, NotFound
from kilonova.core.http import Reply, Request

MOST, LONGEST = 50, 60
_TAG = re.compile(r"^[^,/]+$")


class Whole(msgspec.Struct, forbid_unknown_fields=True):
    tags: Annotated[list[Annotated[str, Meta(min_length=1, max_length=LONGEST, pattern=r"^[^,/]*$")]], Meta(max_length=MOST)]


async def _write(c: ComputeService, ctx: Context, server: Server, shown: str, changed: Any) -> None:
    await change(c, ctx, server, "tags", "update_tags", shown, changed)


async def index(c: ComputeService, ctx: Context, req: Request, server_id: str) -> Any:
    return {"tags": [*(await find(c, req, server_id)).tags]}


async def show(c: ComputeService, ctx: Context, req: Request, server_id: str, tag: str) -> Reply:
    server = await find(c, req, server_id)
    if tag not in server.tags:
        raise NotFound(f"Server {server.id} has no tag '{tag[:255]}'")
    return Reply(None, 204)


async def replace(c: ComputeService, ctx: Context, req: Request, server_id: str, body: Whole) -> Any:
    server = await find(c, req, server_id)
    tags = tuple(sorted(set(body.tags)))
    await _write(c, ctx, server, "update tags", lambda now_is: tags)
    return {"tags": [*tags]}


async def update(c: ComputeService, ctx: Context, req: Request, server_id: str, tag: str) -> Reply:
    """201 when the tag is new, 204 when the server has it."""
    server = await find(c, req, server_id)
    if len(tag) > LONGEST:
        raise BadRequest(f"Tag '{tag[:255]}' is too long. Maximum length of a tag is {LONGEST}")
    if not _TAG.match(tag):
        raise BadRequest(
            f"Tag '{tag}' is invalid. It must be a non empty string without characters '/' and ','. "
            f"Validation error message: '{tag}' does not match '^[^,/]*$'"
        )
    there = False

    def added(now_is: Server) -> tuple[str, ...]:
        nonlocal there
        there = tag in now_is.tags
        if not there and len(now_is.tags) >= MOST:
            raise BadRequest(f"The number of tags exceeded the per-server limit {MOST}")
        return now_is.tags if there else tuple(sorted((*now_is.tags, tag)))

    await _write(c, ctx, server, "update tag", added)
    if there:
        return Reply(None, 204)
    location = f"{req.base_url}{req.prefix}/servers/{server.id}/tags/{tag}"
    return Reply(b"", 201, {"location": location}, content_type="text/html; charset=UTF-8")


async def delete(c: ComputeService, ctx: Context, req: Request, server_id: str, tag: str) -> Reply:
    server = await find(c, req, server_id)

    def without(now_is: Server) -> tuple[str, ...]:
        if tag not in now_is.tags:
            raise NotFound(f"Instance {server.id} has no tag '{tag[:255]}'")
        return tuple(t for t in now_is.tags if t != tag)

    await _write(c, ctx, server, "delete tag", without)
    return Reply(None, 204)


async def delete_all(c: ComputeService, ctx: Context, req: Request, server_id: str) -> Reply:
    server = await find(c, req, server_id)
    await _write(c, ctx, server, "delete tags", lambda now_is: ())
    return Reply(None, 204)
