"""/os-simple-tenant-usage: hours and sizes of the servers that a project ran in a period."""

from typing import Any

from kilonova.compute.api import queries
from kilonova.compute.service import ComputeService
from kilonova.compute.store import tallies
from kilonova.compute.store.tallies import Used
from kilonova.core import times
from kilonova.core.context import Context
from kilonova.core.errors import BadRequest
from kilonova.core.http import Request

_PERIOD = {"start": queries.anything, "end": queries.anything}
LIST = queries.growing(((2, 1), {**_PERIOD, "detailed": queries.anything}), ((2, 40), queries.PAGE), strict=(2, 75))
SHOW = queries.growing(((2, 1), _PERIOD), ((2, 40), queries.PAGE), strict=(2, 75))
HOUR_US = 3_600_000_000


def _time(text: str | None, now: int) -> int:
    if not text:
        return now
    try:
        return times.parse(text)
    except (ValueError, OverflowError):
        raise BadRequest("Datetime is in invalid format") from None


def _period(c: ComputeService, req: Request) -> tuple[int, int]:
    """Both ends are now when they are not given."""
    now = c.runtime.now_us()
    start, end = _time(req.one("start"), now), _time(req.one("end"), max(now, c.runtime.now_us()))
    if start > end:
        raise BadRequest("Invalid start time. The start time cannot occur after the end time.")
    return start, end


def _hours(s: Used, start: int, end: int) -> float:
    return max(0, min(end, s.terminated_at or end) - max(start, s.launched_at)) / HOUR_US


def _server(s: Used, start: int, end: int) -> dict[str, Any]:
    ended = s.terminated_at
    return {
        "instance_id": s.id,
        "name": s.name,
        "hours": _hours(s, start, end),
        "memory_mb": s.flavor.ram_mb,
        "local_gb": s.flavor.root_gb + s.flavor.ephemeral_gb,
        "vcpus": s.flavor.vcpus,
        "tenant_id": s.project_id,
        "flavor": s.flavor.name,
        "started_at": times.iso_us(s.launched_at),
        "ended_at": None if ended is None else times.iso_us(ended),
        "state": "terminated" if ended is not None or s.deleted else s.state,
        "uptime": max(0, (ended if ended is not None else end) - s.launched_at) // 1_000_000,
    }


def _usage(project_id: str, found: list[Used], start: int, end: int, now: int, detailed: bool) -> dict[str, Any]:
    """What has been used until now; the period may end later."""
    until = max(start, min(end, now))
    weighted = [(_hours(s, start, until), s.flavor) for s in found]
    out: dict[str, Any] = {
        "tenant_id": project_id,
        "total_local_gb_usage": sum(h * (f.root_gb + f.ephemeral_gb) for h, f in weighted),
        "total_vcpus_usage": sum(h * f.vcpus for h, f in weighted),
        "total_memory_mb_usage": sum(h * f.ram_mb for h, f in weighted),
        "total_hours": sum(h for h, _ in weighted),
        "start": times.iso_us(start),
        "stop": times.iso_us(end),
    }
    if detailed:
        out["server_usages"] = [_server(s, start, until) for s in found]
    return out


async def _used(c: ComputeService, start: int, end: int, project_id: str | None = None) -> list[Used]:
    """Of every cell that answers, in the order of one: by project, then by launch."""
    answers = await c.cells.gather("usage", lambda cell: tallies.used(cell.db, start, end, project_id))
    if len(answers.found) == 1:
        return answers.all[0]
    return sorted((s for found in answers.all for s in found), key=lambda s: (s.project_id, s.launched_at, s.id))


def _key(s: Used) -> str:
    return s.id


def _paged(c: ComputeService, req: Request, found: list[Used]) -> tuple[list[Used], list[dict[str, str]]]:
    """Pages are of servers, whatever is shown of them."""
    if req.version < (2, 40):
        return found, []
    most = c.settings["api"].max_limit
    rows = queries.page(req, found, _key, most)
    return rows, queries.next_link(req, rows, _key, most)


async def index(c: ComputeService, ctx: Context, req: Request) -> Any:
    start, end = _period(c, req)
    rows, following = _paged(c, req, await _used(c, start, end + 1))
    projects: dict[str, list[Used]] = {}
    for s in rows:
        projects.setdefault(s.project_id, []).append(s)
    detailed, now = req.one("detailed") == "1", c.runtime.now_us()
    out: dict[str, Any] = {"tenant_usages": [_usage(p, found, start, end, now, detailed) for p, found in projects.items()]}
    return {**out, "tenant_usages_links": following} if following else out


async def show(c: ComputeService, ctx: Context, req: Request, project_id: str) -> Any:
    req.authorize(req.route.policy, {"project_id": project_id})
    start, end = _period(c, req)
    rows, following = _paged(c, req, await _used(c, start, end + 1, project_id))
    out: dict[str, Any] = {"tenant_usage": _usage(project_id, rows, start, end, c.runtime.now_us(), True) if rows else {}}
    return {**out, "tenant_usage_links": following} if following else out
