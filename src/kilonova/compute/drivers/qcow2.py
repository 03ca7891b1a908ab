"""The bytes of an empty qcow2 image, with or without a backing file: saves a fork of qemu-img for each server.

Layout (docs/interop/qcow2.txt in QEMU's source), in clusters of 64 KiB: 0 header and backing name, 1 reference count table, 2 the first
reference count block, from 3 on the first-level table, all zero: nothing is allocated, all reads go to the backing file.
"""

import struct

CLUSTER_BITS = 16
CLUSTER = 1 << CLUSTER_BITS
_BYTES_PER_L1_ENTRY = CLUSTER * CLUSTER // 8
_BACKING_FORMAT, _END = 0xE2792ACA, 0


def empty(virtual_size: int, backing_name: str | None = None, backing_format: str | None = None) -> bytes:
    """An image of `virtual_size` bytes (rounded up to sectors). `backing_format` is QEMU's name and always said, never probed."""
    name = (backing_name or "").encode()
    if bool(backing_name) != bool(backing_format) or len(name) > 1023 or name.startswith(b"json:"):
        raise ValueError("a backing file needs a plain name of at most 1023 bytes and a format")
    size = -(-virtual_size // 512) * 512
    l1_entries = -(-size // _BYTES_PER_L1_ENTRY)
    l1_clusters = max(1, -(-l1_entries * 8 // CLUSTER))
    clusters = 3 + l1_clusters
    if clusters > CLUSTER // 2:
        raise ValueError("the disk is too large for one reference count block")
    extensions = b""
    if backing_format:
        kind = backing_format.encode()
        extensions = struct.pack(">II", _BACKING_FORMAT, len(kind)) + kind + b"\0" * (-len(kind) % 8)
    extensions += struct.pack(">II", _END, 0)
    header = struct.pack(
        ">4sIQIIQIIQQIIQQQQII",
        b"QFI\xfb", 3, 112 + len(extensions) if name else 0, len(name), CLUSTER_BITS, size, 0, l1_entries, 3 * CLUSTER,
        CLUSTER, 1, 0, 0, 0, 0, 0, 4, 112,
    ) + bytes(8)  # fmt: skip
    first = header + extensions + name
    table = struct.pack(">Q", 2 * CLUSTER)
    block = struct.pack(">H", 1) * clusters
    return first.ljust(CLUSTER, b"\0") + table.ljust(CLUSTER, b"\0") + block.ljust(CLUSTER, b"\0") + bytes(l1_clusters * CLUSTER)
