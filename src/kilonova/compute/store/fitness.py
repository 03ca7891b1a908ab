"""Whether a database is the one it is taken for: swapped, empty and foreign ones get one sentence that says so."""

import msgspec

from kilonova.compute.store import api_tables, cell_mappings, cell_tables
from kilonova.core.db import Database
from kilonova.core.db.schema import table_names

API = api_tables.server_mappings.name
CELL = cell_tables.hosts.name
IDENTITY = cell_tables.identity.name
FOREIGN_SHOWN = 3
OURS = "alembic_version_"
"""Begins a table of each service of ours; other programs have `alembic_version` itself."""


class Look(msgspec.Struct, frozen=True, kw_only=True):
    """What a database holds. `cells`: UUIDs of those whose servers are in it. `foreign`: some of its tables, when none is of compute."""

    api: bool
    cell: bool
    cells: tuple[str, ...] = ()
    foreign: tuple[str, ...] = ()

    @property
    def empty(self) -> bool:
        return not (self.api or self.cell or self.foreign)


async def look(db: Database) -> Look:
    names = set(await table_names(db))
    api, cell = API in names, CELL in names
    cells = tuple(await cell_mappings.whose(db)) if IDENTITY in names else ()
    ours = api or cell or any(name.startswith(OURS) for name in names)
    return Look(api=api, cell=cell, cells=cells, foreign=() if ours else tuple(sorted(names)[:FOREIGN_SHOWN]))


def wrong_api(found: Look, where: str) -> str:
    """What is wrong with it as the API database; empty: nothing. `where`: its URL without password."""
    if found.api:
        return ""
    if found.cell:
        return (
            f"The API database {where} is a cell's: [api_database] connection and [database] connection are swapped, "
            "or [api_database] names a cell."
        )
    if found.foreign:
        return f"The API database {where} is another program's: it holds {', '.join(found.foreign)} and nothing of compute's."
    return f"The API database {where} is empty; make its tables with `nova-manage api_db sync`."


def wrong_cell(found: Look, uuid: str, title: str, where: str) -> str:
    """What is wrong with it as the database of a cell; empty: nothing."""
    name = f"The database of {title}, {where},"
    if found.cell:
        others = [other for other in found.cells if other != uuid]
        if uuid in found.cells or not others:
            return ""
        return f"{name} holds the servers of cell {others[0]}: two cell mappings are swapped, or they name one database."
    if found.api:
        return f"{name} is the API database: the connections of the API database and of the cell are swapped."
    if found.foreign:
        return f"{name} is another program's: it holds {', '.join(found.foreign)} and nothing of compute's."
    return f"{name} is empty; make its tables with `nova-manage db sync`."
