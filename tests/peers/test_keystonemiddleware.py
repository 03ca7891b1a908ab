"""OpenStack's keystonemiddleware, in front of a small WSGI application, on our identity."""

import json
import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.peers.running import ADMIN_PASSWORD, LIFE_S, SERVICE_PASSWORD, Middleware, Ours, ask


def api(ours: Ours, method: str, path: str, body: Any = None) -> Any:
    answer = ask(method, ours.url + path, ours.token(), body)
    assert answer.status in (200, 201, 204), answer
    return answer.json if answer.body else None


def user(ours: Ours, name: str, project: str, *roles: str) -> str:
    """A new user with roles in a project of this name."""
    made = api(ours, "POST", "/users", {"user": {"name": name, "password": SERVICE_PASSWORD, "domain_id": "default"}})["user"]["id"]
    project_id = api(ours, "GET", f"/projects?name={project}")["projects"][0]["id"]
    for role in roles:
        role_id = api(ours, "GET", f"/roles?name={role}")["roles"][0]["id"]
        api(ours, "PUT", f"/projects/{project_id}/users/{made}/roles/{role_id}")
    return str(made)


@pytest.fixture(scope="module")
def middleware(ours: Ours, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Middleware]:
    """As an installation guide configures it, but without its cache, so that what identity says counts at once."""
    if not api(ours, "GET", "/projects?name=service")["projects"]:
        api(ours, "POST", "/projects", {"project": {"name": "service", "domain_id": "default"}})
    user(ours, "swift", "service", "service")
    settings = {
        "auth_url": ours.url,
        "www_authenticate_uri": ours.url,
        "auth_type": "password",
        "username": "swift",
        "password": SERVICE_PASSWORD,
        "project_name": "service",
        "user_domain_name": "Default",
        "project_domain_name": "Default",
        "service_token_roles": "service",
        "service_token_roles_required": "true",
        "include_service_catalog": "true",
        "token_cache_time": "-1",
    }
    with Middleware(tmp_path_factory.mktemp("middleware"), settings) as program:
        yield program


def test_a_good_token(ours: Ours, middleware: Middleware) -> None:
    answer = ask("GET", middleware.url, ours.token())
    assert answer.status == 200, answer
    seen = answer.json
    token = ask("GET", f"{ours.url}/auth/tokens", ours.token(), X_Subject_Token=ours.token()).json["token"]
    assert seen["HTTP_X_IDENTITY_STATUS"] == "Confirmed"
    assert (seen["HTTP_X_USER_ID"], seen["HTTP_X_USER_NAME"]) == (token["user"]["id"], "admin")
    assert (seen["HTTP_X_USER_DOMAIN_ID"], seen["HTTP_X_USER_DOMAIN_NAME"]) == ("default", "Default")
    assert (seen["HTTP_X_PROJECT_ID"], seen["HTTP_X_PROJECT_NAME"]) == (token["project"]["id"], "admin")
    assert seen["HTTP_X_PROJECT_DOMAIN_ID"] == "default"
    assert set(seen["HTTP_X_ROLES"].split(",")) == {role["name"] for role in token["roles"]} >= {"admin", "member", "reader"}
    assert seen["HTTP_X_IS_ADMIN_PROJECT"] == "True"


def test_the_catalog_arrives(ours: Ours, middleware: Middleware) -> None:

    catalog = json.loads(ask("GET", middleware.url, ours.token()).json["HTTP_X_SERVICE_CATALOG"])
    identity = next(service for service in catalog if service["type"] == "identity")
    assert identity["endpoints"][0]["publicURL"] == ours.url


def test_identity_headers_of_a_client_are_taken_away(ours: Ours, middleware: Middleware) -> None:
    seen = ask("GET", middleware.url, ours.token(), X_User_Id="somebody", X_Roles="owner", X_Service_Roles="service").json
    assert seen["HTTP_X_USER_ID"] != "somebody" and "owner" not in seen["HTTP_X_ROLES"]
    assert "HTTP_X_SERVICE_ROLES" not in seen


@pytest.mark.parametrize("token", ["", "nonsense", "gAAAAABnot-a-token-of-ours", "x" * 3000])
def test_bad_tokens(ours: Ours, middleware: Middleware, token: str) -> None:
    answer = ask("GET", middleware.url, token)
    assert answer.status == 401
    assert answer.headers["www-authenticate"] == f'Keystone uri="{ours.url}"'


def test_a_revoked_token(ours: Ours, middleware: Middleware) -> None:
    token = ours.token()
    assert ask("GET", middleware.url, token).status == 200
    assert ask("DELETE", f"{ours.url}/auth/tokens", ours.token(), X_Subject_Token=token).status == 204
    assert ask("GET", middleware.url, token).status == 401


def test_a_lost_role_and_a_disabled_user(ours: Ours, middleware: Middleware) -> None:
    alice = user(ours, "alice", "demo", "reader")
    token = ours.token("alice", "demo", SERVICE_PASSWORD)
    assert ask("GET", middleware.url, token).json["HTTP_X_ROLES"] == "reader"
    project = api(ours, "GET", "/projects?name=demo")["projects"][0]["id"]
    role = api(ours, "GET", "/roles?name=reader")["roles"][0]["id"]
    api(ours, "DELETE", f"/projects/{project}/users/{alice}/roles/{role}")
    assert ask("GET", middleware.url, token).status == 401
    api(ours, "PUT", f"/projects/{project}/users/{alice}/roles/{role}")
    token = ours.token("alice", "demo", SERVICE_PASSWORD)
    assert ask("GET", middleware.url, token).status == 200
    api(ours, "PATCH", f"/users/{alice}", {"user": {"enabled": False}})
    assert ask("GET", middleware.url, token).status == 401


def test_service_tokens(ours: Ours, middleware: Middleware) -> None:
    """A service token is told apart from the user's; one without the service role is refused."""
    user(ours, "glance", "service", "service")
    service, plain = ours.token("glance", "service", SERVICE_PASSWORD), ours.token()
    seen = ask("GET", middleware.url, plain, X_Service_Token=service).json
    assert seen["HTTP_X_SERVICE_IDENTITY_STATUS"] == "Confirmed"
    assert (seen["HTTP_X_SERVICE_USER_NAME"], seen["HTTP_X_SERVICE_ROLES"]) == ("glance", "service")
    assert (seen["HTTP_X_SERVICE_PROJECT_NAME"], seen["HTTP_X_USER_NAME"]) == ("service", "admin")
    user(ours, "bob", "demo", "member")
    assert ask("GET", middleware.url, plain, X_Service_Token=ours.token("bob", "demo", SERVICE_PASSWORD)).status == 401
    assert ask("GET", middleware.url, plain, X_Service_Token="nonsense").status == 401


def test_an_expired_token_needs_a_service_token(ours: Ours, middleware: Middleware) -> None:
    """Tokens of this identity last a few seconds."""
    token = ours.token("admin", "admin", ADMIN_PASSWORD)
    expires = ask("GET", f"{ours.url}/auth/tokens", token, X_Subject_Token=token).json["token"]["expires_at"]
    assert ask("GET", middleware.url, token).status == 200
    time.sleep(LIFE_S + 0.5)
    assert ask("GET", middleware.url, token).status == 401, expires
    service = ours.token("swift", "service", SERVICE_PASSWORD)
    seen = ask("GET", middleware.url, token, X_Service_Token=service)
    assert seen.status == 200 and seen.json["HTTP_X_USER_NAME"] == "admin", seen
    assert ask("GET", middleware.url, token, X_Service_Token=token).status == 401
