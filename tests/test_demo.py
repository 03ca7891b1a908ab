"""The demo script's own behaviour, with stand-ins for the two commands it runs: order, failure, interruption, leftovers, cleaning up."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

TOP = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(TOP / "tools"))
import demo  # type: ignore[import-not-found]  # noqa: E402

# Both stand-ins in one file: it looks at the name it was called by. Its "cloud" is a folder; WORLD says where.
STAND_IN = '''#!{python}
import json, os, pathlib, shutil, subprocess, sys, time
world = pathlib.Path(os.environ["WORLD"]); state = world / "state"; trouble = os.environ.get("TROUBLE", "")
args = sys.argv[1:]; name = pathlib.Path(sys.argv[0]).name
with open(world / "calls", "a") as f: f.write(" ".join([name, *args]) + "\\n")
def answer(value): print(json.dumps(value)); sys.exit(0)
if name == "kilonova":
    if args[0] == "up":
        (state / "log").mkdir(parents=True); (state / "clouds.yaml").touch(); (state / "log" / "api.log").write_text("a line\\n")
        print("export OS_CLIENT_CONFIG_FILE=" + str(state / "clouds.yaml"))
        if trouble == "process": subprocess.Popen(["sleep", "60"], start_new_session=True)
    if args[0] == "down": shutil.rmtree(state)
    if args[0] == "ssh": print("demo-server")
    if args[0] == "exec": answer({{"uuid": "id-1"}})
    sys.exit(0)
line = " ".join(args[2:])
assert os.environ["OS_CLIENT_CONFIG_FILE"] == str(state / "clouds.yaml") and "OS_PASSWORD" not in os.environ
status = world / "status"
if trouble and trouble in line:
    if trouble == "router create": print("No Router for you (HTTP 409)"); sys.exit(1)
    if trouble == "network create": (world / "waiting").touch(); time.sleep(60)
if trouble == "file" and line.startswith("server delete"):
    (state / "instances" / "id-1").mkdir(parents=True); (state / "instances" / "id-1" / "disk").touch()
if line.startswith("catalog list"): answer([{{"Name": t, "Type": t}} for t in "identity image placement compute network".split()])
if line.startswith("compute service list"): answer([{{"Binary": "b", "Host": "h", "Zone": "z", "Status": "enabled", "State": "up"}}])
if line.startswith("hypervisor list"): answer([{{"Hypervisor Hostname": "h", "State": "up"}}])
if line.startswith("image create"):
    shutil.copy(args[args.index("--file") + 1], world / "image"); answer({{"id": "i", "status": "active"}})
if line.startswith("image save"): shutil.copy(world / "image", args[args.index("--file") + 1])
if line.startswith("keypair create"):
    pathlib.Path(args[args.index("--private-key") + 1]).touch(); answer({{"fingerprint": "f"}})
if line.startswith("flavor list"): answer([{{"Name": "tiny"}}])
if line.startswith("router show"): answer({{"external_gateway_info": {{"external_fixed_ips": [{{"ip_address": "203.0.113.9"}}]}}}})
if line.startswith("server create"): status.write_text("ACTIVE"); answer({{"id": "id-1", "status": "ACTIVE"}})
if line.startswith("server stop"): status.write_text("SHUTOFF")
if line.startswith("server start"): status.write_text("ACTIVE")
if line.startswith("server show") and "value" in args: print(status.read_text())
elif line.startswith("server show"): answer({{"name": "demo-server", "status": "ACTIVE"}})
if line.startswith("console log show"): print("=== guest ready\\ndemo-server login: ")
if line.startswith("floating ip create"): answer({{"floating_ip_address": "203.0.113.7"}})
if line.startswith("resource provider list"): answer([{{"uuid": "p", "name": "h"}}])
if line.startswith("resource provider show"): answer({{"allocations": {{}}}})
'''

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="the demo refuses to run without root")


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("kilonova", "openstack"):
        path = tmp_path / "bin" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(STAND_IN.format(python=sys.executable))
        path.chmod(0o755)
    (tmp_path / "guest.qcow2").write_bytes(b"QFI\xfb" + bytes(1000))
    monkeypatch.setenv("KILONOVA_BIN", str(tmp_path / "bin" / "kilonova"))
    monkeypatch.setenv("OPENSTACK_BIN", str(tmp_path / "bin" / "openstack"))
    monkeypatch.setenv("KILONOVA_DEMO_IMAGE", str(tmp_path / "guest.qcow2"))
    monkeypatch.setenv("KILONOVA_DEMO_IGNORE", ".")  # the machine's links and rules are shared with other tests; processes are not ignored
    monkeypatch.setenv("OS_PASSWORD", "must not reach the client")
    monkeypatch.setenv("WORLD", str(tmp_path))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    return tmp_path


def play(trouble: str = "") -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(TOP / "tools" / "demo.py")]
    return subprocess.run(command, env={**os.environ, "TROUBLE": trouble}, capture_output=True, text=True, timeout=60, check=False)


def calls(world: Path) -> list[str]:
    return (world / "calls").read_text().splitlines()


@pytest.mark.root
@needs_root
def test_runs_the_seven_steps_in_order_and_succeeds(world: Path) -> None:
    played = play()
    assert played.returncode == 0, played.stdout + played.stderr
    verbs = [" ".join(c.split()[3:5]) if c.startswith("openstack") else " ".join(c.split()[:2]) for c in calls(world)]
    milestones = ["kilonova up", "image create", "keypair create", "network create", "server create", "kilonova ssh", "server delete"]
    assert [v for v in verbs if v in milestones] == milestones
    assert verbs[-1] == "kilonova down"
    assert not (world / "state").exists()
    assert "\033[" not in played.stdout  # no colour where nobody looks


@pytest.mark.root
@needs_root
def test_a_failing_step_shows_command_output_and_logs_and_takes_the_cloud_down(world: Path) -> None:
    played = play("router create")
    assert played.returncode == 1
    assert "failed with exit status 1: openstack --os-cloud kilonova-demo router create demo-router" in played.stdout
    assert "No Router for you (HTTP 409)" in played.stdout
    logs = Path(played.stdout.split("logs: ")[1].split()[0])
    assert (logs / "api.log").read_text() == "a line\n"
    assert calls(world)[-1].startswith("kilonova down")
    assert not (world / "state").exists()


@pytest.mark.root
@needs_root
@pytest.mark.parametrize(
    "trouble, told", [("process", "processes: left behind"), ("file", "instance files: left behind: instances/id-1/disk")]
)
def test_what_is_left_behind_fails_the_demo(world: Path, monkeypatch: pytest.MonkeyPatch, trouble: str, told: str) -> None:
    monkeypatch.setenv("KILONOVA_DEMO_PATIENCE_S", "0.5")
    played = play(trouble)
    assert played.returncode == 1
    assert told in played.stdout
    assert not (world / "state").exists()
    leftovers = [p for p in Path("/proc").glob("[0-9]*") if f"WORLD={world}".encode() in environment_of(p)]
    assert leftovers == []  # ended by the demo's own cleaning-up


def environment_of(process: Path) -> bytes:
    try:
        return (process / "environ").read_bytes() if process.name != str(os.getpid()) else b""
    except OSError:
        return b""


@pytest.mark.root
@needs_root
def test_an_interruption_takes_the_cloud_down(world: Path) -> None:
    command = [sys.executable, str(TOP / "tools" / "demo.py")]
    playing = subprocess.Popen(command, env={**os.environ, "TROUBLE": "network create"}, stdout=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 30
    while not (world / "waiting").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    playing.send_signal(signal.SIGINT)
    told, _ = playing.communicate(timeout=30)
    assert playing.returncode == 1
    assert "interrupted" in told
    assert calls(world)[-1].startswith("kilonova down")
    assert not (world / "state").exists()


def test_differences_name_what_came_and_what_went() -> None:
    before = {"links": ["lo", "eth0"], "rules": ["table a"]}
    assert demo.differences(before, {"links": ["eth0", "lo"], "rules": ["table a"]}) == []
    assert demo.differences(before, {"links": ["lo", "tap1"], "rules": []}) == [
        "links: left behind: tap1",
        "links: gone: eth0",
        "rules: gone: table a",
    ]


def test_differences_count_repeated_lines() -> None:
    assert demo.differences({"rules": ["}", "}"]}, {"rules": ["}"]}) == ["rules: gone: }"]


def test_json_is_found_behind_warnings() -> None:
    assert demo.whole('Warning: old [stuff]\n{"a": 1}\n') == '{"a": 1}\n'
