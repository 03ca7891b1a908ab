"""Discovery, and which microversions we speak. Adding one is a line here after every change up to it is in (docs/howto/api_action.md)."""

from typing import Any

from kilonova.compute.service import ComputeService
from kilonova.core.context import Context
from kilonova.core.http import Reply, Request, Version
from kilonova.core.microversions import Microversions, VersionNotFound, parse, show


class ComputeVersions(Microversions, frozen=True):
    """The refusal of a version names that version in its headers."""

    def negotiate(self, request: Request) -> Version:
        try:
            return super().negotiate(request)
        except VersionNotFound as error:
            request.version = parse(error.details["version"])
            raise


MINIMUM, MAXIMUM = (2, 1), (2, 100)
MICROVERSIONS = ComputeVersions("compute", MINIMUM, MAXIMUM, "X-OpenStack-Nova-API-Version")


def _v21(req: Request) -> dict[str, Any]:
    return {
        "id": "v2.1",
        "status": "CURRENT",
        "version": show(MAXIMUM),
        "min_version": show(MINIMUM),
        "updated": "2013-07-23T11:33:21Z",
        "links": [{"rel": "self", "href": f"{req.base_url}/v2.1/"}],
    }


def _v20(req: Request) -> dict[str, Any]:
    return {
        "id": "v2.0",
        "status": "DEPRECATED",
        "version": "",
        "min_version": "",
        "updated": "2011-01-21T11:33:21Z",
        "links": [{"rel": "self", "href": f"{req.base_url}/v2/"}],
    }


def _alone(document: dict[str, Any], media: str) -> Reply:
    document["links"].append({"rel": "describedby", "type": "text/html", "href": "http://docs.openstack.org/"})
    document["media-types"] = [{"base": "application/json", "type": f"application/vnd.openstack.compute+json;version={media}"}]
    return Reply({"version": document})


async def list(c: ComputeService, ctx: Context, req: Request) -> Any:
    return {"versions": [_v20(req), _v21(req)]}


async def show_version(c: ComputeService, ctx: Context, req: Request) -> Reply:
    return _alone(_v21(req), "2.1")


async def show_old_version(c: ComputeService, ctx: Context, req: Request) -> Reply:
    return _alone(_v20(req), "2")
