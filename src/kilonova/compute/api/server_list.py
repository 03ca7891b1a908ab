"""GET /servers and /servers/detail: filters, sorting, paging.

A list reads (id, revision) only and takes the documents from the cache of views; just servers that have changed are read whole.
"""

import re
from typing import Any

import msgspec
import sqlalchemy as sa

from kilonova.compute.api import patterns
from kilonova.compute.api import server_views as views
from kilonova.compute.cells import Cell
from kilonova.compute.model import Host, Server
from kilonova.compute.service import ComputeService
from kilonova.compute.states import STATES_BY_STATUS, status
from kilonova.compute.store import mappings, servers
from kilonova.compute.store.cell_tables import servers as t
from kilonova.core import times
from kilonova.core.context import Context
from kilonova.core.errors import BadRequest, Forbidden
from kilonova.core.http import Reply, Request

_SORT = {
    "access_ip_v4": t.c.access_ip_v4,
    "access_ip_v6": t.c.access_ip_v6,
    "auto_disk_config": t.c.disk_config,
    "availability_zone": t.c.availability_zone,
    "config_drive": t.c.config_drive,
    "created_at": t.c.created_at,
    "display_description": t.c.description,
    "display_name": t.c.name,
    "host": t.c.host,
    "hostname": t.c.hostname,
    "image_ref": t.c.image_id,
    "instance_type_id": t.c.number,
    "kernel_id": t.c.id,
    "key_name": t.c.key_name,
    "launch_index": t.c.launch_index,
    "launched_at": t.c.launched_at,
    "locked_by": t.c.locked_by,
    "node": t.c.node,
    "power_state": t.c.power_state,
    "progress": t.c.id,
    "project_id": t.c.project_id,
    "ramdisk_id": t.c.id,
    "root_device_name": t.c.id,
    "task_state": t.c.task,
    "terminated_at": t.c.terminated_at,
    "updated_at": t.c.updated_at,
    "user_id": t.c.user_id,
    "uuid": t.c.id,
    "vm_state": t.c.state,
    "locked": t.c.locked_by,
}
_ADMIN_COLUMNS = {
    "host": t.c.host,
    "node": t.c.node,
    "hypervisor_hostname": t.c.node,
    "user_id": t.c.user_id,
    "uuid": t.c.id,
    "vm_state": t.c.state,
    "task_state": t.c.task,
    "power_state": t.c.power_state,
    "availability_zone": t.c.availability_zone,
    "key_name": t.c.key_name,
    "hostname": t.c.hostname,
    "launch_index": t.c.launch_index,
    "description": t.c.description,
    "display_description": t.c.description,
}
_MEMBER_2_83 = {
    "availability_zone": t.c.availability_zone,
    "key_name": t.c.key_name,
    "vm_state": t.c.state,
    "task_state": t.c.task,
    "power_state": t.c.power_state,
    "user_id": t.c.user_id,
}
_KNOWN = {
    "name",
    "status",
    "flavor",
    "image",
    "ip",
    "ip6",
    "changes-since",
    "changes-before",
    "reservation_id",
    "tags",
    "tags-any",
    "not-tags",
    "not-tags-any",
    "locked",
    "all_tenants",
    "limit",
    "marker",
    "sort_key",
    "sort_dir",
    "deleted",
    "project_id",
    "tenant_id",
    "config_drive",
    "created_at",
    "launched_at",
    "terminated_at",
    "progress",
    "soft_deleted",
    "display_name",
    "access_ip_v4",
    "access_ip_v6",
    "root_device_name",
    "kernel_id",
    "ramdisk_id",
    "locked_by",
    "instance_type_id",
    "image_ref",
    "auto_disk_config",
    "cell_name",
    "block_device_mapping",
    "services",
    "metadata",
    "system_metadata",
    "info_cache",
    "security_groups",
    "pci_devices",
    *_ADMIN_COLUMNS,
}
_RELATIONS = ("metadata", "block_device_mapping", "services", "system_metadata", "info_cache", "security_groups", "pci_devices")
Row = tuple[Any, ...]
"""(id, revision, host, …)"""
_ALL_CELLS = {"all_tenants"}
"""Queries that show partial records of cells that do not answer: those that ask nothing of a server which nobody could say."""


