"""Flavors. Private ones exist only for admins and for the projects they were given to."""

from typing import Any

import msgspec

from kilonova.compute.api import queries, values
from kilonova.compute.api.server_views import links
from kilonova.compute.errors import FlavorNotFound
from kilonova.compute.model import Flavor
from kilonova.compute.service import ComputeService
from kilonova.compute.store import flavors
from kilonova.core.context import Context
from kilonova.core.db import Duplicate, Transaction
from kilonova.core.errors import BadRequest, Conflict
from kilonova.core.http import Reply, Request

Number = int | str
_ID = r"^(?! )[a-zA-Z0-9. _-]+(?<! )$"
_SORT = {
    "created_at": "created_at",
    "description": "description",
    "disabled": "disabled",
    "ephemeral_gb": "ephemeral_gb",
    "flavorid": "id",
    "id": "created_at",
    "is_public": "is_public",
    "memory_mb": "ram_mb",
    "name": "name",
    "root_gb": "root_gb",
    "rxtx_factor": "rxtx_factor",
    "swap": "swap_mb",
    "updated_at": "created_at",
    "vcpu_weight": "created_at",
    "vcpus": "vcpus",
}
_FILTERS = {
    "is_public": queries.anything,
    "minRam": queries.anything,
    "minDisk": queries.anything,
    "sort_dir": queries.one_of(("asc", "desc")),
}
_LAST_SORT = [key for key in sorted(_SORT) if key != "rxtx_factor"]
LIST: queries.Queries = [
    ((2, 1), queries.Query({**queries.PAGE, **_FILTERS, "sort_key": queries.one_of(sorted(_SORT))}, others=True)),
    ((2, 75), queries.Query({**queries.PAGE, **_FILTERS, "sort_key": queries.one_of(sorted(_SORT))})),
    ((2, 102), queries.Query({**queries.PAGE, **_FILTERS, "sort_key": queries.one_of(_LAST_SORT), "name": queries.anything})),
]


