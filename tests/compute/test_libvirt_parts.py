"""The libvirt driver's parts that need neither root nor libvirt: XML, records, disks, base images, console, KVM's verdict."""

import asyncio
import errno
import hashlib
import json
import os
import shutil
import subprocess
import threading
import uuid
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from kilonova.compute.drivers import DriverError, GuestSpec, ImageSpec, NicSpec, qcow2
from kilonova.compute.drivers.libvirt import acceleration, console, domain, files, images, snapshot, threads
from kilonova.compute.drivers.libvirt.config import LibvirtConfig
from kilonova.compute.drivers.libvirt.connection import ProbeCache, translate
from kilonova.compute.drivers.libvirt.driver import Libvirt, _make_alias, _root_bytes

ID = "00000000-0000-4000-8000-000000000001"
GIB = 1 << 30
OFFERED = {"q35": "pc-q35-7.2", "pc-q35-7.2": "pc-q35-7.2", "pc": "pc-i440fx-7.2", "microvm": "microvm"}
needs_qemu_img = pytest.mark.skipif(shutil.which("qemu-img") is None, reason="qemu-img is not installed")


def spec(**changes: Any) -> GuestSpec:
    return replace(GuestSpec(server_id=ID, name="instance-00000001", vcpus=1, ram_mb=128, root_gb=1), **changes)


def instance(guest: GuestSpec, *more: domain.Disk, machine: str = "pc-q35-7.2") -> domain.Instance:
    root = domain.Disk(role="root", file="disk", format="qcow2", bus="virtio", base="b.raw", base_format="raw")
    return domain.Instance(spec=guest, machine=machine, disks=(root, *more))


def xml(made: domain.Instance, virt_type: str = "qemu") -> ElementTree.Element:
    text = domain.domain_xml(made, Path("/s/instances") / ID, Path("/s/instances/_base"), domain.Platform(virt_type=virt_type))
    return ElementTree.fromstring(text)


# ---- XML


def test_domain_of_a_plain_guest() -> None:
    nic = NicSpec(port_id="p", mac="FA:16:3E:00:00:01", device_name="tap0123456789a", mtu=1450)
    root = xml(instance(spec(nics=(nic,))))
    assert root.get("type") == "qemu" and root.findtext("uuid") == ID and root.findtext("cpu/model") == "Nehalem"
    assert root.find("os/type").get("machine") == "pc-q35-7.2"  # type: ignore[union-attr]
    interface = root.find("devices/interface")
    assert interface is not None and interface.get("type") == "ethernet"
    assert interface.find("target").attrib == {"dev": "tap0123456789a", "managed": "no"}  # type: ignore[union-attr]
    assert interface.find("mac").get("address") == "fa:16:3e:00:00:01"  # type: ignore[union-attr]
    assert root.find("devices/serial/log").attrib == {"file": f"/s/instances/{ID}/console.log", "append": "on"}  # type: ignore[union-attr]
    assert root.find("devices/graphics").get("socket") == f"/s/instances/{ID}/vnc.sock"  # type: ignore[union-attr]
    ports = [c for c in root.iterfind("devices/controller") if c.get("model") == "pcie-root-port"]
    assert len(ports) == 8 + 5


def test_9_backing_chain_is_said_not_probed() -> None:
    disk = xml(instance(spec())).find("devices/disk")
    assert disk is not None and disk.find("driver").get("type") == "qcow2"  # type: ignore[union-attr]
    backing = disk.find("backingStore")
    assert backing is not None and backing.find("format").get("type") == "raw"  # type: ignore[union-attr]
    assert backing.find("source").get("file") == "/s/instances/_base/b.raw" and backing.find("backingStore") is not None  # type: ignore[union-attr]
    plain = xml(domain.Instance(spec=spec(), machine="pc-q35-7.2", disks=(domain.Disk(role="swap", file="x", format="raw", bus="virtio"),)))
    assert plain.find("devices/disk/backingStore") is not None and not list(plain.find("devices/disk/backingStore"))  # type: ignore[arg-type]