class Found(msgspec.Struct):
    """What a query finds in all cells. `cell_of`: where each row is, when there is more than one database."""

    rows: list[Row]
    cell_of: dict[str, Cell]
    silent: list[Cell]


async def brief(c: ComputeService, ctx: Context, req: Request) -> Reply:
    return await _list(c, ctx, req, whole=False)


async def detail(c: ComputeService, ctx: Context, req: Request) -> Reply:
    return await _list(c, ctx, req, whole=True)


def limit_of(req: Request, most: int) -> int:
    text = req.one("limit")
    if text is None:
        return most
    if not (text.isascii() and text.isdigit()) or len(text) > 9:
        raise BadRequest(f"Invalid input for query parameters limit. Value: {text[:50]}. '{text[:50]}' does not match '^[0-9]*$'")
    return min(int(text) or most, most)


class Query:
    """A list request, understood: conditions for the database, and a check in Python for what SQL cannot say."""

    def __init__(self, c: ComputeService, ctx: Context, req: Request) -> None:
        self.c, self.ctx, self.req = c, ctx, req
        self.admin = ctx.is_admin
        self.where: list[Any] = []
        self.checks: list[Any] = []
        self.deleted: bool | None = False
        self.empty = False
        self.all_projects = False
        self._scope()
        self._times()
        for key in dict.fromkeys(key for key, _ in req.query):
            self._filter(key)
        if self.deleted is not None:
            self.where.insert(0, t.c.deleted.is_(self.deleted))

    @property
    def partial(self) -> bool:
        """Whether servers of cells that do not answer are shown as far as they are known."""
        return self.req.version >= views.PARTIAL and all(key in _ALL_CELLS for key, _ in self.req.query)

    def _scope(self) -> None:
        req, ctx = self.req, self.ctx
        wanted = req.one("all_tenants")
        if wanted is not None:
            if wanted.lower() not in ("", "0", "1", "true", "false", "yes", "no", "t", "f", "on", "off"):
                raise BadRequest(f"Invalid input for query parameters all_tenants. Value: {wanted[:50]}. It is a boolean.")
            self.all_projects = wanted.lower() not in ("0", "false", "no", "f", "off")
        if self.all_projects:
            rule = (
                "os_compute_api:servers:detail:get_all_tenants"
                if req.path.endswith("/detail")
                else "os_compute_api:servers:index:get_all_tenants"
            )
            req.authorize(rule, {"project_id": ctx.project_id, "user_id": ctx.user_id})
            project = req.one("project_id") or req.one("tenant_id")
            if project is not None:
                self.where.append(t.c.project_id == project)
        else:
            self.where.append(t.c.project_id == ctx.project_id)

    def _times(self) -> None:
        for key, column in (("changes-since", t.c.updated_at >= 0), ("changes-before", None)):
            text = self.req.one(key)
            if text is None or (key == "changes-before" and self.req.version < (2, 66)):
                continue
            try:
                when = times.parse(text)
            except ValueError:
                raise BadRequest(
                    f"Invalid input for query parameters {key}. Value: {text[:50]}. '{text[:50]}' is not a 'date-time'"
                ) from None
            self.where.append(t.c.updated_at >= when if column is not None else t.c.updated_at <= when)
            self.deleted = None

    def _filter(self, key: str) -> None:
        req = self.req
        if key in ("limit", "marker", "sort_key", "sort_dir", "all_tenants", "project_id", "tenant_id", "changes-since", "changes-before"):
            return
        if key.startswith("_") or key in _RELATIONS:
            raise BadRequest(f"Invalid filters {key} are specified.")
        value = req.one(key) or ""
        if key in ("name", "display_name"):
            self._regex(key, value, lambda s: s.name)
        elif key == "status":
            self._status(req.every("status"))
        elif key == "flavor":
            self.checks.append(lambda s: s.flavor.id == value)
        elif key in ("image", "image_ref"):
            self.where.append(t.c.image_id == value)
        elif key in ("ip", "ip6"):
            version = 6 if key == "ip6" else 4
            self._regex(key, value, lambda s: [f.ip for n in s.nics for f in n.fixed_ips if f.version == version])
        elif key == "reservation_id":
            self.where.append(t.c.reservation_id == value)
        elif key in ("tags", "tags-any", "not-tags", "not-tags-any") and req.version >= (2, 26):
            self._tags(key, value)
        elif key == "locked" and req.version >= (2, 73):
            self.where.append(t.c.locked_by.is_not(None) if value.lower() in ("true", "1") else t.c.locked_by.is_(None))
        elif key == "deleted" and self.admin:
            self.deleted = value.lower() in ("true", "1", "yes")
        elif self.admin and key in _ADMIN_COLUMNS:
            self.where.append(_ADMIN_COLUMNS[key] == _typed(key, value))
        elif req.version >= (2, 83) and key in _MEMBER_2_83:
            self.where.append(_MEMBER_2_83[key] == _typed(key, value))
        elif key == "config_drive" and (self.admin or req.version >= (2, 83)):
            self.where.append(t.c.config_drive.is_(value.lower() in ("true", "1")))
        elif req.version >= (2, 75) and key not in _KNOWN:
            raise BadRequest(f"Invalid input for query parameters {key[:50]}. '{key[:50]}' does not match any of the regexes: '^_'")

    def _regex(self, key: str, text: str, read: Any) -> None:
        if len(text) > patterns.MOST_CHARACTERS:
            raise BadRequest(f"Invalid input for query parameters {key}. It is longer than {patterns.MOST_CHARACTERS} characters.")
        if not text:
            return
        if key in ("name", "display_name") and patterns.plain(text):
            escaped = (
                text.replace("%", "/%").replace("_", "/_").replace("/", "//") if "/" in text else text.replace("%", "/%").replace("_", "/_")
            )
            self.where.append(t.c.name.ilike(f"%{escaped}%", escape="/"))
            return
        try:
            pattern = patterns.compiled(text)
        except patterns.Refused as error:
            raise BadRequest(f"Invalid input for query parameters {key}. Value: {text[:50]}. {error}") from None

        def check(server: Server) -> bool:
            found = read(server)
            return any(pattern.search(x) for x in ([found] if isinstance(found, str) else found))

        self.checks.append(check)

    def _status(self, wanted: list[str]) -> None:
        names = [w.upper() for w in wanted]
        if "DELETED" in names:
            if not self.admin:
                raise Forbidden("Only administrators may list deleted instances")
            self.deleted = True
        states = [s for name in names for s in STATES_BY_STATUS.get(name, ())]
        if not states:
            if self.req.version >= (2, 38):
                raise BadRequest("Invalid status value")
            self.empty = True
            return
        self.where.append(t.c.state.in_(states))
        self.checks.append(lambda s: status(s.state, s.task) in names)

    def _tags(self, key: str, value: str) -> None:
        wanted = set(value.split(","))
        self.checks.append(
            {
                "tags": lambda s: wanted <= set(s.tags),
                "tags-any": lambda s: bool(wanted & set(s.tags)),
                "not-tags": lambda s: not wanted <= set(s.tags),
                "not-tags-any": lambda s: not wanted & set(s.tags),
            }[key]
        )

    def order(self) -> list[tuple[str, bool]]:
        """(sort key, descending) pairs."""
        keys, dirs = self.req.every("sort_key"), self.req.every("sort_dir")
        out = []
        for i, key in enumerate(keys):
            if key not in _SORT or (key == "locked" and self.req.version < (2, 73)) or (key in ("host", "node") and not self.admin):
                if key in ("host", "node") and not self.admin:
                    raise Forbidden(f"Only administrators can sort servers by {key}")
                raise BadRequest(
                    f"Invalid input for query parameters sort_key. Value: {key[:50]}. '{key[:50]}' is not one of {sorted(_SORT)}"
                )
            direction = dirs[i] if i < len(dirs) else dirs[-1] if dirs else "desc"
            if direction not in ("asc", "desc"):
                given = direction[:50]
                raise BadRequest(f"Invalid input for query parameters sort_dir. Value: {given}. '{given}' is not one of ['asc', 'desc']")
            out.append((key, direction == "desc"))
        return out or [("created_at", True)]


