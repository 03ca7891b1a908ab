"""The history of compute's api tables: one module a revision. docs/internals/database.md says how to add one."""

from kilonova.compute.store.api_tables import metadata
from kilonova.core.db.schema import History

HISTORY = History(service="compute_api", metadata=metadata, package=__name__, head=3, compatible_back_to=1)
