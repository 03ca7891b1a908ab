"""Flavors and who may use private ones, on the api side."""

from typing import Any

import msgspec
import sqlalchemy as sa

from kilonova.compute.model import Flavor
from kilonova.compute.store.api_tables import flavor_access, flavors
from kilonova.core.db import Reader, Transaction
from kilonova.core.db.statements import inserted, prepared

_FIELDS = Flavor.__struct_fields__
_COLUMNS = [flavors.c[name] for name in _FIELDS]
_key: sa.BindParameter[str] = sa.bindparam("key", type_=sa.String)
_INSERT = inserted(flavors)
_GET = prepared(sa.select(*_COLUMNS).where(flavors.c.id == sa.bindparam("id")), kept=True)
_ALL = prepared(sa.select(*_COLUMNS).order_by(flavors.c.id))
_DESCRIBE = prepared(sa.update(flavors).where(flavors.c.id == _key).values(description=sa.bindparam("text")))
_SPECS = prepared(
    sa.update(flavors)
    .where(flavors.c.id == _key, flavors.c.extra_specs == sa.bindparam("was", type_=flavors.c.extra_specs.type))
    .values(extra_specs=sa.bindparam("specs", type_=flavors.c.extra_specs.type))
)
_DELETE = prepared(sa.delete(flavors).where(flavors.c.id == sa.bindparam("id")))
_ACCESS = prepared(
    sa.select(flavor_access.c.project_id).where(
        flavor_access.c.flavor_id == sa.bindparam("flavor_id"), flavor_access.c.project_id == sa.bindparam("project_id")
    )
)
_PROJECTS = prepared(
    sa.select(flavor_access.c.project_id).where(flavor_access.c.flavor_id == sa.bindparam("flavor_id")).order_by(flavor_access.c.project_id)
)
_GIVEN = prepared(
    sa.select(flavor_access.c.flavor_id).where(flavor_access.c.project_id == sa.bindparam("project_id")).order_by(flavor_access.c.flavor_id)
)
_GIVE = inserted(flavor_access)
_TAKE = prepared(
    sa.delete(flavor_access).where(
        flavor_access.c.flavor_id == sa.bindparam("flavor_id"), flavor_access.c.project_id == sa.bindparam("project_id")
    )
)
_TAKE_ALL = prepared(sa.delete(flavor_access).where(flavor_access.c.flavor_id == sa.bindparam("flavor_id")))


def _flavor(row: tuple[Any, ...]) -> Flavor:
    return Flavor(**dict(zip(_FIELDS, row, strict=True)))


async def insert(tx: Transaction, flavor: Flavor) -> None:
    """Raises Duplicate (flavors.id, flavors.name)."""
    await tx.run(_INSERT, msgspec.structs.asdict(flavor))


async def get(reader: Reader, flavor_id: str) -> Flavor | None:
    row = await reader.one(_GET, {"id": flavor_id})
    return _flavor(row) if row else None


async def every(reader: Reader) -> list[Flavor]:
    """By id."""
    return [_flavor(row) for row in await reader.all(_ALL)]


async def describe(tx: Transaction, flavor_id: str, description: str | None) -> int:
    return await tx.run(_DESCRIBE, {"key": flavor_id, "text": description})


async def set_extra_specs(tx: Transaction, flavor_id: str, was: dict[str, str], specs: dict[str, str]) -> int:
    """0: somebody has changed them meanwhile (they are no longer what they `was`), or the flavor is gone."""
    return await tx.run(_SPECS, {"key": flavor_id, "was": was, "specs": specs})


async def delete(tx: Transaction, flavor_id: str) -> int:
    await tx.run(_TAKE_ALL, {"flavor_id": flavor_id})
    return await tx.run(_DELETE, {"id": flavor_id})


async def may_use(reader: Reader, flavor_id: str, project_id: str) -> bool:
    """Whether a project has been given a private flavor."""
    return await reader.one(_ACCESS, {"flavor_id": flavor_id, "project_id": project_id}) is not None


async def projects(reader: Reader, flavor_id: str) -> list[str]:
    """Who has been given a flavor."""
    return [row[0] for row in await reader.all(_PROJECTS, {"flavor_id": flavor_id})]


async def given(reader: Reader, project_id: str) -> list[str]:
    """Flavors that a project has been given."""
    return [row[0] for row in await reader.all(_GIVEN, {"project_id": project_id})]


async def give(tx: Transaction, flavor_id: str, project_id: str) -> None:
    """Raises Duplicate."""
    await tx.run(_GIVE, {"flavor_id": flavor_id, "project_id": project_id})


async def take(tx: Transaction, flavor_id: str, project_id: str) -> int:
    return await tx.run(_TAKE, {"flavor_id": flavor_id, "project_id": project_id})
