"""Metadata and tags of a server: what clients change piece by piece, on the cell side.

A change is made from a reading; the write asks that the server still has the revision that was read, so no change is lost.
"""

from typing import Any

import sqlalchemy as sa

from kilonova.compute.store.cell_tables import servers as t
from kilonova.core.db import Transaction
from kilonova.core.db.statements import Prepared, prepared


def _write(column: str) -> Prepared:
    return prepared(
        sa.update(t)
        .where(t.c.id == sa.bindparam("key"), t.c.revision == sa.bindparam("was"), t.c.deleted == sa.false())
        .values({column: sa.bindparam("to_value", type_=t.c[column].type), "revision": t.c.revision + 1, "updated_at": sa.bindparam("now")})
    )


_WRITES = {"metadata": _write("metadata"), "tags": _write("tags")}


async def put(tx: Transaction, column: str, server_id: str, revision: int, value: Any, now: int) -> int:
    """column: "metadata" or "tags". 0: the server has changed since it was read, or it is gone."""
    return await tx.run(_WRITES[column], {"key": server_id, "was": revision, "to_value": value, "now": now})
