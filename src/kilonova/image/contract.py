"""What other services may ask of image."""

from typing import Protocol

import msgspec

from kilonova.core.context import Context


class ImageInfo(msgspec.Struct, frozen=True, kw_only=True):
    """An image as its API would show it. Times are microseconds, sizes bytes, min_disk GiB, min_ram MiB."""

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


class ImageFilters(msgspec.Struct, frozen=True, kw_only=True):
    """None or empty: not filtered by. `sort` is (attribute, asc|desc); limit None: the page size of the image API."""

    name: str | None = None
    status: tuple[str, ...] = ()
    owner: str | None = None
    visibility: str | None = None
    tags: tuple[str, ...] = ()
    properties: tuple[tuple[str, str], ...] = ()
    min_disk: int | None = None
    min_ram: int | None = None
    changed_since: int | None = None
    hidden: bool | None = False
    limit: int | None = None
    marker: str | None = None


class NewImage(msgspec.Struct, frozen=True, kw_only=True):
    """`owner` empty: the caller's project."""

    name: str | None
    disk_format: str | None = None
    container_format: str | None = None
    id: str | None = None
    owner: str | None = None
    visibility: str = "shared"
    min_disk: int = 0
    min_ram: int = 0
    protected: bool = False
    tags: tuple[str, ...] = ()
    properties: dict[str, str] = {}


class Images(Protocol):
    """Every call acts with the caller's rights, as the REST API would: NotFound for what he may not see, Forbidden for what he may
    see but not change."""

    async def get(self, ctx: Context, image_id: str) -> ImageInfo: ...

    async def list(self, ctx: Context, filters: ImageFilters) -> list[ImageInfo]:
        """One page, newest first."""
        ...

    async def create(self, ctx: Context, new: NewImage) -> str:
        """A queued image's id."""
        ...

    async def update(
        self, ctx: Context, image_id: str, properties: dict[str, str], remove: tuple[str, ...] = (), **attributes: str | int | bool | None
    ) -> ImageInfo:
        """Set custom properties and attributes (name, min_disk, min_ram, visibility, protected, os_hidden, and, while the image is queued,
        its formats), and take the properties in `remove` away."""
        ...

    async def delete(self, ctx: Context, image_id: str) -> None: ...

    async def read(self, ctx: Context, image_id: str, offset: int, length: int) -> bytes:
        """At most `length` bytes; fewer only at the end. Download policy applies."""
        ...

    async def local_path(self, ctx: Context, image_id: str) -> str | None:
        """Where the bytes lie, when that is a file on this machine; read-only for the caller. Download policy applies."""
        ...

    async def write(self, ctx: Context, image_id: str, path: str) -> ImageInfo:
        """Fill a queued image from a file on this machine, with the checks of an upload; the image is active at return."""
        ...
