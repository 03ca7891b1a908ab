"""The host's nova-compute is up, enabled, and has not failed this request before."""

import numpy as np

from kilonova.compute.scheduler.snapshot import Mask, Request, Snapshot


class ComputeFilter:
    on_rebuild = False

    def mask(self, request: Request, hosts: Snapshot) -> Mask | None:
        fit = hosts.up & hosts.enabled
        if request.exclude:
            fit = fit & np.array([h.host not in request.exclude for h in hosts.hosts], dtype=bool)
        return fit

    def reason(self, request: Request, hosts: Snapshot, at: int) -> str:
        host = hosts.hosts[at]
        if host.host in request.exclude:
            return f"it was tried: {request.exclude[host.host]}"
        if host.disabled:
            return f"it is disabled ({host.disabled_reason or 'no reason given'})"
        return "its compute service is down"
