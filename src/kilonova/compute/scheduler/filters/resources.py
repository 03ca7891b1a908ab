"""Enough virtual CPUs, memory and disk are left, as placement counts them."""

from kilonova.compute.scheduler.snapshot import Mask, Request, Snapshot


class ResourceFilter:
    on_rebuild = False

    def mask(self, request: Request, hosts: Snapshot) -> Mask | None:
        return (hosts.ram_mb >= request.ram_mb) & (hosts.vcpus >= request.vcpus) & (hosts.disk_gb >= request.disk_gb)

    def reason(self, request: Request, hosts: Snapshot, at: int) -> str:
        for free, wanted, what in (
            (hosts.ram_mb[at], request.ram_mb, "MiB of memory"),
            (hosts.vcpus[at], request.vcpus, "virtual CPUs"),
            (hosts.disk_gb[at], request.disk_gb, "GiB of disk"),
        ):
            if free < wanted:
                return f"{max(0, int(free))} {what} free of {wanted} wanted"
        return "resources were taken meanwhile"
