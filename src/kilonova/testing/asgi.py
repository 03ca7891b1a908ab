"""A client that calls an ASGI application in this process: the edge without sockets."""

import json
import urllib.parse
from collections.abc import Mapping
from typing import Any


class Response:
    def __init__(self, status: int, headers: list[tuple[bytes, bytes]], body: bytes) -> None:
        self.status = status
        self.headers = {k.decode().lower(): v.decode("latin-1") for k, v in headers}
        self.body = body

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    def __repr__(self) -> str:
        return f"<{self.status} {self.body[:2000]!r}>"


class Client:
    """`headers` go with every request (a token, a version)."""

    def __init__(self, app: Any, headers: Mapping[str, str] | None = None, *, host: str = "localhost") -> None:
        self.app = app
        self.headers = dict(headers or {})
        self.host = host

    def with_headers(self, **headers: str) -> "Client":
        """A client with more headers; underscores stand for dashes."""
        return Client(self.app, {**self.headers, **{k.replace("_", "-"): v for k, v in headers.items()}}, host=self.host)

    async def request(
        self, method: str, path: str, body: Any = None, headers: Mapping[str, str] | None = None, raw: bytes | None = None
    ) -> Response:
        path, _, query = path.partition("?")
        data = raw if raw is not None else b"" if body is None else json.dumps(body).encode()
        merged = {"host": self.host, "accept": "application/json", **self.headers, **(headers or {})}
        if body is not None:
            merged.setdefault("content-type", "application/json")
        merged["content-length"] = str(len(data))
        scope = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": method,
            "scheme": "http",
            "path": urllib.parse.unquote(path),
            "raw_path": path.encode(),
            "query_string": query.encode(),
            "root_path": "",
            "headers": [(k.lower().encode(), v.encode("utf-8")) for k, v in merged.items()],
            "client": ("127.0.0.1", 1),
            "server": ("127.0.0.1", 80),
        }
        pieces = [data[i : i + 65536] for i in range(0, len(data), 65536)] or [b""]
        messages = iter([{"type": "http.request", "body": p, "more_body": i < len(pieces) - 1} for i, p in enumerate(pieces)])
        status, got, out = 0, [], bytearray()

        async def receive() -> dict[str, Any]:
            return next(messages, {"type": "http.disconnect"})

        async def send(message: Any) -> None:
            nonlocal status, got
            if message["type"] == "http.response.start":
                status, got = message["status"], message["headers"]
            elif message["type"] == "http.response.body":
                out.extend(message.get("body", b""))

        await self.app(scope, receive, send)
        return Response(status, got, bytes(out))

    async def get(self, path: str, **options: Any) -> Response:
        return await self.request("GET", path, **options)

    async def post(self, path: str, body: Any = None, **options: Any) -> Response:
        return await self.request("POST", path, body, **options)

    async def put(self, path: str, body: Any = None, **options: Any) -> Response:
        return await self.request("PUT", path, body, **options)

    async def patch(self, path: str, body: Any = None, **options: Any) -> Response:
        return await self.request("PATCH", path, body, **options)

    async def delete(self, path: str, **options: Any) -> Response:
        return await self.request("DELETE", path, **options)
