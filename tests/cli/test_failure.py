"""What a process says when it cannot start."""

from pathlib import Path

from kilonova.cli.lifetime import failure_of
from kilonova.cli.state import Mark, StateDir
from kilonova.core.db import OutcomeUnknown


def test_a_server_that_broke_is_not_called_a_file(tmp_path: Path) -> None:
    state = StateDir(tmp_path, Mark(format=1, id="0", created_at="", version=""))
    error = OutcomeUnknown("the connection broke during a commit")
    assert "[database] connection names it" in failure_of(error, state).message
    state.database.touch()
    assert str(state.database) in failure_of(error, state).message
