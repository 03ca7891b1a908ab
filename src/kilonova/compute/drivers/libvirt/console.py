"""The serial console's log: its tail, and keeping it small.

QEMU itself appends to the file, so it is moved aside by copying and truncating; what the guest writes in between is lost.
"""

import os
import shutil
from pathlib import Path

from kilonova.compute.drivers import CONSOLE_BYTES

LOG, OLDER = "console.log", "console.log.1"


def read_tail(folder: Path, lines: int | None) -> str:
    """At most CONSOLE_BYTES from the end, over both pieces; None or less than 0: all lines."""
    data = _end_of(folder / LOG, CONSOLE_BYTES)
    if len(data) < CONSOLE_BYTES:
        data = _end_of(folder / OLDER, CONSOLE_BYTES - len(data)) + data
    text = data.decode("utf-8", "replace")
    if lines is None or lines < 0:
        return text
    return "\n".join(_last(text, lines))


def _last(text: str, lines: int) -> list[str]:
    """Lines by newline alone: a guest's other control characters are part of them. A final newline ends the last line."""
    parts = text.split("\n")
    keep = lines + (parts[-1] == "")
    return parts[-keep:] if lines else []


def _end_of(path: Path, size: int) -> bytes:
    try:
        with path.open("rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - size))
            return file.read(size)
    except FileNotFoundError:
        return b""


def rotate(folder: Path, limit_bytes: int) -> bool:
    """Move the log aside if it is larger than `limit_bytes`; of a larger flood only the end is kept."""
    path = folder / LOG
    try:
        size = path.stat().st_size
    except FileNotFoundError:
        return False
    if size <= limit_bytes:
        return False
    with path.open("rb") as source, (folder / OLDER).open("wb") as target:
        source.seek(max(0, size - limit_bytes))
        shutil.copyfileobj(source, target)
    os.truncate(path, 0)
    return True
