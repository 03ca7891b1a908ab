"""The root: which versions there are. It needs no token."""

import re
from typing import Any

from kilonova.core.context import Context
from kilonova.core.errors import BadRequest
from kilonova.core.http import Request, Version
from kilonova.core.microversions import Microversions, VersionNotFound, show
from kilonova.placement.service import PlacementService

_NUMBERS = re.compile(r"placement +(\d+\.\d+)", re.IGNORECASE)


class PlacementVersions(Microversions, frozen=True):
    """Any two numbers are a version for Placement, so 0.9 is out of range (406) and not malformed."""

    def negotiate(self, request: Request) -> Version:
        try:
            return super().negotiate(request)
        except BadRequest:
            form = _NUMBERS.search(request.header("openstack-api-version") or "")
            if form is None:
                raise
            raise VersionNotFound(version=form[1], minimum=show(self.minimum), maximum=show(self.maximum)) from None


VERSIONS = PlacementVersions("placement", (1, 0), (1, 39))


async def list(c: PlacementService, ctx: Context, req: Request) -> Any:
    version = {
        "id": "v1.0",
        "min_version": show(VERSIONS.minimum),
        "max_version": show(VERSIONS.maximum),
        "status": "CURRENT",
        "links": [{"rel": "self", "href": req.prefix}],
    }
    return {"versions": [version]}
