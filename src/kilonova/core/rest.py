"""Speaking to other OpenStack services over HTTP: a small client, our service's own token there, and the tokens of our callers.

Only a process that binds a contract to REST imports this (the package's extra `rest`: httpx). Of the APIs it knows Keystone's login and
catalog only; the rest is each service's `rest.py`.
"""

import asyncio
import html
import re
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import httpx
import msgspec

from kilonova.core import errors, times
from kilonova.core.config import ConfigError
from kilonova.core.context import Context
from kilonova.core.log import Log, request_id
from kilonova.core.runtime import Runtime

T = TypeVar("T")
Query = Mapping[str, str | list[str]] | None
Authenticate = Callable[[str, str | None], Awaitable[Context]]
MAX_ANSWER = 16 << 20
"""Bytes of the longest JSON document that is read."""
MOST_CALLERS = 20000
_SWEEP_US = 60_000_000
_RENEW = 0.2
"""A token is renewed when this part of its life is left."""


class Login(msgspec.Struct, frozen=True, kw_only=True):
    """Who a service is in Keystone."""

    auth_url: str
    username: str
    password: str
    project_name: str
    user_domain_name: str = "Default"
    project_domain_name: str = "Default"
    region: str = ""


class Answer(msgspec.Struct, frozen=True):
    status: int
    headers: Mapping[str, str]
    body: bytes

    def json(self, kind: type[T]) -> T:
        """Raises errors.Unavailable when it is not what it should be."""
        try:
            return msgspec.json.decode(self.body, type=kind)
        except (msgspec.DecodeError, msgspec.ValidationError, UnicodeDecodeError) as error:
            raise errors.Unavailable(f"An answer of another service cannot be understood: {error}.") from None


class _Late(errors.Unavailable):
    """No answer in time: who asks again waits as long again."""


class Peer:
    """One service at a URL. `what` is how sentences name it ("image service"). Raises errors.Unavailable when it cannot be reached,
    takes too long, or answers 5xx (after a retry, where asking twice does no harm). The constructor raises ConfigError for a bad cafile."""

    def __init__(
        self, url: str, what: str, log: Log, *, timeout_s: float = 30.0, cafile: str = "", insecure: bool = False, transport: Any = None
    ) -> None:
        self.url = url.rstrip("/")
        self.what = what
        self._log = log
        verify: ssl.SSLContext | bool = not insecure
        if not insecure and self.url.startswith("https"):
            try:
                verify = ssl.create_default_context(cafile=cafile or None)
            except OSError as error:
                raise ConfigError(f"cafile = {cafile}, for the {what} at {url}, cannot be used: {error.strerror or error}.") from None
        # No proxy and no .netrc of the environment, no redirects: a token goes to the configured address and nowhere else.
        self._client = httpx.AsyncClient(
            timeout=httpx.Timeout(timeout_s, connect=min(timeout_s, 10.0)),
            limits=httpx.Limits(max_connections=64, max_keepalive_connections=16, keepalive_expiry=5.0),
            verify=verify,
            trust_env=False,
            follow_redirects=False,
            transport=transport,
        )

    async def close(self) -> None:
        await self._client.aclose()

    async def ask(
        self, method: str, path: str, headers: Mapping[str, str], *, body: Any = None, kind: str = "application/json", query: Query = None
    ) -> Answer:
        """A request with a small answer. `body` is JSON-encodable, or a stream of bytes that is sent in chunks. What changes something
        is sent once."""
        once = method not in ("GET", "HEAD")
        for attempt in (1, 2):
            try:
                async with self.stream(method, path, headers, body=body, kind=kind, query=query) as reply:
                    return Answer(reply.status_code, reply.headers, await _whole(reply))
            except errors.Unavailable as error:
                if once or attempt == 2 or isinstance(error, _Late):
                    raise
        raise AssertionError("unreachable")

    @asynccontextmanager
    async def stream(
        self, method: str, path: str, headers: Mapping[str, str], *, body: Any = None, kind: str = "application/json", query: Query = None
    ) -> AsyncIterator[httpx.Response]:
        """The answer while it comes; a breakdown while it is read is Unavailable too."""
        content = body if body is None or isinstance(body, AsyncIterator) else msgspec.json.encode(body)
        sent = {"accept": "application/json", **({"content-type": kind} if body is not None else {}), **headers}
        asked = request_id.get()
        if len(asked) == 40:
            sent["x-openstack-request-id"] = asked
        try:
            async with self._client.stream(method, self.url + path, headers=sent, content=content, params=query or None) as reply:
                if reply.status_code >= 500:
                    text = sentence(await _whole(reply))
                    self._log.warning("another service failed", url=self.url, path=path, status=reply.status_code, text=text)
                    raise errors.Unavailable(f"The {self.what} at {self.url} failed with status {reply.status_code}; try again later.")
                yield reply
        except httpx.TimeoutException:
            self._log.warning("another service does not answer in time", url=self.url, path=path)
            raise _Late(f"The {self.what} at {self.url} did not answer in time; try again later.") from None
        except httpx.InvalidURL:
            raise errors.BadRequest("The request names something that cannot stand in a URL.") from None
        except httpx.HTTPError as error:
            self._log.warning("another service is away", url=self.url, path=path, reason=f"{type(error).__name__}: {error}")
            raise errors.Unavailable(f"The {self.what} at {self.url} cannot be reached; try again later.") from None


