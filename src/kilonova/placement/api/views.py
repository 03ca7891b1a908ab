"""Placement's documents as clients see them at a version."""

from collections.abc import Sequence
from typing import Any

from kilonova.core.http import Request, Version
from kilonova.core.times import http_date
from kilonova.placement.contract import Inventory
from kilonova.placement.model import Provider, Stock

_LINKS = (
    ("self", "", (1, 0)),
    ("inventories", "/inventories", (1, 0)),
    ("usages", "/usages", (1, 0)),
    ("aggregates", "/aggregates", (1, 1)),
    ("traits", "/traits", (1, 6)),
    ("allocations", "/allocations", (1, 11)),
)


def dated(req: Request, last_modified: int) -> None:
    """From 1.15 on every answer with a body says when it last changed (microseconds) and that it must not be cached."""
    if req.version >= (1, 15):
        req.response_headers["last-modified"] = http_date(last_modified)
        req.response_headers["cache-control"] = "no-cache"


def links_of(version: Version) -> list[tuple[str, str]]:
    return [(rel, tail) for rel, tail, since in _LINKS if version >= since]


def provider(req: Request, p: Provider) -> dict[str, Any]:
    return providers(req, [p])[0]


def providers(req: Request, some: Sequence[Provider]) -> list[dict[str, Any]]:
    base, links, nested = req.prefix + "/resource_providers/", links_of(req.version), req.version >= (1, 14)
    out = []
    for p in some:
        href = base + p.id
        document: dict[str, Any] = {
            "uuid": p.id,
            "name": p.name,
            "generation": p.generation,
            "links": [{"rel": rel, "href": href + tail} for rel, tail in links],
        }
        if nested:
            document["parent_provider_uuid"] = p.parent_id
            document["root_provider_uuid"] = p.root_id
        out.append(document)
    return out


def inventory(i: Inventory | Stock) -> dict[str, Any]:
    return {
        "total": i.total,
        "reserved": i.reserved,
        "min_unit": i.min_unit,
        "max_unit": i.max_unit,
        "step_size": i.step_size,
        "allocation_ratio": i.allocation_ratio,
    }


def resource_class(req: Request, name: str) -> dict[str, Any]:
    return {"name": name, "links": [{"rel": "self", "href": f"{req.prefix}/resource_classes/{name}"}]}
