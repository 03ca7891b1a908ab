"""The identity service: its collaborators, its lifetime, and the contract that other services use."""

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from kilonova.core.config import Settings
from kilonova.core.context import Context
from kilonova.core.db import Database, Duplicate, Transaction
from kilonova.core.errors import Unauthorized
from kilonova.core.log import Log
from kilonova.core.runtime import Runtime
from kilonova.core.shared_read import SharedRead
from kilonova.core.tasks import Tasks
from kilonova.identity.domain import catalog, grants, passwords, tokens
from kilonova.identity.domain.bootstrap import ServiceEntry, bootstrap
from kilonova.identity.model import Project, Role, Token, User
from kilonova.identity.store import projects, users
from kilonova.identity.store import revision as revisions
from kilonova.identity.store import tokens as token_store
from kilonova.identity.store.tables import metadata

CACHE_SIZE = 20000


class Validated(msgspec.Struct, frozen=True):
    """A token that is good now, with everything that its document and its context need."""

    token: Token
    user: User
    user_domain: Project
    project: Project | None
    project_domain: Project | None
    domain: Project | None
    roles: tuple[Role, ...]
    context: Context


class IdentityService:
    name = "identity"
    metadata = metadata

    def __init__(self, *, db: Database, runtime: Runtime, log: Log, settings: Mapping[str, Settings]) -> None:
        self.db = db
        self.runtime = runtime
        self.log = log
        self.settings = settings
        self.tasks = Tasks(runtime, log)
        self.codec: tokens.TokenCodec | None = None
        self._key_numbers: list[int] = []
        self._revision = -1
        self._stamp: int | None = None
        self._current = SharedRead(lambda: revisions.current(self.db))
        self._cache: dict[bytes, Validated] = {}
        self.documents: dict[tuple[str, bool], bytes] = {}
        """Encoded token documents by (audit id, with catalog), as good as the revision."""
        self._roles: grants.RoleTable | None = None
        self._catalog: list[dict[str, Any]] | None = None

    # ---- lifetime

    async def start(self) -> None:
        await self.load_keys()
        self.tasks.every("token key rotation", 60.0, self.rotate_keys)

    async def stop(self) -> None:
        await self.tasks.stop()

    async def bootstrap(self, *, passwords_by_user: Mapping[str, str], entries: Sequence[ServiceEntry], region: str) -> None:
        """Make what a new cloud holds. Passwords of users that exist already are left alone."""
        rounds = self.settings["identity"].password_hash_rounds
        missing = [name for name in passwords_by_user if await users.by_name(self.db, name, "default") is None]
        hashes = await self.tasks.gather(
            "password hash", [passwords.hashed(self.runtime, passwords_by_user[name], rounds) for name in missing]
        )
        await bootstrap(self.db, self.runtime, hashes=dict(zip(missing, hashes, strict=True)), entries=entries, region=region)

    # ---- keys

    async def load_keys(self) -> None:
        found = await token_store.keys(self.db)
        if not found:
            await self._add_key(1)
            found = await token_store.keys(self.db)
        self._key_numbers = [number for number, _, _ in found]
        self.codec = tokens.TokenCodec([key for _, key, _ in found], self.runtime)

    async def _add_key(self, number: int) -> None:
        key, now = tokens.new_key(self.runtime), self.runtime.now_us()
        keep = self.settings["fernet_tokens"].max_active_keys
        try:
            await self.db.transact(lambda tx: token_store.add_key(tx, number, key, now, keep))
        except Duplicate:
            return

    async def rotate_keys(self) -> None:
        """A new primary when the present one is old enough; other processes notice the new key within a minute."""
        found = await token_store.keys(self.db)
        now = self.runtime.now_us()
        if found and now - found[0][2] > self.settings["fernet_tokens"].rotation_interval * 1_000_000:
            await self._add_key(found[0][0] + 1)
        if [number for number, _, _ in await token_store.keys(self.db)] != self._key_numbers:
            await self.load_keys()
        await self.db.transact(lambda tx: token_store.prune(tx, now))

    # ---- tokens

    async def _fresh(self) -> int:
        """Drop what was cached for an older revision."""
        stamp = self.db.stamp()
        if stamp is not None and stamp == self._stamp:
            return self._revision
        now = await (self._current.get() if stamp is None else revisions.current(self.db))
        self._stamp = stamp
        if now != self._revision:
            self._cache.clear()
            self.documents.clear()
            self._roles = None
            self._catalog = None
            self._revision = now
        return now

    async def roles(self) -> grants.RoleTable:
        revision = await self._fresh()
        found = self._roles
        if found is None:
            found = await grants.role_table(self.db)
            if revision == self._revision:
                self._roles = found
        return found

    async def catalog(self) -> list[dict[str, Any]]:
        revision = await self._fresh()
        found = self._catalog
        if found is None:
            found = await catalog.listing(self.db)
            if revision == self._revision:
                self._catalog = found
        return found

    def seal(self, token: Token) -> str:
        assert self.codec is not None
        return self.codec.seal(token)

    async def validate(self, text: str, *, allow_expired: bool = False) -> Validated:
        """Raises Unauthorized."""
        revision = await self._fresh()
        key = tokens.digest(text)
        found = self._cache.get(key)
        now = self.runtime.now_us()
        if found is None:
            assert self.codec is not None
            try:
                token = self.codec.open(text)
            except (tokens.BadToken, msgspec.MsgspecError):
                raise Unauthorized from None
            found = await self.resolve(token)
            if len(self._cache) >= CACHE_SIZE:
                self._cache.clear()
                self.documents.clear()
            if revision == self._revision:
                # What was read while somebody else saw a newer revision may be older than that.
                self._cache[key] = found
        window = self.settings["token"].allow_expired_window * 1_000_000 if allow_expired else 0
        if found.token.expires_at + window <= now:
            raise Unauthorized
        return found

    async def resolve(self, token: Token) -> Validated:
        """User, scope and roles as they are now. Raises Unauthorized when any of them no longer allows this token."""
        db = self.db
        user = await users.get(db, token.user_id)
        if user is None or not user.enabled or token.issued_at < user.tokens_valid_from:
            raise Unauthorized
        if await token_store.any_revoked(db, token.audit_ids):
            raise Unauthorized
        user_domain = await projects.get(db, user.domain_id)
        if user_domain is None or not user_domain.enabled:
            raise Unauthorized
        project = project_domain = domain = None
        roles: tuple[Role, ...] = ()
        if token.scope != "unscoped":
            if token.scope == "project":
                project = await projects.get(db, token.scope_id)
                project_domain = await projects.get(db, project.domain_id) if project else None
                if project is None or not project.enabled or project_domain is None or not project_domain.enabled:
                    raise Unauthorized
            elif token.scope == "domain":
                domain = await projects.get(db, token.scope_id)
                if domain is None or not domain.enabled:
                    raise Unauthorized
            table = await self.roles()
            roles = tuple(table.expand(await grants.role_ids_on(db, user.id, token.scope, token.scope_id)))
            if not roles:
                raise Unauthorized
        context = Context(
            user_id=user.id,
            user_name=user.name,
            user_domain_id=user_domain.id,
            user_domain_name=user_domain.name,
            project_id=project.id if project else None,
            project_name=project.name if project else None,
            project_domain_id=project_domain.id if project_domain else None,
            project_domain_name=project_domain.name if project_domain else None,
            domain_id=domain.id if domain else None,
            domain_name=domain.name if domain else None,
            system_scope="all" if token.scope == "system" else None,
            roles=tuple(r.name.lower() for r in roles),
            methods=token.methods,
            audit_ids=token.audit_ids,
            expires_at=token.expires_at,
        )
        return Validated(token, user, user_domain, project, project_domain, domain, roles, context)

    async def revoke(self, token: Token) -> None:
        async def body(tx: Transaction) -> None:
            await token_store.revoke(tx, token.audit_ids[0], token.expires_at)
            await revisions.bump(tx)

        await self.db.transact(body)

    # ---- the contract

    async def authenticate(self, token: str, service_token: str | None = None) -> Context:
        """A service token of a service user lets an expired user token be used, as keystonemiddleware does."""
        service_roles: tuple[str, ...] = ()
        if service_token is not None:
            service_roles = (await self.validate(service_token)).context.roles
        found = await self.validate(token, allow_expired="service" in service_roles)
        return msgspec.structs.replace(found.context, service_roles=service_roles) if service_roles else found.context

    async def project_id(self, name: str) -> str:
        """Of a project in the default domain that must exist (the ones that bootstrap makes)."""
        project = await projects.by_name(self.db, name, self.settings["identity"].default_domain_id)
        assert project is not None
        return project.id

    async def project_exists(self, project_id: str) -> bool:
        return await projects.get(self.db, project_id) is not None
