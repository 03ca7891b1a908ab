"""An admin named the host or the hypervisor."""

import numpy as np

from kilonova.compute.scheduler.snapshot import Mask, Request, Snapshot


class RequestedHostFilter:
    on_rebuild = False

    def mask(self, request: Request, hosts: Snapshot) -> Mask | None:
        if request.host is None and request.hypervisor_hostname is None:
            return None
        return np.array(
            [
                (request.host is None or h.host == request.host)
                and (request.hypervisor_hostname is None or h.hypervisor_hostname == request.hypervisor_hostname)
                for h in hosts.hosts
            ],
            dtype=bool,
        )

    def reason(self, request: Request, hosts: Snapshot, at: int) -> str:
        return f"{request.host or request.hypervisor_hostname} was asked for"
