"""Image's nouns. Times are microseconds; sizes are bytes."""

from typing import Any

import msgspec

ID_PATTERN = r"^([0-9a-fA-F]){8}-([0-9a-fA-F]){4}-([0-9a-fA-F]){4}-([0-9a-fA-F]){4}-([0-9a-fA-F]){12}$"
VISIBILITIES = ("community", "public", "private", "shared")
MEMBER_STATUSES = ("pending", "accepted", "rejected")
HASH = "sha512"


class Content(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of bytes once all of them were seen. `format` is what they are, whatever the image was declared as."""

    size: int
    checksum: str
    """MD5, hexadecimal."""
    os_hash_value: str
    """SHA-512, hexadecimal."""
    format: str
    virtual_size: int


class Image(msgspec.Struct, frozen=True, kw_only=True):
    id: str
    name: str | None
    status: str
    visibility: str
    owner: str | None
    disk_format: str | None
    container_format: str | None
    size: int | None
    virtual_size: int | None
    checksum: str | None
    os_hash_algo: str | None
    os_hash_value: str | None
    min_disk: int
    min_ram: int
    protected: bool
    os_hidden: bool
    tags: tuple[str, ...]
    properties: dict[str, str]
    created_at: int
    updated_at: int
    revision: int
    """Raised by each change; a change made from an older reading is refused by its UPDATE."""
    upload: str
    """Names the upload under way, so that only it may land or be taken back; empty when there is none."""
    staged: Content | None
    """Bytes that wait for an import."""


class Member(msgspec.Struct, frozen=True, kw_only=True):
    """A project that an image is shared with."""

    image_id: str
    member_id: str
    status: str
    created_at: int
    updated_at: int


class Task(msgspec.Struct, frozen=True, kw_only=True):
    """The record of an import."""

    id: str
    image_id: str
    type: str
    status: str
    owner: str | None
    user_id: str | None
    request_id: str
    input: dict[str, Any]
    message: str
    created_at: int
    updated_at: int
    expires_at: int


class ListQuery(msgspec.Struct, frozen=True, kw_only=True):
    """Which images, in which order. `sort` ends with the id, so that a page has one well-defined successor."""

    equal: tuple[tuple[str, Any], ...] = ()
    among: tuple[tuple[str, tuple[str, ...]], ...] = ()
    times: tuple[tuple[str, str, int], ...] = ()
    """(column, gt|gte|lt|lte|eq|neq, a whole second in microseconds)"""
    size_min: int | None = None
    size_max: int | None = None
    tags: tuple[str, ...] = ()
    properties: tuple[tuple[str, str], ...] = ()
    visibility: str | None = None
    """None: own, public, and what was shared and accepted. "all" adds everybody's community images."""
    member_status: str = "accepted"
    hidden: bool | None = False
    """None: both."""
    sort: tuple[tuple[str, str], ...] = (("created_at", "desc"), ("id", "desc"))
    limit: int | None = None
    marker: str | None = None
