"""Discovery: GET / and GET /v3, without a token."""

from collections.abc import Awaitable, Callable, Iterable
from typing import Any

import msgspec

from kilonova.core.context import Context
from kilonova.core.http import Reply, Request
from kilonova.identity.api import json_home
from kilonova.identity.service import IdentityService

UPDATED = "2020-04-07T00:00:00Z"


def _v3(req: Request) -> dict[str, Any]:
    return {
        "id": "v3.14",
        "status": "stable",
        "updated": UPDATED,
        "links": [{"rel": "self", "href": f"{req.base_url}/v3/"}],
        "media-types": [{"base": "application/json", "type": "application/vnd.openstack.identity-v3+json"}],
    }


async def list(c: IdentityService, ctx: Context, req: Request) -> Reply:
    return Reply({"versions": {"values": [_v3(req)]}}, 300, {"location": f"{req.base_url}/v3/"})


def shower(paths: Iterable[str]) -> Callable[[IdentityService, Context, Request], Awaitable[Reply]]:
    """The handler of GET /v3 of a service that has these paths."""
    home = msgspec.json.encode(json_home.document(paths))

    async def show(c: IdentityService, ctx: Context, req: Request) -> Reply:
        if json_home.CONTENT_TYPE in (req.header("accept") or ""):
            return Reply(home, 200, content_type=json_home.CONTENT_TYPE)
        return Reply({"version": _v3(req)}, 200)

    return show
