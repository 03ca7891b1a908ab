"""Security groups of a server's ports: shown in compute's older words, added and removed by name or id."""

from typing import Annotated, Any

import msgspec
from msgspec import Meta

from kilonova.compute.api.servers import find
from kilonova.compute.model import Server
from kilonova.compute.service import ComputeService
from kilonova.compute.store import servers
from kilonova.core.context import Context
from kilonova.core.http import Reply, Request


class Group(msgspec.Struct):
    name: Annotated[str, Meta(min_length=1)]


class Add(msgspec.Struct, forbid_unknown_fields=True):
    addSecurityGroup: Group


class Remove(msgspec.Struct, forbid_unknown_fields=True):
    removeSecurityGroup: Group


def _range(rule: dict[str, Any]) -> tuple[int | None, int | None]:
    """Ports as nova-network had them: every port of TCP and UDP is 1 to 65535, every type of ICMP is -1."""
    low, high, protocol = rule.get("port_range_min"), rule.get("port_range_max"), rule.get("protocol")
    if protocol and low is None and high is None:
        return (1, 65535) if str(protocol).lower() in ("tcp", "udp") else (-1, -1)
    return low, high


def _rule(group_id: str, rule: dict[str, Any], names: dict[str, tuple[str, str]]) -> dict[str, Any]:
    low, high = _range(rule)
    remote = rule.get("remote_group_id")
    cidr = rule.get("remote_ip_prefix") or ("::/0" if rule.get("ethertype") == "IPv6" else "0.0.0.0/0")
    group = {"name": names[remote][0], "tenant_id": names[remote][1]} if remote in names else {}
    protocol = rule.get("protocol")
    return {
        "id": rule["id"],
        "parent_group_id": group_id,
        "ip_protocol": None if protocol is None else str(protocol),
        "from_port": low,
        "to_port": high,
        "group": group,
        "ip_range": {} if remote else {"cidr": cidr},
    }


async def index(c: ComputeService, ctx: Context, req: Request, server_id: str) -> Any:
    server = await find(c, req, server_id)
    groups = await c.network.server_security_groups(ctx, server.id)
    names = {g["id"]: (g["name"], g["project_id"]) for g in groups}
    return {
        "security_groups": [
            {
                "id": g["id"],
                "name": g["name"],
                "description": g["description"],
                "tenant_id": g["project_id"],
                "rules": [_rule(g["id"], rule, names) for rule in g["rules"] if rule.get("direction", "ingress") == "ingress"],
            }
            for g in groups
        ]
    }


async def _remember(c: ComputeService, ctx: Context, server: Server) -> None:
    """The names that the server's own document shows."""
    names = tuple(sorted({g["name"] for g in await c.network.server_security_groups(ctx, server.id)}))
    cell = await c.cells.of(server.id)
    if cell is not None:
        await cell.db.transact(lambda tx: servers.update(tx, server.id, c.runtime.now_us(), security_groups=names))


async def add(c: ComputeService, ctx: Context, req: Request, server_id: str, body: Add) -> Reply:
    server = await find(c, req, server_id)
    await c.network.add_security_group(ctx, server.id, body.addSecurityGroup.name)
    await _remember(c, ctx, server)
    return Reply(b"", 202)


async def remove(c: ComputeService, ctx: Context, req: Request, server_id: str, body: Remove) -> Reply:
    server = await find(c, req, server_id)
    await c.network.remove_security_group(ctx, server.id, body.removeSecurityGroup.name)
    await _remember(c, ctx, server)
    return Reply(b"", 202)
