"""Agents: each host's one agent shows as the four that OpenStack's tools look for. Zones and service providers."""

from collections.abc import Sequence
from typing import Any

import msgspec

from kilonova.core.context import Context
from kilonova.core.http import Reply, Request
from kilonova.core.times import iso
from kilonova.network.api import attributes as a
from kilonova.network.api.attributes import shown, wrapped
from kilonova.network.domain.work import Work
from kilonova.network.errors import AgentNotFound, BadBody, Invalid
from kilonova.network.model import Agent, Host
from kilonova.network.service import NetworkService
from kilonova.network.store import rows

KINDS = {
    "DHCP agent": ("neutron-dhcp-agent", "dhcp_agent"),
    "L3 agent": ("neutron-l3-agent", "l3_agent"),
    "Metadata agent": ("neutron-metadata-agent", "N/A"),
    "Open vSwitch agent": ("neutron-openvswitch-agent", "N/A"),
}
"""type -> (binary, topic)"""
ZONED = ("DHCP agent", "L3 agent")
FILTERS = ("id", "agent_type", "binary", "topic", "host", "admin_state_up", "alive", "availability_zone", "description")


def _time(us: int) -> str:
    return iso(us).removesuffix("Z").replace("T", " ")


def _view(c: NetworkService, agent: Agent, host: Host, now: int) -> dict[str, Any]:
    binary, topic = KINDS[agent.agent_type]
    return {
        "id": agent.id,
        "agent_type": agent.agent_type,
        "binary": binary,
        "topic": topic,
        "host": agent.host,
        "admin_state_up": agent.admin_state_up,
        "alive": now - host.heartbeat_at < c.settings["DEFAULT"].agent_down_time * 1_000_000,
        "availability_zone": host.availability_zone if agent.agent_type in ZONED else None,
        "configurations": {**host.configurations, "tunneling_ip": host.vtep_ip, "tunnel_types": ["vxlan"]},
        "description": agent.description,
        "created_at": _time(host.created_at),
        "started_at": _time(host.started_at),
        "heartbeat_timestamp": _time(host.heartbeat_at),
        "resources_synced": None,
    }


def _matches(view: dict[str, Any], name: str, values: Sequence[str]) -> bool:
    have = view[name]
    if isinstance(have, bool):
        return any((value.lower() in ("true", "1")) is have for value in values)
    return str(have) in values


async def list(c: NetworkService, ctx: Context, req: Request) -> Any:
    """Who may see none gets none, as in any list."""
    req.authorized = True
    hosts = {host.host: host for host in await rows.hosts.where(c.db, order=("host",))}
    now = c.runtime.now_us()
    found = [
        _view(c, agent, hosts[agent.host], now)
        for agent in await rows.agents.where(c.db, order=("host", "agent_type"))
        if agent.host in hosts
    ]
    for name in FILTERS:
        values = req.every(name)
        if values:
            found = [view for view in found if _matches(view, name, values)]
    found = [view for view in found if req.allowed("get_agent", view)]
    fields = [name for name in req.every("fields") if name]
    return {"agents": [{name: view[name] for name in fields if name in view} for view in found] if fields else found}


async def _get(c: NetworkService, req: Request, agent_id: str, rule: str = "") -> tuple[Agent, Host]:
    req.authorize("get_agent", {}, AgentNotFound(id=shown(agent_id)))
    if rule:
        req.authorize(rule, {})
    agent = await rows.agents.get(c.db, agent_id)
    host = await rows.hosts.get(c.db, agent.host) if agent is not None else None
    if agent is None or host is None:
        raise AgentNotFound(id=shown(agent_id))
    return agent, host


async def show(c: NetworkService, ctx: Context, req: Request, agent_id: str) -> Any:
    agent, host = await _get(c, req, agent_id)
    return {"agent": _view(c, agent, host, c.runtime.now_us())}


async def update(c: NetworkService, ctx: Context, req: Request, agent_id: str, body: Any) -> Any:
    agent, host = await _get(c, req, agent_id, "update_agent")
    values = wrapped(body, "agent")
    if not isinstance(values, dict):
        raise BadBody("Resource body required")
    checks = {"admin_state_up": a.boolean, "description": a.or_none(a.text())}
    changes = {}
    for name, value in values.items():
        if name not in checks:
            raise BadBody(f"Cannot update read-only attribute {shown(name)}")
        try:
            changes[name] = checks[name](value)
        except ValueError as error:
            raise Invalid(str(error), field=name) from None
    new = msgspec.structs.replace(agent, **changes)
    await c.write(ctx, lambda w: rows.agents.save(w.tx, agent, new))
    return {"agent": _view(c, new, host, c.runtime.now_us())}


async def delete(c: NetworkService, ctx: Context, req: Request, agent_id: str) -> Reply:
    """The row. An agent that lives comes back when it registers next; a host without agents is forgotten."""
    agent, host = await _get(c, req, agent_id, "delete_agent")

    async def run(w: Work) -> bool:
        await rows.agents.delete(w.tx, agent.id)
        left = await rows.agents.where(w.tx, order=("agent_type",), host=agent.host)
        if not left:
            await rows.hosts.delete(w.tx, host.host)
            w.hosts[host.host] = None
        return not left

    if await c.write(ctx, run):
        c.forget_host(host.host)
    return Reply(None, 204)


async def zones(c: NetworkService, ctx: Context, req: Request) -> Any:
    names = [host.availability_zone for host in await rows.hosts.where(c.db, order=("availability_zone", "host"))]
    names = [*dict.fromkeys(names)] or [c.settings["DEFAULT"].network_availability_zone]
    found = [{"name": name, "resource": resource, "state": "available"} for name in names for resource in ("network", "router")]
    for key in ("name", "resource", "state"):
        values = req.every(key)
        if values:
            found = [zone for zone in found if zone[key] in values]
    return {"availability_zones": found}


async def service_providers(c: NetworkService, ctx: Context, req: Request) -> Any:
    return {"service_providers": [{"service_type": "L3_ROUTER_NAT", "name": "single_node", "default": True}]}
