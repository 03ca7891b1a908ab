"""Every URL that identity serves, one line each."""

from collections.abc import Iterator

from kilonova.core.routing import ANY_TOKEN, PUBLIC, Route
from kilonova.identity.api import (
    auth,
    domains,
    endpoints,
    grants,
    groups,
    projects,
    regions,
    role_assignments,
    roles,
    services,
    users,
    versions,
)
from kilonova.identity.api.bodies import Body


def _grants() -> Iterator[Route]:
    """The same verbs for each target and actor; on projects and domains also what is inherited from them."""
    for target, system in (("/v3/projects/{project_id}", False), ("/v3/domains/{domain_id}", False), ("/v3/system", True)):
        for actor, kind in (("users/{user_id}", "user"), ("groups/{group_id}", "group")):
            policy = f"identity:{{}}_system_grant{{}}_for_{kind}" if system else "identity:{}_grant{}"
            path = f"{target}/{actor}/roles"
            yield Route("GET", path, grants.list, policy.format("list", "s"), deferred=True)
            yield from _grant(f"{path}/{{role_id}}", policy)
            if not system:
                path = path.replace("/v3/", "/v3/OS-INHERIT/")
                yield from _grant(f"{path}/{{role_id}}/inherited_to_projects", policy)
                if target.endswith("{domain_id}"):
                    yield Route("GET", f"{path}/inherited_to_projects", grants.list, policy.format("list", "s"), deferred=True)


def _grant(path: str, policy: str) -> Iterator[Route]:
    yield Route("PUT", path, grants.grant, policy.format("create", ""), deferred=True, status=204)
    yield Route("GET", path, grants.show, policy.format("check", ""), deferred=True, status=204)
    yield Route("DELETE", path, grants.revoke, policy.format("revoke", ""), deferred=True, status=204)


IMPLIED = "/v3/roles/{role_id}/implies/{implied_role_id}"

