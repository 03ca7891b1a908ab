"""One transaction under way, and what it changes.

Functions of the domain take a Work first. They write through `tx` and note each row's new state; after the commit the service tells the
topology of them, in the order of the commits. Where several processes write, the journal tells all of them instead (`journal.py`).
"""

from collections.abc import Callable, Mapping
from typing import Any

from kilonova.core.config import Settings
from kilonova.core.db import Transaction
from kilonova.core.runtime import Runtime
from kilonova.network import model
from kilonova.network.domain.topology import Topology

Noun = model.Network | model.Subnet | model.Port | model.Router | model.FloatingIp | model.SecurityGroupRule


class Work:
    """`hints`: subnet id -> where to look for a free address next; a hint only, the constraint on allocations decides."""

    def __init__(
        self,
        tx: Transaction,
        runtime: Runtime,
        settings: Mapping[str, Settings],
        hints: dict[str, int],
        topology: Topology,
        *,
        elevated: bool,
        exclusive: bool = True,
        attempt: int = 0,
        default_groups: dict[str, str] | None = None,
        free_runs: dict[tuple[str, int], range] | None = None,
    ) -> None:
        self.tx = tx
        self.runtime = runtime
        self.settings = settings
        self.hints = hints
        self.default_groups: dict[str, str] = {} if default_groups is None else default_groups
        """Project -> its default group, as it was seen last: a hint, too."""
        self.hints_before: dict[str, int] = {}
        """What this transaction has changed in `hints`."""
        self.free_runs: dict[tuple[str, int], range] = {} if free_runs is None else free_runs
        """(subnet, its revision) -> addresses behind the last one taken that were free when this process looked: a hint, too."""
        self.topology = topology
        """For reading: which hosts there are. It does not know yet what this transaction does."""
        self.elevated = elevated
        """Whether an admin or a service asks."""
        self.exclusive = exclusive
        """Nobody else writes to this database: what `topology` says of hosts is so."""
        self.attempt = attempt
        """How many times this was tried before, and lost a race."""
        self.joins = tx.joins and not attempt
        """What can be put off until the commit is, all of it in one exchange: whatever is not as it was read comes to light there."""
        self.guessed = False
        """Something came from `topology` that may have changed meanwhile: a refusal is no answer yet."""
        self.now = runtime.now_us()
        self.put: dict[tuple[str, str], Noun] = {}
        self.dropped: dict[tuple[str, str], Noun] = {}
        self.dropped_groups: dict[str, None] = {}
        self.hosts: dict[str, None] = {}
        """Hosts that have come, gone, or changed their address."""
        self.networks: dict[str, model.Network] = {}
        """Read by this transaction, and not changed by it."""
        self.shared: dict[str, None] = {}
        """Rows (by id) that nobody changes until this transaction ends."""
        self.as_read: dict[str, int] = {}
        """Networks (by id) that must have this revision at the commit: then their subnets are as they were read, too."""
        self.servers: dict[str, None] = {}
        """Servers whose addresses have changed."""
        self.counted: dict[tuple[str, str], int] = {}
        """(project, resource) -> how many more it has (domain/quotas.py)."""

    @property
    def default(self) -> Any:
        return self.settings["DEFAULT"]

    def wrote(self, row: Noun) -> None:
        self.put[(type(row).__name__, row.id)] = row
        if isinstance(row, model.Port) and row.is_guest and row.device_id:
            self.servers[row.device_id] = None

    def removed(self, row: Noun) -> None:
        self.put.pop((type(row).__name__, row.id), None)
        self.dropped[(type(row).__name__, row.id)] = row
        if isinstance(row, model.Port) and row.is_guest and row.device_id:
            self.servers[row.device_id] = None

    def changes(self) -> list[tuple[str, str, str]]:
        """(kind, id, id of what it belongs to) of every row that the topology is made of."""
        out = [(kind, row_id, _parent(row)) for changed in (self.put, self.dropped) for (kind, row_id), row in changed.items()]
        out += [("SecurityGroup", group_id, "") for group_id in self.dropped_groups]
        out += [("Host", host, "") for host in self.hosts]
        return out

    def tell(self, topology: Topology) -> None:
        """Networks come before what is on them, and go after it."""
        for row in sorted(self.put.values(), key=_rank):
            put(topology, row)
        for row in sorted(self.dropped.values(), key=_rank, reverse=True):
            drop(topology, row)
        for group_id in self.dropped_groups:
            topology.drop_group(group_id)


def _parent(row: Noun) -> str:
    match row:
        case model.Subnet():
            return row.network_id
        case model.SecurityGroupRule():
            return row.security_group_id
    return ""


_PUT: dict[type[Any], Callable[[Topology, Any], None]] = {
    model.Network: Topology.put_network,
    model.Subnet: Topology.put_subnet,
    model.SecurityGroupRule: Topology.put_rule,
    model.Port: Topology.put_port,
    model.Router: Topology.put_router,
    model.FloatingIp: Topology.put_floating_ip,
}
"""In the order in which they are told."""
_RANKS = {kind: rank for rank, kind in enumerate(_PUT)}


def _rank(row: Noun) -> int:
    return _RANKS[type(row)]


def put(topology: Topology, row: Noun) -> None:
    _PUT[type(row)](topology, row)


def drop(topology: Topology, row: Noun) -> None:
    match row:
        case model.Network():
            topology.drop_network(row.id)
        case model.Subnet():
            topology.drop_subnet(row)
        case model.Port():
            topology.drop_port(row.id)
        case model.Router():
            topology.drop_router(row.id)
        case model.FloatingIp():
            topology.drop_floating_ip(row.id)
        case model.SecurityGroupRule():
            topology.drop_rule(row)
