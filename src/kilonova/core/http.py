"""One HTTP request and its reply, as handlers see them."""

import re
import urllib.parse
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, MutableMapping
from typing import Any

import msgspec

from kilonova.core.context import ANONYMOUS, Context
from kilonova.core.errors import BadRequest, Error, PolicyForbids, TooLarge

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Version = tuple[int, int]
Allowed = Callable[[str, Context, Mapping[str, Any]], bool]

MAX_BODY = 1 << 20
_NO_HOST = re.compile(r"[^\w.:\[\]-]").search
_encoder = msgspec.json.Encoder()


class Request:
    """What a handler may ask of the request. `prefix` is what stood before the route's own path (e.g. /v2.1), for links."""

    __slots__ = (
        "_allowed",
        "_body",
        "_headers",
        "_query",
        "authorized",
        "ctx",
        "edge_base",
        "message",
        "method",
        "params",
        "path",
        "prefix",
        "raw_query",
        "receive",
        "request_id",
        "response_headers",
        "route",
        "scope",
        "version",
    )

    def __init__(self, scope: Scope, receive: Receive, request_id: str) -> None:
        self.scope = scope
        self.receive = receive
        self.request_id = request_id
        self.method: str = scope["method"]
        self.path: str = scope["path"]
        self.raw_query: bytes = scope["query_string"]
        self.prefix = ""
        self.version: Version = (0, 0)
        self.ctx: Context = ANONYMOUS
        self.route: Any = None
        self.params: dict[str, str] = {}
        self.response_headers: dict[str, str] = {}
        self.authorized = False
        self.message = ""
        self.edge_base = ""
        self._headers: dict[bytes, bytes] | None = None
        self._query: list[tuple[str, str]] | None = None
        self._body: bytes | None = None
        self._allowed: Allowed | None = None

    @property
    def headers(self) -> dict[bytes, bytes]:
        """Lower-case names; of a repeated header the first."""
        headers = self._headers
        if headers is None:
            headers = self._headers = {}
            for name, value in self.scope["headers"]:
                headers.setdefault(name, value)
        return headers

    def header(self, name: str) -> str | None:
        value = self.headers.get(name.lower().encode())
        return None if value is None else value.decode("latin-1")

    @property
    def query(self) -> list[tuple[str, str]]:
        if self._query is None:
            try:
                self._query = (
                    urllib.parse.parse_qsl(self.raw_query.decode("utf-8"), keep_blank_values=True, max_num_fields=1000)
                    if self.raw_query
                    else []
                )
            except ValueError:
                raise BadRequest("The query string cannot be read; send at most 1000 fields of percent-encoded UTF-8.") from None
        return self._query

    def one(self, name: str, default: str | None = None) -> str | None:
        """The last value of a query parameter."""
        for key, value in reversed(self.query):
            if key == name:
                return value
        return default

    def every(self, name: str) -> list[str]:
        return [value for key, value in self.query if key == name]

    @property
    def base_url(self) -> str:
        """scheme://host:port as the client wrote it, or the configured public address."""
        if not self.edge_base:
            host = self.headers.get(b"host", b"127.0.0.1").decode("latin-1")
            if _NO_HOST(host):
                raise BadRequest("The Host header is not a host name.")
            self.edge_base = f"{self.scope.get('scheme', 'http')}://{host}"
        return self.edge_base

    def allowed(self, rule: str, target: Mapping[str, Any]) -> bool:
        """Whether policy lets the caller do this; counts as the check of a route whose policy is left to the handler."""
        self.authorized = True
        return self._allowed is not None and self._allowed(rule, self.ctx, target)

    def authorize(self, rule: str, target: Mapping[str, Any], otherwise: Error | None = None) -> None:
        """Raise unless policy allows: PolicyForbids, or `otherwise` (e.g. a 404 where the object must stay hidden)."""
        if not self.allowed(rule, target):
            raise otherwise or PolicyForbids(rule=rule)

    async def body(self, limit: int = MAX_BODY) -> bytes:
        if self._body is None:
            parts, size = [], 0
            async for part in self.stream():
                size += len(part)
                if size > limit:
                    raise TooLarge(f"The request body is larger than {limit} bytes.")
                parts.append(part)
            self._body = parts[0] if len(parts) == 1 else b"".join(parts)
        return self._body

    async def stream(self) -> AsyncIterator[bytes]:
        """The body in the pieces the server hands out; raises Disconnected when the client goes away before its end."""
        more = True
        while more:
            message = await self.receive()
            if message["type"] == "http.disconnect":
                raise Disconnected
            piece = message.get("body", b"")
            more = message.get("more_body", False)
            if piece:
                yield piece


class Disconnected(Exception):
    """The client went away before its request was complete."""


class Reply:
    """Status, body and headers. A body is JSON-encodable, bytes (sent as they are), None, or an async iterator of bytes."""

    __slots__ = ("body", "content_type", "headers", "status")

    def __init__(
        self, body: Any = None, status: int = 0, headers: Mapping[str, str] | None = None, content_type: str = "application/json"
    ) -> None:
        self.body = body
        self.status = status
        self.headers = headers or {}
        self.content_type = content_type

    def encoded(self) -> bytes:
        body = self.body
        if body is None:
            return b""
        if isinstance(body, bytes):
            return body
        return _encoder.encode(body)
