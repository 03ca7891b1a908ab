"""Key pairs of users. An admin may act for another user from 2.10 on; from 2.92 on keys are only imported."""

import re
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from kilonova.compute.api import queries, values
from kilonova.compute.domain import keypairs as domain
from kilonova.compute.errors import KeypairNotFound
from kilonova.compute.model import Keypair
from kilonova.compute.service import ComputeService
from kilonova.compute.store import keypairs, mappings
from kilonova.core import times
from kilonova.core.context import Context
from kilonova.core.db import Duplicate, Transaction
from kilonova.core.errors import BadRequest, Conflict, Forbidden
from kilonova.core.http import Reply, Request

Name = Annotated[str, Meta(min_length=1, max_length=255)]
_OF = {"user_id": queries.anything}
LIST = queries.growing(((2, 1), {}), ((2, 10), _OF), ((2, 35), queries.PAGE), strict=(2, 75))
ITEM = queries.growing(((2, 1), {}), ((2, 10), _OF), strict=(2, 75))


class Wanted(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    name: Name
    public_key: str | None = None


class Wanted2_2(Wanted, kw_only=True, forbid_unknown_fields=True):
    type: Literal["ssh", "x509"] = "ssh"


class Wanted2_10(Wanted2_2, kw_only=True, forbid_unknown_fields=True):
    user_id: str | None = None


class Wanted2_92(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    name: Name
    public_key: str
    type: Literal["ssh", "x509"] = "ssh"
    user_id: str | None = None


class Create(msgspec.Struct, forbid_unknown_fields=True):
    keypair: Wanted


class Create2_2(msgspec.Struct, forbid_unknown_fields=True):
    keypair: Wanted2_2


class Create2_10(msgspec.Struct, forbid_unknown_fields=True):
    keypair: Wanted2_10


class Create2_92(msgspec.Struct, forbid_unknown_fields=True):
    keypair: Wanted2_92


CREATE = [((2, 1), Create), ((2, 2), Create2_2), ((2, 10), Create2_10), ((2, 92), Create2_92)]
_SAFE = re.compile(r"^[_\- a-zA-Z0-9]+$")
_SAFE_2_92 = re.compile(r"^[_\-@. a-zA-Z0-9]+$")


def _of(ctx: Context, req: Request) -> str:
    """Whose key pairs are meant; policy decides whether the caller may."""
    user_id = (req.one("user_id") if req.version >= (2, 10) else None) or ctx.user_id or ""
    req.authorize(req.route.policy, {"user_id": user_id})
    return user_id


def _view(req: Request, keypair: Keypair) -> dict[str, Any]:
    document: dict[str, Any] = {"name": keypair.name, "public_key": keypair.public_key, "fingerprint": keypair.fingerprint}
    if req.version >= (2, 2):
        document["type"] = keypair.type
    return document


def _key(keypair: Keypair) -> str:
    return keypair.name


async def index(c: ComputeService, ctx: Context, req: Request) -> Any:
    rows = await keypairs.of(c.api_db, _of(ctx, req))
    if req.version < (2, 35):
        return {"keypairs": [{"keypair": _view(req, k)} for k in rows]}
    most = c.settings["api"].max_limit
    rows = queries.page(req, rows, _key, most)
    out: dict[str, Any] = {"keypairs": [{"keypair": _view(req, k)} for k in rows]}
    following = queries.next_link(req, rows, _key, most) if req.one("limit") is not None else []
    if following:
        out["keypairs_links"] = following
    return out


async def show(c: ComputeService, ctx: Context, req: Request, keypair_name: str) -> Any:
    user_id = _of(ctx, req)
    keypair = await keypairs.get(c.api_db, user_id, keypair_name)
    if keypair is None:
        raise KeypairNotFound(name=keypair_name[:255], user=user_id)
    more = {
        "user_id": keypair.user_id,
        "created_at": times.iso_us(keypair.created_at),
        "deleted": False,
        "deleted_at": None,
        "id": keypair.number,
        "updated_at": None,
    }
    return {"keypair": {**_view(req, keypair), **more}}


async def delete(c: ComputeService, ctx: Context, req: Request, keypair_name: str) -> Reply:
    user_id = _of(ctx, req)
    if not await c.api_db.transact(lambda tx: keypairs.delete(tx, user_id, keypair_name)):
        raise KeypairNotFound(name=keypair_name[:255], user=user_id)
    return Reply(None, 204) if req.version >= (2, 2) else Reply(b"", 202)


def _name(req: Request, name: str) -> str:
    values.name("name", name)
    if not (_SAFE if req.version < (2, 92) else _SAFE_2_92).match(name):
        allowed = "letters, digits, blanks and _-" + ("@." if req.version >= (2, 92) else "")
        raise values.invalid("name", name, f"Keypair name contains unsafe characters; it may hold {allowed}")
    return name


async def _material(c: ComputeService, wanted: Any, kind: str, user_id: str) -> domain.Generated:
    """A new pair, or the given public key with its fingerprint."""
    if wanted.public_key is None:
        if kind == "x509":
            return await c.runtime.blocking(domain.generate_x509, user_id, c.runtime.now(), pool="keys")
        return await c.runtime.blocking(domain.generate_ssh, pool="keys")
    try:
        return domain.Generated(private_key="", public_key=wanted.public_key, fingerprint=domain.fingerprint(kind, wanted.public_key))
    except domain.BadPublicKey:
        raise BadRequest("Keypair data is invalid: failed to generate fingerprint") from None


async def create(c: ComputeService, ctx: Context, req: Request, body: Any) -> Reply:
    wanted = body.keypair
    user_id = getattr(wanted, "user_id", None) or ctx.user_id or ""
    req.authorize(req.route.policy, {"user_id": user_id})
    name, kind = _name(req, wanted.name), getattr(wanted, "type", "ssh")
    if await keypairs.get(c.api_db, user_id, name) is not None:
        raise Conflict(f"Key pair '{name}' already exists.")
    limit = (await c.quota_limits(ctx.project_id or ""))["key_pairs"]
    if 0 <= limit <= await keypairs.count(c.api_db, user_id):
        raise Forbidden("Quota exceeded, too many key pairs.")
    made = await _material(c, wanted, kind, user_id)

    async def write(tx: Transaction) -> Keypair:
        if 0 <= limit <= await keypairs.count(tx, user_id):
            raise Forbidden("Quota exceeded, too many key pairs.")
        keypair = Keypair(
            user_id=user_id,
            name=name,
            number=await mappings.numbers(tx, "keypair", 1),
            type=kind,
            public_key=made.public_key,
            fingerprint=made.fingerprint,
            created_at=c.runtime.now_us(),
        )
        await keypairs.insert(tx, keypair)
        return keypair

    try:
        keypair = await c.api_db.transact(write)
    except Duplicate:
        raise Conflict(f"Key pair '{name}' already exists.") from None
    document = {**_view(req, keypair), "user_id": user_id}
    if made.private_key:
        document["private_key"] = made.private_key
    return Reply({"keypair": document}, 201 if req.version >= (2, 2) else 200)
