"""kilonova leave: a host that joined loses its broker user and its certificate."""

from typing import Any

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
    if not run(lambda joining: _shut_out(joining, host), files_of(config_files)):
        raise Failure(f"No host {host} has joined.", "Hosts with the cloud's own broker user are shut out by changing its password.")
    click.echo(f"{host} is shut out.")


async def _shut_out(joining: Any, host: str) -> bool:
    from kilonova.core.bus.rabbit_users import CannotManage

    try:
        return bool(await joining.leave(host))
    except CannotManage as error:
        raise Failure(
            f"{host} is not shut out yet: its certificate is not renewed any more, but its broker user is still there, since "
            f"{error.details['reason']}",
            "Mend that, and repeat the command.",
        ) from None
