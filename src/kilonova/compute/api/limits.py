"""GET /limits: what a project may have and has."""

from typing import Any

from kilonova.compute.api import queries
from kilonova.compute.domain import quotas
from kilonova.compute.service import ComputeService
from kilonova.core.context import Context
from kilonova.core.http import Request

_TENANT = {"tenant_id": queries.anything}
SHOW = queries.growing(((2, 1), _TENANT), strict=(2, 75))
_LIMITS = {
    "maxTotalCores": "cores",
    "maxTotalInstances": "instances",
    "maxTotalKeypairs": "key_pairs",
    "maxServerMeta": "metadata_items",
    "maxTotalRAMSize": "ram",
    "maxServerGroups": "server_groups",
    "maxServerGroupMembers": "server_group_members",
}


async def show(c: ComputeService, ctx: Context, req: Request) -> Any:
    project_id = req.one("tenant_id") or ctx.project_id or ""
    if project_id != ctx.project_id:
        req.authorize("os_compute_api:limits:other_project", {"project_id": project_id})
    limits, used = await quotas.limits(c, project_id), await quotas.in_use(c, project_id)
    absolute = {shown: limits[name] for shown, name in _LIMITS.items()}
    if req.version < (2, 57):
        absolute |= {"maxPersonality": limits["injected_files"], "maxPersonalitySize": limits["injected_file_content_bytes"]}
    if req.version < (2, 39):
        absolute["maxImageMeta"] = limits["metadata_items"]
    if req.version < (2, 36):
        absolute |= {"maxTotalFloatingIps": -1, "maxSecurityGroups": -1, "maxSecurityGroupRules": -1}
        absolute |= {"totalFloatingIpsUsed": 0, "totalSecurityGroupsUsed": 0}
    absolute |= {
        "totalRAMUsed": used["ram"],
        "totalCoresUsed": used["cores"],
        "totalInstancesUsed": used["instances"],
        "totalServerGroupsUsed": 0,
    }
    return {"limits": {"rate": [], "absolute": absolute}}
