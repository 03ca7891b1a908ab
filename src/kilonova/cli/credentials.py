"""clouds.yaml and the openrc files: how the stock clients, and our own commands, log in."""

import importlib
import json
import os
import secrets
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from kilonova.cli.failure import Failure
from kilonova.cli.state import StateDir

USERS = {"kilonova": "admin", "kilonova-demo": "demo", "kilonova-system": "admin"}
"""Name in clouds.yaml -> user. The system one has the scope of the whole system instead of a project."""
VARIABLES = {"admin": "KILONOVA_ADMIN_PASSWORD", "demo": "KILONOVA_DEMO_PASSWORD"}


class Login(msgspec.Struct, frozen=True, kw_only=True):
    auth_url: str
    username: str
    password: str
    region: str
    cacert: str = ""


def generated() -> str:
    return secrets.token_urlsafe(18)


def _stored(state: StateDir) -> dict[str, object]:
    yaml: Any = importlib.import_module("yaml")

    try:
        text = state.clouds_yaml.read_text()
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise Failure(f"{state.clouds_yaml} cannot be read: {error.strerror}.") from None
    try:
        clouds = yaml.safe_load(text)["clouds"]
        return {str(name): cloud for name, cloud in clouds.items()}
    except (yaml.YAMLError, KeyError, TypeError, AttributeError):
        raise Failure(
            f"{state.clouds_yaml} is damaged.", "Restore it, or set its passwords as `up` asks after it has been removed."
        ) from None


def stored_login(state: StateDir, cloud: str = "kilonova") -> Login:
    """What clouds.yaml says. Raises Failure."""
    found = _stored(state).get(cloud)
    try:
        return msgspec.convert(_flat(found), Login)
    except (msgspec.ValidationError, TypeError, KeyError):
        raise Failure(f"{state.clouds_yaml} has no cloud {cloud} with a login.", "`kilonova up` writes it.") from None


def _flat(cloud: object) -> dict[str, object]:
    if not isinstance(cloud, dict):
        raise TypeError
    auth = cloud["auth"]
    return {
        "auth_url": auth["auth_url"],
        "username": auth["username"],
        "password": str(auth["password"]),
        "region": cloud.get("region_name", "RegionOne"),
        "cacert": cloud.get("cacert", ""),
    }


def passwords(state: StateDir, *, new: bool, environment: Mapping[str, str] = os.environ) -> tuple[dict[str, str], list[str]]:
    """Passwords of admin and demo, and warnings. They are chosen when a cloud is new and stand in clouds.yaml from then on.

    A file that is lost can only be made again from the environment: the database keeps hashes.
    """
    found: dict[str, str] = {}
    warnings = []
    clouds = _stored(state)
    for cloud, user in (("kilonova", "admin"), ("kilonova-demo", "demo")):
        variable = VARIABLES[user]
        given = environment.get(variable)
        if given is not None and (not given or any(not character.isprintable() for character in given)):
            raise Failure(
                f"{variable} must be a password of at least one letter, without control characters.", "Set another one, or unset it."
            )
        if cloud in clouds:
            found[user] = stored_login(state, cloud).password
            if given is not None and given != found[user]:
                warnings.append(f"{variable} is ignored: this cloud keeps the password that it was made with (in clouds.yaml).")
        elif new or given is not None:
            found[user] = given or generated()
        else:
            raise Failure(
                f"{state.clouds_yaml} is missing, and with it the passwords of this cloud.",
                f"Restore it, or set {VARIABLES['admin']} and {VARIABLES['demo']} to what they were.",
            )
    return found, warnings


def _quoted(text: str) -> str:
    """A double-quoted scalar: JSON's, which YAML reads the same way for printable text."""
    return json.dumps(text, ensure_ascii=False)


def clouds_yaml(*, auth_url: str, region: str, passwords_by_user: Mapping[str, str], cacert: str = "") -> str:
    lines = ["# Written by `kilonova up`. export OS_CLIENT_CONFIG_FILE to this file and OS_CLOUD to a name below.", "clouds:"]
    for cloud, user in USERS.items():
        scope = (
            ["      system_scope: all"]
            if cloud.endswith("-system")
            else [f"      project_name: {user}", "      project_domain_name: Default"]
        )
        lines += [
            f"  {cloud}:",
            "    auth:",
            f"      auth_url: {_quoted(auth_url)}",
            f"      username: {user}",
            f"      password: {_quoted(passwords_by_user[user])}",
            "      user_domain_name: Default",
            *scope,
            f"    region_name: {_quoted(region)}",
            "    interface: public",
            '    identity_api_version: "3"',
            *([f"    cacert: {_quoted(cacert)}"] if cacert else []),
        ]
    return "\n".join(lines) + "\n"


def openrc(*, user: str, auth_url: str, region: str, password: str, cacert: str = "") -> str:
    variables = {
        "OS_AUTH_TYPE": "password",
        "OS_AUTH_URL": auth_url,
        "OS_USERNAME": user,
        "OS_PASSWORD": password,
        "OS_PROJECT_NAME": user,
        "OS_USER_DOMAIN_NAME": "Default",
        "OS_PROJECT_DOMAIN_NAME": "Default",
        "OS_REGION_NAME": region,
        "OS_INTERFACE": "public",
        "OS_IDENTITY_API_VERSION": "3",
        **({"OS_CACERT": cacert} if cacert else {}),
    }
    lines = ["# Written by `kilonova up`; read it with `. FILE`.", "unset OS_CLOUD OS_SYSTEM_SCOPE OS_TOKEN"]
    return "\n".join([*lines, *(f"export {name}={shlex.quote(value)}" for name, value in variables.items())]) + "\n"


def write_all(state: StateDir, *, auth_url: str, region: str, passwords_by_user: Mapping[str, str], cacert: Path | None) -> None:
    ca = str(cacert) if cacert else ""
    state.write("clouds.yaml", clouds_yaml(auth_url=auth_url, region=region, passwords_by_user=passwords_by_user, cacert=ca))
    for user in ("admin", "demo"):
        state.write(f"{user}-openrc", openrc(user=user, auth_url=auth_url, region=region, password=passwords_by_user[user], cacert=ca))
