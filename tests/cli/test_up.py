"""A cloud's life from outside: up, status, a second up, kill -9 and resume, down; and what up says when it cannot."""

import json
import os
import re
import signal
import socket
import stat
import subprocess
import time
import urllib.request
from pathlib import Path

import pytest
import yaml  # type: ignore[import-untyped]

from kilonova.app import PORTS
from kilonova.cli.rest import Rest
from kilonova.cli.state import open_existing
from tests.cli.conftest import Command


def modes(state: Path) -> dict[str, int]:
    names = ("", "clouds.yaml", "admin-openrc", "demo-openrc", "kilonova.conf", "kilonova.db", "log/kilonova.log", "run/pid")
    return {name: stat.S_IMODE((state / name).stat().st_mode) for name in names}


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"


def test_life(kilonova: Command, tmp_path: Path) -> None:
    state = tmp_path / "a state's dir"
    up = kilonova.up("--state", str(state), "--services", "identity", KILONOVA_ADMIN_PASSWORD='it\'s "secret"')
    assert up.returncode == 0, up.stderr
    assert re.search(r"identity +http://127\.0\.0\.1:\d+ +\d+\.\d\d s", up.stdout)
    assert (
        f"OS_CLIENT_CONFIG_FILE='{str(state).replace(chr(39), chr(39) + chr(34) + chr(39) + chr(34) + chr(39))}/clouds.yaml'" in up.stdout
    )
    assert {0o700 if name == "" else 0o600 for name in modes(state)} == set(modes(state).values())

    status = json.loads(kilonova("status", "--state", str(state), "-o", "json").stdout)
    assert status["state"] == str(state) and alive(status["pid"]) and status["started"]
    assert status["services"]["identity"]["ok"] and status["services"]["identity"]["url"].endswith(str(5000 + kilonova.offset))
    only = kilonova("status")
    assert only.returncode == 0 and "Using the only running cloud" in only.stderr

    clouds = yaml.safe_load((state / "clouds.yaml").read_text())["clouds"]
    assert list(clouds) == ["kilonova", "kilonova-demo", "kilonova-system"]
    assert clouds["kilonova"]["auth"]["password"] == 'it\'s "secret"'
    assert Rest.login(open_existing(state)).urls["identity"].endswith("/v3")
    read = subprocess.run(["bash", "-c", '. "$1"; echo "$OS_PASSWORD"', "-", str(state / "admin-openrc")], capture_output=True, text=True)
    assert read.stdout == 'it\'s "secret"\n'
    assert "secret" not in Path(f"/proc/{status['pid']}/cmdline").read_text()

    second = kilonova("up", "--state", str(state), "--driver", "fake")
    assert second.returncode == 1
    assert f"process {status['pid']}" in second.stderr and len(second.stderr.splitlines()) == 1

    os.kill(status["pid"], signal.SIGKILL)
    while alive(status["pid"]):
        time.sleep(0.01)
    gone = kilonova("status", "--state", str(state), "-o", "json")
    assert gone.returncode == 1 and json.loads(gone.stdout)["pid"] is None
    again = kilonova.up("--state", str(state), "--services", "identity", KILONOVA_ADMIN_PASSWORD="other")
    assert again.returncode == 0, again.stderr
    assert "KILONOVA_ADMIN_PASSWORD is ignored" in again.stdout
    assert Rest.login(open_existing(state))

    pid = json.loads(kilonova("status", "-o", "json").stdout)["pid"]
    down = kilonova("down", "--state", str(state))
    assert down.returncode == 0 and "has ended" in down.stdout
    assert not alive(pid) and not (state / "run" / "pid").exists()
    assert "No cloud is running" in kilonova("status").stderr
    (state / "clouds.yaml").unlink()
    lost = kilonova.up("--state", str(state), "--services", "identity")
    assert lost.returncode == 1 and "KILONOVA_ADMIN_PASSWORD" in lost.stderr


def test_ephemeral_forgets_everything(kilonova: Command) -> None:
    up = kilonova.up("--ephemeral", "--services", "identity")
    assert up.returncode == 0, up.stderr
    found = re.search(r"OS_CLIENT_CONFIG_FILE=(\S+)/clouds\.yaml", up.stdout)
    assert found
    state = Path(found[1])
    assert state.parent == kilonova.runtime_dir and stat.S_IMODE(state.parent.stat().st_mode) == 0o700
    down = kilonova("down")
    assert down.returncode == 0 and "forgotten" in down.stdout
    assert not state.exists() and list(kilonova.runtime_dir.iterdir()) == []


def test_detached_cloud_lives_though_nobody_reads(kilonova: Command, tmp_path: Path) -> None:
    process = kilonova.popen(
        "up", "--detach", "--state", str(tmp_path / "s"), "--services", "identity", "--port-offset", str(kilonova.offset)
    )
    assert process.stdout and process.stderr
    process.stdout.close()
    assert process.wait(30) == 0, process.stderr.read()
    process.stderr.close()
    assert kilonova("status", "--state", str(tmp_path / "s")).returncode == 0


