"""Prefers hosts with most free memory: servers spread."""

from kilonova.compute.scheduler.snapshot import Floats, Request, Snapshot


class RAMWeigher:
    def weigh(self, request: Request, hosts: Snapshot) -> Floats:
        return hosts.ram_mb
