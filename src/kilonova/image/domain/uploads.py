"""How bytes come in.

An upload claims its image (queued -> saving, in the upload's own name), streams into a part that nobody else can see, looks at what it
got, commits the part, and lands (saving -> active, if the image is still saving in this upload's name). Whatever goes wrong on the way
takes the bytes away first and then gives the image back as queued. A process that dies in between leaves an image with an upload's
name on it, and perhaps bytes: `recover`, at the next start, gives the image back and sweeps the store. The same is done while running
(`mend`) after a disk or a database has failed in the midst: what a lost commit did is only known from the row. An image deleted meanwhile
is noticed when it cannot land; whoever lands last cleans up.

Pieces are collected to lists of 4 MiB. While one list is hashed (MD5 and SHA-512, a thread each) and written (the store's thread), the
next is collected: at most two lists are in memory, and the loop only moves references.
"""

import asyncio
import hashlib
from collections.abc import AsyncIterator, Sequence
from typing import Any

from kilonova.core import disk_formats
from kilonova.core.db import Database, Lost, Transaction
from kilonova.core.log import Log
from kilonova.core.runtime import Runtime
from kilonova.core.tasks import Tasks
from kilonova.image.domain.images import Quotas
from kilonova.image.drivers import IMAGE, STAGED, Full, Missing, Store, Writer
from kilonova.image.errors import (
    BytesMissing,
    FormatMismatch,
    ImageNotFound,
    ImageTooLarge,
    SizeMismatch,
    StorageQuota,
    StoreFull,
    UnsafeContent,
    Vanished,
    WrongTransition,
)
from kilonova.image.model import HASH, Content, Image
from kilonova.image.states import IMAGE as VERBS
from kilonova.image.states import WITH_DATA
from kilonova.image.store import images

BATCH_BYTES = 8 << 20
BATCH_PIECES = 1024
MAX_VECTOR = 256
POOL = "image-hash"
SWEEP_BATCH = 500
ARCHIVES = ("ova", "ovf", "docker", "compressed")


