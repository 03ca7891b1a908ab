"""The image service: its collaborators, its lifetime, and the contract that other services use."""

from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any

import msgspec

from kilonova.core.config import Settings
from kilonova.core.context import Context
from kilonova.core.db import Database, Lost, Reader, Transaction
from kilonova.core.log import Log
from kilonova.core.policy import Policy
from kilonova.core.runtime import Runtime
from kilonova.core.tasks import Tasks
from kilonova.image.config import quota_bytes
from kilonova.image.contract import ImageFilters, ImageInfo, NewImage
from kilonova.image.domain import access, downloads, images
from kilonova.image.domain.access import Allowed
from kilonova.image.domain.uploads import RENEW_S, Uploads
from kilonova.image.drivers import Store, local
from kilonova.image.errors import (
    Forbids,
    FormatFixed,
    ImageNotFound,
    ImageToDeleteNotFound,
    NoSuchProperty,
    PropertiesMissing,
    Protected,
    WrongStatus,
)
from kilonova.image.model import Image, ListQuery
from kilonova.image.states import IMAGE
from kilonova.image.store import images as image_rows
from kilonova.image.store import tasks as task_rows
from kilonova.image.store.tables import metadata

_INFO = ImageInfo.__struct_fields__
MEND_S = 30.0
SWEEP_S = 3600.0
ATTRIBUTES = ("name", "min_disk", "min_ram", "visibility", "protected", "os_hidden", "disk_format", "container_format")


