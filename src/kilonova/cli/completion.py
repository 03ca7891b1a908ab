"""kilonova completion: a script for the shell, made from the tree of commands."""

import click
from click.shell_completion import get_completion_class


@click.command("completion")
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def command(shell: str) -> None:
    """Print a script that makes SHELL complete commands and options: `eval "$(kilonova completion bash)"`."""
    kind = get_completion_class(shell)
    assert kind is not None
    root = click.get_current_context().find_root().command
    click.echo(kind(root, {}, "kilonova", "_KILONOVA_COMPLETE").source())
