"""A small asynchronous HTTP client: what a server under test is asked over real sockets, also while it is being killed."""

import asyncio
import json
from typing import Any


class Broken(Exception):
    """No answer came. Whether the request was accepted is not known."""


class Answer:
    def __init__(self, status: int, headers: dict[str, str], body: bytes) -> None:
        self.status = status
        self.headers = headers
        self.body = body

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Http:
    """One request at a time over one kept connection for each port."""

    def __init__(self, token: str = "", timeout_s: float = 30.0, host: str = "127.0.0.1") -> None:
        self.token = token
        self.host = host
        self.timeout_s = timeout_s
        self._links: dict[int, tuple[asyncio.StreamReader, asyncio.StreamWriter]] = {}

    async def __call__(self, method: str, port: int, path: str, body: Any = None, **headers: str) -> Answer:
        """Raises Broken."""
        data = b"" if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
        kind = "application/octet-stream" if isinstance(body, bytes) else "application/json"
        lines = [f"{method} {path} HTTP/1.1", f"Host: {self.host}", f"X-Auth-Token: {self.token}", f"Content-Length: {len(data)}"]
        lines += [f"Content-Type: {kind}", *(f"{name.replace('_', '-')}: {value}" for name, value in headers.items())]
        try:
            async with asyncio.timeout(self.timeout_s):
                if port not in self._links:
                    self._links[port] = await asyncio.open_connection(self.host, port)
                reader, writer = self._links[port]
                writer.write("\r\n".join([*lines, "", ""]).encode() + data)
                return await _answer(reader)
        except (OSError, EOFError, TimeoutError) as error:
            self.close()
            raise Broken(f"{method} {path}: {error!r}") from None

    def close(self) -> None:
        for _, writer in self._links.values():
            writer.close()
        self._links.clear()


async def _answer(reader: asyncio.StreamReader) -> Answer:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    headers = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:] if line)}
    body = await reader.readexactly(int(headers.get("content-length", "0")))
    return Answer(int(head[0].split()[1]), headers, body)
