"""Whether the services agree with each other: servers, allocations, ports and guests. Asked of the public APIs as administrator.

A server that is being made or deleted right now may look wrong for a moment, so what is found is looked at a second time.
"""

import time
from collections.abc import Callable, Iterator
from typing import Any

from kilonova.cli import forget
from kilonova.cli.checks import Finding, Subject
from kilonova.cli.failure import Failure

SECOND_LOOK_S = 1.5
GONE = ("DELETED", "SOFT_DELETED")
Pairs = dict[str, tuple[str, str, str]]
"""key -> severity, sentence, hint"""


def agreement(subject: Subject) -> Iterator[Finding]:
    rest = subject.rest
    if rest is None or "compute" not in rest.urls:
        return
    for look in (services, allocations, ports, guests):
        first = _looked(look, subject)
        if first:
            time.sleep(SECOND_LOOK_S)
            again = _looked(look, subject)
            for key in first:
                if key in again:
                    severity, sentence, hint = again[key]
                    yield Finding(check="agreement", severity=severity, sentence=sentence, hint=hint)


def _looked(look: Callable[[Any, Subject], Pairs], subject: Subject) -> Pairs:
    try:
        return look(subject.rest, subject)
    except Failure as failure:
        return {"": ("error", failure.message, "The log tells more.")}


def _servers(rest: Any) -> dict[str, dict[str, Any]]:
    found = rest.every("compute", "/servers/detail?all_tenants=1", "servers")
    return {server["id"]: server for server in found if server["status"] not in GONE}


def services(rest: Any, subject: Subject) -> Pairs:
    out: Pairs = {}
    for row in rest.get("compute", "/os-services")["services"]:
        if row["state"] != "up":
            key = f"{row['binary']} on {row['host']}"
            out[key] = ("error", f"{key} has not reported for too long.", "Look whether its process runs, and at the clock.")
    for server in _servers(rest).values():
        task = server.get("OS-EXT-STS:task_state")
        if server["status"] == "ERROR":
            reason = (server.get("fault") or {}).get("message", "no reason is recorded")
            out[server["id"]] = ("note", f"Server {server['name']} is in ERROR: {reason}", f"kilonova explain {server['id']}")
        elif task:
            out[server["id"] + task] = ("note", f"Server {server['name']} is busy: {task}.", f"kilonova explain {server['id']}")
    return out


def allocations(rest: Any, subject: Subject) -> Pairs:
    """Placement's allocations of every provider against compute's servers."""
    if "placement" not in rest.urls:
        return {}
    servers = _servers(rest)
    holders: dict[str, list[str]] = {}
    for provider in rest.get("placement", "/resource_providers")["resource_providers"]:
        for consumer in rest.get("placement", f"/resource_providers/{provider['uuid']}/allocations")["allocations"]:
            holders.setdefault(consumer, []).append(provider["name"])
    out: Pairs = {}
    for consumer, names in holders.items():
        if consumer not in servers:
            out[consumer] = (
                "error",
                f"Placement holds resources of {', '.join(names)} for {consumer}, but there is no such server.",
                f"openstack resource provider allocation delete {consumer}",
            )
        elif len(names) > 1 and not servers[consumer].get("OS-EXT-STS:task_state"):
            out[consumer] = ("warning", f"Server {consumer} holds resources on {', '.join(names)} at once.", f"kilonova explain {consumer}")
    for server in servers.values():
        host = server.get("OS-EXT-SRV-ATTR:hypervisor_hostname") or server.get("OS-EXT-SRV-ATTR:host")
        if host and server["status"] != "ERROR" and server["id"] not in holders:
            out[server["id"]] = (
                "error",
                f"Server {server['name']} runs on {host} without an allocation in placement.",
                "The host may be given more servers than it holds; reboot or move the server.",
            )
    return out


def ports(rest: Any, subject: Subject) -> Pairs:
    """Network's ports that say they belong to a server, against compute's servers."""
    if "network" not in rest.urls:
        return {}
    servers = _servers(rest)
    out: Pairs = {}
    for port in rest.every("network", "/v2.0/ports", "ports"):
        if not str(port.get("device_owner") or "").startswith("compute:"):
            continue
        server = servers.get(port["device_id"])
        if server is None:
            out[port["id"]] = (
                "error",
                f"Port {port['id']} belongs to server {port['device_id']}, which does not exist.",
                f"openstack port delete {port['id']}",
            )
        elif server["status"] == "ACTIVE" and port["status"] == "DOWN":
            out[port["id"]] = ("error", f"Server {server['name']} is ACTIVE, but its port {port['id']} is DOWN.", "Look at the host's log.")
    return out


def guests(rest: Any, subject: Subject) -> Pairs:
    """QEMU processes on this machine against servers that should be running here (libvirt driver only)."""
    state = subject.state
    if state is None or state.mark.driver != "libvirt":
        return {}
    running = [s for s in _servers(rest).values() if s.get("OS-EXT-STS:power_state") == 1 and s.get("OS-EXT-SRV-ATTR:host")]
    pids = forget.guests(state)
    if len(pids) > len(running):
        hint = "openstack server list --all-projects --long; ps -C qemu-system-x86_64"
        return {"more": ("error", f"{len(pids)} guests run, but compute knows of {len(running)}.", hint)}
    if len(pids) < len(running):
        hint = "openstack server reboot --hard starts a guest again."
        return {"fewer": ("error", f"Compute believes {len(running)} guests to run, but there are {len(pids)}.", hint)}
    return {}
