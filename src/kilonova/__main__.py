"""`kilonova` and `python -m kilonova`."""

import sys

from kilonova.cli.tree import kilonova


def main() -> int:
    """Runs the command line; the exit status."""
    return kilonova.run(sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())
