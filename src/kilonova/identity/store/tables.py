"""Identity's tables. Times are microseconds."""

import sqlalchemy as sa

from kilonova.core.db.statements import Json

metadata = sa.MetaData()
ID = sa.String(64)
NAME = sa.String(255)


def _extra() -> "sa.Column[object]":
    return sa.Column("extra", Json(dict[str, object]), nullable=False)


projects = sa.Table(
    "projects",
    metadata,
    sa.Column("id", ID, primary_key=True),
    sa.Column("name", sa.String(64), nullable=False),
    sa.Column("domain_id", ID, nullable=False),
    sa.Column("parent_id", ID, index=True),
    sa.Column("is_domain", sa.Boolean, nullable=False),
    sa.Column("enabled", sa.Boolean, nullable=False),
    sa.Column("description", sa.Text, nullable=False),
    sa.Column("tags", Json(tuple[str, ...]), nullable=False),
    sa.Column("options", Json(dict[str, object]), nullable=False),
    _extra(),
    sa.Column("created_at", sa.BigInteger, nullable=False),
    sa.Column("unique_name", sa.String(160), nullable=False, unique=True),
)
users = sa.Table(
    "users",
    metadata,
    sa.Column("id", ID, primary_key=True),
    sa.Column("name", NAME, nullable=False),
    sa.Column("domain_id", ID, nullable=False),
    sa.Column("enabled", sa.Boolean, nullable=False),
    sa.Column("default_project_id", ID),
    sa.Column("password_hash", sa.String(128)),
    sa.Column("password_expires_at", sa.BigInteger),
    sa.Column("tokens_valid_from", sa.BigInteger, nullable=False),
    sa.Column("options", Json(dict[str, object]), nullable=False),
    _extra(),
    sa.Column("created_at", sa.BigInteger, nullable=False),
    sa.UniqueConstraint("domain_id", "name", name="uq_users_name"),
)
groups = sa.Table(
    "groups_",
    metadata,
    sa.Column("id", ID, primary_key=True),
    sa.Column("name", NAME, nullable=False),
    sa.Column("domain_id", ID, nullable=False),
    sa.Column("description", sa.Text, nullable=False),
    _extra(),
    sa.UniqueConstraint("domain_id", "name", name="uq_groups_name"),
)
group_members = sa.Table(
    "group_members", metadata, sa.Column("group_id", ID, primary_key=True), sa.Column("user_id", ID, primary_key=True, index=True)
)
roles = sa.Table(
    "roles",
    metadata,
    sa.Column("id", ID, primary_key=True),
    sa.Column("name", NAME, nullable=False),
    sa.Column("domain_id", ID),
    sa.Column("description", sa.Text),
    sa.Column("options", Json(dict[str, object]), nullable=False),
    _extra(),
    sa.Column("unique_name", sa.String(330), nullable=False, unique=True),
)
implied_roles = sa.Table(
    "implied_roles", metadata, sa.Column("prior_role_id", ID, primary_key=True), sa.Column("implied_role_id", ID, primary_key=True)
)
assignments = sa.Table(
    "assignments",
    metadata,
    sa.Column("actor_type", sa.String(8), primary_key=True),
    sa.Column("actor_id", ID, primary_key=True),
    sa.Column("target_type", sa.String(8), primary_key=True),
    sa.Column("target_id", ID, primary_key=True),
    sa.Column("role_id", ID, primary_key=True),
    sa.Column("inherited", sa.Boolean, primary_key=True),
    sa.Index("ix_assignments_target", "target_type", "target_id"),
    sa.Index("ix_assignments_role", "role_id"),
)
regions = sa.Table(
    "regions",
    metadata,
    sa.Column("id", NAME, primary_key=True),
    sa.Column("parent_region_id", NAME),
    sa.Column("description", sa.Text, nullable=False),
    _extra(),
)
services = sa.Table(
    "services",
    metadata,
    sa.Column("id", ID, primary_key=True),
    sa.Column("type", NAME, nullable=False),
    sa.Column("name", NAME, nullable=False),
    sa.Column("description", sa.Text),
    sa.Column("enabled", sa.Boolean, nullable=False),
    _extra(),
)
endpoints = sa.Table(
    "endpoints",
    metadata,
    sa.Column("id", ID, primary_key=True),
    sa.Column("service_id", ID, nullable=False, index=True),
    sa.Column("interface", sa.String(8), nullable=False),
    sa.Column("region_id", NAME),
    sa.Column("url", sa.Text, nullable=False),
    sa.Column("enabled", sa.Boolean, nullable=False),
    _extra(),
)
token_keys = sa.Table(
    "token_keys",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("key", sa.String(64), nullable=False),
    sa.Column("created_at", sa.BigInteger, nullable=False),
)
revoked_tokens = sa.Table(
    "revoked_tokens",
    metadata,
    sa.Column("audit_id", sa.String(32), primary_key=True),
    sa.Column("expires_at", sa.BigInteger, nullable=False),
)
revision = sa.Table(
    "identity_revision",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("counter", sa.BigInteger, nullable=False),
)
