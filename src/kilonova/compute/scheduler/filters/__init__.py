"""Filters. One refuses hosts with a mask and can say why it refused one; cheap ones come first.

To add one: a class with `on_rebuild`, `mask` and `reason` in a file of its own, a line in BUILTIN, a table test.
"""

from typing import Protocol

from kilonova.compute.scheduler.snapshot import Mask, Request, Snapshot

BUILTIN = {
    "ComputeFilter": "kilonova.compute.scheduler.filters.compute:ComputeFilter",
    "AvailabilityZoneFilter": "kilonova.compute.scheduler.filters.availability_zone:AvailabilityZoneFilter",
    "RequestedHostFilter": "kilonova.compute.scheduler.filters.requested_host:RequestedHostFilter",
    "ImagePropertiesFilter": "kilonova.compute.scheduler.filters.image_properties:ImagePropertiesFilter",
    "ResourceFilter": "kilonova.compute.scheduler.filters.resources:ResourceFilter",
}


class Filter(Protocol):
    on_rebuild: bool
    """Whether it is asked again when a server gets another image on the host it has."""

    def mask(self, request: Request, hosts: Snapshot) -> Mask | None:
        """True where a host may be used; None: this filter has nothing to say of the request."""
        ...

    def reason(self, request: Request, hosts: Snapshot, at: int) -> str:
        """Why the host at this row was refused, in one clause."""
        ...
