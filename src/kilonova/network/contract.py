"""What other services may ask of network. Every verb on a server is idempotent by the server's id."""

from typing import Any, Protocol

import msgspec

from kilonova.core.context import Context
from kilonova.core.errors import Conflict, Error

SERVER_CHANGED = "network.server_changed"
"""Topic of ServerAddressesChanged."""
LAST_TURN = 2**62
"""After every turn: what is released up to it is allocated no more."""


class NicRequest(msgspec.Struct, frozen=True, kw_only=True):
    """One interface that a server shall have: a port that exists, or a new one on a network."""

    network_id: str | None = None
    port_id: str | None = None
    fixed_ip: str | None = None
    tag: str | None = None


class Allocate(msgspec.Struct, frozen=True, kw_only=True):
    """`auto`: "none" for no interface at all, "auto" to make a topology when the project has none, "" for the project's only network.
    `security_groups` are names or ids; none means the project's default group. `first`: nothing was allocated for this server before.
    `turn`: who may be overtaken, or may give up and try another host, gives a higher number each time; 0 when nobody else allocates."""

    server_id: str
    project_id: str
    host: str
    availability_zone: str = "nova"
    hostname: str = ""
    networks: tuple[NicRequest, ...] = ()
    auto: str = ""
    security_groups: tuple[str, ...] = ()
    first: bool = False
    turn: int = 0


class FixedIp(msgspec.Struct, frozen=True, kw_only=True):
    ip: str
    subnet_id: str
    version: int


class FloatingIp(msgspec.Struct, frozen=True, kw_only=True):
    floating_ip: str
    fixed_ip: str


class Nic(msgspec.Struct, frozen=True, kw_only=True):
    """`preserve`: the port was the user's own and outlives the server."""

    port_id: str
    network_id: str
    network_name: str
    mac: str
    device_name: str
    mtu: int
    fixed_ips: tuple[FixedIp, ...] = ()
    floating_ips: tuple[FloatingIp, ...] = ()
    security_groups: tuple[str, ...] = ()
    preserve: bool = False
    tag: str | None = None
    status: str = "DOWN"


class ServerOfAddress(msgspec.Struct, frozen=True, kw_only=True):
    server_id: str
    project_id: str


class ServerAddressesChanged(msgspec.Struct, frozen=True, kw_only=True):
    """A port or a floating IP of this server has changed."""

    server_id: str


class WiringFailed(Error):
    code = "network.wiring_failed"
    title = "The network interfaces of server {server} could not be wired: {reason}"
    advice = "Look at the network agent's log on the server's host, and at `openstack port show`."


class InterfacesReleased(Conflict):
    """An allocate that comes late: its ports would be nobody's."""

    code = "network.interfaces_released"
    title = "The interfaces of server {server} have been released, or allocated anew, since this was asked for."


class Network(Protocol):
    async def validate(
        self, ctx: Context, networks: tuple[NicRequest, ...], auto: str, security_groups: tuple[str, ...], count: int
    ) -> None:
        """Refuse what `allocate` would refuse, with the sentences and statuses of Nova's create checks."""
        ...

    async def allocate(self, ctx: Context, request: Allocate, timeout_s: float | None = None) -> tuple[Nic, ...]:
        """Make the missing ports and bind all to the host, whose agent is told. With `timeout_s` the answer comes when they are wired, as
        from `wait_wired`; without, or from an older release, their status says that they are not yet. Raises InterfacesReleased when its
        turn has been released, or a later one has allocated; WiringFailed."""
        ...

    async def wait_wired(self, ctx: Context, server_id: str, timeout_s: float) -> None:
        """Return when every port of the server is ACTIVE. Raises WiringFailed."""
        ...

    async def release(self, ctx: Context, server_id: str, *, up_to: int | None = None) -> None:
        """Delete the ports that `allocate` made; unbind and free the user's own. up_to: unless a later turn has allocated them; and an
        allocate of a turn up to this one, which may be on its way, is refused for the next hour."""
        ...

    async def rebind(self, ctx: Context, server_id: str, host: str) -> tuple[Nic, ...]:
        """Bind the server's ports to another host. They are ACTIVE again when that host has wired them."""
        ...

    async def nics(self, ctx: Context, server_id: str) -> tuple[Nic, ...]: ...

    async def nics_of(self, ctx: Context, server_ids: tuple[str, ...]) -> dict[str, tuple[Nic, ...]]: ...

    async def attach(self, ctx: Context, request: Allocate) -> tuple[Nic, ...]:
        """More interfaces for a server that has some; answers the new ones."""
        ...

    async def detach(self, ctx: Context, server_id: str, port_id: str) -> bool:
        """False when the port is not the server's."""
        ...

    async def server_of(
        self, ctx: Context, *, ip: str, network_id: str | None = None, router_id: str | None = None
    ) -> ServerOfAddress | None:
        """Whose address it is, on a network or behind a router."""
        ...

    async def network_data(self, ctx: Context, server_id: str) -> dict[str, Any]:
        """network_data.json of the metadata service and the config drive."""
        ...

    async def server_security_groups(self, ctx: Context, server_id: str) -> tuple[dict[str, Any], ...]:
        """Groups of the server's ports: {id, name, description, project_id, rules: (…)}, each once."""
        ...

    async def add_security_group(self, ctx: Context, server_id: str, name: str) -> None: ...

    async def remove_security_group(self, ctx: Context, server_id: str, name: str) -> None: ...
