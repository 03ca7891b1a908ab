"""Answers that are kept until a table that they come from is written: for what nearly every request reads and hardly any changes.

Only where one process alone writes to the database, so SQLite's. A statement asks for it (`prepared(..., kept=True)`), and its rows
must then be values that nobody changes.
"""

from typing import Any

from kilonova.core.db.statements import Compiled

MOST = 4096
Key = tuple[Any, ...]


class Kept:
    """`at` of an answer is the number of the last commit before it was read."""

    __slots__ = ("_answers", "_wrote", "commits")

    def __init__(self) -> None:
        self.commits = 0
        self._wrote: dict[str, int] = {}
        """Table -> the last commit that wrote it; "" is any."""
        self._answers: dict[Key, tuple[int, Any]] = {}

    def committed(self, written: set[str]) -> None:
        self.commits += 1
        for table in sorted(written):
            self._wrote[table] = self.commits

    def find(self, compiled: Compiled, key: Key) -> tuple[int, Any] | None:
        found = self._answers.get(key)
        if found is None:
            return None
        at, wrote = found[0], self._wrote
        if wrote.get("", 0) > at:
            return None
        for table in compiled.reads or ():
            if wrote.get(table, 0) > at:
                return None
        return found

    def keep(self, key: Key, answer: Any) -> None:
        if len(self._answers) >= MOST:
            self._answers.clear()
        self._answers[key] = (self.commits, answer)
