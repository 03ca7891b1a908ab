"""How network meets HTTP: paths may end in .json, errors are NeutronErrors."""

from kilonova.core.edge import Authenticate, Edge
from kilonova.core.policy import Policy
from kilonova.network.envelope import NetworkEnvelope
from kilonova.network.policies import RULES
from kilonova.network.routes import ROUTES, mount
from kilonova.network.service import NetworkService


def edge(
    c: NetworkService, *, authenticate: Authenticate, policy: Policy | None = None, identity_url: str = "", public_url: str = ""
) -> Edge:
    return Edge(
        name="network",
        service=c,
        routes=ROUTES,
        envelope=NetworkEnvelope(),
        runtime=c.runtime,
        log=c.log,
        policy=policy or Policy(RULES),
        authenticate=authenticate,
        identity_url=identity_url,
        public_url=public_url,
        mount=mount,
    )
