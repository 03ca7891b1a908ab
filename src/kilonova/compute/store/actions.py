"""Instance actions and their events, on the cell side."""

import msgspec
import sqlalchemy as sa

from kilonova.compute.model import Action, Event
from kilonova.compute.store.cell_tables import actions as a
from kilonova.compute.store.cell_tables import events as e
from kilonova.core.db import Reader, Transaction
from kilonova.core.db.statements import inserted, prepared

_INSERT = inserted(a)
_INSERT_EVENT = inserted(e)
_OF = prepared(sa.select(a).where(a.c.server_id == sa.bindparam("server_id")).order_by(a.c.start_at.desc(), a.c.id.desc()))
_BY_REQUEST = prepared(
    sa.select(a)
    .where(a.c.server_id == sa.bindparam("server_id"), a.c.request_id == sa.bindparam("request_id"))
    .order_by(a.c.start_at.desc(), a.c.id.desc())
)
_EVENTS = prepared(sa.select(e).where(e.c.action_id == sa.bindparam("action_id")).order_by(e.c.start_at.desc(), e.c.id.desc()))
_END = prepared(sa.update(a).where(a.c.id == sa.bindparam("key")).values(updated_at=sa.bindparam("now"), message=sa.bindparam("text")))


async def insert(tx: Transaction, action: Action) -> None:
    await tx.later(_INSERT, msgspec.structs.asdict(action))


async def add_event(tx: Transaction, event: Event) -> None:
    await tx.later(_INSERT_EVENT, msgspec.structs.asdict(event))


async def end(tx: Transaction, action_id: str, now: int, message: str | None) -> None:
    """message: None when it went well, else e.g. "Error"."""
    await tx.later(_END, {"key": action_id, "now": now, "text": message})


async def of(reader: Reader, server_id: str) -> list[Action]:
    """Newest first."""
    return [Action(**dict(zip(Action.__struct_fields__, row, strict=True))) for row in await reader.all(_OF, {"server_id": server_id})]


async def by_request(reader: Reader, server_id: str, request_id: str) -> Action | None:
    row = await reader.one(_BY_REQUEST, {"server_id": server_id, "request_id": request_id})
    return Action(**dict(zip(Action.__struct_fields__, row, strict=True))) if row else None


async def events(reader: Reader, action_id: str) -> list[Event]:
    return [Event(**dict(zip(Event.__struct_fields__, row, strict=True))) for row in await reader.all(_EVENTS, {"action_id": action_id})]
