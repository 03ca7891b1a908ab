"""What one release writes, the other reads."""

import json
import subprocess
from pathlib import Path

import pytest

from tests.upgrade.older import Release, ours
from tests.wire.test_wire import MODULES, breaks, form

SAMPLES = Path(__file__).with_name("samples.py")


def run(release: Release, verb: str, file: Path) -> str:
    done = subprocess.run([release.python, "-P", str(SAMPLES), verb, str(file)], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, f"{release.name} {verb}:\n{done.stdout}{done.stderr}"
    return done.stdout


@pytest.mark.parametrize("forth", [True, False], ids=["N-1 to N", "N to N-1"])
def test_messages_are_understood(before: Release, tmp_path: Path, *, forth: bool) -> None:
    writer, reader = (before, ours()) if forth else (ours(), before)
    run(writer, "write", tmp_path / "samples.json")
    known, _, of = run(reader, "read", tmp_path / "samples.json").split()[:3]
    assert int(known) > 60
    if forth:
        assert int(known) == len(json.loads((tmp_path / "samples.json").read_text())), f"{known} {of}"


@pytest.mark.parametrize("module", MODULES)
def test_the_recorded_forms_of_the_older_one_still_hold(before: Release, module: str) -> None:
    path = before.sources / "tests" / "wire" / f"{module}.json"
    if path.exists():
        assert not breaks(json.loads(path.read_text()), form(module))


def test_a_message_that_is_not_understood_is_seen(before: Release, tmp_path: Path) -> None:
    file = tmp_path / "samples.json"
    run(ours(), "write", file)
    told = json.loads(file.read_text())
    told["compute.rpc.Destroy"]["full"][1] = json.dumps({**json.loads(told["compute.rpc.Destroy"]["full"][1]), "server_id": "another"})
    file.write_text(json.dumps(told))
    with pytest.raises(AssertionError, match="server_id was another"):
        run(before, "read", file)