async def _whole(reply: httpx.Response) -> bytes:
    parts, size = [], 0
    async for part in reply.aiter_bytes():
        size += len(part)
        if size > MAX_ANSWER:
            raise errors.Unavailable("An answer of another service is too long.")
        parts.append(part)
    return b"".join(parts)


def sentence(body: bytes) -> str:
    """What an error page says, JSON or HTML, as plain text of at most 300 characters."""
    text = body[:10000].decode("utf-8", "replace")
    try:
        document = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError):
        text = re.sub(r"(?is)<title>.*?</title>|<h1>.*?</h1>", " ", text)
        text = re.sub(r"<br ?/?>", " ", html.unescape(re.sub(r"<[^>]*>", " ", text)))
    else:
        while isinstance(document, dict) and document:
            document = document.get("message") or document.get("error") or next(iter(document.values()))
        text = str(document)
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())[:300]


class _Named(msgspec.Struct, frozen=True):
    id: str = ""
    name: str = ""


class _Endpoint(msgspec.Struct, frozen=True):
    interface: str
    url: str
    region_id: str | None = None


class _Service(msgspec.Struct, frozen=True):
    type: str
    endpoints: list[_Endpoint] = []


class _Scope(msgspec.Struct, frozen=True):
    id: str = ""
    domain: _Named = _Named()


class _Token(msgspec.Struct, frozen=True):
    expires_at: str
    project: _Scope = _Scope()
    catalog: list[_Service] = []


class _Issued(msgspec.Struct, frozen=True):
    token: _Token


