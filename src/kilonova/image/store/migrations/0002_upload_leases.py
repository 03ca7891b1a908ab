"""Upload leases."""

import sqlalchemy as sa
from alembic import op


def upgrade() -> None:
    op.add_column("images", sa.Column("upload_until", sa.BigInteger(), server_default="0", nullable=False))
    op.create_index(op.f("ix_images_upload"), "images", ["upload"], unique=False)