def test_kvm_takes_the_hosts_cpu() -> None:
    root = xml(instance(spec()), "kvm")
    assert root.find("cpu").attrib == {"mode": "host-model"} and root.find("features/tcg") is None  # type: ignore[union-attr]


def test_disks_get_names_of_their_buses() -> None:
    more = [domain.Disk(role="ephemeral", file="e", format="raw", bus="virtio"),
            domain.Disk(role="config", file="c", format="raw", bus="scsi", device="cdrom")]
    root = xml(instance(spec(), *more))
    assert [d.find("target").get("dev") for d in root.iterfind("devices/disk")] == ["vda", "vdb", "sda"]  # type: ignore[union-attr]
    assert [d.find("readonly") is not None for d in root.iterfind("devices/disk")] == [False, False, True]
    assert root.find("devices/controller[@type='scsi']").get("model") == "virtio-scsi"  # type: ignore[union-attr]


@pytest.mark.parametrize(
    "properties",
    [{"hw_disk_bus": "floppy"}, {"hw_cdrom_bus": "ide"}, {"hw_disk_bus": "ide"}, {"hw_machine_type": "microvm"},
     {"hw_machine_type": "q35'/><x"}],
)
def test_properties_that_do_not_fit(properties: dict[str, str]) -> None:
    with pytest.raises(DriverError) as caught:
        guest = spec(properties=properties)
        domain.choose_buses(guest, domain.choose_machine(guest, OFFERED))
    assert "<" not in caught.value.reason and next(iter(properties)) in caught.value.reason


@pytest.mark.parametrize("name", ["hw_vif_model", "hw_video_model"])
def test_models_that_do_not_exist(name: str) -> None:
    nic = NicSpec(port_id="p", mac="fa:16:3e:00:00:01", device_name="tap1")
    with pytest.raises(DriverError, match=name):
        xml(instance(spec(nics=(nic,), properties={name: "voodoo"})))


def test_pc_and_windows() -> None:
    guest = spec(properties={"hw_machine_type": "pc", "os_type": "windows", "hw_vif_model": "e1000", "hw_unknown": "x"})
    machine = domain.choose_machine(guest, OFFERED)
    assert machine == "pc-i440fx-7.2" and domain.choose_buses(guest, machine) == ("virtio", "ide")
    root = xml(instance(guest, machine=machine))
    assert root.find("clock").get("offset") == "localtime" and root.find("devices/controller") is None  # type: ignore[union-attr]


@pytest.mark.parametrize(
    "changes",
    [
        {"server_id": "../../etc"}, {"server_id": ID.upper().replace("0", "A")}, {"name": "a/b"}, {"name": ""}, {"vcpus": 0},
        {"ram_mb": -1},
        {"root_gb": -1}, {"nics": (NicSpec(port_id="p", mac="'/><x>", device_name="tap1"),)},
        {"nics": (NicSpec(port_id="p", mac="fa:16:3e:00:00:01", device_name="a b"),)},
    ],
)  # fmt: skip
def test_specs_that_are_not_sane(changes: dict[str, Any]) -> None:
    with pytest.raises(DriverError, match="is not valid"):
        domain.check_spec(spec(**changes))


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=40), st.text(max_size=40))
def test_no_text_escapes_into_the_xml(name: str, value: str) -> None:
    """Whatever properties say: either a refusal, or XML with the same elements as ever."""
    plain = [e.tag for e in xml(instance(spec())).iter() if e.tag != "graphics"]        # a guest without video has none
    for key in (name, "hw_machine_type", "hw_disk_bus", "hw_video_model", "os_type"):
        try:
            guest = spec(properties={key: value})
            domain.choose_buses(guest, domain.choose_machine(guest, OFFERED))
            root = xml(instance(guest))
        except DriverError:
            continue
        assert [e.tag for e in root.iter() if e.tag != "graphics"] == plain


