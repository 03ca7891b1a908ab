"""Whether a host has what it says that it has: the cell side."""

import msgspec
import sqlalchemy as sa

from kilonova.compute.store.cell_tables import operations, servers
from kilonova.core.db import Reader
from kilonova.core.db.statements import prepared

_s, _o = servers.c, operations.c
_bind = sa.bindparam
_here = (_s.host == _bind("on_host"), _s.deleted == sa.false())
_SERVER = prepared(sa.select(_s.id).where(_s.id == _bind("server"), *_here).order_by(_s.id))
_IMAGE = prepared(sa.select(_s.id).where(_s.image_id == _bind("image"), *_here).order_by(_s.id))
_SNAPSHOTS = prepared(
    sa.select(_o.args)
    .select_from(servers.join(operations, _o.resource_id == _s.id))
    .where(_o.verb == "snapshot", *_here)
    .order_by(_o.created_at, _o.id)
)


class _Image(msgspec.Struct):
    id: str | None = None


class _Snapshot(msgspec.Struct):
    image: _Image


async def has_server(reader: Reader, host: str, server_id: str) -> bool:
    return await reader.one(_SERVER, {"on_host": host, "server": server_id}) is not None


async def uses_image(reader: Reader, host: str, image_id: str) -> bool:
    return await reader.one(_IMAGE, {"on_host": host, "image": image_id}) is not None


async def fills_image(reader: Reader, host: str, image_id: str) -> bool:
    """Whether a snapshot of one of its servers, still under way, is to become this image."""
    rows = await reader.all(_SNAPSHOTS, {"on_host": host})
    return any(msgspec.json.decode(row[0], type=_Snapshot).image.id == image_id for row in rows)
