"""The history of compute's cell tables: one module a revision. docs/internals/database.md says how to add one."""

from kilonova.compute.store.cell_tables import metadata
from kilonova.core.db.schema import History

HISTORY = History(service="compute_cell", metadata=metadata, package=__name__, head=2, compatible_back_to=1)
