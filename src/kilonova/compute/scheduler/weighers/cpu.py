"""Prefers hosts with most free virtual CPUs."""

from kilonova.compute.scheduler.snapshot import Floats, Request, Snapshot


class CPUWeigher:
    def weigh(self, request: Request, hosts: Snapshot) -> Floats:
        return hosts.vcpus * 1024
