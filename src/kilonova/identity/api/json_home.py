"""The JSON Home document of GET /v3 (draft-nottingham-json-home): a relation for each path, named by Keystone's scheme.

/domains/{domain_id}/users/{user_id}/roles is domain_user_roles; an extension's relations stand under ext/<name>/1.0.
"""

from collections.abc import Iterable
from typing import Any

BASE = "https://docs.openstack.org/api/openstack-identity/3"
CONTENT_TYPE = "application/json-home"
NAMED_OTHERWISE = {
    "/users/{user_id}/password": "user_change_password",
    "/roles/{role_id}/implies": "implied_roles",
    "/roles/{role_id}/implies/{implied_role_id}": "implied_role",
    "/projects/{project_id}/tags/{value}": "project_tags",
}
UNNAMED = frozenset({"", "/projects/{project_id}/tags"})
PARAMETERS = {"value": "tag_value", "implied_role_id": "role_id"}


def document(paths: Iterable[str]) -> dict[str, Any]:
    """paths: of the routes, with /v3 in front; others are left out."""
    resources: dict[str, Any] = {}
    for path in dict.fromkeys(paths):
        short = path.removeprefix("/v3")
        if short == path or short in UNNAMED:
            continue
        variables = [part[1:-1] for part in short.split("/") if part.startswith("{")]
        if variables:
            links = {name: f"{BASE}/param/{PARAMETERS.get(name, name)}" for name in variables}
            resources[_relation(short)] = {"href-template": short, "href-vars": links}
        else:
            resources[_relation(short)] = {"href": short}
    return {"resources": resources}


def _relation(path: str) -> str:
    parts = path.strip("/").split("/")
    extension = f"ext/{parts.pop(0)}/1.0/" if parts[0].startswith("OS-") else ""
    words = []
    for part, following in zip(parts, [*parts[1:], ""], strict=True):
        if not part.startswith("{"):
            words.append(part.removesuffix("s") if following.startswith("{") else part)
    return f"{BASE}/{extension}rel/{NAMED_OTHERWISE.get(path, '_'.join(words))}"
