"""The history of identity's tables: one module a revision. docs/internals/database.md says how to add one."""

from kilonova.core.db.schema import History
from kilonova.identity.store.tables import metadata

HISTORY = History(service="identity", metadata=metadata, package=__name__, head=1, compatible_back_to=1)
