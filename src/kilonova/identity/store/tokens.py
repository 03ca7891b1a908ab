"""Fernet keys and revoked audit ids."""

import sqlalchemy as sa

from kilonova.core.db import Duplicate, Reader, Transaction
from kilonova.core.db.statements import inserted, prepared
from kilonova.identity.store.tables import revoked_tokens, token_keys

_KEYS = prepared(sa.select(token_keys).order_by(token_keys.c.id.desc()))
_ADD_KEY = inserted(token_keys)
_DROP_KEYS = prepared(sa.delete(token_keys).where(token_keys.c.id < sa.bindparam("oldest")))
_REVOKE = inserted(revoked_tokens)
_REVOKED = prepared(
    sa.select(revoked_tokens.c.audit_id)
    .where(revoked_tokens.c.audit_id.in_(sa.bindparam("ids", expanding=True)))
    .order_by(revoked_tokens.c.audit_id)
)
_PRUNE = prepared(sa.delete(revoked_tokens).where(revoked_tokens.c.expires_at < sa.bindparam("now")))


async def keys(reader: Reader) -> list[tuple[int, str, int]]:
    """(number, key, created_at), the primary first."""
    return [(row[0], row[1], row[2]) for row in await reader.all(_KEYS)]


async def add_key(tx: Transaction, number: int, key: str, now: int, keep: int) -> None:
    """Add a primary and drop all but the newest `keep`. Raises Duplicate when another process rotated first."""
    await tx.run(_ADD_KEY, {"id": number, "key": key, "created_at": now})
    await tx.run(_DROP_KEYS, {"oldest": number - keep + 1})


async def revoke(tx: Transaction, audit_id: str, expires_at: int) -> None:
    try:
        await tx.run(_REVOKE, {"audit_id": audit_id, "expires_at": expires_at})
    except Duplicate:
        return


async def any_revoked(reader: Reader, audit_ids: tuple[str, ...]) -> bool:
    return bool(await reader.all(_REVOKED, {"ids": list(audit_ids)}))


async def prune(tx: Transaction, now: int) -> None:
    await tx.run(_PRUNE, {"now": now})
