"""kilonova join-token: a word with which one machine may become a hypervisor of this cloud. kilonova leave is in leave.py."""

import re
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, TypeVar

import click

from kilonova.cli.failure import Failure, say
from kilonova.plan import JOIN_PORT

T = TypeVar("T")
F = TypeVar("F", bound=Callable[..., Any])
USUAL = "/etc/kilonova/kilonova.conf"
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
LONGEST_S = 30 * 86_400


def config_option(function: F) -> F:
    """--config, as the parameter `config_files`."""
    text = f"Configuration file of a controller. May be repeated.  [default: {USUAL}]"
    return click.option("--config", "config_files", multiple=True, metavar="FILE", help=text)(function)


@click.command("join-token")
@config_option
@click.option("--host", default="", metavar="NAME", help="The only host that may use it; needed for one that has joined before.")
@click.option("--ttl", default="1h", show_default=True, metavar="TIME", help="How long it is good: 30m, 1h, 2d.")
@click.option("--controller", "controllers", multiple=True, metavar="HOST[:PORT]", help="Where to join.  [default: [cloud] public_host]")
@click.option("--authority", is_flag=True, help="Print the certificate of the cloud's authority instead, for the broker to trust.")
def command(config_files: tuple[str, ...], host: str, ttl: str, controllers: tuple[str, ...], authority: bool) -> None:
    """Print a token for `kilonova join` on another machine. It works once, and nobody can look it up again."""
    ttl_s = seconds(ttl)
    files = files_of(config_files)
    places = tuple(map(_with_port, controllers)) or (_own_place(files),)
    if not authority and all(map(_local, places)):
        say("kilonova join-token", "This token is good on this machine only. For others set [DEFAULT] bind_host, or name --controller.")

    async def make(joining: Any) -> str:
        if authority:
            return str((await joining.authority())[0]).strip()
        return str((await joining.new_token(places, host, ttl_s)).text())

    click.echo(run(make, files))


def seconds(text: str) -> int:
    """Of 90s, 30m, 1h, 2d. Raises UsageError."""
    found = re.fullmatch(r"(\d{1,6})([smhd])", text.strip())
    value = int(found[1]) * _UNITS[found[2]] if found else 0
    if not 0 < value <= LONGEST_S:
        raise click.UsageError(f"--ttl takes a time such as 30m, 1h or 2d, at most 30d; {text} is none")
    return value


def files_of(given: tuple[str, ...]) -> tuple[str, ...]:
    """Raises Failure."""
    if not given and not Path(USUAL).is_file():
        raise Failure("Which cloud is meant is not known.", "Name a controller's configuration file with --config.")
    return given or (USUAL,)


def _with_port(text: str) -> str:
    from kilonova.cli.join_client import place

    host, port = place(text)
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _local(place_: str) -> bool:
    from kilonova.cli.join_client import place

    host = place(place_)[0]
    return host == "localhost" or host == "::1" or host.startswith("127.")


def _own_place(files: tuple[str, ...]) -> str:
    from kilonova.cli.settle import settle

    settled = settle(_compute(files))
    return f"{settled.public_host}:{JOIN_PORT + settled.port_offset}"


def _compute(files: tuple[str, ...]) -> Any:
    from kilonova.cli.choices import Choices

    return Choices(services=("compute",), config=files)


def run(work: Callable[[Any], Coroutine[Any, Any, T]], files: tuple[str, ...]) -> T:
    """`work` gets a Joining on the cloud's database. Raises Failure."""
    from kilonova.cli.nova_databases import Databases
    from kilonova.cli.nova_databases import run as with_databases
    from kilonova.compute.config import OPTIONS as COMPUTE
    from kilonova.compute.joining import Joining
    from kilonova.core import config
    from kilonova.core.bus.config import OPTIONS as BUS
    from kilonova.core.log import Log, Sink

    async def main(databases: Databases) -> T:
        if not databases.transport_url:
            raise Failure("A cloud that other machines join needs a broker.", "Set [DEFAULT] transport_url and [database] connection.")
        db = await databases.api()
        joining = Joining(
            api_db=db,
            runtime=databases.runtime,
            log=Log("join", Sink(level="error")),
            settings=config.settings(databases.conf, COMPUTE, "join"),
            messaging={group: config.settings(databases.conf, BUS, group) for group in BUS},
        )
        return await work(joining)

    return with_databases(main, files, None)
