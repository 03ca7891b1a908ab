"""URLs of the resources around servers: flavors, key pairs, quota, hosts, actions, metadata, tags, …"""

from typing import Any

from kilonova.compute.api import (
    aggregates,
    availability_zones,
    extensions,
    extra_specs,
    flavor_access,
    flavors,
    hosts,
    hypervisors,
    image_metadata,
    images,
    instance_actions,
    interfaces,
    keypairs,
    limits,
    queries,
    quota_classes,
    quota_sets,
    removed,
    server_ips,
    server_lock,
    server_metadata,
    server_security_groups,
    server_state,
    server_tags,
    services,
    simple_tenant_usage,
    volume_attachments,
)
from kilonova.core.http import Version
from kilonova.core.routing import ANY_TOKEN, Route

_NONE = queries.NONE
_P = "os_compute_api:"
_A, _Q, _X = _P + "os-flavor-access:", _P + "os-quota-sets:", _P + "os-flavor-extra-specs:"


def _action(name: str, handler: Any, policy: str, body: Any) -> Route:
    return Route("POST", "/servers/{server_id}/action", handler, _P + policy, action=name, body=body, deferred=True, status=202)


def _of_server(method: str, path: str, handler: Any, policy: str, **more: Any) -> Route:
    """Its policy is asked about the server's owner, in `find`."""
    return Route(method, "/servers/{server_id}" + path, handler, _P + policy, deferred=True, **{"query": _NONE, **more})