class ImageService:
    """`data` is where bytes go. exclusive: the database and `data` are this process's alone, so uploads of earlier lives are dead."""

    name = "image"
    metadata = metadata

    def __init__(
        self, *, db: Database, runtime: Runtime, log: Log, settings: Mapping[str, Settings], policy: Policy, data: Store, exclusive: bool
    ) -> None:
        self.db = db
        self.runtime = runtime
        self.log = log
        self.settings = settings
        self.policy = policy
        self.data = data
        self.tasks = Tasks(runtime, log)
        defaults = settings["DEFAULT"]
        self.quotas = images.Quotas(
            properties=defaults.image_property_quota,
            tags=defaults.image_tag_quota,
            members=defaults.image_member_quota,
            storage_bytes=quota_bytes(defaults.user_storage_quota),
            image_bytes=defaults.image_size_cap,
        )
        self.backend: str = settings["glance_store"].default_backend
        self.uploads = Uploads(
            db=db,
            runtime=runtime,
            tasks=self.tasks,
            log=log,
            data=data,
            quotas=self.quotas,
            strict=settings["image_format"].require_image_format_match,
            exclusive=exclusive,
        )

    # ---- lifetime

    async def start(self) -> None:
        self.uploads.doubt()
        await self.uploads.mend()
        self.tasks.every("uploads in doubt", MEND_S, self.uploads.mend)
        if not self.uploads.exclusive:
            self.tasks.every("leases of uploads", RENEW_S, self.uploads.renew)
            self.tasks.every("sweep of the store", SWEEP_S, self._suspect)
        self.tasks.every("image task records", 3600.0, self._prune)

    async def stop(self) -> None:
        await self.tasks.stop()
        self.data.close()

    async def _suspect(self) -> None:
        """A process that never comes back may have left bytes of images that it deleted."""
        self.uploads.doubt()

    async def _prune(self) -> None:
        await self.db.transact(lambda tx: task_rows.prune(tx, self.runtime.now_us()))

    # ---- what REST and the contract share

    def allowed(self, ctx: Context) -> Allowed:
        return lambda rule, target: self.policy.allows(rule, ctx, target)

    async def remove(self, ctx: Context, allowed: Allowed, image_id: str) -> None:
        image, _ = await access.find(self.db, ctx, allowed, image_id, "delete_image", ImageToDeleteNotFound)
        if image.protected:
            raise Protected(image=image_id)
        now = self.runtime.now_us()
        try:
            gone = await self.db.transact(lambda tx: image_rows.delete(tx, image_id, now))
        except Lost:
            self.uploads.doubt()
            raise
        if not gone:
            if await image_rows.get(self.db, image_id) is None:
                raise ImageToDeleteNotFound(image=image_id)
            raise Protected(image=image_id)
        await self.uploads.deleted(image_id)

    async def change(
        self, ctx: Context, allowed: Allowed, image_id: str, edit: Callable[[Image], Image], rule: str = "modify_image"
    ) -> Image:
        """Change what a client may; visibility is asked of policy for each attempt."""
        about: dict[str, Any] = {}

        async def load(reader: Reader) -> Image:
            image, target = await access.find(reader, ctx, allowed, image_id, rule)
            about.clear()
            about.update(target)
            return image

        def edited(image: Image) -> Image:
            changed = edit(image)
            if changed.visibility != image.visibility:
                images.check_visibility(ctx, allowed, about, changed.visibility)
            if changed.owner != image.owner and not ctx.is_admin:
                raise Forbids(rule="modify_image")
            return changed

        return await images.change(self.db, self.runtime, load, edited, self.quotas)

    async def move(self, ctx: Context, allowed: Allowed, image_id: str, verb: str) -> None:
        """Deactivate or reactivate."""
        image, _ = await access.find(self.db, ctx, allowed, image_id, verb)
        if image.status == IMAGE[verb].lands:
            return

        async def body(tx: Transaction) -> bool:
            return await image_rows.move(tx, verb, image_id, self.runtime.now_us())

        if not await self.db.transact(body):
            now = await image_rows.get(self.db, image_id)
            if now is None:
                raise ImageNotFound(image=image_id)
            raise WrongStatus(verb=verb, status=now.status)

    # ---- the contract

    async def get(self, ctx: Context, image_id: str) -> ImageInfo:
        image, _ = await access.find(self.db, ctx, self.allowed(ctx), image_id, "get_image")
        return _info(image)

    async def list(self, ctx: Context, filters: ImageFilters) -> "list[ImageInfo]":
        return [_info(image_rows.image_of(row)) for row in await images.page(self.db, ctx, self._query(filters))]

    def _query(self, filters: ImageFilters) -> ListQuery:
        defaults = self.settings["DEFAULT"]
        limit = defaults.limit_param_default if filters.limit is None else filters.limit
        equal = {"name": filters.name, "owner": filters.owner, "min_disk": filters.min_disk, "min_ram": filters.min_ram}
        second = None if filters.changed_since is None else filters.changed_since // 1_000_000 * 1_000_000
        return ListQuery(
            equal=tuple((name, value) for name, value in equal.items() if value is not None),
            among=(("status", filters.status),) if filters.status else (),
            times=() if second is None else (("updated_at", "gte", second),),
            tags=filters.tags,
            properties=filters.properties,
            visibility=filters.visibility,
            hidden=filters.hidden,
            limit=min(limit, defaults.api_limit_max),
            marker=filters.marker,
        )

    async def create(self, ctx: Context, new: NewImage) -> str:
        owner = new.owner or ctx.project_id
        image = await images.create(self.db, self.runtime, ctx, self.allowed(ctx), self.quotas, new, owner=owner)
        return image.id

    async def update(
        self, ctx: Context, image_id: str, properties: dict[str, str], remove: tuple[str, ...] = (), **attributes: str | int | bool | None
    ) -> ImageInfo:
        def edit(image: Image) -> Image:
            for name in attributes:
                if name not in ATTRIBUTES:
                    raise NoSuchProperty(name=name)
                if name.endswith("_format") and image.status != "queued":
                    raise FormatFixed(name=name)
            kept = {name: value for name, value in image.properties.items() if name not in remove}
            return msgspec.structs.replace(image, **attributes, properties={**kept, **properties})

        return _info(await self.change(ctx, self.allowed(ctx), image_id, edit))

    async def delete(self, ctx: Context, image_id: str) -> None:
        await self.remove(ctx, self.allowed(ctx), image_id)

    async def read(self, ctx: Context, image_id: str, offset: int, length: int) -> bytes:
        image, _ = await access.find(self.db, ctx, self.allowed(ctx), image_id, "download_image")
        source = await downloads.opened(self.data, self.log, ctx, image)
        return await downloads.read(source, offset, length) if source else b""

    async def local_path(self, ctx: Context, image_id: str) -> str | None:
        image, _ = await access.find(self.db, ctx, self.allowed(ctx), image_id, "download_image")
        source = await downloads.opened(self.data, self.log, ctx, image)
        if source is None:
            return None
        source.close()
        return self.data.local_path(image_id)

    async def write(self, ctx: Context, image_id: str, path: str) -> ImageInfo:
        image, _ = await access.find(self.db, ctx, self.allowed(ctx), image_id, "upload_image")
        await self.receive("upload", image, local.pieces(self.runtime, path))
        return await self.get(ctx, image_id)

    async def write_from(self, ctx: Context, image_id: str, pieces: AsyncIterator[bytes]) -> None:
        """`write` with bytes that come from another machine."""
        image, _ = await access.find(self.db, ctx, self.allowed(ctx), image_id, "upload_image")
        await self.receive("upload", image, pieces)

    async def receive(
        self, verb: str, image: Image, pieces: AsyncIterator[bytes], *, announced: int | None = None, expected: int | None = None
    ) -> None:
        """Bytes for a queued image. Raises PropertiesMissing and what Uploads.receive raises."""
        missing = [name for name in ("disk_format", "container_format") if getattr(image, name) is None]
        if missing and verb == "upload":
            raise PropertiesMissing(names=", ".join(missing))
        await self.uploads.receive(verb, image, pieces, announced=announced, expected=expected)


def _info(image: Image) -> ImageInfo:
    return ImageInfo(**{name: getattr(image, name) for name in _INFO})
