"""Cells: each a database of servers and hosts, with a bus to its hosts. docs/guide/cells.md has the operator's view.

The api side's `server_mappings` says where a server lives. That never changes once it is said, so it is remembered here. A cloud that
makes its cells itself has cell0 and cell1 in the database of the api side, and nothing in the tables tells the two apart: every list
is one statement over one table, as if there were no cells. The mapping alone says which of the two it is.

A read over all cells asks each *database* once (`faces`), side by side, and waits at most `timeout_s` for each: who does not answer is
named beside the answers of the others.
"""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Generic, TypeVar

import msgspec

from kilonova.compute.errors import CellSilent, CellsSilent
from kilonova.compute.model import Server
from kilonova.compute.store import cell_mappings, fitness, mappings, servers
from kilonova.compute.store.cell_mappings import CELL0, CELL1, CellMapping, own_mapping
from kilonova.core.bus import Bus
from kilonova.core.config import ConfigError
from kilonova.core.db import Database, Duplicate, Transaction
from kilonova.core.db.url import masked
from kilonova.core.errors import Error, Unavailable
from kilonova.core.log import Log
from kilonova.core.operations import Operations
from kilonova.core.runtime import Runtime
from kilonova.core.tasks import Tasks

T = TypeVar("T")
REMEMBERED = 50_000
REFRESH_S = 30.0
AWAY = "Its database does not answer."


class Parts(msgspec.Struct, frozen=True):
    """What a cell is made of. No bus: its hosts are on that of the control plane (cell0 has none). start: of a bus, to connect it."""

    db: Database
    bus: Bus | None
    start: Callable[[], Awaitable[None]] | None = None


Opener = Callable[[CellMapping], Parts]
"""Raises ConfigError when a mapping's URLs cannot be used. Connects to nothing."""


class Cell:
    """`why`: the reason that it cannot be used now; empty when it can. Asking it for its database raises CellSilent then."""

    def __init__(self, mapping: CellMapping, parts: Parts | None, ops: Operations | None, *, why: str = "", own: bool = False) -> None:
        self.mapping = mapping
        self.parts = parts
        self.why = why
        self.own = own
        """Made by the cloud itself, in the database of the api side."""
        self._ops = ops
        self.tasks: list[asyncio.Task[Any]] = []
        self.suspected = False
        self.started = False

    @property
    def uuid(self) -> str:
        return self.mapping.uuid

    @property
    def title(self) -> str:
        return self.mapping.title

    @property
    def bus(self) -> Bus | None:
        return self.parts.bus if self.parts is not None else None

    @property
    def db(self) -> Database:
        if self.why or self.parts is None:
            raise CellSilent(cell=self.uuid, why=self.why)
        return self.parts.db

    @property
    def ops(self) -> Operations:
        if self.why or self._ops is None:
            raise CellSilent(cell=self.uuid, why=self.why)
        return self._ops

    def is_on(self, db: Database) -> bool:
        return self.parts is not None and self.parts.db is db

    def valid(self, operation_id: str) -> bool:
        """Whether the operation runs here and its lease is known to hold."""
        return self._ops is not None and self._ops.valid(operation_id)


class Answers(msgspec.Struct, Generic[T], frozen=True):
    """Of each database that answered, by the cell that stands for it; and the cells whose database did not."""

    found: list[tuple[Cell, T]]
    silent: list[Cell]

    @property
    def all(self) -> list[T]:
        return [answer for _, answer in self.found]


