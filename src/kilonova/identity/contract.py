"""What other services may ask of identity."""

from typing import Protocol

import msgspec

from kilonova.core.context import Context


class CatalogEndpoint(msgspec.Struct, frozen=True):
    service_type: str
    service_name: str
    interface: str
    url: str


class Identity(Protocol):
    async def authenticate(self, token: str, service_token: str | None = None) -> Context:
        """Who holds this token now: expiry, revocation, disabled users and lost roles are all checked. Raises Unauthorized."""
        ...

    async def project_exists(self, project_id: str) -> bool: ...
