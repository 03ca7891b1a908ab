"""Small file operations that block; call them through `Runtime.blocking`."""

import os
import shutil


def copy(source: str, target: str) -> None:
    """The bytes of a file into another, which is made or overwritten; the kernel copies (or shares) them where it can."""
    with open(source, "rb") as read, open(target, "wb") as write:
        try:
            size = os.fstat(read.fileno()).st_size
            while size > 0:
                done = os.copy_file_range(read.fileno(), write.fileno(), size)
                if done == 0:
                    break
                size -= done
        except OSError:
            read.seek(0)
            write.seek(0)
            write.truncate()
            shutil.copyfileobj(read, write, 1 << 20)


def write_at(path: str, offset: int, data: bytes) -> None:
    """Write into a file at an offset; the file is made when it is missing."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        view = memoryview(data)
        while view:
            written = os.pwrite(descriptor, view, offset)
            view, offset = view[written:], offset + written
    finally:
        os.close(descriptor)


def read_at(path: str, offset: int, length: int) -> bytes:
    """At most `length` bytes from an offset; fewer only at the end of the file."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.pread(descriptor, length, offset)
    finally:
        os.close(descriptor)


def read_text(path: str) -> str:
    with open(path, encoding="utf-8") as file:
        return file.read()
