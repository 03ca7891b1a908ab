"""What a disk image really is, told from its bytes, and whether it is safe to open.

Image formats can name other files (backing files, data files, extents, parents); whoever opens such an image on a host
reads those files for the guest. So nothing here trusts a declared format: an `Inspector` sees the stream go by, keeps a
bounded part of it, and at the end says which format it is and how large a disk it shows.  It refuses every construction that
points outside the image, and sizes that exist only to exhaust the reader.

Layouts: docs/interop/qcow2.txt and qed_spec.txt in QEMU's source; "Virtual Disk Format 5.0" (VMware);
"Virtual Hard Disk Image Format Specification" and MS-VHDX (Microsoft); VDI as QEMU's block/vdi.c describes it; ECMA-119; UEFI (GPT).
"""

import re
import struct
from collections.abc import Callable

import msgspec

HEAD_BYTES = 1 << 20  # every header that we need lies in the first MiB, except VHDX metadata
TAIL_BYTES = 2048  # VHD footer: last 512 bytes; VMDK footer: the sector 1024 before the end
MAX_VIRTUAL_BYTES = 64 << 40
MAX_QCOW2_SNAPSHOTS = 16
VHDX_WINDOW_BYTES = 128 << 10
_VHDX_METADATA = bytes.fromhex("06a27c8b90479a4bb8fe575f050f886e")
_VHDX_DISK_SIZE = bytes.fromhex("2442a52f1bcd7648b2115dbed83bf4b8")
_VHDX_FILE_PARAMETERS = bytes.fromhex("3767a1ca36fa434db3b633f0aa44e76b")
_PLOOP = (b"WithoutFreeSpace", b"WithouFreSpacExt")


class DiskFormatError(Exception):
    """The image cannot be used; the text is one sentence, fit for users."""


class UnsafeImage(DiskFormatError):
    def __init__(self, reason: str):
        super().__init__(reason)
        self.reason = reason


class FormatMismatch(DiskFormatError):
    def __init__(self, declared: str, found: str):
        super().__init__(f"The image is declared as {declared} but its content is {found}; declare the format it really has.")
        self.declared, self.found = declared, found


class DiskFormat(msgspec.Struct, frozen=True, kw_only=True):
    """`format` is Glance's name where it has one (raw, qcow2, vmdk, vhd, vhdx, vdi, iso, gpt, luks, ploop), else qed.
    `virtual_size` is bytes as the guest would see them."""

    format: str
    virtual_size: int


# Which contents a declaration allows. Raw bytes are never interpreted by the host, so any content that has no indirection may
# be called raw; a kernel, ramdisk or partition image (aki, ari, ami) is raw as well.
_PLAIN = ("raw", "gpt", "iso")
ALLOWED: dict[str, tuple[str, ...]] = {
    "raw": _PLAIN,
    "ami": _PLAIN,
    "ari": _PLAIN,
    "aki": _PLAIN,
    "iso": ("iso",),
    "gpt": ("gpt",),
    "luks": ("luks",),
    "ploop": ("ploop",),
    "qcow2": ("qcow2",),
    "vmdk": ("vmdk",),
    "vhd": ("vhd",),
    "vhdx": ("vhdx",),
    "vdi": ("vdi",),
}


def check(declared: str, found: DiskFormat | str) -> None:
    """Raise FormatMismatch unless content of format `found` may be declared as `declared`."""
    name = found if isinstance(found, str) else found.format
    if name not in ALLOWED.get(declared, ()):
        raise FormatMismatch(declared, name)


