"""What other services may ask of compute."""

from typing import Protocol

import msgspec

from kilonova.core.context import Context


class GuestMetadata(msgspec.Struct, frozen=True, kw_only=True):
    """Everything a guest may read of itself: path (without leading slash) -> content."""

    server_id: str
    files: dict[str, bytes]


class Compute(Protocol):
    async def guest_metadata(self, ctx: Context, server_id: str) -> GuestMetadata | None:
        """The metadata tree of a server, for the metadata service. None: there is no such server."""
        ...
