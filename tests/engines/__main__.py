"""python -m tests.engines postgresql|mariadb COMMAND …: run a command with a server of its own, named in KILONOVA_TEST_DATABASE."""

import os
import signal
import subprocess
import sys

from tests.engines.mariadb import MariaDB
from tests.engines.postgresql import PostgreSQL

ENGINES: dict[str, type[PostgreSQL] | type[MariaDB]] = {"postgresql": PostgreSQL, "mariadb": MariaDB}


def main(arguments: list[str]) -> int:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # as an exception, so that the server is ended
    server = ENGINES[arguments[0]]()
    try:
        server.start()
        return subprocess.run(arguments[1:], env={**os.environ, "KILONOVA_TEST_DATABASE": server.url()}, check=False).returncode
    finally:
        server.stop()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
