"""nova-manage: databases and cells under the names, with the words and exit statuses that operators' scripts know from Nova."""

import sys
from collections.abc import Sequence
from typing import Any

import click
import msgspec

from kilonova.cli.failure import Failure
from kilonova.cli.nova_databases import Databases, place_options, run

Files = tuple[str, ...]


def pretty(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A table as PrettyTable draws it: what stands in a column is in its middle. Scripts cut such tables at the bars."""
    lines = [[str(cell) for cell in row] for row in [columns, *rows]]
    widths = [max(len(line[i]) for line in lines) for i in range(len(columns))]
    bar = "+" + "+".join("-" * (width + 2) for width in widths) + "+"
    drawn = ["| " + " | ".join(_middle(text, width) for text, width in zip(line, widths, strict=True)) + " |" for line in lines]
    return "\n".join([bar, drawn[0], bar, *drawn[1:], *([bar] if rows else [])])


def _middle(text: str, width: int) -> str:
    left = (width - len(text)) // 2
    if (width - len(text)) % 2 and len(text) % 2 == 0:
        left += 1
    return " " * left + text + " " * (width - len(text) - left)


@click.group("nova-manage")
@place_options
@click.pass_context
def command(ctx: click.Context, config_files: Files, state: str | None) -> None:
    """Cells and databases, in the words of Nova's own command."""
    ctx.obj = (config_files, state)


def _run(ctx: click.Context, work: Any, *, fresh: bool = False) -> None:
    """Exits with what `work` returns."""
    code = run(work, *ctx.obj, fresh=fresh)
    if code:
        ctx.exit(code)


# ---- databases


@command.group("api_db")
def api_db() -> None:
    """The API database."""


@api_db.command("sync")
@click.pass_context
def api_db_sync(ctx: click.Context) -> None:
    """Make the API database's tables, or bring them forward."""

    async def work(d: Databases) -> int:
        from kilonova.compute.store import fitness
        from kilonova.compute.store.migrations.api import HISTORY
        from kilonova.core.db import schema
        from kilonova.core.db.url import masked

        found = await d.look("")
        if not (found.empty or d.one):
            wrong = fitness.wrong_api(found, masked(d.api_connection))
            if wrong:
                raise Failure(wrong)
        _refuse_foreign(found, d.api_connection)
        await schema.sync(d.open(""), [HISTORY])
        return 0

    _run(ctx, work, fresh=True)


@api_db.command("version")
@click.pass_context
def api_db_version(ctx: click.Context) -> None:
    """Revision of the API database's tables."""

    async def work(d: Databases) -> int:
        from kilonova.compute.store.migrations.api import HISTORY
        from kilonova.core.db import schema

        (found,) = await schema.states(d.open(""), [HISTORY])
        click.echo(found.schema or 0)
        return 0

    _run(ctx, work)


@command.group("db")
def db() -> None:
    """Databases of cells."""


@db.command("sync")
@click.option("--local_cell", is_flag=True, help="Only the database of [database] connection, not that of cell0.")
@click.pass_context
def db_sync(ctx: click.Context, local_cell: bool) -> None:
    """Make the tables of this cell's database and of cell0's, or bring them forward."""

    async def work(d: Databases) -> int:
        from kilonova.compute.store import cell_mappings

        await _sync_cell(d, d.local)
        if not local_cell:
            for mapping in await cell_mappings.every(await d.api()):
                if mapping.uuid == cell_mappings.CELL0 and mapping.database_connection:
                    await _sync_cell(d, mapping.database_connection, mapping.uuid)
        return 0

    _run(ctx, work, fresh=True)


async def _sync_cell(d: Databases, connection: str, uuid: str = "") -> None:
    """uuid: whose database it is, where that is known."""
    from kilonova.compute.store import cell_mappings, fitness
    from kilonova.compute.store.migrations.cell import HISTORY
    from kilonova.core.db import schema
    from kilonova.core.db.url import masked

    found = await d.look(connection)
    _refuse_foreign(found, connection)
    if not (found.empty or d.one) and found.api and not found.cell:
        raise Failure(fitness.wrong_cell(found, uuid, "this cell", masked(connection)))
    database = d.open(connection)
    await schema.sync(database, [HISTORY])
    if uuid:
        await database.transact(lambda tx: cell_mappings.claim(tx, uuid, d.runtime.now_us()))


def _refuse_foreign(found: Any, connection: str) -> None:
    from kilonova.core.db.url import masked

    if found.foreign:
        raise Failure(
            f"The database {masked(connection)} is another program's: it holds {', '.join(found.foreign)} and nothing of compute's.",
            "Name an empty one.",
        )


@db.command("version")
@click.pass_context
def db_version(ctx: click.Context) -> None:
    """Revision of the tables of this cell's database."""

    async def work(d: Databases) -> int:
        from kilonova.compute.store.migrations.cell import HISTORY
        from kilonova.core.db import schema

        (found,) = await schema.states(d.open(d.local), [HISTORY])
        click.echo(found.schema or 0)
        return 0

    _run(ctx, work)


# ---- cells


@command.group("cell_v2")
def cell_v2() -> None:
    """Which cells there are, and which hosts and servers are in each."""


def cell0_connection(url: str) -> str:
    """The usual database of cell0: named as that of the first cell, with _cell0 behind."""
    base, mark, query = url.partition("?")
    if base.startswith("sqlite"):
        stem, dot, ending = base.rpartition(".")
        return f"{stem}_cell0.{ending}" if dot and "/" not in ending else f"{base}_cell0"
    return f"{base}_cell0{mark}{query}"


@cell_v2.command("map_cell0")
@click.option("--database_connection", "connection", metavar="URL", help="[default: that of [database], with _cell0 behind the name]")
@click.pass_context
def map_cell0(ctx: click.Context, connection: str | None) -> None:
    """Say where cell0 is, which holds servers that found no host."""

    async def work(d: Databases) -> int:
        await _map_cell0(d, connection)
        return 0

    _run(ctx, work)


async def _map_cell0(d: Databases, connection: str | None) -> None:
    from kilonova.compute.store import cell_mappings
    from kilonova.compute.store.cell_mappings import CELL0, own_mapping
    from kilonova.core.db import Duplicate

    db = await d.api()
    mapping = own_mapping(CELL0, "cell0", d.runtime.now_us())
    if connection or not d.one:
        mapping = msgspec.structs.replace(mapping, database_connection=connection or cell0_connection(_local(d)))
    try:
        await db.transact(lambda tx: cell_mappings.insert(tx, mapping))
    except Duplicate:
        click.echo("Cell0 is already setup")


def _local(d: Databases) -> str:
    if not d.local:
        raise Failure("Must specify --database_connection if [database]/connection is not set in the configuration file.")
    return d.local


@cell_v2.command("create_cell")
@click.option("--name", default="", metavar="NAME", help="What people call it.")
@click.option("--database_connection", "connection", metavar="URL", help="[default: [database] connection]")
@click.option("--transport-url", "transport", metavar="URL", help="[default: [DEFAULT] transport_url]")
@click.option("--verbose", is_flag=True, help="Print the new cell's UUID.")
@click.option("--disabled", is_flag=True, help="Without new servers, until it is enabled.")
@click.pass_context
def create_cell(ctx: click.Context, name: str, connection: str | None, transport: str | None, verbose: bool, disabled: bool) -> None:
    """Map a cell with hosts. Exits with 1 when an address is missing or wrong, 2 when a cell has it already."""

    async def work(d: Databases) -> int:
        return await _create_cell(d, name, connection, transport, verbose=verbose, disabled=disabled)

    _run(ctx, work)


async def _create_cell(
    d: Databases, name: str, connection: str | None, transport: str | None, *, verbose: bool, disabled: bool = False
) -> int:
    from kilonova.compute.store import cell_mappings
    from kilonova.compute.store.cell_mappings import CELL0, CELL1, CellMapping, own_mapping
    from kilonova.core.db import url

    db = await d.api()
    have = await cell_mappings.every(db)
    own = d.one and not connection and not transport and not d.transport_url
    if own and all(m.uuid != CELL1 for m in have):
        mapping = own_mapping(CELL1, name, d.runtime.now_us())
    else:
        if not transport:
            if not d.transport_url:
                click.echo("Must specify --transport-url if [DEFAULT]/transport_url is not set in the configuration file.")
                return 1
            click.echo(
                "--transport-url not provided in the command line, using the value [DEFAULT]/transport_url from the configuration file"
            )
        if not connection:
            if not d.local:
                click.echo("Must specify --database_connection if [database]/connection is not set in the configuration file.")
                return 1
            click.echo(
                "--database_connection not provided in the command line, using the value [database]/connection from the configuration file"
            )
        mapping = CellMapping(
            uuid=d.runtime.uuid(),
            name=name,
            database_connection=connection or d.local,
            transport_url=transport or d.transport_url,
            disabled=disabled,
            created_at=d.runtime.now_us(),
        )
        try:
            url.parse(mapping.database_connection)
            _transport(mapping.transport_url)
        except (url.BadUrl, Failure) as error:
            click.echo(f"Invalid URL: {error}.")
            return 1
    for other in have:
        taken = (other.database_connection or d.api_connection) == (mapping.database_connection or d.api_connection)
        if other.uuid != CELL0 and (taken or other.transport_url == mapping.transport_url):
            told = "The specified transport_url and/or database_connection combination already exists for cell"
            click.echo(f"{told} {other.name}({other.uuid}).")
            return 2
    await db.transact(lambda tx: cell_mappings.insert(tx, mapping))
    if verbose:
        click.echo(mapping.uuid)
    return 0


def _transport(text: str) -> None:
    from kilonova.core.bus.config import parse_url
    from kilonova.core.config import ConfigError

    try:
        parse_url(text)
    except ConfigError as error:
        raise Failure(str(error).replace("[DEFAULT] transport_url: ", "").rstrip(".")) from None


@cell_v2.command("list_cells")
@click.option("--verbose", is_flag=True, help="Show passwords, too.")
@click.pass_context
def list_cells(ctx: click.Context, verbose: bool) -> None:
    """A table of all cells."""

    async def work(d: Databases) -> int:
        from kilonova.compute.store import cell_mappings
        from kilonova.core.db.url import masked

        rows = []
        for m in sorted(await cell_mappings.every(await d.api()), key=lambda m: m.name):
            urls = [m.transport_url or d.transport_url, m.database_connection or d.api_connection]
            rows.append([m.name, m.uuid, *(url if verbose else masked(url) for url in urls), m.disabled])
        click.echo(pretty(("Name", "UUID", "Transport URL", "Database Connection", "Disabled"), rows))
        return 0

    _run(ctx, work)


@cell_v2.command("list_hosts")
@click.option("--cell_uuid", "uuid", metavar="UUID", help="Only of this cell.")
@click.pass_context
def list_hosts(ctx: click.Context, uuid: str | None) -> None:
    """A table of all hosts that are mapped to a cell."""

    async def work(d: Databases) -> int:
        from kilonova.compute.store import cell_mappings

        db = await d.api()
        names = {m.uuid: m.name for m in await cell_mappings.every(db)}
        if uuid is not None and uuid not in names:
            click.echo(f"Cell with uuid {uuid} was not found.")
            return 1
        hosts = await cell_mappings.hosts(db, None if uuid is None else [uuid])
        rows = sorted((names.get(cell, ""), cell, host) for host, cell in hosts.items())
        click.echo(pretty(("Cell Name", "Cell UUID", "Hostname"), rows))
        return 0

    _run(ctx, work)


@cell_v2.command("update_cell")
@click.option("--cell_uuid", "uuid", required=True, metavar="UUID")
@click.option("--name", metavar="NAME")
@click.option("--transport-url", "transport", metavar="URL")
@click.option("--database_connection", "connection", metavar="URL")
@click.option("--disable", is_flag=True)
@click.option("--enable", is_flag=True)
@click.pass_context
def update_cell(ctx: click.Context, /, uuid: str, disable: bool, enable: bool, **given: str | None) -> None:
    """Exits with 1 when there is no such cell, 3 when another has the address, 4 for --enable with --disable, 5 for --disable of cell0."""

    async def work(d: Databases) -> int:
        from kilonova.compute.store import cell_mappings

        if enable and disable:
            click.echo("Cell cannot be disabled and enabled at the same time.")
            return 4
        db = await d.api()
        have = {m.uuid: m for m in await cell_mappings.every(db)}
        if uuid not in have:
            click.echo(f"Cell with uuid {uuid} was not found.")
            return 1
        if disable and uuid == cell_mappings.CELL0:
            click.echo("Cell0 cannot be disabled.")
            return 5
        fields = {"name": given["name"], "transport_url": given["transport"], "database_connection": given["connection"]}
        changes: dict[str, Any] = {field: value for field, value in fields.items() if value}
        for other in have.values():
            if other.uuid != uuid and any(getattr(other, f) == v for f, v in changes.items() if f != "name"):
                told = "The specified transport_url and/or database_connection combination already exists for cell"
                click.echo(f"{told} {other.name}({other.uuid}).")
                return 3
        if enable or disable:
            changes["disabled"] = disable
        if changes:
            await db.transact(lambda tx: cell_mappings.update(tx, uuid, **changes))
        return 0

    _run(ctx, work)


@cell_v2.command("delete_cell")
@click.option("--cell_uuid", "uuid", required=True, metavar="UUID")
@click.option("--force", is_flag=True, help="Although hosts are mapped to it.")
@click.pass_context
def delete_cell(ctx: click.Context, uuid: str, force: bool) -> None:
    """Forget a cell. Exits with 1 when there is no such cell, 2 when it has hosts, 3 when it has servers."""

    async def work(d: Databases) -> int:
        from kilonova.compute.store import cell_mappings, mappings

        db = await d.api()
        if all(m.uuid != uuid for m in await cell_mappings.every(db)):
            click.echo(f"Cell with uuid {uuid} was not found.")
            return 1
        if not force and await cell_mappings.hosts(db, [uuid]):
            click.echo(f"There are existing hosts mapped to cell with uuid {uuid}.")
            return 2
        if await mappings.count(db, [uuid]):
            click.echo(f"There are existing instances mapped to cell with uuid {uuid}.")
            return 3
        await db.transact(lambda tx: cell_mappings.delete(tx, uuid))
        return 0

    _run(ctx, work)


# ---- hosts and servers


@cell_v2.command("discover_hosts")
@click.option("--cell_uuid", "uuid", metavar="UUID", help="Only in this cell.")
@click.option("--verbose", is_flag=True, help="Tell what is found.")
@click.option("--strict", is_flag=True, help="Exit with 1 when nothing was found.")
@click.option("--by-service", is_flag=True, help="Without effect here: a host is its service.")
@click.pass_context
def discover_hosts(ctx: click.Context, uuid: str | None, verbose: bool, strict: bool, by_service: bool) -> None:
    """Map hosts that are in a cell's database and not mapped. Hosts that report while the cloud runs are mapped by themselves."""

    async def work(d: Databases) -> int:
        return await _discover(d, uuid, click.echo if verbose else _quiet, strict=strict)

    _run(ctx, work)


def _quiet(text: object) -> None:
    """Nothing."""


async def _discover(d: Databases, uuid: str | None, tell: Any, *, strict: bool = False) -> int:
    from kilonova.compute.store import cell_mappings
    from kilonova.compute.store import hosts as host_store

    db = await d.api()
    have = await cell_mappings.every(db)
    if uuid is not None and all(m.uuid != uuid for m in have):
        click.echo(f"Cell with uuid {uuid} was not found.")
        return 1
    known = await cell_mappings.hosts(db)
    wanted = [m for m in have if uuid in (None, m.uuid)]
    tell(f"Found {len(wanted)} cell mappings.")
    total = 0
    for mapping in wanted:
        if mapping.uuid == cell_mappings.CELL0:
            tell("Skipping cell0 since it does not contain hosts.")
            continue
        tell(f"Getting computes from cell{f' {mapping.name!r}' if mapping.name else ''}: {mapping.uuid}")
        found = 0
        for host in await host_store.every(await d.cell(mapping)):
            tell(f"Checking host mapping for compute host '{host.host}': {host.id}")
            if known.get(host.host, mapping.uuid) != mapping.uuid:
                click.echo(f"ERROR: Duplicate host mapping was encountered: {host.host} is mapped to cell {known[host.host]} already.")
                return 2
            if host.host in known:
                continue
            tell(f"Creating host mapping for compute host '{host.host}': {host.id}")
            await db.transact(lambda tx, h=host.host, m=mapping: cell_mappings.map_host(tx, h, m.uuid, d.runtime.now_us()))
            known[host.host] = mapping.uuid
            found += 1
        tell(f"Found {found} unmapped computes in cell: {mapping.uuid}")
        total += found
    return 1 if strict and not total else 0


@cell_v2.command("simple_cell_setup")
@click.option("--transport-url", "transport", metavar="URL", help="[default: [DEFAULT] transport_url]")
@click.pass_context
def simple_cell_setup(ctx: click.Context, transport: str | None) -> None:
    """cell0, its tables, one cell at [database] connection, and its hosts. Exits with 1 when there are no hosts to map."""

    async def work(d: Databases) -> int:
        from kilonova.compute.store import cell_mappings

        await _map_cell0(d, None)
        db = await d.api()
        mapped = {m.uuid: m for m in await cell_mappings.every(db)}
        await _sync_cell(d, mapped[cell_mappings.CELL0].database_connection or d.api_connection, cell_mappings.CELL0)
        if len(mapped) == 1:
            code = await _create_cell(d, "cell1" if d.one else "", None, transport, verbose=False)
            if code:
                return code
            await _sync_cell(d, d.local)
        before = len(await cell_mappings.hosts(db))
        code = await _discover(d, None, _quiet)
        if code:
            return code
        hosts = len(await cell_mappings.hosts(db))
        if not hosts:
            click.echo("No hosts found to map to cell, exiting.")
            return 1
        if hosts == before:
            click.echo("All hosts are already mapped to cell(s).")
        return 0

    _run(ctx, work)


@cell_v2.command("verify_instance")
@click.option("--uuid", required=True, metavar="UUID")
@click.option("--quiet", is_flag=True)
@click.pass_context
def verify_instance(ctx: click.Context, uuid: str, quiet: bool) -> None:
    """Which cell a server is in. Exits with 1 when it is in none, 2 when its cell is not mapped, 3 when it is deleted."""

    async def work(d: Databases) -> int:
        from kilonova.compute.store import cell_mappings, mappings, servers

        tell = _quiet if quiet else click.echo
        db = await d.api()
        mapping = await mappings.get(db, uuid)
        if mapping is None:
            tell(f"Instance {uuid} is not mapped to a cell (upgrade is incomplete) or instance does not exist")
            return 1
        if not mapping.cell:
            tell(f"Instance {uuid} is not mapped to a cell")
            return 1
        cell = next((m for m in await cell_mappings.every(db) if mapping.cell in (m.uuid, m.name)), None)
        if cell is None:
            tell(f"Instance {uuid} is mapped to cell {mapping.cell}, which has no mapping")
            return 2
        server = await servers.get(await d.cell(cell), uuid)
        if server is None or server.deleted:
            tell(f"The instance with uuid {uuid} has been deleted.")
            return 3
        tell(f"Instance {uuid} is in cell: {cell.name} ({cell.uuid})")
        return 0

    _run(ctx, work)


@cell_v2.command("map_instances")
@click.option("--cell_uuid", "uuid", required=True, metavar="UUID")
@click.option("--max-count", type=click.IntRange(1), help="So many at most; exits with 1 while there are more.")
@click.pass_context
def map_instances(ctx: click.Context, uuid: str, max_count: int | None) -> None:
    """Map servers of a cell that the API database does not know: after it was lost, say. They count against quota from then on."""

    async def work(d: Databases) -> int:
        from kilonova.compute.store import cell_mappings, mappings, servers
        from kilonova.compute.store.cell_tables import servers as t
        from kilonova.core.db import Transaction

        db = await d.api()
        cell = next((m for m in await cell_mappings.every(db) if m.uuid == uuid), None)
        if cell is None:
            click.echo(f"Unable to find cell: {uuid}")
            return 127
        there = await d.cell(cell)
        left = max_count
        for row in await servers.ids(there, [t.c.deleted.is_(False)], servers.ordering([(t.c.created_at, False), (t.c.id, False)]), None):
            server = await servers.get(there, row[0])
            if server is None or await mappings.get(db, server.id) is not None:
                continue
            if left == 0:
                return 1

            async def body(tx: Transaction, server: Any = server) -> None:
                asked = {"instances": 1, "cores": server.flavor.vcpus, "ram_mb": server.flavor.ram_mb}
                await mappings.take_quota(tx, server.project_id, asked, dict.fromkeys(asked, -1))
                await mappings.insert(tx, server)
                await mappings.place(tx, server.id, uuid)

            await db.transact(body)
            left = None if left is None else left - 1
        return 0

    _run(ctx, work)


def main() -> int:
    """`nova-manage` by itself."""
    from kilonova.cli.tree import kilonova

    return kilonova.run(["nova-manage", *sys.argv[1:]])
