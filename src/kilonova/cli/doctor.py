"""kilonova doctor: what is wrong with a cloud or with this machine, each finding with a sentence, a severity and a hint."""

import os
from collections.abc import Iterator
from pathlib import Path

import click

from kilonova.cli.checks import SEVERITIES, Check, Finding, Subject, agreement, files, machine, process
from kilonova.cli.failure import Failure
from kilonova.cli.output import format_option, is_plain, show_json, state_option
from kilonova.cli.rest import Rest
from kilonova.cli.state import StateDir, default_path, open_existing, running

CHECKS: tuple[tuple[str, Check], ...] = (
    ("process", process.alive),
    ("ports", process.ports),
    ("leftovers", process.leftovers),
    ("guests", process.guests),
    ("permissions", files.permissions),
    ("database", files.database),
    ("credentials", files.credentials),
    ("disk", machine.disk),
    ("memory", machine.memory),
    ("clock", machine.clock),
    ("hypervisor", machine.hypervisor),
    ("kvm", machine.kvm),
    ("agreement", agreement.agreement),
)
COLOURS = {"error": "red", "warning": "yellow", "note": "cyan"}


@click.command("doctor")
@state_option
@click.option("--fix", is_flag=True, help="Put right what can be put right without asking.")
@format_option
@click.pass_context
def command(ctx: click.Context, state: str | None, fix: bool, output: str) -> None:
    """Look for what is wrong with the cloud and this machine. Exit status 1 when an error is found (and not fixed)."""
    subject = subject_of(state)
    found = list(examine(subject))
    fixed = {id(finding): _fixed(finding) for finding in found if fix and finding.fix is not None}
    if output == "json":
        show_json(
            [
                {
                    "check": finding.check,
                    "severity": finding.severity,
                    "sentence": finding.sentence,
                    "hint": finding.hint,
                    "fixable": finding.fix is not None,
                    "fixed": fixed.get(id(finding)) == "",
                }
                for finding in found
            ]
        )
    else:
        where = f"the cloud in {subject.state.path}" if subject.state else "this machine"
        click.echo(f"{len(CHECKS)} checks of {where}: {_count(found)}.")
        for finding in found:
            _show(finding, fixed.get(id(finding)), fix)
    if any(finding.severity == "error" and fixed.get(id(finding)) != "" for finding in found):
        ctx.exit(1)


def subject_of(option: str | None) -> Subject:
    """The cloud named, the only running one, the default one if it exists, or this machine alone. Raises Failure."""
    state: StateDir | None = None
    if option:
        state = open_existing(Path(option).expanduser().resolve())
    else:
        found = running()
        if "KILONOVA_STATE" in os.environ:
            state = open_existing(default_path())
        elif len(found) > 1:
            raise Failure(f"{len(found)} clouds are running: {', '.join(str(s.path) for s in found)}.", "Choose one with --state.")
        elif found:
            state = found[0]
        elif (default_path() / "kilonova.state").exists():
            state = open_existing(default_path())
    if state is None or not state.is_running():
        return Subject(state=state, running=False, urls={})
    try:
        rest: Rest | None = Rest.login(state)
    except Failure:
        rest = None
    return Subject(state=state, running=True, urls=rest.urls if rest else {}, rest=rest)


def examine(subject: Subject) -> Iterator[Finding]:
    """The worst first."""
    found = [finding for _, check in CHECKS for finding in check(subject)]
    yield from sorted(found, key=lambda finding: SEVERITIES.index(finding.severity))


def _fixed(finding: Finding) -> str:
    """Empty when it is put right, else why it is not."""
    assert finding.fix is not None
    try:
        finding.fix()
    except Failure as failure:
        return failure.message
    except OSError as error:
        return str(error.strerror)
    return ""


def _count(found: list[Finding]) -> str:
    counts = [(sum(finding.severity == severity for finding in found), severity) for severity in SEVERITIES]
    words = [f"{count} {severity}{'s' if count > 1 else ''}" for count, severity in counts if count]
    return ", ".join(words) if words else "nothing is wrong"


def _show(finding: Finding, outcome: str | None, asked: bool) -> None:
    label = finding.severity if is_plain() else click.style(finding.severity, fg=COLOURS[finding.severity])
    click.echo(f"\n{label}: {finding.sentence}")
    if outcome == "":
        click.echo("  fixed")
    elif outcome is not None:
        click.echo(f"  could not be fixed: {outcome}")
    elif finding.hint:
        click.echo(f"  {finding.hint}" + (" (--fix does it.)" if finding.fix is not None and not asked else ""))
