"""Keystone's documents: what a noun looks like on the wire, collections, filters and paging."""

import urllib.parse
from collections.abc import Callable, Sequence
from typing import Any

from kilonova.core import times
from kilonova.core.http import Request
from kilonova.identity.model import Endpoint, Group, Project, Region, Role, Service, User

NO = ("false", "0", "n", "no", "off")
"""How a query says no. Anything else, also nothing (`?enabled`), is a yes."""


def link(req: Request, *path: str) -> dict[str, str]:
    return {"self": "/".join((f"{req.base_url}/v3", *path))}


def project(req: Request, p: Project) -> dict[str, Any]:
    """A project, or a domain when it is one and asked for as such (`domain`)."""
    return {
        **p.extra,
        "id": p.id,
        "name": p.name,
        "domain_id": None if p.is_domain else p.domain_id,
        "description": p.description,
        "enabled": p.enabled,
        "parent_id": p.parent_id,
        "is_domain": p.is_domain,
        "tags": list(p.tags),
        "options": p.options,
        "links": link(req, "projects", p.id),
    }


def domain(req: Request, p: Project) -> dict[str, Any]:
    return {
        **p.extra,
        "id": p.id,
        "name": p.name,
        "description": p.description,
        "enabled": p.enabled,
        "tags": list(p.tags),
        "options": p.options,
        "links": link(req, "domains", p.id),
    }


def user(req: Request, u: User) -> dict[str, Any]:
    return {
        **u.extra,
        "id": u.id,
        "name": u.name,
        "domain_id": u.domain_id,
        "enabled": u.enabled,
        **({"default_project_id": u.default_project_id} if u.default_project_id is not None else {}),
        "password_expires_at": times.iso_us(u.password_expires_at) if u.password_expires_at else None,
        "options": u.options,
        "links": link(req, "users", u.id),
    }


def group(req: Request, g: Group) -> dict[str, Any]:
    return {
        **g.extra,
        "id": g.id,
        "name": g.name,
        "domain_id": g.domain_id,
        "description": g.description,
        "links": link(req, "groups", g.id),
    }


def role(req: Request, r: Role) -> dict[str, Any]:
    return {
        **r.extra,
        "id": r.id,
        "name": r.name,
        "domain_id": r.domain_id,
        "description": r.description,
        "options": r.options,
        "links": link(req, "roles", r.id),
    }


def service(req: Request, s: Service) -> dict[str, Any]:
    return {
        **s.extra,
        **({"description": s.description} if s.description is not None else {}),
        "id": s.id,
        "name": s.name,
        "type": s.type,
        "enabled": s.enabled,
        "links": link(req, "services", s.id),
    }


def endpoint(req: Request, e: Endpoint) -> dict[str, Any]:
    return {
        **e.extra,
        "id": e.id,
        "interface": e.interface,
        "region_id": e.region_id,
        "region": e.region_id,
        "service_id": e.service_id,
        "url": e.url,
        "enabled": e.enabled,
        "links": link(req, "endpoints", e.id),
    }


def region(req: Request, r: Region) -> dict[str, Any]:
    return {
        **r.extra,
        "id": r.id,
        "description": r.description,
        "parent_region_id": r.parent_region_id,
        "links": link(req, "regions", urllib.parse.quote(r.id, safe="")),
    }


def changed(document: dict[str, Any], extra: dict[str, Any]) -> dict[str, Any]:
    """What an update of a user, project, domain or group answers: the attributes that identity does not know stand twice."""
    return {**document, "extra": extra} if extra else document


_COMPARE: dict[str, Callable[[str, str], bool]] = {
    "contains": lambda have, want: want in have,
    "startswith": lambda have, want: have.startswith(want),
    "endswith": lambda have, want: have.endswith(want),
}


def _text(value: Any) -> str:
    return ("true" if value else "false") if isinstance(value, bool) else str(value)


def named(req: Request) -> dict[str, str]:
    """The exact name that a list is asked for, as columns to select by: most lists are asked for one."""
    name = req.one("name")
    return {} if name is None else {"name": name}


def filtered(req: Request, documents: Sequence[dict[str, Any]], names: Sequence[str]) -> list[dict[str, Any]]:
    """Exact filters on `names` and their inexact forms (name__contains, name__istartswith, …). Unknown parameters are ignored."""
    out = list(documents)
    for key, wanted in req.query:
        name, _, how = key.partition("__")
        if name not in names:
            continue
        if not how:
            if name in ("enabled", "is_domain"):
                wanted = "false" if wanted.lower() in NO else "true"
            out = [d for d in out if _text(d.get(name)) == wanted]
        else:
            fold = how.startswith("i")
            compare = _COMPARE.get(how[1:] if fold else how)
            if compare is not None:
                want = wanted.lower() if fold else wanted
                out = [d for d in out if compare(_text(d.get(name)).lower() if fold else _text(d.get(name)), want)]
    return out


def collection(req: Request, key: str, documents: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """{key: [...], links}. `limit` and `marker` page through it; a limit that makes no sense is ignored, as Keystone does."""
    rows = list(documents)
    marker, limit = req.one("marker"), req.one("limit")
    if marker is not None:
        at = next((i for i, d in enumerate(rows) if d.get("id") == marker), None)
        rows = rows[at + 1 :] if at is not None else []
    following, truncated = None, {}
    if limit is not None and limit.isascii() and limit.isdigit() and len(limit) < 10 and int(limit) > 0 and len(rows) > int(limit):
        rows = rows[: int(limit)]
        truncated = {"truncated": True}
        rest = urllib.parse.urlencode([(k, v) for k, v in req.query if k not in ("marker", "limit")])
        following = f"{req.base_url}{req.path}?limit={limit}&marker={rows[-1]['id']}" + (f"&{rest}" if rest else "")
    query = "?" + req.raw_query.decode("latin-1") if req.raw_query else ""
    return {key: rows, "links": {"next": following, "self": f"{req.base_url}{req.path}{query}", "previous": None}, **truncated}
