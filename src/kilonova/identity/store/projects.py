"""Projects and domains."""

from typing import Any

import msgspec
import sqlalchemy as sa

from kilonova.core.db import Reader, Transaction, inserted, prepared
from kilonova.identity.model import Project
from kilonova.identity.store.tables import projects

_COLUMNS = [projects.c[name] for name in Project.__struct_fields__]
_INSERT = inserted(projects)
_GET = prepared(sa.select(*_COLUMNS).where(projects.c.id == sa.bindparam("id")))
_BY_NAME = prepared(sa.select(*_COLUMNS).where(projects.c.unique_name == sa.bindparam("unique_name")))
_UPDATE = prepared(
    sa.update(projects)
    .where(projects.c.id == sa.bindparam("key"))
    .values({c.name: sa.bindparam(c.name, type_=c.type) for c in projects.columns if c.name not in ("id", "created_at")})
)
_DELETE = prepared(sa.delete(projects).where(projects.c.id == sa.bindparam("id")))


def _project(row: tuple[Any, ...]) -> Project:
    return Project(**dict(zip(Project.__struct_fields__, row, strict=True)))


def unique_name(name: str, domain_id: str, is_domain: bool) -> str:
    """Names are unique among the projects of a domain, and among domains."""
    return f"domain/{name}" if is_domain else f"{domain_id}/{name}"


def _values(project: Project) -> dict[str, Any]:
    return {**msgspec.structs.asdict(project), "unique_name": unique_name(project.name, project.domain_id, project.is_domain)}


async def insert(tx: Transaction, project: Project) -> None:
    """Raises Duplicate (projects.unique_name)."""
    await tx.run(_INSERT, _values(project))


async def update(tx: Transaction, project: Project) -> int:
    return await tx.run(_UPDATE, {"key": project.id, **_values(project)})


async def delete(tx: Transaction, project_id: str) -> int:
    return await tx.run(_DELETE, {"id": project_id})


async def get(reader: Reader, project_id: str) -> Project | None:
    row = await reader.one(_GET, {"id": project_id})
    return _project(row) if row else None


async def by_name(reader: Reader, name: str, domain_id: str) -> Project | None:
    row = await reader.one(_BY_NAME, {"unique_name": unique_name(name, domain_id, False)})
    return _project(row) if row else None


async def domain_by_name(reader: Reader, name: str) -> Project | None:
    row = await reader.one(_BY_NAME, {"unique_name": unique_name(name, "", True)})
    return _project(row) if row else None


async def every(reader: Reader, **equal: Any) -> list[Project]:
    """All whose columns equal the given values, oldest first."""
    query = sa.select(*_COLUMNS).where(*(projects.c[name] == value for name, value in equal.items()))
    return [_project(row) for row in await reader.all(query.order_by(projects.c.created_at, projects.c.id))]