class Wanted(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    name: str
    ram: Number
    vcpus: Number
    disk: Number
    id: str | int | float | None = None
    ephemeral: Number = msgspec.field(default=0, name="OS-FLV-EXT-DATA:ephemeral")
    swap: Number = 0
    rxtx_factor: float | str = 1.0
    is_public: bool | str = msgspec.field(default=True, name="os-flavor-access:is_public")


class Wanted2_55(Wanted, kw_only=True, forbid_unknown_fields=True):
    description: str | None = None


class Wanted2_102(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    name: str
    ram: Number
    vcpus: Number
    disk: Number
    id: str | int | float | None = None
    ephemeral: Number = msgspec.field(default=0, name="OS-FLV-EXT-DATA:ephemeral")
    swap: Number = 0
    is_public: bool | str = msgspec.field(default=True, name="os-flavor-access:is_public")
    description: str | None = None


class Create(msgspec.Struct, forbid_unknown_fields=True):
    flavor: Wanted


class Create2_55(msgspec.Struct, forbid_unknown_fields=True):
    flavor: Wanted2_55


class Create2_102(msgspec.Struct, forbid_unknown_fields=True):
    flavor: Wanted2_102


class Description(msgspec.Struct, forbid_unknown_fields=True):
    description: str | None


class Update(msgspec.Struct, forbid_unknown_fields=True):
    flavor: Description


CREATE = [((2, 1), Create), ((2, 55), Create2_55), ((2, 102), Create2_102)]


async def find(c: ComputeService, ctx: Context, flavor_id: str) -> Flavor:
    """The flavor, when the caller may know of it. Raises FlavorNotFound."""
    flavor = await flavors.get(c.api_db, flavor_id)
    if flavor is None or not (flavor.is_public or ctx.is_admin or await flavors.may_use(c.api_db, flavor_id, ctx.project_id or "")):
        raise FlavorNotFound(flavor=flavor_id[:255])
    return flavor


def _shows_specs(req: Request) -> bool:
    mine = {"project_id": req.ctx.project_id, "user_id": req.ctx.user_id}
    return req.version >= (2, 61) and req.allowed("os_compute_api:os-flavor-extra-specs:index", mine)


def _bases(req: Request) -> tuple[str, str]:
    """What stands before an id in the links of a flavor; the same for all of a list."""
    own, bookmark = (link["href"] for link in links(req, "flavors", ""))
    return own, bookmark


def _links(bases: tuple[str, str], flavor_id: str) -> list[dict[str, str]]:
    return [{"rel": "self", "href": bases[0] + flavor_id}, {"rel": "bookmark", "href": bases[1] + flavor_id}]


def brief(req: Request, bases: tuple[str, str], flavor: Flavor) -> dict[str, Any]:
    document: dict[str, Any] = {"id": flavor.id, "name": flavor.name, "links": _links(bases, flavor.id)}
    if req.version >= (2, 55):
        document["description"] = flavor.description
    return document


def view(req: Request, flavor: Flavor, specs: bool, bases: tuple[str, str] | None = None) -> dict[str, Any]:
    """specs: whether the caller may see extra specs."""
    version = req.version
    document: dict[str, Any] = {
        "id": flavor.id,
        "name": flavor.name,
        "ram": flavor.ram_mb,
        "disk": flavor.root_gb,
        "swap": flavor.swap_mb or (0 if version >= (2, 75) else ""),
        "OS-FLV-EXT-DATA:ephemeral": flavor.ephemeral_gb,
        "OS-FLV-DISABLED:disabled": flavor.disabled,
        "vcpus": flavor.vcpus,
        "os-flavor-access:is_public": flavor.is_public,
        "rxtx_factor": flavor.rxtx_factor,
        "links": _links(bases or _bases(req), flavor.id),
    }
    if version >= (2, 102):
        del document["rxtx_factor"], document["OS-FLV-DISABLED:disabled"]
    if version >= (2, 55):
        document["description"] = flavor.description
    if specs:
        document["extra_specs"] = flavor.extra_specs
    return document


def _minimum(req: Request, name: str) -> int:
    text = req.one(name)
    if text is None:
        return 0
    if not text.isascii() or not text.isdigit() or len(text) > 18:
        raise BadRequest(f"Invalid {name} filter [{text[:50]}]")
    return int(text)


def _public(ctx: Context, req: Request) -> bool | None:
    """Which flavors a list shows: public ones, private ones, or (None) all."""
    text = req.one("is_public")
    if not ctx.is_admin or text is None:
        return True
    if text.lower() == "none":
        return None
    if text.lower() in ("t", "true", "on", "y", "yes", "1"):
        return True
    if text.lower() in ("f", "false", "off", "n", "no", "0"):
        return False
    raise BadRequest(f"Invalid is_public filter [{text[:50]}]")


async def _listed(c: ComputeService, ctx: Context, req: Request) -> list[Flavor]:
    public, ram_mb, root_gb = _public(ctx, req), _minimum(req, "minRam"), _minimum(req, "minDisk")
    mine = set(await flavors.given(c.api_db, ctx.project_id)) if public and ctx.project_id else set()
    found = [
        f
        for f in await flavors.every(c.api_db)
        if (public is None or f.is_public == public or f.id in mine)
        and f.ram_mb >= ram_mb
        and f.root_gb >= root_gb
        and (ctx.is_admin or not f.disabled)
    ]
    name = req.one("name") if req.version >= (2, 102) else None
    if name is not None:
        found = [f for f in found if name in f.name]
    field = _SORT[req.one("sort_key") or "flavorid"]
    if field != "id":
        # None comes first.
        found.sort(key=lambda f: ((value := getattr(f, field)) is not None, "" if value is None else value))
    if req.one("sort_dir") == "desc":
        found.reverse()
    return queries.page(req, found, _ident, c.settings["api"].max_limit)


def _ident(flavor: Flavor) -> str:
    return flavor.id


def _collection(c: ComputeService, req: Request, rows: list[Flavor], documents: list[dict[str, Any]]) -> dict[str, Any]:
    out: dict[str, Any] = {"flavors": documents}
    following = queries.next_link(req, rows, _ident, c.settings["api"].max_limit)
    if following:
        out["flavors_links"] = following
    return out


async def index(c: ComputeService, ctx: Context, req: Request) -> Any:
    rows, bases = await _listed(c, ctx, req), _bases(req)
    return _collection(c, req, rows, [brief(req, bases, f) for f in rows])


async def detail(c: ComputeService, ctx: Context, req: Request) -> Any:
    rows, specs, bases = await _listed(c, ctx, req), _shows_specs(req), _bases(req)
    return _collection(c, req, rows, [view(req, f, specs, bases) for f in rows])


async def show(c: ComputeService, ctx: Context, req: Request, flavor_id: str) -> Any:
    return {"flavor": view(req, await find(c, ctx, flavor_id), _shows_specs(req))}


def _wanted_id(c: ComputeService, wanted: str | float | None) -> str:
    if wanted is None or wanted == "auto":
        return c.runtime.uuid()
    text = str(wanted)
    problem = queries.matches(_ID)(text)
    if problem or not 1 <= len(text) <= 255:
        raise values.invalid("id", text, problem or "It has 1 to 255 characters")
    return text


def _factor(wanted: float | str) -> float:
    try:
        value = float(wanted)
    except ValueError:
        raise values.invalid("rxtx_factor", wanted, f"{wanted!r} does not match '^[0-9]+(\\.[0-9]+)?$'") from None
    if not 0 < value <= 3.40282e38:
        raise values.invalid("rxtx_factor", wanted, "It is greater than 0 and at most 3.40282e+38")
    return value


def _description(text: str | None) -> str | None:
    if text is not None and (len(text) > 65535 or not values.printable(text)):
        raise values.invalid("description", text[:50], "It has at most 65535 printable characters")
    return text


async def create(c: ComputeService, ctx: Context, req: Request, body: Create) -> Any:
    wanted = body.flavor
    if len(wanted.name) > 255:
        raise values.invalid("name", wanted.name[:50], "It has at most 255 characters")
    flavor = Flavor(
        id=_wanted_id(c, wanted.id),
        name=values.name("name", wanted.name),
        vcpus=values.integer("vcpus", wanted.vcpus, 1),
        ram_mb=values.integer("ram", wanted.ram, 1),
        root_gb=values.integer("disk", wanted.disk),
        ephemeral_gb=values.integer("OS-FLV-EXT-DATA:ephemeral", wanted.ephemeral),
        swap_mb=values.integer("swap", wanted.swap),
        rxtx_factor=_factor(getattr(wanted, "rxtx_factor", 1.0)),
        is_public=values.flag("os-flavor-access:is_public", wanted.is_public),
        description=_description(getattr(wanted, "description", None)),
        created_at=c.runtime.now_us(),
    )
    try:
        await c.api_db.transact(lambda tx: flavors.insert(tx, flavor))
    except Duplicate as duplicate:
        if "name" in duplicate.what:
            raise Conflict(f"Flavor with name {flavor.name} already exists.") from None
        raise Conflict(f"Flavor with ID {flavor.id} already exists.") from None
    return {"flavor": view(req, flavor, _shows_specs(req))}


async def update(c: ComputeService, ctx: Context, req: Request, flavor_id: str, body: Update) -> Any:
    flavor = await find(c, ctx, flavor_id)
    text = _description(body.flavor.description)
    if not await c.api_db.transact(lambda tx: flavors.describe(tx, flavor.id, text)):
        raise FlavorNotFound(flavor=flavor_id[:255])
    return {"flavor": view(req, msgspec.structs.replace(flavor, description=text), _shows_specs(req))}


async def delete(c: ComputeService, ctx: Context, req: Request, flavor_id: str) -> Reply:
    async def body(tx: Transaction) -> int:
        return await flavors.delete(tx, flavor_id)

    if not await c.api_db.transact(body):
        raise FlavorNotFound(flavor=flavor_id[:255])
    return Reply(b"", 202)
