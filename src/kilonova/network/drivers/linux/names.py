"""What things are called in the kernel. Link names have 15 characters at most; ids are cut to 11 as OpenStack does."""

import hashlib
import re

_UUID = r"[0-9a-f]{8}-?[0-9a-f]{4}-?[0-9a-f]{4}-?[0-9a-f]{4}-?[0-9a-f]{12}"
_TAP = re.compile(r"tap[A-Za-z0-9_.-]{1,12}")
UNDERLAY_LINK, EXTERNAL_UPLINK = "eth0", "ext"
SERVICE_LEG = "eth0"
METADATA_PORT = 9697
OWN_LINKS = ("br", "vx", "tap", "svc", "rt", "rg")
"""Prefixes of the links that a sync may remove from a host namespace."""


def bridge(network_id: str) -> str:
    return f"br{network_id[:11]}"


def vxlan(network_id: str) -> str:
    return f"vx{network_id[:11]}"


def service_link(network_id: str) -> str:
    """The host's end of the leg into a network's service namespace."""
    return f"svc{network_id[:11]}"


def interface_link(port_id: str) -> str:
    return f"rt{port_id[:11]}"


def interface_leg(port_id: str) -> str:
    return f"qr-{port_id[:11]}"


def gateway_link(port_id: str) -> str:
    return f"rg{port_id[:11]}"


def gateway_leg(port_id: str) -> str:
    return f"qg-{port_id[:11]}"


def is_tap(name: str) -> bool:
    return _TAP.fullmatch(name) is not None


def service_namespace(host_namespace: str, network_id: str) -> str:
    return f"{host_namespace}-s-{network_id}"


def router_namespace(host_namespace: str, router_id: str) -> str:
    return f"{host_namespace}-r-{router_id}"


def owned(host_namespace: str, namespace: str) -> bool:
    """Exact, so that a host called `a` does not claim what belongs to a host called `a-b`."""
    return re.fullmatch(rf"{re.escape(host_namespace)}(-[sr]-{_UUID})?", namespace) is not None


def is_id(value: str) -> bool:
    """Ids become parts of names: only UUIDs, with or without dashes."""
    return re.fullmatch(_UUID, value) is not None


def derived_mac(first: str, *words: str) -> str:
    """A stable MAC below a three-byte prefix, for links whose MAC the API does not know."""
    digest = hashlib.blake2b("\n".join(words).encode(), digest_size=3).hexdigest()
    return f"{first}:{digest[:2]}:{digest[2:4]}:{digest[4:]}"


def underlay_leg(prefix: str, host_namespace: str) -> str:
    """The cloud's end of a host's cable, in the underlay namespace."""
    return prefix + hashlib.blake2b(host_namespace.encode(), digest_size=5).hexdigest()