_TAGS: Version = (2, 26)
RESOURCE_ROUTES: tuple[Route, ...] = (
    Route("GET", "/extensions", extensions.index, _P + "extensions", query=_NONE),
    Route("GET", "/extensions/{alias}", extensions.show, _P + "extensions", query=_NONE),
    # flavors
    Route("GET", "/flavors", flavors.index, ANY_TOKEN, query=flavors.LIST),
    Route("GET", "/flavors/detail", flavors.detail, ANY_TOKEN, query=flavors.LIST),
    Route("POST", "/flavors", flavors.create, _P + "os-flavor-manage:create", body=flavors.CREATE),
    Route("GET", "/flavors/{flavor_id}", flavors.show, ANY_TOKEN, query=_NONE),
    Route("PUT", "/flavors/{flavor_id}", flavors.update, _P + "os-flavor-manage:update", body=flavors.Update, since=(2, 55)),
    Route("DELETE", "/flavors/{flavor_id}", flavors.delete, _P + "os-flavor-manage:delete"),
    Route("GET", "/flavors/{flavor_id}/os-flavor-access", flavor_access.index, _P + "os-flavor-access", query=_NONE),
    Route(
        "POST", "/flavors/{flavor_id}/action", flavor_access.add, _A + "add_tenant_access", body=flavor_access.Add,
        action="addTenantAccess",
    ),
    Route(
        "POST", "/flavors/{flavor_id}/action", flavor_access.remove, _A + "remove_tenant_access", body=flavor_access.Remove,
        action="removeTenantAccess",
    ),
    Route("GET", "/flavors/{flavor_id}/os-extra_specs", extra_specs.index, _X + "index", query=_NONE),
    Route("POST", "/flavors/{flavor_id}/os-extra_specs", extra_specs.create, _X + "create", body=extra_specs.Create),
    Route("GET", "/flavors/{flavor_id}/os-extra_specs/{spec}", extra_specs.show, _X + "show", query=_NONE),
    Route("PUT", "/flavors/{flavor_id}/os-extra_specs/{spec}", extra_specs.update, _X + "update", body=extra_specs.Update),
    Route("DELETE", "/flavors/{flavor_id}/os-extra_specs/{spec}", extra_specs.delete, _X + "delete"),
    # key pairs
    Route("GET", "/os-keypairs", keypairs.index, _P + "os-keypairs:index", query=keypairs.LIST, deferred=True),
    Route("POST", "/os-keypairs", keypairs.create, _P + "os-keypairs:create", body=keypairs.CREATE, deferred=True),
    Route("GET", "/os-keypairs/{keypair_name}", keypairs.show, _P + "os-keypairs:show", query=keypairs.ITEM, deferred=True),
    Route("DELETE", "/os-keypairs/{keypair_name}", keypairs.delete, _P + "os-keypairs:delete", query=keypairs.ITEM, deferred=True),
    # quota
    Route("GET", "/limits", limits.show, _P + "limits", query=limits.SHOW),
    Route("GET", "/os-quota-sets/{project_id}", quota_sets.show, _Q + "show", query=quota_sets.ITEM, deferred=True),
    Route("GET", "/os-quota-sets/{project_id}/detail", quota_sets.detail, _Q + "detail", query=quota_sets.ITEM, deferred=True),
    Route("GET", "/os-quota-sets/{project_id}/defaults", quota_sets.defaults, _Q + "defaults"),
    Route(
        "PUT", "/os-quota-sets/{project_id}", quota_sets.update, _Q + "update", body=quota_sets.Update, query=quota_sets.ITEM,
        deferred=True,
    ),
    Route("DELETE", "/os-quota-sets/{project_id}", quota_sets.delete, _Q + "delete", query=quota_sets.ITEM, deferred=True),
    Route("GET", "/os-quota-class-sets/{quota_class}", quota_classes.show, _P + "os-quota-class-sets:show", query=_NONE),
    Route("PUT", "/os-quota-class-sets/{quota_class}", quota_classes.update, _P + "os-quota-class-sets:update", body=quota_classes.Update),
    Route("GET", "/os-simple-tenant-usage", simple_tenant_usage.index, _P + "os-simple-tenant-usage:list", query=simple_tenant_usage.LIST),
    Route(
        "GET", "/os-simple-tenant-usage/{project_id}", simple_tenant_usage.show, _P + "os-simple-tenant-usage:show",
        query=simple_tenant_usage.SHOW, deferred=True,
    ),
    # what runs where
    Route("GET", "/os-aggregates", aggregates.index, _P + "os-aggregates:index", query=_NONE),
    Route("GET", "/os-availability-zone", availability_zones.index, _P + "os-availability-zone:list", query=_NONE),
    Route("GET", "/os-availability-zone/detail", availability_zones.detail, _P + "os-availability-zone:detail", query=_NONE),
    Route("GET", "/os-services", services.index, _P + "os-services:list", query=services.LIST),
    Route("PUT", "/os-services/{service_id}", services.update_legacy, _P + "os-services:update", body=services.LEGACY, until=(2, 52)),
    Route("PUT", "/os-services/{service_id}", services.update, _P + "os-services:update", body=services.Update, since=(2, 53)),
    Route("DELETE", "/os-services/{service_id}", services.delete, _P + "os-services:delete", status=204),
    Route("GET", "/os-hypervisors", hypervisors.index, _P + "os-hypervisors:list", query=hypervisors.LIST),
    Route("GET", "/os-hypervisors/detail", hypervisors.detail, _P + "os-hypervisors:list-detail", query=hypervisors.LIST),
    Route("GET", "/os-hypervisors/statistics", hypervisors.statistics, _P + "os-hypervisors:statistics", until=(2, 87)),
    Route("GET", "/os-hypervisors/{hypervisor_id}", hypervisors.show, _P + "os-hypervisors:show", query=hypervisors.SHOW),
    Route("GET", "/os-hypervisors/{hypervisor_id}/uptime", hypervisors.uptime, _P + "os-hypervisors:uptime", until=(2, 87)),
    Route("GET", "/os-hypervisors/{hypervisor_id}/search", hypervisors.search, _P + "os-hypervisors:search", until=(2, 52)),
    Route("GET", "/os-hypervisors/{hypervisor_id}/servers", hypervisors.servers, _P + "os-hypervisors:servers", until=(2, 52)),
    Route("GET", "/os-hosts", hosts.index, _P + "os-hosts:list", query=hosts.LIST, until=(2, 42)),
    Route("GET", "/os-hosts/{host_name}", hosts.show, _P + "os-hosts:show", until=(2, 42)),
    Route("PUT", "/os-hosts/{host_name}", hosts.update, _P + "os-hosts:update", body=hosts.Update, until=(2, 42)),
    Route("GET", "/os-hosts/{host_name}/reboot", hosts.power, _P + "os-hosts:reboot", until=(2, 42)),
    Route("GET", "/os-hosts/{host_name}/shutdown", hosts.power, _P + "os-hosts:shutdown", until=(2, 42)),
    Route("GET", "/os-hosts/{host_name}/startup", hosts.power, _P + "os-hosts:start", until=(2, 42)),
    # images, a proxy; the image service asks its own policy
    Route("GET", "/images", images.index, ANY_TOKEN, query=images.LIST, until=(2, 35)),
    Route("GET", "/images/detail", images.detail, ANY_TOKEN, query=images.LIST, until=(2, 35)),
    Route("GET", "/images/{image_id}", images.show, ANY_TOKEN, until=(2, 35)),
    Route("DELETE", "/images/{image_id}", images.delete, ANY_TOKEN, until=(2, 35)),
    Route("GET", "/images/{image_id}/metadata", image_metadata.index, ANY_TOKEN, until=(2, 38)),
    Route("POST", "/images/{image_id}/metadata", image_metadata.create, ANY_TOKEN, body=server_metadata.Whole, until=(2, 38)),
    Route("PUT", "/images/{image_id}/metadata", image_metadata.replace, ANY_TOKEN, body=server_metadata.Whole, until=(2, 38)),
    Route("GET", "/images/{image_id}/metadata/{key}", image_metadata.show, ANY_TOKEN, until=(2, 38)),
    Route("PUT", "/images/{image_id}/metadata/{key}", image_metadata.update, ANY_TOKEN, body=server_metadata.Item, until=(2, 38)),
    Route("DELETE", "/images/{image_id}/metadata/{key}", image_metadata.delete, ANY_TOKEN, until=(2, 38)),
    # parts of a server
    _of_server("GET", "/ips", server_ips.index, "ips:index"),
    _of_server("GET", "/ips/{network_label}", server_ips.show, "ips:show"),
    _of_server("GET", "/metadata", server_metadata.index, "server-metadata:index"),
    _of_server("POST", "/metadata", server_metadata.create, "server-metadata:create", body=server_metadata.Whole, query=None),
    _of_server("PUT", "/metadata", server_metadata.replace, "server-metadata:update_all", body=server_metadata.Whole, query=None),
    _of_server("GET", "/metadata/{key}", server_metadata.show, "server-metadata:show"),
    _of_server("PUT", "/metadata/{key}", server_metadata.update, "server-metadata:update", body=server_metadata.Item, query=None),
    _of_server("DELETE", "/metadata/{key}", server_metadata.delete, "server-metadata:delete", query=None),
    _of_server("GET", "/tags", server_tags.index, "os-server-tags:index", since=_TAGS, query=None),
    _of_server("PUT", "/tags", server_tags.replace, "os-server-tags:update_all", body=server_tags.Whole, since=_TAGS, query=None),
    _of_server("DELETE", "/tags", server_tags.delete_all, "os-server-tags:delete_all", since=_TAGS, query=None),
    _of_server("GET", "/tags/{tag}", server_tags.show, "os-server-tags:show", since=_TAGS, query=None),
    _of_server("PUT", "/tags/{tag}", server_tags.update, "os-server-tags:update", since=_TAGS, query=None),
    _of_server("DELETE", "/tags/{tag}", server_tags.delete, "os-server-tags:delete", since=_TAGS, query=None),
    _of_server("GET", "/os-security-groups", server_security_groups.index, "os-security-groups:list"),
    _of_server("GET", "/os-interface", interfaces.index, "os-attach-interfaces:list"),
    _of_server("GET", "/os-interface/{port_id}", interfaces.show, "os-attach-interfaces:show"),
    _of_server("GET", "/os-volume_attachments", volume_attachments.index, "os-volumes-attachments:index", query=volume_attachments.LIST),
    _of_server("GET", "/os-volume_attachments/{volume_id}", volume_attachments.show, "os-volumes-attachments:show", query=None),
    _of_server(
        "DELETE", "/os-volume_attachments/{volume_id}", volume_attachments.delete, "os-volumes-attachments:delete", query=None, status=202
    ),
    _of_server("GET", "/os-instance-actions", instance_actions.index, "os-instance-actions:list", query=instance_actions.LIST),
    _of_server("GET", "/os-instance-actions/{request_id}", instance_actions.show, "os-instance-actions:show"),
    # actions
    *(Route("POST", "/servers/{server_id}/action", removed.removed, ANY_TOKEN, action=name) for name in removed.ACTIONS),
    _action("lock", server_lock.lock, "os-lock-server:lock", server_lock.LOCK),
    _action("unlock", server_lock.unlock, "os-lock-server:unlock", server_lock.Unlock),
    _action("os-resetState", server_state.reset, "os-admin-actions:reset_state", server_state.Reset),
    _action("addSecurityGroup", server_security_groups.add, "os-security-groups:add", server_security_groups.Add),
    _action("removeSecurityGroup", server_security_groups.remove, "os-security-groups:remove", server_security_groups.Remove),
    # gone
    *(Route(method, path, removed.removed, ANY_TOKEN) for methods, path in removed.PATHS for method in methods.split()),
)  # fmt: skip
