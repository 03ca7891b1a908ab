"""Image's tables. Times are microseconds.

`images.upload_until` is the lease of `images.upload`, by the database's clock: until then other processes leave that upload alone.
`images.tags` and `images.properties` are the truth; image_tags and image_properties are what filters look into, written in the same
transaction. `image_graves` remembers the ids of deleted images, so that none is ever given to another.
"""

import sqlalchemy as sa

from kilonova.core.db.statements import Json
from kilonova.image.model import Content

metadata = sa.MetaData()
ID = sa.String(36)
PROJECT = sa.String(255)

images = sa.Table(
    "images",
    metadata,
    sa.Column("id", ID, primary_key=True),
    sa.Column("name", sa.String(255), index=True),
    sa.Column("status", sa.String(16), nullable=False),
    sa.Column("visibility", sa.String(16), nullable=False, index=True),
    sa.Column("owner", PROJECT, index=True),
    sa.Column("disk_format", sa.String(16)),
    sa.Column("container_format", sa.String(16)),
    sa.Column("size", sa.BigInteger),
    sa.Column("virtual_size", sa.BigInteger),
    sa.Column("checksum", sa.String(32)),
    sa.Column("os_hash_algo", sa.String(64)),
    sa.Column("os_hash_value", sa.String(128)),
    sa.Column("min_disk", sa.Integer, nullable=False),
    sa.Column("min_ram", sa.Integer, nullable=False),
    sa.Column("protected", sa.Boolean, nullable=False),
    sa.Column("os_hidden", sa.Boolean, nullable=False),
    sa.Column("tags", Json(tuple[str, ...]), nullable=False),
    sa.Column("properties", Json(dict[str, str]), nullable=False),
    sa.Column("created_at", sa.BigInteger, nullable=False),
    sa.Column("updated_at", sa.BigInteger, nullable=False),
    sa.Column("revision", sa.Integer, nullable=False),
    sa.Column("upload", ID, nullable=False, index=True),
    sa.Column("upload_until", sa.BigInteger, nullable=False, server_default="0"),
    sa.Column("staged", Json(Content)),
    sa.Index("images_newest", "created_at", "id"),
)
tags = sa.Table(
    "image_tags",
    metadata,
    sa.Column("image_id", ID, primary_key=True),
    sa.Column("value", sa.String(255), primary_key=True),
    sa.Index("image_tags_by_value", "value", "image_id"),
)
properties = sa.Table(
    "image_properties",
    metadata,
    sa.Column("image_id", ID, primary_key=True),
    sa.Column("name", sa.String(255), primary_key=True),
    sa.Column("value", sa.Text, nullable=False),
    sa.Index("image_properties_by_name", "name", "image_id"),
)
members = sa.Table(
    "image_members",
    metadata,
    sa.Column("image_id", ID, primary_key=True),
    sa.Column("member_id", PROJECT, primary_key=True),
    sa.Column("status", sa.String(16), nullable=False),
    sa.Column("created_at", sa.BigInteger, nullable=False),
    sa.Column("updated_at", sa.BigInteger, nullable=False),
    sa.Index("image_members_by_member", "member_id", "image_id"),
)
tasks = sa.Table(
    "image_tasks",
    metadata,
    sa.Column("id", ID, primary_key=True),
    sa.Column("image_id", ID, nullable=False, index=True),
    sa.Column("type", sa.String(32), nullable=False),
    sa.Column("status", sa.String(16), nullable=False),
    sa.Column("owner", PROJECT),
    sa.Column("user_id", sa.String(255)),
    sa.Column("request_id", sa.String(64), nullable=False),
    sa.Column("input", Json(dict[str, object]), nullable=False),
    sa.Column("message", sa.Text, nullable=False),
    sa.Column("created_at", sa.BigInteger, nullable=False),
    sa.Column("updated_at", sa.BigInteger, nullable=False),
    sa.Column("expires_at", sa.BigInteger, nullable=False),
)
owners = sa.Table(
    "image_owners", metadata, sa.Column("owner", PROJECT, primary_key=True), sa.Column("landings", sa.BigInteger, nullable=False)
)
"""One row is what uploads of one owner are counted behind: its update is the lock under which the storage quota is summed."""
graves = sa.Table(
    "image_graves", metadata, sa.Column("image_id", ID, primary_key=True), sa.Column("deleted_at", sa.BigInteger, nullable=False)
)
