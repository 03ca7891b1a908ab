"""The images are read back by small readers written here from the specifications, not by the code that wrote them."""

import struct
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kilonova.compute.config_drive import build, iso9660, vfat

FILES = {
    "openstack/latest/meta_data.json": b'{"uuid": 1}' * 400, "openstack/latest/user_data": b"#!/bin/sh\n",
    "openstack/2012-08-10/meta_data.json": b"{}",
    "openstack/content/0000": b"", "ec2/2009-04-04/meta-data.json": b"[]", "openstack/latest/network_data.json": bytes(range(256)) * 20,
}  # fmt: skip


# ---- readers


def read_iso(image: bytes, kind: str) -> dict[str, bytes]:
    """kind: plain (ISO names), rock (Rock Ridge names) or joliet."""
    sector = 17 if kind == "joliet" else 16
    descriptor = image[sector * 2048:(sector + 1) * 2048]
    assert descriptor[:7] == (b"\x02CD001\x01" if kind == "joliet" else b"\x01CD001\x01")
    assert struct.unpack_from("<I", descriptor, 80)[0] * 2048 == len(image)
    found: dict[str, bytes] = {}
    _walk_iso(image, descriptor[156:190], "", kind, found)
    return found


def _walk_iso(image: bytes, record: bytes, path: str, kind: str, found: dict[str, bytes]) -> None:
    extent, size = struct.unpack_from("<I", record, 2)[0], struct.unpack_from("<I", record, 10)[0]
    assert struct.unpack_from(">I", record, 6)[0] == extent and struct.unpack_from(">I", record, 14)[0] == size
    data = image[extent * 2048:extent * 2048 + size]
    at = seen = 0
    while at < size:
        length = data[at]
        if length == 0:
            at = (at // 2048 + 1) * 2048
            continue
        entry = data[at:at + length]
        at, seen = at + length, seen + 1
        if seen <= 2:
            continue
        raw = entry[33:33 + entry[32]]
        name = raw.decode("utf-16-be" if kind == "joliet" else "ascii").removesuffix(";1")
        if kind == "rock":
            name = _rock_name(entry[33 + entry[32] + (1 - entry[32] % 2):])
        if entry[25] & 2:
            _walk_iso(image, entry, f"{path}{name}/", kind, found)
        else:
            start, count = struct.unpack_from("<I", entry, 2)[0], struct.unpack_from("<I", entry, 10)[0]
            found[path + name] = image[start * 2048:start * 2048 + count]


def _rock_name(area: bytes) -> str:
    while len(area) > 4:
        if area[:2] == b"NM":
            return area[5:area[2]].decode()
        area = area[area[2]:]
    raise AssertionError("no name")


def read_fat(image: bytes) -> tuple[str, dict[str, bytes]]:
    sector, per_cluster, reserved, copies, entries, small, _media, fat_sectors = struct.unpack_from("<HBHBHHBH", image, 11)
    total = small or struct.unpack_from("<I", image, 32)[0]
    assert image[510:512] == b"\x55\xaa" and total * sector == len(image)
    fat_at = reserved * sector
    assert image[fat_at:fat_at + fat_sectors * sector] == image[fat_at + fat_sectors * sector:fat_at + 2 * fat_sectors * sector]
    root_at = fat_at + copies * fat_sectors * sector
    data_at, cluster = root_at + entries * 32, per_cluster * sector
    assert 4085 <= (len(image) - data_at) // cluster <= 65524

    def chain(number: int) -> bytes:
        parts = []
        while number and number < 0xFFF8:
            parts.append(image[data_at + (number - 2) * cluster:data_at + (number - 1) * cluster])
            number, = struct.unpack_from("<H", image, fat_at + number * 2)
        return b"".join(parts)

    found: dict[str, bytes] = {}
    label = ""

    def walk(directory: bytes, path: str) -> None:
        nonlocal label
        name = ""
        for at in range(0, len(directory), 32):
            entry = directory[at:at + 32]
            if entry[0] == 0:
                break
            if entry[11] == 0x0F:
                name = (entry[1:11] + entry[14:26] + entry[28:32]).decode("utf-16-le").split("\0")[0].rstrip("\uffff") + name
                continue
            if entry[11] & 8:
                label = entry[:11].decode().rstrip()
            elif entry[11] & 16:
                if entry[0] != ord("."):
                    walk(chain(struct.unpack_from("<H", entry, 26)[0]), f"{path}{name}/")
            else:
                found[path + name] = chain(struct.unpack_from("<H", entry, 26)[0])[:struct.unpack_from("<I", entry, 28)[0]]
            name = ""

    walk(image[root_at:data_at], "")
    return label, found


# ---- tests


@pytest.mark.parametrize("kind", ["plain", "rock", "joliet"])
def test_iso_holds_the_files(kind: str) -> None:
    assert read_iso(iso9660(FILES), kind) == FILES


def test_iso_label() -> None:
    image = iso9660(FILES)
    assert image[32768 + 40:32768 + 72] == b"config-2".ljust(32)
    assert image[17 * 2048 + 40:17 * 2048 + 72].decode("utf-16-be").rstrip() == "config-2"


def test_iso_directory_of_many_sectors() -> None:
    files = {f"openstack/content/{number:04d}": bytes([number % 256]) * number for number in range(300)}
    for kind in ("plain", "rock", "joliet"):
        assert read_iso(iso9660(files), kind) == files


def test_fat_holds_the_files() -> None:
    assert read_fat(vfat(FILES)) == ("config-2", FILES)


def test_fat_with_large_files() -> None:
    files = {"a/big": bytes(range(251)) * 60_000, "b": b"x"}
    assert read_fat(vfat(files))[1] == files


def test_same_input_same_bytes() -> None:
    shuffled = dict(reversed(FILES.items()))
    for kind in ("iso9660", "vfat"):
        assert build(FILES, kind, made_at=1_700_000_000) == build(shuffled, kind, made_at=1_700_000_000)
        assert build(FILES, kind, made_at=1_700_000_000) != build(FILES, kind)


@pytest.mark.parametrize("path", ["../etc/passwd", "/a", "a//b", "a/./b", "", "a/b c", "ü", "x" * 31, "a/b/c/d/e/f/g/h", "a\0b"])
def test_26_paths_that_lead_elsewhere(path: str) -> None:
    for kind in ("iso9660", "vfat"):
        with pytest.raises(ValueError):
            build({path: b""}, kind)


def test_file_and_directory_of_one_name() -> None:
    with pytest.raises(ValueError):
        build({"a": b"", "a/b": b""})
    with pytest.raises(ValueError):
        build({}, "tar")


_names = st.from_regex(r"[a-z0-9_.\-]{1,30}", fullmatch=True).filter(lambda name: name.strip(".") != "")
_paths = st.lists(_names, min_size=1, max_size=4).map("/".join)


@settings(max_examples=60, deadline=None)
@given(st.dictionaries(_paths, st.binary(max_size=5000), max_size=12))
def test_any_tree_comes_back(files: dict[str, bytes]) -> None:
    clash: Any = any(a != b and b.startswith(a + "/") for a in files for b in files)
    if clash:
        return
    image = iso9660(files)
    assert read_iso(image, "rock") == files == read_iso(image, "joliet") == read_iso(image, "plain")
    assert read_fat(vfat(files)) == ("config-2", files)
