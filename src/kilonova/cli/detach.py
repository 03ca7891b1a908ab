"""`up --detach`: the cloud in a process of its own, in a session of its own, that reports through a pipe until every API answers."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping

import click
import msgspec

from kilonova.cli.choices import Choices
from kilonova.cli.failure import Failure


def start(choices: Choices, environment: Mapping[str, str]) -> None:
    """Returns when the cloud is ready. Raises Failure with the sentence that it failed with."""
    reading, writing = os.pipe()
    arguments = [str(writing), msgspec.json.encode(choices).decode(), repr(time.monotonic())]
    child = subprocess.Popen(
        [sys.executable, "-P", "-m", "kilonova", "up-detached", "--", *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        pass_fds=(writing,),
        start_new_session=True,
        env=dict(environment),
        cwd="/",
    )
    os.close(writing)
    try:
        with os.fdopen(reading) as pipe:
            for line in pipe:
                kind, value = json.loads(line)
                if kind == "line":
                    click.echo(value)
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
