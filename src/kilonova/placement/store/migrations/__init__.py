"""The history of placement's tables: one module a revision. docs/internals/database.md says how to add one."""

from kilonova.core.db.schema import History
from kilonova.placement.store.tables import metadata

HISTORY = History(service="placement", metadata=metadata, package=__name__, head=2, compatible_back_to=1)
