"""kilonova exec: a command inside the cloud's own network, where floating IPs are reachable."""

import os
import re
import shutil
from typing import NoReturn

import click

from kilonova.cli.failure import Failure
from kilonova.cli.output import state_option
from kilonova.cli.state import StateDir, choose

_NOT_A_HOST = re.compile(r"-[sr]-[0-9a-f]{8}-[0-9a-f-]{27}$|-net$")


@click.command("exec", context_settings={"allow_interspersed_args": False})
@state_option
@click.option("--host", metavar="NAME", help="Host of the cloud whose network is meant.  [default: the first]")
@click.argument("words", nargs=-1, required=True, type=click.UNPROCESSED, metavar="-- CMD…")
def command(state: str | None, host: str | None, words: tuple[str, ...]) -> None:
    """Run a command inside the cloud's host network namespace, as `kilonova exec -- ping 203.0.113.7`. Needs root."""
    found = choose(state, "exec")
    enter_and_run(namespace(found, host), list(words))


def namespace(state: StateDir, host: str | None = None) -> str:
    """Name of a host's network namespace, as `hosts` tells them. Raises Failure."""
    if state.mark.driver == "fake":
        raise Failure("This cloud's dataplane is fake: there is no network to run commands in.", "Use a cloud with --driver libvirt.")
    hosts = namespaces(state)
    if not hosts:
        raise Failure(f"The cloud in {state.path} has no dataplane at the moment.", "`kilonova status` shows whether it runs.")
    if host is None:
        return next(iter(hosts.values()))
    if host not in hosts:
        raise Failure(f"There is no host {host}.", f"There are {', '.join(hosts)}.")
    return hosts[host]


def namespaces(state: StateDir) -> dict[str, str]:
    """Namespace by host, from run/namespaces.json ({"hosts": {"<host>": "<namespace>"}}), else those of this machine with our prefix.

    Besides hosts, networks and routers have namespaces (…-s-<id>, …-r-<id>), and so has the wire between hosts (…-net).
    """
    from kilonova.network.drivers.linux import netns

    said = state.read_json("run/namespaces.json").get("hosts")
    if isinstance(said, dict) and said:
        return {str(host): str(name) for host, name in said.items()}
    prefix = state.namespace_prefix
    return {name.removeprefix(prefix): name for name in netns.names(prefix) if not _NOT_A_HOST.search(name)}


def enter_and_run(name: str, argv: list[str]) -> NoReturn:
    """This process becomes the command. Raises Failure."""
    from kilonova.network.drivers.linux import netns

    if os.geteuid() != 0:
        raise Failure("Entering the cloud's network namespace needs root.", "Run the command as root.")
    if shutil.which(argv[0]) is None:
        raise Failure(f"There is no command {argv[0]}.", "Install it, or give its path.", code=127)
    if not netns.exists(name):
        raise Failure(f"The network namespace {name} does not exist.", "`kilonova status` shows whether the cloud runs.")
    try:
        netns.execute(name, argv)
    except OSError as error:
        raise Failure(f"{argv[0]} cannot be run in {name}: {error.strerror}.", code=126) from None
