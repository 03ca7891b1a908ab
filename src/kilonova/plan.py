"""What to run and where: dev mode and production fill the same plan."""

from collections.abc import Mapping
from typing import Any

import msgspec

PORTS = {"identity": 5000, "image": 9292, "placement": 8778, "compute": 8774, "metadata": 8775, "network": 9696}
JOIN_PORT = 8770
"""Where processes of the role compute answer `kilonova join`, in clouds with a broker."""
CONDUCTOR = "conductor"
"""Carries out verbs: chooses hosts, sends commands, settles. Any number of processes."""
HYPERVISOR = "hypervisor"
"""Runs guests and their networks. Never opens the database."""
ROLES = (*PORTS, CONDUCTOR, HYPERVISOR)
LOCAL = "kilonova"


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    state: str
    cloud_id: str = "local"
    """Short and unique on this machine: names of namespaces and the like begin with it."""
    host: str = "127.0.0.1"
    public_host: str = ""
    port_offset: int = 0
    services: tuple[str, ...] = tuple(PORTS)
    conducts: bool = True
    runs_guests: bool = True
    driver: str = "fake"
    hosts: int = 1
    node: str = LOCAL
    """The name of this machine in service lists, and of its hypervisor. Fake hypervisors are host-1, host-2, … on an unnamed machine."""
    my_ip: str = ""
    """Where other hosts reach this one's tunnels; empty: all hosts are in this process, and have addresses of their own."""
    region: str = "RegionOne"
    config_files: tuple[str, ...] = ()
    overrides: Mapping[tuple[str, str], Any] = {}
    scheme: str = "http"

    def url(self, service: str) -> str:
        return f"{self.scheme}://{self.public_host or self.host}:{PORTS[service] + self.port_offset}"

    def hypervisors(self) -> list[str]:
        """Names of the hosts whose agents run in this process."""
        if not self.runs_guests:
            return []
        if self.driver != "fake":
            return [self.node]
        if self.node == LOCAL:
            return [f"host-{i + 1}" for i in range(self.hosts)]
        return [self.node] if self.hosts == 1 else [f"{self.node}-{i + 1}" for i in range(self.hosts)]

    def namespace(self, host: str) -> str:
        """The network namespace that stands for a host: its taps, bridges and guests live there."""
        return f"kn-{self.cloud_id}-{host}"

    def vtep(self, number: int) -> str:
        """The address of a host's tunnels: this machine's, or one inside the cloud's own underlay."""
        return self.my_ip or f"192.0.{2 + number // 254}.{number % 254 + 1}"
