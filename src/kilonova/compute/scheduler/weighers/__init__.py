"""Weighers: the higher the sum, the better the host. Ties are broken at random, so that concurrent requests spread."""

from typing import Protocol

from kilonova.compute.scheduler.snapshot import Floats, Request, Snapshot

BUILTIN = {
    "RAMWeigher": "kilonova.compute.scheduler.weighers.ram:RAMWeigher",
    "CPUWeigher": "kilonova.compute.scheduler.weighers.cpu:CPUWeigher",
}


class Weigher(Protocol):
    def weigh(self, request: Request, hosts: Snapshot) -> Floats: ...
