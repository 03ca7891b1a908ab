"""The host is in the zone that was asked for."""

import numpy as np

from kilonova.compute.scheduler.snapshot import Mask, Request, Snapshot


class AvailabilityZoneFilter:
    on_rebuild = False

    def mask(self, request: Request, hosts: Snapshot) -> Mask | None:
        if request.availability_zone is None:
            return None
        return np.asarray(hosts.zones == request.availability_zone, dtype=bool)

    def reason(self, request: Request, hosts: Snapshot, at: int) -> str:
        return f"it is in zone {hosts.hosts[at].availability_zone}, not {request.availability_zone}"
