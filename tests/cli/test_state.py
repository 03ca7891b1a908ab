"""State directories: which are taken, which refused and how, the lock, the mark."""

import os
import stat
from pathlib import Path

import pytest

from kilonova.cli import state
from kilonova.cli.failure import Failure


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KILONOVA_RUNTIME_DIR", str(tmp_path / "run"))
    monkeypatch.setenv("KILONOVA_STATE", str(tmp_path / "default"))


def test_a_new_one_is_private_and_marked(tmp_path: Path) -> None:
    made = state.prepare(tmp_path / "a" / "b")
    assert stat.S_IMODE(made.path.stat().st_mode) == 0o700
    again = state.prepare(made.path)
    assert again.mark == made.mark and not made.mark.ephemeral
    made.remember(driver="fake", hosts=3)
    assert state.prepare(made.path).mark.driver == "fake" and state.open_existing(made.path).mark.hosts == 3


def test_an_open_one_is_closed_to_others(tmp_path: Path) -> None:
    (tmp_path / "s").mkdir(mode=0o755)
    assert stat.S_IMODE(state.prepare(tmp_path / "s").path.stat().st_mode) == 0o700


def test_a_foreign_one_is_refused(tmp_path: Path) -> None:
    (tmp_path / "letters").mkdir()
    (tmp_path / "letters" / "dear.txt").touch()
    with pytest.raises(Failure, match=r"not a state directory of Kilonova: it holds dear\.txt"):
        state.prepare(tmp_path / "letters")
    assert os.listdir(tmp_path / "letters") == ["dear.txt"]
    with pytest.raises(Failure, match="There is no cloud in"):
        state.open_existing(tmp_path / "letters")


def test_a_newer_one_is_refused(tmp_path: Path) -> None:
    made = state.prepare(tmp_path / "s")
    made.write(state.MARK, '{"format": 7, "something": "new"}')
    with pytest.raises(Failure, match=r"newer Kilonova \(state format 7; this one"):
        state.prepare(tmp_path / "s")


@pytest.mark.parametrize("text", ["", "{", "[]", '{"format": "x"}', '{"format": 1}'])
def test_a_damaged_mark_is_refused(tmp_path: Path, text: str) -> None:
    made = state.prepare(tmp_path / "s")
    made.write(state.MARK, text)
    with pytest.raises(Failure, match="is damaged"):
        state.prepare(tmp_path / "s")


def test_one_holder_at_a_time(tmp_path: Path) -> None:
    first = state.prepare(tmp_path / "s")
    first.lock()
    first.write("run/pid", "4711\n")
    assert first.is_running()
    with pytest.raises(state.AlreadyRunning, match=r"process 4711"):
        state.prepare(tmp_path / "s").lock(patience_s=0.05)
    first.unlock()
    assert not first.is_running()
    second = state.prepare(tmp_path / "s")
    second.lock()
    second.unlock()


def test_running_clouds_are_found_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KILONOVA_STATE")
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(Failure, match="No cloud is running"):
        state.choose(None, "status")
    ephemeral, named = state.prepare_ephemeral(), state.prepare(tmp_path / "named")
    idle = state.prepare(tmp_path / "idle")
    for one in (ephemeral, named):
        one.lock()
        one.register()
    assert sorted(str(found.path) for found in state.running()) == sorted([str(ephemeral.path), str(named.path)])
    assert idle.path not in [found.path for found in state.running()]
    named.unregister()
    assert [found.path for found in state.running()] == [ephemeral.path]
    assert ephemeral.path.exists()
    for one in (ephemeral, named):
        one.unlock()


def test_the_runtime_directory_of_somebody_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "run").symlink_to(tmp_path)
    with pytest.raises(Failure, match="not a folder of this user"):
        state.prepare_ephemeral()


def test_files_appear_whole(tmp_path: Path) -> None:
    made = state.prepare(tmp_path / "s")
    made.write("run/x.json", '{"a": 1}')
    assert made.read_json("run/x.json") == {"a": 1}
    assert stat.S_IMODE((made.run / "x.json").stat().st_mode) == 0o600
    assert made.read_json("run/none.json") == {}
    assert [entry for entry in os.listdir(made.run) if entry.startswith(".")] == []
