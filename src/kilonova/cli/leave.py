"""kilonova leave: a host that joined loses its broker user and its certificate."""

import click

from kilonova.cli.failure import Failure
from kilonova.cli.join_token import config_option, files_of, run


@click.command("leave")
@click.argument("host")
@config_option
def command(host: str, config_files: tuple[str, ...]) -> None:
    """Shut HOST out, on a controller: its connections end, and it comes back only with a token of its own.

    Its servers stay where they are. `openstack compute service delete` forgets the host.
    """
    if not run(lambda joining: joining.leave(host), files_of(config_files)):
        raise Failure(f"No host {host} has joined.", "Hosts with the cloud's own broker user are shut out by changing its password.")
    click.echo(f"{host} is shut out.")
