"""What a new cloud holds: roles, domain, projects with a user each, region, services and endpoints. Running it twice changes nothing."""

from collections.abc import Mapping, Sequence

import msgspec

from kilonova.core.db import Database, Transaction
from kilonova.core.runtime import Runtime
from kilonova.identity.model import Assignment, Endpoint, Project, Region, Role, Service, User
from kilonova.identity.store import assignments, projects, rows, users
from kilonova.identity.store import revision as revisions
from kilonova.identity.store.tables import revision

ROLES = ("reader", "member", "manager", "admin", "service")
CHAIN = (("admin", "manager"), ("manager", "member"), ("member", "reader"))
DEFAULT = "default"


class ServiceEntry(msgspec.Struct, frozen=True):
    """A line of the catalog: the same URL for the three interfaces."""

    type: str
    name: str
    description: str
    url: str


async def bootstrap(
    db: Database, runtime: Runtime, *, hashes: Mapping[str, str | None], entries: Sequence[ServiceEntry], region: str
) -> None:
    """hashes: password hash by user name (admin, demo, service); a user without one cannot log in by password."""

    async def body(tx: Transaction) -> None:
        if await revisions.current(tx) == 0:
            await tx.run(revision.insert().values(id=1, counter=1))
        now = runtime.now_us()
        if await projects.get(tx, DEFAULT) is None:
            await projects.insert(tx, _project(DEFAULT, "Default", None, True, "The default domain", now))
        role_ids = {role.name: role.id for role in await rows.roles.every(tx)}
        for name in ROLES:
            if name not in role_ids:
                role_ids[name] = runtime.uuid_hex()
                await rows.roles.insert(
                    tx, Role(id=role_ids[name], name=name, domain_id=None, description=None, options={"immutable": True}, extra={})
                )
        for prior, implied in CHAIN:
            await assignments.imply(tx, role_ids[prior], role_ids[implied])
        for name, about, granted in (
            ("admin", "Bootstrap project for initializing the cloud.", ("admin",)),
            ("demo", "A project to try things in.", ("member",)),
            ("service", "The project of the services' own users.", ("admin", "service")),
        ):
            project = await projects.by_name(tx, name, DEFAULT)
            if project is None:
                project = _project(runtime.uuid_hex(), name, DEFAULT, False, about, now)
                await projects.insert(tx, project)
            user = await users.by_name(tx, name, DEFAULT)
            if user is None:
                user = User(
                    id=runtime.uuid_hex(),
                    name=name,
                    domain_id=DEFAULT,
                    enabled=True,
                    default_project_id=None,
                    password_hash=hashes.get(name),
                    password_expires_at=None,
                    tokens_valid_from=0,
                    options={},
                    extra={},
                    created_at=now,
                )
                await users.insert(tx, user)
            for role in granted:
                await assignments.insert(tx, _grant(user.id, "project", project.id, role_ids[role]))
            if name == "admin":
                await assignments.insert(tx, _grant(user.id, "system", "all", role_ids["admin"]))
        if await rows.regions.get(tx, region) is None:
            await rows.regions.insert(tx, Region(id=region, parent_region_id=None, description="", extra={}))
        await _catalog(tx, runtime, entries, region)

    await db.transact(body)


async def _catalog(tx: Transaction, runtime: Runtime, entries: Sequence[ServiceEntry], region: str) -> None:
    """Services that are missing are added; an endpoint of ours that has moved (another port) gets its new URL."""
    changed = False
    for entry in entries:
        found = await rows.services.every(tx, type=entry.type, name=entry.name)
        if found:
            service = found[0]
        else:
            service = Service(
                id=runtime.uuid_hex(), type=entry.type, name=entry.name, description=entry.description, enabled=True, extra={}
            )
            await rows.services.insert(tx, service)
            changed = True
        have = {e.interface: e for e in await rows.endpoints.every(tx, service_id=service.id, region_id=region)}
        for interface in ("public", "internal", "admin"):
            old = have.get(interface)
            if old is None:
                await rows.endpoints.insert(
                    tx,
                    Endpoint(
                        id=runtime.uuid_hex(),
                        service_id=service.id,
                        interface=interface,
                        region_id=region,
                        url=entry.url,
                        enabled=True,
                        extra={},
                    ),
                )
                changed = True
            elif old.url != entry.url:
                await rows.endpoints.change(tx, old, url=entry.url)
                changed = True
    if changed:
        await revisions.bump(tx)


def _project(ident: str, name: str, domain: str | None, is_domain: bool, about: str, now: int) -> Project:
    return Project(
        id=ident,
        name=name,
        domain_id=domain or ident,
        parent_id=domain,
        is_domain=is_domain,
        enabled=True,
        description=about,
        tags=(),
        options={},
        extra={},
        created_at=now,
    )


def _grant(user_id: str, target_type: str, target_id: str, role_id: str) -> Assignment:
    return Assignment(actor_type="user", actor_id=user_id, target_type=target_type, target_id=target_id, role_id=role_id, inherited=False)
