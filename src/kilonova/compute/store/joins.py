"""The cloud's certificate authority, join tokens, and the hosts that have joined: the api side. A token's secret is kept as its digest."""

from typing import Any

import msgspec
import sqlalchemy as sa

from kilonova.compute.store.api_tables import join_authority, join_tokens, joined_hosts
from kilonova.core.db import Reader, Transaction
from kilonova.core.db.statements import inserted, prepared

CLOUD = "cloud"


class Token(msgspec.Struct, frozen=True, kw_only=True):
    digest: str
    host: str
    expires_at: int
    used_at: int | None
    used_by: str
    created_at: int


class JoinedHost(msgspec.Struct, frozen=True, kw_only=True):
    host: str
    my_ip: str
    certificate_sha256: str
    previous_sha256: str = ""
    certificate_until: int
    joined_at: int
    left_at: int | None = None


_a, _t, _h = join_authority.c, join_tokens.c, joined_hosts.c
_bind = sa.bindparam
_TOKEN_FIELDS, _HOST_FIELDS = Token.__struct_fields__, JoinedHost.__struct_fields__
_AUTHORITY = prepared(sa.select(_a.certificate, _a.private_key).where(_a.name == CLOUD))
_INSERT_AUTHORITY = inserted(join_authority)
_INSERT_TOKEN = inserted(join_tokens)
_TOKEN = prepared(sa.select(*(_t[name] for name in _TOKEN_FIELDS)).where(_t.digest == _bind("digest")))
_USE = prepared(
    sa.update(join_tokens)
    .where(_t.digest == _bind("which"), _t.used_at.is_(None), _t.expires_at > _bind("now"), _t.host.in_(("", _bind("for_host"))))
    .values(used_at=_bind("used_at"), used_by=_bind("used_by"))
)
_GIVE_BACK = prepared(
    sa.update(join_tokens).where(_t.digest == _bind("which"), _t.used_by == _bind("by")).values(used_at=sa.null(), used_by=sa.literal(""))
)
_SWEEP = prepared(sa.delete(join_tokens).where(_t.expires_at < _bind("before")))
_INSERT_HOST = inserted(joined_hosts)
_HOST = prepared(sa.select(*(_h[name] for name in _HOST_FIELDS)).where(_h.host == _bind("host")))
_DELETE_HOST = prepared(sa.delete(joined_hosts).where(_h.host == _bind("which_host"), _h.certificate_sha256 == _bind("sha256")))
_HOSTS = prepared(sa.select(*(_h[name] for name in _HOST_FIELDS)).order_by(_h.host))


async def authority(reader: Reader) -> tuple[str, str] | None:
    """(certificate, key)"""
    row = await reader.one(_AUTHORITY)
    return (row[0], row[1]) if row else None


async def insert_authority(tx: Transaction, certificate: str, private_key: str, now: int) -> None:
    """Raises Duplicate: another process was quicker."""
    await tx.run(_INSERT_AUTHORITY, {"name": CLOUD, "certificate": certificate, "private_key": private_key, "created_at": now})


async def insert_token(tx: Transaction, token: Token) -> None:
    await tx.run(_SWEEP, {"before": token.created_at - 7 * 86_400_000_000})
    await tx.run(_INSERT_TOKEN, msgspec.structs.asdict(token))


async def token(reader: Reader, digest: str) -> Token | None:
    row = await reader.one(_TOKEN, {"digest": digest})
    return Token(**dict(zip(_TOKEN_FIELDS, row, strict=True))) if row else None


async def use(tx: Transaction, digest: str, host: str, now: int) -> bool:
    """Whether the token was good for this host, and unused: from now on it is used."""
    values = {"which": digest, "now": now, "for_host": host, "used_at": now, "used_by": host}
    return await tx.run(_USE, values) == 1


async def give_back(tx: Transaction, digest: str, host: str) -> None:
    """The join came to nothing."""
    await tx.run(_GIVE_BACK, {"which": digest, "by": host})


async def host(reader: Reader, name: str) -> JoinedHost | None:
    row = await reader.one(_HOST, {"host": name})
    return JoinedHost(**dict(zip(_HOST_FIELDS, row, strict=True))) if row else None


async def hosts(reader: Reader) -> list[JoinedHost]:
    return [JoinedHost(**dict(zip(_HOST_FIELDS, row, strict=True))) for row in await reader.all(_HOSTS)]


async def put_host(tx: Transaction, joined: JoinedHost) -> None:
    """Joined, for the first time or again."""
    if not await _change(tx, joined.host, sa.true(), **_without_name(joined)):
        await tx.run(_INSERT_HOST, msgspec.structs.asdict(joined))


async def insert_host(tx: Transaction, joined: JoinedHost) -> None:
    """Raises Duplicate."""
    await tx.run(_INSERT_HOST, msgspec.structs.asdict(joined))


async def restore(tx: Transaction, joined: JoinedHost, before: JoinedHost | None) -> None:
    """It did not join after all. Nothing is changed for a host that was shut out, or joined again, in the meantime."""
    if before is not None:
        ours = sa.and_(_h.certificate_sha256 == joined.certificate_sha256, _h.left_at.is_(None))
        await _change(tx, joined.host, ours, **_without_name(before))
    else:
        await tx.run(_DELETE_HOST, {"which_host": joined.host, "sha256": joined.certificate_sha256})


async def renewed(tx: Transaction, name: str, shown_sha256: str, certificate_sha256: str, until: int) -> bool:
    """shown: the certificate that was shown, which must be the last one given out, or the one before. False: it is another's, or the host
    has left, or never joined."""
    known = sa.and_(_h.left_at.is_(None), sa.or_(_h.certificate_sha256 == shown_sha256, _h.previous_sha256 == shown_sha256))
    values = {"certificate_sha256": certificate_sha256, "previous_sha256": shown_sha256, "certificate_until": until}
    return await _change(tx, name, known, **values)


async def left(tx: Transaction, name: str, now: int) -> bool:
    """False: there is no such host."""
    return await _change(tx, name, sa.true(), left_at=now)


def _without_name(joined: JoinedHost) -> dict[str, Any]:
    return {name: value for name, value in msgspec.structs.asdict(joined).items() if name != "host"}


async def _change(tx: Transaction, name: str, condition: "sa.ColumnElement[bool]", **values: Any) -> bool:
    return await tx.run(sa.update(joined_hosts).where(_h.host == name, condition).values(**values)) == 1