def _typed(key: str, value: str) -> Any:
    if key in ("power_state", "launch_index"):
        return int(value) if re.fullmatch("-?[0-9]{1,9}", value) else -1
    return value


def _after(order: list[tuple[str, bool]], marker: Server, row: dict[str, Any]) -> Any:
    """Rows that come after the marker in this order (ties broken by id)."""
    conditions: list[Any] = []
    equal: list[Any] = []
    for key, descending in [*order, ("uuid", order[-1][1])]:
        column, value = _SORT[key], row[_SORT[key].name]
        if value is None:
            further: Any = column.is_not(None) if not descending else sa.false()
            same = column.is_(None)
        else:
            further = column > value if not descending else sa.or_(column < value, column.is_(None))
            same = column == value
        conditions.append(sa.and_(*equal, further))
        equal.append(same)
    return sa.or_(*conditions)


async def _list(c: ComputeService, ctx: Context, req: Request, *, whole: bool) -> Reply:
    query = Query(c, ctx, req)
    limit = limit_of(req, c.settings["api"].max_limit)
    order = query.order()
    where = list(query.where)
    waiting = await _waiting(c, query)
    marker = req.one("marker")
    if marker is not None:
        at = (await c.cells.locate(marker) or (None, None))[1]
        if at is None or (not query.all_projects and at.project_id != ctx.project_id):
            if not any(s.id == marker for s in waiting):
                raise BadRequest(f"marker [{marker[:64]}] not found")
            waiting = waiting[next(i for i, s in enumerate(waiting) if s.id == marker) + 1 :]
        else:
            where.append(_after(order, at, msgspec.structs.asdict(at)))
            waiting = []
    there = Found([], {}, [])
    if not query.empty:
        there = await _everywhere(c, where, order, None if query.checks else limit)
        c.cells.complain([] if query.partial else there.silent, skip=c.settings["api"].list_records_by_skipping_down_cells)
    found = there.rows
    up = await _host_status(c, query.admin)
    rows: list[Any] = [_document(c, req, s, whole, up) for s in waiting[:limit]]
    last = waiting[min(limit, len(waiting)) - 1].id if waiting else None
    have = {s.id for s in waiting}
    found = [row for row in found if row[0] not in have] if have else found
    if query.checks or not whole:
        for server in await _in_order(c, there, found):
            if len(rows) >= limit:
                break
            if all(check(server) for check in query.checks):
                rows.append(_document(c, req, server, whole, up))
                last = server.id
    else:
        room = limit - len(rows)
        rows += await _rendered(c, req, there, found[:room], up)
        last = found[min(room, len(found)) - 1][0] if found and room > 0 else last
    if there.silent and query.partial and len(rows) < limit:
        rows += await _partial(c, req, query, there.silent, limit - len(rows), whole)
        return Reply({"servers": rows})
    body: dict[str, Any] = {"servers": rows}
    if len(rows) == limit and last is not None:
        rest = "&".join(f"{k}={v}" for k, v in req.query if k not in ("marker",))
        href = f"{req.base_url}{req.prefix}/servers{'/detail' if whole else ''}?{rest + '&' if rest else ''}marker={last}"
        body["servers_links"] = [{"rel": "next", "href": href}]
    return Reply(body)


