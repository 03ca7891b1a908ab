"""Identity's contract answered by another Keystone over its v3 API: our other services on a cloud that has a Keystone already.

Each token that clients bring is asked about with our service user's own token. The answer is believed for `token_cache_time` seconds at
most: so late a revocation, a disabled user or a lost role is noticed here. With Keystone away, tokens in the cache are good until then;
all others are answered with 503.
"""

import asyncio
import hashlib
import re
from collections.abc import Mapping
from typing import Any

import msgspec

from kilonova.core import times
from kilonova.core.config import Settings
from kilonova.core.context import Context
from kilonova.core.errors import Error, NotFound, Unauthorized, Unavailable
from kilonova.core.log import Log
from kilonova.core.rest import Answer, Login, Peer, Query, ServiceToken, sentence
from kilonova.core.runtime import Runtime

MAX_TOKEN = 16384
_MOST_KNOWN, _MOST_REFUSED = 20000, 2000
_TOKEN = re.compile(r"[!-~]+")
_ID = re.compile(r"[0-9A-Za-z_-]{1,64}")


class _Domain(msgspec.Struct, frozen=True):
    id: str | None = None
    name: str | None = None


class _Owned(msgspec.Struct, frozen=True):
    id: str
    name: str
    domain: _Domain = _Domain()


class _Role(msgspec.Struct, frozen=True):
    name: str


class _Token(msgspec.Struct, frozen=True):
    user: _Owned
    expires_at: str
    project: _Owned | None = None
    domain: _Domain = _Domain()
    system: dict[str, Any] = {}
    roles: list[_Role] = []
    methods: list[str] = []
    audit_ids: list[str] = []


class _Validated(msgspec.Struct, frozen=True):
    token: _Token


class _Project(msgspec.Struct, frozen=True):
    id: str


class _Projects(msgspec.Struct, frozen=True):
    projects: list[_Project]


