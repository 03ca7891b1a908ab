"""How placement meets HTTP: one microversion header, and checks of content types before anything else."""

from kilonova.core.edge import Authenticate, Edge
from kilonova.core.policy import Policy
from kilonova.placement.api.versions import VERSIONS
from kilonova.placement.envelope import PlacementEnvelope
from kilonova.placement.policies import RULES
from kilonova.placement.routes import ROUTES, check, mount
from kilonova.placement.service import PlacementService


def edge(
    c: PlacementService, *, authenticate: Authenticate, policy: Policy | None = None, identity_url: str = "", public_url: str = ""
) -> Edge:
    return Edge(
        name="placement",
        service=c,
        routes=ROUTES,
        envelope=PlacementEnvelope(),
        runtime=c.runtime,
        log=c.log,
        policy=policy or Policy(RULES),
        authenticate=authenticate,
        versions=VERSIONS,
        identity_url=identity_url,
        public_url=public_url,
        mount=mount,
        check=check,
    )