def _document(c: ComputeService, req: Request, server: Server, whole: bool, up: dict[str | None, str] | None) -> Any:
    if not whole:
        return views.brief(req, server)
    return views.rendered(c, req, server, single=False, host_status=None if up is None else up.get(server.host, ""))


async def _everywhere(c: ComputeService, where: list[Any], order: list[tuple[str, bool]], limit: int | None) -> Found:
    """The first rows of all cells in the order asked for, ties broken by id. One database needs no merging."""
    by = [(_SORT[key], down) for key, down in order]
    by.append((t.c.id, order[-1][1]))
    columns = servers.ordering(by)
    if c.cells.only is not None:
        return Found(await servers.ids(c.cells.only.db, where, columns, limit), {}, [])
    keys = [column for column, _ in by]
    answers = await c.cells.gather("servers", lambda cell: servers.ids(cell.db, where, columns, limit, keys))
    rows = servers.merged(answers.all, [down for _, down in by], 3)
    cell_of = {row[0]: cell for cell, page in answers.found for row in page}
    return Found(rows if limit is None else rows[:limit], cell_of, answers.silent)


async def _partial(c: ComputeService, req: Request, query: Query, silent: list[Cell], room: int, whole: bool) -> list[dict[str, Any]]:
    """Servers of cells that do not answer, newest first, after all others."""
    project_id = None if query.all_projects else query.ctx.project_id
    found = await mappings.of_cells(c.api_db, [cell.uuid for cell in silent], project_id, room)
    if not whole:
        return [views.partial_brief(req, m.server_id) for m in found]
    return [views.partial(req, m.server_id, m.project_id, m.created_at, None, single=False) for m in found]


