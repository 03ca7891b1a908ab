"""Network's tables. Columns stand in the order of the structs' fields. Times are microseconds.

ip_allocations is what makes an address belong to one port only; ports.fixed_ips says the same again for reading. `ip_key` is the
address as hexadecimal digits of its full width, so that text order is numeric order.
"""

from typing import Any

import sqlalchemy as sa

from kilonova.core.db.statements import Json
from kilonova.core.leases import leases_table
from kilonova.network import model

metadata = sa.MetaData()
ID = sa.String(36)
PROJECT = sa.String(64)
NAME = sa.String(255)


def _id() -> "sa.Column[Any]":
    return sa.Column("id", ID, primary_key=True)


def _project() -> "sa.Column[Any]":
    return sa.Column("project_id", PROJECT, nullable=False, index=True)


def _text(name: str, length: int = 255, *, null: bool = False, index: bool = False) -> "sa.Column[Any]":
    return sa.Column(name, sa.String(length), nullable=null, index=index)


def _bool(name: str) -> "sa.Column[Any]":
    return sa.Column(name, sa.Boolean, nullable=False)


def _int(name: str, *, null: bool = False) -> "sa.Column[Any]":
    return sa.Column(name, sa.Integer, nullable=null)


def _json(name: str, kind: Any) -> "sa.Column[Any]":
    return sa.Column(name, Json(kind), nullable=False)


def _tail(*, tags: bool = True) -> "list[sa.Column[Any]]":
    return [
        *([_json("tags", tuple[str, ...])] if tags else []),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("updated_at", sa.BigInteger, nullable=False),
        _int("revision"),
    ]


