"""A cell's mapping becomes a database and a bus. Nothing is connected here; drivers are imported when a URL names them."""

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from kilonova.compute.cells import Opener, Parts
from kilonova.compute.store.cell_mappings import NO_BUS, CellMapping
from kilonova.core.bus.config import rabbit_options
from kilonova.core.config import Settings
from kilonova.core.db import Database
from kilonova.core.db.opening import open_database
from kilonova.core.log import Log
from kilonova.core.runtime import Runtime


def opener(
    *,
    runtime: Runtime,
    log: Log,
    api_db: Database,
    database: Settings,
    messaging: Mapping[str, Settings],
    node: str,
    admit: Callable[[str, str], bool] | None = None,
    judge: Callable[[str, str, Any], Awaitable[None] | None] | None = None,
) -> Opener:
    """api_db: for mappings that name no database. messaging: groups DEFAULT and oslo_messaging_rabbit, for the bus that the control plane
    itself is on, and for how to be on another. node: this machine's name on a broker. admit, judge: who may say what (RabbitBus)."""

    def open_cell(mapping: CellMapping) -> Parts:
        db = open_database(mapping.database_connection, runtime, log, database) if mapping.database_connection else api_db
        url = mapping.transport_url
        if url.startswith(NO_BUS) or url in ("", messaging["DEFAULT"].transport_url):
            return Parts(db, None)
        from kilonova.core.bus.rabbitmq import RabbitBus

        made = RabbitBus(rabbit_options(messaging, url), runtime, log, name=node, admit=admit, judge=judge)
        return Parts(db, made, lambda: made.start(0.0))

    return open_cell