class Inspector:
    """Feed all bytes in order with `eat`, then ask `finish`. Keeps at most HEAD_BYTES + VHDX_WINDOW_BYTES + TAIL_BYTES."""

    def __init__(self, max_virtual_bytes: int = MAX_VIRTUAL_BYTES):
        self.max_virtual_bytes = max_virtual_bytes
        self.eaten = 0
        self._head = bytearray()
        self._tail = b""
        self._window = bytearray()
        self._window_at: int | None = None  # None: not looked for yet; 0: there is none

    def eat(self, chunk: bytes) -> None:
        start = self.eaten
        self.eaten += len(chunk)
        if len(self._head) < HEAD_BYTES:
            self._head += chunk[: HEAD_BYTES - len(self._head)]
        if len(chunk) >= TAIL_BYTES:
            self._tail = bytes(chunk[-TAIL_BYTES:])
        else:
            self._tail = (self._tail + bytes(chunk))[-TAIL_BYTES:]
        if self._window_at is None and len(self._head) >= HEAD_BYTES:
            self._window_at = _vhdx_metadata_offset(bytes(self._head)) if self._head[:8] == b"vhdxfile" else 0
        if self._window_at and self.eaten > self._window_at and len(self._window) < VHDX_WINDOW_BYTES:
            begin = max(0, self._window_at - start)
            self._window += chunk[begin : begin + VHDX_WINDOW_BYTES - len(self._window)]

    def finish(self, size: int) -> DiskFormat:
        """The verdict for an image of `size` bytes; UnsafeImage if it must not be opened."""
        if self.eaten > size:
            raise UnsafeImage(f"The image has {self.eaten} bytes but {size} were announced.")
        found = self._identify(size)
        if found.virtual_size < 0 or found.virtual_size > self.max_virtual_bytes:
            raise UnsafeImage(f"The image claims a disk of {found.virtual_size} bytes; the limit is {self.max_virtual_bytes}.")
        return found

    def _identify(self, size: int) -> DiskFormat:
        head = bytes(self._head)
        matches = [name for name, looks_like in _STRONG.items() if looks_like(head)]
        if not matches and self._tail_at_end(size, 512)[:8] == b"conectix":
            matches = ["vhd"]
        elif matches and matches != ["vhd"] and self._tail_at_end(size, 512)[:8] == b"conectix":
            matches.append("vhd")
        iso = head[32769:32774] == b"CD001"
        if iso and matches and matches != ["vhd"]:
            matches.append("iso")
        if len(matches) > 1:
            raise UnsafeImage(f"The image looks like several formats at once ({', '.join(sorted(matches))}).")
        if matches:
            return self._measure(matches[0], head, size)
        if iso:
            return DiskFormat(format="iso", virtual_size=size)
        gpt = head[512:520] == b"EFI PART" or head[4096:4104] == b"EFI PART"
        return DiskFormat(format="gpt" if gpt else "raw", virtual_size=size)

    def _measure(self, name: str, head: bytes, size: int) -> DiskFormat:
        try:
            if name == "qcow2":
                virtual = _qcow2(head, size)
            elif name == "vmdk":
                virtual = _vmdk(head, self._tail_at_end(size, 1536))
            elif name == "vhd":
                virtual = _vhd(head, self._tail_at_end(size, 512))
            elif name == "vhdx":
                virtual = _vhdx(bytes(self._window))
            elif name == "vdi":
                virtual = _vdi(head)
            elif name == "qed":
                virtual = _qed(head)
            else:  # luks, ploop: opaque to us
                virtual = size
        except struct.error:
            raise UnsafeImage(f"The {name} header is cut off.") from None
        return DiskFormat(format=name, virtual_size=virtual)

    def _tail_at_end(self, size: int, length: int) -> bytes:
        """The last `length` bytes, or nothing when the end was not fed."""
        return self._tail[-length:] if self.eaten == size and len(self._tail) >= length else b""


def _vmdk_magic(head: bytes) -> bool:
    return head[:4] in (b"KDMV", b"COWD") or head[:256].lstrip(b"\r\n\t #").lower().startswith(b"disk descriptorfile")


# Formats whose header sits at the start. Two of them at once is somebody's trick.
_STRONG: dict[str, Callable[[bytes], bool]] = {
    "qcow2": lambda head: head[:4] == b"QFI\xfb",
    "vmdk": _vmdk_magic,
    "vhd": lambda head: head[:8] == b"conectix",
    "vhdx": lambda head: head[:8] == b"vhdxfile",
    "vdi": lambda head: head[64:68] == b"\x7f\x10\xda\xbe",
    "qed": lambda head: head[:4] == b"QED\0",
    "luks": lambda head: head[:6] == b"LUKS\xba\xbe",
    "ploop": lambda head: head[:16] in _PLOOP,
}


