"""How bytes go out: whole, or one range of them."""

import re
from collections.abc import AsyncIterator

from kilonova.core.context import Context
from kilonova.core.errors import BadRequest, RangeNotSatisfiable
from kilonova.core.log import Log
from kilonova.image.drivers import Missing, Opened, Store
from kilonova.image.errors import BytesMissing, Deactivated
from kilonova.image.model import Image
from kilonova.image.states import WITH_DATA

PIECE_BYTES = 256 << 10
_RANGE = re.compile(r"\s*bytes\s*=\s*(\d*)\s*-\s*(\d*)\s*")


def wanted_range(header: str | None, size: int) -> tuple[int, int] | None:
    """(offset, length) of a Range header; None: everything. Raises RangeNotSatisfiable."""
    if header is None:
        return None
    if "," in header:
        raise RangeNotSatisfiable("Requests with multiple ranges are not supported; ask for one range at a time.")
    found = _RANGE.fullmatch(header)
    if found is None or len(found[1]) > 18 or len(found[2]) > 18 or not (found[1] or found[2]):
        raise RangeNotSatisfiable("The Range header cannot be read; write it as bytes=0-99.")
    if not found[1]:
        length = min(int(found[2]), size)
        if not length:
            raise RangeNotSatisfiable("The Range requested is not available: it asks for the last 0 bytes.")
        return size - length, length
    start = int(found[1])
    end = min(int(found[2]), size - 1) if found[2] else size - 1
    if start >= size or end < start:
        raise RangeNotSatisfiable(
            f"The Range requested is not available. Invalid start position in Range header. "
            f"Start position MUST be in the inclusive range [0, {size - 1}]."
        )
    return start, end - start + 1


async def opened(data: Store, log: Log, ctx: Context, image: Image) -> Opened | None:
    """The image's bytes, None when it has none yet. Raises Deactivated, BytesMissing. The caller has asked policy, and closes."""
    if image.status == "deactivated" and not ctx.is_admin:
        raise Deactivated(image=image.id)
    if image.status not in WITH_DATA:
        return None
    try:
        found = await data.open(image.id)
    except Missing:
        raise BytesMissing(image=image.id) from None
    if found.size != image.size:
        found.close()
        log.error("an image's bytes are cut off", image=image.id, size=image.size, found=found.size)
        raise BytesMissing(image=image.id)
    return found


async def stream(source: Opened, offset: int, length: int) -> AsyncIterator[bytes | bytearray]:
    """Pieces of a range; closes the source at the end, also when nobody reads on."""
    try:
        end = offset + length
        while offset < end:
            piece = await source.read(offset, min(PIECE_BYTES, end - offset))
            if not piece:
                raise BadRequest("The image ended early.")
            offset += len(piece)
            yield piece
    finally:
        source.close()


async def read(source: Opened, offset: int, length: int) -> bytes:
    """One piece; shorter only at the end."""
    try:
        parts: list[bytes | bytearray] = []
        while length > 0 and (part := await source.read(offset, length)):
            parts.append(part)
            offset += len(part)
            length -= len(part)
        return b"".join(parts)
    finally:
        source.close()