def test_capabilities_are_understood() -> None:
    text = """<capabilities><host><cpu><arch>x86_64</arch><model>EPYC</model><vendor>AMD</vendor>
      <topology sockets='1' dies='1' cores='2' threads='1'/><feature name='vme'/><feature name='apic'/></cpu></host>
      <guest><arch name='i686'><machine canonical='old'>q35</machine></arch></guest>
      <guest><arch name='x86_64'><machine>pc-q35-7.2</machine><machine canonical='pc-q35-7.2'>q35</machine></arch></guest></capabilities>"""
    assert domain.machines(text) == {"pc-q35-7.2": "pc-q35-7.2", "q35": "pc-q35-7.2"}
    assert domain.cpu_info(text)["features"] == ["apic", "vme"] and domain.cpu_info(text)["topology"]["cores"] == 2


# ---- KVM


@pytest.mark.parametrize(("flags", "usable"), [("fpu vme vmx", True), ("fpu svm", True), ("fpu vmxx svmlock", False)])
def test_kvm_needs_the_cpu_flags(tmp_path: Path, flags: str, usable: bool) -> None:
    (tmp_path / "kvm").write_text("")
    (tmp_path / "cpuinfo").write_text(f"processor\t: 0\nflags\t\t: {flags}\n\nprocessor\t: 1\nflags\t\t: vmx\n")
    found = acceleration.probe(tmp_path / "kvm", tmp_path / "cpuinfo")
    assert found.kvm_usable is usable
    assert acceleration.choose("auto", found) == ("kvm" if usable else "qemu")
    assert acceleration.choose("qemu", found) == "qemu"
    if not usable:
        with pytest.raises(DriverError, match="neither vmx nor svm"):
            acceleration.choose("kvm", found)


def test_kvm_needs_its_device(tmp_path: Path) -> None:
    (tmp_path / "cpuinfo").write_text("flags : vmx\n")
    found = acceleration.probe(tmp_path / "none", tmp_path / "cpuinfo")
    assert not found.kvm_usable and "cannot be opened" in found.reason and str(tmp_path) not in found.reason
    with pytest.raises(DriverError, match="not known"):
        acceleration.choose("xen", found)


# ---- disks


