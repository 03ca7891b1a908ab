"""Set-up: the pins agree with each other, and a step runs only when there is something to do."""

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

TOP = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(TOP / "tools"))
import setup  # type: ignore[import-not-found]  # noqa: E402

FILES = ["constraints.txt", "constraints-clients.txt", "constraints-tempest.txt", "constraints-peers.txt"]
PIN = re.compile(r"([A-Za-z0-9_.-]+)==([A-Za-z0-9_.+!-]+)")


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def pins(file: str) -> dict[str, str]:
    lines = [line for line in (TOP / file).read_text().splitlines() if not line.startswith("#")]
    found = [PIN.fullmatch(line) for line in lines]
    unpinned = [line for line, pin in zip(lines, found, strict=True) if not pin]
    assert unpinned == [], "each line is name==version: no ranges, no addresses, no paths"
    return {normal(pin[1]): pin[2] for pin in found if pin}


@pytest.mark.parametrize("file", FILES)
def test_constraint_files_pin_each_package_once(file: str) -> None:
    lines = [line for line in (TOP / file).read_text().splitlines() if not line.startswith("#")]
    assert len(pins(file)) == len(lines) > 40


def test_direct_dependencies_have_the_version_of_the_constraint_file() -> None:
    project = tomllib.loads((TOP / "pyproject.toml").read_text())["project"]
    wanted = [*project["dependencies"]]
    for extra, requirements in project["optional-dependencies"].items():
        wanted += [] if extra == "libvirt" else requirements  # Debian's bindings, see tools/setup.py
    constrained = pins("constraints.txt")
    for requirement in wanted:
        pin = PIN.fullmatch(requirement)
        assert pin, f"{requirement} is not pinned with =="
        assert constrained[normal(pin[1])] == pin[2], requirement


def test_the_clients_are_the_measured_ones() -> None:
    clients = pins("constraints-clients.txt")
    assert (clients["python-openstackclient"], clients["openstacksdk"]) == ("10.5.0", "4.22.0")


def test_fingerprint_sees_contents_names_and_modes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(setup, "TOP", tmp_path)
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "a").write_text("one")
    seen = [setup.fingerprint(folder)]
    (folder / "a").write_text("two")
    seen.append(setup.fingerprint(folder))
    (folder / "a").chmod(0o755)
    seen.append(setup.fingerprint(folder))
    (folder / "a").rename(folder / "b")
    seen.append(setup.fingerprint(folder))
    assert len(set(seen)) == 4
    assert setup.fingerprint(folder) == seen[-1]
    assert setup.fingerprint("ab", "c") != setup.fingerprint("a", "bc")


def test_a_step_is_done_for_one_key_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(setup, "STATE", tmp_path)
    assert not setup.done("venv", "k1")
    setup.mark("venv", "k1")
    assert setup.done("venv", "k1")
    assert not setup.done("venv", "k2")


def test_missing_packages_without_root_are_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(setup, "missing_packages", lambda: ["qemu-utils", "mtools"])
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(setup.SetupError, match=r"only root may install them: qemu-utils mtools\. Run `make setup` as root\.$"):
        setup.set_up_packages()


def test_a_failing_program_is_shown_with_the_end_of_its_output(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(setup, "TOP", tmp_path)
    monkeypatch.setattr(setup, "STATE", tmp_path / ".setup")
    with pytest.raises(setup.SetupError, match=r"failed with exit status 3; the end of \.setup/log/try\.log:\nno such thing$"):
        setup.run("try", "sh", "-c", "echo no such thing; exit 3")


def test_an_unknown_step_names_the_known_ones() -> None:
    asked = subprocess.run([sys.executable, str(TOP / "tools" / "setup.py"), "all"], capture_output=True, text=True, check=False)
    assert asked.returncode == 2
    assert asked.stderr == "setup: no step 'all'; there are: packages venv guest clients tempest peers\n"
