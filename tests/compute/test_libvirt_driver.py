"""The libvirt driver with a real libvirt and real QEMUs.

libvirt allows one embedded driver for each process, and these tests kill the process: so the driver runs in a child (this file as a
program) that takes one JSON command a line and answers with one JSON line. Guests without a system on their disk cost next to nothing;
one test boots the tiny guest.
"""

import asyncio
import contextlib
import json
import os
import select
import shutil
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from kilonova.compute.drivers import DriverError, GuestEvent, GuestSpec, ImageSpec, NicSpec
from kilonova.compute.drivers.libvirt import Libvirt, LibvirtConfig
from kilonova.core import disk_formats

TOP = Path(__file__).resolve().parents[2]
GUEST_IMAGE = Path(os.environ.get("KILONOVA_DEMO_IMAGE", str(TOP / ".setup" / "cirros.qcow2")))
pytestmark = [pytest.mark.root, pytest.mark.skipif(os.geteuid() != 0, reason="needs root")]


def spec(number: int, **changes: Any) -> GuestSpec:
    server_id = str(uuid.UUID(int=0x4000 << 64 | 0x8 << 60 | number))
    return msgspec.structs.replace(GuestSpec(server_id=server_id, name=f"instance-{number:08x}", vcpus=1, ram_mb=96, root_gb=1), **changes)


class Host:
    """The child, and what can be asked of it."""

    def __init__(self, state: Path, **config: Any):
        self.state = state
        self.config = config
        self.events: list[dict[str, Any]] = []
        self.begin()

    def begin(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, __file__, str(self.state), json.dumps(self.config)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=TOP,
        )  # fmt: skip
        self.buffer = b""
        self.started_s = float(self._answer(60))

    def send(self, verb: str, *arguments: Any, **named: Any) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps([verb, msgspec.to_builtins(arguments), named]).encode() + b"\n")
        self.process.stdin.flush()

    def ask(self, verb: str, *arguments: Any, timeout_s: float = 60, **named: Any) -> Any:
        self.send(verb, *arguments, **named)
        return self._answer(timeout_s)

    def refused(self, verb: str, *arguments: Any, **named: Any) -> str:
        with pytest.raises(DriverError) as caught:
            self.ask(verb, *arguments, **named)
        return caught.value.reason

    def power(self, guest: GuestSpec) -> int | None:
        state = self.ask("state", guest.server_id)
        return None if state is None else state["power_state"]

    def wait(self, what: Callable[[], Any], timeout_s: float = 20, every_s: float = 0.05) -> Any:
        deadline = time.monotonic() + timeout_s
        while not (found := what()):
            assert time.monotonic() < deadline, f"not within {timeout_s} s; events: {self.events}"
            time.sleep(every_s)
        return found

    def event(self, kind: str, guest: GuestSpec) -> Any:
        def heard() -> Any:
            self.ask("nothing")
            return next((e for e in self.events if e["type"] == kind and e["server_id"] == guest.server_id), None)

        return self.wait(heard)

    def pid(self, guest: GuestSpec) -> int:
        return int((self.state / "libvirt" / "run" / "qemu" / f"{guest.name}.pid").read_text())

    def write(self, guest: GuestSpec, what: str) -> None:
        """Onto the root disk of a guest that runs, as if the guest did."""
        disk = str(self.state / "instances" / guest.server_id / "disk")
        blocks = json.loads(self.ask("monitor", guest.name, "query-block"))["return"]
        root = next(block["qdev"] for block in blocks if block.get("inserted", {}).get("file") == disk)
        command = {"command-line": f'qemu-io -d {root} "write {what}"'}
        said = json.loads(self.ask("monitor", guest.name, "human-monitor-command", command))["return"]
        assert said == "", said

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def end(self) -> None:
        """Destroy every guest of this state, also those of a test that failed, and stop the child."""
        if self.process.poll() is not None:
            self.begin()
        for guest in self.ask("list_guests"):
            self.ask("destroy", guest["server_id"])
        assert self.ask("inventory") == []
        assert self.process.stdin is not None
        self.process.stdin.close()
        assert self.process.wait(20) == 0

    def _answer(self, timeout_s: float) -> Any:
        deadline = time.monotonic() + timeout_s
        assert self.process.stdout is not None
        while True:
            while b"\n" not in self.buffer:
                ready, _, _ = select.select([self.process.stdout], [], [], max(0.0, deadline - time.monotonic()))
                assert ready, f"the driver did not answer within {timeout_s} s"
                data = os.read(self.process.stdout.fileno(), 1 << 20)
                assert data, "the driver's process ended"
                self.buffer += data
            line, _, self.buffer = self.buffer.partition(b"\n")
            kind, value, detail = json.loads(line)
            if kind == "event":
                self.events.append(value)
            elif kind == "error":
                raise DriverError(value, detail)
            else:
                return value


