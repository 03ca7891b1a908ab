"""The doctor's checks, each with something wrong planted for it to find."""

import json
import os
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from kilonova.cli import state
from kilonova.cli.checks import Finding, Subject, agreement, files, machine, process
from kilonova.cli.doctor import CHECKS, examine
from tests.cli.conftest import Command


def subject(made: state.StateDir, rest: Any = None) -> Subject:
    return Subject(state=made, running=rest is not None, urls={}, rest=rest)


def test_permissions(tmp_path: Path) -> None:
    made = state.prepare(tmp_path / "s")
    made.write("clouds.yaml", "")
    assert list(files.permissions(subject(made))) == []
    made.clouds_yaml.chmod(0o644)
    (finding,) = files.permissions(subject(made))
    assert finding.severity == "error" and "clouds.yaml" in finding.sentence and finding.fix
    finding.fix()
    assert list(files.permissions(subject(made))) == []


def test_database(tmp_path: Path) -> None:
    made = state.prepare(tmp_path / "s")
    with sqlite3.connect(made.database) as connection:
        connection.executescript("CREATE TABLE a (b TEXT); CREATE INDEX i ON a (b)")
        connection.executemany("INSERT INTO a VALUES (?)", [("x" * 500,)] * 100)
    connection.close()
    assert list(files.database(subject(made))) == []
    raw = bytearray(made.database.read_bytes())
    raw[8192:12288] = b"\xff" * 4096
    made.database.write_bytes(raw)
    found = list(files.database(subject(made)))
    assert found and all(finding.severity == "error" and "damaged" in finding.sentence for finding in found)


@pytest.mark.parametrize(
    ("flags", "device", "verdict"),
    [("fpu vmx sse", True, ""), ("fpu svm sse", True, ""), ("fpu sse", True, "neither vmx nor svm"), ("fpu vmx", False, "there is no")],
)
def test_kvm_is_judged_by_device_and_processor(tmp_path: Path, flags: str, device: bool, verdict: str) -> None:
    (tmp_path / "cpuinfo").write_text(f"processor\t: 0\nflags\t\t: {flags}\n")
    if device:
        (tmp_path / "kvm").touch()
    said = machine.kvm_verdict(tmp_path / "kvm", tmp_path / "cpuinfo")
    assert (verdict in said) if verdict else said == ""


def test_a_clock_that_went_back(tmp_path: Path) -> None:
    made = state.prepare(tmp_path / "s")
    made.database.touch()
    assert list(machine.clock(subject(made))) == []
    os.utime(made.database, (4e9, 4e9))
    (finding,) = machine.clock(subject(made))
    assert "went back" in finding.sentence


def test_a_cloud_that_died(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KILONOVA_RUNTIME_DIR", str(tmp_path / "run"))
    monkeypatch.setenv("KILONOVA_STATE", str(tmp_path / "default"))
    made = state.prepare_ephemeral()
    made.write("run/pid", "99999999\n")
    findings = [*process.alive(subject(made)), *process.leftovers(subject(made))]
    assert [finding.check for finding in findings] == ["process", "leftovers"] and "99999999" in findings[0].sentence
    assert findings[1].fix
    findings[1].fix()
    assert not made.path.exists()


class FakeRest:
    """The four services of a small cloud; a test changes the rows."""

    def __init__(self) -> None:
        self.urls = dict.fromkeys(("compute", "placement", "network"), "http://cloud")
        self.servers: list[Any] = [
            {
                "id": "s1",
                "name": "one",
                "status": "ACTIVE",
                "OS-EXT-STS:task_state": None,
                "OS-EXT-STS:power_state": 1,
                "OS-EXT-SRV-ATTR:host": "h1",
                "OS-EXT-SRV-ATTR:hypervisor_hostname": "h1",
            }
        ]
        self.ports: list[Any] = [{"id": "p1", "device_id": "s1", "device_owner": "compute:nova", "status": "ACTIVE"}]
        self.holders: dict[str, Any] = {"s1": {}}
        self.state = "up"

    def every(self, service: str, path: str, key: str) -> list[Any]:
        return {"servers": self.servers, "ports": self.ports}[key]

    def get(self, service: str, path: str) -> Any:
        return {
            "/os-services": {"services": [{"binary": "nova-compute", "host": "h1", "state": self.state}]},
            "/resource_providers": {"resource_providers": [{"uuid": "r1", "name": "h1"}]},
            "/resource_providers/r1/allocations": {"allocations": self.holders},
        }[path]


def disagreements(rest: FakeRest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Finding]:
    monkeypatch.setattr(agreement, "SECOND_LOOK_S", 0.0)
    return list(agreement.agreement(subject(state.prepare(tmp_path / "s"), rest)))


def test_services_that_agree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert disagreements(FakeRest(), tmp_path, monkeypatch) == []


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda rest: setattr(rest, "holders", {"s1": {}, "s9": {}}), "for s9, but there is no such server"),
        (lambda rest: setattr(rest, "holders", {}), "without an allocation"),
        (lambda rest: rest.ports[0].update(device_id="s9"), "server s9, which does not exist"),
        (lambda rest: rest.ports[0].update(status="DOWN"), "its port p1 is DOWN"),
        (lambda rest: setattr(rest, "state", "down"), "has not reported"),
        (lambda rest: rest.servers[0].update({"status": "ERROR", "fault": {"message": "no luck"}}), "no luck"),
    ],
)
def test_disagreement_is_found(change: Any, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rest = FakeRest()
    change(rest)
    found = disagreements(rest, tmp_path, monkeypatch)
    assert any(said in finding.sentence for finding in found), found


def test_what_passes_by_itself_is_not_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Passing(FakeRest):
        looks = 0

        def get(self, service: str, path: str) -> Any:
            if path.endswith("/allocations"):
                self.looks += 1
                return {"allocations": {} if self.looks == 1 else {"s1": {}}}
            return super().get(service, path)

    assert disagreements(Passing(), tmp_path, monkeypatch) == []


def test_every_check_bears_a_machine_without_a_cloud() -> None:
    found = list(examine(Subject(state=None, running=False, urls={})))
    assert {finding.check for finding in found} <= {name for name, _ in CHECKS}
    assert any("No cloud is running" in finding.sentence for finding in found)


def test_command(kilonova: Command, tmp_path: Path) -> None:
    made = tmp_path / "s"
    assert kilonova.up("--state", str(made), "--services", "identity").returncode == 0
    (made / "admin-openrc").chmod(0o640)
    sick = kilonova("doctor", "--state", str(made), "-o", "json")
    errors = [finding for finding in json.loads(sick.stdout) if finding["severity"] == "error"]
    assert sick.returncode == 1 and [finding["check"] for finding in errors] == ["permissions"] and errors[0]["fixable"]
    assert kilonova("doctor", "--state", str(made), "--fix").returncode == 0
    well = kilonova("doctor", "--state", str(made))
    assert well.returncode == 0 and "error" not in well.stdout
