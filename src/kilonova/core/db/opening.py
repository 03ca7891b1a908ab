"""A URL becomes a database. The drivers of PostgreSQL and MariaDB are imported when one is named, not before."""

from typing import Any

from kilonova.core.config import ConfigError
from kilonova.core.db.facade import Database
from kilonova.core.db.sqlite import SQLite
from kilonova.core.db.url import BadUrl, Url, parse
from kilonova.core.log import Log
from kilonova.core.runtime import Runtime

EXTRA = {"postgresql": "postgresql", "mariadb": "mysql"}


def open_database(connection: str, runtime: Runtime, log: Log, settings: Any = None, *, synchronous: str = "FULL") -> Database:
    """`settings` are those of [database] (core/db/config.py); None: the defaults. Nothing is connected before it is used.

    Raises ConfigError, which never quotes the URL."""
    try:
        url = parse(connection)
    except BadUrl as error:
        raise ConfigError(f"[database] connection: {error}.") from None
    if url.kind == "sqlite":
        return SQLite(url.database, runtime, synchronous=synchronous)
    from kilonova.core.db.pool import Limits
    from kilonova.core.db.server import Server

    limits = Limits() if settings is None else Limits(**{name: getattr(settings, name) for name in Limits.__struct_fields__})
    patience = (
        {} if settings is None else {name: getattr(settings, name) for name in ("connect_timeout", "statement_timeout", "lock_timeout")}
    )
    return Server(driver_of(url, patience), url, runtime, log, limits)


def driver_of(url: Url, patience: dict[str, float]) -> Any:
    """A pool.Driver, for a server that is no SQLite."""
    try:
        if url.kind == "postgresql":
            from kilonova.core.db.postgresql import PostgreSQL

            return PostgreSQL(url, **patience)
        from kilonova.core.db.mariadb import MariaDB

        return MariaDB(url, **patience)
    except ImportError as error:
        what = EXTRA[url.kind]
        raise ConfigError(
            f"[database] connection: the driver of {url.kind} is missing ({error.name}); pip install 'kilonova[{what}]'."
        ) from None
