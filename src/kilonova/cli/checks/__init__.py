"""What `kilonova doctor` looks at: one function for each check, listed in the order they are made.

A check gets a Subject and yields findings; it neither raises nor changes anything. What can be put right without asking carries a
`fix`, which --fix calls. A check that needs what another found missing (the APIs of a cloud that does not run) yields nothing.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import msgspec

from kilonova.cli.state import StateDir

SEVERITIES = ("error", "warning", "note")


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    check: str
    severity: str
    sentence: str
    hint: str = ""
    fix: Callable[[], None] | None = None
    """Puts it right. May raise OSError or Failure."""


class Subject(msgspec.Struct, frozen=True, kw_only=True):
    """What is looked at. `state` None: this machine only."""

    state: StateDir | None
    running: bool
    urls: Mapping[str, str]
    """URL by service that should answer."""
    rest: Any = None
    """The APIs as administrator (cli.rest.Rest); None when nobody could log in."""


Check = Callable[[Subject], Iterator[Finding]]
