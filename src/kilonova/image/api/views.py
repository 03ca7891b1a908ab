"""Images, members and tasks as clients see them."""

from typing import Any

import msgspec

from kilonova.core import times
from kilonova.image.model import Image, Member, Task


def image(each: Image, store: str) -> dict[str, Any]:
    return row(msgspec.structs.astuple(each), store)


def row(fields: tuple[Any, ...], store: str) -> dict[str, Any]:
    """An image from its fields, in the order of the struct. Custom properties come first: one that has the name of an attribute never
    hides it."""
    (
        ident, name, status, visibility, owner, disk_format, container_format, size, virtual_size, checksum, algorithm, digest,
        min_disk, min_ram, protected, hidden, tags, properties, created_at, updated_at, _, _, _,
    ) = fields  # fmt: skip
    path = "/v2/images/" + ident
    out: dict[str, Any] = {
        **properties,
        "name": name,
        "disk_format": disk_format,
        "container_format": container_format,
        "visibility": visibility,
        "size": size,
        "virtual_size": virtual_size,
        "status": status,
        "checksum": checksum,
        "protected": protected,
        "min_ram": min_ram,
        "min_disk": min_disk,
        "owner": owner,
        "os_hidden": hidden,
        "os_hash_algo": algorithm,
        "os_hash_value": digest,
        "id": ident,
        "created_at": times.iso(created_at),
        "updated_at": times.iso(updated_at),
        "tags": tags,
        "self": path,
        "file": path + "/file",
        "schema": "/v2/schemas/image",
    }
    if status == "active":
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
