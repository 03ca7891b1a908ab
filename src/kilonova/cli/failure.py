"""What a command says when it cannot do what was asked."""

import re
import sys

import click


class Failure(click.ClickException):
    """One sentence, and what to do about it. Exit status 1."""

    def __init__(self, sentence: str, advice: str = "", code: int = 1, *, expected: bool = True) -> None:
        super().__init__(f"{sentence} {advice}".strip())
        self.code = code
        self.expected = expected
        """Unless it is a mistake of the program, of which the log keeps the trace."""


_LOCATION = re.compile(r"Value for option (\S+) from LocationInfo\(.*?\) is not valid: ")


def plain(text: str) -> str:
    """One line that ends with a full stop; without oslo.config's internals."""
    return " ".join(_LOCATION.sub("", text).split()).rstrip(".") + "."


def say(command: str, sentence: str) -> None:
    """A sentence on standard error, after the name of the command; line breaks inside are taken out."""
    print(f"{command}: {' '.join(sentence.split())}", file=sys.stderr)
