"""Cells."""

import sqlalchemy as sa
from alembic import op


def upgrade() -> None:
    op.create_table(
        "cell_mappings",
        sa.Column("uuid", sa.String(length=36), nullable=False),
        sa.Column("name", sa.String(length=255), nullable=False),
        sa.Column("database_connection", sa.Text(), nullable=False),
        sa.Column("transport_url", sa.Text(), nullable=False),
        sa.Column("disabled", sa.Boolean(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("uuid"),
    )
    op.create_table(
        "host_mappings",
        sa.Column("host", sa.String(length=255), nullable=False),
        sa.Column("cell", sa.String(length=36), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("host"),
    )
    op.create_index(op.f("ix_host_mappings_cell"), "host_mappings", ["cell"], unique=False)
    op.add_column("server_mappings", sa.Column("outline", sa.Text(), nullable=True))
