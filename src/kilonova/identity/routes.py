"""Every URL that identity serves, one line each."""

from kilonova.core.routing import ANY_TOKEN, PUBLIC, Route
from kilonova.identity.api import auth, users, versions
from kilonova.identity.api.bodies import Body

ROUTES = (
    Route("GET", "/", versions.list, PUBLIC),
    Route("GET", "/v3", versions.show, PUBLIC),
    # tokens and what they open
    Route("POST", "/v3/auth/tokens", auth.create, PUBLIC, body=auth.CreateToken, status=201),
    Route("GET", "/v3/auth/tokens", auth.validate, "identity:validate_token", deferred=True),
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
)
