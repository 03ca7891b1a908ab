"""nftables in process: libnftables for structure, our own nf_tables messages for hot element changes.

libnftables reads definitions back from the kernel for each command, which costs more than the change itself once there are many
chains; so single elements go as netlink messages (numbers from linux/netfilter/nf_tables.h). Both ways are transactions.
"""

import ctypes
import ipaddress
import struct
import threading
from collections.abc import Sequence
from typing import NamedTuple

from kilonova.network.drivers.linux.netlink import (
    HEADER,
    NETLINK_NETFILTER,
    NLM_F_ACK,
    NLM_F_CREATE,
    NLM_F_REQUEST,
    Socket,
    attribute,
    nested,
    text,
)
from kilonova.network.drivers.linux.rtnl import mac_bytes

FAMILIES = {"inet": 1, "ip": 2, "bridge": 7, "ip6": 10}
_SUBSYSTEM = 10
_BATCH_BEGIN, _BATCH_END = 0x10, 0x11
_NEW_ELEMENT, _DELETE_ELEMENT = 12, 14
_LIST_TABLE, _LIST_SET, _LIST_ELEMENTS, _LIST_ITEM = 1, 2, 3, 1
_ELEMENT_KEY, _ELEMENT_DATA, _DATA_VALUE, _DATA_VERDICT = 1, 2, 1, 2
_VERDICT_CODE, _VERDICT_CHAIN = 1, 2
_VERDICTS = {"drop": 0, "accept": 1, "jump": -3, "goto": -4}
_GUARD = threading.Lock()
"""libnftables promises nothing about threads."""


class NftError(Exception):
    """What libnftables said, first line only; `script` is kept for logs."""

    def __init__(self, message: str, script: str) -> None:
        super().__init__(message)
        self.script = script


def _library() -> ctypes.CDLL:
    try:
        library = ctypes.CDLL("libnftables.so.1")
    except OSError:
        raise NftError("libnftables.so.1 is not installed; install the package libnftables1.", "") from None
    library.nft_ctx_new.restype = ctypes.c_void_p
    library.nft_ctx_new.argtypes = [ctypes.c_uint32]
    for name in ("nft_ctx_free", "nft_ctx_buffer_output", "nft_ctx_buffer_error"):
        getattr(library, name).argtypes = [ctypes.c_void_p]
    for name in ("nft_ctx_get_output_buffer", "nft_ctx_get_error_buffer"):
        getattr(library, name).argtypes = [ctypes.c_void_p]
        getattr(library, name).restype = ctypes.c_char_p
    library.nft_run_cmd_from_buffer.argtypes = [ctypes.c_void_p, ctypes.c_char_p]
    library.nft_ctx_set_dry_run.argtypes = [ctypes.c_void_p, ctypes.c_bool]
    return library


_loaded: list[ctypes.CDLL] = []


class Nft:
    """One libnftables context, which belongs to the namespace of the thread that makes it."""

    def __init__(self) -> None:
        with _GUARD:
            if not _loaded:
                _loaded.append(_library())
            self._library = _loaded[0]
            self._context = self._library.nft_ctx_new(0)
            self._library.nft_ctx_buffer_output(self._context)
            self._library.nft_ctx_buffer_error(self._context)

    def __enter__(self) -> "Nft":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        if self._context:
            with _GUARD:
                self._library.nft_ctx_free(self._context)
            self._context = None

    def run(self, script: str, *, check_only: bool = False) -> str:
        """All of `script` or nothing of it. Returns what a `list` in it printed."""
        with _GUARD:
            self._library.nft_ctx_set_dry_run(self._context, check_only)
            code = self._library.nft_run_cmd_from_buffer(self._context, script.encode())
            output: bytes = self._library.nft_ctx_get_output_buffer(self._context) or b""
            error: bytes = self._library.nft_ctx_get_error_buffer(self._context) or b""
        if code != 0:
            lines = [line for line in error.decode(errors="replace").splitlines() if "Error:" in line]
            raise NftError(lines[0] if lines else "nftables refused the rules.", script)
        return output.decode()


class SetKind(NamedTuple):
    """A set or map: where it is, the kinds of its key's fields, and what it maps to (None, `verdict`, or a type)."""

    name: str
    fields: tuple[str, ...]
    value: str | None = None
    interval: bool = False
    family: str = "bridge"
    table: str = "kn"

    def definition(self) -> str:
        word = "map" if self.value else "set"
        if "nd_target" in self.fields:
            of = "typeof " + " . ".join({"ifname": "iifname", "ether": "ether saddr", "nd_target": "@th,64,128"}[f] for f in self.fields)
        else:
            of = "type " + " . ".join(_TYPES[field] for field in self.fields)
        value = f" : {self.value}" if self.value else ""
        flags = "flags interval; " if self.interval else ""
        return f"add {word} {self.family} {self.table} {self.name} {{ {of}{value}; {flags}}}"


