"""Discovery, and which microversions we speak. Adding one is a line here after every change up to it is in (docs/howto/api_action.md)."""

from typing import Any

from kilonova.compute.service import ComputeService
from kilonova.core.context import Context
from kilonova.core.http import Reply, Request
from kilonova.core.microversions import Microversions, show

MINIMUM, MAXIMUM = (2, 1), (2, 100)
MICROVERSIONS = Microversions("compute", MINIMUM, MAXIMUM, "X-OpenStack-Nova-API-Version")


def _v21(req: Request) -> dict[str, Any]:
    return {
        "id": "v2.1",
        "status": "CURRENT",
        "version": show(MAXIMUM),
        "min_version": show(MINIMUM),
        "updated": "2013-07-23T11:33:21Z",
        "links": [{"rel": "self", "href": f"{req.base_url}/v2.1/"}],
    }


async def list(c: ComputeService, ctx: Context, req: Request) -> Any:
    old = {
        "id": "v2.0",
        "status": "DEPRECATED",
        "version": "",
        "min_version": "",
        "updated": "2011-01-21T11:33:21Z",
        "links": [{"rel": "self", "href": f"{req.base_url}/v2/"}],
    }
    return {"versions": [old, _v21(req)]}


async def show_version(c: ComputeService, ctx: Context, req: Request) -> Reply:
    document = _v21(req)
    document["links"].append({"rel": "describedby", "type": "text/html", "href": "http://docs.openstack.org/"})
    document["media-types"] = [{"base": "application/json", "type": "application/vnd.openstack.compute+json;version=2.1"}]
    return Reply({"version": document})
