"""What stores may ask of a database, whichever it is."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Protocol, TypeVar

from kilonova.core.errors import BadRequest, Unavailable

T = TypeVar("T")
Parameters = Mapping[str, Any]
Row = tuple[Any, ...]
Statement = Any
"""A `Prepared`, or one of SQLAlchemy Core's."""
NONE: Parameters = {}


class Duplicate(Exception):
    """A unique constraint refused a row. `what` names the columns as the database tells them, e.g. ports.mac_address."""

    def __init__(self, what: str) -> None:
        super().__init__(what)
        self.what = what


class Lost(Unavailable):
    """The database cannot be reached, or refused a commit: nothing of the transaction is kept. Its text is for the log."""

    code = "core.database_lost"
    title = "The service is temporarily unavailable: its database does not answer. Try again later."

    def __str__(self) -> str:
        return str(self.details["reason"])


class OutcomeUnknown(Lost):
    """The connection broke during COMMIT: the transaction is kept as a whole or not at all, and nobody can say which."""

    code = "core.database_outcome_unknown"


class Unfit(BadRequest):
    """A text is too long for its column, a number too big, or a character is one that the database cannot hold (NUL)."""

    code = "core.unfit"
    title = "A value is too long, too big, or holds a character that cannot be stored."


class Unmatched(Exception):
    """A statement did not find as many rows as it must."""


class Reader(Protocol):
    """A transaction, or the database itself for committed reads."""

    async def all(self, statement: Statement, parameters: Parameters = NONE) -> list[Row]: ...

    async def one(self, statement: Statement, parameters: Parameters = NONE) -> Row | None: ...


class Transaction(Reader, Protocol):
    alone: bool
    """No other transaction runs beside this one, so nothing needs to be locked."""

    shares: bool
    """SELECT … FOR SHARE holds rows against whoever writes them. Not so where another node may write (Galera), where an UPDATE that changes
    nothing does it."""

    async def run(self, statement: Statement, parameters: Parameters = NONE) -> int:
        """Rows matched. Raises Duplicate."""
        ...

    async def many(self, statement: Statement, parameters: Sequence[Parameters]) -> None: ...

    joins: bool
    """`later` puts off."""

    async def later(
        self,
        statement: Statement,
        parameters: Parameters = NONE,
        *,
        rows: int | None = None,
        otherwise: Exception | None = None,
        name: str = "",
    ) -> None:
        """A write whose answer nobody waits for: done before the transaction's next other statement, or its commit, in one exchange with
        others of its kind that touch other tables. If nothing else locks or writes, that exchange is the transaction. The Duplicate
        comes there, too; and `otherwise` (Unmatched), if other than `rows` rows matched. Where `joins`, also a SELECT (… FOR SHARE) with
        `rows`; and `name`, by which others that are put off right after it may select what it returns."""
        ...


class Database(Reader, Protocol):
    dialect: Any

    async def transact(self, body: Callable[[Transaction], Awaitable[T]]) -> T:
        """Run `body` as one transaction; return its result when it is durable. `body` may be run again after a deadlock."""
        ...

    async def run(self, statement: Statement, parameters: Parameters = NONE) -> int:
        """A transaction of one statement; rows matched. Raises Duplicate."""
        ...

    async def create(self, metadata: Any) -> None:
        """Make the tables that are missing (a new database; an old one is migrated)."""
        ...

    def now_us(self) -> int:
        """The clock that leases are measured by."""
        ...

    def stamp(self) -> int | None:
        """While this stays the same, nothing was committed: what was read is still so. None where others may write, too."""
        ...

    async def stop(self) -> None: ...