class Uploads:
    """Every upload of this process. `doomed` holds the images deleted under a running upload, so that it stops early."""

    def __init__(self, *, db: Database, runtime: Runtime, tasks: Tasks, log: Log, data: Store, quotas: Quotas, strict: bool) -> None:
        self.db = db
        self.runtime = runtime
        self.tasks = tasks
        self.log = log
        self.data = data
        self.quotas = quotas
        self.strict = strict
        self._running: dict[str, str] = {}
        self._doomed: dict[str, None] = {}
        self._doubtful = False
        """Something may have been left behind that nobody has under way."""

    # ---- the verbs

    async def receive(
        self, verb: str, image: Image, pieces: AsyncIterator[bytes], *, announced: int | None, expected: int | None
    ) -> Content:
        """`verb`: upload or stage. announced: bytes by Content-Length, which lets a hopeless upload fail early; expected: bytes that must
        come (SizeMismatch)."""
        token = self.runtime.uuid()
        self._running[token] = image.id
        kind = IMAGE if verb == "upload" else STAGED
        try:
            if not await self.db.transact(lambda tx: images.begin(tx, verb, image.id, token, self.runtime.now_us())):
                await self._explain(verb, image.id)
            try:
                limit = await self._limit(image, announced)
                content = await self._collect(image, kind, pieces, limit, expected)
                await self._land(verb, image, token, content)
            except Lost:
                raise
            except BaseException:
                await self._take_back(image.id, kind, token)
                raise
        except Lost:
            self._doubtful = True
            raise
        finally:
            self._running.pop(token, None)
            if image.id not in self._running.values():
                self._doomed.pop(image.id, None)
        return content

    async def _explain(self, verb: str, image_id: str) -> None:
        now = await images.get(self.db, image_id)
        if now is None:
            raise ImageNotFound(image=image_id)
        raise WrongTransition(was=now.status, to=VERBS[verb].during)

    async def _limit(self, image: Image, announced: int | None) -> int:
        """Bytes that this image may have. Raises when more are announced."""
        limit = self.quotas.image_bytes
        if announced is not None and announced > limit:
            raise ImageTooLarge(limit=limit)
        if self.quotas.storage_bytes and image.owner is not None:
            left = self.quotas.storage_bytes - await images.used_bytes(self.db, image.owner)
            if announced is not None and announced > left:
                raise StorageQuota(size=announced, remaining=left)
            limit = min(limit, max(0, left))
        return limit

    async def _collect(self, image: Image, kind: str, pieces: AsyncIterator[bytes], limit: int, expected: int | None) -> Content:
        writer = await self.data.writer(image.id, kind)
        flow = _Flow(self.runtime, self.tasks, writer)
        try:
            async for piece in pieces:
                if flow.size + len(piece) > limit:
                    raise self._over(limit, flow.size + len(piece))
                if image.id in self._doomed:
                    raise Vanished(image=image.id)
                await flow.take(piece)
            await flow.finish()
            if expected is not None and expected != flow.size:
                raise SizeMismatch(announced=expected, got=flow.size)
            content = self.judged(image, flow)
            self.runtime.point("image commit")
            await writer.commit()
            self.runtime.point("image committed")
        except Full:
            raise StoreFull from None
        finally:
            await flow.rest()
            await writer.abort()
        return content

    def _over(self, limit: int, size: int) -> Exception:
        if limit < self.quotas.image_bytes:
            return StorageQuota(size=size, remaining=limit)
        return ImageTooLarge(limit=limit)

    def judged(self, image: Image, flow: "_Flow") -> Content:
        """What the bytes are. Raises UnsafeContent, FormatMismatch."""
        try:
            found = flow.inspector.finish(flow.size)
        except disk_formats.UnsafeImage as error:
            raise UnsafeContent(reason=error.reason) from None
        self.check_format(image, found.format)
        return Content(
            size=flow.size,
            checksum=flow.md5.hexdigest(),
            os_hash_value=flow.sha512.hexdigest(),
            format=found.format,
            virtual_size=found.virtual_size,
        )

    def check_format(self, image: Image, found: str) -> None:
        """Content with a structure of its own must be what it is called: a host that opens it by another name reads something that nobody
        looked at. Raw bytes may be called anything when `strict` is off (the guest will not start, that is all), and in an archive."""
        declared = image.disk_format
        if declared is None:
            return
        try:
            disk_formats.check(declared, found)
        except disk_formats.FormatMismatch:
            if (self.strict and image.container_format not in ARCHIVES) or found not in ("raw", "gpt", "iso"):
                raise FormatMismatch(declared=declared, found=found) from None

    async def _land(self, verb: str, image: Image, token: str, content: Content) -> None:
        now = self.runtime.now_us()

        async def body(tx: Transaction) -> bool:
            if verb == "stage":
                done = await images.staged(tx, image.id, token, content, now)
            else:
                done = await images.land(tx, image.id, token, content, HASH, now)
            if done and self.quotas.storage_bytes and image.owner is not None:
                await images.count_behind(tx, image.owner)
                used = await images.used_bytes(tx, image.owner)
                if used > self.quotas.storage_bytes:
                    raise StorageQuota(size=content.size, remaining=self.quotas.storage_bytes - used + content.size)
            return done

        if not await self.db.transact(body):
            raise Vanished(image=image.id)

    async def _take_back(self, image_id: str, kind: str, token: str) -> None:
        """The bytes first: the image must not be free for another upload while ours are still there."""
        try:
            await self.data.delete(image_id, kind)
            await self.db.transact(lambda tx: images.give_up(tx, image_id, token, self.runtime.now_us()))
        except Exception as error:
            self._doubtful = True
            self.log.error("an upload could not be taken back; it is tried again", image=image_id, error=error)

    async def promote(self, image: Image) -> Content:
        """The import of staged bytes: uploading -> importing -> active. The caller has seen `image.staged`."""
        content = image.staged
        assert content is not None
        token = self.runtime.uuid()
        self._running[token] = image.id
        try:
            if not await self.db.transact(lambda tx: images.begin_import(tx, image, token, self.runtime.now_us())):
                await self._explain("import", image.id)
            await self._finish_import(image.id, token, content)
        except (Lost, OSError):
            self._doubtful = True
            raise
        finally:
            self._running.pop(token, None)
        return content

    async def _finish_import(self, image_id: str, token: str, content: Content) -> None:
        self.runtime.point("image promote")
        try:
            await self.data.promote(image_id)
        except Missing:
            await self._take_back(image_id, "", token)
            raise BytesMissing(image=image_id) from None
        self.runtime.point("image promoted")
        now = self.runtime.now_us()
        if not await self.db.transact(lambda tx: images.land(tx, image_id, token, content, HASH, now)):
            await self.data.delete(image_id)
            raise Vanished(image=image_id)

    async def deleted(self, image_id: str) -> None:
        """The row is gone: take the bytes away, and stop an upload that still runs."""
        if image_id in self._running.values():
            self._doomed[image_id] = None
        try:
            await self.data.delete(image_id)
        except OSError as error:
            self._doubtful = True
            self.log.error("a deleted image's bytes could not be removed; it is tried again", image=image_id, error=error)

    # ---- after a crash

    def doubt(self) -> None:
        """A commit was lost that may have left bytes or an upload's name behind."""
        self._doubtful = True

    async def mend(self) -> None:
        """Called now and then: put right what is in doubt."""
        if not self._doubtful:
            return
        self._doubtful = False
        try:
            await self.recover()
        except Exception as error:
            self._doubtful = True
            self.log.error("what is left of uploads could not be put right; it is tried again", error=error)

    async def recover(self) -> int:
        """Give back what nobody has under way and sweep the store. For the one process that owns this state."""
        count = 0
        for image in await images.unfinished(self.db):
            if image.upload in self._running:
                continue
            count += 1
            self.log.info("an interrupted upload is taken back", image=image.id, status=image.status)
            try:
                if image.status == "importing" and image.staged is not None:
                    await self._finish_import(image.id, image.upload, image.staged)
                else:
                    await self._take_back(image.id, IMAGE if image.status == "saving" else STAGED, image.upload)
            except BytesMissing as error:
                self.log.warning("an interrupted import lost its bytes", image=image.id, error=error)
        return count + await self._sweep()

    async def _sweep(self) -> int:
        entries = await self.data.entries()
        swept = 0
        for at in range(0, len(entries), SWEEP_BATCH):
            batch = entries[at : at + SWEEP_BATCH]
            known = await images.statuses(self.db, list(dict.fromkeys(e.image_id for e in batch)))
            for entry in batch:
                status, staged = known.get(entry.image_id, ("deleted", False))
                wanted = (entry.kind == IMAGE and status in WITH_DATA) or (entry.kind == STAGED and status == "uploading" and staged)
                if not wanted and entry.image_id not in self._running.values():
                    swept += 1
                    self.log.info("bytes that belong to no image are removed", image=entry.image_id, kind=entry.kind)
                    await self.data.remove(entry)
        return swept