@needs_qemu_img
@pytest.mark.parametrize("size", [512, GIB, 8 << 40, 3 * GIB + 1])
def test_empty_qcow2_satisfies_qemu_img(tmp_path: Path, size: int) -> None:
    (tmp_path / "base").write_bytes(b"base".ljust(4096, b"\0"))
    for backing in (None, str(tmp_path / "base")):
        files.write_durably(tmp_path / "disk", qcow2.empty(size, backing, "raw" if backing else None), sparse=True)
        subprocess.run(["qemu-img", "check", "-q", "-f", "qcow2", str(tmp_path / "disk")], check=True)
        info = json.loads(subprocess.check_output(["qemu-img", "info", "--output=json", "-f", "qcow2", str(tmp_path / "disk")]))
        assert info["virtual-size"] == -(-size // 512) * 512
        assert info.get("backing-filename") == backing and info.get("backing-filename-format") == ("raw" if backing else None)


@needs_qemu_img
def test_13_new_disks_read_zeros_behind_the_base(tmp_path: Path) -> None:
    (tmp_path / "base").write_bytes(b"A" * 1024)
    (tmp_path / "disk").write_bytes(qcow2.empty(8 << 20, str(tmp_path / "base"), "raw"))
    subprocess.run(["qemu-img", "convert", "-f", "qcow2", "-O", "raw", str(tmp_path / "disk"), str(tmp_path / "flat")], check=True)
    assert (tmp_path / "flat").read_bytes() == (b"A" * 1024).ljust(8 << 20, b"\0")


def test_backing_names_that_are_not_names() -> None:
    for name, kind in (("json:{}", "raw"), ("x", None), (None, "raw"), ("x" * 1024, "raw")):
        with pytest.raises(ValueError):
            qcow2.empty(GIB, name, kind)


def test_root_size() -> None:
    base = images.Base(name="b", format="raw", content="raw", virtual_size=2 * GIB)
    assert _root_bytes(spec(root_gb=3), base) == 3 * GIB
    assert _root_bytes(spec(root_gb=0), base) == 2 * GIB
    assert _root_bytes(spec(root_gb=0), None) == GIB
    words = r"Flavor's disk is too small for requested image\. Flavor disk is 1073741824 bytes, image is 2147483648 bytes"
    with pytest.raises(DriverError, match=words):
        _root_bytes(spec(root_gb=1), base)


def test_swap_and_ephemeral(tmp_path: Path) -> None:
    files.make_swap(tmp_path, 16, uuid.UUID(ID))
    data = (tmp_path / "disk.swap").read_bytes()
    assert len(data) == 16 << 20 and data[4086:4096] == b"SWAPSPACE2" and data[1024:1032] == b"\1\0\0\0\xff\x0f\0\0"
    if Path("/usr/sbin/mkfs.ext4").exists() or Path("/sbin/mkfs.ext4").exists():
        files.make_ephemeral(tmp_path, 1)
        with (tmp_path / "disk.eph0").open("rb") as file:
            head = file.read(2048)
        assert head[1080:1082] == b"\x53\xef" and head[1144:1154] == b"ephemeral0"


def test_record_survives_and_holds_no_config_drive(tmp_path: Path) -> None:
    (tmp_path / ID).mkdir()
    (tmp_path / "half").mkdir()
    (tmp_path / "_base").mkdir()
    made = instance(files.without_config_drive(spec(config_drive={"a": b"secret"})))
    files.write_record(tmp_path / ID, made)
    assert files.read_records(tmp_path) == {ID: made, "half": None}
    assert "secret" not in (tmp_path / ID / files.RECORD).read_text()
    assert files.listing(tmp_path) == [ID, f"{ID}/{files.RECORD}", "half"]


def test_long_state_folders_get_a_short_name(tmp_path: Path) -> None:
    run = Path("/tmp") / f"kn-{uuid.uuid4().hex[:8]}"
    long = tmp_path / ("x" * 60)
    try:
        alias = _make_alias(long, run)
        assert len(str(alias)) <= 40 and alias.resolve() == long.resolve() and _make_alias(long, run) == alias
        with pytest.raises(DriverError, match="too long"):
            _make_alias(long, tmp_path / ("y" * 60))
    finally:
        shutil.rmtree(run)


# ---- base images


class Cache:
    """A cache with its own pool, and a source that counts."""

    def __init__(self, folder: Path, contents: dict[str, bytes], limit_bytes: int = GIB, delay_s: float = 0.0):
        self.pool = ThreadPoolExecutor(2)
        self.contents, self.delay_s = contents, delay_s
        self.fetches = 0
        self.used: list[str] = []
        self.cache = images.BaseCache(folder / "_base", limit_bytes, self._blocking, lambda: self.used)
        self.cache.start()

    async def _blocking(self, function: Callable[..., Any], *arguments: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self.pool, function, *arguments)

    async def fetch(self, image_id: str, path: str) -> None:
        self.fetches += 1
        await asyncio.sleep(self.delay_s)
        await self._blocking(Path(path).write_bytes, self.contents[image_id])

    async def get(self, image: ImageSpec) -> images.Base:
        async with self.cache.use(image, self.fetch) as base:
            return base

    def names(self) -> list[str]:
        return sorted(file.name for file in self.cache.folder.iterdir())


def hashed(image_id: str, data: bytes, disk_format: str = "raw", **changes: Any) -> ImageSpec:
    digest = hashlib.sha512(data).hexdigest()
    image = ImageSpec(id=image_id, disk_format=disk_format, size=len(data), os_hash_algo="sha512", os_hash_value=digest)
    return replace(image, **changes)


def test_concurrent_spawns_share_one_download(tmp_path: Path) -> None:
    async def main() -> None:
        c = Cache(tmp_path, {"a": b"x" * 1000}, delay_s=0.02)
        image = hashed("a", b"x" * 1000)
        bases = await asyncio.gather(*(c.get(image) for _ in range(20)))
        assert c.fetches == 1 and {base.virtual_size for base in bases} == {1024}
        again = Cache(tmp_path, {})
        assert await again.get(image) == bases[0] and again.fetches == 0

    asyncio.run(main())


def test_a_download_goes_on_when_one_who_waits_gives_up(tmp_path: Path) -> None:
    async def main() -> None:
        c = Cache(tmp_path, {"a": b"x" * 512}, delay_s=0.05)
        image = hashed("a", b"x" * 512)
        first = asyncio.create_task(c.get(image))
        second = asyncio.create_task(c.get(image))
        await asyncio.sleep(0.02)
        first.cancel()
        assert (await second).virtual_size == 512 and c.fetches == 1
        await c.cache.stop()

    asyncio.run(main())


@pytest.mark.parametrize(
    ("change", "word"),
    [({"size": 99}, "instead of 99"), ({"os_hash_value": "0" * 128}, "damaged"), ({"disk_format": "qcow2"}, "declared as qcow2"),
     ({"disk_format": "docker"}, "cannot be booted"), ({"os_hash_value": None, "id": "../x"}, "id is not valid")],
)  # fmt: skip
def test_24_what_arrives_is_verified(tmp_path: Path, change: dict[str, Any], word: str) -> None:
    async def main() -> None:
        c = Cache(tmp_path, {"a": b"x" * 512})
        with pytest.raises(DriverError, match=word):
            await c.get(replace(hashed("a", b"x" * 512), **change))
        assert c.names() == []

    asyncio.run(main())


def test_3_same_bytes_declared_otherwise_are_another_base(tmp_path: Path) -> None:
    async def main() -> None:
        data = qcow2.empty(GIB)
        c = Cache(tmp_path, {"a": data})
        assert (await c.get(hashed("a", data, "qcow2"))).virtual_size == GIB
        with pytest.raises(DriverError, match="declared as raw but its content is qcow2"):
            await c.get(hashed("a", data, "raw"))

    asyncio.run(main())


def test_1_base_with_backing_file(tmp_path: Path) -> None:
    async def main() -> None:
        data = qcow2.empty(GIB, "/etc/passwd", "raw")
        c = Cache(tmp_path, {"a": data})
        with pytest.raises(DriverError, match="backing file"):
            await c.get(hashed("a", data, "qcow2"))

    asyncio.run(main())


def test_a_failed_download_leaves_nothing_and_can_be_repeated(tmp_path: Path) -> None:
    async def main() -> None:
        c = Cache(tmp_path, {})
        with pytest.raises(DriverError) as caught:
            await c.get(hashed("a", b"x" * 512))
        assert "could not be fetched" in caught.value.reason and c.names() == []
        c.contents["a"] = b"x" * 512
        assert (await c.get(hashed("a", b"x" * 512))).format == "raw"

    asyncio.run(main())


def test_12_unused_bases_are_evicted(tmp_path: Path) -> None:
    async def main() -> None:
        contents = {str(n): bytes([n + 1]) * 100_000 for n in range(5)}
        c = Cache(tmp_path, contents, limit_bytes=250_000)
        for n in range(5):
            base = await c.get(hashed(str(n), contents[str(n)]))
            if n == 0:
                c.used.append(base.name)
            await asyncio.sleep(0.01)
        assert c.used[0] in c.names() and base.name in c.names() and len(c.names()) == 2
        (c.cache.folder / ".left.part").write_text("")
        c.cache.start()
        assert len(c.names()) == 2

    asyncio.run(main())


def convert(source_format: str, target_format: str, source: Path, target: Path, *options: str) -> None:
    subprocess.run(["qemu-img", "convert", "-f", source_format, "-O", target_format, *options, str(source), str(target)], check=True)


@needs_qemu_img
@pytest.mark.parametrize(("declared", "kind", "options"), [
    ("vmdk", "vmdk", ["-o", "subformat=streamOptimized"]), ("vhd", "vpc", []), ("vhdx", "vhdx", []), ("vdi", "vdi", []),
])  # fmt: skip
def test_other_formats_are_converted(tmp_path: Path, declared: str, kind: str, options: list[str]) -> None:
    (tmp_path / "raw").write_bytes(b"hello".ljust(1 << 20, b"\0"))
    convert("raw", kind, tmp_path / "raw", tmp_path / "other", *options)
    data = (tmp_path / "other").read_bytes()

    async def main() -> None:
        c = Cache(tmp_path, {"a": data})
        base = await c.get(hashed("a", data, declared))
        assert base.format == "qcow2" and base.virtual_size >= 1 << 20 and c.names() == [base.name]
        assert await Cache(tmp_path, {}).get(hashed("a", data, declared)) == base
        flat = tmp_path / "flat"
        convert("qcow2", "raw", c.cache.folder / base.name, flat)
        assert flat.read_bytes()[:1 << 20] == (tmp_path / "raw").read_bytes()

    asyncio.run(main())


# ---- console, errors, probe cache


def test_console_tail(tmp_path: Path) -> None:
    assert console.read_tail(tmp_path, None) == ""
    (tmp_path / console.LOG).write_bytes(b"one\ntwo \xff\x00\nthree\n")
    assert console.read_tail(tmp_path, None) == "one\ntwo \ufffd\x00\nthree\n"
    assert console.read_tail(tmp_path, 1) == "three\n" and console.read_tail(tmp_path, 0) == ""
    assert console.read_tail(tmp_path, 2) == "two \ufffd\x00\nthree\n"
    assert console.read_tail(tmp_path, 99) == console.read_tail(tmp_path, -1)
    (tmp_path / console.LOG).write_bytes(b"a" * 200_000)
    assert len(console.read_tail(tmp_path, None)) == 100 << 10


def test_console_rotation_keeps_the_end(tmp_path: Path) -> None:
    assert not console.rotate(tmp_path, 100)
    with (tmp_path / console.LOG).open("ab") as writer:
        writer.write(b"x" * 500 + b"end\n")
        writer.flush()
        assert console.rotate(tmp_path, 100) and (tmp_path / console.LOG).stat().st_size == 0
        writer.write(b"new\n")
    assert (tmp_path / console.LOG).read_bytes() == b"new\n" and (tmp_path / console.OLDER).stat().st_size == 100
    assert console.read_tail(tmp_path, 2) == "x" * 96 + "end\nnew\n"


def test_errors_name_no_paths() -> None:
    for text in ("internal error: /var/lib/x failed", "Cannot allocate memory /x", "Failed to connect socket to '/run/libvirt/sock'"):
        error = translate(RuntimeError(text))
        assert "/" not in error.reason and error.reason.endswith(".") and text in error.detail
    assert "/" not in translate(OSError(28, "No space left on device", "/x/y")).reason


def test_probe_cache_is_kept_by_binary(tmp_path: Path) -> None:
    binary = tmp_path / "qemu"
    binary.write_text("1")
    first = ProbeCache(tmp_path / "cache", tmp_path / "root1", binary)
    first.load()
    (first.inside / "a.xml").write_text("known")
    first.save()
    second = ProbeCache(tmp_path / "cache", tmp_path / "root2", binary)
    second.load()
    assert (second.inside / "a.xml").read_text() == "known"
    binary.write_text("22")
    third = ProbeCache(tmp_path / "cache", tmp_path / "root3", binary)
    third.load()
    assert list(third.inside.iterdir()) == []
    with pytest.raises(DriverError, match="not installed"):
        ProbeCache(tmp_path / "cache", tmp_path / "root4", tmp_path / "none")


def test_a_guest_that_ends_while_it_is_counted_has_no_pid(tmp_path: Path) -> None:
    class Guest:
        def __init__(self, name: str) -> None:
            self.name = lambda: name

    class Host:
        embedded = True

        def listAllDomains(self, flags: int) -> list[Guest]:
            return [Guest("instance-1"), Guest("instance-2"), Guest("instance-3")]

    folder = tmp_path / "run" / "qemu"
    folder.mkdir(parents=True)
    (folder / "instance-1.pid").write_text("12\n")
    (folder / "instance-3.pid").write_text("")
    driver = Libvirt.__new__(Libvirt)
    driver.embed_root = tmp_path
    driver._connection = Host()  # type: ignore[assignment]
    assert driver._pids(Host()) == [12]


class Copied:
    """A guest whose backup job has failed, and which is still there for as many looks."""

    def __init__(self, looks: float) -> None:
        self.looks = looks
        self.seen = 0

    def UUIDString(self) -> str:
        return ID

    def jobInfo(self) -> list[int]:
        return [0]

    def jobStats(self, flags: int) -> dict[str, Any]:
        return {"type": 5, "errmsg": "job ended"}

    def state(self) -> tuple[int, int]:
        self.seen += 1
        return (1, 1)


class CopiedHost:
    def __init__(self, guest: Copied) -> None:
        self.guest = guest

    def listAllDomains(self, flags: int) -> list[Copied]:
        return [self.guest] if self.guest.seen < self.guest.looks else []

    def lookupByUUIDString(self, server_id: str) -> Copied:
        return self.guest

    async def call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        return function(self, *arguments)


@pytest.mark.parametrize(
    ("looks", "seen", "reason"),
    [(0, 0, snapshot.GONE), (3, 3, snapshot.GONE), (float("inf"), 10, "The server's disk could not be copied.")],
    ids=["gone by then", "gone a moment later", "still there"],
)
def test_a_copy_that_fails_as_its_guest_ends_says_so(looks: float, seen: int, reason: str) -> None:
    """libvirt ends the job first and the guest a moment later: who looks between the two sees a guest that runs and a copy that failed."""
    driver = Libvirt.__new__(Libvirt)
    guest = Copied(looks)
    driver._connection = CopiedHost(guest)  # type: ignore[assignment]
    with pytest.raises(DriverError) as caught:
        asyncio.run(driver._backed_up(ID))
    assert caught.value.reason == reason and guest.seen == seen


def test_a_copy_that_is_cancelled_as_its_guest_ends_stays_cancelled(tmp_path: Path) -> None:
    """The job cannot be aborted any more; who is cancelled hears of nothing else."""
    aborted = asyncio.Event()

    class Ending:
        async def call(self, function: Callable[..., Any], *arguments: Any) -> Any:
            if function is snapshot.abort:
                aborted.set()
                raise DriverError(snapshot.GONE)
            return False if function is snapshot.finished else 1

    async def story() -> None:
        driver = Libvirt(LibvirtConfig(state_folder=tmp_path))
        driver.instances, driver._started = tmp_path, True
        driver._records[ID] = instance(spec())
        driver._connection = Ending()  # type: ignore[assignment]
        copy = asyncio.create_task(driver._copy_disk(ID, tmp_path / "copy"))
        await asyncio.sleep(0.05)
        assert not copy.done(), copy.exception()
        copy.cancel()
        await asyncio.wait([copy])
        assert aborted.is_set() and copy.cancelled()

    asyncio.run(story())


def test_who_is_cancelled_waits_for_the_call_under_way() -> None:
    """And what has not begun never does."""
    said: list[str] = []
    begun, go_on = threading.Event(), threading.Event()

    def slow() -> None:
        begun.set()
        assert go_on.wait(20)
        said.append("done")
        raise ValueError("nobody hears it")

    async def story() -> None:
        with ThreadPoolExecutor(1) as pool:
            first = asyncio.create_task(threads.run(pool, slow))
            second = asyncio.create_task(threads.run(pool, said.append, "second"))
            await asyncio.to_thread(begun.wait, 20)
            first.cancel()
            second.cancel()
            await asyncio.wait([second], timeout=20)
            assert second.cancelled() and not first.done() and said == []
            go_on.set()
            await asyncio.wait([first], timeout=20)
            assert first.cancelled() and said == ["done"]
            begun.clear()
            go_on.clear()
            third = asyncio.create_task(threads.run(pool, slow, give_up=go_on.set))
            await asyncio.to_thread(begun.wait, 20)
            third.cancel()
            await asyncio.wait([third], timeout=20)
            assert third.cancelled() and said == ["done", "done"]
            go_on.clear()
            with pytest.raises(threads.Overdue):
                await threads.run(pool, slow, timeout_s=0.01)
            go_on.set()
            assert await threads.run(pool, str, 7) == "7"

    asyncio.run(story())


def test_a_copy_of_a_disk_at_rest_ends_with_who_wanted_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """qemu-img would keep the disk locked, and its guest could not start. This one takes a minute and writes its id first."""
    slow, said = tmp_path / "qemu-img", tmp_path / "said"
    slow.write_text(f'#!/bin/sh\necho $$ > {said}.new; mv {said}.new {said}\nexec sleep 60\n')
    slow.chmod(0o700)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")

    class Off:
        async def call(self, function: Callable[..., Any], *arguments: Any) -> Any:
            return None  # no guest runs

    async def story() -> None:
        driver = Libvirt(LibvirtConfig(state_folder=tmp_path))
        driver.instances, driver._started = tmp_path, True
        driver._records[ID] = instance(spec())
        driver._connection = Off()  # type: ignore[assignment]
        driver._files = ThreadPoolExecutor(1)
        copy = asyncio.create_task(driver._copy_disk(ID, tmp_path / "copy"))
        while not said.exists():
            await asyncio.sleep(0.01)
            assert not copy.done(), copy.exception()
        copy.cancel()
        await asyncio.wait([copy], timeout=20)
        assert copy.cancelled() and driver._copies == {}
        with pytest.raises(ProcessLookupError):
            os.kill(int(said.read_text()), 0)
        driver._files.shutdown()

    asyncio.run(story())


@pytest.mark.parametrize("cancelled", [False, True], ids=["failed", "cancelled"])
def test_a_build_says_why_it_ended_even_if_its_files_stay(
    cancelled: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The disk is full, or the caller gone, and then the files cannot be removed either."""
    removals: list[Path] = []
    making, go_on = threading.Event(), threading.Event()

    def remove_guest(folder: Path, _log_file: Path | None) -> None:
        removals.append(folder)
        if len(removals) > 1:
            raise OSError(errno.EIO, "Input/output error")

    def make_root(*_: Any) -> None:
        making.set()
        assert go_on.wait(20)
        raise OSError(errno.ENOSPC, "No space left on device")

    class Off:
        embedded = False

        async def call(self, function: Callable[..., Any], *arguments: Any) -> Any:
            return None  # no guest runs

    async def fetch(_image_id: str, _path: str) -> None:
        raise AssertionError("there is no image")

    async def story() -> None:
        driver = Libvirt(LibvirtConfig(state_folder=tmp_path, virt_type="qemu"))
        driver.instances, driver._started, driver._machines = tmp_path, True, OFFERED
        driver._acceleration = acceleration.probe(tmp_path / "none", tmp_path / "none")
        driver._connection = Off()  # type: ignore[assignment]
        driver._files = ThreadPoolExecutor(1)
        build = asyncio.create_task(driver.spawn(spec(), fetch))
        await asyncio.to_thread(making.wait, 20)
        if cancelled:
            build.cancel()
            await asyncio.sleep(0)
        go_on.set()
        await asyncio.wait([build], timeout=20)
        assert len(removals) == 2
        if cancelled:
            assert build.cancelled()
        else:
            error = build.exception()
            assert isinstance(error, DriverError) and error.reason == "The host has no disk space left."
        driver._files.shutdown()

    monkeypatch.setattr(files, "remove_guest", remove_guest)
    monkeypatch.setattr(files, "make_root", make_root)
    asyncio.run(story())
    assert "Input/output error" in caplog.text
