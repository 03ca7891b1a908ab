"""Images made here byte by byte; numbers in test names are rows of the list of attacks in docs/security.md."""

import struct
import uuid

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kilonova.compute.drivers import qcow2 as writer
from kilonova.core.disk_formats import HEAD_BYTES, DiskFormat, FormatMismatch, Inspector, UnsafeImage, check

MIB, GIB = 1 << 20, 1 << 30


def inspect(data: bytes, chunk: int = 65536) -> DiskFormat:
    inspector = Inspector()
    for at in range(0, len(data), chunk):
        inspector.eat(data[at:at + chunk])
    return inspector.finish(len(data))


def refused(data: bytes, word: str) -> None:
    with pytest.raises(UnsafeImage, match=word):
        inspect(data)


# ---- corpus


def qcow2(
    *, version: int = 3, backing_at: int = 0, virtual: int = GIB, crypt: int = 0, l1: int | None = None, l1_at: int = 0x30000,
    snapshots: int = 0, incompatible: int = 0, extensions: bytes = b"", cluster_bits: int = 16, header_bytes: int = 104, end: bool = True,
    refcount_clusters: int = 1,
) -> bytes:  # fmt: skip
    l1_entries = -(-virtual // (512 * MIB)) if l1 is None else l1
    fixed = struct.pack(
        ">4sIQIIQIIQQIIQ", b"QFI\xfb", version, backing_at, 11 if backing_at else 0, cluster_bits, virtual, crypt, l1_entries, l1_at,
        0x10000, refcount_clusters, snapshots, 0x1000 if snapshots else 0,
    )  # fmt: skip
    more = struct.pack(">QQQII", incompatible, 0, 0, 4, header_bytes) if version == 3 else b""
    data = fixed + more + extensions + (struct.pack(">II", 0, 0) if end else b"")
    if backing_at:
        data = data.ljust(backing_at, b"\0") + b"/etc/passwd"
    return data.ljust(0x40000, b"\0")


def extension(kind: int, content: bytes) -> bytes:
    return struct.pack(">II", kind, len(content)) + content + b"\0" * (-len(content) % 8)


def vmdk(
    descriptor: str | None = None, *, kind: str = "streamOptimized", capacity: int = 2048, extent: str = 'RW 2048 SPARSE "disk.vmdk"',
    more: str = "", directory_at: int = 21, footer: bytes = b"",
) -> bytes:  # fmt: skip
    text = descriptor if descriptor is not None else (
        f'# Disk DescriptorFile\nversion=1\nCID=12345678\nparentCID=ffffffff\ncreateType="{kind}"\n\n{extent}\n\n'
        f'ddb.virtualHWVersion = "4"\nddb.adapterType = "ide"\n{more}'
    )
    data = vmdk_header(capacity, directory_at) + text.encode().ljust(20 * 512, b"\0")
    return data.ljust(65536, b"\0") + footer


def vmdk_header(capacity: int, directory_at: int) -> bytes:
    return (b"KDMV" + struct.pack("<IIQQQQIQQQ", 3, 0x30001, capacity, 128, 1, 20, 512, 0, directory_at, 128)).ljust(512, b"\0")


def vhd_footer(kind: int, size: int, data_at: int = 0xFFFFFFFFFFFFFFFF) -> bytes:
    fields = struct.pack(">IIQI4sI4sQQHBBI", 2, 0x10000, data_at, 0, b"qemu", 0, b"Wi2k", size, size, 0, 0, 0, kind)
    return (b"conectix" + fields).ljust(512, b"\0")


def vhd_dynamic(kind: int = 3, size: int = 64 * MIB, entries: int = 32) -> bytes:
    header = b"cxsparse" + struct.pack(">QQIII", 0xFFFFFFFFFFFFFFFF, 1536, 0x10000, entries, 2 * MIB)
    footer = vhd_footer(kind, size, 512)
    return footer + header.ljust(1024, b"\0") + bytes(512) + footer


def vhdx(flags: int = 0, size: int = 5 * GIB, metadata_at: int = 2 * MIB) -> bytes:
    region = b"regi" + struct.pack("<III", 0, 1, 0) + uuid.UUID("8b7ca206-4790-4b9a-b8fe-575f050f886e").bytes_le
    region += struct.pack("<QII", metadata_at, MIB, 1)
    data = bytearray(4 * MIB)
    data[:8] = b"vhdxfile"
    data[196608:196608 + len(region)] = region
    table = b"metadata" + struct.pack("<HH", 0, 2) + bytes(20)
    table += uuid.UUID("caa16737-fa36-4d43-b3b6-33f0aa44e76b").bytes_le + struct.pack("<IIII", 65536, 8, 4, 0)
    table += uuid.UUID("2fa54224-cd1b-4876-b211-5dbed83bf4b8").bytes_le + struct.pack("<IIII", 65544, 8, 6, 0)
    data[metadata_at:metadata_at + len(table)] = table
    data[metadata_at + 65536:metadata_at + 65552] = struct.pack("<IIQ", 32 * MIB, flags, size)
    return bytes(data)


def vdi(kind: int = 1, size: int = GIB, parent: bytes = bytes(16), blocks: int = 1024) -> bytes:
    head = b"<<< test >>>\n".ljust(64, b"\0") + struct.pack("<IIIII", 0xBEDA107F, 0x10001, 400, kind, 0) + bytes(256)
    head += struct.pack("<IIIIIIIQIIII", 512, 8192, 0, 0, 0, 512, 0, size, MIB, 0, blocks, 0) + bytes(32) + bytes(16) + parent
    return head.ljust(65536, b"\0")


def iso() -> bytes:
    data = bytearray(40 * 2048)
    data[32768:32774] = b"\x01CD001"
    return bytes(data)


def gpt() -> bytes:
    data = bytearray(MIB)
    data[510:512] = b"\x55\xaa"
    data[512:520] = b"EFI PART"
    return bytes(data)


# ---- what is what


@pytest.mark.parametrize(
    ("data", "name", "virtual"),
    [
        (qcow2(), "qcow2", GIB),
        (qcow2(version=2), "qcow2", GIB),
        (qcow2(incompatible=0b11001, l1=4), "qcow2", GIB),
        (writer.empty(3 * GIB + 512), "qcow2", 3 * GIB + 512),
        (vmdk(), "vmdk", MIB),
        (vmdk(kind="monolithicSparse"), "vmdk", MIB),
        (vmdk(directory_at=2**64 - 1, footer=bytes(512) + vmdk_header(2048, 300) + bytes(512)), "vmdk", MIB),
        (vhd_dynamic(), "vhd", 64 * MIB),
        (bytes(MIB) + vhd_footer(2, MIB), "vhd", MIB),
        (vhdx(), "vhdx", 5 * GIB),
        (vdi(), "vdi", GIB),
        (iso(), "iso", 81920),
        (gpt(), "gpt", MIB),
        (b"QED\0" + bytes(44) + struct.pack("<Q", GIB) + bytes(64), "qed", GIB),
        (b"LUKS\xba\xbe" + bytes(1000), "luks", 1006),
        (b"WithoutFreeSpace" + bytes(1000), "ploop", 1016),
        (b"", "raw", 0),
        (b"\x1f\x8b" + bytes(100), "raw", 102),
        (bytes(3 * MIB), "raw", 3 * MIB),
    ],
)  # fmt: skip
def test_formats_are_told(data: bytes, name: str, virtual: int) -> None:
    for chunk in (1 << 22, 65536, 700):
        assert inspect(data, chunk) == DiskFormat(format=name, virtual_size=virtual)


# ---- what is refused


def test_1_backing_file() -> None:
    refused(qcow2(backing_at=0x200), "backing file")
    refused(writer.empty(GIB, "/etc/passwd", "raw"), "backing file")


def test_2_external_data_file() -> None:
    refused(qcow2(incompatible=4), "external file")
    refused(qcow2(extensions=extension(0x44415441, b"/etc/passwd")), "external data file")


def test_3_json_name_in_the_header() -> None:
    image = qcow2(backing_at=0x200).replace(b"/etc/passwd", b"json:{\"a\":1}"[:11])
    refused(image, "backing file")
    refused(qcow2(extensions=extension(0xE2792ACA, b"raw") + extension(0x44415441, b'json:{"driver":"file"}')), "external data file")


@pytest.mark.parametrize("declared", ["raw", "ami", "iso", "vhd"])
def test_3_declared_as_something_else(declared: str) -> None:
    with pytest.raises(FormatMismatch, match=f"declared as {declared} but its content is qcow2"):
        check(declared, inspect(qcow2()))
    with pytest.raises(FormatMismatch):
        check("raw", inspect(vmdk()))


def test_declarations_that_fit() -> None:
    for declared, data in (("raw", gpt()), ("raw", iso()), ("ami", bytes(99)), ("qcow2", qcow2()), ("vhd", vhd_dynamic()), ("gpt", gpt())):
        check(declared, inspect(data))
    with pytest.raises(FormatMismatch):
        check("no-such-format", "raw")


@pytest.mark.parametrize(
    ("image", "word"),
    [
        (vmdk(kind="monolithicFlat"), "type is not allowed"),
        (vmdk(extent='RW 2048 FLAT "/etc/passwd" 0'), "one sparse extent"),
        (vmdk(extent='RW 2048 SPARSE "/etc/passwd"'), "one sparse extent"),
        (vmdk(extent='RW 2048 SPARSE "a.vmdk"\nRW 2048 SPARSE "b.vmdk"'), "one sparse extent"),
        (vmdk(more='createType="monolithicFlat"'), "twice"),
        (vmdk(more='parentFileNameHint="/etc/passwd"'), "parent"),
        (vmdk(more="whatever this is"), "understood"),
        (vmdk(capacity=0), "no capacity"),
        (vmdk(directory_at=2**64 - 1), "footer"),
        (vmdk(directory_at=2**64 - 1, footer=bytes(512) + vmdk_header(0, 300) + bytes(512)), "footer"),
        (b'# Disk DescriptorFile\nversion=1\ncreateType="monolithicFlat"\nRW 1 FLAT "/etc/passwd" 0\n', "description of other files"),
        (b"COWD" + bytes(2000), "description of other files"),
    ],
)
def test_4_vmdk_that_points_elsewhere(image: bytes, word: str) -> None:
    refused(image, word)


@pytest.mark.parametrize(
    ("image", "word"),
    [
        (qcow2(l1=5 * MIB), "does not fit"),
        (qcow2(l1=1), "does not fit"),
        (qcow2(snapshots=60000), "internal snapshots"),
        (qcow2(refcount_clusters=1000), "reference count"),
        (qcow2(l1_at=1 << 40), "cut off"),
        (qcow2(cluster_bits=40), "cluster size"),
        (qcow2(header_bytes=99), "header length"),
        (qcow2(incompatible=1 << 20), "unknown features"),
        (qcow2(incompatible=2), "corrupt"),
        (qcow2(crypt=2), "encrypted"),
        (qcow2(extensions=extension(0x0537BE77, bytes(16))), "encrypted"),
        (qcow2(extensions=struct.pack(">II", 0x1234, 0xFFFFFFF0)), "no end"),
        (qcow2(version=1), "version"),
        (qcow2()[:80], "cut off"),
        (b"QFI\xfb", "cut off"),
    ],
)
def test_10_tables_that_exhaust_the_reader(image: bytes, word: str) -> None:
    refused(image, word)


def test_11_absurd_size() -> None:
    refused(qcow2(virtual=8 << 60, l1=4 * MIB, cluster_bits=21), "a disk of")
    refused(vhdx(size=8 << 60), "claims a disk")
    refused(vdi(size=8 << 60), "block table")


@pytest.mark.parametrize(
    "image",
    [vhd_dynamic(kind=4), bytes(512) + vhd_footer(4, MIB), vhdx(flags=2), vdi(kind=4), vdi(parent=b"p" * 16),
     b"QED\0" + bytes(12) + b"\1" + bytes(99)],
)
def test_disks_with_parents(image: bytes) -> None:
    with pytest.raises(UnsafeImage):
        inspect(image)


def test_several_formats_at_once() -> None:
    both = bytearray(qcow2())
    both[32769:32774] = b"CD001"
    refused(bytes(both), "several formats")
    refused(qcow2() + vhd_footer(2, MIB), "several formats")


def test_vhdx_metadata_must_lie_where_it_may() -> None:
    for at in (512 << 10, 3 * MIB + 65536 * 15):
        with pytest.raises(UnsafeImage):
            inspect(vhdx(metadata_at=at)[:4 * MIB])


def test_more_bytes_than_announced() -> None:
    inspector = Inspector()
    inspector.eat(bytes(100))
    with pytest.raises(UnsafeImage):
        inspector.finish(99)


# ---- nothing else ever comes out


SEEDS = [
    qcow2(), qcow2(version=2), vmdk(), vhd_dynamic(), vhdx()[:2 * MIB + 70000], vdi(), iso()[:33000], gpt()[:5000], b"QED\0" + bytes(100),
]  # fmt: skip


@settings(max_examples=300, deadline=None)
@given(
    seed=st.sampled_from(range(len(SEEDS))), cut=st.integers(0, 400_000),
    changes=st.lists(st.tuples(st.integers(0, 600), st.binary(min_size=1, max_size=8)), max_size=6), chunk=st.integers(1, 300_000),
)  # fmt: skip
def test_any_bytes_give_a_verdict(seed: int, cut: int, changes: list[tuple[int, bytes]], chunk: int) -> None:
    data = bytearray(SEEDS[seed][:cut] if cut < 300_000 else SEEDS[seed])
    for at, content in changes:
        data[at:at + len(content)] = content
    inspector = Inspector()
    step = max(chunk, len(data) // 200 + 1)
    for at in range(0, len(data), step):
        inspector.eat(bytes(data[at:at + step]))
    assert len(inspector._head) <= HEAD_BYTES and len(inspector._window) <= 128 << 10 and len(inspector._tail) <= 2048
    try:
        found = inspector.finish(len(data))
    except UnsafeImage as error:
        assert str(error)
    else:
        assert 0 <= found.virtual_size <= inspector.max_virtual_bytes


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=3000), st.integers(0, 5000))
def test_any_size_gives_a_verdict(data: bytes, extra: int) -> None:
    inspector = Inspector()
    inspector.eat(data)
    try:
        inspector.finish(len(data) + extra)
    except UnsafeImage:
        pass
