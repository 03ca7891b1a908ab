"""How bytes come in.

An upload claims its image (queued -> saving, in the upload's own name), streams into a part that nobody else can see, looks at what it
got, commits the part, and lands (saving -> active, if the image is still saving in this upload's name). Whatever goes wrong on the way
takes the bytes away first and then gives the image back as queued. A process that dies in between leaves an image with an upload's
name on it, and perhaps bytes: `recover`, at the next start, gives the image back and sweeps the store. The same is done while running
(`mend`) after a disk or a database has failed in the midst: what a lost commit did is only known from the row. An image deleted meanwhile
is noticed when it cannot land; whoever lands last cleans up.

Several processes may share the database and the store. The upload's name on the image then has a lease (`upload_until`), renewed every
ten seconds, and other processes leave alone what a lease keeps. When it has run out, whoever finds it puts a name of its own on the
image, removes the parts, then the bytes, and gives the image back. The uploader may have been asleep. When it wakes up:

* it cannot commit: it looks at the row after it has made its part, and whoever takes over looks for parts after it has changed the row,
  so either the row says no or the part is gone;
* it removes and promotes bytes only while its own lease holds, and else asks the row first.

Pieces are collected to lists of 8 MiB. While one list is hashed (MD5 and SHA-512, a thread each) and written (the store's thread), the
next is collected: at most two lists are in memory, and the loop only moves references.
"""

import asyncio
import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any

import msgspec

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
    Overtaken,
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
LEASE_S = 30.0
MARGIN_S = 2.0
RENEW_S = 10.0
UNLEASED_S = 86400.0
"""An upload begun by a release that knew no leases counts as dead after that long."""
ARCHIVES = ("ova", "ovf", "docker", "compressed")


class Claim(msgspec.Struct, kw_only=True):
    """An image that this process has in an upload's name. valid_until: on the monotonic clock; later another process may have it."""

    image_id: str
    token: str
    valid_until: float = float("-inf")
    doomed: bool = False
    """The image was deleted or taken over: stop early."""
    settled: bool = False
    """The row does not have the name any more, or has it no longer on our account."""


