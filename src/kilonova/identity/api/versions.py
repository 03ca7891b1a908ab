"""Discovery: GET / and GET /v3, without a token."""

from typing import Any

from kilonova.core.context import Context
from kilonova.core.http import Reply, Request
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


async def show(c: IdentityService, ctx: Context, req: Request) -> Reply:
    return Reply({"version": _v3(req)}, 200)