class ServiceToken:
    """Our service's own token, got from Keystone with a password, renewed before it ends. One login at a time; those who waited for one
    that failed fail with it."""

    def __init__(self, peer: Peer, login: Login, runtime: Runtime, log: Log) -> None:
        self._peer = peer
        self._login = login
        self._runtime = runtime
        self._log = log
        self._lock = asyncio.Lock()
        self._token = ""
        self._renew_at_us = 0
        self._failed: errors.Error | None = None
        self._attempts = 0
        self._catalog: list[_Service] = []
        self.domain_id = ""
        """Of our service's project; empty before the first login."""

    async def get(self) -> str:
        """Raises errors.Unavailable: also when Keystone does not accept the configured user, since no client of ours can help that."""
        if self._token and self._runtime.now_us() < self._renew_at_us:
            return self._token
        seen = self._attempts
        async with self._lock:
            if self._attempts != seen:
                if self._failed is not None:
                    raise self._failed
                return self._token
            try:
                await self._log_in()
            except errors.Error as error:
                self._attempts, self._failed = self._attempts + 1, error
                raise
            self._attempts, self._failed = self._attempts + 1, None
            return self._token

    async def close(self) -> None:
        await self._peer.close()

    async def renew(self, refused: str) -> str:
        """Another token than the one that was refused."""
        if self._token == refused:
            self._token = ""
        return await self.get()

    async def url(self, service_type: str) -> str:
        """Where a service listens, by the catalog: its internal address if it has one, else the public one. Raises errors.Unavailable."""
        await self.get()
        found: dict[str, str] = {}
        for service in self._catalog:
            if service.type == service_type:
                for endpoint in service.endpoints:
                    if self._login.region in ("", endpoint.region_id):
                        found.setdefault(endpoint.interface, endpoint.url)
        if not found:
            raise errors.Unavailable(f"The catalog of {self._login.auth_url} has no endpoint of the type {service_type}.")
        return found.get("internal") or found.get("public") or next(iter(found.values()))

    async def _log_in(self) -> None:
        login, began = self._login, self._runtime.now_us()
        user = {"name": login.username, "password": login.password, "domain": {"name": login.user_domain_name}}
        project = {"name": login.project_name, "domain": {"name": login.project_domain_name}}
        identity = {"methods": ["password"], "password": {"user": user}}
        answer = await self._peer.ask("POST", "/auth/tokens", {}, body={"auth": {"identity": identity, "scope": {"project": project}}})
        if answer.status != 201:
            self._log.error(
                "the service user cannot log in; look at [keystone_authtoken]",
                url=self._peer.url,
                username=login.username,
                project=login.project_name,
                status=answer.status,
                text=sentence(answer.body),
            )
            raise errors.Unavailable(
                f"The {self._peer.what} at {self._peer.url} does not accept this service's own user; tell the operator."
            )
        token = answer.json(_Issued).token
        self._token = answer.headers.get("x-subject-token", "")
        self._renew_at_us = began + int((times.parse(token.expires_at) - began) * (1 - _RENEW))
        self._catalog, self.domain_id = token.catalog, token.project.domain.id


class CallerTokens:
    """The tokens of those who asked lately, by audit id, so that a contract bound to REST can act with the caller's own rights.

    A Context holds no token, and what is stored of it neither: a token lives here only, in memory, and ends here within a minute of its
    end. Whoever acts after the request (a runner) or in another process finds none and acts as the service on the user's behalf.
    """

    def __init__(self) -> None:
        self._tokens: dict[str, tuple[int, str]] = {}
        self._sweep_at_us = 0

    def remembering(self, authenticate: Authenticate, runtime: Runtime) -> Authenticate:
        """The same authentication, remembering."""

        async def remember(token: str, service_token: str | None = None) -> Context:
            ctx = await authenticate(token, service_token)
            if ctx.audit_ids:
                self._put(ctx.audit_ids[0], ctx.expires_at, token, runtime.now_us())
            return ctx

        return remember

    def _put(self, audit_id: str, expires_at_us: int, token: str, now_us: int) -> None:
        if now_us >= self._sweep_at_us:
            self._tokens = {k: v for k, v in self._tokens.items() if v[0] > now_us}
            self._sweep_at_us = now_us + _SWEEP_US
        if audit_id not in self._tokens and len(self._tokens) >= MOST_CALLERS:
            del self._tokens[next(iter(self._tokens))]
        self._tokens[audit_id] = (expires_at_us, token)

    def of(self, ctx: Context) -> str | None:
        """None when a service acts, or when the token is not known here."""
        if ctx.service is not None or not ctx.audit_ids:
            return None
        found = self._tokens.get(ctx.audit_ids[0])
        return found[1] if found else None
