"""What a guest can read of itself: the trees /openstack/<version>/… and /<EC2 version>/…, for the metadata service and the config drive.

Pure: a server, its network data and some randomness in, paths and contents out. Layout after Nova's (specs of the metadata service).
"""

import base64
from typing import Any

import msgspec

from kilonova.compute.model import Server

OPENSTACK = (
    "2012-08-10",
    "2013-04-04",
    "2013-10-17",
    "2015-10-15",
    "2016-06-30",
    "2016-10-06",
    "2017-02-22",
    "2018-08-27",
    "2020-10-14",
    "2025-04-04",
    "latest",
)
EC2 = ("1.0", "2007-01-19", "2007-03-01", "2007-08-29", "2007-10-10", "2007-12-15", "2008-02-01", "2008-09-01", "2009-04-04", "latest")
DHCP_DOMAIN = "novalocal"
_encode = msgspec.json.encode


def _since(version: str, first: str) -> bool:
    return version == "latest" or version >= first


def hostname(server: Server) -> str:
    return server.hostname if "." in server.hostname else f"{server.hostname}.{DHCP_DOMAIN}"


def ec2_id(number: int) -> str:
    return f"i-{number:08x}"


def files(server: Server, network_data: dict[str, Any], seed: bytes) -> dict[str, bytes]:
    """Both trees, every version. `seed`: 512 random bytes for random_seed. Large contents are one object in all versions."""
    out: dict[str, bytes] = {}
    network, data = _encode(network_data), user_data(server)
    for version in OPENSTACK:
        out.update({f"openstack/{version}/{name}": data for name, data in _openstack(server, network, data, seed, version).items()})
    for version in EC2:
        out.update({f"ec2/{version}/{name}": data for name, data in _ec2(server, data, version).items()})
    return out


def config_drive(server: Server, network_data: dict[str, Any], seed: bytes) -> dict[str, bytes]:
    """The files of a config drive: all OpenStack versions, two of EC2's, whose meta-data is one JSON document there."""
    tree = files(server, network_data, seed)
    out = {path: data for path, data in tree.items() if path.startswith("openstack/")}
    for version in ("2009-04-04", "latest"):
        prefix = f"ec2/{version}/meta-data/"
        flat = {path.removeprefix(prefix): data.decode() for path, data in tree.items() if path.startswith(prefix)}
        out[f"ec2/{version}/meta-data.json"] = _encode(_nested(flat))
        if f"ec2/{version}/user-data" in tree:
            out[f"ec2/{version}/user-data"] = tree[f"ec2/{version}/user-data"]
    return out


def _nested(flat: dict[str, str]) -> dict[str, Any]:
    out: dict[str, Any] = {}
    for path, value in flat.items():
        *folders, name = path.split("/")
        at = out
        for folder in folders:
            at = at.setdefault(folder, {})
        at[name] = value
    return out


def user_data(server: Server) -> bytes | None:
    return base64.b64decode(server.user_data) if server.user_data else None


def _openstack(server: Server, network: bytes, data: bytes | None, seed: bytes, version: str) -> dict[str, bytes]:
    meta: dict[str, Any] = {
        "uuid": server.id,
        "name": server.name,
        "hostname": hostname(server),
        "launch_index": server.launch_index,
        "availability_zone": server.availability_zone,
    }
    if server.metadata:
        meta["meta"] = server.metadata
    if server.key_name and server.public_key:
        meta["public_keys"] = {server.key_name: server.public_key}
        meta["keys"] = [{"name": server.key_name, "type": "ssh", "data": server.public_key}]
    if _since(version, "2013-04-04"):
        meta["random_seed"] = base64.b64encode(seed).decode()
    if _since(version, "2015-10-15"):
        meta["project_id"] = server.project_id
    if _since(version, "2016-06-30"):
        meta["devices"] = [{"type": "nic", "bus": "none", "address": "none", "mac": n.mac, "tags": [n.tag]} for n in server.nics if n.tag]
    if _since(version, "2020-10-14"):
        meta["dedicated_cpus"] = []
    out = {"meta_data.json": _encode(meta)}
    if data is not None:
        out["user_data"] = data
    if _since(version, "2013-10-17"):
        out["vendor_data.json"] = b"{}"
    if _since(version, "2015-10-15"):
        out["network_data.json"] = network
    if _since(version, "2016-10-06"):
        out["vendor_data2.json"] = b'{"static":{}}'
    return out


def _ec2(server: Server, data: bytes | None, version: str) -> dict[str, bytes]:
    first4 = next((ip for nic in server.nics for ip in nic.fixed_ips if ip.version == 4), None)
    floating = next((f for nic in server.nics for ip in nic.fixed_ips for f in ip.floating_ips), "")
    name = hostname(server)
    keys: dict[str, str] = {
        "ami-id": f"ami-{server.number:08x}" if server.image_id else "ami-00000000",
        "ami-launch-index": str(server.launch_index),
        "ami-manifest-path": "FIXME",  # EC2's format wants a path in S3; images have none, and this word is what Nova's metadata has for it
        "instance-id": ec2_id(server.number),
        "hostname": name,
        "local-ipv4": first4.ip if first4 else "",
        "reservation-id": server.reservation_id,
        "security-groups": "\n".join(server.security_groups),
    }
    if server.key_name and server.public_key:
        # `_name` is how a folder is shown in its parent's listing.
        keys["public-keys/0/_name"] = f"0={server.key_name}"
        keys["public-keys/0/openssh-key"] = server.public_key
    if _since(version, "2007-01-19"):
        keys |= {"local-hostname": name, "public-hostname": name, "public-ipv4": floating}
    if _since(version, "2007-08-29"):
        keys["instance-type"] = server.flavor.name
    if _since(version, "2007-12-15"):
        keys |= {"block-device-mapping/ami": "vda", "block-device-mapping/root": "/dev/vda"}
    if _since(version, "2008-02-01"):
        keys["placement/availability-zone"] = server.availability_zone or ""
    if _since(version, "2008-09-01"):
        keys["instance-action"] = "none"
    out = {f"meta-data/{path}": text.encode() for path, text in keys.items()}
    if data is not None:
        out["user-data"] = data
    return out
