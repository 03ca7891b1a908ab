"""Paths of the metadata service over a flat set of files. Pure.

The root is EC2's: /latest/meta-data/… is /ec2/latest/meta-data/…; OpenStack's tree is below /openstack. A folder lists its children one a
line, folders with a slash at the end; a folder that holds a file `_name` is listed by that file's content (EC2 shows `0=name` for a key).
"""

import urllib.parse
from collections.abc import Mapping

import msgspec

NAME = "_name"
JSON, TEXT, BYTES = "application/json", "text/plain; charset=UTF-8", "application/octet-stream"


class Found(msgspec.Struct, frozen=True):
    body: bytes
    content_type: str


class Tree:
    """Built once for a server's files: path without leading slash -> content."""

    def __init__(self, files: Mapping[str, bytes]) -> None:
        self._files = files
        self._folders: dict[str, dict[str, None]] = {}
        for path in files:
            parts = path.split("/")
            for i in range(len(parts)):
                child = parts[i] + ("/" if i < len(parts) - 1 else "")
                self._folders.setdefault("/".join(parts[:i]), {})[child] = None

    def find(self, path: str) -> Found | None:
        """A file or a listing; None when there is neither. A query, a trailing slash and doubled ones do not matter."""
        parts = _parts(path)
        if NAME in parts:
            return None
        if not parts or parts[0] not in ("ec2", "openstack"):
            parts = ["ec2", *parts]
        key = "/".join(parts)
        body = self._files.get(key)
        if body is not None:
            return Found(body, JSON if key.endswith(".json") else BYTES if parts[-1] in ("user-data", "user_data") else TEXT)
        folder = self._folders.get(key)
        return None if folder is None else Found(self._listing(key, folder).encode(), TEXT)

    def _listing(self, key: str, folder: Mapping[str, None]) -> str:
        lines = []
        # Versions and OpenStack's files keep their order; EC2's keys are sorted.
        for child in sorted(folder) if key.startswith("ec2/") else folder:
            if child == NAME:
                continue
            name = self._files.get(f"{key}/{child}{NAME}") if child.endswith("/") else None
            lines.append(child if name is None else name.decode())
        if key in ("ec2", "openstack"):
            lines = [line.rstrip("/") for line in lines]
        return "\n".join(lines)


def _parts(path: str) -> list[str]:
    parts: list[str] = []
    for part in urllib.parse.unquote(path.partition("?")[0]).split("/"):
        if part == "..":
            del parts[-1:]
        elif part not in ("", "."):
            parts.append(part)
    return parts
