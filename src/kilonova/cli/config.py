"""kilonova config: which settings there are, what they are, and where each value comes from."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
import msgspec

from kilonova.cli.failure import Failure, plain
from kilonova.cli.output import format_option, show_json, show_table, state_option
from kilonova.cli.state import default_path, open_existing, running

SECRET = re.compile(r"password|secret|(^|_)key$|transport_url|connection$")


class Setting(msgspec.Struct, frozen=True, kw_only=True):
    group: str
    name: str
    value: Any
    default: Any
    origin: str
    """default, or file:line."""
    help: str


@click.group("config")
def command() -> None:
    """Show, check or write a configuration (INI, with OpenStack's sections and options where the meaning is the same)."""


def files_option(function: Any) -> Any:
    return click.option(
        "--config",
        "files",
        multiple=True,
        metavar="FILE",
        help="Configuration file.  [default: kilonova.conf of the cloud, where there is one]",
    )(function)


@command.command("show")
@state_option
@files_option
@click.option("--origin", is_flag=True, help="Say where each value comes from.")
@format_option
def show(state: str | None, files: tuple[str, ...], origin: bool, output: str) -> None:
    """Show every setting and its value; those that hold secrets are masked."""
    found = settings(_files(state, files))
    if output == "json":
        show_json(found)
    elif origin:
        show_table(("SETTING", "VALUE", "FROM"), [(f"[{s.group}] {s.name}", _text(s.value), s.origin) for s in found])
    else:
        show_table(("SETTING", "VALUE"), [(f"[{s.group}] {s.name}", _text(s.value)) for s in found])


@command.command("check")
@state_option
@files_option
@click.argument("more", nargs=-1, metavar="[FILE…]")
def check(state: str | None, files: tuple[str, ...], more: tuple[str, ...]) -> None:
    """Check configuration files: unknown options and values of a wrong type. Exit status 1 when something is wrong."""
    wanted = _files(state, (*files, *more))
    if not wanted:
        raise Failure("There is no configuration file to check.", "Name one: `kilonova config check FILE`.")
    wrong = problems(wanted)
    for sentence in wrong:
        click.echo(sentence)
    if wrong:
        raise Failure(f"{len(wrong)} thing{'s are' if len(wrong) > 1 else ' is'} wrong.", "Correct the file.")
    click.echo(f"{', '.join(wanted)}: fine.")


@command.command("sample")
def sample() -> None:
    """Print a configuration file with every setting, its default and what it means."""
    click.echo(sample_text(), nl=False)


# ---------------------------------------------------------------- reading


def every_option() -> list[tuple[str, Any]]:
    """(group, option) of all services and of the process, each once, by group as they are declared."""
    from kilonova import app
    from kilonova.cli import settle

    found: dict[tuple[str, str], Any] = {}
    for table in (settle.OPTIONS, *app.OPTIONS):
        for group, options in table.items():
            for option in options:
                found.setdefault((group, option.dest), option)
    groups = list(dict.fromkeys(group for group, _ in found))
    return [(group, option) for wanted in groups for (group, _), option in found.items() if group == wanted]


def tables() -> list[dict[str, list[Any]]]:
    """The same, as core.config takes it."""
    out: dict[str, list[Any]] = {}
    for group, option in every_option():
        out.setdefault(group, []).append(option)
    return [out]


def _files(state: str | None, files: Sequence[str]) -> tuple[str, ...]:
    from kilonova.cli.settle import readable

    if files:
        return readable(files)
    if state:
        return readable([str(open_existing(Path(state).resolve()).path / "kilonova.conf")])
    own = default_path() / "kilonova.conf"
    if own.exists():
        return readable([str(own)])
    alive = running()
    return readable([str(alive[0].path / "kilonova.conf")]) if len(alive) == 1 else ()


def settings(files: Sequence[str]) -> list[Setting]:
    from kilonova.core import config

    try:
        conf = config.build(tables(), files)
    except config.ConfigError as error:
        raise Failure(plain(str(error)), "`kilonova config check` tells more.") from None
    lines = assignments(files)
    out = []
    for group, option in every_option():
        value = conf[option.dest] if group == "DEFAULT" else conf[group][option.dest]
        where = lines.get((group, option.dest)) or lines.get((group, option.name))
        hidden = value and (option.secret or SECRET.search(option.dest))
        out.append(
            Setting(
                group=group,
                name=option.dest,
                value="***" if hidden and where else value,
                default=option.default,
                origin=where or "default",
                help=option.help or "",
            )
        )
    return out


def assignments(files: Sequence[str]) -> dict[tuple[str, str], str]:
    """(group, name) -> file:line of the assignment that counts, which is the last one."""
    out = {}
    for file in files:
        group = "DEFAULT"
        for number, line in enumerate(Path(file).read_text(errors="replace").splitlines(), 1):
            section = re.match(r"\s*\[([^\]]+)\]", line)
            option = re.match(r"([\w.-]+)\s*[=:]", line)
            if section:
                group = section[1].strip()
            elif option:
                out[group, option[1].replace("-", "_")] = f"{file}:{number}"
    return out


def unknown_in(file: str) -> list[str]:
    """A sentence for each option of a file that nobody knows."""
    from kilonova.core import config

    return config.unknown_options(tables(), file)


def problems(files: Sequence[str]) -> list[str]:
    from oslo_config import iniparser

    from kilonova.core import config

    out = []
    for file in files:
        try:
            out += unknown_in(file)
            config.build(tables(), [file])
        except config.ConfigError as error:
            out.append(f"{file}: {plain(str(error))}")
        except (iniparser.ParseError, UnicodeDecodeError) as error:
            out.append(f"{file}: {' '.join(str(error).split())}")
    return out


# ---------------------------------------------------------------- writing


def sample_text() -> str:
    lines = ["# Every setting of Kilonova with its default. Lines that begin with # have no effect."]
    before = ""
    for group, option in every_option():
        if group != before:
            lines += ["", f"[{group}]"]
            before = group
        lines += ["", f"# {option.help or option.dest}"]
        choices = getattr(option.type, "choices", None)
        if choices:
            lines.append(f"# One of: {', '.join(str(choice) for choice in choices)}.")
        lines.append(f"#{option.dest} = {_text(option.default)}".rstrip())
    return "\n".join(lines) + "\n"


def _text(value: Any) -> str:
    """As a file has it."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (list, tuple)):
        return ",".join(_text(item) for item in value)
    if isinstance(value, dict):
        return ",".join(f"{key}:{item}" for key, item in value.items())
    return str(value)