class RestIdentity:
    """`transport` replaces the network in tests."""

    name = "identity"

    def __init__(self, *, runtime: Runtime, log: Log, settings: Settings, transport: Any = None) -> None:
        """`settings`: [keystone_authtoken]."""
        self.runtime = runtime
        self.log = log
        self.settings = settings
        self.peer = keystone(settings, log, transport)
        self.service_token = ServiceToken(self.peer, login(settings), runtime, log)
        self._known: dict[bytes, tuple[int, Context]] = {}
        self._refused: dict[tuple[bytes, bool], int] = {}
        self._asking: dict[tuple[bytes, bool], asyncio.Future[Context | None]] = {}

    @property
    def public_url(self) -> str:
        """Where clients without a token are sent."""
        return str(self.settings.www_authenticate_uri or self.settings.auth_url).rstrip("/")

    async def start(self) -> None:
        """Raises Unavailable when Keystone is away or does not know our service user."""
        await self.service_token.get()

    async def stop(self) -> None:
        await self.peer.close()

    # ---- the contract

    async def authenticate(self, token: str, service_token: str | None = None) -> Context:
        """As the identity service itself: a service token of a service user lets an expired user token be used."""
        service_roles: tuple[str, ...] = ()
        if service_token is not None:
            service_roles = (await self._context(service_token, expired=False)).roles
        trusted = any(role.lower() in service_roles for role in self.settings.service_token_roles)
        ctx = await self._context(token, expired=trusted)
        return msgspec.structs.replace(ctx, service_roles=service_roles) if service_roles else ctx

    async def project_exists(self, project_id: str) -> bool:
        if not _ID.fullmatch(project_id):
            return False
        answer = await self._ask("GET", f"/projects/{project_id}")
        if answer.status not in (200, 404):
            raise self._unexpected(answer)
        return answer.status == 200

    async def project_id(self, name: str) -> str:
        """Of a project in our service user's project's domain. Raises NotFound."""
        await self.service_token.get()
        domain_id = self.service_token.domain_id
        answer = await self._ask("GET", "/projects", query={"name": name, "domain_id": domain_id})
        if answer.status != 200:
            raise self._unexpected(answer)
        found = answer.json(_Projects).projects
        if not found:
            raise NotFound(f"There is no project {name} in Keystone.")
        return found[0].id

    # ---- tokens

    async def _context(self, token: str, *, expired: bool) -> Context:
        """Raises Unauthorized."""
        if len(token) > MAX_TOKEN or not _TOKEN.fullmatch(token):
            raise Unauthorized
        digest = hashlib.sha256(token.encode()).digest()
        while True:
            now = self.runtime.now_us()
            known = self._known.get(digest)
            if known is not None and now < known[0]:
                if known[1].expires_at > now or expired:
                    return known[1]
                raise Unauthorized
            if now < self._refused.get((digest, expired), 0):
                raise Unauthorized
            asking = self._asking.get((digest, expired))
            if asking is None:
                return await self._ask_once(token, digest, expired)
            found = await asyncio.shield(asking)
            if found is not None:
                return found

    async def _ask_once(self, token: str, digest: bytes, expired: bool) -> Context:
        """Those who want to know the same meanwhile wait for this answer. None for them: whoever asked went away, ask again."""
        key = digest, expired
        future = self._asking[key] = asyncio.get_running_loop().create_future()
        future.add_done_callback(lambda done: done.cancelled() or done.exception())  # an error that nobody waits for is no news
        try:
            ctx = await self._validate(token, digest, expired)
            future.set_result(ctx)
            return ctx
        except Error as error:
            future.set_exception(error)
            raise
        finally:
            del self._asking[key]
            if not future.done():
                future.set_result(None)

    async def _validate(self, token: str, digest: bytes, expired: bool) -> Context:
        began = self.runtime.now_us()
        until = began + max(self.settings.token_cache_time, 0) * 1_000_000
        query = {"nocatalog": "1", **({"allow_expired": "1"} if expired else {})}
        # The catalog of the client's token is of no use here. A token with access rules is told only to those who say that they obey
        # such rules (OpenStack-Identity-Access-Rules); we do not, so it stays unknown to us.
        answer = await self._ask("GET", "/auth/tokens", {"x-subject-token": token}, query)
        if answer.status == 200:
            try:
                ctx = context_of(answer.json(_Validated).token)
            except ValueError:
                raise Unavailable(f"The {self.peer.what} at {self.peer.url} answers with a time that is none.") from None
            if ctx.expires_at <= began and not expired:
                raise Unauthorized
            _keep(self._known, digest, (until, ctx), _MOST_KNOWN)
            return ctx
        if answer.status in (400, 401, 404):
            _keep(self._refused, (digest, expired), until, _MOST_REFUSED)
            raise Unauthorized
        raise self._unexpected(answer)

    async def _ask(self, method: str, path: str, headers: Mapping[str, str] = {}, query: Query = None) -> Answer:
        """With our own token; when Keystone refuses that, once more with a new one."""
        mine = await self.service_token.get()
        answer = await self.peer.ask(method, path, {"x-auth-token": mine, **headers}, query=query)
        if answer.status == 401:
            mine = await self.service_token.renew(mine)
            answer = await self.peer.ask(method, path, {"x-auth-token": mine, **headers}, query=query)
        return answer

    def _unexpected(self, answer: Answer) -> Unavailable:
        """403 above all: our service user lacks its role."""
        self.log.error(
            "Keystone refuses our service user; it needs the role service or admin",
            url=self.peer.url,
            username=self.settings.username,
            status=answer.status,
            text=sentence(answer.body),
        )
        return Unavailable(f"The {self.peer.what} at {self.peer.url} refuses to answer this service (status {answer.status}).")


def context_of(token: _Token) -> Context:
    """Raises ValueError for a time that is none."""
    user, project = token.user, token.project
    return Context(
        user_id=user.id,
        user_name=user.name,
        user_domain_id=user.domain.id,
        user_domain_name=user.domain.name,
        project_id=project.id if project else None,
        project_name=project.name if project else None,
        project_domain_id=project.domain.id if project else None,
        project_domain_name=project.domain.name if project else None,
        domain_id=token.domain.id,
        domain_name=token.domain.name,
        system_scope="all" if token.system.get("all") else None,
        roles=tuple(role.name.lower() for role in token.roles),
        methods=tuple(token.methods),
        audit_ids=tuple(token.audit_ids),
        expires_at=times.parse(token.expires_at),
    )


def keystone(settings: Settings, log: Log, transport: Any = None, url: str = "") -> Peer:
    """The Keystone at `url`, or at auth_url; with or without the /v3 at its end."""
    url = (url or str(settings.auth_url)).rstrip("/").removesuffix("/v3") + "/v3"
    timeout_s = float(settings.http_connect_timeout)
    return Peer(url, "identity service", log, timeout_s=timeout_s, cafile=settings.cafile, insecure=settings.insecure, transport=transport)


def login(settings: Settings) -> Login:
    return Login(
        auth_url=settings.auth_url,
        username=settings.username,
        password=settings.password,
        project_name=settings.project_name,
        user_domain_name=settings.user_domain_name,
        project_domain_name=settings.project_domain_name,
        region=settings.region_name,
    )


def _keep(cache: dict[Any, Any], key: Any, value: Any, most: int) -> None:
    """The oldest goes when there is no room."""
    cache.pop(key, None)
    while len(cache) >= most:
        del cache[next(iter(cache))]
    cache[key] = value
