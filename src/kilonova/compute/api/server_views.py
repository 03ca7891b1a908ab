"""Servers on the wire, at every microversion. Documents are rendered once for each revision of a server and kept (`rendered`)."""

import functools
import hashlib
from typing import Any

import msgspec

from kilonova.compute.model import Outline, Server
from kilonova.compute.service import ComputeService, View
from kilonova.compute.states import WITH_PROGRESS, status
from kilonova.core import times
from kilonova.core.http import Request, Version

_encode = msgspec.json.Encoder().encode
SHAPES: tuple[Version, ...] = (
    (2, 1),
    (2, 3),
    (2, 9),
    (2, 16),
    (2, 19),
    (2, 26),
    (2, 47),
    (2, 54),
    (2, 63),
    (2, 71),
    (2, 73),
    (2, 75),
    (2, 90),
    (2, 96),
    (2, 98),
    (2, 100),
)
"""Versions at which the document changes."""
CACHE = 50_000
_NOT_SHOWN = ("kernel_id", "ramdisk_id")
"""Properties of an image that a server's document leaves out: they have fields of their own."""


@functools.cache
def shape(version: Version) -> Version:
    found = SHAPES[0]
    for first in SHAPES:
        if version >= first:
            found = first
    return found


def links(req: Request, kind: str, ident: str) -> list[dict[str, str]]:
    """self, and bookmark (the same without the version)."""
    project = req.prefix.partition("/v2.1")[2] if req.prefix.startswith("/v2.1") else ""
    return [
        {"rel": "self", "href": f"{req.base_url}{req.prefix}/{kind}/{ident}"},
        {"rel": "bookmark", "href": f"{req.base_url}{project}/{kind}/{ident}"},
    ]


def host_id(project_id: str, host: str | None) -> str:
    """A host's name, hashed for each project: users can tell two hosts apart, not which they are."""
    return hashlib.sha224(f"{project_id}{host}".encode()).hexdigest() if host else ""


def addresses(server: Server) -> dict[str, list[dict[str, Any]]]:
    out: dict[str, list[dict[str, Any]]] = {}
    for nic in server.nics:
        shown = out.setdefault(nic.network_name, [])
        for ip in nic.fixed_ips:
            shown.append({"version": ip.version, "addr": ip.ip, "OS-EXT-IPS:type": "fixed", "OS-EXT-IPS-MAC:mac_addr": nic.mac})
            for floating in ip.floating_ips:
                shown.append({"version": 4, "addr": floating, "OS-EXT-IPS:type": "floating", "OS-EXT-IPS-MAC:mac_addr": nic.mac})
    return out


def _flavor(req: Request, server: Server | Outline, version: Version) -> dict[str, Any]:
    f = server.flavor
    if version < (2, 47):
        return {"id": f.id, "links": links(req, "flavors", f.id)[1:]}
    return {
        "vcpus": f.vcpus,
        "ram": f.ram_mb,
        "disk": f.root_gb,
        "ephemeral": f.ephemeral_gb,
        "swap": f.swap_mb,
        "original_name": f.name,
        "extra_specs": f.extra_specs,
    }


def _image(req: Request, server: Server | Outline, version: Version) -> Any:
    if server.image_id is None:
        return ""
    out: dict[str, Any] = {"id": server.image_id, "links": links(req, "images", server.image_id)[1:]}
    if version >= (2, 98):
        out["properties"] = {k: v for k, v in server.image_properties.items() if k not in _NOT_SHOWN}
    return out


def brief(req: Request, server: Server) -> dict[str, Any]:
    return {"id": server.id, "name": server.name, "links": links(req, "servers", server.id)}


PARTIAL: Version = (2, 69)
"""From here on servers whose cell does not answer are shown, with what the api side knows of them."""


def partial(req: Request, server_id: str, project_id: str, created_at: int, outline: Outline | None, *, single: bool) -> dict[str, Any]:
    """single: show, which tells a little more than the detailed list. Keys that nobody can fill in are left out."""
    out: dict[str, Any] = {
        "id": server_id,
        "status": "UNKNOWN",
        "tenant_id": project_id,
        "created": times.iso(created_at),
        "links": links(req, "servers", server_id),
    }
    if single:
        out["OS-EXT-STS:power_state"] = 0
        if outline is not None:
            out |= {
                "user_id": outline.user_id,
                "image": _image(req, outline, req.version),
                "flavor": _flavor(req, outline, req.version),
                "OS-EXT-AZ:availability_zone": outline.availability_zone or "",
            }
    return out


def partial_brief(req: Request, server_id: str) -> dict[str, Any]:
    return {"id": server_id, "status": "UNKNOWN", "links": links(req, "servers", server_id)}


