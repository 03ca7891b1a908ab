"""Images: rows, the conditional moves between statuses, and pages of a list."""

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import sqlalchemy as sa

from kilonova.core.db import Duplicate, Reader, Transaction
from kilonova.core.db.statements import Prepared, inserted, prepared
from kilonova.image.model import Content, Image, ListQuery
from kilonova.image.states import IMAGE
from kilonova.image.store.tables import graves, images, members, owners, properties, tags

_FIELDS = Image.__struct_fields__
_COLUMNS = [images.c[name] for name in _FIELDS]
_bind = sa.bindparam
Row = tuple[Any, ...]

_INSERT = inserted(images)
_BURIED = prepared(sa.select(graves.c.image_id).where(graves.c.image_id == _bind("id")))
_BURY = inserted(graves)
_GET = prepared(sa.select(*_COLUMNS).where(images.c.id == _bind("id")), kept=True)
_GET_FOR = prepared(
    sa.select(*_COLUMNS, members.c.status.label("member_status"))
    .select_from(
        images.outerjoin(members, sa.and_(members.c.image_id == images.c.id, members.c.member_id == _bind("member", type_=sa.String)))
    )
    .where(images.c.id == _bind("id")),
    kept=True,
)
_CHANGEABLE = tuple(name for name in _FIELDS if name not in ("id", "created_at", "revision", "upload", "staged", "status"))
_REPLACE = prepared(
    sa.update(images)
    .where(images.c.id == _bind("key"), images.c.revision == _bind("was"))
    .values({**{name: _bind(name, type_=images.c[name].type) for name in _CHANGEABLE}, "revision": images.c.revision + 1})
)
_DELETE = prepared(sa.delete(images).where(images.c.id == _bind("id"), images.c.protected.is_(False)))
_INSERT_TAG, _INSERT_PROPERTY = inserted(tags), inserted(properties)
_DELETE_TAGS = prepared(sa.delete(tags).where(tags.c.image_id == _bind("id")))
_DELETE_PROPERTIES = prepared(sa.delete(properties).where(properties.c.image_id == _bind("id")))
_DELETE_MEMBERS = prepared(sa.delete(members).where(members.c.image_id == _bind("id")))


def _begin(verb: str) -> Any:
    """queued -> saving or uploading, in the name of one upload."""
    arrow = IMAGE[verb]
    return prepared(
        sa.update(images)
        .where(images.c.id == _bind("key"), images.c.status.in_(sorted(arrow.sources)), images.c.upload == "")
        .values(
            status=arrow.during, upload=_bind("token"), upload_until=_bind("until"), updated_at=_bind("now"), revision=images.c.revision + 1
        )
    )


_BEGIN = {verb: _begin(verb) for verb in ("upload", "stage")}
_MINE = sa.and_(images.c.id == _bind("key"), images.c.upload == _bind("token"))
_LAND = prepared(
    sa.update(images)
    .where(_MINE, images.c.status.in_(("saving", "importing")))
    .values(
        status="active",
        upload="",
        upload_until=0,
        staged=sa.null(),
        revision=images.c.revision + 1,
        **{
            name: _bind(f"new_{name}", type_=images.c[name].type)
            for name in ("size", "virtual_size", "checksum", "os_hash_algo", "os_hash_value", "updated_at")
        },
    )
)
_STAGED = prepared(
    sa.update(images)
    .where(_MINE, images.c.status == "uploading")
    .values(
        upload="",
        upload_until=0,
        size=_bind("new_size"),
        staged=_bind("content", type_=images.c.staged.type),
        updated_at=_bind("now"),
        revision=images.c.revision + 1,
    )
)
_IMPORT = prepared(
    sa.update(images)
    .where(images.c.id == _bind("key"), images.c.status == "uploading", images.c.upload == "", images.c.revision == _bind("was"))
    .values(status="importing", upload=_bind("token"), upload_until=_bind("until"), updated_at=_bind("now"), revision=images.c.revision + 1)
)
_GIVE_UP = prepared(
    sa.update(images)
    .where(_MINE, images.c.status.in_(sorted(IMAGE["give up"].sources)))
    .values(
        status="queued",
        upload="",
        upload_until=0,
        size=sa.null(),
        staged=sa.null(),
        updated_at=_bind("now"),
        revision=images.c.revision + 1,
    )
)
_MOVE = {
    verb: prepared(
        sa.update(images)
        .where(images.c.id == _bind("key"), images.c.status.in_(sorted(IMAGE[verb].sources)))
        .values(status=IMAGE[verb].lands, updated_at=_bind("now"), revision=images.c.revision + 1)
    )
    for verb in ("deactivate", "reactivate")
}
_PROLONG = prepared(sa.update(images).where(_MINE).values(upload_until=_bind("until")))
_TAKE_OVER = prepared(
    sa.update(images)
    .where(
        images.c.id == _bind("key"),
        images.c.upload == _bind("was"),
        images.c.upload_until == _bind("was_until"),
        images.c.revision == _bind("at"),
    )
    .values(upload=_bind("token"), upload_until=_bind("until"))
)
_RELEASE = prepared(sa.update(images).where(_MINE).values(upload="", upload_until=0))
_UPLOAD = prepared(sa.select(images.c.upload).where(images.c.id == _bind("id")))
_AMONG = images.c.upload.in_(_bind("tokens", expanding=True))
_PROLONG_ALL = prepared(sa.update(images).where(_AMONG).values(upload_until=_bind("until")))
_HELD = prepared(sa.select(images.c.upload).where(_AMONG).order_by(images.c.upload))
_UNFINISHED = prepared(sa.select(*_COLUMNS, images.c.upload_until).where(images.c.upload > "").order_by(images.c.id))
_STATUSES = prepared(
    sa.select(images.c.id, images.c.status, images.c.staged, images.c.upload)
    .where(images.c.id.in_(_bind("ids", expanding=True)))
    .order_by(images.c.id)
)
_USED = prepared(
    sa.select(sa.func.coalesce(sa.func.sum(images.c.size), 0)).where(images.c.owner == _bind("owner"), images.c.size.is_not(None))
)

