"""Notifications about servers: which verb is told as what, and when. Nothing is gathered while nobody listens."""

from kilonova.compute.domain.notice_payloads import server_payload
from kilonova.compute.model import Server
from kilonova.compute.service import ComputeService
from kilonova.compute.store import servers
from kilonova.core.context import Context
from kilonova.core.db import Database
from kilonova.core.errors import Error

EVENTS = {
    "create": "create", "delete": "delete", "start": "power_on", "stop": "power_off", "reboot_soft": "reboot", "reboot_hard": "reboot",
    "rebuild": "rebuild",
}  # fmt: skip
FAILING = ("create", "reboot", "rebuild")
"""The others have no `error` notification: their end just does not come."""
API = "nova-api"


def tell(c: ComputeService, ctx: Context, server: Server, verb: str, phase: str, error: Error | None = None) -> None:
    """instance.<event>.<start, end or error>, of a server as it is now."""
    event = EVENTS.get(verb)
    if event is None or not c.notifier.wanted or (error is not None and event not in FAILING):
        return
    publisher = f"nova-compute:{server.host}" if server.host else f"{API}:kilonova"
    payload = server_payload(ctx, server, event, error)
    c.notifier.emit(ctx, f"instance.{event}.{phase}", publisher, payload, error=error is not None)


async def settled(c: ComputeService, ctx: Context, cell: Database, server_id: str, verb: str, error: Error | None = None) -> None:
    """A verb has ended: tell of the server as its row is. Costs nothing when nobody listens."""
    if c.notifier.wanted and verb in EVENTS:
        server = await servers.get(cell, server_id)
        if server is not None:
            tell(c, ctx, server, verb, "end" if error is None else "error", error)
