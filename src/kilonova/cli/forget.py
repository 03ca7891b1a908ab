"""Leave nothing of a cloud: its guests, its namespaces and, when it is ephemeral, its state directory.

Works on the machine alone, so that it also cleans up after a process that was killed.
"""

import contextlib
import os
import select
import shutil
import signal
import time
from pathlib import Path

from kilonova.cli.failure import Failure
from kilonova.cli.state import StateDir
from kilonova.compute.drivers.libvirt.config import short_alias
from kilonova.network.drivers.linux import netns

PATIENCE_S = 10.0


def guests(state: StateDir) -> list[int]:
    """Process ids of QEMUs that work on files of this state directory, under whichever of its names."""
    inside = [os.fsencode(path) + b"/" for path in (state.path, short_alias(state.path))]
    found = []
    for folder in sorted(Path("/proc").glob("[0-9]*"), key=lambda path: int(path.name)):
        with contextlib.suppress(OSError):
            arguments = (folder / "cmdline").read_bytes().split(b"\0")
            is_guest = os.path.basename(arguments[0]).startswith(b"qemu-system-")
            if is_guest and any(path in argument for argument in arguments[1:] for path in inside):
                found.append(int(folder.name))
    return found


def namespaces(state: StateDir) -> list[str]:
    return netns.names(state.namespace_prefix)


def end(pid: int, how: signal.Signals, patience_s: float) -> bool:
    """Signal a process and wait until it is gone. False: it is still there."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(descriptor, how)
        poll = select.poll()
        poll.register(descriptor, select.POLLIN)
        return bool(poll.poll(patience_s * 1000))
    finally:
        os.close(descriptor)


def forget(state: StateDir) -> list[str]:
    """What was removed, as words for a sentence. The lock must be ours. Raises Failure for what would not go."""
    done = []
    killed = guests(state)
    stubborn = [pid for pid in killed if not end(pid, signal.SIGKILL, PATIENCE_S)]
    if stubborn:
        raise Failure(
            f"The guest's process {stubborn[0]} does not end.", "Look at what holds it, then run `kilonova down --destroy` again."
        )
    if killed:
        done.append(f"{len(killed)} guest{'s' if len(killed) > 1 else ''}")
    names = namespaces(state)
    for name in names:
        netns.remove(name)
    if names:
        done.append(f"{len(names)} network namespace{'s' if len(names) > 1 else ''}")
    if state.mark.ephemeral:
        _remove_tree(state.path)
        done.append(f"the state in {state.path}")
    return done


def _remove_tree(path: Path) -> None:
    """A file that a dying process still makes is no reason to stop."""
    end_at = time.monotonic() + PATIENCE_S
    while True:
        try:
            shutil.rmtree(path)
            return
        except FileNotFoundError:
            if not path.exists():
                return
        except OSError as error:
            if time.monotonic() > end_at:
                raise Failure(f"{error.filename or path} cannot be removed: {error.strerror}.", f"Remove {path} by hand.") from None
        time.sleep(0.05)
