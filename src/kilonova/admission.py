"""What the agents of joined hosts may say, each about its own host only. Who sends is the broker's word, never the message's.

MAY is the whole of it: address -> message or method -> rule. What is not in it is refused to agents, as is every topic. Whoever is no agent
commands, as in a cloud with one broker user for all; a sender that the broker has not checked is nobody.
"""

from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Protocol

import msgspec

from kilonova.compute.rpc import HostClaim
from kilonova.core.binding import Call
from kilonova.core.bus import agents, wire
from kilonova.core.errors import Forbidden
from kilonova.core.runtime import Runtime
from kilonova.network.contract import ServerOfAddress

REMEMBERED_S = 30.0
REMEMBERED = 2000


class NotYours(Forbidden):
    code = "bus.not_yours"
    title = "The host {host} may not say that."


class Knows(Protocol):
    """What the rules ask of the cloud."""

    async def holds(self, claim: HostClaim) -> bool:
        """Whether a host has what it says that it has."""
        ...

    async def server_of(self, *, ip: str, network_id: str | None, router_id: str | None) -> ServerOfAddress | None: ...

    def host_with_tunnels_at(self, vtep_ip: str) -> str:
        """Empty: none that is known here."""
        ...

    async def joined_from(self, host: str) -> str | None:
        """The address with which a host has joined. None: it has not."""
        ...


Rule = Callable[["Judge", str, Any], "bool | Awaitable[bool]"]
"""(judge, host, message) -> may it? For a contract's method: its arguments by name."""


def _own_host(judge: "Judge", host: str, told: Any) -> bool:
    return bool(told.host == host)


def _own_report(judge: "Judge", host: str, told: Any) -> bool:
    return bool(told.host == host and told.hypervisor_hostname == host)


def _own_hosts(judge: "Judge", host: str, told: Any) -> bool:
    return tuple(told.hosts) == (host,)


async def _own_tunnels(judge: "Judge", host: str, told: Any) -> bool:
    """Others' traffic goes where this says: to the address with which the host has joined, and to no other host's."""
    if told.host != host or judge.knows.host_with_tunnels_at(told.vtep_ip) not in ("", host):
        return False
    return await judge.knows.joined_from(host) in (None, told.vtep_ip)


async def _guest_here(judge: "Judge", host: str, told: Any) -> bool:
    """The guest behind a request for metadata."""
    if (told.network_id is None) == (told.router_id is None):
        return False
    owner = await judge.knows.server_of(ip=told.source_ip, network_id=told.network_id, router_id=told.router_id)
    return owner is not None and await judge.holds(HostClaim(host=host, server_id=owner.server_id))


def _image_here(judge: "Judge", host: str, arguments: Any) -> Awaitable[bool]:
    return judge.holds(HostClaim(host=host, image_id=str(arguments.get("image_id", ""))))


async def _snapshot_here(judge: "Judge", host: str, told: Any) -> bool:
    if not agents.is_file_of(host, told.address):
        return False
    return await judge.holds(HostClaim(host=host, fills_image=told.image_id))


MAY: Mapping[str, Mapping[str, Rule]] = {
    "compute.facts": {
        "compute.rpc.HostReport": _own_report,
        "compute.rpc.Alive": _own_hosts,
        "compute.rpc.GuestChanged": _own_host,  # its handler asks whether the server is on that host
    },
    "network.facts": {
        "network.rpc.AgentStarted": _own_tunnels,
        "network.rpc.StateWanted": _own_host,
        "network.rpc.HostFacts": _own_host,  # its handler leaves out what is on other hosts
        "network.rpc.Heartbeat": _own_host,
    },
    "metadata": {"network.rpc.MetadataRequest": _guest_here},
    "image": {"read": _image_here},
    "image.store": {"compute.rpc.StoreImage": _snapshot_here},
}


def family(address: str) -> str:
    """The process that leads the network agents hears them at an address of its own, too."""
    return "network.facts" if address.startswith("network.facts.") else address


class Judge:
    """For the processes of the control plane: `admit` before a message is read, `judge` before it is handled."""

    def __init__(self, knows: Knows, runtime: Runtime) -> None:
        self.knows = knows
        self._runtime = runtime
        self._held: OrderedDict[HostClaim, float] = OrderedDict()

    def admit(self, address: str, user: str) -> bool:
        if not user:
            return False
        return agents.host_of(user) is None or family(address) in MAY

    def judge(self, address: str, user: str, message: Any) -> Awaitable[None] | None:
        """Raises NotYours, now or when what it returns is awaited."""
        host = agents.host_of(user)
        if host is None:
            return None
        rules = MAY.get(family(address), {})
        if isinstance(message, Call):  # a message's name is no method's: its rule reads a struct
            rule, told = None if "." in message.method else rules.get(message.method), _arguments(message)
        else:
            rule, told = rules.get(wire.name_of(type(message))), message
        verdict = False if rule is None or told is None else rule(self, host, told)
        if isinstance(verdict, bool):
            if not verdict:
                raise NotYours(host=host)
            return None
        return self._wait(host, verdict)

    async def _wait(self, host: str, verdict: Awaitable[bool]) -> None:
        if not await verdict:
            raise NotYours(host=host)

    async def holds(self, claim: HostClaim) -> bool:
        """What held a moment ago is not asked again: an image is read in many pieces."""
        now = self._runtime.monotonic()
        until = self._held.get(claim, 0.0)
        if until > now:
            return True
        if not await self.knows.holds(claim):
            return False
        self._held[claim] = now + REMEMBERED_S
        self._held.move_to_end(claim)
        while len(self._held) > REMEMBERED:
            self._held.popitem(last=False)
        return True


def _arguments(call: Call) -> Any:
    try:
        found = msgspec.msgpack.decode(call.arguments)
    except msgspec.DecodeError:
        return None
    return found if isinstance(found, dict) else None
