"""A server program under a test: its own folder in /tmp, a free port, another user than root, and an end by its id."""

import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def folder(name: str, user: str) -> Path:
    """A new folder that belongs to the user of the server (or to us, when we are not root)."""
    made = Path(tempfile.mkdtemp(prefix=f"kilonova-{name}-"))
    if os.geteuid() == 0:
        entry = pwd.getpwnam(user)
        os.chown(made, entry.pw_uid, entry.pw_gid)
    return made


def as_user(user: str, command: Sequence[str], *, end: str = "") -> list[str]:
    """The command under that user. `end`: the signal that it gets when the process that started it dies."""
    options = ["--pdeathsig", end] if end else []
    if os.geteuid() == 0:
        options += ["--reuid", user, "--regid", user, "--clear-groups"]
    return ["setpriv", *options, "--", *command] if options else list(command)


class Server:
    """One program that runs until `stop`. Subclasses say how it is prepared, started and asked."""

    name = ""
    user = ""
    fast_end = signal.SIGTERM

    def __init__(self, *, address: str = "127.0.0.1", namespace: str = "", port: int = 0) -> None:
        """namespace: the network namespace that it runs in, where `address` is; a port may then be chosen (0: a free one)."""
        self.folder = folder(self.name, self.user)
        self.address = address
        self.namespace = namespace
        self.port = port or free_port()
        self.process: subprocess.Popen[bytes] | None = None

    def run(self, *command: str, stdin: str = "") -> str:
        """What it printed. Raises RuntimeError."""
        done = subprocess.run(
            self.inside(as_user(self.user, command)), cwd=self.folder, input=stdin.encode(), capture_output=True, timeout=120, check=False
        )
        if done.returncode:
            raise RuntimeError(f"{command[0]}: {(done.stderr or done.stdout).decode(errors='replace')[-2000:]}")
        return done.stdout.decode(errors="replace")

    def inside(self, command: list[str]) -> list[str]:
        """The command line that runs it in our namespace."""
        return ["nsenter", f"--net=/run/netns/{self.namespace}", "--", *command] if self.namespace else command

    def spawn(self, *command: str) -> None:
        signal_name = signal.Signals(self.fast_end).name.removeprefix("SIG")
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                self.inside(as_user(self.user, command, end=signal_name)),
                cwd=self.folder, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip

    def wait(self, limit_s: float = 60) -> None:
        """Until it answers."""
        until = time.monotonic() + limit_s
        while not self.answers():
            assert self.process is not None
            if self.process.poll() is not None or time.monotonic() > until:
                tail = (self.folder / "log").read_text(errors="replace")[-2000:]
                raise RuntimeError(f"{self.name} did not start:\n{tail}")
            time.sleep(0.02)

    def answers(self) -> bool:
        raise NotImplementedError

    def kill(self) -> None:
        """kill -9, and wait until it is gone. The data stay."""
        self._end(signal.SIGKILL)

    def _end(self, number: int) -> None:
        if self.process is not None:
            self.process.send_signal(number)
            try:
                self.process.wait(20)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait(20)
            self.process = None

    def stop(self) -> None:
        self._end(self.fast_end)
        shutil.rmtree(self.folder, ignore_errors=True)
