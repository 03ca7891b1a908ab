"""The real command as a subprocess, with a runtime directory, a home and ports of its own."""

import os
import random
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from kilonova.app import PORTS


class Command:
    def __init__(self, home: Path) -> None:
        self.home = home
        self.runtime_dir = home / "run"
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("KILONOVA_", "OS_", "XDG_", "MALLOC_"))}
        self.environment = {**kept, "HOME": str(home), "KILONOVA_RUNTIME_DIR": str(self.runtime_dir)}
        self.offset = free_offset()
        self.quick = home / "quick.conf"
        self.quick.write_text("[identity]\npassword_hash_rounds = 4\n")

    def __call__(self, *arguments: str, **environment: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [sys.executable, "-P", "-m", "kilonova", *arguments],
            env={**self.environment, **environment},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    def up(self, *arguments: str, **environment: str) -> "subprocess.CompletedProcess[str]":
        usual = ("--detach", "--driver", "fake", "--port-offset", str(self.offset), "--config", str(self.quick))
        return self("up", *usual, *arguments, **environment)

    def popen(self, *arguments: str) -> "subprocess.Popen[str]":
        return subprocess.Popen(
            [sys.executable, "-P", "-m", "kilonova", *arguments],
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )


def free_offset() -> int:
    """An offset at which every port of a cloud is free on loopback."""
    while True:
        offset = random.randrange(12000, 50000)
        try:
            for port in PORTS.values():
                with socket.socket() as probe:
                    probe.bind(("127.0.0.1", port + offset))
        except OSError:
            continue
        return offset


@pytest.fixture
def kilonova(tmp_path: Path) -> Iterator[Command]:
    command = Command(tmp_path)
    yield command
    for mark in [*tmp_path.glob("*/kilonova.state"), *tmp_path.glob("run/*/kilonova.state")]:
        command("down", "--state", str(mark.parent), "--destroy")
