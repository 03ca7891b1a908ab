"""Tables and JSON. A table is drawn with rich where a person looks at it, and is plain text elsewhere."""

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import click
import msgspec

F = TypeVar("F", bound=Callable[..., Any])


def format_option(function: F) -> F:
    """-o json, as the parameter `output`."""
    return click.option(
        "-o", "--output", type=click.Choice(["table", "json"]), default="table", show_default=True, help="Form of the answer."
    )(function)


def state_option(function: F) -> F:
    """--state, as the parameter `state`."""
    return click.option("--state", metavar="DIR", help="State directory of the cloud.  [default: the only running cloud]")(function)


def is_plain() -> bool:
    return not sys.stdout.isatty() or "NO_COLOR" in os.environ or os.environ.get("TERM") == "dumb"


def show_line(text: str) -> None:
    """At once. When nobody reads any more (`kilonova up | head -1`), the work goes on all the same."""
    try:
        print(text, flush=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def show_json(value: object) -> None:
    click.echo(msgspec.json.format(msgspec.json.encode(value), indent=2).decode())


def show_table(columns: Sequence[str], rows: Sequence[Sequence[object]], colours: Mapping[str, str] | None = None) -> None:
    """colours: rich's style of cells with exactly this text."""
    cells = [["" if value is None else str(value) for value in row] for row in rows]
    if is_plain():
        widths = [max(len(line[i]) for line in [list(columns), *cells]) for i in range(len(columns))]
        for line in [list(columns), *cells]:
            click.echo("  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip())
        return
    from rich import box
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in columns:
        table.add_column(name, overflow="fold")
    for line in cells:
        table.add_row(*(f"[{style}]{escape(text)}[/]" if (style := (colours or {}).get(text)) else escape(text) for text in line))
    Console().print(table)
