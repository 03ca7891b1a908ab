"""Every URL that network serves, one line each."""

from typing import Any

from kilonova.core.routing import ANY_TOKEN, PUBLIC, Route
from kilonova.network.api import (
    agents,
    auto_topologies,
    floating_ips,
    ip_availabilities,
    networks,
    ports,
    quotas,
    routers,
    security_groups,
    subnetpools,
    subnets,
    versions,
)
from kilonova.network.api.collection import Resource
from kilonova.network.api.tags import Tags

Body = Any


def mount(path: str) -> tuple[str, str] | None:
    """Paths may end in .json, as the first clients wrote them. /v2.0 without its slash is nothing."""
    if path == "/v2.0":
        return None
    return "", path if "/tags/" in path else path.removesuffix(".json")


def _crud(api: Any, path: str, variable: str, rule: str) -> tuple[Route, ...]:
    one = f"/v2.0/{path}/{{{variable}}}"
    return (
        Route("GET", f"/v2.0/{path}", api.list, f"get_{rule}", deferred=True),
        Route("POST", f"/v2.0/{path}", api.create, f"create_{rule}", body=Body, status=201, deferred=True),
        Route("GET", one, api.show, f"get_{rule}", deferred=True),
        Route("PUT", one, api.update, f"update_{rule}", body=Body, deferred=True),
        Route("DELETE", one, api.delete, f"delete_{rule}", status=204, deferred=True),
    )


def _tags(res: Resource[Any], variable: str) -> tuple[Route, ...]:
    tags = Tags(res, variable)
    path = f"/v2.0/{res.collection}/{{{variable}}}/tags"
    rule = f"{res.name}:tags"
    return (
        Route("GET", path, tags.list, f"get_{rule}", deferred=True),
        Route("POST", path, tags.add, f"create_{rule}", body=Body, deferred=True),
        Route("PUT", path, tags.replace, f"update_{rule}", body=Body, deferred=True),
        Route("DELETE", path, tags.clear, f"delete_{rule}", status=204, deferred=True),
        Route("GET", f"{path}/{{tag}}", tags.show, f"get_{rule}", status=204, deferred=True),
        Route("PUT", f"{path}/{{tag}}", tags.put, f"update_{rule}", status=201, deferred=True),
        Route("DELETE", f"{path}/{{tag}}", tags.delete, f"delete_{rule}", status=204, deferred=True),
    )


ROUTES = (
    Route("GET", "/", versions.list, PUBLIC),
    Route("GET", "/v2.0/", versions.resources, ANY_TOKEN),
    Route("GET", "/v2.0/extensions", versions.extensions, ANY_TOKEN),
    Route("GET", "/v2.0/extensions/{alias}", versions.extension, ANY_TOKEN),
    *_crud(networks, "networks", "network_id", "network"),
    *_tags(networks.NETWORKS, "network_id"),
    *_crud(subnets, "subnets", "subnet_id", "subnet"),
    *_tags(subnets.SUBNETS, "subnet_id"),
    *_crud(ports, "ports", "port_id", "port"),
    *_tags(ports.PORTS, "port_id"),
    # routers
    *_crud(routers, "routers", "router_id", "router"),
    *_tags(routers.ROUTERS, "router_id"),
    Route("PUT", "/v2.0/routers/{router_id}/add_router_interface", routers.add_interface, "add_router_interface", body=Body, deferred=True),
    Route(
        "PUT",
        "/v2.0/routers/{router_id}/remove_router_interface",
        routers.remove_interface,
        "remove_router_interface",
        body=Body,
        deferred=True,
    ),
    Route("PUT", "/v2.0/routers/{router_id}/add_extraroutes", routers.add_routes, "add_extraroutes", body=Body, deferred=True),
    Route("PUT", "/v2.0/routers/{router_id}/remove_extraroutes", routers.remove_routes, "remove_extraroutes", body=Body, deferred=True),
    # floating IPs
    *_crud(floating_ips, "floatingips", "floatingip_id", "floatingip"),
    *_tags(floating_ips.FLOATING_IPS, "floatingip_id"),
    # security groups
    *_crud(security_groups, "security-groups", "security_group_id", "security_group"),
    *_tags(security_groups.GROUPS, "security_group_id"),
    Route("GET", "/v2.0/security-group-rules", security_groups.list_rules, "get_security_group_rule", deferred=True),
    Route(
        "POST",
        "/v2.0/security-group-rules",
        security_groups.create_rule,
        "create_security_group_rule",
        body=Body,
        status=201,
        deferred=True,
    ),
    Route("GET", "/v2.0/security-group-rules/{rule_id}", security_groups.show_rule, "get_security_group_rule", deferred=True),
    Route(
        "DELETE",
        "/v2.0/security-group-rules/{rule_id}",
        security_groups.delete_rule,
        "delete_security_group_rule",
        status=204,
        deferred=True,
    ),
    # subnet pools
    *_crud(subnetpools, "subnetpools", "subnetpool_id", "subnetpool"),
    *_tags(subnetpools.SUBNETPOOLS, "subnetpool_id"),
    Route("PUT", "/v2.0/subnetpools/{subnetpool_id}/add_prefixes", subnetpools.add_prefixes, "add_prefixes", body=Body, deferred=True),
    Route(
        "PUT", "/v2.0/subnetpools/{subnetpool_id}/remove_prefixes", subnetpools.remove_prefixes, "remove_prefixes", body=Body, deferred=True
    ),
    # quotas
    Route("GET", "/v2.0/quotas", quotas.list, "get_quota", deferred=True),
    Route("GET", "/v2.0/quotas/{project_id}", quotas.show, ANY_TOKEN),
    Route("PUT", "/v2.0/quotas/{project_id}", quotas.update, "update_quota", body=Body, deferred=True),
    Route("DELETE", "/v2.0/quotas/{project_id}", quotas.delete, "delete_quota", status=204, deferred=True),
    Route("GET", "/v2.0/quotas/{project_id}/default", quotas.default, "get_quota", deferred=True),
    Route("GET", "/v2.0/quotas/{project_id}/details", quotas.details, "get_quota", deferred=True),
    # hosts
    Route("GET", "/v2.0/agents", agents.list, "get_agent", deferred=True),
    Route("GET", "/v2.0/agents/{agent_id}", agents.show, "get_agent", deferred=True),
    Route("PUT", "/v2.0/agents/{agent_id}", agents.update, "update_agent", body=Body, deferred=True),
    Route("DELETE", "/v2.0/agents/{agent_id}", agents.delete, "delete_agent", status=204, deferred=True),
    Route("GET", "/v2.0/availability_zones", agents.zones, "get_availability_zone"),
    Route("GET", "/v2.0/service-providers", agents.service_providers, "get_service_provider"),
    Route("GET", "/v2.0/network-ip-availabilities", ip_availabilities.list, "get_network_ip_availability", deferred=True),
    Route("GET", "/v2.0/network-ip-availabilities/{network_id}", ip_availabilities.show, "get_network_ip_availability", deferred=True),
    Route("GET", "/v2.0/auto-allocated-topology/{project_id}", auto_topologies.show, "get_auto_allocated_topology", deferred=True),
    Route(
        "DELETE",
        "/v2.0/auto-allocated-topology/{project_id}",
        auto_topologies.delete,
        "delete_auto_allocated_topology",
        status=204,
        deferred=True,
    ),
)
