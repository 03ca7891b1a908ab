"""Placement's tables. Times are microseconds; columns stand in the order of the structs in model.py.

What several rows must agree on is a counter in one row, so that every check is a conditional UPDATE or DELETE of that row:
`used` of an inventory (allocations of it), `children` of a provider, `uses` of a custom name (inventories, providers with the trait).
"""

import sqlalchemy as sa

from kilonova.core.db.statements import Json

metadata = sa.MetaData()
ID = sa.String(36)
NAME = sa.String(255)

providers = sa.Table(
    "placement_providers",
    metadata,
    sa.Column("id", ID, primary_key=True),
    sa.Column("name", sa.String(200), nullable=False, unique=True),
    sa.Column("generation", sa.BigInteger, nullable=False),
    sa.Column("parent_id", ID),
    sa.Column("root_id", ID, nullable=False, index=True),
    sa.Column("traits", Json(tuple[str, ...]), nullable=False),
    sa.Column("aggregates", Json(tuple[str, ...]), nullable=False),
    sa.Column("children", sa.Integer, nullable=False),
    sa.Column("created_at", sa.BigInteger, nullable=False),
    sa.Column("updated_at", sa.BigInteger, nullable=False),
)
inventories = sa.Table(
    "placement_inventories",
    metadata,
    sa.Column("provider_id", ID, primary_key=True),
    sa.Column("resource_class", NAME, primary_key=True),
    sa.Column("total", sa.BigInteger, nullable=False),
    sa.Column("reserved", sa.BigInteger, nullable=False),
    sa.Column("min_unit", sa.BigInteger, nullable=False),
    sa.Column("max_unit", sa.BigInteger, nullable=False),
    sa.Column("step_size", sa.BigInteger, nullable=False),
    sa.Column("allocation_ratio", sa.Double, nullable=False),
    sa.Column("capacity", sa.BigInteger, nullable=False),
    sa.Column("used", sa.BigInteger, nullable=False),
    sa.Column("updated_at", sa.BigInteger, nullable=False),
    sqlite_with_rowid=False,
)
consumers = sa.Table(
    "placement_consumers",
    metadata,
    sa.Column("id", ID, primary_key=True),
    sa.Column("project_id", NAME, nullable=False),
    sa.Column("user_id", NAME, nullable=False),
    sa.Column("consumer_type", NAME),
    sa.Column("generation", sa.BigInteger, nullable=False),
    sa.Column("created_at", sa.BigInteger, nullable=False),
    sa.Column("updated_at", sa.BigInteger, nullable=False),
    sa.Index("ix_placement_consumers_owner", "project_id", "user_id"),
    sqlite_with_rowid=False,
)
allocations = sa.Table(
    "placement_allocations",
    metadata,
    sa.Column("consumer_id", ID, primary_key=True),
    sa.Column("provider_id", ID, primary_key=True, index=True),
    sa.Column("resource_class", NAME, primary_key=True),
    sa.Column("amount", sa.BigInteger, nullable=False),
    sa.Column("updated_at", sa.BigInteger, nullable=False),
    sqlite_with_rowid=False,
)
gone = sa.Table(
    "placement_gone_consumers",
    metadata,
    sa.Column("consumer_id", ID, primary_key=True),
    sa.Column("released_at", sa.BigInteger, nullable=False, index=True),
    sqlite_with_rowid=False,
)
"""Consumers that were released for good, an hour long: a claim of whoever was asleep comes late."""
classes = sa.Table(
    "placement_classes",
    metadata,
    sa.Column("name", NAME, primary_key=True),
    sa.Column("uses", sa.Integer, nullable=False),
    sa.Column("created_at", sa.BigInteger, nullable=False),
)
traits = sa.Table(
    "placement_traits",
    metadata,
    sa.Column("name", NAME, primary_key=True),
    sa.Column("uses", sa.Integer, nullable=False),
    sa.Column("created_at", sa.BigInteger, nullable=False),
)
