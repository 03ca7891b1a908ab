"""Actions lock and unlock: a locked server refuses its users' verbs, not an admin's."""

from typing import Annotated, Any

import msgspec
from msgspec import Meta

from kilonova.compute.api.servers import find
from kilonova.compute.errors import NoHost
from kilonova.compute.model import Server
from kilonova.compute.ops.verbs import new_action
from kilonova.compute.service import ComputeService
from kilonova.compute.store import actions, servers
from kilonova.core.context import Context
from kilonova.core.db import Transaction
from kilonova.core.http import Reply, Request


class Reason(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    locked_reason: Annotated[str, Meta(min_length=1, max_length=255)] | None = None


class Lock(msgspec.Struct, forbid_unknown_fields=True):
    lock: Any


class Lock2_73(msgspec.Struct, forbid_unknown_fields=True):
    lock: Reason | None


class Unlock(msgspec.Struct, forbid_unknown_fields=True):
    unlock: Any


LOCK = [((2, 1), Lock), ((2, 73), Lock2_73)]


async def _write(c: ComputeService, ctx: Context, server: Server, action: str, locked_by: str | None, reason: str | None) -> None:
    async def body(tx: Transaction) -> int:
        now = c.runtime.now_us()
        changed = await servers.update(tx, server.id, now, locked_by=locked_by, locked_reason=reason)
        if changed:
            await actions.insert(tx, new_action(c, ctx, server.id, action))
        return changed

    cell = await c.cells.of(server.id)
    if cell is None or not await cell.db.transact(body):
        # Its row is made when a host has been found.
        raise NoHost(server=server.id)


async def lock(c: ComputeService, ctx: Context, req: Request, server_id: str, body: Any) -> Reply:
    server = await find(c, req, server_id)
    reason = body.lock.locked_reason if isinstance(body.lock, Reason) else None
    await _write(c, ctx, server, "lock", "owner" if ctx.project_id == server.project_id else "admin", reason)
    return Reply(b"", 202)


async def unlock(c: ComputeService, ctx: Context, req: Request, server_id: str, body: Unlock) -> Reply:
    """What somebody of another project has locked, only who may override unlocks."""
    server = await find(c, req, server_id)
    if server.locked_by == "admin":
        target = {"project_id": server.project_id, "user_id": server.user_id}
        req.authorize("os_compute_api:os-lock-server:unlock:unlock_override", target)
    await _write(c, ctx, server, "unlock", None, None)
    return Reply(b"", 202)
