"""kilonova up: a whole cloud in this process, or in one of its own."""

import contextlib
import gc
import json
import os
import shlex
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from kilonova.cli import detach, forget
from kilonova.cli.choices import Choices
from kilonova.cli.failure import Failure
from kilonova.cli.output import show_line
from kilonova.cli.state import StateDir, default_path, prepare, prepare_ephemeral

HYPERVISOR = "hypervisor"
MALLOC = {"MALLOC_ARENA_MAX": "2", "MALLOC_TRIM_THRESHOLD_": "65536", "MALLOC_MMAP_THRESHOLD_": "65536"}
"""glibc reads them when a process begins. They keep the process about 30 MiB smaller."""


@click.command("up")
@click.option(
    "--state", metavar="DIR", help="State directory.  [default: $KILONOVA_STATE, else /var/lib/kilonova or ~/.local/state/kilonova]"
)
@click.option("--ephemeral", is_flag=True, help="Keep nothing: the state is a new folder that is removed at the end.")
@click.option("--detach", "detached", is_flag=True, help="Return when every API answers; the cloud goes on in the background.")
@click.option("--driver", type=click.Choice(["libvirt", "fake"]), help="Hypervisor.  [default: libvirt]")
@click.option("--hosts", type=click.IntRange(1, 5000), metavar="N", help="Number of fake hypervisors.")
@click.option("--services", metavar="A,B", help="Start only these.  [default: all]")
@click.option("--bind", metavar="ADDR", help="Address to listen on; not loopback: with TLS.  [default: 127.0.0.1]")
@click.option("--port-offset", type=click.IntRange(0, 60000), metavar="N", help="Added to every port.")
@click.option("--config", "config_files", multiple=True, metavar="FILE", help="Configuration file; may be repeated, a later one wins.")
@click.option("--tls-cert", metavar="FILE", help="Certificate (PEM) to serve the APIs with.")
@click.option("--tls-key", metavar="FILE", help="Its private key (PEM).")
@click.option("--insecure", is_flag=True, help="Serve other machines without TLS.")
@click.option("--egress", is_flag=True, help="Let guests out through this machine's address.")
@click.option("--host-network", is_flag=True, help="Plug the provider network into this machine's own network.")
def command(
    state: str | None,
    ephemeral: bool,
    detached: bool,
    driver: str | None,
    hosts: int | None,
    services: str | None,
    bind: str | None,
    port_offset: int | None,
    config_files: tuple[str, ...],
    tls_cert: str | None,
    tls_key: str | None,
    insecure: bool,
    egress: bool,
    host_network: bool,
) -> None:
    """Start a whole cloud in this process: every service, an embedded database, an embedded message bus.

    A second `up` on the same state resumes it; guests that still run are taken over. Ctrl-C or `kilonova down` ends it; guests go on.
    """
    started = time.monotonic()
    for given, name in ((egress, "--egress"), (host_network, "--host-network")):
        if given:
            raise Failure(f"{name} is not built yet.", "Leave it out: guests then reach each other, `public` and the metadata service.")
    if ephemeral and state:
        raise click.UsageError("--ephemeral makes a state directory of its own: leave --state out")
    choices = Choices(
        state=state,
        ephemeral=ephemeral,
        driver=driver,
        hosts=hosts,
        services=tuple(part for part in services.replace(" ", "").split(",") if part) if services is not None else None,
        bind=bind,
        port_offset=port_offset,
        config=tuple(os.path.abspath(name) for name in config_files),
        tls_cert=os.path.abspath(tls_cert) if tls_cert else None,
        tls_key=os.path.abspath(tls_key) if tls_key else None,
        insecure=insecure,
    )
    report = os.environ.pop(detach.REPORT, "")
    if report:
        background(choices, report)
        return
    if detached:
        detach.start({**os.environ, **MALLOC}, started)
        return
    if not all(name in os.environ for name in MALLOC) and sys.platform == "linux":
        environment = {**os.environ, **{name: os.environ.get(name, value) for name, value in MALLOC.items()}}
        os.execve(sys.executable, [sys.executable, "-P", "-m", "kilonova", *sys.argv[1:]], environment)
    show = Show(show_line, started)
    foreground(choices, show)


