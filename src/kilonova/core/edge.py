"""The edge: one HTTP request from the server to a handler and back. It alone knows HTTP, tokens, versions and policy.

The order, which OpenStack's clients can observe: version, token, unknown path, method, policy, body, handler.
Identity headers that a client sends (X-Roles, X-User-Id, …) have no meaning here: who asks comes from the token only.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from typing import Any

import msgspec

from kilonova.core import metrics
from kilonova.core.context import Context
from kilonova.core.envelopes import Envelope
from kilonova.core.errors import BadRequest, Error, Internal, NotFound, PolicyForbids, Unauthorized, UnsupportedMediaType
from kilonova.core.http import MAX_BODY, Disconnected, Receive, Reply, Request, Scope, Send
from kilonova.core.log import Log, request_id
from kilonova.core.microversions import Microversions
from kilonova.core.policy import Policy
from kilonova.core.routing import ANY_TOKEN, PUBLIC, Route, Router
from kilonova.core.runtime import Runtime

Authenticate = Callable[[str, str | None], Awaitable[Context]]
"""(token, service token) -> who asks. Raises Unauthorized."""

_actions = msgspec.json.Decoder(dict[str, msgspec.Raw])


class Edge:
    """The ASGI application of one service.

    mount: (path) -> (prefix, rest): takes what stands before the routes' own paths (/v2.1, /v2.1/<project>) off, or None for a
    path that is none of ours.
    paths_first: an unknown path is told to those without a token too (identity; elsewhere the token stands in front of all paths).
    """

    def __init__(
        self,
        *,
        name: str,
        service: Any,
        routes: Sequence[Route],
        envelope: Envelope,
        runtime: Runtime,
        log: Log,
        policy: Policy,
        authenticate: Authenticate,
        versions: Microversions | None = None,
        identity_url: str = "",
        mount: Callable[[str], tuple[str, str] | None] | None = None,
        id_headers: Sequence[str] = ("x-openstack-request-id",),
        public_url: str = "",
        max_body: int = MAX_BODY,
        extra_headers: Mapping[str, str] | None = None,
        check: Callable[[Request], None] | None = None,
        healthy: Callable[[], dict[str, Any]] | None = None,
        paths_first: bool = False,
    ) -> None:
        self.name = name
        self.service = service
        self.router = Router(routes)
        self.envelope = envelope
        self.runtime = runtime
        self.log = log
        self.policy = policy
        self.authenticate = authenticate
        self.versions = versions
        self.identity_url = identity_url
        self.mount = mount
        self.id_headers = id_headers
        self.public_url = public_url
        self.max_body = max_body
        self.extra_headers = dict(extra_headers or {})
        self._id_headers = tuple(name.encode() for name in id_headers)
        self._always = tuple((name.encode(), _latin(value)) for name, value in self.extra_headers.items())
        self._version_headers: dict[tuple[int, int], tuple[tuple[bytes, bytes], ...]] = {}
        self.check = check
        self.healthy = healthy or (lambda: {"status": "ok"})
        self.paths_first = paths_first
        self.collector = metrics.EdgeCollector(name, routes)
        for route in routes:
            if route.policy not in (PUBLIC, ANY_TOKEN) and route.policy not in policy:
                raise ValueError(f"{name}: {route!r} names the unknown policy rule {route.policy!r}")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await _lifespan(receive, send)
            return
        started = self.runtime.monotonic()
        request = Request(scope, receive, "req-" + self.runtime.uuid())
        request_id.set(request.request_id)
        route: Route | None = None
        try:
            reply, route = await self._answer(request)
            await self._send(request, reply, send)
        except Disconnected:
            reply = Reply(None, 499)
        seconds = self.runtime.monotonic() - started
        if route is not None:
            self.collector.stats[route].add(reply.status, seconds)
        ctx = request.ctx
        line: dict[str, Any] = {
            "time": self.runtime.now(),
            "log": self.name,
            "request_id": request.request_id,
            "method": request.method,
            "path": request.path,
            "status": reply.status,
            "ms": int(seconds * 100_000) / 100,
            "user_id": ctx.user_id,
            "project_id": ctx.project_id,
        }
        if ctx.global_request_id:
            line["global_request_id"] = ctx.global_request_id
        self.log.sink.access(line)

    async def _answer(self, request: Request) -> tuple[Reply, Route | None]:
        route: Route | None = None
        try:
            if self.public_url:
                request.edge_base = self.public_url
            path = request.path
            if path in ("/healthz", "/metrics") and request.method == "GET":
                return self._own(path), None
            if self.mount is not None:
                mounted = self.mount(path)
                if mounted is None:
                    return self.envelope.unknown_path(request), None
                request.prefix, path = mounted
            found = self.router.find(path)
            if self.versions is not None:
                request.version = self.versions.minimum
                request.version = self.versions.negotiate(request)
            if found is None and self.paths_first:
                return self.envelope.unknown_path(request), None
            if found is None or not _public(found[0].get(request.method) or found[0].get("GET", [])):
                await self._authenticate(request)
            if found is None:
                return self.envelope.unknown_path(request), None
            methods, request.params = found
            candidates = methods.get(request.method) or (methods.get("GET") if request.method == "HEAD" else None)
            if candidates is None:
                allowed = sorted({*methods, *({"HEAD"} if "GET" in methods else ())})
                return self.envelope.wrong_method(request, allowed), None
            route, body = await self._choose(request, candidates)
            request.route = route
            return await self._run(request, route, body), route
        except Unauthorized as error:
            return self.envelope.unauthorized(request, error, self.identity_url or request.base_url), route
        except Error as error:
            if error.status >= 500:
                self.log.error("request failed", path=request.path, error=error)
            return self.envelope.error(request, error), route
        except Disconnected:
            raise
        except Exception as error:
            self.log.error("request failed", method=request.method, path=request.path, error=error)
            return self.envelope.error(request, Internal(request_id=request.request_id)), route

    async def _authenticate(self, request: Request) -> None:
        headers = request.headers
        token = headers.get(b"x-auth-token")
        request._allowed = self._allows
        if not token:
            raise Unauthorized
        service_token = headers.get(b"x-service-token")
        ctx = await self.authenticate(token.decode("latin-1"), service_token.decode("latin-1") if service_token else None)
        given = headers.get(b"x-openstack-request-id")
        request.ctx = msgspec.structs.replace(ctx, request_id=request.request_id, global_request_id=_global_id(given))

    def _allows(self, rule: str, ctx: Context, target: Mapping[str, Any]) -> bool:
        return self.policy.allows(rule, ctx, target)

    async def _choose(self, request: Request, candidates: list[Route]) -> tuple[Route, Any]:
        """The route for this version (and action), and the raw body of an action."""
        version = request.version
        if candidates[0].action:
            raw = await request.body(self.max_body)
            body = decode_body(_actions, raw)
            known = False
            for route in candidates:
                if route.action in body:
                    known = True
                    if route.serves(version):
                        if len(body) > 1:
                            raise BadRequest("The body of an action has exactly one key, the action's name.")
                        return route, raw
            if known:
                raise NotFound("The resource could not be found.")
            name = next(iter(body), "")
            raise BadRequest(
                f"There is no such action: {name[:80]}. Available actions are: {', '.join(sorted({r.action for r in candidates}))}"
            )
        for route in candidates:
            if route.serves(version):
                return route, None
        raise NotFound("The resource could not be found.")

    async def _run(self, request: Request, route: Route, raw: Any) -> Reply:
        ctx = request.ctx
        if self.check is not None:
            self.check(request)
        if route.policy in (PUBLIC, ANY_TOKEN):
            request.authorized = True
        elif not route.deferred:
            request.authorize(
                route.policy,
                {"project_id": ctx.project_id, "user_id": ctx.user_id, "domain_id": ctx.domain_id, "tenant_id": ctx.project_id},
                PolicyForbids(rule=route.policy),
            )
        arguments: dict[str, Any] = request.params
        if route.body and not route.stream:
            decoder = route.decoder(request.version)
            if decoder is None:
                raise NotFound("The resource could not be found.")
            if raw is None:
                kind = request.headers.get(b"content-type", b"")
                raw = await request.body(self.max_body)
                if raw and kind and b"json" not in kind:
                    raise UnsupportedMediaType(f"The content type {kind.decode('latin-1')[:80]} is not supported; send application/json.")
            arguments = {**arguments, "body": decode_body(decoder, raw)}
        reply = await route.handler(self.service, ctx, request, **arguments)
        if not isinstance(reply, Reply):
            reply = Reply(reply)
        if not reply.status:
            reply.status = route.status
        if not request.authorized:
            self.log.error("handler did not ask policy", route=repr(route))
            raise PolicyForbids(rule=route.policy)
        return reply

    def _own(self, path: str) -> Reply:
        if path == "/metrics":
            return Reply(metrics.render(self.collector), 200, content_type="text/plain; version=0.0.4; charset=utf-8")
        health = self.healthy()
        return Reply({"service": self.name, **health}, 200 if health.get("status") == "ok" else 503)

    async def _send(self, request: Request, reply: Reply, send: Send) -> None:
        ident = request.request_id.encode()
        headers: list[tuple[bytes, bytes]] = [(name, ident) for name in self._id_headers]
        known = self._version_headers.get(request.version)
        if known is None:
            told = self.versions.headers(request.version).items() if self.versions is not None else ()
            known = self._version_headers[request.version] = (*((key.encode(), value.encode()) for key, value in told), *self._always)
        headers += known
        sized = False
        for mapping in (request.response_headers, reply.headers):
            for key, value in mapping.items():
                name = key.encode()
                headers.append((name, _latin(value)))
                sized = sized or name == b"content-length"
        bodiless = reply.status in (204, 304) or reply.status < 200
        if isinstance(reply.body, AsyncIterator):
            headers.append((b"content-type", reply.content_type.encode()))
            await send({"type": "http.response.start", "status": reply.status, "headers": headers})
            async for piece in reply.body:
                await send({"type": "http.response.body", "body": piece, "more_body": True})
            await send({"type": "http.response.body", "body": b""})
            return
        body = b"" if bodiless else reply.encoded()
        if not bodiless:
            if body or reply.body is not None:
                headers.append((b"content-type", reply.content_type.encode()))
            if not sized:
                headers.append((b"content-length", str(len(body)).encode()))
        await send({"type": "http.response.start", "status": reply.status, "headers": headers})
        await send({"type": "http.response.body", "body": b"" if request.method == "HEAD" else body})


def _public(routes: list[Route]) -> bool:
    return any(route.policy == PUBLIC for route in routes)


def decode_body(decoder: "msgspec.json.Decoder[Any]", raw: bytes) -> Any:
    """The body as the route's type. The error says which field and why."""
    if not raw:
        raise BadRequest(
            "The server could not comply with the request since it is either malformed or otherwise incorrect: a JSON body is required."
        )
    try:
        return decoder.decode(raw)
    except msgspec.ValidationError as error:
        raise BadRequest(invalid(str(error))) from None
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        raise BadRequest("Malformed request body: it is not valid JSON.") from None


def invalid(text: str) -> str:
    """msgspec's complaint as OpenStack's sentence: Invalid input for field/attribute name. …"""
    what, _, where = text.partition(" - at `")
    path = where.rstrip("`").removeprefix("$").removeprefix(".")
    if not path:
        return f"Invalid input for the request body. {what}."
    return f"Invalid input for field/attribute {path.rpartition('.')[2]}. {what} - at {path}."


def _global_id(given: bytes | None) -> str | None:
    if given is None or len(given) != 40 or not given.startswith(b"req-"):
        return None
    text = given.decode("latin-1")
    return text if all(c in "0123456789abcdefABCDEF-" for c in text[4:]) else None


def _latin(value: str) -> bytes:
    """A header value: latin-1 without line breaks; what cannot be written so is percent-encoded UTF-8."""
    clean = value.replace("\r", "").replace("\n", "")
    try:
        return clean.encode("latin-1")
    except UnicodeEncodeError:
        return clean.encode("utf-8")


async def _lifespan(receive: Receive, send: Send) -> None:
    while True:
        message = await receive()
        if message["type"] == "lifespan.startup":
            await send({"type": "lifespan.startup.complete"})
        else:
            await send({"type": "lifespan.shutdown.complete"})
            return
