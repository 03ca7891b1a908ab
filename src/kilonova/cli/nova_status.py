"""nova-status upgrade check: whether databases and cells are fit for this release, as Nova draws the answer. Exit status: 0 all well, 1 a
warning, 2 a failure, 255 it could not be found out."""

import sys
import textwrap
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

import click
import msgspec

from kilonova.cli.failure import Failure, say
from kilonova.cli.nova_databases import Databases, place_options, run

SUCCESS, WARNING, FAILURE = "Success", "Warning", "Failure"
CODES = {SUCCESS: 0, WARNING: 1, FAILURE: 2}
UNKNOWN = 255
WIDTH = 60
SETUP = "Run command 'nova-manage cell_v2 simple_cell_setup' and then retry."


class Result(msgspec.Struct, frozen=True):
    code: str
    details: str = ""


Check = Callable[[Databases], Awaitable[Result]]


def drawn(results: Sequence[tuple[str, Result]]) -> str:
    """One column; details are wrapped."""
    cells = []
    for name, result in results:
        told = textwrap.wrap(f"Details: {result.details}", WIDTH, subsequent_indent="  ") if result.details else ["Details: None"]
        cells.append([f"Check: {name}", f"Result: {result.code}", *told])
    title = "Upgrade Check Results"
    width = max(len(line) for cell in [[title], *cells] for line in cell)
    bar = f"+{'-' * (width + 2)}+"
    return "\n".join([bar, *(part for cell in [[title], *cells] for part in [*(f"| {line.ljust(width)} |" for line in cell), bar])])


async def cells_v2(d: Databases) -> Result:
    """cell0 and one more, each with the right database; no host that is not mapped."""
    from kilonova.compute.store import cell_mappings
    from kilonova.compute.store import hosts as host_store
    from kilonova.compute.store.migrations.cell import HISTORY
    from kilonova.core.db import schema
    from kilonova.core.errors import Error

    try:
        db = await d.api()
        mapped = await cell_mappings.every(db)
        if all(m.uuid != cell_mappings.CELL0 for m in mapped):
            return Result(FAILURE, f"No cell0 mapping found. {SETUP}")
        if len(mapped) < 2:
            return Result(FAILURE, f"No cell mappings found (apart from cell0). {SETUP}")
        known = await cell_mappings.hosts(db)
        hosts = []
        for mapping in mapped:
            cell = await d.cell(mapping)
            await schema.check(cell, [HISTORY])
            if mapping.uuid != cell_mappings.CELL0:
                hosts += [host.host for host in await host_store.every(cell)]
    except (Failure, Error) as error:
        return Result(FAILURE, error.message)
    unmapped = [host for host in hosts if host not in known]
    if unmapped:
        text = f"{len(unmapped)} compute hosts are not mapped to a cell, {unmapped[0]} among them."
        return Result(FAILURE, f"{text} Run command 'nova-manage cell_v2 discover_hosts' and then retry.")
    if not hosts:
        text = "No host mappings or compute nodes were found. Remember to run command 'nova-manage cell_v2 discover_hosts' when new "
        return Result(SUCCESS, text + "compute hosts are deployed.")
    return Result(SUCCESS)


async def placement_api(d: Databases) -> Result:
    """Its tables, which are where those of the other services are."""
    from kilonova.core.db import schema
    from kilonova.placement.store.migrations import HISTORY

    if not d.local:
        return Result(WARNING, "[database] connection is not set, so the tables of placement cannot be looked at.")
    (found,) = await schema.states(d.open(d.local), [HISTORY])
    if found.schema == 0:
        return Result(WARNING, "There are no tables of placement in the database of [database] connection.")
    return (
        Result(SUCCESS) if not found.pending else Result(FAILURE, f"The tables of placement are {found.verdict}: run `kilonova db sync`.")
    )


async def policy_file(d: Databases) -> Result:
    name = str(d.conf["oslo_policy"]["policy_file"])
    if name.endswith(".json") and Path(name).exists():
        return Result(FAILURE, "The policy file is JSON-formatted. Use YAML, with oslopolicy-convert-json-to-yaml.")
    return Result(SUCCESS)


CHECKS: tuple[tuple[str, Check], ...] = (
    ("Cells v2", cells_v2),
    ("Placement API", placement_api),
    ("Policy File JSON to YAML Migration", policy_file),
)


@click.group("nova-status")
@place_options
@click.pass_context
def command(ctx: click.Context, config_files: tuple[str, ...], state: str | None) -> None:
    """Whether databases and cells are fit for this release, in the words of Nova's own command."""
    ctx.obj = (config_files, state)


@command.group("upgrade")
def upgrade() -> None:
    """Before and after an upgrade."""


@upgrade.command("check")
@click.pass_context
def check(ctx: click.Context) -> None:
    """A table of checks. Exits with 0, 1 for a warning, 2 for a failure, 255 when it could not be found out."""

    async def work(d: Databases) -> int:
        results = [(name, await function(d)) for name, function in CHECKS]
        click.echo(drawn(results))
        return max(CODES[result.code] for _, result in results)

    try:
        code = run(work, *ctx.obj)
    except Failure as failure:
        say("nova-status", failure.message)
        code = UNKNOWN
    if code:
        ctx.exit(code)


def main() -> int:
    """`nova-status` by itself."""
    from kilonova.cli.tree import kilonova

    return kilonova.run(["nova-status", *sys.argv[1:]])
