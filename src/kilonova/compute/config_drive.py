"""Config drive images: a tree of small files as ISO 9660 or FAT16, made in memory.

Guests look for a file system labelled `config-2`.  The ISO carries Rock Ridge (for Linux) and Joliet (for Windows) names beside plain ones;
the FAT has long names.  Both are a function of the files and `made_at` alone: the same input gives the same bytes.

Layouts: ECMA-119, IEEE P1282 (Rock Ridge), the Joliet specification; Microsoft's FAT specification 1.03.
"""

import re
import struct
import time
from collections.abc import Iterator, Mapping

LABEL = "config-2"
SECTOR = 2048
_NAME = re.compile(r"[A-Za-z0-9_.\-]{1,30}")
_MAX_DEPTH = 7


class Node:
    """A directory (`children`) or a file (`content`). `places` is the extent or cluster, by the name of the tree it is in."""

    def __init__(self, name: str, parent: "Node | None", content: bytes | None = None):
        self.name = name
        self.parent = parent or self
        self.content = content
        self.children: dict[str, Node] = {}
        self.places: dict[str, int] = {}

    @property
    def is_directory(self) -> bool:
        return self.content is None

    def sorted_children(self) -> list["Node"]:
        return [self.children[name] for name in sorted(self.children)]


def tree(files: Mapping[str, bytes]) -> Node:
    """ValueError for a path that is not made of one to seven plain names, or is file and directory at once."""
    root = Node("", None)
    for path in sorted(files):
        parts = path.split("/")
        if len(parts) > _MAX_DEPTH or any(not _NAME.fullmatch(part) or part in (".", "..") for part in parts):
            raise ValueError(f"config drive path {path!r} is not allowed")
        node = root
        for part in parts[:-1]:
            node = node.children.setdefault(part, Node(part, node))
            if not node.is_directory:
                raise ValueError(f"config drive path {path!r} goes through a file")
        if parts[-1] in node.children:
            raise ValueError(f"config drive path {path!r} is a directory as well")
        node.children[parts[-1]] = Node(parts[-1], node, files[path])
    return root


def build(files: Mapping[str, bytes], image_format: str = "iso9660", label: str = LABEL, made_at: int = 0) -> bytes:
    """The image; `image_format` is iso9660 or vfat (Nova's `config_drive_format`)."""
    if image_format == "iso9660":
        return iso9660(files, label, made_at)
    if image_format == "vfat":
        return vfat(files, label, made_at)
    raise ValueError(f"config drive format {image_format!r} is not iso9660 or vfat")


# ---- ISO 9660


def iso9660(files: Mapping[str, bytes], label: str = LABEL, made_at: int = 0) -> bytes:
    root = tree(files)
    directories = _breadth_first(root)
    records = {kind: {id(d): _directory_bytes(d, kind, made_at) for d in directories} for kind in ("primary", "joliet")}
    tables = {kind: _path_table(directories, kind, "<") for kind in records}
    at = 19
    table_at: dict[tuple[str, str], int] = {}
    for kind in records:
        for order in "<>":
            table_at[kind, order] = at
            at += _sectors(len(tables[kind]))
    for kind in records:
        for directory in directories:
            directory.places[kind] = at
            at += _sectors(len(records[kind][id(directory)]))
    contents = [node for directory in directories for node in directory.sorted_children() if node.content is not None]
    for node in contents:
        node.places["primary"] = node.places["joliet"] = at
        at += _sectors(len(node.content or b""))
    image = bytearray(at * SECTOR)

    def put(sector: int, data: bytes) -> None:
        image[sector * SECTOR : sector * SECTOR + len(data)] = data

    for sector, kind in ((16, "primary"), (17, "joliet")):
        put(sector, _volume_descriptor(kind, label, at, len(tables[kind]), table_at, _record(root, kind, made_at, b"\0"), made_at))
    put(18, b"\xffCD001\x01")
    for kind in records:  # again, now that the places are known; lengths are the same
        for order in "<>":
            put(table_at[kind, order], _path_table(directories, kind, order))
        for directory in directories:
            put(directory.places[kind], _directory_bytes(directory, kind, made_at))
    for node in contents:
        put(node.places["primary"], node.content or b"")
    return bytes(image)