class _Flow:
    """One stream of bytes on its way through both hashes, the inspector and the store."""

    def __init__(self, runtime: Runtime, tasks: Tasks, writer: Writer) -> None:
        self.runtime = runtime
        self.tasks = tasks
        self.writer = writer
        self.md5 = hashlib.md5(usedforsecurity=False)
        self.sha512 = hashlib.sha512()
        self.inspector = disk_formats.Inspector()
        self.size = 0
        self._batch: list[bytes] = []
        self._batch_bytes = 0
        self._working: asyncio.Task[Any] | None = None
        self._error: Exception | None = None

    async def take(self, piece: bytes) -> None:
        self.size += len(piece)
        self.inspector.eat(piece)
        self._batch.append(piece)
        self._batch_bytes += len(piece)
        if self._batch_bytes >= BATCH_BYTES or len(self._batch) >= BATCH_PIECES:
            await self._push()

    async def _push(self) -> None:
        """Wait for the list before this one, then set this one going."""
        await self._settled()
        batch, self._batch, self._batch_bytes = self._batch, [], 0
        if len(batch) > MAX_VECTOR:
            batch = [b"".join(batch)]
        self._working = self.tasks.start("image bytes", self._work(batch))

    async def _work(self, batch: list[bytes]) -> None:
        jobs = [
            self.runtime.blocking(_feed, self.md5, batch, pool=POOL),
            self.runtime.blocking(_feed, self.sha512, batch, pool=POOL),
            self.writer.write(batch),
        ]
        try:
            await self.tasks.gather("image bytes", jobs)
        except Exception as error:
            self._error = error

    async def _settled(self) -> None:
        await self.rest()
        if self._error is not None:
            raise self._error

    async def finish(self) -> None:
        """All bytes are hashed and written."""
        if self._batch:
            await self._push()
        await self._settled()

    async def rest(self) -> None:
        """Wait until no thread works for this stream any more, whatever became of it."""
        if self._working is not None and not self._working.done():
            await asyncio.shield(self._working)  # whoever waits may be cancelled; the threads' work goes on and must be waited for
        self._working = None


def _feed(hasher: Any, pieces: Sequence[bytes]) -> None:
    for piece in pieces:
        hasher.update(piece)
