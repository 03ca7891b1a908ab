"""What is ended before libvirt is opened, and what must not be: by processes that hold locks as QEMUs do, without libvirt."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kilonova.compute.drivers.libvirt.half_started import end_all, lock_holder, starting

HOLDER = """
import fcntl, sys, time
file = open(sys.argv[1], "w")
fcntl.lockf(file, fcntl.LOCK_EX, 1)
print("held", flush=True)
time.sleep(60)
"""


def status(state: str, reason: str, folder: Path, job: str = "<job type='none' async='start' flags='0x0'/>") -> str:
    """As libvirt 9.0 writes it, the domain itself left out."""
    monitor = f"<monitor path='{folder}/monitor.sock' type='unix'/>"
    return f"<!--\nWARNING: GENERATED\n-->\n<domstatus state='{state}' reason='{reason}' pid='0'>\n  {monitor}\n  {job}\n</domstatus>\n"


@pytest.mark.parametrize(("state", "reason", "ends"), [
    ("paused", "starting up", True), ("running", "booted", False), ("paused", "user", False), ("paused", "ioerror", False),
    ("shutdown", "unknown", False), ("running", "unpaused", False),
])  # fmt: skip
@pytest.mark.parametrize("job", ["", "<job type='none' async='start' flags='0x0'/>"])
def test_only_a_guest_whose_cpus_never_ran_is_half_started(state: str, reason: str, ends: bool, job: str) -> None:
    assert starting(status(state, reason, Path("/x"), job).encode()) is ends


@given(st.binary(max_size=80) | st.just(status("paused", "starting up", Path("/x")).encode()[:-5]))
def test_what_is_not_a_status_is_left_to_libvirt(content: bytes) -> None:
    assert starting(content) is False


@contextmanager
def holding(pid_file: Path) -> Iterator["subprocess.Popen[bytes]"]:
    child = subprocess.Popen([sys.executable, "-c", HOLDER, str(pid_file)], stdout=subprocess.PIPE)
    try:
        assert child.stdout is not None and child.stdout.readline() == b"held\n"
        yield child
    finally:
        child.kill()
        child.wait()
        child.stdout and child.stdout.close()


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "run" / "qemu").mkdir(parents=True)
    (tmp_path / "lib" / "qemu").mkdir(parents=True)
    return tmp_path


def write(root: Path, name: str, state: str, reason: str) -> Path:
    """The pid file's path."""
    folder = root / "lib" / "qemu" / f"domain-1-{name}"
    folder.mkdir()
    (root / "run" / "qemu" / f"{name}.xml").write_text(status(state, reason, folder))
    return root / "run" / "qemu" / f"{name}.pid"


def test_a_half_started_guest_is_ended_and_one_that_runs_is_not_touched(root: Path) -> None:
    half, runs = write(root, "half", "paused", "starting up"), write(root, "runs", "running", "booted")
    with holding(half) as ends, holding(runs) as stays:
        assert lock_holder(half) == ends.pid and lock_holder(runs) == stays.pid
        assert end_all(root) == ["half"]
        assert ends.wait(5) == -9 and stays.poll() is None
        assert sorted(file.name for file in root.glob("*/qemu/*")) == ["domain-1-runs", "runs.pid", "runs.xml"]
        assert end_all(root) == []


def test_a_process_that_only_has_the_number_is_not_ended(root: Path) -> None:
    half = write(root, "half", "paused", "starting up")
    with holding(root / "other") as other:
        half.write_text(str(other.pid))
        assert end_all(root) == ["half"]
        assert other.poll() is None and not half.exists()


def test_before_there_is_a_process(root: Path) -> None:
    write(root, "half", "paused", "starting up")
    assert end_all(root) == ["half"] and list(root.glob("*/qemu/*")) == []
    assert end_all(root / "nothing") == []


def test_a_folder_elsewhere_is_not_removed(root: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (root / "run" / "qemu" / "half.xml").write_text(status("paused", "starting up", elsewhere))
    assert end_all(root) == ["half"] and elsewhere.is_dir()