_V3 = (
    # tokens and what they open
    Route("POST", "/v3/auth/tokens", auth.create, PUBLIC, body=auth.CreateToken, status=201),
    Route("GET", "/v3/auth/tokens", auth.validate, "identity:validate_token", deferred=True),
    Route("HEAD", "/v3/auth/tokens", auth.check, "identity:check_token", deferred=True),
    Route("DELETE", "/v3/auth/tokens", auth.revoke, "identity:revoke_token", deferred=True, status=204),
    Route("GET", "/v3/auth/catalog", auth.show_catalog, ANY_TOKEN),
    Route("GET", "/v3/auth/projects", auth.list_projects, ANY_TOKEN),
    Route("GET", "/v3/auth/domains", auth.list_domains, ANY_TOKEN),
    Route("GET", "/v3/auth/system", auth.show_system, ANY_TOKEN),
    # users
    Route("GET", "/v3/users", users.list, "identity:list_users", deferred=True),
    Route("POST", "/v3/users", users.create, "identity:create_user", body=Body, deferred=True, status=201),
    Route("GET", "/v3/users/{user_id}", users.show, "identity:get_user", deferred=True),
    Route("PATCH", "/v3/users/{user_id}", users.update, "identity:update_user", body=Body, deferred=True),
    Route("DELETE", "/v3/users/{user_id}", users.delete, "identity:delete_user", deferred=True, status=204),
    Route("POST", "/v3/users/{user_id}/password", users.change_password, PUBLIC, body=Body, status=204),
    Route("GET", "/v3/users/{user_id}/projects", users.list_projects, "identity:list_user_projects", deferred=True),
    Route("GET", "/v3/users/{user_id}/groups", groups.list_of_user, "identity:list_groups_for_user", deferred=True),
    # groups
    Route("GET", "/v3/groups", groups.list, "identity:list_groups", deferred=True),
    Route("POST", "/v3/groups", groups.create, "identity:create_group", body=Body, deferred=True, status=201),
    Route("GET", "/v3/groups/{group_id}", groups.show, "identity:get_group", deferred=True),
    Route("PATCH", "/v3/groups/{group_id}", groups.update, "identity:update_group", body=Body, deferred=True),
    Route("DELETE", "/v3/groups/{group_id}", groups.delete, "identity:delete_group", deferred=True, status=204),
    Route("GET", "/v3/groups/{group_id}/users", groups.list_users, "identity:list_users_in_group", deferred=True),
    Route("PUT", "/v3/groups/{group_id}/users/{user_id}", groups.add_user, "identity:add_user_to_group", deferred=True, status=204),
    Route("GET", "/v3/groups/{group_id}/users/{user_id}", groups.show_user, "identity:check_user_in_group", deferred=True, status=204),
    Route(
        "DELETE", "/v3/groups/{group_id}/users/{user_id}", groups.remove_user, "identity:remove_user_from_group", deferred=True, status=204
    ),
    # projects and their tags
    Route("GET", "/v3/projects", projects.list, "identity:list_projects", deferred=True),
    Route("POST", "/v3/projects", projects.create, "identity:create_project", body=Body, deferred=True, status=201),
    Route("GET", "/v3/projects/{project_id}", projects.show, "identity:get_project", deferred=True),
    Route("PATCH", "/v3/projects/{project_id}", projects.update, "identity:update_project", body=Body, deferred=True),
    Route("DELETE", "/v3/projects/{project_id}", projects.delete, "identity:delete_project", deferred=True, status=204),
    Route("GET", "/v3/projects/{project_id}/tags", projects.list_tags, "identity:list_project_tags", deferred=True),
    Route(
        "PUT", "/v3/projects/{project_id}/tags", projects.replace_tags, "identity:update_project_tags", body=projects.TagsIn, deferred=True
    ),
    Route("DELETE", "/v3/projects/{project_id}/tags", projects.delete_tags, "identity:delete_project_tags", deferred=True, status=204),
    Route("GET", "/v3/projects/{project_id}/tags/{value}", projects.show_tag, "identity:get_project_tag", deferred=True, status=204),
    Route("PUT", "/v3/projects/{project_id}/tags/{value}", projects.add_tag, "identity:create_project_tag", deferred=True, status=201),
    Route(
        "DELETE", "/v3/projects/{project_id}/tags/{value}", projects.delete_tag, "identity:delete_project_tag", deferred=True, status=204
    ),
    # domains
    Route("GET", "/v3/domains", domains.list, "identity:list_domains", deferred=True),
    Route("POST", "/v3/domains", domains.create, "identity:create_domain", body=Body, status=201),
    Route("GET", "/v3/domains/{domain_id}", domains.show, "identity:get_domain", deferred=True),
    Route("PATCH", "/v3/domains/{domain_id}", domains.update, "identity:update_domain", body=Body, deferred=True),
    Route("DELETE", "/v3/domains/{domain_id}", domains.delete, "identity:delete_domain", deferred=True, status=204),
    # roles, what they imply, and who has them
    Route("GET", "/v3/roles", roles.list, "identity:list_roles", deferred=True),
    Route("POST", "/v3/roles", roles.create, "identity:create_role", body=Body, deferred=True, status=201),
    Route("GET", "/v3/roles/{role_id}", roles.show, "identity:get_role", deferred=True),
    Route("PATCH", "/v3/roles/{role_id}", roles.update, "identity:update_role", body=Body, deferred=True),
    Route("DELETE", "/v3/roles/{role_id}", roles.delete, "identity:delete_role", deferred=True, status=204),
    Route("GET", "/v3/roles/{role_id}/implies", roles.list_implied, "identity:list_implied_roles"),
    Route("GET", IMPLIED, roles.show_implied, "identity:get_implied_role"),
    Route("HEAD", IMPLIED, roles.check_implied, "identity:check_implied_role", status=204),
    Route("PUT", IMPLIED, roles.imply, "identity:create_implied_role", status=201),
    Route("DELETE", IMPLIED, roles.unimply, "identity:delete_implied_role", status=204),
    Route("GET", "/v3/role_inferences", roles.list_inferences, "identity:list_role_inference_rules"),
    Route("GET", "/v3/role_assignments", role_assignments.list, "identity:list_role_assignments", deferred=True),
    *_grants(),
    # the catalog
    Route("GET", "/v3/services", services.list, "identity:list_services"),
    Route("POST", "/v3/services", services.create, "identity:create_service", body=Body, status=201),
    Route("GET", "/v3/services/{service_id}", services.show, "identity:get_service"),
    Route("PATCH", "/v3/services/{service_id}", services.update, "identity:update_service", body=Body),
    Route("DELETE", "/v3/services/{service_id}", services.delete, "identity:delete_service", status=204),
    Route("GET", "/v3/endpoints", endpoints.list, "identity:list_endpoints"),
    Route("POST", "/v3/endpoints", endpoints.create, "identity:create_endpoint", body=Body, status=201),
    Route("GET", "/v3/endpoints/{endpoint_id}", endpoints.show, "identity:get_endpoint"),
    Route("PATCH", "/v3/endpoints/{endpoint_id}", endpoints.update, "identity:update_endpoint", body=Body),
    Route("DELETE", "/v3/endpoints/{endpoint_id}", endpoints.delete, "identity:delete_endpoint", status=204),
    Route("GET", "/v3/regions", regions.list, ANY_TOKEN),
    Route("POST", "/v3/regions", regions.create, "identity:create_region", body=Body, status=201),
    Route("GET", "/v3/regions/{region_id}", regions.show, ANY_TOKEN),
    Route("PUT", "/v3/regions/{region_id}", regions.create_with_id, "identity:create_region", body=Body, status=201),
    Route("PATCH", "/v3/regions/{region_id}", regions.update, "identity:update_region", body=Body),
    Route("DELETE", "/v3/regions/{region_id}", regions.delete, "identity:delete_region", status=204),
)
ROUTES = (Route("GET", "/", versions.list, PUBLIC), Route("GET", "/v3", versions.shower(route.path for route in _V3), PUBLIC), *_V3)
