"""The cell side."""

from typing import Any

import sqlalchemy as sa

from kilonova.compute.model import Fault, Flavor, Nic, Scheduling
from kilonova.core.db.statements import Json
from kilonova.core.operations import operations_table

metadata = sa.MetaData()
ID = sa.String(36)
PROJECT = sa.String(64)
NAME = sa.String(255)

servers = sa.Table(
    "servers",
    metadata,
    sa.Column("id", ID, primary_key=True),
    sa.Column("number", sa.BigInteger, nullable=False, unique=True),
    sa.Column("revision", sa.BigInteger, nullable=False),
    sa.Column("generation", sa.BigInteger, nullable=False),
    sa.Column("project_id", PROJECT, nullable=False),
    sa.Column("user_id", PROJECT, nullable=False),
    sa.Column("name", NAME, nullable=False),
    sa.Column("hostname", NAME, nullable=False),
    sa.Column("description", sa.Text),
    sa.Column("created_at", sa.BigInteger, nullable=False),
    sa.Column("updated_at", sa.BigInteger, nullable=False),
    sa.Column("launched_at", sa.BigInteger),
    sa.Column("terminated_at", sa.BigInteger),
    sa.Column("deleted", sa.Boolean, nullable=False),
    sa.Column("state", sa.String(32), nullable=False),
    sa.Column("task", sa.String(48)),
    sa.Column("power_state", sa.Integer, nullable=False),
    sa.Column("host", NAME),
    sa.Column("node", NAME),
    sa.Column("availability_zone", NAME),
    sa.Column("pinned_availability_zone", NAME),
    sa.Column("flavor", Json(Flavor), nullable=False),
    sa.Column("image_id", ID),
    sa.Column("image_properties", Json(dict[str, str]), nullable=False),
    sa.Column("key_name", NAME),
    sa.Column("public_key", sa.Text),
    sa.Column("metadata", Json(dict[str, str]), nullable=False),
    sa.Column("tags", Json(tuple[str, ...]), nullable=False),
    sa.Column("access_ip_v4", sa.String(45)),
    sa.Column("access_ip_v6", sa.String(45)),
    sa.Column("config_drive", sa.Boolean, nullable=False),
    sa.Column("user_data", sa.Text),
    sa.Column("security_groups", Json(tuple[str, ...]), nullable=False),
    sa.Column("nics", Json(tuple[Nic, ...]), nullable=False),
    sa.Column("scheduler_hints", Json(dict[str, Any]), nullable=False),
    sa.Column("scheduling", Json(Scheduling), nullable=False),
    sa.Column("reservation_id", sa.String(32), nullable=False),
    sa.Column("launch_index", sa.Integer, nullable=False),
    sa.Column("disk_config", sa.String(8), nullable=False),
    sa.Column("locked_by", sa.String(8)),
    sa.Column("locked_reason", sa.Text),
    sa.Column("fault", Json(Fault)),
    sa.Index("ix_servers_project", "project_id", "deleted", "created_at", "id"),
    sa.Index("ix_servers_created", "deleted", "created_at", "id"),
    sa.Index("ix_servers_host", "host", "deleted"),
    sa.Index("ix_servers_updated", "updated_at"),
)
actions = sa.Table(
    "instance_actions",
    metadata,
    sa.Column("id", ID, primary_key=True),
    sa.Column("server_id", ID, nullable=False),
    sa.Column("action", NAME, nullable=False),
    sa.Column("request_id", sa.String(48), nullable=False),
    sa.Column("user_id", PROJECT),
    sa.Column("project_id", PROJECT),
    sa.Column("start_at", sa.BigInteger, nullable=False),
    sa.Column("updated_at", sa.BigInteger, nullable=False),
    sa.Column("message", sa.Text),
    sa.Index("ix_instance_actions_server", "server_id", "start_at"),
)
events = sa.Table(
    "instance_action_events",
    metadata,
    sa.Column("id", ID, primary_key=True),
    sa.Column("action_id", ID, nullable=False, index=True),
    sa.Column("event", NAME, nullable=False),
    sa.Column("host", NAME),
    sa.Column("start_at", sa.BigInteger, nullable=False),
    sa.Column("finish_at", sa.BigInteger),
    sa.Column("result", sa.String(16)),
    sa.Column("details", sa.Text),
)
hosts = sa.Table(
    "compute_hosts",
    metadata,
    sa.Column("id", ID, primary_key=True),
    sa.Column("number", sa.BigInteger, nullable=False, unique=True),
    sa.Column("host", NAME, nullable=False, unique=True),
    sa.Column("hypervisor_hostname", NAME, nullable=False),
    sa.Column("hypervisor_type", NAME, nullable=False),
    sa.Column("hypervisor_version", sa.Integer, nullable=False),
    sa.Column("vcpus", sa.Integer, nullable=False),
    sa.Column("ram_mb", sa.Integer, nullable=False),
    sa.Column("disk_gb", sa.Integer, nullable=False),
    sa.Column("cpu_info", Json(dict[str, Any]), nullable=False),
    sa.Column("host_ip", sa.String(45), nullable=False),
    sa.Column("availability_zone", NAME, nullable=False),
    sa.Column("disabled", sa.Boolean, nullable=False),
    sa.Column("disabled_reason", sa.Text),
    sa.Column("forced_down", sa.Boolean, nullable=False),
    sa.Column("seen_at", sa.BigInteger, nullable=False),
    sa.Column("created_at", sa.BigInteger, nullable=False),
)
daemons = sa.Table(
    "compute_daemons",
    metadata,
    sa.Column("id", ID, primary_key=True),
    sa.Column("number", sa.BigInteger, nullable=False, unique=True),
    sa.Column("binary", sa.String(64), nullable=False),
    sa.Column("host", NAME, nullable=False),
    sa.Column("disabled", sa.Boolean, nullable=False),
    sa.Column("disabled_reason", sa.Text),
    sa.Column("seen_at", sa.BigInteger, nullable=False),
    sa.Column("created_at", sa.BigInteger, nullable=False),
    sa.UniqueConstraint("binary", "host", name="uq_compute_daemons"),
)
identity = sa.Table(
    "compute_cell_identity",
    metadata,
    sa.Column("cell", ID, primary_key=True, doc="UUID of a cell whose servers are in this database"),
    sa.Column("created_at", sa.BigInteger, nullable=False),
)
operations = operations_table(metadata, "compute_cell_operations")