def detail(c: ComputeService, req: Request, server: Server, *, single: bool, host_status: str | None = None) -> dict[str, Any]:
    """The whole document. `single`: show (or update), which lists a little more than the detailed list. host_status: for admins."""
    version, admin = req.version, host_status is not None
    shown = status(server.state, server.task)
    out: dict[str, Any] = {
        "id": server.id,
        "name": server.name,
        "status": shown,
        "tenant_id": server.project_id,
        "user_id": server.user_id,
        "metadata": server.metadata,
        "hostId": host_id(server.project_id, server.host),
        "image": _image(req, server, version),
        "flavor": _flavor(req, server, version),
        "created": times.iso(server.created_at),
        "updated": times.iso(server.updated_at),
        "addresses": addresses(server),
        "accessIPv4": server.access_ip_v4 or "",
        "accessIPv6": server.access_ip_v6 or "",
        "links": links(req, "servers", server.id),
        "OS-DCF:diskConfig": server.disk_config,
        "OS-EXT-AZ:availability_zone": server.availability_zone or "",
        "config_drive": "True" if server.config_drive else "",
        "key_name": server.key_name,
        "OS-SRV-USG:launched_at": times.iso_us(server.launched_at) if server.launched_at else None,
        "OS-SRV-USG:terminated_at": times.iso_us(server.terminated_at) if server.terminated_at else None,
        "OS-EXT-STS:task_state": server.task,
        "OS-EXT-STS:vm_state": server.state,
        "OS-EXT-STS:power_state": server.power_state,
        "os-extended-volumes:volumes_attached": [],
    }
    if shown in WITH_PROGRESS:
        out["progress"] = 0
    if server.fault is not None and shown in ("ERROR", "DELETED"):
        message = (admin and server.fault.with_hosts) or server.fault.message
        fault = {"code": server.fault.code, "created": times.iso(server.fault.created), "message": message}
        out["fault"] = {**fault, "details": server.fault.details} if admin and server.fault.details else fault
    groups = sorted(set(server.security_groups) or ({"default"} if server.nics or server.state == "building" else set()))
    if groups and (server.nics or server.state == "building"):
        out["security_groups"] = [{"name": name} for name in groups]
    if admin:
        out |= {
            "OS-EXT-SRV-ATTR:host": server.host,
            "OS-EXT-SRV-ATTR:instance_name": server.instance_name,
            "OS-EXT-SRV-ATTR:hypervisor_hostname": server.node,
        }
        if version >= (2, 3):
            out |= {
                "OS-EXT-SRV-ATTR:hostname": server.hostname,
                "OS-EXT-SRV-ATTR:kernel_id": "",
                "OS-EXT-SRV-ATTR:launch_index": server.launch_index,
                "OS-EXT-SRV-ATTR:ramdisk_id": "",
                "OS-EXT-SRV-ATTR:reservation_id": server.reservation_id,
                "OS-EXT-SRV-ATTR:root_device_name": "/dev/vda",
                "OS-EXT-SRV-ATTR:user_data": server.user_data,
            }
        if version >= (2, 16):
            out["host_status"] = host_status
    if version >= (2, 9):
        out["locked"] = server.locked_by is not None
    if version >= (2, 19):
        out["description"] = server.description
    if version >= (2, 26):
        out["tags"] = list(server.tags)
    if version >= (2, 63):
        out["trusted_image_certificates"] = None
    if version >= (2, 71) and single:
        out["server_groups"] = []
    if version >= (2, 73):
        out["locked_reason"] = server.locked_reason
    if version >= (2, 90) and not admin:
        out["OS-EXT-SRV-ATTR:hostname"] = server.hostname
    if version >= (2, 96):
        out["pinned_availability_zone"] = server.pinned_availability_zone
    if version >= (2, 100):
        out["scheduler_hints"] = server.scheduler_hints
    return out


_SINCE_2_75 = ("config_drive", "key_name", "host_status", "security_groups")


def trimmed(document: dict[str, Any], *kept: str) -> None:
    """Before 2.75 the answers to update and rebuild were plainer than those to show; `kept` are the keys that were there nevertheless."""
    for key in [k for k in document if k.startswith(("OS-EXT-", "OS-SRV-USG", "os-extended")) or k in _SINCE_2_75]:
        if key not in kept:
            del document[key]
    document["addresses"] = {
        network: [{"version": a["version"], "addr": a["addr"]} for a in listed] for network, listed in document["addresses"].items()
    }


def rendered(c: ComputeService, req: Request, server: Server, *, single: bool, host_status: str | None) -> msgspec.Raw:
    """The document as JSON, from the cache when this revision has been rendered for this audience before."""
    key = cache_key(req, server.id, single=single)
    known = cached(c, key, server.revision, host_status)
    if known is not None:
        return msgspec.Raw(known)
    data = _encode(detail(c, req, server, single=single, host_status=host_status))
    if len(c.views) >= CACHE:
        c.views.clear()
    c.views[key] = View(server.revision, host_status, data, server.task is None and server.state != "building")
    return msgspec.Raw(data)


def cached(c: ComputeService, key: tuple[Any, ...], revision: int, host_status: str | None) -> bytes | None:
    found = c.views.get(key)
    return found.document if found is not None and found.revision == revision and found.host_status == host_status else None


def settled(c: ComputeService, key: tuple[Any, ...]) -> bool:
    """Whether there is a document of it, and no verb was under way in it: it hardly has changed."""
    found = c.views.get(key)
    return found is not None and found.settled


def cache_key(req: Request, server_id: str, *, single: bool) -> tuple[Any, ...]:
    return (server_id, shape(req.version), single, req.ctx.is_admin, req.base_url, req.prefix)
