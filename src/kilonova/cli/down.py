"""kilonova down: the end of a cloud in order; with --destroy, of its guests too."""

import contextlib
import signal
import time

import click

from kilonova.cli import forget
from kilonova.cli.failure import Failure, say
from kilonova.cli.output import state_option
from kilonova.cli.state import StateDir, choose

STOP_S = 90.0
DELETE_S = 120.0


@click.command("down")
@state_option
@click.option("--destroy", is_flag=True, help="Delete its servers and its dataplane too.")
def command(state: str | None, destroy: bool) -> None:
    """Stop a cloud. Running guests go on, and the next `up` takes them over; with --destroy nothing goes on.

    An ephemeral cloud is always forgotten whole: guests, namespaces, state directory.
    """
    found = choose(state, "down")
    was_running = found.is_running()
    done = []
    if was_running:
        if destroy and not found.mark.ephemeral:
            done += delete_servers(found)
        stop(found)
    if not found.path.exists():
        click.echo(f"The ephemeral cloud in {found.path} has ended and is forgotten.")
        return
    if destroy or found.mark.ephemeral:
        found.lock()
        try:
            done += forget.forget(found)
        finally:
            found.unregister()
            found.unlock()
    ended = f"The cloud in {found.path} has ended." if was_running else f"No cloud was running in {found.path}."
    left = 0 if destroy or found.mark.ephemeral else len(forget.guests(found))
    kept = f" {left} guest{'s go' if left > 1 else ' goes'} on; `kilonova up` takes over, --destroy ends them." if left else ""
    click.echo(ended + (f" Removed: {', '.join(done)}." if done else "") + kept)


def stop(state: StateDir) -> None:
    """Ends the process that holds the lock, and waits for it. Raises Failure when it does not end."""
    pid = _holder(state)
    if pid is None:
        return
    if not forget.end(pid, signal.SIGTERM, STOP_S):
        raise Failure(f"Process {pid} did not end within {STOP_S:.0f} s.", f"Its log is {state.log_file}; `kill -9 {pid}` ends it.")


def _holder(state: StateDir) -> int | None:
    """The process id, for which a cloud that has only just begun needs a moment."""
    end = time.monotonic() + 2
    while state.is_running():
        pid = state.pid()
        if pid is not None:
            return pid
        if time.monotonic() > end:
            raise Failure(f"{state.run / 'pid'} does not say which process runs the cloud.", "Look for it with `ps`, and end it by hand.")
        time.sleep(0.02)
    return None


def delete_servers(state: StateDir) -> list[str]:
    """Every server of every project, through the compute API while it still answers. What cannot be deleted so is only told of."""
    from kilonova.cli.rest import Refused, Rest

    try:
        rest = Rest.login(state)
        if "compute" not in rest.urls:
            return []
        servers = rest.every("compute", "/servers?all_tenants=1", "servers")
        for server in servers:
            with contextlib.suppress(Refused):
                rest.ask("DELETE", "compute", f"/servers/{server['id']}")
        end = time.monotonic() + DELETE_S
        left = servers
        while left and time.monotonic() < end:
            left = rest.every("compute", "/servers?all_tenants=1", "servers")
            if left:
                time.sleep(0.2)
    except Failure as failure:
        say("kilonova down", f"Servers were not deleted one by one: {failure.message}")
        return []
    if left:
        say("kilonova down", f"{len(left)} servers are not deleted; the database still holds them.")
    gone = len(servers) - len(left)
    return [f"{gone} server{'s' if gone > 1 else ''}"] if gone else []
