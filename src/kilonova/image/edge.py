"""How image meets HTTP: any minor version of /v2 is /v2, other paths answer the list of versions."""

from kilonova.core.edge import Authenticate, Edge
from kilonova.image.envelope import ImageEnvelope
from kilonova.image.routes import ROUTES
from kilonova.image.service import ImageService
from kilonova.image.versions import mount


def edge(c: ImageService, *, authenticate: Authenticate, identity_url: str = "", public_url: str = "") -> Edge:
    return Edge(
        name="image",
        service=c,
        routes=ROUTES,
        envelope=ImageEnvelope(),
        runtime=c.runtime,
        log=c.log,
        policy=c.policy,
        authenticate=authenticate,
        identity_url=identity_url,
        public_url=public_url,
        mount=mount,
    )