def _qcow2(head: bytes, size: int) -> int:
    (
        version,
        backing_at,
        _backing_bytes,
        cluster_bits,
        virtual,
        crypt,
        l1_entries,
        l1_at,
        refcounts_at,
        refcount_clusters,
        snapshots,
        snapshots_at,
    ) = struct.unpack_from(">IQIIQIIQQIIQ", head, 4)
    if version not in (2, 3):
        raise UnsafeImage(f"The qcow2 version {version} is not supported; convert the image to version 3.")
    if backing_at:
        raise UnsafeImage("The qcow2 image has a backing file; flatten it before the upload.")
    if crypt:
        raise UnsafeImage("The qcow2 image is encrypted; upload it decrypted.")
    if not 9 <= cluster_bits <= 21:
        raise UnsafeImage(f"The qcow2 cluster size 2^{cluster_bits} is out of range.")
    cluster = 1 << cluster_bits
    header_bytes, extended_l2 = 72, False
    if version == 3:
        (incompatible,) = struct.unpack_from(">Q", head, 72)
        (header_bytes,) = struct.unpack_from(">I", head, 100)
        extended_l2 = bool(incompatible & 16)
        _qcow2_features(incompatible)
        if header_bytes < 104 or header_bytes % 8 or header_bytes > cluster:
            raise UnsafeImage(f"The qcow2 header length {header_bytes} is out of range.")
    _qcow2_extensions(head, header_bytes, cluster)
    covered = cluster * (cluster // (16 if extended_l2 else 8))
    if l1_entries * 8 > 32 << 20 or l1_entries * covered < virtual:
        raise UnsafeImage(f"The qcow2 table of {l1_entries} entries does not fit a disk of {virtual} bytes.")
    if refcount_clusters * cluster > 8 << 20:
        raise UnsafeImage("The qcow2 reference count table is absurdly large.")
    if snapshots > MAX_QCOW2_SNAPSHOTS:
        raise UnsafeImage(f"The qcow2 image has {snapshots} internal snapshots; at most {MAX_QCOW2_SNAPSHOTS} are allowed.")
    ends = [l1_at + l1_entries * 8, refcounts_at + (8 if refcount_clusters else 0), snapshots_at if snapshots else 0]
    if max(ends) > size:
        raise UnsafeImage("The qcow2 tables lie beyond the end of the image; it is cut off.")
    return int(virtual)


def _qcow2_features(incompatible: int) -> None:
    if incompatible & 4:
        raise UnsafeImage("The qcow2 image keeps its data in an external file; convert it to a single file.")
    if incompatible & 2:
        raise UnsafeImage("The qcow2 image is marked as corrupt; repair it before the upload.")
    if incompatible & ~0b11111:
        raise UnsafeImage(f"The qcow2 image needs unknown features ({incompatible:#x}).")


def _qcow2_extensions(head: bytes, at: int, cluster: int) -> None:
    """Walk the header extensions to their end marker; they must end inside the part of the first cluster that we hold."""
    limit = min(cluster, len(head))
    while at + 8 <= limit:
        kind, length = struct.unpack_from(">II", head, at)
        if kind == 0:
            return
        if kind == 0x44415441:
            raise UnsafeImage("The qcow2 image names an external data file; convert it to a single file.")
        if kind == 0x0537BE77:
            raise UnsafeImage("The qcow2 image is encrypted; upload it decrypted.")
        at += 8 + -(-length // 8) * 8
    if at != cluster:  # extensions that exactly fill the cluster need no marker
        raise UnsafeImage("The qcow2 header extensions have no end.")


def _vmdk(head: bytes, tail: bytes) -> int:
    if head[:4] != b"KDMV":
        raise UnsafeImage("The vmdk is only a description of other files; use streamOptimized or monolithicSparse.")
    capacity, descriptor_at, descriptor_sectors, directory_at = _vmdk_header(head)
    if capacity == 0:  # readers then take the embedded text for a description of other files
        raise UnsafeImage("The vmdk has no capacity of its own; use streamOptimized or monolithicSparse.")
    if directory_at == 0xFFFFFFFFFFFFFFFF:
        if tail[512:516] != b"KDMV" or _vmdk_header(tail[512:])[:3] != (capacity, descriptor_at, descriptor_sectors):
            raise UnsafeImage("The vmdk footer is missing or contradicts the header.")
    end = (descriptor_at + descriptor_sectors) * 512
    if not descriptor_at or not descriptor_sectors or end > len(head):
        raise UnsafeImage("The vmdk has no readable description; use streamOptimized or monolithicSparse.")
    _vmdk_descriptor(head[descriptor_at * 512 : end].split(b"\0", 1)[0].decode("utf-8", "replace"))
    return capacity * 512


def _vmdk_header(header: bytes) -> tuple[int, int, int, int]:
    capacity, _grain, descriptor_at, descriptor_sectors, _entries, _redundant, directory_at = struct.unpack_from("<QQQQIQQ", header, 12)
    return capacity, descriptor_at, descriptor_sectors, directory_at


_VMDK_SETTING = re.compile(r"\s*([A-Za-z0-9_.]+)\s*=\s*\"?([^\"]*?)\"?\s*")
_VMDK_EXTENT = re.compile(r"\s*(RW|RDONLY|NOACCESS)\s+(\d+)\s+([A-Za-z0-9_]+)(?:\s+\"([^\"]*)\")?(?:\s+\d+)?\s*", re.IGNORECASE)


def _vmdk_descriptor(text: str) -> None:
    settings: dict[str, str] = {}
    extents: list[tuple[str, str]] = []
    for line in text.splitlines():
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        if extent := _VMDK_EXTENT.fullmatch(line):
            extents.append((extent[3].upper(), extent[4] or ""))
        elif setting := _VMDK_SETTING.fullmatch(line):
            name = setting[1].lower()
            if name in settings:
                raise UnsafeImage("The vmdk description says the same thing twice.")
            settings[name] = setting[2]
        else:
            raise UnsafeImage("The vmdk description cannot be understood.")
    kind = settings.get("createtype", "")
    if kind not in ("streamOptimized", "monolithicSparse"):
        raise UnsafeImage("The vmdk type is not allowed; use streamOptimized or monolithicSparse.")
    if settings.get("parentcid", "ffffffff").lower() != "ffffffff" or "parentfilenamehint" in settings:
        raise UnsafeImage("The vmdk has a parent file; flatten it before the upload.")
    if len(extents) != 1 or extents[0][0] != "SPARSE" or "/" in extents[0][1] or "\\" in extents[0][1]:
        raise UnsafeImage("The vmdk must have exactly one sparse extent, inside itself.")


def _vhd(head: bytes, tail: bytes) -> int:
    footer = head if head[:8] == b"conectix" else tail
    (data_at,) = struct.unpack_from(">Q", footer, 16)
    (current,) = struct.unpack_from(">Q", footer, 48)
    cylinders, heads, sectors, kind = struct.unpack_from(">HBBI", footer, 56)
    if kind not in (2, 3):
        raise UnsafeImage(
            "The vhd is a differencing disk or of an unknown type; merge it into one file."
            if kind == 4
            else f"The vhd type {kind} is not supported."
        )
    if kind == 3:
        if head[data_at : data_at + 8] != b"cxsparse":
            raise UnsafeImage("The vhd has no dynamic disk header.")
        entries, block = struct.unpack_from(">II", head, data_at + 28)
        if block < 512 or block & (block - 1) or entries * 4 > 64 << 20 or entries * block < current:
            raise UnsafeImage("The vhd block table does not fit its size.")
    return int(max(current, cylinders * heads * sectors * 512))


def _vhdx_metadata_offset(head: bytes) -> int:
    """Where the metadata region begins by the first region table; 0 if there is none in a legal place."""
    if head[196608:196612] != b"regi":
        return 0
    (count,) = struct.unpack_from("<I", head, 196608 + 8)
    for entry in range(min(count, 2047)):
        guid, at, _length, _required = struct.unpack_from("<16sQII", head, 196608 + 16 + entry * 32)
        if guid == _VHDX_METADATA:
            return int(at) if at >= HEAD_BYTES else 0
    return 0


def _vhdx(window: bytes) -> int:
    if window[:8] != b"metadata":
        raise UnsafeImage("The vhdx metadata was not found.")
    (count,) = struct.unpack_from("<H", window, 10)
    items: dict[bytes, int] = {}
    for entry in range(min(count, 2047)):
        guid, at, length = struct.unpack_from("<16sII", window, 32 + entry * 32)
        if guid in items or at + length > len(window):
            raise UnsafeImage("The vhdx metadata table is not valid.")
        items[guid] = at
    if _VHDX_DISK_SIZE not in items or _VHDX_FILE_PARAMETERS not in items:
        raise UnsafeImage("The vhdx metadata is not complete.")
    (flags,) = struct.unpack_from("<I", window, items[_VHDX_FILE_PARAMETERS] + 4)
    if flags & 2:
        raise UnsafeImage("The vhdx is a differencing disk; merge it into one file.")
    return int(struct.unpack_from("<Q", window, items[_VHDX_DISK_SIZE])[0])


def _vdi(head: bytes) -> int:
    (kind,) = struct.unpack_from("<I", head, 76)
    virtual, block, _extra, blocks = struct.unpack_from("<QIII", head, 368)
    if kind not in (1, 2) or head[424:456].strip(b"\0"):
        raise UnsafeImage("The vdi is a snapshot or differencing disk; merge it into one file.")
    if len(head) < 456 or block < 512 or blocks * 4 > 512 << 20 or blocks * block < virtual:
        raise UnsafeImage("The vdi block table does not fit its size.")
    return int(virtual)


def _qed(head: bytes) -> int:
    (features,) = struct.unpack_from("<Q", head, 16)
    (virtual,) = struct.unpack_from("<Q", head, 48)
    if features & 1:
        raise UnsafeImage("The qed image has a backing file; flatten it before the upload.")
    return int(virtual)
