"""How compute meets HTTP: its prefixes (/v2.1, /v2, /v1.1, with or without the project), versions, headers and envelope."""

import re

from kilonova.compute.api import queries
from kilonova.compute.api.versions import MICROVERSIONS
from kilonova.compute.envelope import ComputeEnvelope
from kilonova.compute.policies import RULES
from kilonova.compute.routes import ROUTES
from kilonova.compute.service import ComputeService
from kilonova.core.edge import Authenticate, Edge
from kilonova.core.errors import BadRequest
from kilonova.core.http import Request
from kilonova.core.policy import Policy

_PREFIX = re.compile(r"^(/v2\.1|/v2|/v1\.1)(?:/([0-9a-fA-F\-]{32,36}))?(/.*)?$")
_DOCUMENTS = {"/v2": "/v2", "/v1.1": "/v2", "/v2.1": "/v2.1"}


def mount(path: str) -> tuple[str, str] | None:
    """/v2.1/servers and /v2.1/<project>/servers are /servers; /, /v2 and /v2.1 are the version documents."""
    if path == "/":
        return "", "/"
    found = _PREFIX.match(path)
    if found is None:
        return None
    version, project, rest = found.groups()
    if not rest or rest == "/":
        return version, _DOCUMENTS[version] if project is None else "/unknown"
    return version + (f"/{project}" if project else ""), rest


def own_project(request: Request) -> None:
    """A project in the URL is the token's project."""
    found = _PREFIX.match(request.prefix)
    if found is not None and found[2] is not None and request.ctx.project_id is not None:
        if found[2].replace("-", "") != request.ctx.project_id.replace("-", ""):
            raise BadRequest(
                f"Malformed request URL: URL's project_id '{found[2]}' doesn't match Context's project_id '{request.ctx.project_id}'"
            )


def check(request: Request) -> None:
    own_project(request)
    queries.check(request)


def edge(
    c: ComputeService, *, authenticate: Authenticate, policy: Policy | None = None, identity_url: str = "", public_url: str = ""
) -> Edge:
    return Edge(
        name="compute",
        service=c,
        routes=ROUTES,
        envelope=ComputeEnvelope(),
        runtime=c.runtime,
        log=c.log,
        policy=policy or Policy(RULES),
        authenticate=authenticate,
        versions=MICROVERSIONS,
        identity_url=identity_url,
        public_url=public_url,
        mount=mount,
        id_headers=("x-openstack-request-id", "x-compute-request-id"),
        check=check,
    )
