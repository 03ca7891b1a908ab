"""Machines that are network namespaces of this one, on one bridge in a namespace of its own; links between them can be cut."""

import os
import subprocess
from collections.abc import Sequence

from kilonova.network.drivers.linux import netns

PREFIX = "10.77.0."


class Net:
    """Every machine has eth0 with PREFIX + its number. Needs root, iproute2 and nft."""

    def __init__(self) -> None:
        self.tag = f"kp{os.urandom(3).hex()}"
        self.numbers: dict[str, int] = {}
        netns.create(f"{self.tag}-net")
        self._ip("net", "link", "add", "br0", "type", "bridge", "forward_delay", "0")
        self._ip("net", "link", "set", "br0", "up")

    def namespace(self, machine: str) -> str:
        return f"{self.tag}-{machine}"

    def address(self, machine: str) -> str:
        return f"{PREFIX}{self.numbers[machine]}"

    def add(self, machine: str, number: int) -> str:
        """Its address."""
        self.numbers[machine] = number
        netns.create(self.namespace(machine))
        far = f"v{number}"
        self._ip(machine, "link", "set", "lo", "up")
        self._ip(machine, "link", "add", "eth0", "type", "veth", "peer", "name", far, "netns", self.namespace("net"))
        self._ip("net", "link", "set", far, "master", "br0", "up")
        self._ip(machine, "addr", "add", f"{self.address(machine)}/24", "dev", "eth0")
        self._ip(machine, "link", "set", "eth0", "up")
        self._nft(machine, "add table inet probe", "add chain inet probe out { type filter hook output priority 0; }")
        return self.address(machine)

    def cut(self, machine: str, other: str) -> None:
        """Packets from the one to the other vanish; those in the other direction do not. Not when `other` is the machine itself."""
        self._nft(machine, f"add rule inet probe out ip daddr {self.address(other)} drop")

    def heal(self, machine: str) -> None:
        """All that this machine could not reach."""
        self._nft(machine, "flush chain inet probe out")

    def plug(self, machine: str, *, out: bool) -> None:
        """Pull its cable at the switch, or plug it in again."""
        self._ip("net", "link", "set", f"v{self.numbers[machine]}", "down" if out else "up")

    def inside(self, machine: str, command: Sequence[str]) -> list[str]:
        return netns.command(self.namespace(machine), command)

    def remove(self) -> None:
        for machine in [*self.numbers, "net"]:
            netns.remove(self.namespace(machine))

    def _ip(self, machine: str, *arguments: str) -> None:
        _run(["ip", "-n", self.namespace(machine), *arguments])

    def _nft(self, machine: str, *commands: str) -> None:
        _run(self.inside(machine, ["nft", "; ".join(commands)]))


def _run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr or done.stdout}")