networks = sa.Table(
    "networks", metadata,
    _id(), _project(), _text("name"), _text("description"), _bool("admin_state_up"), _text("status", 16), _bool("shared"),
    _bool("external"), _bool("is_default"), _int("mtu"), _bool("port_security_enabled"), _text("network_type", 16),
    _text("physical_network", 64, null=True),
    _int("segmentation_id", null=True), _json("availability_zone_hints", tuple[str, ...]), *_tail(),
    sa.Column("segment_key", sa.String(128), nullable=False, unique=True),
)  # fmt: skip
"""segment_key names the segment (vxlan/17, flat/public): no two networks share one."""
subnets = sa.Table(
    "subnets", metadata,
    _id(), _text("network_id", 36, index=True), _project(), _text("name"), _text("description"), _int("ip_version"), _text("cidr", 64),
    _text("gateway_ip", 64, null=True), _json("allocation_pools", tuple[model.Pool, ...]), _bool("enable_dhcp"),
    _json("dns_nameservers", tuple[str, ...]), _json("host_routes", tuple[model.Route, ...]), _text("ipv6_ra_mode", 16, null=True),
    _text("ipv6_address_mode", 16, null=True), _text("subnetpool_id", 36, null=True, index=True), _json("service_types", tuple[str, ...]),
    *_tail(),
)  # fmt: skip
ports = sa.Table(
    "ports", metadata,
    _id(), _text("network_id", 36, index=True), _project(), _text("name"), _text("description"), _bool("admin_state_up"),
    _text("status", 16), _text("mac_address", 17), _text("device_id", index=True), _text("device_owner"), _json("fixed_ips",
    tuple[model.FixedIp, ...]),
    _json("security_groups", tuple[str, ...]), _bool("port_security_enabled"),
    _json("allowed_address_pairs", tuple[model.AddressPair, ...]),
    _json("extra_dhcp_opts", tuple[model.DhcpOption, ...]), _text("host"), _text("vif_type", 32), _text("vnic_type", 32),
    _json("profile", dict[str, object]), _bool("allocated"), _int("nic_index"),
    _text("nic_tag", 60, null=True), _text("hostname"), sa.Column("wiring_error", sa.Text, nullable=False), *_tail(),
    sa.UniqueConstraint("network_id", "mac_address", name="uq_ports_mac"),
)  # fmt: skip
ip_allocations = sa.Table(
    "ip_allocations",
    metadata,
    sa.Column("subnet_id", ID, primary_key=True),
    sa.Column("ip_key", sa.String(32), primary_key=True),
    sa.Column("port_id", ID, nullable=False),
    sqlite_with_rowid=False,
)
port_security_groups = sa.Table(
    "port_security_groups",
    metadata,
    sa.Column("security_group_id", ID, primary_key=True),
    sa.Column("port_id", ID, primary_key=True),
    sqlite_with_rowid=False,
)
routers = sa.Table(
    "routers", metadata,
    _id(), _project(), _text("name"), _text("description"), _bool("admin_state_up"), _text("status", 16),
    _text("gateway_port_id", 36, null=True),
    _text("gateway_network_id", 36, null=True), _bool("enable_snat"), _json("routes", tuple[model.Route, ...]), _text("host"),
    _json("availability_zone_hints", tuple[str, ...]), *_tail(),
)  # fmt: skip
floating_ips = sa.Table(
    "floating_ips", metadata,
    _id(), _project(), _text("floating_network_id", 36, index=True), _text("floating_ip_address", 64), _text("floating_port_id", 36),
    _text("port_id", 36, null=True), _text("fixed_ip_address", 64, null=True), _text("router_id", 36, null=True, index=True),
    _text("status", 16), _text("description"), *_tail(),
    sa.UniqueConstraint("floating_network_id", "floating_ip_address", name="uq_floating_ips_address"),
    sa.UniqueConstraint("port_id", "fixed_ip_address", name="uq_floating_ips_port"),
)  # fmt: skip
security_groups = sa.Table(
    "security_groups", metadata,
    _id(), _project(), _text("name"), _text("description"), _bool("stateful"), _bool("shared"), _bool("is_default"), *_tail(),
    sa.Column("default_of", PROJECT, unique=True),
)  # fmt: skip
"""default_of is the project's id in its default group and NULL in others: a project has one default group."""
security_group_rules = sa.Table(
    "security_group_rules", metadata,
    _id(), _text("security_group_id", 36), _project(), _text("direction", 8), _text("ethertype", 8), _text("protocol", 40, null=True),
    _int("port_range_min", null=True), _int("port_range_max", null=True), _text("remote_ip_prefix", 64, null=True),
    _text("remote_group_id", 36, null=True, index=True), _text("description"), *_tail(tags=False),
    sa.Column("rule_key", sa.String(255), nullable=False),
    sa.UniqueConstraint("security_group_id", "rule_key", name="uq_security_group_rules"),
)  # fmt: skip
subnetpools = sa.Table(
    "subnetpools", metadata,
    _id(), _project(), _text("name"), _text("description"), _int("ip_version"), _json("prefixes", tuple[str, ...]),
    _int("default_prefixlen"),
    _int("min_prefixlen"), _int("max_prefixlen"), _int("default_quota", null=True), _bool("shared"), _bool("is_default"), *_tail(),
)  # fmt: skip
quotas = sa.Table(
    "network_quotas",
    metadata,
    sa.Column("project_id", PROJECT, primary_key=True),
    sa.Column("resource", sa.String(32), primary_key=True),
    _int("used"),
    _int("hard_limit", null=True),
    sqlite_with_rowid=False,
)
"""What a project has, and its own limit when it has one (NULL: the configured default)."""
hosts = sa.Table(
    "network_hosts", metadata,
    sa.Column("host", NAME, primary_key=True), _text("vtep_ip", 64), _text("availability_zone"), _text("driver", 64),
    _json("configurations", dict[str, object]), sa.Column("created_at", sa.BigInteger, nullable=False),
    sa.Column("started_at", sa.BigInteger, nullable=False), sa.Column("heartbeat_at", sa.BigInteger, nullable=False),
)  # fmt: skip
agents = sa.Table(
    "network_agents",
    metadata,
    _id(),
    _text("host", index=True),
    _text("agent_type", 64),
    _bool("admin_state_up"),
    _text("description", null=True),
    sa.UniqueConstraint("host", "agent_type", name="uq_network_agents"),
)
auto_topologies = sa.Table(
    "auto_topologies",
    metadata,
    sa.Column("project_id", PROJECT, primary_key=True),
    sa.Column("network_id", ID, nullable=False),
    sa.Column("router_id", ID, nullable=False),
)
lanes = sa.Table(
    "network_lanes",
    metadata,
    sa.Column("lane", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("number", sa.BigInteger, nullable=False),
)
"""Where transactions get their numbers: docs/internals/network-processes.md."""
changes = sa.Table(
    "network_changes",
    metadata,
    sa.Column("lane", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("number", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("made_at", sa.BigInteger, nullable=False),
    _json("items", tuple[tuple[str, str, str], ...]),
)
"""One row for each transaction that changed what the topology is made of."""
leases = leases_table(metadata, "network_leases")
server_fences = sa.Table(
    "network_server_fences",
    metadata,
    sa.Column("server_id", ID, primary_key=True),
    sa.Column("allocated", sa.BigInteger, nullable=False),
    sa.Column("released", sa.BigInteger, nullable=False),
    sa.Column("released_at", sa.BigInteger, nullable=False, index=True),
    sqlite_with_rowid=False,
)
"""The latest turns that allocated and released a server's interfaces. released_at is 0 while it may have some."""
