"""Flavors and who may use private ones, on the api side."""

from typing import Any

import msgspec
import sqlalchemy as sa

from kilonova.compute.model import Flavor
from kilonova.compute.store.api_tables import flavor_access, flavors
from kilonova.core.db import Reader, Transaction, inserted, prepared

_FIELDS = Flavor.__struct_fields__
_COLUMNS = [flavors.c[name] for name in _FIELDS]
_INSERT = inserted(flavors)
_GET = prepared(sa.select(*_COLUMNS).where(flavors.c.id == sa.bindparam("id")))
_ACCESS = prepared(
    sa.select(flavor_access.c.project_id).where(
        flavor_access.c.flavor_id == sa.bindparam("flavor_id"), flavor_access.c.project_id == sa.bindparam("project_id")
    )
)


def _flavor(row: tuple[Any, ...]) -> Flavor:
    return Flavor(**dict(zip(_FIELDS, row, strict=True)))


async def insert(tx: Transaction, flavor: Flavor) -> None:
    """Raises Duplicate (flavors.id, flavors.name)."""
    await tx.run(_INSERT, msgspec.structs.asdict(flavor))


async def get(reader: Reader, flavor_id: str) -> Flavor | None:
    row = await reader.one(_GET, {"id": flavor_id})
    return _flavor(row) if row else None


async def may_use(reader: Reader, flavor_id: str, project_id: str) -> bool:
    """Whether a project has been given a private flavor."""
    return await reader.one(_ACCESS, {"flavor_id": flavor_id, "project_id": project_id}) is not None
