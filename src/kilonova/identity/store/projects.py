"""Projects and domains."""

from typing import Any

import msgspec
import sqlalchemy as sa

from kilonova.core.db import Reader, Transaction
from kilonova.core.db.statements import inserted, prepared
from kilonova.identity.model import Project
from kilonova.identity.store.tables import projects

_COLUMNS = [projects.c[name] for name in Project.__struct_fields__]
_INSERT = inserted(projects)
_GET = prepared(sa.select(*_COLUMNS).where(projects.c.id == sa.bindparam("id")))
_BY_NAME = prepared(sa.select(*_COLUMNS).where(projects.c.unique_name == sa.bindparam("unique_name")))
_MANY = prepared(
    sa.select(*_COLUMNS).where(projects.c.id.in_(sa.bindparam("ids", expanding=True))).order_by(projects.c.created_at, projects.c.id)
)
_CHILDREN = prepared(
    sa.select(*_COLUMNS).where(projects.c.parent_id.in_(sa.bindparam("ids", expanding=True))).order_by(projects.c.created_at, projects.c.id)
)
_TREE = prepared(
    sa.select(projects.c.id, projects.c.parent_id, projects.c.domain_id)
    .where(projects.c.is_domain.is_(sa.false()))
    .order_by(projects.c.created_at, projects.c.id)
)
_SET_TAGS = prepared(
    sa.update(projects)
    .where(projects.c.id == sa.bindparam("key"), projects.c.tags == sa.bindparam("was", type_=projects.c.tags.type))
    .values(tags=sa.bindparam("now", type_=projects.c.tags.type))
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


async def change(tx: Transaction, project: Project, **columns: Any) -> Project | None:
    """Write these columns only, so that two changes at once do not undo each other. None: it is gone. Raises Duplicate."""
    changed = msgspec.structs.replace(project, **columns)
    if "name" in columns:
        columns["unique_name"] = unique_name(changed.name, changed.domain_id, changed.is_domain)
    if columns and not await tx.run(sa.update(projects).where(projects.c.id == project.id).values(**columns)):
        return None
    return changed


async def set_tags(tx: Transaction, project: Project, tags: tuple[str, ...]) -> bool:
    """False when the tags are no longer those that were read."""
    return await tx.run(_SET_TAGS, {"key": project.id, "was": project.tags, "now": tags}) == 1


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


async def many(reader: Reader, ids: list[str]) -> list[Project]:
    """Those of the ids that exist, oldest first."""
    return [_project(row) for row in await reader.all(_MANY, {"ids": ids})]


async def children(reader: Reader, ids: list[str]) -> list[Project]:
    return [_project(row) for row in await reader.all(_CHILDREN, {"ids": ids})]


async def tree(reader: Reader) -> list[tuple[str, str | None, str]]:
    """(id, parent, domain) of every project that is no domain, oldest first."""
    return [(row[0], row[1], row[2]) for row in await reader.all(_TREE)]
