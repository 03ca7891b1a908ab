"""The tree of commands: help everywhere, wrong usage, completion; config, ssh, explain, forget in their parts."""

import configparser
import os
import shutil
import subprocess
import sys
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import pytest

from kilonova.cli import config, forget, ssh, state
from kilonova.cli.exec import namespace
from kilonova.cli.explain import explain
from kilonova.cli.failure import Failure
from kilonova.cli.rest import Refused, Rest, _rest_of, _sentence
from kilonova.cli.tree import COMMANDS, kilonova
from kilonova.compute.drivers.libvirt.config import short_alias
from kilonova.network.drivers.linux import netns


def commands(group: click.Group, path: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    ctx = click.Context(group)
    out = []
    for name in group.list_commands(ctx):
        found = group.get_command(ctx, name)
        assert found is not None, name
        out.append((*path, name))
        if isinstance(found, click.Group):
            out += commands(found, (*path, name))
    return out


def test_every_command_has_help(capsys: pytest.CaptureFixture[str]) -> None:
    found = commands(kilonova)
    assert {path[0] for path in found} >= set(COMMANDS)
    for path in found:
        assert kilonova.run([*path, "--help"]) == 0
        text = capsys.readouterr().out
        assert text.startswith("Usage: kilonova " + " ".join(path)) and len(text.splitlines()) > 4, path


@pytest.mark.parametrize("arguments", [["fly"], ["up", "--wings"], ["up", "--port-offset", "x"], ["ssh"], ["config", "melt"], ["exec"]])
def test_wrong_usage(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert kilonova.run(arguments) == 2
    said = capsys.readouterr().err
    assert len(said.splitlines()) == 1 and "--help` tells how it is used" in said


def test_completion(capsys: pytest.CaptureFixture[str]) -> None:
    for shell in ("bash", "zsh", "fish"):
        assert kilonova.run(["completion", shell]) == 0
        assert "_KILONOVA_COMPLETE" in capsys.readouterr().out


# ---------------------------------------------------------------- config


def test_the_sample_is_a_file_that_changes_nothing(tmp_path: Path) -> None:
    text = config.sample_text()
    parsed = configparser.RawConfigParser()
    parsed.read_string("\n".join(line[1:] if line.startswith("#") and not line.startswith("# ") else line for line in text.splitlines()))
    assert parsed.get("token", "expiration") == "3600" and parsed.get("cloud", "region") == "RegionOne"
    (tmp_path / "sample.conf").write_text(text)
    assert config.problems([str(tmp_path / "sample.conf")]) == []
    assert all(setting.origin == "default" for setting in config.settings([str(tmp_path / "sample.conf")]))


def test_origin_is_the_line_that_counts(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("[token]\nexpiration = 5\n")
    (tmp_path / "b").write_text("# hm\n[cloud]\nregion=X\n[token]\nexpiration: 7\n")
    found = {(s.group, s.name): s for s in config.settings([str(tmp_path / "a"), str(tmp_path / "b")])}
    assert found["token", "expiration"].value == 7 and found["token", "expiration"].origin == f"{tmp_path / 'b'}:5"
    assert found["cloud", "region"].origin == f"{tmp_path / 'b'}:3" and found["cloud", "hosts"].origin == "default"


def test_check_tells_line_and_likely_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "c").write_text("[token]\nexpiraton = 5\n[identity]\npassword_hash_rounds = twelve\n")
    assert kilonova.run(["config", "check", str(tmp_path / "c")]) == 1
    out = capsys.readouterr()
    assert "c:2: [token] expiraton is not known. Did you mean expiration?" in out.out and "'twelve'" in out.out
    assert "2 things are wrong" in out.err and "LocationInfo" not in out.out
    (tmp_path / "c").write_text("not an option\n")
    assert kilonova.run(["config", "check", str(tmp_path / "c")]) == 1


def test_every_setting_has_a_sentence() -> None:
    assert [name for group, option in config.every_option() if not (name := option.name) or not option.help] == []


# ---------------------------------------------------------------- ssh, explain, rest

SERVER: dict[str, Any] = {
    "id": "s1",
    "name": "web",
    "status": "ACTIVE",
    "OS-EXT-SRV-ATTR:host": "h1",
    "addresses": {"private": [{"addr": "10.0.0.5", "OS-EXT-IPS:type": "fixed"}, {"addr": "203.0.113.9", "OS-EXT-IPS:type": "floating"}]},
}


def test_ssh_prefers_the_floating_ip_and_passes_words_on() -> None:
    assert ssh.address(SERVER) == ("203.0.113.9", True)
    assert ssh.address({**SERVER, "addresses": {"private": SERVER["addresses"]["private"][:1]}}) == ("10.0.0.5", False)
    built = ssh.ssh_command("203.0.113.9", key="k", user="cirros", words=("hostname", "-f"))
    assert built[-4:] == ["203.0.113.9", "--", "hostname", "-f"] and built[built.index("-l") + 1] == "cirros" and built[0] == "ssh"
    with pytest.raises(Failure, match="has no address"):
        ssh.address({"name": "web", "status": "BUILD", "addresses": {}})


def test_a_fake_cloud_has_no_namespace(tmp_path: Path) -> None:
    made = state.prepare(tmp_path / "s")
    with pytest.raises(Failure, match="no dataplane at the moment"):
        namespace(made)
    made.write("run/namespaces.json", '{"hosts": {"h1": "kn-x-h1", "h2": "kn-x-h2"}}')
    assert namespace(made) == "kn-x-h1" and namespace(made, "h2") == "kn-x-h2"
    with pytest.raises(Failure, match="There is no host h3"):
        namespace(made, "h3")
    made.remember(driver="fake")
    with pytest.raises(Failure, match="dataplane is fake"):
        namespace(made)


class FakeCompute(Rest):
    def __init__(self, own: dict[str, Any] | None) -> None:
        super().__init__({"compute": "http://cloud/v2.1"}, "token", None)
        self.own = own

    def at_root(self, service: str) -> "Rest":
        return self

    def ask(self, method: str, service: str, path: str, body: Any = None) -> tuple[dict[str, str], Any]:
        if path == "/servers/s1":
            return {}, {"server": {**SERVER, "fault": {"message": "No valid host was found."}}}
        if path.startswith("/servers/detail?"):
            return {}, {"servers": [SERVER, {**SERVER, "id": "s2", "name": "web2"}]}
        if path == "/servers/s1/os-instance-actions":
            return {}, {"instanceActions": [{"action": "create", "start_time": "T1", "request_id": "req-1", "message": None}]}
        if path == "/servers/s1/os-instance-actions/req-1":
            return {}, {
                "instanceAction": {"events": [{"event": "compute_spawn", "start_time": "T2", "result": "Error", "details": "full"}]}
            }
        if path.endswith("/explanation") and self.own is not None:
            return {}, self.own
        raise Refused("compute", 404, "Instance could not be found.")


def test_explain_by_our_own_account() -> None:
    own = {
        "summary": "1 host considered",
        "hosts": [{"host": "h2", "filter": "memory", "reason": "64 MiB free of 128 wanted"}],
        "timeline": [{"at": "T", "what": "create asked for"}],
    }
    found = explain(FakeCompute(own), "web")
    assert (found.id, found.host, found.summary) == ("s1", "h1", "1 host considered")
    assert found.hosts[0].reason == "64 MiB free of 128 wanted" and found.timeline[0].what == "create asked for"


def test_explain_by_the_public_account() -> None:
    found = explain(FakeCompute(None), "s1")
    assert found.fault == "No valid host was found." and found.hosts == []
    assert [(moment.at, moment.what, moment.details) for moment in found.timeline] == [
        ("T1", "create asked for", None),
        ("T2", "compute_spawn: Error", "full"),
    ]
    with pytest.raises(Failure, match="There is no server nothing"):
        explain(FakeCompute(None), "nothing")


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        (b'{"itemNotFound": {"code": 404, "message": "gone"}}', "gone"),
        (b'{"error": {"code": 401, "message": "who?", "title": "Unauthorized"}}', "who?"),
        (b'{"errors": [{"status": 409, "detail": "taken"}]}', "taken"),
        (b'{"NeutronError": {"type": "X", "message": "no", "detail": ""}}', "no"),
        (b"<html>", "<html>"),
    ],
)
def test_sentences_of_every_family(raw: bytes, said: str) -> None:
    assert _sentence(raw) == said


