"""Cells."""

import sqlalchemy as sa
from alembic import op


def upgrade() -> None:
    op.create_table(
        "compute_cell_identity",
        sa.Column("cell", sa.String(length=36), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("cell"),
    )