_LANDING = prepared(sa.update(owners).where(owners.c.owner == _bind("key")).values(landings=owners.c.landings + _bind("one")))
_FIRST_LANDING = inserted(owners)


def image_of(row: Sequence[Any]) -> Image:
    """A row has the fields of an Image, in their order."""
    return Image(**dict(zip(_FIELDS, row, strict=True)))


async def get(reader: Reader, image_id: str) -> Image | None:
    row = await reader.one(_GET, {"id": image_id})
    return image_of(row) if row else None


async def get_for(reader: Reader, image_id: str, project_id: str | None) -> tuple[Image, str | None] | None:
    """The image, and the status of its membership for a project (None: no member)."""
    row = await reader.one(_GET_FOR, {"id": image_id, "member": project_id or ""})
    return (image_of(row[:-1]), row[-1]) if row else None


async def _index(tx: Transaction, image: Image) -> None:
    if image.tags:
        await tx.many(_INSERT_TAG, [{"image_id": image.id, "value": tag} for tag in image.tags])
    if image.properties:
        await tx.many(_INSERT_PROPERTY, [{"image_id": image.id, "name": k, "value": v} for k, v in image.properties.items()])


async def insert(tx: Transaction, image: Image) -> None:
    """Raises Duplicate when the id is taken, or was that of an image since deleted."""
    await tx.run(_INSERT, {**msgspec.structs.asdict(image), "upload_until": 0})
    if await tx.one(_BURIED, {"id": image.id}):
        raise Duplicate("image_graves.image_id")
    await _index(tx, image)


async def replace(tx: Transaction, was: Image, image: Image) -> bool:
    """Write what a client may change. False when the row is no longer what `was` shows."""
    values = {name: getattr(image, name) for name in _CHANGEABLE}
    if not await tx.run(_REPLACE, {"key": was.id, "was": was.revision, **values}):
        return False
    if was.tags != image.tags or was.properties != image.properties:
        await tx.run(_DELETE_TAGS, {"id": image.id})
        await tx.run(_DELETE_PROPERTIES, {"id": image.id})
        await _index(tx, image)
    return True


async def delete(tx: Transaction, image_id: str, now: int) -> bool:
    """False when it is protected or gone."""
    if not await tx.run(_DELETE, {"id": image_id}):
        return False
    for statement in (_DELETE_TAGS, _DELETE_PROPERTIES, _DELETE_MEMBERS):
        await tx.run(statement, {"id": image_id})
    await tx.run(_BURY, {"image_id": image_id, "deleted_at": now})
    return True


# ---- statuses


async def begin(tx: Transaction, verb: str, image_id: str, token: str, until: int, now: int) -> bool:
    return bool(await tx.run(_BEGIN[verb], {"key": image_id, "token": token, "until": until, "now": now}))


async def land(tx: Transaction, image_id: str, token: str, content: Content, algorithm: str, now: int) -> bool:
    values = {
        "new_size": content.size,
        "new_virtual_size": content.virtual_size,
        "new_checksum": content.checksum,
        "new_os_hash_algo": algorithm,
        "new_os_hash_value": content.os_hash_value,
        "new_updated_at": now,
    }
    return bool(await tx.run(_LAND, {"key": image_id, "token": token, **values}))