class Uploads:
    """Every upload of this process. exclusive: there is no other process."""

    def __init__(
        self, *, db: Database, runtime: Runtime, tasks: Tasks, log: Log, data: Store, quotas: Quotas, strict: bool, exclusive: bool
    ) -> None:
        self.db = db
        self.runtime = runtime
        self.tasks = tasks
        self.log = log
        self.data = data
        self.quotas = quotas
        self.strict = strict
        self.exclusive = exclusive
        self._running: dict[str, Claim] = {}
        self._left: dict[str, None] = {}
        """Names that rows may still have and nobody here works for."""
        self._doubtful = False
        """Something may have been left behind that nobody has under way."""

    # ---- claims

    def _claim(self, image_id: str) -> Claim:
        token = self.runtime.uuid()
        claim = self._running[token] = Claim(image_id=image_id, token=token)
        return claim

    def _end(self, claim: Claim) -> None:
        self._running.pop(claim.token, None)
        if not claim.settled:
            self._left[claim.token] = None
            self._doubtful = True

    async def _take(self, claim: Claim, body: Callable[[Transaction, int], Awaitable[bool]]) -> bool:
        """Begin or prolong. `body` writes name and lease (until when, by the database's clock) into the row, if it may."""
        began = self.runtime.monotonic()
        if not await self.db.transact(lambda tx: body(tx, self._until())):
            return False
        claim.valid_until = began + LEASE_S - MARGIN_S
        return True

    def _until(self) -> int:
        return self.db.now_us() + int(LEASE_S * 1_000_000)

    async def _mine(self, claim: Claim) -> bool:
        """Whether the image is ours now. Nothing is awaited after the clock was looked at."""
        if self.exclusive:
            return True
        while self.runtime.monotonic() >= claim.valid_until:
            if not await self._take(claim, lambda tx, until: images.prolong(tx, claim.image_id, claim.token, until)):
                return False
        return True

    async def _lost(self, image_id: str) -> Exception:
        """Why an image is not in an upload's name any more."""
        if await images.upload_of(self.db, image_id) is None:
            return Vanished(image=image_id)
        return Overtaken(image=image_id)

    async def renew(self) -> None:
        """Keep what is under way; called every RENEW_S."""
        claims = {token: claim for token, claim in self._running.items() if claim.valid_until > float("-inf")}
        if self.exclusive or not claims:
            return
        began = self.runtime.monotonic()
        held = await self.db.transact(lambda tx: images.prolong_all(tx, list(claims), self._until()))
        for token, claim in claims.items():
            if token in held:
                claim.valid_until = began + LEASE_S - MARGIN_S
            else:
                claim.doomed = True

    # ---- the verbs

    async def receive(
        self, verb: str, image: Image, pieces: AsyncIterator[bytes], *, announced: int | None, expected: int | None
    ) -> Content:
        """`verb`: upload or stage. announced: bytes by Content-Length, which lets a hopeless upload fail early; expected: bytes that must
        come (SizeMismatch)."""
        claim = self._claim(image.id)
        kind = IMAGE if verb == "upload" else STAGED
        landing = False
        try:
            now = self.runtime.now_us()
            if not await self._take(claim, lambda tx, until: images.begin(tx, verb, image.id, claim.token, until, now)):
                claim.settled = True
                await self._explain(verb, image.id)
            try:
                limit = await self._limit(image, announced)
                content = await self._collect(claim, image, kind, pieces, limit, expected)
                landing = True
                await self._land(verb, image, claim, content)
            except Lost:
                raise
            except BaseException as error:
                # Who is cancelled at the commit does not hear of it: the row may have the bytes. `recover` looks.
                if isinstance(error, Exception) or not landing:
                    await self._take_back(claim, kind)
                raise
        finally:
            self._end(claim)
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

    async def _collect(
        self, claim: Claim, image: Image, kind: str, pieces: AsyncIterator[bytes], limit: int, expected: int | None
    ) -> Content:
        writer = await self.data.writer(image.id, kind)
        flow = _Flow(self.runtime, self.tasks, writer)
        try:
            async for piece in pieces:
                if flow.size + len(piece) > limit:
                    raise self._over(limit, flow.size + len(piece))
                if claim.doomed:
                    raise await self._lost(image.id)
                await flow.take(piece)
            await flow.finish()
            if expected is not None and expected != flow.size:
                raise SizeMismatch(announced=expected, got=flow.size)
            content = self.judged(image, flow)
            await self._commit(claim, writer)
        except Full:
            raise StoreFull from None
        finally:
            await flow.rest()
            await writer.abort()
        return content

    async def _commit(self, claim: Claim, writer: Writer) -> None:
        self.runtime.point("image commit")
        if await images.upload_of(self.db, claim.image_id) != claim.token:
            raise await self._lost(claim.image_id)
        try:
            await writer.commit()
        except FileNotFoundError:  # whoever took over has removed the part
            raise await self._lost(claim.image_id) from None
        self.runtime.point("image committed")

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

    async def _land(self, verb: str, image: Image, claim: Claim, content: Content) -> None:
        now = self.runtime.now_us()

        async def body(tx: Transaction) -> bool:
            if verb == "stage":
                done = await images.staged(tx, image.id, claim.token, content, now)
            else:
                done = await images.land(tx, image.id, claim.token, content, HASH, now)
            if done and self.quotas.storage_bytes and image.owner is not None:
                await images.count_behind(tx, image.owner)
                used = await images.used_bytes(tx, image.owner)
                if used > self.quotas.storage_bytes:
                    raise StorageQuota(size=content.size, remaining=self.quotas.storage_bytes - used + content.size)
            return done

        if not await self.db.transact(body):
            raise await self._lost(image.id)
        claim.settled = True

    async def _take_back(self, claim: Claim, kind: str) -> None:
        """The bytes first: the image must not be free for another upload while ours are still there. What another process has taken over
        it takes back; what was deleted has no bytes."""
        try:
            if await self._mine(claim):
                await self.data.delete(claim.image_id, kind)
                await self.db.transact(lambda tx: images.give_up(tx, claim.image_id, claim.token, self.runtime.now_us()))
            elif await images.upload_of(self.db, claim.image_id) is None:
                await self.data.delete(claim.image_id)
            claim.settled = True
        except Exception as error:
            self.log.error("an upload could not be taken back; it is tried again", image=claim.image_id, error=error)

    async def promote(self, image: Image) -> Content:
        """The import of staged bytes: uploading -> importing -> active. The caller has seen `image.staged`."""
        content = image.staged
        assert content is not None
        claim = self._claim(image.id)
        try:
            now = self.runtime.now_us()
            if not await self._take(claim, lambda tx, until: images.begin_import(tx, image, claim.token, until, now)):
                claim.settled = True
                await self._explain("import", image.id)
            await self._finish_import(claim, content)
        finally:
            self._end(claim)
        return content

    async def _finish_import(self, claim: Claim, content: Content) -> None:
        image_id = claim.image_id
        self.runtime.point("image promote")
        if not await self._mine(claim):
            claim.settled = True
            raise await self._lost(image_id)
        try:
            await self.data.promote(image_id)
        except Missing:
            await self._take_back(claim, "")
            raise BytesMissing(image=image_id) from None
        self.runtime.point("image promoted")
        now = self.runtime.now_us()
        landed = await self.db.transact(lambda tx: images.land(tx, image_id, claim.token, content, HASH, now))
        if not landed and await images.upload_of(self.db, image_id) is None:
            await self.data.delete(image_id)
        claim.settled = True
        if not landed:
            raise await self._lost(image_id)

    async def deleted(self, image_id: str) -> None:
        """The row is gone: take the bytes away, and stop an upload that still runs."""
        for claim in self._running.values():
            if claim.image_id == image_id:
                claim.doomed = True
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
        if self.exclusive and not self._doubtful:
            return
        sweep, self._doubtful = self._doubtful, False
        try:
            await self.recover()
            if sweep:
                await self._sweep()
        except Exception as error:
            self._doubtful = self._doubtful or sweep
            self.log.error("what is left of uploads could not be put right; it is tried again", error=error)

    async def recover(self) -> int:
        """Put right the images that are in the name of an upload which nobody has under way; how many."""
        left, self._left = self._left, {}
        count = 0
        try:
            for image, until in await images.unfinished(self.db):
                if image.upload not in self._running and (image.upload in left or self._dead(image, until)):
                    count += await self._take_over(image, until)
        except BaseException:
            self._left.update(left)
            raise
        return count

    def _dead(self, image: Image, until: int) -> bool:
        """Whether nobody works for the name on an image any more. Without a lease it is an earlier release's."""
        until = until or image.updated_at + int(UNLEASED_S * 1_000_000)
        return self.exclusive or until < self.db.now_us()

    async def _take_over(self, image: Image, was_until: int) -> bool:
        """False when somebody else was quicker."""
        claim = self._claim(image.id)
        try:
            if not await self._take(claim, lambda tx, until: images.take_over(tx, image, was_until, claim.token, until)):
                claim.settled = True
                return False
            self.log.info("an interrupted upload is taken back", image=image.id, status=image.status)
            await self._remove_parts(claim)
            if image.status == "importing" and image.staged is not None:
                await self._finish_import(claim, image.staged)
            elif image.status == "queued" or (image.status == "uploading" and image.staged is not None):
                await self._remove_unwanted(claim, "" if image.status == "queued" else IMAGE)
            else:
                await self._take_back(claim, IMAGE if image.status == "saving" else STAGED)
        except (BytesMissing, Overtaken, Vanished) as error:
            self.log.warning("an interrupted upload could not be finished", image=image.id, error=error)
        finally:
            self._end(claim)
        return True

    async def _remove_parts(self, claim: Claim) -> None:
        """So that whoever had the image, and was asleep, cannot commit any more."""
        if self.exclusive:
            return
        entries = [e for e in await self.data.entries() if e.image_id == claim.image_id and e.kind not in (IMAGE, STAGED)]
        for entry in entries:
            if await self._mine(claim):
                await self.data.remove(entry)

    async def _remove_unwanted(self, claim: Claim, kind: str) -> None:
        """Of an image that nobody uploads to: bytes that should not be there. The claim keeps uploads away meanwhile."""
        if await self._mine(claim):
            await self.data.delete(claim.image_id, kind)
            await self.db.transact(lambda tx: images.release(tx, claim.image_id, claim.token))
        claim.settled = True

    async def _sweep(self) -> None:
        """What is in an upload's name is left alone: it is that upload's, or `recover`'s. If the upload is not ours it is looked at again:
        its process may be dead, and the image be deleted before the lease has run out."""
        entries = await self.data.entries()
        for at in range(0, len(entries), SWEEP_BATCH):
            batch = entries[at : at + SWEEP_BATCH]
            known = await images.statuses(self.db, list(dict.fromkeys(e.image_id for e in batch)))
            for entry in batch:
                status, staged, upload = known.get(entry.image_id, ("deleted", False, ""))
                wanted = (entry.kind == IMAGE and status in WITH_DATA) or (entry.kind == STAGED and status == "uploading" and staged)
                if upload and upload not in self._running:
                    self._doubtful = True
                if wanted or upload or any(claim.image_id == entry.image_id for claim in self._running.values()):
                    continue
                self.log.info("bytes that belong to no image are removed", image=entry.image_id, kind=entry.kind)
                if entry.kind in (IMAGE, STAGED) and status in ("queued", "uploading"):
                    await self._clear(entry.image_id)
                else:
                    await self.data.remove(entry)

    async def _clear(self, image_id: str) -> None:
        """Unwanted bytes under a name that an upload may use at any moment."""
        image = await images.get(self.db, image_id)
        if image is not None and not image.upload and image.status in ("queued", "uploading"):
            await self._take_over(image, 0)


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
