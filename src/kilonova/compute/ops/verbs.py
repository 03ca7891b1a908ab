"""What the verbs on one running server share: claim and intent in one transaction, settle in another."""

from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from kilonova.compute import rpc
from kilonova.compute.cells import Cell
from kilonova.compute.domain import notices
from kilonova.compute.errors import Locked, NeverActive, ServerNotFound, Superseded, WrongState
from kilonova.compute.model import Action, Event, Fault, Server
from kilonova.compute.service import ComputeService
from kilonova.compute.states import SERVER
from kilonova.compute.store import actions, servers
from kilonova.core.context import Context
from kilonova.core.db import Transaction
from kilonova.core.errors import Error
from kilonova.core.operations import Operation


class VerbArgs(msgspec.Struct, frozen=True, kw_only=True):
    """action_id: the instance action that tells of this verb. generation: the server's, when the verb began. cell: where the server lives,
    and this operation with it; empty in intents of releases that knew one cell."""

    action_id: str
    generation: int
    hard: bool = False
    cell: str = ""


def cell_of(c: ComputeService, args: VerbArgs) -> Cell:
    return c.cells.get(args.cell) if args.cell else c.cells.first


def guard(ctx: Context, server: Server, verb: str, shown: str) -> None:
    """Raise Locked or WrongState when the table of states does not allow this now (the claim checks again)."""
    arrow = SERVER[verb]
    if arrow.locked and server.locked_by is not None and not ctx.is_admin:
        raise Locked(server=server.id)
    refused = arrow.refuses(server.state, server.task)
    if refused is not None:
        attribute, value = refused
        raise WrongState(verb=shown, server=server.id, attribute=attribute, value=value)


def new_action(c: ComputeService, ctx: Context, server_id: str, action: str) -> Action:
    now = c.runtime.now_us()
    return Action(
        id=c.runtime.uuid(),
        server_id=server_id,
        action=action,
        request_id=ctx.request_id,
        user_id=ctx.user_id,
        project_id=ctx.project_id,
        start_at=now,
        updated_at=now,
        message=None,
    )


async def begin(c: ComputeService, ctx: Context, server: Server, verb: str, *, action: str, hard: bool = False) -> None:
    """Claim the server for a verb and start it. Raises Locked, WrongState, NeverActive, ServerNotFound."""
    await start(c, await claim(c, ctx, server, verb, action=action, hard=hard))


async def start(c: ComputeService, op: Operation) -> None:
    """Run what `claim` has opened."""
    cell_of(c, op.arguments(VerbArgs)).ops.start(op)


async def claim(
    c: ComputeService,
    ctx: Context,
    server: Server,
    verb: str,
    *,
    action: str,
    changes: Mapping[str, Any] | None = None,
    arguments: Callable[..., VerbArgs] = VerbArgs,
    **more: Any,
) -> Operation:
    """The server is the verb's: task, changed columns, action and operation in one transaction. The caller starts the operation.

    more: what `arguments`, the verb's struct, holds beside action and generation."""
    guard(ctx, server, verb, action)
    if server.launched_at is None:
        raise NeverActive(verb=action)
    arrow = SERVER[verb]
    cell = await c.cells.of(server.id)
    if cell is None:
        raise ServerNotFound(server=server.id)

    async def body(tx: Transaction) -> Operation | None:
        now = c.runtime.now_us()
        if not await servers.begin(tx, server.id, sorted(arrow.sources), sorted(arrow.tasks, key=str), now, arrow.during):
            return None
        if changes:
            await servers.update(tx, server.id, now, **changes)
        claimed = await servers.get(tx, server.id)
        assert claimed is not None
        record = new_action(c, ctx, server.id, action)
        await actions.insert(tx, record)
        args = arguments(action_id=record.id, generation=claimed.generation, cell=cell.uuid, **more)
        return await cell.ops.open(tx, verb, server.id, ctx, args)

    op = await cell.db.transact(body)
    if op is None:
        now_is = await servers.get(cell.db, server.id)
        if now_is is None or now_is.deleted:
            raise ServerNotFound(server=server.id)
        guard(ctx, now_is, verb, action)
        raise WrongState(verb=action, server=server.id, attribute="task_state", value=now_is.task)
    notices.tell(c, ctx, msgspec.structs.replace(server, task=arrow.during, **(changes or {})), verb, "start")
    return op


def fence(op: Operation, args: VerbArgs, number: int = 1) -> rpc.Fence:
    """number: 1 for the first command of the verb to its host, and so on."""
    return rpc.Fence(operation=op.id, generation=args.generation, epoch=op.epoch, number=number)


async def server_of(c: ComputeService, op: Operation, args: VerbArgs) -> Server | None:
    """The server, unless it is gone."""
    server = await servers.get(cell_of(c, args).db, op.resource_id)
    return None if server is None or server.deleted else server


async def settle(
    c: ComputeService, op: Operation, args: VerbArgs, *, error: Error | None = None, host: str | None = None, **changes: Any
) -> None:
    """End a verb: the server's columns, the action with its event, and the operation, in one transaction. A later verb wins silently."""
    cell = cell_of(c, args)

    async def body(tx: Transaction) -> None:
        now = c.runtime.now_us()
        await servers.update_at(tx, op.resource_id, args.generation, now, task=None, **changes)
        await actions.end(tx, args.action_id, now, "Error" if error is not None else None)
        event = Event(
            id=c.runtime.uuid(),
            action_id=args.action_id,
            event=f"compute_{op.verb.partition('_')[0]}_instance",
            host=host,
            start_at=op.created_at,
            finish_at=now,
            result="Error" if error is not None else "Success",
            details=error.message if error is not None else None,
        )
        await actions.add_event(tx, event)
        await cell.ops.finish(tx, op)

    await cell.db.transact(body)
    await notices.settled(c, op.ctx, cell.db, op.resource_id, op.verb, error)


async def give_up(c: ComputeService, op: Operation, error: Error) -> None:
    """The verb has failed too often: nobody knows what the guest does, so the server is in ERROR."""
    args = op.arguments(VerbArgs)
    server = await server_of(c, op, args)
    host = server.host if server is not None else None
    await settle(c, op, args, error=error, host=host, state="error", fault=fault_of(c, error))


def fault_of(c: ComputeService, error: Error) -> Fault:
    """An error that has a `public` sentence tells the names of hosts in its own."""
    public: str | None = getattr(error, "public", None)
    return Fault(
        code=500,
        message=public or error.message,
        created=c.runtime.now_us(),
        details=error.advice.format_map({"server": "", **error.details}),
        with_hosts=error.message if public else "",
    )


async def superseded(cell: Cell, server_id: str, generation: int) -> None:
    """Raise Superseded when a later verb has begun on the server."""
    if await servers.generation(cell.db, server_id) != generation:
        raise Superseded(server=server_id)
