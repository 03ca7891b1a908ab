"""The databases of compute, as nova-manage and nova-status find them: by a nova.conf, or in a state directory."""

import asyncio
from collections.abc import Callable, Coroutine
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, TypeVar

import click

from kilonova.cli.failure import Failure, plain

T = TypeVar("T")
F = TypeVar("F", bound=Callable[..., Any])
USUAL = "/etc/nova/nova.conf"


def place_options(function: F) -> F:
    """--config-file and --state, as `config_files` and `state`."""
    text = f"Configuration file with [api_database], [database] and transport_url. May be repeated.  [default: {USUAL}, if it is there]"
    function = click.option("--config-file", "--config", "config_files", multiple=True, metavar="FILE", help=text)(function)
    return click.option("--state", metavar="DIR", help="State directory of an embedded cloud that is not running, without such a file.")(
        function
    )


class Databases:
    """Opens what is asked for, and closes it at the end. `api`: the API database; `local`: URL of [database] connection.

    one: there is no [api_database], so that the api side and the cells share the database."""

    def __init__(self, conf: Any, api: str, local: str, one: bool, stack: AsyncExitStack) -> None:
        from kilonova.core import config
        from kilonova.core.db import config as db_config
        from kilonova.core.log import Log, Sink
        from kilonova.core.runtime import Runtime

        self.conf = conf
        self.api_connection = api
        self.local = local
        self.one = one
        self.transport_url = str(conf["transport_url"])
        self.runtime = Runtime()
        self._settings = config.settings(conf, db_config.DATABASE_OPTIONS, "database")
        self._log = Log("database", Sink(level="error"))
        self._stack = stack
        self._open: dict[str, Any] = {}

    def open(self, connection: str) -> Any:
        """An empty URL is that of the API database. Raises Failure."""
        from kilonova.core.config import ConfigError
        from kilonova.core.db.opening import open_database

        url = connection or self.api_connection
        if url not in self._open:
            try:
                self._open[url] = open_database(url, self.runtime, self._log, self._settings)
            except ConfigError as error:
                raise Failure(plain(str(error)).replace("[database] connection: ", "")) from None
            self._stack.push_async_callback(self._open[url].stop)
        return self._open[url]

    async def api(self) -> Any:
        """The API database, with its tables. Raises Failure."""
        from kilonova.compute.store import fitness
        from kilonova.compute.store.migrations.api import HISTORY
        from kilonova.core.db import schema
        from kilonova.core.db.url import masked

        db = self.open("")
        wrong = fitness.wrong_api(await self.look(""), masked(self.api_connection))
        if wrong:
            raise Failure(wrong)
        await schema.check(db, [HISTORY])
        return db

    async def look(self, connection: str) -> Any:
        from kilonova.compute.store import fitness
        from kilonova.core.db.url import masked

        try:
            return await fitness.look(self.open(connection))
        except Failure:
            raise
        except Exception as error:
            raise Failure(f"The database {masked(connection or self.api_connection)} cannot be used: {error}.".replace("..", ".")) from None

    async def cell(self, mapping: Any) -> Any:
        """A cell's database, with its tables, if it is the right one. Raises Failure."""
        from kilonova.compute.store import fitness
        from kilonova.core.db.url import masked

        connection = mapping.database_connection
        wrong = fitness.wrong_cell(await self.look(connection), mapping.uuid, mapping.title, masked(connection or self.api_connection))
        if wrong:
            raise Failure(wrong)
        return self.open(connection)


def run(work: Callable[[Databases], Coroutine[Any, Any, T]], config_files: tuple[str, ...], state: str | None, *, fresh: bool = False) -> T:
    """Errors become Failures. The state directory, if it is that, is locked meanwhile. fresh: it may be made."""
    from kilonova.cli.db import _failure, _state
    from kilonova.cli.settle import readable
    from kilonova.compute import config as compute_config
    from kilonova.core import config
    from kilonova.core.bus.config import OPTIONS as BUS_OPTIONS
    from kilonova.core.db.config import DATABASE_OPTIONS
    from kilonova.core.policy import POLICY_OPTIONS

    files = config_files or ((USUAL,) if state is None and Path(USUAL).is_file() else ())
    try:
        conf = config.build([compute_config.OPTIONS, DATABASE_OPTIONS, BUS_OPTIONS, POLICY_OPTIONS], readable(files))
    except config.ConfigError as error:
        raise Failure(plain(str(error)), "Correct the file.") from None
    local, api = str(conf["database"]["connection"]), str(conf["api_database"]["connection"])
    locked = None
    if not local and not api:
        locked = _state(state, fresh)
        local = f"sqlite:///{locked.database}"

    async def main() -> T:
        async with AsyncExitStack() as stack:
            return await work(Databases(conf, api or local, local, not api, stack))

    try:
        return asyncio.run(main())
    except Exception as error:
        raise _failure(error, "of compute") from error
    finally:
        if locked is not None:
            locked.unlock()