def test_next_links_stay_on_the_endpoint() -> None:
    assert _rest_of("http://h:1/v2.1/servers?marker=x", "http://h:1/v2.1") == "/servers?marker=x"
    assert _rest_of("http://other/v2.1/servers?marker=x", "http://h:1/v2.1") == "/servers?marker=x"
    assert _rest_of("/v2/images?marker=x", "http://h:1") == "/v2/images?marker=x"


# ---------------------------------------------------------------- forget


def qemu_stand_in(folder: Path, argument: Path) -> "subprocess.Popen[bytes]":
    """A process that looks like a guest: its name, and a file of the state among its arguments."""
    program = folder / "qemu-system-test"
    if not program.exists():
        shutil.copy("/bin/bash", program)
    # `read` is the shell's own: a child between its fork and its exec would look like a second guest.
    return subprocess.Popen([str(program), "-c", "read -t 100", f"file={argument}"], stdin=subprocess.PIPE)


@pytest.mark.parametrize("named", [Path, short_alias], ids=["by its path", "by its short name"])
def test_guests_of_this_state_end_and_others_live(tmp_path: Path, named: Callable[[Path], Path]) -> None:
    """A guest knows a state directory with a long path by a short one."""
    mine, other = state.prepare(tmp_path / "a"), state.prepare(tmp_path / "b")
    guest, neighbour = qemu_stand_in(tmp_path, named(mine.path) / "disk"), qemu_stand_in(tmp_path, named(other.path) / "disk")
    try:
        end = time.monotonic() + 5
        while not (forget.guests(mine) and forget.guests(other)) and time.monotonic() < end:
            time.sleep(0.01)
        assert forget.guests(mine) == [guest.pid]
        assert forget.forget(mine) == ["1 guest"]
        assert guest.wait(5) != 0 and neighbour.poll() is None and mine.path.exists()
    finally:
        for process in (guest, neighbour):
            process.kill()
            process.wait()


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
def test_namespaces_of_this_cloud_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KILONOVA_RUNTIME_DIR", str(tmp_path / "run"))
    made = state.prepare_ephemeral()
    stranger = f"kn-{uuid.uuid4().hex[:8]}-h"
    try:
        netns.create(made.namespace_prefix + "h1")
        netns.create(stranger)
        done = forget.forget(made)
        assert done[0] == "1 network namespace"
        assert netns.names(made.namespace_prefix) == [] and netns.exists(stranger) and not made.path.exists()
    finally:
        netns.remove(stranger)
        netns.remove(made.namespace_prefix + "h1")


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
def test_exec_runs_inside(tmp_path: Path) -> None:
    made = state.prepare(tmp_path / "s")
    name = made.namespace_prefix + "h1"
    made.write("run/namespaces.json", f'{{"hosts": {{"h1": "{name}"}}}}')
    netns.create(name)
    try:
        command = ["exec", "--state", str(made.path), "--", "readlink", "/proc/self/ns/net"]
        done = subprocess.run([sys.executable, "-P", "-m", "kilonova", *command], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert done.stdout.startswith("net:[") and done.stdout.strip() != os.readlink("/proc/self/ns/net")
        missing = subprocess.run([sys.executable, "-P", "-m", "kilonova", *command[:4], "no-such-command"], capture_output=True, text=True)
        assert missing.returncode == 127 and "no-such-command" in missing.stderr
    finally:
        netns.remove(name)
