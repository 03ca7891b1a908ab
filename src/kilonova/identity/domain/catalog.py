"""The catalog: services and endpoints, with the scope's ids put into their URLs."""

import re
from typing import Any

from kilonova.core.db import Reader
from kilonova.identity.store.rows import endpoints, services

_SUBSTITUTE = re.compile(r"[$%]\((tenant_id|project_id|user_id)\)s")
_OTHER = re.compile(r"[$%]\([^)]*\)s")


def fillable(url: str) -> bool:
    """Whether every placeholder of an endpoint's URL is one that may be put in. Secrets and settings never are."""
    return not _OTHER.search(_SUBSTITUTE.sub("", url))


async def listing(reader: Reader) -> list[dict[str, Any]]:
    """Services with their enabled endpoints, URLs not yet filled in."""
    by_service: dict[str, list[dict[str, Any]]] = {}
    for e in await endpoints.every(reader, enabled=True):
        entry = {"id": e.id, "interface": e.interface, "region_id": e.region_id, "region": e.region_id, "url": e.url}
        by_service.setdefault(e.service_id, []).append(entry)
    return [
        {"id": s.id, "type": s.type, "name": s.name, "endpoints": by_service.get(s.id, [])}
        for s in await services.every(reader, enabled=True)
    ]


def fill(catalog: list[dict[str, Any]], project_id: str | None, user_id: str | None) -> list[dict[str, Any]]:
    """For one token. An endpoint that needs a project is left out without one; unknown placeholders are left out always."""
    values = {"tenant_id": project_id, "project_id": project_id, "user_id": user_id}

    def url(text: str) -> str | None:
        if not _OTHER.search(text):
            return text
        for found in _SUBSTITUTE.finditer(text):
            if values[found[1]] is None:
                return None
        filled = _SUBSTITUTE.sub(lambda m: str(values[m[1]]), text)
        return None if _OTHER.search(filled) else filled

    out = []
    for service in catalog:
        found = [{**e, "url": u} for e in service["endpoints"] if (u := url(e["url"])) is not None]
        if found:
            out.append({**service, "endpoints": found})
    return out