_TYPES = {"ifname": "ifname", "ether": "ether_addr", "ip4": "ipv4_addr", "ip6": "ipv6_addr"}


class Element(NamedTuple):
    """A member of a set, or an entry of a map (`value`: a verdict such as `goto chain`, or a number)."""

    set: SetKind
    key: tuple[str, ...]
    value: str | None = None

    def text(self) -> str:
        key = " . ".join(_field_text(kind, part) for kind, part in zip(self.set.fields, self.key, strict=True))
        return key if self.value is None else f"{key} : {self.value}"

    def text_key(self) -> str:
        return self._replace(value=None).text()

    def hot(self) -> bool:
        """Can it go as a plain netlink message."""
        return not self.set.interval and self.set.value in (None, "verdict")


def _field_text(kind: str, value: str) -> str:
    if kind == "ifname":
        return f'"{value}"'
    if kind == "nd_target":
        return f"0x{ipaddress.IPv6Address(value).packed.hex()}"
    return value


def _field_bytes(kind: str, value: str) -> bytes:
    """As the kernel's registers hold it: each field padded to four bytes."""
    if kind == "ifname":
        return value.encode().ljust(16, b"\0")
    raw = mac_bytes(value) if kind == "ether" else ipaddress.ip_address(value).packed
    return raw + b"\0" * (-len(raw) & 3)


def _element_body(element: Element, delete: bool) -> bytes:
    key = b"".join(_field_bytes(kind, part) for kind, part in zip(element.set.fields, element.key, strict=True))
    if element.set.fields == ("ether",):
        key = key[:6]
    parts = [nested(_ELEMENT_KEY, attribute(_DATA_VALUE, key))]
    if element.value is not None and not delete:
        word, _, chain = element.value.partition(" ")
        verdict = attribute(_VERDICT_CODE, struct.pack(">i", _VERDICTS[word]))
        if chain:
            verdict += text(_VERDICT_CHAIN, chain)
        parts.append(nested(_ELEMENT_DATA, nested(_DATA_VERDICT, verdict)))
    return nested(_LIST_ITEM, *parts)


def _message(kind: int, flags: int, sequence: int, family: int, resource: int, body: bytes) -> bytes:
    payload = struct.pack("=BB", family, 0) + struct.pack(">H", resource) + body
    return HEADER.pack(16 + len(payload), kind, NLM_F_REQUEST | flags, sequence, 0) + payload


def encode_batch(first_sequence: int, removed: Sequence[Element], added: Sequence[Element]) -> tuple[bytes, dict[int, str]]:
    """One transaction: removals, then additions. Also returns what each message was about, by sequence number."""
    sequence = first_sequence
    about: dict[int, str] = {}
    data = [_message(_BATCH_BEGIN, 0, sequence, 0, _SUBSYSTEM, b"")]
    todo = [(element, True) for element in removed] + [(element, False) for element in added]
    for place, (element, delete) in enumerate(todo):
        sequence += 1
        about[sequence] = f"{'delete' if delete else 'add'} {element.set.name} {element.text()}"
        flags = (0 if delete else NLM_F_CREATE) | (NLM_F_ACK if place == len(todo) - 1 else 0)
        body = text(_LIST_TABLE, element.set.table) + text(_LIST_SET, element.set.name)
        body += nested(_LIST_ELEMENTS, _element_body(element, delete))
        kind = _SUBSYSTEM << 8 | (_DELETE_ELEMENT if delete else _NEW_ELEMENT)
        data.append(_message(kind, flags, sequence, FAMILIES[element.set.family], 0, body))
    data.append(_message(_BATCH_END, 0, sequence + 1, 0, _SUBSYSTEM, b""))
    return b"".join(data), about


class Elements(Socket):
    """nf_tables over netlink, for elements only."""

    def __init__(self) -> None:
        super().__init__(NETLINK_NETFILTER)

    def change(self, removed: Sequence[Element], added: Sequence[Element]) -> None:
        """Raises NetlinkError, and then nothing was changed. Adding what is there is fine; removing what is not is an error."""
        data, about = encode_batch(self._sequence + 1, removed, added)
        self._sequence += len(removed) + len(added) + 2
        self.transact(data, about)
