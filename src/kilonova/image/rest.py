"""Image's contract answered by another Glance over its v2 API.

Within a request of a user, his own token goes there, with ours beside it, so that Glance decides what he may. A service, or a runner on
behalf of a user whose token is long gone, goes there with our service user's token (an admin's); what the user may is then decided here,
by the rules of Glance's default policy. Bytes are checked against size and hash after each whole transfer.
"""

import re
from collections.abc import AsyncIterator, Mapping
from typing import Any, NamedTuple

import msgspec

from kilonova.core import errors, files, times
from kilonova.core.config import Settings
from kilonova.core.context import Context
from kilonova.core.errors import Unauthorized, Unavailable
from kilonova.core.log import Log
from kilonova.core.rest import Answer, CallerTokens, Peer, Query, ServiceToken, sentence
from kilonova.core.runtime import Runtime
from kilonova.image.contract import ImageFilters, ImageInfo, NewImage
from kilonova.image.drivers import local
from kilonova.image.errors import Damaged, Forbids, ImageNotFound, ImageToDeleteNotFound, NoSuchProperty

PIECE_BYTES = 1 << 20
ATTEMPTS = 3
_PATCH = "application/openstack-images-v2.1-json-patch"
_OCTETS = "application/octet-stream"
_ID = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
_NAME = re.compile(r"[^/~\x00-\x1f]{1,255}")
_ATTRIBUTES = ("name", "min_disk", "min_ram", "visibility", "protected", "os_hidden", "disk_format", "container_format")
_NO_PROPERTIES = {*ImageInfo.__struct_fields__, "self", "file", "schema", "locations", "direct_url", "stores"}
_BY_STATUS: dict[int, type[errors.Error]] = {
    400: errors.BadRequest,
    403: errors.Forbidden,
    404: errors.NotFound,
    409: errors.Conflict,
    410: errors.Gone,
    413: errors.TooLarge,
    415: errors.UnsupportedMediaType,
}


class _Document(msgspec.Struct, frozen=True):
    """What every image of a v2 API has."""

    id: str
    status: str
    visibility: str
    created_at: str
    updated_at: str
    name: str | None = None
    owner: str | None = None
    disk_format: str | None = None
    container_format: str | None = None
    size: int | None = None
    virtual_size: int | None = None
    checksum: str | None = None
    os_hash_algo: str | None = None
    os_hash_value: str | None = None
    min_disk: int = 0
    min_ram: int = 0
    protected: bool = False
    os_hidden: bool = False
    tags: tuple[str, ...] = ()


class _Page(msgspec.Struct, frozen=True):
    images: list[msgspec.Raw]


class _Member(msgspec.Struct, frozen=True):
    member_id: str


class _Acting(NamedTuple):
    """Whose token goes there for the whole of a call: settled once, so that a check cannot be left out for a token that then is gone."""

    ctx: Context
    token: str | None
    """The user's own; None: ours."""

    @property
    def judged(self) -> bool:
        """Whether the user's rights are to be looked at here."""
        return self.token is None and not self.ctx.is_admin


