"""Services as operators see them: daemons, and one nova-compute for each host. Integer ids (before 2.53) are odd for daemons and even for
hosts, since both are numbered from 1 on their own."""

import msgspec

from kilonova.compute.cells import Cell
from kilonova.compute.errors import CellSilent
from kilonova.compute.model import Daemon, Host
from kilonova.compute.service import ComputeService
from kilonova.compute.store import cell_mappings
from kilonova.compute.store import hosts as store

COMPUTE = "nova-compute"


class Service(msgspec.Struct, frozen=True, kw_only=True):
    id: str
    number: int
    binary: str
    host: str
    zone: str
    up: bool
    disabled: bool
    disabled_reason: str | None
    forced_down: bool
    seen_at: int
    hypervisor: Host | None = None
    """Of nova-compute."""


def number_of(host: Host) -> int:
    return 2 * host.number


def of_host(c: ComputeService, host: Host) -> Service:
    return Service(
        id=host.id,
        number=number_of(host),
        binary=COMPUTE,
        host=host.host,
        zone=host.availability_zone,
        up=c.hosts.is_up(host),
        disabled=host.disabled,
        disabled_reason=host.disabled_reason,
        forced_down=host.forced_down,
        seen_at=host.seen_at,
        hypervisor=host,
    )


def of_daemon(c: ComputeService, daemon: Daemon) -> Service:
    default = c.settings["DEFAULT"]
    return Service(
        id=daemon.id,
        number=2 * daemon.number - 1,
        binary=daemon.binary,
        host=daemon.host,
        zone=default.internal_service_availability_zone,
        up=c.runtime.now_us() - daemon.seen_at <= default.service_down_time * 1_000_000,
        disabled=daemon.disabled,
        disabled_reason=daemon.disabled_reason,
        forced_down=False,
        seen_at=daemon.seen_at,
    )


async def every(c: ComputeService) -> list[Service]:
    """Daemons first, by name, then hosts."""
    return (await with_silent(c))[0]


async def with_silent(c: ComputeService) -> tuple[list[Service], list[str]]:
    """And the names of hosts whose cell does not answer. Raises CellsSilent where such lists are not wanted."""

    async def both(cell: Cell) -> tuple[list[Daemon], list[Host]]:
        return await store.daemons(cell.db), await store.every(cell.db)

    answers = await c.cells.gather("services", both)
    c.cells.complain(answers.silent, skip=c.settings["api"].list_records_by_skipping_down_cells)
    daemons = sorted((d for found, _ in answers.all for d in found), key=lambda d: (d.binary, d.number))
    known = [*(of_daemon(c, d) for d in daemons), *(of_host(c, h) for _, found in answers.all for h in found)]
    if not answers.silent:
        return known, []
    return known, list(await cell_mappings.hosts(c.api_db, [cell.uuid for cell in answers.silent]))


def unreached(c: ComputeService) -> CellSilent:
    """What was asked for may be in a cell that does not answer."""
    cell = next((cell for cell in c.cells.every if cell.why), c.cells.first)
    return CellSilent(cell=cell.uuid, why=cell.why)