class Cells:
    def __init__(
        self,
        api_db: Database,
        runtime: Runtime,
        log: Log,
        tasks: Tasks,
        *,
        cell_db: Database | None,
        open_cell: Opener | None,
        make_ops: Callable[[Database], Operations],
        timeout_s: float,
    ) -> None:
        """cell_db: makes cell0 and cell1 in it, by itself. open_cell: for every other cell that the api side has mapped."""
        self.api_db = api_db
        self.runtime = runtime
        self.log = log
        self.tasks = tasks
        self.timeout_s = timeout_s
        self._open_cell = open_cell
        self._make_ops = make_ops
        self._by_uuid: dict[str, Cell] = {}
        self._by_name: dict[str, Cell] = {}
        self._where: dict[str, Cell] = {}
        self._faces: list[Cell] = []
        self._own = cell_db
        if cell_db is not None:
            ops = make_ops(cell_db)
            for uuid, name in ((CELL0, "cell0"), (CELL1, "cell1")):
                self._by_uuid[uuid] = Cell(own_mapping(uuid, name, 0), Parts(cell_db, None), ops, own=True)
        self._sort()

    # ---- which there are

    def _sort(self) -> None:
        """One face for each database; a cell with hosts stands for cell0, too. Those that cannot be used stand for themselves."""
        faces: dict[int, Cell] = {}
        for cell in self._by_uuid.values():
            key = id(cell) if cell.why or cell.parts is None else id(cell.parts.db)
            if key not in faces or faces[key].uuid == CELL0:
                faces[key] = cell
        self._faces = list(faces.values())
        self._by_name = {cell.mapping.name: cell for cell in reversed(self._by_uuid.values()) if cell.mapping.name}
        self._where.clear()

    @property
    def faces(self) -> list[Cell]:
        return self._faces

    @property
    def only(self) -> Cell | None:
        """The cell that stands for all when they are in one database, and that is the api side's: no merging, no time limit."""
        return self._faces[0] if len(self._faces) == 1 and self._faces[0].is_on(self.api_db) else None

    @property
    def every(self) -> list[Cell]:
        return list(self._by_uuid.values())

    @property
    def cell0(self) -> Cell:
        found = self._by_uuid.get(CELL0)
        if found is None:
            raise CellSilent(cell=CELL0, why="There is no cell0; make it with `nova-manage cell_v2 map_cell0`.")
        return found

    @property
    def first(self) -> Cell:
        """The oldest cell that has hosts."""
        for cell in self._by_uuid.values():
            if cell.uuid != CELL0:
                return cell
        raise CellSilent(cell="", why="There is no cell; make one with `nova-manage cell_v2 create_cell`.")

    def get(self, key: str) -> Cell:
        """By UUID; by name for what was written before cells had UUIDs. Raises CellSilent."""
        found = self._by_uuid.get(key) or self._by_name.get(key)
        if found is None:
            raise CellSilent(cell=key, why="It is not mapped (yet).")
        return found

    def beside(self, cell: Cell) -> list[Cell]:
        """Every cell in the same database, this one among them."""
        return [other for other in self._by_uuid.values() if other is cell or (cell.parts is not None and other.is_on(cell.parts.db))]

    async def refresh(self, opened: Callable[[Cell], Awaitable[None]]) -> None:
        """Follow the mappings of the api side, and look at databases that could not be used before. `opened` is told of each cell that has
        come into use."""
        found = await cell_mappings.every(self.api_db)
        if self._own is not None and not {CELL0, CELL1} <= {m.uuid for m in found}:
            found = await self._introduce(self._own)
        changed = False
        for mapping in found:
            known = self._by_uuid.get(mapping.uuid)
            if known is not None and (known.own or _same_place(known.mapping, mapping)):
                changed = changed or known.mapping != mapping
                known.mapping = mapping
                continue
            if known is not None:
                await self._close(known)
            self._by_uuid[mapping.uuid] = self._made(mapping)
            changed = True
        there = {mapping.uuid for mapping in found}
        for uuid, cell in list(self._by_uuid.items()):
            if uuid not in there and not cell.own:
                await self._close(cell)
                del self._by_uuid[uuid]
                changed = True
        if changed:
            self._by_uuid = {m.uuid: self._by_uuid[m.uuid] for m in found}
            self._sort()
        waiting = [cell for cell in self._by_uuid.values() if cell.why and cell.parts is not None]
        if waiting:
            await self.tasks.gather("cells that could not be used", [self._look_again(cell, opened) for cell in waiting], len(waiting))

    async def _introduce(self, db: Database) -> list[CellMapping]:
        """A new cloud's own two cells, which another process may be making, too."""
        now = self.runtime.now_us()
        made = [own_mapping(uuid, name, now) for uuid, name in ((CELL0, "cell0"), (CELL1, "cell1"))]

        async def body(tx: Transaction) -> None:
            for mapping in made:
                try:
                    await cell_mappings.insert(tx, mapping)
                except Duplicate:
                    continue

        async def identity(tx: Transaction) -> None:
            for mapping in made:
                await cell_mappings.claim(tx, mapping.uuid, now)

        await self.api_db.transact(body)
        await db.transact(identity)
        return await cell_mappings.every(self.api_db)

    def _made(self, mapping: CellMapping) -> Cell:
        if self._open_cell is None:
            return Cell(mapping, None, None, why="This process has no way to open it.")
        try:
            parts = self._open_cell(mapping)
        except ConfigError as error:
            self.log.error("cell cannot be used", cell=mapping.title, reason=str(error))
            return Cell(mapping, None, None, why=str(error))
        return Cell(mapping, parts, self._operations(parts.db), why="It has not answered yet.")

    def _operations(self, db: Database) -> Operations:
        """One for each database, else its rows would have two owners here."""
        for cell in self._by_uuid.values():
            if cell._ops is not None and cell._ops.db is db:
                return cell._ops
        return self._make_ops(db)

    async def _look_again(self, cell: Cell, opened: Callable[[Cell], Awaitable[None]]) -> None:
        assert cell.parts is not None
        db, was = cell.parts.db, cell.why
        try:
            async with asyncio.timeout(self.timeout_s):
                why = fitness.wrong_cell(await fitness.look(db), cell.uuid, cell.title, masked(cell.mapping.database_connection))
                if not why:
                    await db.transact(lambda tx: cell_mappings.claim(tx, cell.uuid, self.runtime.now_us()))
        except Exception as error:
            why = AWAY
            self.log.warning("cell does not answer", cell=cell.title, error=error)
        if why:
            cell.why = why
            if why != was:
                self.log.error("cell cannot be used", cell=cell.title, reason=why)
            return
        cell.why = ""
        self._sort()
        if cell.parts.start is not None and not cell.started:
            cell.started = True
            await cell.parts.start()
        await opened(cell)

    async def _close(self, cell: Cell) -> None:
        for task in cell.tasks:
            task.cancel()
        if cell.own or cell.parts is None or any(other is not cell and other.is_on(cell.parts.db) for other in self._by_uuid.values()):
            return
        if not cell.is_on(self.api_db):
            await cell.parts.db.stop()
        if cell.parts.bus is not None:
            await cell.parts.bus.stop()

    async def stop(self) -> None:
        """Close what `open_cell` has opened."""
        for cell in list(self._by_uuid.values()):
            if not cell.own:
                await self._close(cell)
                del self._by_uuid[cell.uuid]

    # ---- where a server lives

    def remember(self, server_id: str, cell: Cell) -> None:
        if len(self._where) >= REMEMBERED:
            self._where.clear()
        self._where[server_id] = cell

    async def of(self, server_id: str) -> Cell | None:
        """The cell that a server has been placed in; None: in none yet, or there is no such server."""
        cell = self._where.get(server_id)
        if cell is None:
            mapping = await mappings.get(self.api_db, server_id)
            if mapping is None or not mapping.cell:
                return None
            cell = self.get(mapping.cell)
            self.remember(server_id, cell)
        return cell

    async def locate(self, server_id: str) -> tuple[Cell, Server] | None:
        """A server's row, deleted ones too, wherever it is; where several cells have one (ops/delete.py), one that is not deleted. Raises
        CellSilent when it may be in a cell that does not answer."""
        cell = self.only or await self.of(server_id)
        if cell is not None:
            server = await self.within(cell, lambda db: servers.get(db, server_id))
            return (cell, server) if server is not None else None
        answers = await self.gather("server", lambda cell: servers.get(cell.db, server_id))
        rows = sorted(((cell, row) for cell, row in answers.found if row is not None), key=lambda found: found[1].deleted)
        if answers.silent and (not rows or rows[0][1].deleted):
            raise CellSilent(cell=answers.silent[0].uuid, why=answers.silent[0].why)
        return rows[0] if rows else None

    # ---- reading

    async def within(self, cell: Cell, read: Callable[[Database], Coroutine[Any, Any, T]]) -> T:
        """Read in one cell. Raises CellSilent when it does not answer in time."""
        db = cell.db
        if db is self.api_db:
            return await read(db)
        try:
            async with asyncio.timeout(self.timeout_s):
                return await read(db)
        except Exception as error:
            self._told(cell, "server", error)
            raise CellSilent(cell=cell.uuid, why=AWAY) from None

    def _told(self, cell: Cell, what: str, error: Exception) -> None:
        """Whatever a database raises is its silence; what the reader says of the request is raised again."""
        if isinstance(error, Error) and not isinstance(error, Unavailable):
            raise error
        self.log.warning("cell does not answer", cell=cell.title, asked_for=what, error=error)
        self.suspect(cell)

    def suspect(self, cell: Cell) -> None:
        """Find out whether a cell answers at all."""
        if not cell.own and not cell.suspected and not cell.why:
            cell.suspected = True
            self.tasks.start(f"whether {cell.title} answers at all", self._probe(cell))

    async def _probe(self, cell: Cell) -> None:
        """A question may just have been a hard one. A cell that leaves an easy one unanswered, too, is asked no more until `refresh` has
        had an answer: else each request would wait for it anew."""
        try:
            async with asyncio.timeout(self.timeout_s):
                await cell_mappings.whose(cell.db)
        except Exception as error:
            if not cell.why:
                self.log.error("cell is left out until it answers", cell=cell.title, error=error)
                cell.why = AWAY
                self._sort()
        finally:
            cell.suspected = False

    async def gather(self, what: str, read: Callable[[Cell], Coroutine[Any, Any, T]]) -> Answers[T]:
        """Read in every database at the same time."""
        only = self.only
        if only is not None:
            return Answers([(only, await read(only))], [])

        async def one(cell: Cell) -> tuple[Cell, list[T]]:
            if cell.why:
                return cell, []
            try:
                async with asyncio.timeout(self.timeout_s):
                    return cell, [await read(cell)]
            except Exception as error:
                self._told(cell, what, error)
                return cell, []

        asked = self._faces
        answers: list[tuple[Cell, list[T]]] = await self.tasks.gather(what, [one(cell) for cell in asked], max(1, len(asked)))
        found = [(cell, answer[0]) for cell, answer in answers if answer]
        silent = [beside for cell, answer in answers if not answer for beside in self.beside(cell)]
        return Answers(found, silent)

    def complain(self, silent: list[Cell], *, skip: bool) -> None:
        """Raises CellsSilent when answers without these cells are not wanted."""
        if silent and not skip:
            raise CellsSilent(cell=silent[0].uuid)


def _same_place(known: CellMapping, mapping: CellMapping) -> bool:
    return (known.database_connection, known.transport_url) == (mapping.database_connection, mapping.transport_url)