def test_foreground_ends_in_order_at_sigint(kilonova: Command, tmp_path: Path) -> None:
    process = kilonova.popen("up", "--ephemeral", "--services", "identity", "--port-offset", str(kilonova.offset))
    assert process.stdout and process.stderr
    lines: list[str] = []
    while not any("kilonova down" in line for line in lines):
        lines.append(process.stdout.readline())
        assert lines[-1], process.stderr.read()
    with urllib.request.urlopen(f"http://127.0.0.1:{5000 + kilonova.offset}/v3", timeout=5) as reply:
        assert reply.status == 200
    process.send_signal(signal.SIGINT)
    assert process.wait(10) == 0
    assert process.stderr.read() == "" and list(kilonova.runtime_dir.iterdir()) == []
    process.stdout.close()
    process.stderr.close()


def test_tls(kilonova: Command, tmp_path: Path) -> None:
    pair = ["--tls-cert", str(tmp_path / "cert.pem"), "--tls-key", str(tmp_path / "key.pem")]
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-subj", "/CN=k"]
        + ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", pair[3], "-out", pair[1]],
        check=True,
        capture_output=True,
    )
    half = kilonova.up("--state", str(tmp_path / "s"), *pair[:2])
    assert half.returncode == 1 and "go together" in half.stderr
    up = kilonova.up("--state", str(tmp_path / "s"), "--services", "identity", *pair)
    assert up.returncode == 0, up.stderr
    rest = Rest.login(open_existing(tmp_path / "s"))
    assert rest.urls["identity"].startswith("https://127.0.0.1:")
    assert kilonova("status", "--state", str(tmp_path / "s")).returncode == 0


def test_used_port(kilonova: Command, tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", PORTS["identity"] + kilonova.offset))
        taken.listen()
        up = kilonova.up("--ephemeral")
    assert up.returncode == 1
    assert f"127.0.0.1:{PORTS['identity'] + kilonova.offset}" in up.stderr and "--port-offset" in up.stderr
    assert len(up.stderr.splitlines()) == 1 and "Traceback" not in up.stderr
    assert list(kilonova.runtime_dir.iterdir()) == []


def test_damaged_database(kilonova: Command, tmp_path: Path) -> None:
    state = tmp_path / "s"
    assert kilonova("db", "sync", "--state", str(state)).returncode == 0
    (state / "kilonova.db").write_bytes(b"this is no database" * 1000)
    up = kilonova.up("--state", str(state))
    assert up.returncode == 1 and len(up.stderr.splitlines()) == 1
    assert "kilonova.db" in up.stderr and "doctor" in up.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["up", "--ephemeral", "--egress"], 1, "not built yet"),
        (["up", "--ephemeral", "--host-network"], 1, "not built yet"),
        (["up", "--ephemeral", "--state", "x"], 2, "leave --state out"),
        (["up", "--ephemeral", "--services", "telepathy"], 2, "There is no service telepathy"),
        (["up", "--ephemeral", "--bind", "localhost"], 1, "IP address"),
        (["up", "--ephemeral", "--config", "/nonexistent.conf"], 1, "/nonexistent.conf cannot be read"),
        (["up", "--ephemeral", "--hosts", "0"], 2, "--hosts"),
        (["up", "--state", "/dev/null"], 1, "is not a directory"),
        (["up", "--state", "/sys/kilonova"], 1, "cannot be used"),
    ],
)
def test_up_says_in_one_sentence_what_is_wrong(kilonova: Command, arguments: list[str], code: int, said: str) -> None:
    done = kilonova(*arguments)
    assert done.returncode == code and said in done.stderr
    assert len(done.stderr.splitlines()) == 1 and done.stdout == ""
    assert not kilonova.runtime_dir.exists() or list(kilonova.runtime_dir.iterdir()) == []


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
def test_without_qemu(kilonova: Command, tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    done = kilonova("up", "--ephemeral", "--detach", PATH=str(tmp_path / "bin"))
    assert done.returncode == 1 and "QEMU is not installed" in done.stderr and "--driver fake" in done.stderr
    assert list(kilonova.runtime_dir.iterdir()) == []


def test_several_clouds_are_listed(kilonova: Command, tmp_path: Path) -> None:
    first = kilonova.up("--state", str(tmp_path / "one"), "--services", "identity")
    second = kilonova.up("--state", str(tmp_path / "two"), "--services", "identity", "--port-offset", str(kilonova.offset + 1))
    assert first.returncode == second.returncode == 0, first.stderr + second.stderr
    both = kilonova("status")
    assert both.returncode == 1 and str(tmp_path / "one") in both.stderr and str(tmp_path / "two") in both.stderr
    assert kilonova("down", "--state", str(tmp_path / "two")).returncode == 0
    assert kilonova("status").returncode == 0


def test_serve_needs_a_file_and_serves(kilonova: Command, tmp_path: Path) -> None:
    assert kilonova("serve", "identity").returncode == 2
    text = f"[DEFAULT]\nstate_path = {tmp_path / 'served'}\n[cloud]\nport_offset = {kilonova.offset}\nunheard = 1\n"
    (tmp_path / "k.conf").write_text(text + "[identity]\npassword_hash_rounds = 4\n")
    process = kilonova.popen("serve", "identity", "--config", str(tmp_path / "k.conf"))
    assert process.stdout and process.stderr
    lines: list[str] = []
    while not any("kilonova down" in line for line in lines):
        lines.append(process.stdout.readline())
        assert lines[-1], process.stderr.read()
    assert any("unheard is not known" in line for line in lines)
    process.terminate()
    assert process.wait(10) == 0
    process.stdout.close()
    process.stderr.close()
