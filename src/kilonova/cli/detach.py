"""`up --detach`: the same command line again in a process and a session of its own, which reports through a pipe until it is ready."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping

from kilonova.cli.failure import Failure
from kilonova.cli.output import show_line

REPORT = "KILONOVA_UP_REPORT"
"""Tells the new process where to report, and when we began: "<descriptor>:<seconds of the monotonic clock>"."""


def start(environment: Mapping[str, str], started: float) -> None:
    """Returns when the cloud is ready. Raises Failure with the sentence that it failed with."""
    reading, writing = os.pipe()
    child = subprocess.Popen(
        [sys.executable, "-P", "-m", "kilonova", *sys.argv[1:]],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        pass_fds=(writing,),
        start_new_session=True,
        env={**environment, REPORT: f"{writing}:{started!r}"},
    )
    os.close(writing)
    try:
        with os.fdopen(reading) as pipe:
            for line in pipe:
                kind, value = json.loads(line)
                if kind == "line":
                    show_line(value)
                elif kind == "ready":
                    return
                else:
                    child.wait()
                    raise Failure(value[0], code=value[1])
    except KeyboardInterrupt:
        child.send_signal(signal.SIGTERM)
        child.wait()
        raise
    code = child.wait()
    raise Failure(f"The cloud's process ended before it was ready (exit status {code}).", "Run `kilonova up` without --detach to see more.")
