"""Payloads of notifications about servers and services, in the form of Nova's versioned notifications.

Versions of payloads are those in which every field below is in Nova's. What this cloud does not have is null or empty: block devices,
kernels, projects of private flavors, certificates of images.
"""

from typing import Any

from kilonova.compute.model import CRASHED, NOSTATE, PAUSED, RUNNING, SHUTDOWN, SUSPENDED, Flavor, Host, Server
from kilonova.core import times
from kilonova.core.bus.notifications import versioned
from kilonova.core.context import Context
from kilonova.core.errors import Error

POWER = {
    NOSTATE: "pending", RUNNING: "running", PAUSED: "paused", SHUTDOWN: "shutdown", CRASHED: "crashed", SUSPENDED: "suspended",
}  # fmt: skip
SERVICE_VERSION = 66


def _time(us: int | None) -> str | None:
    return None if us is None else times.iso(us)


def _flavor(flavor: Flavor) -> dict[str, Any]:
    return versioned(
        "FlavorPayload",
        "1.4",
        {
            "flavorid": flavor.id,
            "name": flavor.name,
            "memory_mb": flavor.ram_mb,
            "vcpus": flavor.vcpus,
            "root_gb": flavor.root_gb,
            "ephemeral_gb": flavor.ephemeral_gb,
            "swap": flavor.swap_mb,
            "rxtx_factor": flavor.rxtx_factor,
            "vcpu_weight": 0,
            "disabled": flavor.disabled,
            "is_public": flavor.is_public,
            "extra_specs": flavor.extra_specs,
            "projects": None,
            "description": flavor.description,
        },
    )


def _addresses(server: Server) -> list[dict[str, Any]]:
    return [
        versioned(
            "IpPayload",
            "1.0",
            {
                "label": nic.network_name,
                "mac": nic.mac,
                "meta": {},
                "port_uuid": nic.port_id,
                "version": ip.version,
                "address": ip.ip,
                "device_name": nic.device_name,
            },
        )
        for nic in server.nics
        for ip in nic.fixed_ips
    ]


def _fault(error: Error) -> dict[str, Any]:
    """The sentence; never a trace."""
    data = {
        "module_name": type(error).__module__,
        "function_name": "",
        "exception": type(error).__name__,
        "exception_message": getattr(error, "public", None) or error.message,
        "traceback": "",
    }
    return versioned("ExceptionPayload", "1.1", data)


def _keypairs(server: Server) -> list[dict[str, Any]]:
    if not server.key_name:
        return []
    data = {"user_id": server.user_id, "name": server.key_name, "public_key": server.public_key, "fingerprint": None, "type": "ssh"}
    return [versioned("KeypairPayload", "1.0", data)]


def server_payload(ctx: Context, server: Server, event: str, error: Error | None = None) -> dict[str, Any]:
    data: dict[str, Any] = {
        "uuid": server.id,
        "user_id": server.user_id,
        "tenant_id": server.project_id,
        "reservation_id": server.reservation_id,
        "display_name": server.name,
        "display_description": server.description,
        "host_name": server.hostname,
        "host": server.host,
        "node": server.node,
        "os_type": server.image_properties.get("os_type"),
        "architecture": server.image_properties.get("architecture", server.image_properties.get("hw_architecture")),
        "availability_zone": server.availability_zone,
        "flavor": _flavor(server.flavor),
        "image_uuid": server.image_id or "",
        "key_name": server.key_name,
        "kernel_id": "",
        "ramdisk_id": "",
        "created_at": _time(server.created_at),
        "launched_at": _time(server.launched_at),
        "terminated_at": _time(server.terminated_at),
        "deleted_at": _time(server.terminated_at) if server.deleted else None,
        "updated_at": _time(server.updated_at),
        "state": server.state,
        "power_state": POWER.get(server.power_state, "pending"),
        "task_state": server.task,
        "progress": 0,
        "ip_addresses": _addresses(server),
        "block_devices": [],
        "metadata": server.metadata,
        "locked": server.locked_by is not None,
        "locked_reason": server.locked_reason,
        "auto_disk_config": server.disk_config,
        "request_id": ctx.request_id or None,
        "action_initiator_user": ctx.user_id,
        "action_initiator_project": ctx.project_id,
        "fault": None if error is None else _fault(error),
    }
    if event == "create":
        data |= {
            "keypairs": _keypairs(server),
            "tags": list(server.tags),
            "trusted_image_certificates": None,
            "instance_name": server.instance_name,
        }
        return versioned("InstanceCreatePayload", "1.12", data)
    if event == "rebuild":
        return versioned("InstanceActionRebuildPayload", "1.9", {**data, "trusted_image_certificates": None})
    return versioned("InstanceActionPayload", "1.8", data)


def service_payload(host: Host) -> dict[str, Any]:
    data = {
        "uuid": host.id,
        "host": host.host,
        "binary": "nova-compute",
        "topic": "compute",
        "report_count": 0,
        "disabled": host.disabled,
        "disabled_reason": host.disabled_reason,
        "last_seen_up": _time(host.seen_at),
        "forced_down": host.forced_down,
        "version": SERVICE_VERSION,
        "availability_zone": None,
    }
    return versioned("ServiceStatusPayload", "1.1", data)
