"""The cloud's process and what is left of ones that are gone."""

import contextlib
import os
from collections.abc import Iterator

from kilonova.cli import forget
from kilonova.cli.checks import Finding, Subject
from kilonova.cli.state import StateDir, known, runtime_dir
from kilonova.cli.status import probe


def alive(subject: Subject) -> Iterator[Finding]:
    state = subject.state
    if state is None:
        yield Finding(check="process", severity="note", sentence="No cloud is running.", hint="kilonova up starts one.")
    elif not subject.running:
        pid = state.pid()
        said = f" (process {pid} ended without cleaning up)" if pid else ""
        yield Finding(
            check="process",
            severity="warning" if pid else "note",
            sentence=f"The cloud in {state.path} is not running{said}.",
            hint=f"kilonova up --state {state.path} resumes it.",
            fix=(lambda: (state.run / "pid").unlink(missing_ok=True)) if pid else None,
        )


def ports(subject: Subject) -> Iterator[Finding]:
    if subject.state is None or not subject.running:
        return
    for name, serving in subject.state.read_json("run/ports.json").items():
        if isinstance(serving, dict):
            answer = probe(serving)
            if not answer.ok:
                yield Finding(
                    check="ports",
                    severity="error",
                    sentence=f"{name} at {answer.url} does not answer well: {answer.reason}.",
                    hint=f"Its log is {subject.state.log_file}.",
                )


def leftovers(subject: Subject) -> Iterator[Finding]:
    """Ephemeral clouds that died, and links to clouds that no longer run."""
    for state in known():
        if state.mark.ephemeral and not state.is_running() and state.path.parent == runtime_dir():
            yield Finding(
                check="leftovers",
                severity="warning",
                sentence=f"An ephemeral cloud that did not end in order left {state.path} behind.",
                hint=f"kilonova down --state {state.path} removes it.",
                fix=lambda state=state: _forget(state),  # type: ignore[misc]
            )
    with contextlib.suppress(OSError):
        for link in sorted(runtime_dir().iterdir()):
            if link.is_symlink() and not any(state.path == link.resolve() and state.is_running() for state in known()):
                yield Finding(
                    check="leftovers",
                    severity="note",
                    sentence=f"{link} names a cloud that does not run.",
                    hint="It does no harm.",
                    fix=lambda link=link: link.unlink(missing_ok=True),  # type: ignore[misc]
                )


def _forget(state: StateDir) -> None:
    state.lock()
    try:
        forget.forget(state)
    finally:
        state.unlock()


def guests(subject: Subject) -> Iterator[Finding]:
    """QEMUs of a cloud that does not run go on by design; root alone sees them all."""
    state = subject.state
    if state is None or subject.running or os.geteuid() != 0:
        return
    pids = forget.guests(state)
    if pids:
        yield Finding(
            check="guests",
            severity="note",
            sentence=f"Guests of the stopped cloud in {state.path} run on ({len(pids)}).",
            hint="kilonova up takes them over; kilonova down --destroy ends them.",
        )