@pytest.fixture
def state() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="kn-lv-"))
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def host(state: Path) -> Iterator[Host]:
    made = Host(state)
    yield made
    made.end()


def gone(pid: int) -> bool:
    """Not running. After our death nobody but process 1 reaps, in its own time: a zombie will do."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


# ---- without a system on the disk


def test_verbs_are_idempotent(host: Host) -> None:
    guest = spec(1)
    assert host.power(guest) is None
    assert host.ask("spawn", guest)["power_state"] == 1
    pid = host.pid(guest)
    assert host.ask("spawn", guest)["power_state"] == 1 and host.ask("power_on", guest)["power_state"] == 1 and host.pid(guest) == pid
    for _ in range(2):
        assert host.ask("power_off", guest.server_id, 0)["power_state"] == 4 and host.power(guest) == 4
    assert gone(pid) and host.refused("power_on", spec(2)) == "The server has no guest on this host."
    assert host.ask("spawn", guest)["power_state"] == 1
    assert host.ask("reboot_hard", guest)["power_state"] == 1
    assert host.pid(guest) != pid
    pid = host.pid(guest)
    assert host.ask("reboot_soft", guest.server_id, 0.2)["power_state"] == 1 and host.pid(guest) != pid      # it has no ear for the button
    for _ in range(2):
        host.ask("destroy", guest.server_id)
    assert host.power(guest) is None and host.ask("inventory") == [] and host.events == []
    assert "not valid" in host.refused("destroy", "../..")


def test_rebuild_replaces_the_disk_only_when_asked(host: Host) -> None:
    guest = spec(1)
    host.ask("spawn", guest)
    disk = host.state / "instances" / guest.server_id / "disk"
    before = disk.stat().st_ino
    host.ask("spawn", guest)
    assert disk.stat().st_ino == before
    host.ask("spawn", msgspec.structs.replace(guest, root_gb=2), replace_disk=True)
    assert virtual_size(disk) == 2 << 30 and host.power(guest) == 1 and host.events == []


def virtual_size(path: Path) -> int:
    inspector = disk_formats.Inspector()
    inspector.eat(path.read_bytes()[:disk_formats.HEAD_BYTES])
    return inspector.finish(path.stat().st_size).virtual_size


def test_a_snapshot_is_the_disk_at_one_moment_and_needs_no_other_file(host: Host, tmp_path: Path) -> None:
    """Of a guest that runs, of one that is off, and again after an abandoned copy of an earlier process."""
    guest = spec(1, image=ImageSpec(id="two-gib", disk_format="qcow2"), root_gb=2, swap_mb=8)
    host.ask("spawn", guest)
    for number, at in enumerate(("64k", "1M", "2047M")):
        host.write(guest, f"-P {number + 1} {at} 64k")
    running, stopped, again = (str(tmp_path / name) for name in ("running", "stopped", "again"))
    host.ask("snapshot", guest.server_id, running)
    assert host.power(guest) == 1
    host.write(guest, "-P 9 1M 64k")
    assert host.ask("power_off", guest.server_id, 0)["power_state"] == 4
    host.ask("snapshot", guest.server_id, stopped)
    host.ask("power_on", guest)
    host.ask("snapshot", guest.server_id, again)
    for path, second in ((running, 2), (stopped, 9), (again, 9)):
        info = json.loads(subprocess.run(["qemu-img", "info", "--output=json", path], check=True, capture_output=True).stdout)
        assert (info["format"], info["virtual-size"], info.get("backing-filename")) == ("qcow2", 2 << 30, None)
        reads = [f"read -P {value} {at} 64k" for value, at in ((1, "64k"), (second, "1M"), (3, "2047M"), (0, "8M"))]
        read = subprocess.run(["qemu-io", "-r", path], input="\n".join(reads), check=True, capture_output=True, text=True).stdout
        assert "Pattern verification failed" not in read and read.count(", 1 ops;") == 4, read
    assert list((host.state / "instances" / "_snapshots").iterdir()) == []
    assert host.events == []


def test_a_destroy_ends_a_snapshot(host: Host) -> None:
    """Written data keeps the copy busy for a moment, running or not."""
    for number, off in ((1, False), (2, True)):
        guest = spec(number, root_gb=4)
        host.ask("spawn", guest)
        host.write(guest, "-P 7 0 600M")
        if off:
            host.ask("power_off", guest.server_id, 0)
        begun = time.monotonic()
        assert host.refused("destroyed_snapshot", guest.server_id, 0.15) == "The guest ended before its disk was copied."
        assert time.monotonic() - begun < 5
        assert host.power(guest) is None
    assert host.ask("inventory") == []


def test_what_guests_do_by_themselves_is_told(host: Host) -> None:
    crashed, paused = spec(1), spec(2)
    host.ask("spawn", crashed)
    host.ask("spawn", paused)
    os.kill(host.pid(crashed), 9)
    assert host.event("GuestCrashed", crashed)["power_state"] == 6
    assert host.power(crashed) == 6 and host.ask("power_on", crashed)["power_state"] == 1
    host.ask("monitor", paused.name, "stop")
    assert host.event("GuestPaused", paused)["power_state"] == 3 and host.power(paused) == 3
    assert host.ask("power_on", paused)["power_state"] == 1
    assert len(host.events) == 2


def test_a_start_that_fails_is_quick_and_leaves_nothing(host: Host) -> None:
    nic = NicSpec(port_id="p", mac="fa:16:3e:00:00:01", device_name="tapnothere")
    assert "network device" in host.refused("spawn", spec(1, nics=(nic,)))
    begin = time.monotonic()
    reason = host.refused("spawn", spec(2, ram_mb=1 << 24))            # 16 TiB: QEMU itself dies at its start
    assert time.monotonic() - begin < 10 and "/" not in reason
    assert host.refused("spawn", spec(3, image=ImageSpec(id="missing", disk_format="raw"))).startswith("Image missing could not be fetched")
    assert "too small" in host.refused("spawn", spec(4, image=ImageSpec(id="two-gib", disk_format="qcow2")))
    assert host.ask("list_guests") == [] and host.ask("inventory") == []


def test_a_spawn_that_is_cancelled_leaves_nothing(host: Host) -> None:
    for after_s in (0.0, 0.01, 0.05, 0.2):
        host.ask("cancelled_spawn", spec(1), after_s)
        assert host.ask("inventory") == []
    assert host.ask("spawn", spec(1))["power_state"] == 1


def test_several_at_once(host: Host) -> None:
    guests = [spec(n) for n in range(1, 5)]
    host.ask("all_at_once", guests)
    assert [g["power_state"] for g in host.ask("list_guests")] == [1, 1, 1, 1]


def test_forced_kvm_says_why_not(state: Path) -> None:
    flags = state / "cpuinfo"
    flags.write_text("flags : fpu\n")
    host = Host(state, virt_type="kvm", kvm_device="/dev/null", cpuinfo=str(flags))
    assert host.refused("spawn", spec(1)) == "KVM is not usable on this host: the CPU flags show neither vmx nor svm."
    assert host.ask("resources")["supported_virt_types"] == ["qemu"] and host.ask("inventory") == []
    host.end()


def test_stop_and_start_in_one_process(host: Host) -> None:
    guest = spec(1)
    host.ask("spawn", guest)
    host.ask("restart")
    assert host.power(guest) == 1
    os.kill(host.pid(guest), 9)
    host.event("GuestCrashed", guest)


def test_guests_outlive_us(state: Path) -> None:
    host = Host(state)
    stays, dies, off = spec(1), spec(2), spec(3)
    for guest in (stays, dies, off):
        host.ask("spawn", guest)
    host.ask("power_off", off.server_id, 0)
    pid = host.pid(stays)
    other = host.pid(dies)
    host.kill()
    os.kill(other, 9)
    assert not gone(pid)
    host.begin()
    assert host.started_s < 2.0                 # the probe cache is warm
    host.wait(lambda: [g["power_state"] for g in host.ask("list_guests")] in ([1, 4, 4], [1, 6, 4]))
    assert host.pid(stays) == pid and host.ask("power_on", off)["power_state"] == 1
    assert json.loads((state / "instances" / off.server_id / "instance.json").read_text())["machine"].startswith("pc-q35-")
    host.ask("power_off", stays.server_id, 0)
    assert gone(pid)
    host.end()


@pytest.mark.parametrize(("writes", "later_s"), [(1, 0.0), (1, 0.01), (2, 0.0), (2, 0.1), (3, 0.0)])
def test_a_guest_that_was_being_started_when_we_died_can_be_started(state: Path, writes: int, later_s: float) -> None:
    """Killed as libvirt writes the guest's status for the nth time (before QEMU is there, when it has a pid, when it has CPUs), and soon
    after. The guest that runs beside it goes on."""
    host = Host(state)
    runs, half = spec(1), spec(2)
    host.ask("spawn", runs)
    pid = host.pid(runs)
    host.send("spawn", half)
    file = state / "libvirt" / "run" / "qemu" / f"{half.name}.xml"
    seen: set[tuple[int, int]] = set()

    def written() -> bool:
        with contextlib.suppress(FileNotFoundError):
            found = file.stat()
            seen.add((found.st_ino, found.st_mtime_ns))
        return len(seen) >= writes

    host.wait(written, every_s=0.001)
    time.sleep(later_s)
    host.kill()
    host.begin()
    assert host.ask("spawn", half, timeout_s=20)["power_state"] == 1
    assert host.ask("spawn", runs)["power_state"] == 1 and host.pid(runs) == pid and not gone(pid)
    host.end()


def test_a_half_made_guest_is_shown_and_can_be_removed(state: Path) -> None:
    folder = state / "instances" / spec(1).server_id
    folder.mkdir(parents=True)
    (folder / "disk").write_bytes(b"half")
    host = Host(state)
    assert [(g["server_id"], g["power_state"]) for g in host.ask("list_guests")] == [(spec(1).server_id, 0)]
    assert host.ask("spawn", spec(1))["power_state"] == 1
    host.end()


def test_resources(host: Host) -> None:
    found = host.ask("resources")
    assert found["hypervisor_type"] == "QEMU" and found["hypervisor_version"] >= 5_000_000 and found["vcpus"] >= 1
    assert found["disk_gb"] >= found["free_disk_gb"] > 0 and found["cpu_info"]["arch"] == "x86_64" and found["virt_type_reason"]


# ---- a real boot


@pytest.fixture
def namespace() -> Iterator[str]:
    name = f"kn-lvt-{uuid.uuid4().hex[:8]}"
    subprocess.run(["ip", "netns", "add", name], check=True)
    subprocess.run(["ip", "-n", name, "tuntap", "add", "tap-kn-lv", "mode", "tap", "vnet_hdr"], check=True)
    yield name
    subprocess.run(["ip", "netns", "del", name], check=True)


@pytest.mark.guest
@pytest.mark.skipif(not GUEST_IMAGE.exists(), reason="the guest image is not built (make setup)")
def test_a_real_guest_boots_stops_and_comes_back(state: Path, namespace: str) -> None:
    host = Host(state, network_namespace=namespace)
    nic = NicSpec(port_id="p", mac="fa:16:3e:00:00:01", device_name="tap-kn-lv", mtu=1400)
    drive = {"openstack/latest/meta_data.json": b'{"uuid": "u-1", "name": "first", "hostname": "first.example"}',
             "openstack/latest/user_data": b"#!/bin/sh\necho user-data ran on $(hostname), mtu $(cat /sys/class/net/eth0/mtu)\n"}
    image = ImageSpec(id="guest", disk_format="qcow2", size=GUEST_IMAGE.stat().st_size)
    guest = spec(1, ram_mb=128, image=image, nics=(nic,), config_drive=drive)
    host.ask("spawn", guest)
    pid = host.pid(guest)
    assert os.readlink(f"/proc/{pid}/ns/net") != os.readlink("/proc/self/ns/net")
    assert not Path("/sys/class/net/tap-kn-lv").exists()
    host.wait(lambda: "login: " in host.ask("console_output", guest.server_id), 180)
    text = host.ask("console_output", guest.server_id)
    assert "ds: config drive on" in text and "user-data ran on first, mtu 1400" in text
    assert host.ask("console_output", guest.server_id, 1).count("\n") <= 1
    begin = time.monotonic()
    host.ask("power_off", guest.server_id, 60, timeout_s=90)
    assert time.monotonic() - begin < 45        # by the power button, not by the plug
    assert host.power(guest) == 4
    host.ask("power_on", guest)
    second = host.pid(guest)
    host.ask("reboot_hard", guest)
    third = host.pid(guest)
    assert len({pid, second, third}) == 3
    host.kill()
    assert not gone(third)
    host.begin()
    assert host.power(guest) == 1 and host.pid(guest) == third
    host.wait(lambda: host.ask("console_output", guest.server_id).count("login: ") >= 2, 180)
    assert host.events == []
    host.ask("monitor", guest.name, "system_powerdown")     # somebody else's button: the guest goes down by itself
    assert host.event("GuestStopped", guest)["power_state"] == 4 and host.power(guest) == 4
    host.ask("power_on", guest)
    fourth = host.pid(guest)
    host.ask("destroy", guest.server_id)
    assert gone(third) and gone(fourth) and host.ask("inventory") == [] and len(host.events) == 1
    host.end()


# ---- the child


async def child(state: Path, options: dict[str, Any]) -> None:
    driver = Libvirt(msgspec.convert({"state_folder": state, **options}, LibvirtConfig, dec_hook=lambda kind, value: kind(value)))

    def say(kind: str, value: Any, detail: str = "") -> None:
        print(json.dumps([kind, msgspec.to_builtins(value), detail]), flush=True)

    async def heard(event: GuestEvent) -> None:
        say("event", event)

    async def fetch(image_id: str, path: str) -> None:
        if image_id == "guest":
            await asyncio.to_thread(shutil.copyfile, GUEST_IMAGE, path)
        elif image_id == "two-gib":
            subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", path, "2G"], check=True)  # noqa: ASYNC221
        else:
            raise FileNotFoundError(image_id)

    async def store_nothing(path: str) -> None:
        raise AssertionError("there was nothing to store")

    async def do(verb: str, arguments: list[Any], named: dict[str, Any]) -> Any:
        guest = msgspec.convert(arguments[0], GuestSpec) if arguments and isinstance(arguments[0], dict) else None
        if verb == "nothing":
            return None
        if verb == "restart":
            await driver.stop()
            return await driver.start(heard)
        if verb == "monitor":
            import libvirt_qemu

            command = json.dumps({"execute": arguments[1], **({"arguments": arguments[2]} if len(arguments) > 2 else {})})
            return await driver._connection.call(lambda c: libvirt_qemu.qemuMonitorCommand(c.lookupByName(arguments[0]), command, 0))
        if verb == "all_at_once":
            return await asyncio.gather(*(driver.spawn(msgspec.convert(one, GuestSpec), fetch) for one in arguments[0]))
        if verb == "snapshot":
            async def store(path: str) -> None:
                await asyncio.to_thread(shutil.copyfile, path, arguments[1])

            return await driver.snapshot(arguments[0], store)
        if verb == "destroyed_snapshot":
            copying = asyncio.create_task(driver.snapshot(arguments[0], store_nothing))
            await asyncio.sleep(arguments[1])
            await driver.destroy(arguments[0])
            return await copying
        if verb == "cancelled_spawn":
            assert guest is not None
            task = asyncio.create_task(driver.spawn(guest, fetch))
            await asyncio.sleep(arguments[1])
            task.cancel()
            await asyncio.wait([task])
            assert task.cancelled(), (arguments[1], task.exception() or task.result())
            return None
        if verb == "spawn":
            assert guest is not None
            return await driver.spawn(guest, fetch, **named)
        return await getattr(driver, verb)(*([guest, *arguments[1:]] if guest is not None else arguments), **named)

    begin = time.monotonic()
    await driver.start(heard)
    say("answer", time.monotonic() - begin)
    loop = asyncio.get_running_loop()
    while line := await loop.run_in_executor(None, sys.stdin.buffer.readline):
        verb, arguments, named = json.loads(line)
        try:
            say("answer", await do(verb, arguments, named))
        except DriverError as error:
            say("error", error.reason, error.detail)
    await driver.stop()


if __name__ == "__main__":
    asyncio.run(child(Path(sys.argv[1]), json.loads(sys.argv[2])))
