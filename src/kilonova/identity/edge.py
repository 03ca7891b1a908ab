"""How identity meets HTTP."""

from kilonova.core.edge import Edge
from kilonova.core.policy import Policy
from kilonova.identity.envelope import IdentityEnvelope
from kilonova.identity.policies import RULES
from kilonova.identity.routes import ROUTES
from kilonova.identity.service import IdentityService


def edge(c: IdentityService, *, policy: Policy | None = None, public_url: str = "") -> Edge:
    return Edge(
        name="identity",
        service=c,
        routes=ROUTES,
        envelope=IdentityEnvelope(),
        paths_first=True,
        runtime=c.runtime,
        log=c.log,
        policy=policy or Policy(RULES),
        authenticate=c.authenticate,
        public_url=public_url,
        extra_headers={"vary": "X-Auth-Token"},
    )
