"""A file on this machine as a stream of pieces: how a snapshot made here becomes an image."""

import hashlib
import os
from collections.abc import AsyncIterator

from kilonova.core.runtime import Runtime

PIECE_BYTES = 1 << 20


async def pieces(runtime: Runtime, path: str) -> AsyncIterator[bytes]:
    """Raises OSError when the file cannot be read."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        while piece := await runtime.blocking(os.read, descriptor, PIECE_BYTES, pool="image-source"):
            yield piece
    finally:
        os.close(descriptor)


def digest(path: str, algorithm: str) -> tuple[int, str]:
    """Size and hash of a file; blocks. Raises ValueError for an algorithm that is not known here."""
    with open(path, "rb") as file:
        found = hashlib.file_digest(file, algorithm)
        return file.tell(), found.hexdigest()
