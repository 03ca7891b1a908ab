"""The topology that is made for a project which asks for it: network, subnet, router."""

from typing import Any

from kilonova.core.context import Context
from kilonova.core.http import Reply, Request
from kilonova.network.api.attributes import shown
from kilonova.network.domain import auto_topology
from kilonova.network.errors import Hidden
from kilonova.network.service import NetworkService


async def show(c: NetworkService, ctx: Context, req: Request, project_id: str) -> Any:
    """GET makes it. With fields=dry-run it only says whether it could."""
    req.authorize("get_auto_allocated_topology", {"project_id": project_id}, Hidden())
    if "dry-run" in req.every("fields"):
        await auto_topology.requirements(c.db)
        return {"auto_allocated_topology": {"id": "dry-run=pass", "tenant_id": project_id, "project_id": project_id}}
    network_id = await c.write(ctx, lambda w: auto_topology.ensure(w, project_id))
    return {"auto_allocated_topology": {"id": network_id, "tenant_id": project_id, "project_id": project_id}}


async def delete(c: NetworkService, ctx: Context, req: Request, project_id: str) -> Reply:
    req.authorize("delete_auto_allocated_topology", {"project_id": project_id}, Hidden())
    if not await c.write(ctx, lambda w: auto_topology.delete(w, project_id)):
        raise Hidden(id=shown(project_id))
    return Reply(None, 204)
