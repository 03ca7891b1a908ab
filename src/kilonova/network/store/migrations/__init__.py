"""The history of network's tables: one module a revision. docs/internals/database.md says how to add one."""

from kilonova.core.db.schema import History
from kilonova.network.store.tables import metadata

HISTORY = History(service="network", metadata=metadata, package=__name__, head=3, compatible_back_to=1)
