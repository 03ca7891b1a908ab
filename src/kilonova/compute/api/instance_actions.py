"""What was asked of a server and what became of it. Kept after the server is gone (from 2.21 on visible then, too)."""

from typing import Any

from kilonova.compute.api import queries
from kilonova.compute.api.server_views import host_id
from kilonova.compute.api.servers import find
from kilonova.compute.errors import ServerNotFound
from kilonova.compute.model import Action, Event, Server
from kilonova.compute.service import ComputeService
from kilonova.compute.store import actions
from kilonova.core import times
from kilonova.core.context import Context
from kilonova.core.db import Reader
from kilonova.core.errors import BadRequest, NotFound
from kilonova.core.http import Request

_SINCE = {**queries.PAGE, "changes-since": queries.date_time}
LIST: queries.Queries = [
    ((2, 1), queries.Query(others=True)),
    ((2, 58), queries.Query(_SINCE, once=True)),
    ((2, 66), queries.Query({**_SINCE, "changes-before": queries.date_time}, once=True)),
]
_EVENTS = "os_compute_api:os-instance-actions:events"
_DETAILS = "os_compute_api:os-instance-actions:events:details"


async def _server(c: ComputeService, req: Request, server_id: str) -> tuple[Server, Reader | None]:
    """And the database of its cell; None: it has none yet."""
    if req.version >= (2, 21):
        cell, server = await c.cells.locate(server_id) or (None, None)
        if cell is not None and server is not None and server.deleted:
            if not (req.ctx.is_admin or server.project_id == req.ctx.project_id):
                raise ServerNotFound(server=server_id)
            req.authorize(req.route.policy, {"project_id": server.project_id, "user_id": server.user_id})
            return server, cell.db
    found = await find(c, req, server_id)
    cell = await c.cells.of(found.id)
    return found, cell.db if cell is not None else None


def _view(req: Request, action: Action) -> dict[str, Any]:
    document = {
        "action": action.action,
        "instance_uuid": action.server_id,
        "request_id": action.request_id,
        "user_id": action.user_id,
        "project_id": action.project_id,
        "start_time": times.iso_us(action.start_at),
        "message": action.message,
    }
    if req.version >= (2, 58):
        document["updated_at"] = times.iso_us(action.updated_at)
    return document


def _key(action: Action) -> str:
    return action.request_id


async def index(c: ComputeService, ctx: Context, req: Request, server_id: str) -> Any:
    """Newest first."""
    server, db = await _server(c, req, server_id)
    found = await actions.of(db, server.id) if db is not None else []
    if req.version < (2, 58):
        return {"instanceActions": [_view(req, a) for a in found]}
    since, before = req.one("changes-since"), req.one("changes-before") if req.version >= (2, 66) else None
    if since is not None:
        found = [a for a in found if a.updated_at >= times.parse(since)]
    if before is not None:
        if since is not None and times.parse(since) > times.parse(before):
            raise BadRequest("The value of changes-since must be less than or equal to changes-before.")
        found = [a for a in found if a.updated_at <= times.parse(before)]
    most = c.settings["api"].max_limit
    rows = queries.page(req, found, _key, most)
    out: dict[str, Any] = {"instanceActions": [_view(req, a) for a in rows]}
    following = queries.next_link(req, rows, _key, most) if req.one("limit") else []
    if following:
        out["links"] = following
    return out


def _event(req: Request, server: Server, event: Event, full: bool, details: bool) -> dict[str, Any]:
    document: dict[str, Any] = {
        "event": event.event,
        "start_time": times.iso_us(event.start_at),
        "finish_time": times.iso_us(event.finish_at) if event.finish_at is not None else None,
        "result": event.result,
    }
    if full:
        document["traceback"] = None
    if req.version >= (2, 62):
        document["hostId"] = host_id(server.project_id, event.host)
        if full and event.host is not None:
            document["host"] = event.host
    if details and req.version >= (2, 84):
        document["details"] = event.details
    return document


async def show(c: ComputeService, ctx: Context, req: Request, server_id: str, request_id: str) -> Any:
    server, db = await _server(c, req, server_id)
    action = await actions.by_request(db, server.id, request_id) if db is not None else None
    if db is None or action is None:
        raise NotFound(f"Action for request_id {request_id[:64]} on instance {server.id} not found")
    document = _view(req, action)
    target = {"project_id": server.project_id, "user_id": server.user_id}
    full = req.allowed(_EVENTS, target)
    if full or req.version >= (2, 51):
        details = req.allowed(_DETAILS, target)
        document["events"] = [_event(req, server, e, full, details) for e in await actions.events(db, action.id)]
    return {"instanceAction": document}
