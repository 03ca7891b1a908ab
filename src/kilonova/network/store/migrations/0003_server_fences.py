"""Server fences."""

import sqlalchemy as sa
from alembic import op


def upgrade() -> None:
    op.create_table(
        "network_server_fences",
        sa.Column("server_id", sa.String(length=36), nullable=False),
        sa.Column("allocated", sa.BigInteger(), nullable=False),
        sa.Column("released", sa.BigInteger(), nullable=False),
        sa.Column("released_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("server_id"),
        sqlite_with_rowid=False,
    )
    op.create_index(op.f("ix_network_server_fences_released_at"), "network_server_fences", ["released_at"], unique=False)
