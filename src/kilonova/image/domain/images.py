"""Create, change, delete and list images: what REST and other services share."""

from collections.abc import Awaitable, Callable
from typing import Any

import msgspec

from kilonova.core.context import Context
from kilonova.core.db import Database, Duplicate, Reader, Transaction, attempts
from kilonova.core.errors import BadRequest
from kilonova.core.runtime import Runtime
from kilonova.image.contract import NewImage
from kilonova.image.domain.access import Allowed
from kilonova.image.errors import Busy, Forbids, IdTaken, ImageNotFound, OwnerForbidden, TooManyProperties, TooManyTags
from kilonova.image.model import Image, ListQuery
from kilonova.image.store import images, members


class Quotas(msgspec.Struct, frozen=True, kw_only=True):
    """-1: any number; storage_bytes 0: no limit."""

    properties: int
    tags: int
    members: int
    storage_bytes: int
    image_bytes: int


def check_quotas(quotas: Quotas, image: Image) -> None:
    own = sum(1 for name in image.properties if not name.startswith("os_glance_"))
    if 0 <= quotas.properties < own:
        raise TooManyProperties(attempted=own, maximum=quotas.properties)
    if 0 <= quotas.tags < len(image.tags):
        raise TooManyTags(image=image.id, attempted=len(image.tags), maximum=quotas.tags)


def check_visibility(ctx: Context, allowed: Allowed, about: dict[str, Any], visibility: str) -> None:
    rule = {"public": "publicize_image", "community": "communitize_image"}.get(visibility)
    if rule is not None and not allowed(rule, about):
        raise Forbids(rule=rule)


async def create(
    db: Database,
    runtime: Runtime,
    ctx: Context,
    allowed: Allowed,
    quotas: Quotas,
    new: NewImage,
    *,
    owner: str | None,
    hidden: bool = False,
) -> Image:
    """A queued image of a project (None: nobody's, which only admins see)."""
    about = {"project_id": owner, "owner": owner, "visibility": new.visibility, "member_id": None}
    if not allowed("add_image", about):
        if allowed("add_image", {**about, "project_id": ctx.project_id, "owner": ctx.project_id}):
            raise OwnerForbidden(owner=owner)
        raise Forbids(rule="add_image")
    check_visibility(ctx, allowed, about, new.visibility)
    now = runtime.now_us()
    image = Image(
        id=new.id or runtime.uuid(),
        name=new.name,
        status="queued",
        visibility=new.visibility,
        owner=owner,
        disk_format=new.disk_format,
        container_format=new.container_format,
        size=None,
        virtual_size=None,
        checksum=None,
        os_hash_algo=None,
        os_hash_value=None,
        min_disk=new.min_disk,
        min_ram=new.min_ram,
        protected=new.protected,
        os_hidden=hidden,
        tags=tuple(dict.fromkeys(new.tags)),
        properties=dict(new.properties),
        created_at=now,
        updated_at=now,
        revision=1,
        upload="",
        staged=None,
    )
    check_quotas(quotas, image)
    try:
        await db.transact(lambda tx: images.insert(tx, image))
    except Duplicate:
        raise IdTaken(image=image.id) from None
    return image


async def change(
    db: Database, runtime: Runtime, load: Callable[[Reader], Awaitable[Image]], edit: Callable[[Image], Image], quotas: Quotas
) -> Image:
    """Load, edit and write in one transaction; again when somebody else wrote in between, where a database lets that happen.
    `load` awaits nothing but reads, `edit` has no effects."""

    async def body(tx: Transaction) -> tuple[Image, bool]:
        image = await load(tx)
        changed = edit(image)
        if changed == image:
            return image, True
        check_quotas(quotas, changed)
        changed = msgspec.structs.replace(changed, updated_at=max(runtime.now_us(), image.updated_at))
        done = await images.replace(tx, image, changed)
        return msgspec.structs.replace(changed, revision=image.revision + 1), done

    async for _ in attempts(runtime):
        image, done = await db.transact(body)
        if done:
            return image
    raise Busy(image=image.id)


async def page(reader: Reader, ctx: Context, query: ListQuery) -> list[images.Row]:
    """Rows for images.image_of. Raises BadRequest when the marker is not an image that the caller sees."""
    if query.limit == 0:
        return []
    marker = None
    if query.marker is not None:
        found = await images.get_for(reader, query.marker, ctx.project_id)
        if found is None or not _may_mark(ctx, *found):
            raise BadRequest(ImageNotFound(image=query.marker).message)
        marker = found[0]
    return await images.page(reader, query, ctx.project_id, ctx.is_admin, marker)


def _may_mark(ctx: Context, image: Image, membership: str | None) -> bool:
    return (
        ctx.is_admin
        or image.visibility in ("public", "community")
        or (ctx.project_id is not None and image.owner == ctx.project_id)
        or (image.visibility == "shared" and membership is not None)
    )


async def members_over_quota(reader: Reader, quotas: Quotas, image_id: str) -> int | None:
    """How many members the image has when those are too many, else None."""
    if quotas.members < 0:
        return None
    count = await members.count(reader, image_id)
    return count if count > quotas.members else None