class RestImages:
    """`url` empty: where the catalog says."""

    def __init__(
        self,
        *,
        runtime: Runtime,
        log: Log,
        settings: Settings,
        url: str,
        service_token: ServiceToken,
        callers: CallerTokens,
        transport: Any = None,
    ) -> None:
        """`settings`: image's own part of [glance]."""
        self.runtime = runtime
        self.log = log
        self.settings = settings
        self._url = url
        self._mine = service_token
        self._callers = callers
        self._transport = transport
        self._peer: Peer | None = self._at(url) if url else None

    def _at(self, url: str) -> Peer:
        settings, root = self.settings, url.rstrip("/").removesuffix("/v2")
        return Peer(
            root,
            "image service",
            self.log,
            timeout_s=float(settings.timeout),
            cafile=settings.cafile,
            insecure=settings.insecure,
            transport=self._transport,
        )

    async def url(self) -> str:
        """The root of the API, without the version. Raises Unavailable."""
        if not self._url:
            self._url = await self._mine.url("image")
        return self._url.rstrip("/").removesuffix("/v2")

    async def stop(self) -> None:
        if self._peer is not None:
            await self._peer.close()

    # ---- the contract

    async def get(self, ctx: Context, image_id: str) -> ImageInfo:
        return await self._get(self._acting(ctx), image_id)

    async def list(self, ctx: Context, filters: ImageFilters) -> "list[ImageInfo]":
        """`hidden` None means what False does: the v2 API lists one kind or the other."""
        query, me = _query(filters), self._acting(ctx)
        if me.judged:
            # Rare, since lists are asked for by users: what a service may see is narrowed to what is the project's own.
            query["owner"] = ctx.project_id or "nobody"
        answer = self._checked(await self._ask(me, "GET", "/v2/images", query=query), filters.marker or "")
        return [info_of(bytes(raw)) for raw in answer.json(_Page).images]

    async def create(self, ctx: Context, new: NewImage) -> str:
        for name in new.properties:
            _check_name(name)
        me, owner = self._acting(ctx), new.owner or ctx.project_id
        if me.judged:
            if "member" not in ctx.roles or owner != ctx.project_id:
                raise Forbids(rule="add_image")
            if new.visibility == "public":
                raise Forbids(rule="publicize_image")
        body: dict[str, Any] = {name: getattr(new, name) for name in (*_ATTRIBUTES, "id") if getattr(new, name, None) is not None}
        body |= {"tags": new.tags, **new.properties}
        if owner is not None and (new.owner or me.token is None):
            body["owner"] = owner
        return info(self._checked(await self._ask(me, "POST", "/v2/images", body=body), new.id or "")).id

    async def update(
        self, ctx: Context, image_id: str, properties: dict[str, str], remove: tuple[str, ...] = (), **attributes: str | int | bool | None
    ) -> ImageInfo:
        me = self._acting(ctx)
        now = await self._changeable(me, image_id, "modify_image")
        if me.judged and attributes.get("visibility") == "public":
            raise Forbids(rule="publicize_image")
        for name in attributes:
            if name not in _ATTRIBUTES:
                raise NoSuchProperty(name=name)
        changes = [{"op": "replace", "path": f"/{name}", "value": value} for name, value in attributes.items()]
        gone = [name for name in remove if name in now.properties and name not in properties]
        changes += [{"op": "remove", "path": f"/{_check_name(name)}"} for name in gone]
        changes += [{"op": "add", "path": f"/{_check_name(name)}", "value": value} for name, value in properties.items()]
        if not changes:
            return now
        return info(self._checked(await self._ask(me, "PATCH", _path(image_id), body=changes, kind=_PATCH), image_id))

    async def delete(self, ctx: Context, image_id: str) -> None:
        me = self._acting(ctx)
        if me.judged:
            await self._changeable(me, image_id, "delete_image")
        answer = await self._ask(me, "DELETE", _path(image_id))
        if answer.status == 404:
            raise ImageToDeleteNotFound(image=image_id)
        self._checked(answer, image_id)

    async def read(self, ctx: Context, image_id: str, offset: int, length: int) -> bytes:
        me = self._acting(ctx)
        await self._may_download(me, image_id)
        out = bytearray()
        try:
            async for piece in self._bytes(me, image_id, offset, length):
                out += piece
        except Unavailable:
            # Glance answers 500 when a piece of an image is wanted that holds nothing yet.
            if (await self._get(me, image_id)).size is not None:
                raise
        return bytes(out)

    async def local_path(self, ctx: Context, image_id: str) -> str | None:
        """The bytes lie on another machine."""
        return None

    async def write(self, ctx: Context, image_id: str, path: str) -> ImageInfo:
        """Raises Damaged when what arrived is not what was sent."""
        me = self._acting(ctx)
        if me.judged:
            await self._changeable(me, image_id, "upload_image")
        peer, headers = await self._peer_and_headers(me)
        body = local.pieces(self.runtime, path)
        self._checked(await peer.ask("PUT", f"{_path(image_id)}/file", headers, body=body, kind=_OCTETS), image_id)
        image = await self._get(me, image_id)
        await self._verify(image, path)
        return image

    async def download(self, ctx: Context, image_id: str, path: str) -> None:
        """All bytes into a file, from where they broke off if they do. Raises Damaged when they are not what the image tells."""
        me = self._acting(ctx)
        image = await self._get(me, image_id)
        await self._may_download(me, image_id)
        at = 0
        await self.runtime.blocking(files.write_at, path, 0, b"", pool="image-fetch")  # an empty image is a file too
        for attempt in range(1, ATTEMPTS + 1):
            try:
                async for piece in self._bytes(me, image_id, at, None):
                    await self.runtime.blocking(files.write_at, path, at, piece, pool="image-fetch")
                    at += len(piece)
                break
            except Unavailable:
                if attempt == ATTEMPTS:
                    raise
        await self._verify(image, path)

    # ---- bytes

    async def _bytes(self, me: _Acting, image_id: str, offset: int, length: int | None) -> AsyncIterator[bytes]:
        """From `offset` on, in pieces of at most PIECE_BYTES. A Glance whose store cannot seek answers with everything: the rest of it is
        left."""
        if length is not None and length <= 0:
            return
        peer, headers = await self._peer_and_headers(me)
        if offset or length is not None:
            headers = {**headers, "range": f"bytes={offset}-{'' if length is None else offset + length - 1}"}
        skip, left = offset, length
        async with peer.stream("GET", f"{_path(image_id)}/file", {**headers, "accept": _OCTETS, "accept-encoding": "identity"}) as reply:
            if reply.status_code in (204, 416):
                return
            if reply.status_code not in (200, 206):
                self._checked(Answer(reply.status_code, reply.headers, await reply.aread()), image_id)
            if reply.status_code == 206:
                skip = 0
            async for piece in reply.aiter_raw(PIECE_BYTES):
                if skip:
                    piece, skip = piece[skip:], max(0, skip - len(piece))
                if left is not None:
                    piece = piece[:left]
                    left -= len(piece)
                if piece:
                    yield piece
                if left == 0:
                    return

    async def _verify(self, image: ImageInfo, path: str) -> None:
        """The file against the image's size and hash; an algorithm that is unknown here leaves MD5."""
        algorithm, wanted = image.os_hash_algo or "", image.os_hash_value
        try:
            size, found = await self.runtime.blocking(local.digest, path, algorithm, pool="image-fetch")
        except ValueError:
            algorithm, wanted = "md5", image.checksum
            size, found = await self.runtime.blocking(local.digest, path, algorithm, pool="image-fetch")
        if image.size is not None and image.size != size:
            raise Damaged(image=image.id, what="size")
        if wanted and wanted != found:
            raise Damaged(image=image.id, what=algorithm)

    # ---- who may what

    def _acting(self, ctx: Context) -> _Acting:
        return _Acting(ctx, self._callers.of(ctx))

    async def _get(self, me: _Acting, image_id: str) -> ImageInfo:
        image = info(self._checked(await self._ask(me, "GET", _path(image_id)), image_id))
        if me.judged and not await self._visible(me, image):
            raise ImageNotFound(image=image_id)
        return image

    async def _visible(self, me: _Acting, image: ImageInfo) -> bool:
        if image.visibility in ("public", "community"):
            return True
        if me.ctx.project_id is None:
            return False
        return image.owner == me.ctx.project_id or (image.visibility == "shared" and await self._member(me, image.id))

    async def _member(self, me: _Acting, image_id: str) -> bool:
        answer = await self._ask(me, "GET", f"{_path(image_id)}/members/{me.ctx.project_id}")
        return answer.status == 200 and answer.json(_Member).member_id == me.ctx.project_id

    async def _changeable(self, me: _Acting, image_id: str, rule: str) -> ImageInfo:
        image = await self._get(me, image_id)
        if me.judged and (image.owner != me.ctx.project_id or "member" not in me.ctx.roles):
            raise Forbids(rule=rule)
        return image

    async def _may_download(self, me: _Acting, image_id: str) -> None:
        if me.judged:
            await self._get(me, image_id)
            if "member" not in me.ctx.roles:
                raise Forbids(rule="download_image")

    # ---- asking

    async def _peer_and_headers(self, me: _Acting) -> tuple[Peer, dict[str, str]]:
        """A service acts with our token. So does a user whose token is not known here; else his goes there, and ours vouches for it."""
        if self._peer is None:
            url = await self.url()
            self._peer = self._peer or self._at(url)
        mine = await self._mine.get()
        return self._peer, {"x-auth-token": mine} if me.token is None else {"x-auth-token": me.token, "x-service-token": mine}

    async def _ask(
        self, me: _Acting, method: str, path: str, *, body: Any = None, kind: str = "application/json", query: Query = None
    ) -> Answer:
        """When a token is refused: once more with a new one of ours."""
        peer, headers = await self._peer_and_headers(me)
        answer = await peer.ask(method, path, headers, body=body, kind=kind, query=query)
        if answer.status == 401:
            await self._mine.renew(headers.get("x-service-token") or headers["x-auth-token"])
            peer, headers = await self._peer_and_headers(me)
            answer = await peer.ask(method, path, headers, body=body, kind=kind, query=query)
            if answer.status == 401:
                if me.token is None:
                    self.log.error("the image service refuses our service user", url=peer.url, text=sentence(answer.body))
                    raise Unavailable(f"The image service at {peer.url} does not accept this service's own user; tell the operator.")
                raise Unauthorized
        return answer

    def _checked(self, answer: Answer, image_id: str) -> Answer:
        """The answer if it is a good one, else the error that the contract has for it, with Glance's own sentence."""
        if 200 <= answer.status < 300:
            return answer
        if answer.status == 404 and image_id:
            raise ImageNotFound(image=image_id)
        if answer.status == 401:
            raise Unauthorized
        kind = _BY_STATUS.get(answer.status, Unavailable)
        said = sentence(answer.body).removeprefix(f"{answer.status} ")
        raise kind(said or f"The image service answers with status {answer.status}.")


