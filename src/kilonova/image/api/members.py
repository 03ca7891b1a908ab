"""Projects that an image is shared with: the owner offers, the member accepts or rejects."""

from typing import Any

from kilonova.core.context import Context
from kilonova.core.db import Duplicate, Transaction
from kilonova.core.errors import BadRequest
from kilonova.core.http import Request
from kilonova.image.api import bodies, views
from kilonova.image.domain import access, images
from kilonova.image.errors import Forbids, ImageNotFound, MemberExists, MemberNotFound, NotShared, TooManyMembers
from kilonova.image.model import MEMBER_STATUSES, Image, Member
from kilonova.image.service import ImageService
from kilonova.image.store import images as image_rows
from kilonova.image.store import members

MAX_MEMBER_ID = 255


async def _owned(c: ImageService, ctx: Context, req: Request, image_id: str, rule: str) -> Image:
    return (await access.find(c.db, ctx, req.allowed, image_id, rule))[0]


async def list(c: ImageService, ctx: Context, req: Request, image_id: str) -> Any:
    """The owner sees all; a member sees itself."""
    image = await _owned(c, ctx, req, image_id, "get_members")
    found = await members.of(c.db, image.id)
    if not ctx.is_admin and image.owner != ctx.project_id:
        found = [member for member in found if member.member_id == ctx.project_id]
    return {"members": [views.member(member) for member in found], "schema": "/v2/schemas/members"}


async def create(c: ImageService, ctx: Context, req: Request, image_id: str) -> Any:
    body = await bodies.entity(req)
    wanted = body.get("member")
    if not isinstance(wanted, str) or not wanted:
        raise BadRequest("Member to be added not specified")
    if len(wanted) > MAX_MEMBER_ID:
        raise BadRequest(f"Invalid member: a project id has at most {MAX_MEMBER_ID} characters.")
    image = await _owned(c, ctx, req, image_id, "add_member")
    if image.visibility != "shared":
        raise NotShared(image=image_id)
    now = c.runtime.now_us()
    member = Member(image_id=image_id, member_id=wanted, status="pending", created_at=now, updated_at=now)

    async def write(tx: Transaction) -> None:
        await members.insert(tx, member)
        over = await images.members_over_quota(tx, c.quotas, image_id)
        if over is not None:
            raise TooManyMembers(image=image_id, attempted=over, maximum=c.quotas.members)
        if await image_rows.get(tx, image_id) is None:
            raise ImageNotFound(image=image_id)

    try:
        await c.db.transact(write)
    except Duplicate:
        raise MemberExists(member=wanted, image=image_id) from None
    return views.member(member)


async def _member(c: ImageService, ctx: Context, req: Request, image_id: str, member_id: str, rule: str) -> Member:
    """Another member's entry does not exist for a member."""
    image, about = await access.find(c.db, ctx, req.allowed, image_id, "get_image")
    found = await members.get(c.db, image_id, member_id)
    if found is None or not (ctx.is_admin or ctx.project_id in (image.owner, member_id)):
        raise MemberNotFound(member=member_id, image=image_id)
    if not req.allowed(rule, {**about, "member_id": member_id}):
        raise Forbids(rule=rule)
    return found


async def show(c: ImageService, ctx: Context, req: Request, image_id: str, member_id: str) -> Any:
    return views.member(await _member(c, ctx, req, image_id, member_id, "get_member"))


async def update(c: ImageService, ctx: Context, req: Request, image_id: str, member_id: str) -> Any:
    body = await bodies.entity(req)
    if "status" not in body:
        raise BadRequest("Status not specified")
    await _member(c, ctx, req, image_id, member_id, "modify_member")
    status = body["status"]
    if status not in MEMBER_STATUSES:
        raise BadRequest('Incorrect request: Status must be "pending", "accepted" or "rejected".')
    now = c.runtime.now_us()
    if not await c.db.transact(lambda tx: members.set_status(tx, image_id, member_id, status, now)):
        raise MemberNotFound(member=member_id, image=image_id)
    changed = await members.get(c.db, image_id, member_id)
    if changed is None:
        raise MemberNotFound(member=member_id, image=image_id)
    return views.member(changed)


async def delete(c: ImageService, ctx: Context, req: Request, image_id: str, member_id: str) -> None:
    await _member(c, ctx, req, image_id, member_id, "delete_member")
    if not await c.db.transact(lambda tx: members.delete(tx, image_id, member_id)):
        raise MemberNotFound(member=member_id, image=image_id)
