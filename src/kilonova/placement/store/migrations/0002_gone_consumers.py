"""Gone consumers."""

import sqlalchemy as sa
from alembic import op


def upgrade() -> None:
    op.create_table(
        "placement_gone_consumers",
        sa.Column("consumer_id", sa.String(length=36), nullable=False),
        sa.Column("released_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("consumer_id"),
        sqlite_with_rowid=False,
    )
    op.create_index(op.f("ix_placement_gone_consumers_released_at"), "placement_gone_consumers", ["released_at"], unique=False)