def _path(image_id: str) -> str:
    """Raises ImageNotFound for what is no id: it must not become another path."""
    if not _ID.fullmatch(image_id):
        raise ImageNotFound(image=image_id[:64])
    return f"/v2/images/{image_id}"


def _check_name(name: str) -> str:
    """A property as a JSON pointer. Raises BadRequest."""
    if not _NAME.fullmatch(name) or name in _NO_PROPERTIES:
        raise errors.BadRequest(f"The property {name[:50]!r} cannot be set: that name is taken or holds / or ~.")
    return name


def _query(filters: ImageFilters) -> dict[str, str | list[str]]:
    query: dict[str, str | list[str]] = {name: value for name, value in filters.properties if name not in _NO_PROPERTIES}
    for name in ("name", "owner", "visibility", "min_disk", "min_ram", "limit", "marker"):
        value = getattr(filters, name)
        if value is not None:
            query[name] = str(value)
    if filters.status:
        query["status"] = "in:" + ",".join(filters.status)
    if filters.tags:
        query["tag"] = list(filters.tags)
    if filters.changed_since is not None:
        query["updated_at"] = "gte:" + times.iso(filters.changed_since)
    return {**query, "os_hidden": "true" if filters.hidden else "false", "sort": "created_at:desc,id:desc"}


def info(answer: Answer) -> ImageInfo:
    return info_of(answer.body)


def info_of(body: bytes) -> ImageInfo:
    """Raises Unavailable when the document is none of an image."""
    try:
        document = msgspec.json.decode(body, type=_Document)
        everything: Mapping[str, Any] = msgspec.json.decode(body)
        created, updated = times.parse(document.created_at), times.parse(document.updated_at)
    except (msgspec.DecodeError, UnicodeDecodeError, ValueError) as error:
        raise Unavailable(f"An answer of the image service cannot be understood: {error}.") from None
    known = {name: getattr(document, name) for name in _Document.__struct_fields__ if not name.endswith("_at")}
    properties = {k: v for k, v in everything.items() if k not in _NO_PROPERTIES and isinstance(v, str)}
    return ImageInfo(**known, properties=properties, created_at=created, updated_at=updated)
