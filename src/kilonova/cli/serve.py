"""kilonova serve: chosen roles in the foreground, as units of an init system run them."""

import os
import sys
import time
from pathlib import Path

import click

from kilonova.cli.choices import Choices
from kilonova.cli.output import show_line
from kilonova.cli.state import default_path
from kilonova.cli.up import HYPERVISOR, MALLOC, Show, foreground

JOINED = "join/kilonova.conf"
"""In the state directory: what `kilonova join` was given."""


@click.command("serve")
@click.argument("roles", nargs=-1, required=True, metavar="ROLE…")
@click.option(
    "--config",
    "config_files",
    multiple=True,
    metavar="FILE",
    help="Configuration file; a later one wins. Not needed where this machine joined.",
)
@click.option("--state", metavar="DIR", help="State directory.  [default: [DEFAULT] state_path]")
def command(roles: tuple[str, ...], config_files: tuple[str, ...], state: str | None) -> None:
    """Run the named roles in this process, as the files say.

    Roles are the services (identity, image, placement, compute, network, metadata), conductor and hypervisor. With [DEFAULT] transport_url
    and [database] connection any number of processes, on any machines, make up one cloud; `kilonova db sync` makes its tables first.
    Without them the named services run in this one process.
    """
    if not all(name in os.environ for name in MALLOC):
        os.execve(sys.executable, [sys.executable, "-P", "-m", "kilonova", *sys.argv[1:]], {**MALLOC, **os.environ})
    if not config_files:
        path = Path(state).expanduser().resolve() if state else default_path()
        if roles != (HYPERVISOR,) or not (path / JOINED).is_file():
            raise click.UsageError("Missing option '--config'")
        config_files, state = (str(path / JOINED),), str(path)
    choices = Choices(state=state, services=roles, config=tuple(os.path.abspath(name) for name in config_files))
    foreground(choices, Show(show_line, time.monotonic()))
