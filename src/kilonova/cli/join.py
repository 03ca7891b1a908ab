"""kilonova join: this machine becomes a hypervisor of a cloud, and runs as one."""

import os
import signal
import socket
import sys
import time
from pathlib import Path

import click

from kilonova.cli import detach
from kilonova.cli.choices import Choices
from kilonova.cli.failure import Failure
from kilonova.cli.output import show_line
from kilonova.cli.state import default_path, prepare
from kilonova.cli.up import HYPERVISOR, MALLOC, Show, background, foreground


@click.command("join")
@click.argument("token", required=False)
@click.option("--state", metavar="DIR", help="State directory.  [default: $KILONOVA_STATE, else /var/lib/kilonova]")
@click.option("--host", metavar="NAME", help="This machine's name in the cloud.  [default: the token's, else the system's]")
@click.option(
    "--my-ip",
    metavar="ADDR",
    help="Where other hosts reach this one's tunnels.  [default: as before, else the address towards the controller]",
)
@click.option("--driver", type=click.Choice(["libvirt", "fake"]), help="Hypervisor.  [default: libvirt]")
@click.option("--detach", "detached", is_flag=True, help="Return when the hypervisor runs; it goes on in the background.")
@click.option("--only-join", is_flag=True, help="Join, and leave it to `kilonova serve hypervisor --state DIR` to run.")
@click.option("--renew", is_flag=True, help="Renew this host's certificate now, and do nothing else.")
def command(
    token: str | None,
    state: str | None,
    host: str | None,
    my_ip: str | None,
    driver: str | None,
    detached: bool,
    only_join: bool,
    renew: bool,
) -> None:
    """Make this machine a hypervisor of the cloud that TOKEN is of (`kilonova join-token` on a controller prints one), and run it.

    TOKEN may be - to read it from standard input. Without TOKEN a machine that has joined runs again.
    """
    started = time.monotonic()
    report = os.environ.get(detach.REPORT, "")
    if not report:
        path = Path(state).expanduser().resolve() if state else default_path()
        if renew:
            _renew(path)
            return
        _enter(path, token, host, my_ip, driver or "")
        if only_join:
            return
        # The token is used. It does not go into a new process's command line, where everybody would read it.
        sys.argv[1:] = ["join", "--state", str(path)]
        if detached:
            detach.start({**os.environ, **MALLOC}, started)
            return
        if not all(name in os.environ for name in MALLOC):
            os.execve(sys.executable, [sys.executable, "-P", "-m", "kilonova", *sys.argv[1:]], {**MALLOC, **os.environ})
    choices = _choices(state)
    if report:
        os.environ.pop(detach.REPORT)
        background(choices, report)
    else:
        foreground(choices, Show(show_line, started))


def _choices(state: str | None) -> Choices:
    from kilonova.cli import membership

    path = Path(state).expanduser().resolve() if state else default_path()
    if membership.of(path) is None:
        raise Failure(
            "This machine has not joined a cloud.", "`kilonova join-token` on a controller makes a token; give it to `kilonova join`."
        )
    return Choices(state=str(path), services=(HYPERVISOR,), config=(str(membership.config_file(path)),))


def _enter(path: Path, text: str | None, host: str | None, my_ip: str | None, driver: str) -> None:
    """Join, when there is a token. What can be refused here is refused before the token is used."""
    from kilonova.cli import membership
    from kilonova.cli.settle import driver_for
    from kilonova.compute.join_forms import BadToken, read_token

    if text is None:
        if membership.of(path) is not None and (host or my_ip or driver):
            raise Failure("This machine has joined already; its name, address and driver are settled.", "A new token changes them.")
        return
    try:
        token = read_token(sys.stdin.readline() if text == "-" else text)
    except BadToken as error:
        raise Failure(str(error), "Copy the whole word that `kilonova join-token` printed.") from None
    os.umask(0o077)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    state = prepare(path)
    state.lock()
    try:
        driver_for(driver, state.mark)
        name = host or token.host or socket.gethostname()
        found = membership.enter(state, token, host=name, my_ip=my_ip or "", driver=driver)
    finally:
        state.unlock()
    show_line(f"  joined as {found.host}; what it was given is in {path / membership.FOLDER}")


def _renew(path: Path) -> None:
    from kilonova.cli import membership
    from kilonova.cli.state import open_existing

    known = membership.of(path)
    if known is None:
        raise Failure(
            f"The machine has not joined a cloud with the state in {path}: there is no certificate to renew.", "Name another with --state."
        )
    ends = membership.renew(open_existing(path), known)
    show_line(f"The certificate of {known.host} is good until {time.strftime('%Y-%m-%d %H:%M', time.gmtime(ends / 1e6))} UTC.")
