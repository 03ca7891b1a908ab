"""Images, members and tasks as clients see them."""

from typing import Any

from kilonova.core import times
from kilonova.image.model import Image, Member, Task


def image(each: Image, store: str) -> dict[str, Any]:
    """Custom properties come first: one that has the name of an attribute never hides it."""
    path = "/v2/images/" + each.id
    out: dict[str, Any] = {
        **each.properties,
        "name": each.name,
        "disk_format": each.disk_format,
        "container_format": each.container_format,
        "visibility": each.visibility,
        "size": each.size,
        "virtual_size": each.virtual_size,
        "status": each.status,
        "checksum": each.checksum,
        "protected": each.protected,
        "min_ram": each.min_ram,
        "min_disk": each.min_disk,
        "owner": each.owner,
        "os_hidden": each.os_hidden,
        "os_hash_algo": each.os_hash_algo,
        "os_hash_value": each.os_hash_value,
        "id": each.id,
        "created_at": times.iso(each.created_at),
        "updated_at": times.iso(each.updated_at),
        "tags": each.tags,
        "self": path,
        "file": path + "/file",
        "schema": "/v2/schemas/image",
    }
    if each.status == "active":
        out["stores"] = store
    return out


def member(each: Member) -> dict[str, Any]:
    return {
        "member_id": each.member_id,
        "image_id": each.image_id,
        "status": each.status,
        "created_at": times.iso(each.created_at),
        "updated_at": times.iso(each.updated_at),
        "schema": "/v2/schemas/member",
    }


def task(each: Task) -> dict[str, Any]:
    return {
        "id": each.id,
        "type": each.type,
        "status": each.status,
        "owner": each.owner,
        "expires_at": times.iso_us(each.expires_at),
        "created_at": times.iso_us(each.created_at),
        "updated_at": times.iso_us(each.updated_at),
        "deleted_at": None,
        "deleted": False,
        "image_id": each.image_id,
        "request_id": each.request_id,
        "user_id": each.user_id,
        "input": each.input,
        "result": {"image_id": each.image_id},
        "message": each.message,
    }