async def staged(tx: Transaction, image_id: str, token: str, content: Content, now: int) -> bool:
    return bool(await tx.run(_STAGED, {"key": image_id, "token": token, "content": content, "new_size": content.size, "now": now}))


async def begin_import(tx: Transaction, image: Image, token: str, until: int, now: int) -> bool:
    return bool(await tx.run(_IMPORT, {"key": image.id, "was": image.revision, "token": token, "until": until, "now": now}))


async def give_up(tx: Transaction, image_id: str, token: str, now: int) -> bool:
    """Back to queued, without bytes."""
    return bool(await tx.run(_GIVE_UP, {"key": image_id, "token": token, "now": now}))


async def move(tx: Transaction, verb: str, image_id: str, now: int) -> bool:
    return bool(await tx.run(_MOVE[verb], {"key": image_id, "now": now}))


async def unfinished(reader: Reader) -> list[tuple[Image, int]]:
    """Images in an upload's name, and until when."""
    return [(image_of(row[:-1]), row[-1]) for row in await reader.all(_UNFINISHED)]


async def upload_of(reader: Reader, image_id: str) -> str | None:
    """In which upload's name the image is ("": none's); None when it is gone."""
    row = await reader.one(_UPLOAD, {"id": image_id})
    return str(row[0]) if row else None


async def prolong(tx: Transaction, image_id: str, token: str, until: int) -> bool:
    return bool(await tx.run(_PROLONG, {"key": image_id, "token": token, "until": until}))


async def prolong_all(tx: Transaction, tokens: Sequence[str], until: int) -> dict[str, None]:
    """Those that still have their image."""
    await tx.run(_PROLONG_ALL, {"tokens": list(tokens), "until": until})
    return {row[0]: None for row in await tx.all(_HELD, {"tokens": list(tokens)})}


async def take_over(tx: Transaction, image: Image, was_until: int, token: str, until: int) -> bool:
    """Into another upload's name, if the row is what `image` shows and the lease still the one that was seen."""
    values = {"key": image.id, "was": image.upload, "was_until": was_until, "at": image.revision, "token": token, "until": until}
    return bool(await tx.run(_TAKE_OVER, values))


async def release(tx: Transaction, image_id: str, token: str) -> bool:
    """Out of the upload's name, otherwise as it is."""
    return bool(await tx.run(_RELEASE, {"key": image_id, "token": token}))


async def statuses(reader: Reader, ids: Sequence[str]) -> dict[str, tuple[str, bool, str]]:
    """id -> (status, whether bytes are staged, in which upload's name), of those that exist."""
    return {row[0]: (row[1], row[2] is not None, row[3]) for row in await reader.all(_STATUSES, {"ids": list(ids)})}


async def count_behind(tx: Transaction, owner: str) -> None:
    """Until this transaction ends no other lands bytes of this owner, so that a sum read now is exact."""
    values = {"key": owner, "one": 1}
    if not await tx.run(_LANDING, values):
        try:
            await tx.run(_FIRST_LANDING, {"owner": owner, "landings": 1})
        except Duplicate:
            await tx.run(_LANDING, values)


async def used_bytes(reader: Reader, owner: str) -> int:
    row = await reader.one(_USED, {"owner": owner})
    return int(row[0]) if row else 0


# ---- lists
#
# Compiling a list's statement costs more than running it, so statements are kept by their shape: everything of a query but its values.

_SECOND = 1_000_000
_EMPTY: Mapping[str, Any] = {"name": "", "disk_format": "", "container_format": "", "size": -1}
_KEPT = 500
_pages: dict[tuple[Any, ...], Prepared] = {}


def _shape(query: ListQuery, scoped: bool, admin: bool, marker: bool) -> tuple[Any, ...]:
    return (
        tuple(name for name, _ in query.equal),
        tuple((name, len(values) == 1) for name, values in query.among),
        tuple((name, op) for name, op, _ in query.times),
        query.size_min is None,
        query.size_max is None,
        len(query.tags),
        len(query.properties),
        query.visibility,
        query.member_status,
        query.hidden,
        query.sort,
        query.limit is None,
        scoped,
        admin,
        marker,
    )


