"""GET /kilonova/servers/{id}/explanation (our own): why a server is where it is, or nowhere. `kilonova explain` prints it."""

from typing import Any

from kilonova.compute.api.servers import find
from kilonova.compute.service import ComputeService
from kilonova.compute.store import actions
from kilonova.core import times
from kilonova.core.context import Context
from kilonova.core.http import Request


async def show(c: ComputeService, ctx: Context, req: Request, server_id: str) -> Any:
    server = await find(c, req, server_id)
    timeline: list[dict[str, Any]] = []
    for action in reversed(await actions.of(c.cell_db, server.id)):
        timeline.append({"at": times.iso_us_z(action.start_at), "what": f"{action.action} asked for ({action.request_id})"})
        for event in reversed(await actions.events(c.cell_db, action.id)):
            end = event.finish_at or event.start_at
            took = f" after {(end - event.start_at) / 1e6:.3f} s"
            where = f" on {event.host}" if event.host else ""
            timeline.append({"at": times.iso_us_z(end), "what": f"{event.event}{where}: {event.result}{took}", "details": event.details})
    s = server.scheduling
    return {
        "server": {"id": server.id, "name": server.name, "state": server.state, "task": server.task, "host": server.host},
        "fault": None if server.fault is None else server.fault.message,
        "chosen": s.chosen,
        "considered": s.considered,
        "summary": s.summary,
        "hosts": [{"host": host, "filter": name, "reason": reason} for host, (name, reason) in s.rejected.items()],
        "timeline": timeline,
    }