async def _in_order(c: ComputeService, there: Found, found: list[Row]) -> list[Server]:
    """A cell that falls silent meanwhile takes its servers along."""
    out: list[Server] = []
    for i in range(0, len(found), 500):
        part = [row[0] for row in found[i : i + 500]]
        answers = await c.cells.gather("servers", lambda cell, part=part: servers.many(cell.db, _of(cell, there, part)))  # type: ignore[misc]
        by_id = {s.id: s for answer in answers.all for s in answer}
        out += [by_id[ident] for ident in part if ident in by_id]
    return out


def _of(cell: Cell, there: Found, ids: list[str]) -> list[str]:
    return [ident for ident in ids if there.cell_of[ident] is cell] if there.cell_of else ids


async def _rendered(c: ComputeService, req: Request, there: Found, found: list[Row], up: dict[str | None, str] | None) -> list[msgspec.Raw]:
    """Documents for rows: from the cache of views where the revision is the same."""
    version, admin, base, prefix, cache = views.shape(req.version), req.ctx.is_admin, req.base_url, req.prefix, c.views
    out: list[Any] = []
    missing: list[tuple[int, Row]] = []
    for i, row in enumerate(found):
        state = None if up is None else up.get(row[2], "")
        kept = cache.get((row[0], version, False, admin, base, prefix))
        if kept is not None and kept.revision == row[1] and kept.host_status == state:
            out.append(msgspec.Raw(kept.document))
        else:
            out.append(None)
            missing.append((i, row))
    if missing:
        fresh = {s.id: s for s in await _in_order(c, there, [row for _, row in missing])}
        for i, row in missing:
            if row[0] in fresh:
                out[i] = _document(c, req, fresh[row[0]], True, up)
    return [x for x in out if x is not None]


async def _host_status(c: ComputeService, admin: bool) -> dict[str | None, str] | None:
    """Of every host, for admins: UP, DOWN or MAINTENANCE."""
    if not admin:
        return None
    out: dict[str | None, str] = {None: ""}
    for host in (await c.hosts.snapshot()).hosts:
        out[host.host] = host_status(c, host)
    return out


def host_status(c: ComputeService, host: Host) -> str:
    if host.disabled:
        return "MAINTENANCE"
    return "UP" if c.hosts.is_up(host) else "DOWN"


async def _waiting(c: ComputeService, query: Query) -> list[Server]:
    """Servers that have no host yet, newest first; they pass the filters that make sense for them."""
    if query.empty or query.deleted:
        return []
    found = await mappings.requests(c.api_db, None if query.all_projects else query.ctx.project_id)
    if not found:
        return []
    out = []
    wanted = {key: query.req.one(key) for key in ("image", "reservation_id", "host", "project_id", "tenant_id", "name")}
    since = query.req.one("changes-since")
    for server in found:
        values = {
            "image": server.image_id,
            "reservation_id": server.reservation_id,
            "host": server.host,
            "project_id": server.project_id,
            "tenant_id": server.project_id,
        }
        if any(
            wanted[key] is not None and wanted[key] != value
            for key, value in values.items()
            if key not in ("project_id", "tenant_id") or query.all_projects
        ):
            continue
        if since is not None and server.updated_at < times.parse(since):
            continue
        name = wanted["name"]
        if name and patterns.plain(name) and name.lower() not in server.name.lower():
            continue
        if query.req.every("status") and "BUILD" not in [s.upper() for s in query.req.every("status")]:
            continue
        if all(check(server) for check in query.checks):
            out.append(server)
    return sorted(out, key=lambda s: (s.created_at, s.id), reverse=True)
