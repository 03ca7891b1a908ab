"""The tree of commands. Each is a module of this package with the attribute `command`; out-of-tree ones are entry points `kilonova.cli`."""

import errno
import importlib.metadata
import os
import sys
from collections.abc import Sequence

import click

from kilonova import __version__
from kilonova.cli.failure import Failure, say
from kilonova.core import plugins

COMMANDS = {
    "up": "Start a whole cloud.",
    "down": "Stop a cloud; guests go on running unless --destroy.",
    "status": "What runs.",
    "doctor": "What is wrong, and what to do about it.",
    "security-check": "The checklists of OpenStack's Security Guide, asked of this cloud.",
    "ssh": "Log in to a server.",
    "exec": "Run a command inside the cloud's own network.",
    "explain": "Why a server is where it is, or why it is nowhere.",
    "where": "Where in the source a thing is done.",
    "config": "Show, check or write a configuration.",
    "db": "The database.",
    "nova-manage": "Cells and databases, in the words of Nova's own command.",
    "nova-status": "Whether databases and cells are fit for this release, in the words of Nova's own command.",
    "join-token": "On a controller: a token with which another machine may join the cloud.",
    "join": "Make this machine a hypervisor of a cloud.",
    "leave": "On a controller: shut out a host that joined.",
    "serve": "Run chosen services in the foreground.",
    "completion": "Print a script for the shell's completion.",
}


class Tree(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return [*COMMANDS, *sorted(entry.name for entry in importlib.metadata.entry_points(group="kilonova.cli"))]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        builtin = {name: f"kilonova.cli.{name.replace('-', '_')}:command" for name in COMMANDS}
        try:
            found = plugins.load("kilonova.cli", cmd_name, builtin)
        except plugins.UnknownPlugin:
            return None
        assert isinstance(found, click.Command)
        return found

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Without loading every command."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, COMMANDS.get(name, "")) for name in self.list_commands(ctx)])

    def run(self, arguments: Sequence[str]) -> int:
        """Exit status: 0, 1 for a failure, 2 for wrong usage, 130 after Ctrl-C."""
        try:
            result = self.main(args=list(arguments), prog_name="kilonova", standalone_mode=False)
        except click.exceptions.NoArgsIsHelpError as error:
            error.show()
            return 2
        except click.UsageError as error:
            path = error.ctx.command_path if error.ctx else "kilonova"
            say(path, f"{error.format_message().rstrip('.')}. `{path} --help` tells how it is used.")
            return 2
        except Failure as failure:
            say("kilonova" if not arguments or arguments[0] not in COMMANDS else f"kilonova {arguments[0]}", failure.message)
            return failure.code
        except click.ClickException as error:
            say("kilonova" if not arguments or arguments[0] not in COMMANDS else f"kilonova {arguments[0]}", error.message)
            return error.exit_code
        except (click.Abort, KeyboardInterrupt):
            say("kilonova", "Interrupted.")
            return 130
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 141
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EMFILE):
                say("kilonova", f"{error.filename or 'A file'}: {error.strerror}.")
                return 1
            raise
        return result if isinstance(result, int) else 0  # what a command gave to ctx.exit


@click.group(cls=Tree, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110}, invoke_without_command=False)
@click.version_option(__version__, message="kilonova %(version)s")
def kilonova() -> None:
    """A whole OpenStack-compatible cloud in one package."""