def _sectors(size: int) -> int:
    return -(-size // SECTOR)


def _breadth_first(root: Node) -> list[Node]:
    """Directories as path tables want them: by level, then by number of the parent, then by name."""
    found = [root]
    for directory in found:
        found += [child for child in directory.sorted_children() if child.is_directory]
    return found


def _identifier(node: Node, kind: str) -> bytes:
    name = node.name + ("" if node.is_directory else ";1")
    return name.encode("utf-16-be") if kind == "joliet" else name.encode("ascii")


def _both16(value: int) -> bytes:
    return struct.pack("<H", value) + struct.pack(">H", value)


def _both32(value: int) -> bytes:
    return struct.pack("<I", value) + struct.pack(">I", value)


def _record(node: Node, kind: str, made_at: int, identifier: bytes, system_use: bytes = b"") -> bytes:
    size = _directory_length(node, kind) if node.content is None else len(node.content)
    when = time.gmtime(made_at)
    body = (
        b"\0"
        + _both32(node.places.get(kind, 0))
        + _both32(size)
        + bytes((when.tm_year - 1900, when.tm_mon, when.tm_mday, when.tm_hour, when.tm_min, when.tm_sec, 0))
        + bytes((2 if node.is_directory else 0, 0, 0))
        + _both16(1)
        + bytes((len(identifier),))
        + identifier
    )
    body += b"\0" * (1 - len(body) % 2)  # the length byte in front counts, too
    body += system_use + b"\0" * (len(system_use) % 2)
    return bytes((len(body) + 1,)) + body


def _rock_ridge(node: Node, name: bytes = b"", first: bool = False) -> bytes:
    mode, links = (0o40555, 2 + sum(c.is_directory for c in node.children.values())) if node.is_directory else (0o100444, 1)
    entries = b"PX" + bytes((36, 1)) + _both32(mode) + _both32(links) + _both32(0) + _both32(0)
    if name:
        entries += b"NM" + bytes((5 + len(name), 1, 0)) + name
    if first:  # marks the disc as Rock Ridge
        entries = b"SP\x07\x01\xbe\xef\0" + entries + b"ER" + bytes((18, 1, 10, 0, 0, 1)) + b"RRIP_1991A"
    return entries


def _directory_records(directory: Node, kind: str, made_at: int) -> Iterator[bytes]:
    rock = kind == "primary"
    is_root = directory.parent is directory
    yield _record(directory, kind, made_at, b"\0", _rock_ridge(directory, first=is_root) if rock else b"")
    yield _record(directory.parent, kind, made_at, b"\1", _rock_ridge(directory.parent) if rock else b"")
    for child in sorted(directory.children.values(), key=lambda node: _identifier(node, kind)):
        yield _record(child, kind, made_at, _identifier(child, kind), _rock_ridge(child, child.name.encode("ascii")) if rock else b"")


def _directory_length(directory: Node, kind: str) -> int:
    """Bytes of the directory in whole sectors, from the lengths of its records alone."""
    rock = kind == "primary"
    used = 0
    own = 34 + (len(_rock_ridge(directory, first=directory.parent is directory)) if rock else 0)
    above = 34 + (len(_rock_ridge(directory.parent)) if rock else 0)
    lengths = [own, above]
    for child in sorted(directory.children.values(), key=lambda node: _identifier(node, kind)):
        name = len(_identifier(child, kind))
        lengths.append(33 + name + (1 - name % 2) + (len(_rock_ridge(child, child.name.encode("ascii"))) if rock else 0))
    for length in lengths:
        used = _fit(used, length + length % 2) + length + length % 2
    return _sectors(used) * SECTOR


def _fit(at: int, length: int) -> int:
    """Where a record of `length` may begin: records do not cross sectors."""
    return at if at % SECTOR + length <= SECTOR else _sectors(at) * SECTOR


def _directory_bytes(directory: Node, kind: str, made_at: int) -> bytes:
    data = bytearray()
    for record in _directory_records(directory, kind, made_at):
        data += b"\0" * (_fit(len(data), len(record)) - len(data)) + record
    return bytes(data) + b"\0" * (-len(data) % SECTOR)


def _path_table(directories: list[Node], kind: str, order: str) -> bytes:
    numbers = {id(directory): number for number, directory in enumerate(directories, 1)}
    table = b""
    for directory in directories:
        name = _identifier(directory, kind) or b"\0"
        table += struct.pack(order + "BBIH", len(name), 0, directory.places.get(kind, 0), numbers[id(directory.parent)])
        table += name + b"\0" * (len(name) % 2)
    return table


def _volume_descriptor(
    kind: str, label: str, sectors: int, table_bytes: int, table_at: dict[tuple[str, str], int], root: bytes, made_at: int
) -> bytes:
    joliet = kind == "joliet"

    def text(value: str, size: int) -> bytes:
        if not joliet:
            return value.encode("ascii")[:size].ljust(size)
        return (value.encode("utf-16-be")[: size // 2 * 2] + "\0 ".encode("ascii") * size)[:size] if value else (b"\0 " * size)[:size]

    stamp = time.strftime("%Y%m%d%H%M%S00", time.gmtime(made_at)).encode() + b"\0"
    never = b"0" * 16 + b"\0"
    return b"".join(
        (
            b"\x02CD001\x01\0" if joliet else b"\x01CD001\x01\0",
            text("LINUX", 32),
            text(label, 32),
            bytes(8),
            _both32(sectors),
            (b"%/E" if joliet else b"").ljust(32, b"\0"),
            _both16(1),
            _both16(1),
            _both16(SECTOR),
            _both32(table_bytes),
            struct.pack("<II", table_at[kind, "<"], 0),
            struct.pack(">II", table_at[kind, ">"], 0),
            root,
            text("", 128),
            text("", 128),
            text("", 128),
            text("KILONOVA", 128),
            text("", 37),
            text("", 37),
            text("", 37),
            stamp,
            stamp,
            never,
            never,
            b"\x01\0",
        )
    ).ljust(SECTOR, b"\0")


# ---- FAT16

_FAT_SECTOR = 512
_ROOT_ENTRIES = 512
_MIN_CLUSTERS, _MAX_CLUSTERS = 4085, 65524  # what makes a FAT a FAT16


def vfat(files: Mapping[str, bytes], label: str = LABEL, made_at: int = 0) -> bytes:
    root = tree(files)
    directories = _breadth_first(root)
    short = {id(node): f"F{number:07d}   ".encode() for number, node in enumerate(_all_nodes(root))}
    sizes = {id(d): 32 * (2 + sum(1 + _long_entries(c.name) for c in d.children.values())) for d in directories}
    if sizes[id(root)] > 32 * _ROOT_ENTRIES:
        raise ValueError("the config drive has too many names in its top directory")
    sectors_per_cluster, clusters = _fat_geometry([sizes[id(d)] for d in directories[1:]], files)
    cluster = sectors_per_cluster * _FAT_SECTOR
    fat_sectors = -(-(clusters + 2) * 2 // _FAT_SECTOR)
    root_at = (1 + 2 * fat_sectors) * _FAT_SECTOR
    data_at = root_at + _ROOT_ENTRIES * 32
    fat = [0xFFF8, 0xFFFF]
    nodes = [node for directory in directories for node in directory.sorted_children()]
    for node in nodes:
        length = -(-(sizes[id(node)] if node.content is None else len(node.content)) // cluster)
        node.places["fat"] = len(fat) if length else 0
        fat += [*range(len(fat) + 1, len(fat) + length), 0xFFFF] if length else []
    image = bytearray(data_at + clusters * cluster)
    image[:_FAT_SECTOR] = _boot_sector(label, sectors_per_cluster, fat_sectors, len(image) // _FAT_SECTOR)
    table = struct.pack(f"<{len(fat)}H", *fat)
    for copy in range(2):
        begin = _FAT_SECTOR * (1 + copy * fat_sectors)
        image[begin : begin + len(table)] = table
    stamp = _fat_stamp(made_at)
    label_entry = label.encode("ascii")[:11].ljust(11) + bytes((8, 0)) + stamp + bytes(6)
    for node in [root, *nodes]:
        begin = root_at if node is root else data_at + (node.places["fat"] - 2) * cluster
        if node is root:
            data = label_entry + _fat_children(node, short, stamp)
        elif node.content is None:
            data = (
                _fat_entry(b".          ", node, stamp) + _fat_entry(b"..         ", node.parent, stamp) + _fat_children(node, short, stamp)
            )
        else:
            data = node.content
        if data:
            image[begin : begin + len(data)] = data
    return bytes(image)


def _all_nodes(node: Node) -> Iterator[Node]:
    for child in node.sorted_children():
        yield child
        yield from _all_nodes(child)


def _fat_geometry(directory_bytes: list[int], files: Mapping[str, bytes]) -> tuple[int, int]:
    """Sectors per cluster, and clusters: the smallest cluster with which everything fits, with some room left."""
    sizes = directory_bytes + [len(content) for content in files.values()]
    for sectors_per_cluster in (1, 2, 4, 8, 16, 32, 64):
        cluster = sectors_per_cluster * _FAT_SECTOR
        needed = sum(-(-size // cluster) for size in sizes)
        if needed <= _MAX_CLUSTERS - 16:
            return sectors_per_cluster, max(_MIN_CLUSTERS + 11, needed + 16)
    raise ValueError("the config drive's files are too large for FAT16")


def _boot_sector(label: str, sectors_per_cluster: int, fat_sectors: int, total: int) -> bytes:
    small, large = (total, 0) if total < 1 << 16 else (0, total)
    sector = b"\xeb\x3c\x90KILONOVA" + struct.pack(
        "<HBHBHHBHHHII", _FAT_SECTOR, sectors_per_cluster, 1, 2, _ROOT_ENTRIES, small, 0xF8, fat_sectors, 32, 64, 0, large
    )
    sector += struct.pack("<BBBI", 0x80, 0, 0x29, 0x4B4E0002) + label.encode("ascii")[:11].ljust(11) + b"FAT16   "
    return sector.ljust(510, b"\0") + b"\x55\xaa"


def _fat_stamp(made_at: int) -> bytes:
    """Creation tenths, time and date, and access date; FAT time begins in 1980."""
    when = time.gmtime(max(made_at, 315532800))
    date = (when.tm_year - 1980) << 9 | when.tm_mon << 5 | when.tm_mday
    clock = when.tm_hour << 11 | when.tm_min << 5 | when.tm_sec // 2
    return struct.pack("<BHHHHHH", 0, clock, date, date, 0, clock, date)


def _fat_entry(short: bytes, node: Node, stamp: bytes) -> bytes:
    size = 0 if node.content is None else len(node.content)
    return short + bytes((0x10 if node.is_directory else 0x21, 0)) + stamp + struct.pack("<HI", node.places.get("fat", 0), size)


def _long_entries(name: str) -> int:
    return -(-len(name) // 13)


def _fat_children(directory: Node, short: dict[int, bytes], stamp: bytes) -> bytes:
    return b"".join(
        _long_name(node.name, short[id(node)]) + _fat_entry(short[id(node)], node, stamp) for node in directory.sorted_children()
    )


def _long_name(name: str, short: bytes) -> bytes:
    """The long-name entries in front of a short one, last part first."""
    checksum = 0
    for byte in short:
        checksum = ((checksum & 1) << 7 | checksum >> 1) + byte & 0xFF
    count = _long_entries(name)
    padded = name.encode("utf-16-le") + (b"\0\0" if len(name) % 13 else b"")
    padded = padded.ljust(count * 26, b"\xff")
    entries = b""
    for index in range(count, 0, -1):
        part = padded[(index - 1) * 26 : index * 26]
        mark = index | (0x40 if index == count else 0)
        entries += bytes((mark,)) + part[:10] + bytes((0x0F, 0, checksum)) + part[10:22] + b"\0\0" + part[22:]
    return entries