def _values(query: ListQuery, project_id: str | None, marker: Image | None) -> dict[str, Any]:
    out: dict[str, Any] = {
        "project": project_id or "",
        "member_status": query.member_status,
        "size_min": query.size_min,
        "size_max": query.size_max,
        "limit": query.limit,
    }
    out.update((f"equal_{name}", value) for name, value in query.equal)
    out.update((f"among_{name}", values[0] if len(values) == 1 else list(values)) for name, values in query.among)
    for i, (_, _, second) in enumerate(query.times):
        out[f"from_{i}"], out[f"to_{i}"] = second, second + _SECOND
    out.update((f"tag_{i}", tag) for i, tag in enumerate(query.tags))
    for i, (name, value) in enumerate(query.properties):
        out[f"property_{i}"], out[f"value_{i}"] = name, value
    if marker is not None:
        for name, _ in query.sort:
            value = getattr(marker, name)
            out[f"marker_{name}"] = _EMPTY[name] if value is None else value
    return out


def _visible(scoped: bool, admin: bool, query: ListQuery) -> list[Any]:
    c = images.c
    project = _bind("project", type_=sa.String)
    own = c.owner == project if scoped else sa.false()
    accepted = members.c.status == _bind("member_status") if query.member_status != "all" else sa.true()
    shared = sa.and_(
        c.visibility == "shared", c.id.in_(sa.select(members.c.image_id).where(members.c.member_id == project, accepted).scalar_subquery())
    )
    wanted = query.visibility
    conditions: list[Any] = [c.visibility == wanted] if wanted not in (None, "all") else []
    if wanted is None:
        conditions.append(c.visibility != "community" if admin and not scoped else sa.or_(own, c.visibility != "community"))
    if not admin:
        public = c.visibility == "public" if wanted is None else c.visibility.in_(("public", "community"))
        conditions.append(sa.or_(own, public, shared) if scoped else public)
    return conditions


def _moment(column: Any, op: str, i: int) -> Any:
    """Clients see whole seconds, so a second is compared as the interval that it is."""
    first: Any = _bind(f"from_{i}")
    after: Any = _bind(f"to_{i}")
    return {
        "gt": column >= after,
        "gte": column >= first,
        "lt": column < first,
        "lte": column < after,
        "eq": sa.and_(column >= first, column < after),
        "neq": sa.or_(column < first, column >= after),
    }[op]


def _conditions(query: ListQuery) -> list[Any]:
    c, p = images.c, properties.c
    out: list[Any] = [c[name] == _bind(f"equal_{name}") for name, _ in query.equal]
    for name, values in query.among:
        key = f"among_{name}"
        out.append(c[name] == _bind(key) if len(values) == 1 else c[name].in_(_bind(key, expanding=True)))
    out += [_moment(c[name], op, i) for i, (name, op, _) in enumerate(query.times)]
    if query.size_min is not None:
        out.append(c.size >= _bind("size_min"))
    if query.size_max is not None:
        out.append(c.size <= _bind("size_max"))
    if query.hidden is not None:
        out.append(c.os_hidden.is_(query.hidden))
    out += [sa.exists().where(tags.c.image_id == c.id, tags.c.value == _bind(f"tag_{i}")) for i in range(len(query.tags))]
    for i in range(len(query.properties)):
        out.append(sa.exists().where(p.image_id == c.id, p.name == _bind(f"property_{i}"), p.value == _bind(f"value_{i}")))
    return out


def _sortable(name: str) -> Any:
    return sa.func.coalesce(images.c[name], _EMPTY[name]) if name in _EMPTY else images.c[name]


def _after(sort: Sequence[tuple[str, str]]) -> Any:
    """Rows behind the marker: (a > x) or (a = x and b > y) or …"""
    options: list[Any] = []
    same: list[Any] = []
    for name, direction in sort:
        column, value = _sortable(name), _bind(f"marker_{name}", type_=images.c[name].type)
        options.append(sa.and_(*same, column > value if direction == "asc" else column < value))
        same.append(column == value)
    return sa.or_(*options)


def _page(query: ListQuery, scoped: bool, admin: bool, marker: bool) -> Prepared:
    conditions = [*_visible(scoped, admin, query), *_conditions(query)]
    if marker:
        conditions.append(_after(query.sort))
    order = [_sortable(name).asc() if direction == "asc" else _sortable(name).desc() for name, direction in query.sort]
    statement = sa.select(*_COLUMNS).where(*conditions).order_by(*order)
    if query.limit is not None:
        statement = statement.limit(_bind("limit", type_=sa.Integer))
    return prepared(statement)


async def page(reader: Reader, query: ListQuery, project_id: str | None, admin: bool, marker: Image | None) -> list[Row]:
    """Rows for `image_of`: a long list is shown without making structs of them."""
    scoped = project_id is not None
    shape = _shape(query, scoped, admin, marker is not None)
    statement = _pages.get(shape)
    if statement is None:
        if len(_pages) >= _KEPT:
            _pages.clear()
        statement = _pages[shape] = _page(query, scoped, admin, marker is not None)
    return await reader.all(statement, _values(query, project_id, marker))
