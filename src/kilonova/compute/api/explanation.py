"""GET /kilonova/servers/{id}/explanation (our own): why a server is where it is, or nowhere. `kilonova explain` prints it.

Names of hosts, and what they have left, are for admins: others see each host by its hostId, and which filter refused it.
"""

from typing import Any

from kilonova.compute.api.server_views import host_id
from kilonova.compute.api.servers import find
from kilonova.compute.service import ComputeService
from kilonova.compute.store import actions
from kilonova.core import times
from kilonova.core.context import Context
from kilonova.core.http import Request


async def show(c: ComputeService, ctx: Context, req: Request, server_id: str) -> Any:
    server = await find(c, req, server_id)
    admin = req.ctx.is_admin
    timeline: list[dict[str, Any]] = []
    cell = await c.cells.of(server.id)
    for action in reversed(await actions.of(cell.db, server.id)) if cell is not None else ():
        timeline.append({"at": times.iso_us_z(action.start_at), "what": f"{action.action} asked for ({action.request_id})"})
        for event in reversed(await actions.events(cell.db, action.id)) if cell is not None else ():
            end = event.finish_at or event.start_at
            took = f" after {(end - event.start_at) / 1e6:.3f} s"
            where = f" on {event.host}" if event.host and admin else ""
            details = event.details if admin else None
            timeline.append({"at": times.iso_us_z(end), "what": f"{event.event}{where}: {event.result}{took}", "details": details})
    s = server.scheduling

    def shown(host: str | None) -> str | None:
        return host if admin or host is None else host_id(server.project_id, host)

    fault = server.fault
    return {
        "server": {"id": server.id, "name": server.name, "state": server.state, "task": server.task, "host": shown(server.host)},
        "fault": None if fault is None else (admin and fault.with_hosts) or fault.message,
        "chosen": shown(s.chosen),
        "considered": s.considered,
        "summary": s.summary if admin else "",
        "hosts": [{"host": shown(host), "filter": name, "reason": reason if admin else ""} for host, (name, reason) in s.rejected.items()],
        "timeline": timeline,
    }
