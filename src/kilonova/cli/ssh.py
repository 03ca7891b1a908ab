"""kilonova ssh: log in to a server from inside the cloud's own network."""

from typing import Any

import click

from kilonova.cli.exec import enter_and_run, namespace
from kilonova.cli.failure import Failure
from kilonova.cli.output import state_option
from kilonova.cli.state import choose
from kilonova.network.drivers.linux import names, netns

OPTIONS = ("StrictHostKeyChecking=no", "UserKnownHostsFile=/dev/null", "LogLevel=ERROR", "ConnectTimeout=10")


@click.command("ssh")
@state_option
@click.option("-i", "key", metavar="KEY", help="Private key.")
@click.option("-l", "user", metavar="USER", help="Name to log in with.  [default: the image's os_admin_user, else ssh's]")
@click.argument("server")
@click.argument("words", nargs=-1, type=click.UNPROCESSED, metavar="[-- CMD…]")
def command(state: str | None, key: str | None, user: str | None, server: str, words: tuple[str, ...]) -> None:
    """Log in to SERVER (name or id) by SSH, or run a command there. Needs root: it goes through the cloud's network namespace."""
    from kilonova.cli.rest import Rest

    found = choose(state, "ssh")
    host_namespace = namespace(found)
    rest = Rest.login(found)
    shown = rest.server(server)
    ip, floating = address(shown)
    where = host_namespace if floating else network_namespace(rest, shown, ip, host_namespace)
    enter_and_run(where, ssh_command(ip, key=key, user=user or login_name(rest, shown), words=words))


def ssh_command(ip: str, *, key: str | None, user: str | None, words: tuple[str, ...]) -> list[str]:
    out = ["ssh"]
    for option in OPTIONS:
        out += ["-o", option]
    if key:
        out += ["-o", "IdentitiesOnly=yes", "-o", "PreferredAuthentications=publickey", "-i", key]
    if user:
        out += ["-l", user]
    return [*out, ip, *(["--", *words] if words else [])]


def address(server: dict[str, Any]) -> tuple[str, bool]:
    """A floating IP, else the first fixed one; and whether it is floating. Raises Failure."""
    found = [entry for addresses in server.get("addresses", {}).values() for entry in addresses]
    for wanted in ("floating", "fixed"):
        for entry in found:
            if entry.get("OS-EXT-IPS:type", "fixed") == wanted:
                return str(entry["addr"]), wanted == "floating"
    raise Failure(
        f"Server {server['name']} has no address (its status is {server['status']}).", "`kilonova explain` tells how it came to be so."
    )


def network_namespace(rest: Any, server: dict[str, Any], ip: str, host_namespace: str) -> str:
    """Where a fixed IP can be reached from: its network's own namespace, else the host's."""
    for port in rest.every("network", f"/v2.0/ports?device_id={server['id']}", "ports"):
        if any(fixed["ip_address"] == ip for fixed in port["fixed_ips"]):
            found = names.service_namespace(host_namespace, port["network_id"])
            return found if netns.exists(found) else host_namespace
    return host_namespace


def login_name(rest: Any, server: dict[str, Any]) -> str | None:
    """What the image's property os_admin_user says."""
    image = server.get("image")
    if not isinstance(image, dict) or "image" not in rest.urls:
        return None
    try:
        name = rest.get("image", f"/v2/images/{image['id']}").get("os_admin_user")
    except Failure:
        return None
    return str(name) if name else None
