"""The floor under a real VM: `qemu-img create` and libvirt's createXML of the same domain, nothing else.

    bench/bare_vm.py INSTANCE_JSON BASE_FOLDER FOLDER [TAP]

INSTANCE_JSON is the record of a guest that Kilonova made (instances/ID/instance.json): the domain is written from it by the same function,
under another name. Prints "ready", then for each line on standard input makes the guest, prints the seconds, and removes it. With TAP, a
device that must exist in the network namespace this runs in, the guest has its NIC.
"""

import os
import subprocess
import sys
import time
import uuid
from pathlib import Path
from typing import Any

import msgspec

from kilonova.compute.drivers.libvirt import domain
from kilonova.compute.drivers.libvirt.connection import QEMU_CONF, EventThread, ProbeCache, import_libvirt


def xml_of(record: domain.Instance, folder: Path, bases: Path, tap: str | None, virt_type: str) -> str:
    nics = tuple(msgspec.structs.replace(nic, device_name=tap, mac="52:54:00:00:be:01") for nic in record.spec.nics[:1]) if tap else ()
    spec = msgspec.structs.replace(record.spec, server_id=str(uuid.uuid4()), name="bare-vm", nics=nics)
    return domain.domain_xml(msgspec.structs.replace(record, spec=spec), folder, bases, domain.Platform(virt_type=virt_type))


def make(connection: Any, record: domain.Instance, bases: Path, folder: Path, tap: str | None, virt_type: str) -> Any:
    folder.mkdir()
    root = record.disks[0]
    backing = ["-b", str(bases / root.base), "-F", str(root.base_format)] if root.base else []
    command = ["qemu-img", "create", "-q", "-f", "qcow2", *backing, str(folder / root.file), f"{max(1, record.spec.root_gb)}G"]
    subprocess.run(command, check=True)
    return connection.createXML(xml_of(record, folder, bases, tap, virt_type), 0)


def main() -> None:
    record = msgspec.json.decode(Path(sys.argv[1]).read_bytes(), type=domain.Instance)
    bases, scratch = Path(sys.argv[2]), Path(sys.argv[3])
    tap = sys.argv[4] if len(sys.argv) > 4 else None
    virt_type = os.environ.get("KILONOVA_BENCH_VIRT_TYPE", "qemu")
    root = scratch / "libvirt"
    (root / "etc").mkdir(parents=True)
    (root / "etc" / "qemu.conf").write_text(QEMU_CONF)
    os.environ["LIBVIRT_LOG_OUTPUTS"] = f"4:file:{scratch / 'libvirt.log'}"
    libvirt = import_libvirt()
    ProbeCache(Path("/var/cache/kilonova"), root).load()
    EventThread.acquire(libvirt)
    connection = libvirt.open(f"qemu:///embed?root={root}")
    print("ready", flush=True)
    for number, _ in enumerate(sys.stdin):
        started = time.perf_counter()
        guest = make(connection, record, bases, scratch / str(number), tap, virt_type)
        print(time.perf_counter() - started, flush=True)
        guest.destroy()
    connection.close()
    EventThread.release(libvirt)


if __name__ == "__main__":
    main()
