"""Identity's nouns. A domain is a project with `is_domain`, as in Keystone. `extra` holds attributes that identity does not know."""

from typing import Any

import msgspec


class Project(msgspec.Struct, frozen=True, kw_only=True):
    id: str
    name: str
    domain_id: str
    """Of a domain: its own id (unique names need a scope); shown as null."""
    parent_id: str | None
    is_domain: bool
    enabled: bool
    description: str
    tags: tuple[str, ...]
    options: dict[str, Any]
    extra: dict[str, Any]
    created_at: int


class User(msgspec.Struct, frozen=True, kw_only=True):
    id: str
    name: str
    domain_id: str
    enabled: bool
    default_project_id: str | None
    password_hash: str | None
    password_expires_at: int | None
    tokens_valid_from: int
    """Tokens issued before this moment (microseconds) are dead."""
    options: dict[str, Any]
    extra: dict[str, Any]
    created_at: int


class Group(msgspec.Struct, frozen=True, kw_only=True):
    id: str
    name: str
    domain_id: str
    description: str
    extra: dict[str, Any]


class Role(msgspec.Struct, frozen=True, kw_only=True):
    id: str
    name: str
    domain_id: str | None
    description: str | None
    options: dict[str, Any]
    extra: dict[str, Any]


class Assignment(msgspec.Struct, frozen=True, kw_only=True):
    """A grant: actor ("user" or "group"), target ("project", "domain" or "system"), role."""

    actor_type: str
    actor_id: str
    target_type: str
    target_id: str
    role_id: str
    inherited: bool


class Service(msgspec.Struct, frozen=True, kw_only=True):
    id: str
    type: str
    name: str
    description: str | None
    enabled: bool
    extra: dict[str, Any]


class Endpoint(msgspec.Struct, frozen=True, kw_only=True):
    id: str
    service_id: str
    interface: str
    region_id: str | None
    url: str
    enabled: bool
    extra: dict[str, Any]


class Region(msgspec.Struct, frozen=True, kw_only=True):
    id: str
    parent_region_id: str | None
    description: str
    extra: dict[str, Any]


class Token(msgspec.Struct, frozen=True, kw_only=True):
    """What a token says by itself. Roles, names and catalog are looked up at each use, so that a change takes effect at once."""

    user_id: str
    methods: tuple[str, ...]
    scope: str
    """"unscoped", "project", "domain" or "system"."""
    scope_id: str
    issued_at: int
    expires_at: int
    audit_ids: tuple[str, ...]
