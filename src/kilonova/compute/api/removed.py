"""URLs that Nova once served and answers 410 to at every microversion."""

from typing import Any, NoReturn

from kilonova.compute.errors import Removed
from kilonova.compute.service import ComputeService
from kilonova.core.context import Context
from kilonova.core.http import Request

PATHS: tuple[tuple[str, str], ...] = (
    ("GET POST", "/os-agents"),
    ("PUT DELETE", "/os-agents/{agent_id}"),
    ("GET POST", "/os-cells"),
    ("GET", "/os-cells/capacities"),
    ("GET", "/os-cells/detail"),
    ("GET", "/os-cells/info"),
    ("POST", "/os-cells/sync_instances"),
    ("GET PUT DELETE", "/os-cells/{cell}"),
    ("GET", "/os-cells/{cell}/capacities"),
    ("POST", "/os-certificates"),
    ("GET", "/os-certificates/{certificate_id}"),
    ("GET POST", "/os-cloudpipe"),
    ("GET", "/os-fixed-ips/{fixed_ip}"),
    ("POST", "/os-fixed-ips/{fixed_ip}/action"),
    ("GET", "/os-floating-ip-dns"),
    ("PUT DELETE", "/os-floating-ip-dns/{domain}"),
    ("GET PUT DELETE", "/os-floating-ip-dns/{domain}/entries/{name}"),
    ("GET POST", "/os-floating-ips-bulk"),
    ("GET PUT", "/os-floating-ips-bulk/{host}"),
    ("GET", "/os-fping"),
    ("GET", "/os-fping/{server_id}"),
    ("POST", "/os-networks"),
    ("POST", "/os-networks/add"),
    ("DELETE", "/os-networks/{network_id}"),
    ("POST", "/os-networks/{network_id}/action"),
    ("GET POST", "/os-security-group-default-rules"),
    ("GET DELETE", "/os-security-group-default-rules/{rule_id}"),
    ("POST", "/os-tenant-networks"),
    ("DELETE", "/os-tenant-networks/{network_id}"),
    ("GET POST", "/servers/{server_id}/consoles"),
    ("GET DELETE", "/servers/{server_id}/consoles/{console_id}"),
    ("GET", "/servers/{server_id}/os-virtual-interfaces"),
)
ACTIONS = ("resetNetwork", "os-getRDPConsole")


async def removed(c: ComputeService, ctx: Context, req: Request, **params: Any) -> NoReturn:
    raise Removed
