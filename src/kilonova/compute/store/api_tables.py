"""The api side."""

import sqlalchemy as sa

from kilonova.compute.model import Outline, Server
from kilonova.core.db.statements import Json
from kilonova.core.operations import operations_table

metadata = sa.MetaData()
ID = sa.String(36)
PROJECT = sa.String(64)

flavors = sa.Table(
    "flavors",
    metadata,
    sa.Column("id", sa.String(255), primary_key=True),
    sa.Column("name", sa.String(255), nullable=False, unique=True),
    sa.Column("vcpus", sa.Integer, nullable=False),
    sa.Column("ram_mb", sa.Integer, nullable=False),
    sa.Column("root_gb", sa.Integer, nullable=False),
    sa.Column("ephemeral_gb", sa.Integer, nullable=False),
    sa.Column("swap_mb", sa.Integer, nullable=False),
    sa.Column("rxtx_factor", sa.Float, nullable=False),
    sa.Column("is_public", sa.Boolean, nullable=False),
    sa.Column("disabled", sa.Boolean, nullable=False),
    sa.Column("description", sa.Text),
    sa.Column("extra_specs", Json(dict[str, str]), nullable=False),
    sa.Column("created_at", sa.BigInteger, nullable=False),
)
flavor_access = sa.Table(
    "flavor_access", metadata, sa.Column("flavor_id", sa.String(255), primary_key=True), sa.Column("project_id", PROJECT, primary_key=True)
)
keypairs = sa.Table(
    "keypairs",
    metadata,
    sa.Column("user_id", PROJECT, primary_key=True),
    sa.Column("name", sa.String(255), primary_key=True),
    sa.Column("number", sa.BigInteger, nullable=False),
    sa.Column("type", sa.String(8), nullable=False),
    sa.Column("public_key", sa.Text, nullable=False),
    sa.Column("fingerprint", sa.String(255), nullable=False),
    sa.Column("created_at", sa.BigInteger, nullable=False),
)
quota_limits = sa.Table(
    "quota_limits",
    metadata,
    sa.Column("scope", sa.String(80), primary_key=True, doc="a project's id, project:user, or class:default"),
    sa.Column("resource", sa.String(64), primary_key=True),
    sa.Column("maximum", sa.BigInteger, nullable=False),
)
quota_usages = sa.Table(
    "quota_usages",
    metadata,
    sa.Column("project_id", PROJECT, primary_key=True),
    sa.Column("instances", sa.BigInteger, nullable=False),
    sa.Column("cores", sa.BigInteger, nullable=False),
    sa.Column("ram_mb", sa.BigInteger, nullable=False),
)
server_mappings = sa.Table(
    "server_mappings",
    metadata,
    sa.Column("server_id", ID, primary_key=True),
    sa.Column("project_id", PROJECT, nullable=False, index=True),
    sa.Column("cell", sa.String(64), nullable=False, doc="empty until a host was found; then the cell's UUID, for ever"),
    sa.Column("vcpus", sa.Integer, nullable=False),
    sa.Column("ram_mb", sa.Integer, nullable=False),
    sa.Column("deleting", sa.Boolean, nullable=False),
    sa.Column("created_at", sa.BigInteger, nullable=False),
    sa.Column("outline", Json(Outline), doc="what is shown of it while its cell does not answer"),
)
cell_mappings = sa.Table(
    "cell_mappings",
    metadata,
    sa.Column("uuid", ID, primary_key=True),
    sa.Column("name", sa.String(255), nullable=False, doc="may be empty"),
    sa.Column("database_connection", sa.Text, nullable=False, doc="empty: the database that this table is in"),
    sa.Column("transport_url", sa.Text, nullable=False, doc="empty: the bus that the control plane itself is on"),
    sa.Column("disabled", sa.Boolean, nullable=False),
    sa.Column("created_at", sa.BigInteger, nullable=False),
)
host_mappings = sa.Table(
    "host_mappings",
    metadata,
    sa.Column("host", sa.String(255), primary_key=True),
    sa.Column("cell", ID, nullable=False, index=True),
    sa.Column("created_at", sa.BigInteger, nullable=False),
)
build_requests = sa.Table(
    "build_requests",
    metadata,
    sa.Column("server_id", ID, primary_key=True),
    sa.Column("project_id", PROJECT, nullable=False, index=True),
    sa.Column("server", Json(Server), nullable=False),
)
join_authority = sa.Table(
    "join_authority",
    metadata,
    sa.Column("name", sa.String(16), primary_key=True, doc="one row: cloud"),
    sa.Column("certificate", sa.Text, nullable=False),
    sa.Column("private_key", sa.Text, nullable=False, doc="PEM; encrypted where [join] key_file names a passphrase"),
    sa.Column("created_at", sa.BigInteger, nullable=False),
)
join_tokens = sa.Table(
    "join_tokens",
    metadata,
    sa.Column("digest", sa.String(64), primary_key=True, doc="SHA-256 of the secret"),
    sa.Column("host", sa.String(64), nullable=False, doc="empty: for any host that is new"),
    sa.Column("expires_at", sa.BigInteger, nullable=False),
    sa.Column("used_at", sa.BigInteger),
    sa.Column("used_by", sa.String(64), nullable=False),
    sa.Column("created_at", sa.BigInteger, nullable=False),
)
joined_hosts = sa.Table(
    "joined_hosts",
    metadata,
    sa.Column("host", sa.String(64), primary_key=True),
    sa.Column("my_ip", sa.String(45), nullable=False),
    sa.Column("certificate_sha256", sa.String(64), nullable=False, doc="of the one that was given out last"),
    sa.Column("previous_sha256", sa.String(64), nullable=False, doc="of the one before: good for a renewal whose answer was lost"),
    sa.Column("certificate_until", sa.BigInteger, nullable=False),
    sa.Column("joined_at", sa.BigInteger, nullable=False),
    sa.Column("left_at", sa.BigInteger, doc="it may not come back without a token for it"),
)
counters = sa.Table(
    "compute_counters", metadata, sa.Column("name", sa.String(32), primary_key=True), sa.Column("value", sa.BigInteger, nullable=False)
)
operations = operations_table(metadata, "compute_api_operations")
