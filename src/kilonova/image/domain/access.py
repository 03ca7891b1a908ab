"""Who sees which image, and what policy is told about it.

Visible: to admins all; to others their own, public and community images, and those shared with them, whatever they made of the offer.
An image that its asker may not see does not exist for him; one that he sees but may not change is forbidden.
"""

from collections.abc import Callable, Mapping
from typing import Any

from kilonova.core.context import Context
from kilonova.core.db import Reader
from kilonova.core.errors import Error
from kilonova.image.errors import Forbids, ImageNotFound
from kilonova.image.model import Image
from kilonova.image.store import images

Allowed = Callable[[str, Mapping[str, Any]], bool]


def visible(ctx: Context, image: Image, is_member: bool) -> bool:
    if ctx.is_admin or image.visibility in ("public", "community"):
        return True
    if ctx.project_id is None:
        return False
    return image.owner == ctx.project_id or (image.visibility == "shared" and is_member)


def target(ctx: Context, image: Image, is_member: bool) -> dict[str, Any]:
    """What a policy check may ask of an image. member_id is there only for those it is shared with."""
    return {
        "project_id": image.owner,
        "owner": image.owner,
        "visibility": image.visibility,
        "member_id": ctx.project_id if is_member and image.visibility == "shared" else None,
        "image_id": image.id,
    }


async def find(
    reader: Reader, ctx: Context, allowed: Allowed, image_id: str, rule: str, hidden: type[Error] = ImageNotFound
) -> tuple[Image, dict[str, Any]]:
    """The image and its policy target. Raises `hidden` when the caller may not see it, Forbids when the rule does not let him."""
    found = await images.get_for(reader, image_id, ctx.project_id)
    if found is None:
        raise hidden(image=image_id)
    image, membership = found
    about = target(ctx, image, membership is not None)
    if not visible(ctx, image, membership is not None) or not allowed("get_image", about):
        raise hidden(image=image_id)
    if rule != "get_image" and not allowed(rule, about):
        raise Forbids(rule=rule)
    return image, about