class Show:
    """What whoever started the cloud sees."""

    def __init__(self, line: Any, started: float) -> None:
        self.line = line
        self.started = started

    def ready(self, state: StateDir, warnings: Sequence[str], urls: Mapping[str, str]) -> None:
        for warning in warnings:
            self.line(f"  ! {warning}")
        self.line("")
        self.line(f"The cloud is up after {time.monotonic() - self.started:.2f} s. Its state is in {state.path}.")
        self.line("")
        if "identity" in urls:
            self.line(f"  export OS_CLIENT_CONFIG_FILE={shlex.quote(str(state.clouds_yaml))} OS_CLOUD=kilonova-demo")
            self.line("  openstack catalog list          # OS_CLOUD=kilonova is the administrator")
        self.line(f"  kilonova down --state {shlex.quote(str(state.path))}")


def foreground(choices: Choices, show: Show, *, silence: bool = False) -> None:
    """The cloud in this process, until a signal. `silence`: what libraries write to the terminal goes to log/stderr.log instead."""
    gc.disable()
    os.umask(0o077)
    signal.signal(signal.SIGTERM, _interrupt)
    for name in MALLOC:
        os.environ.pop(name, None)
    state, settled = _state_and_choices(choices)
    try:
        state.write("run/pid", f"{os.getpid()}\n")
        state.register()
        if silence:
            _redirect(state)
        if settled.broker and set(settled.services) == {HYPERVISOR}:
            from kilonova.cli.hypervisor import run_hypervisor as run
        else:
            from kilonova.cli.process import run_cloud as run
        run(settled, state, show.line, lambda warnings, urls: show.ready(state, warnings, urls))
    finally:
        if state.mark.ephemeral and state.path.exists():
            forget.forget(state)
        state.unregister()
        (state.run / "pid").unlink(missing_ok=True)
        state.unlock()


def _state_and_choices(choices: Choices) -> tuple[StateDir, Any]:
    """The state, locked, and what the files say. The lock comes before the slow imports."""
    if not choices.config:
        state = _locked(choices, "")
        from kilonova.cli.settle import settle

        try:
            return state, settle(choices)
        except BaseException:
            _give_up(state)
            raise
    from kilonova.cli.settle import settle

    settled = settle(choices)
    return _locked(choices, settled.state), settled


def _locked(choices: Choices, configured: str) -> StateDir:
    if choices.ephemeral:
        state = prepare_ephemeral()
    else:
        named = choices.state or configured
        state = prepare(Path(named).expanduser().resolve() if named else default_path())
    state.lock()
    return state


def _give_up(state: StateDir) -> None:
    if state.mark.ephemeral:
        forget.forget(state)
    state.unlock()


def _interrupt(number: int, frame: object) -> None:
    """Before the event loop has its own handlers."""
    raise KeyboardInterrupt


def _redirect(state: StateDir) -> None:
    descriptor = os.open(state.path / "log" / "stderr.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    sys.stdout.flush()
    sys.stderr.flush()
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    os.close(descriptor)
    os.chdir("/")


def background(choices: Choices, report: str) -> None:
    """The other end of `up --detach`: tells through a pipe what `up` would show."""
    descriptor, _, started = report.partition(":")
    os.set_inheritable(int(descriptor), False)
    pipe = os.fdopen(int(descriptor), "w", buffering=1)

    def tell(kind: str, value: object) -> None:
        try:
            pipe.write(json.dumps([kind, value]) + "\n")
        except (OSError, ValueError):
            return  # whoever started us has gone

    class Told(Show):
        def ready(self, state: StateDir, warnings: Sequence[str], urls: Mapping[str, str]) -> None:
            super().ready(state, warnings, urls)
            tell("ready", str(state.path))
            with contextlib.suppress(OSError):
                pipe.close()

    try:
        foreground(choices, Told(lambda line: tell("line", line), float(started)), silence=True)
    except Failure as failure:
        tell("failed", [failure.message, failure.code])
        sys.exit(failure.code)
    except KeyboardInterrupt:
        tell("failed", ["Interrupted.", 130])
        sys.exit(130)
    except Exception as error:
        tell("failed", [f"A mistake in the program ({type(error).__name__}: {error}).", 1])
        raise
