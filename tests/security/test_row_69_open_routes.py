"""CVE-2020-9543, CVE-2026-40213 and row 62: no route is open by accident, no rule unknown, no attribute guarded by nothing."""

import importlib

import pytest

from kilonova.core.routing import ANY_TOKEN, PUBLIC, Route
from kilonova.network.api import floating_ips, networks, ports, routers, security_groups, subnetpools, subnets
from kilonova.network.policies import RULES as NETWORK_RULES
from kilonova.testing.asgi import Client
from tests.security import open_routes
from tests.security.conftest import Run, World
from tests.security.recipes import key

SERVICES = ("identity", "image", "placement", "compute", "network")


def _routes(service: str) -> tuple[Route, ...]:
    found: tuple[Route, ...] = importlib.import_module(f"kilonova.{service}.routes").ROUTES
    return found


def _with_policy(policy: str) -> set[str]:
    return {
        f"{service} {key(route)}"
        for service in SERVICES
        for route in _routes(service)
        if route.policy == policy and route.handler.__name__ != "removed"
    }


def test_row_69_open_routes_are_those_that_are_listed() -> None:
    assert _with_policy(PUBLIC) == set(open_routes.PUBLIC)
    assert _with_policy(ANY_TOKEN) == set(open_routes.ANY_TOKEN)
    assert all({**open_routes.PUBLIC, **open_routes.ANY_TOKEN}.values())


@pytest.mark.parametrize("service", SERVICES)
def test_row_69_every_other_route_has_a_rule_and_the_rules_that_allow_everybody_are_listed(service: str) -> None:
    rules = {rule.name: rule.check for rule in importlib.import_module(f"kilonova.{service}.policies").RULES}
    empty = set()
    for route in _routes(service):
        if route.policy in (PUBLIC, ANY_TOKEN):
            continue
        assert route.policy in rules, route
        text = rules[route.policy].strip()
        while text.startswith("rule:") and " " not in text:
            text = rules[text.removeprefix("rule:")].strip()
        if text in ("", "@"):
            empty.add(route.policy)
    prefix = "os_compute_api:" if service == "compute" else f"{service}:"
    assert empty == {rule for rule in open_routes.EMPTY_RULES if rule.startswith(prefix)}


def test_row_62_guarded_attributes_have_rules() -> None:
    """An attribute that is marked as guarded and that no rule names would be open."""
    names = {rule.name for rule in NETWORK_RULES}
    resources = (
        networks.NETWORKS, subnets.SUBNETS, ports.PORTS, routers.ROUTERS, floating_ips.FLOATING_IPS, security_groups.GROUPS,
        subnetpools.SUBNETPOOLS,
    )  # fmt: skip
    for res in resources:
        for attribute in res.attributes.guarded:
            rules = {f"{verb}_{res.name}:{attribute.name}" for verb in ("create", "update", "get")}
            parts = {rule for rule in names for verb in ("create", "update") if rule.startswith(f"{verb}_{res.name}:{attribute.name}:")}
            assert rules & names or parts, (res.name, attribute.name)


def test_row_69_without_a_token_only_public_routes_answer(run: Run) -> None:
    async def story(w: World) -> None:
        for service in SERVICES:
            anonymous = w.anonymous(service)
            bad = anonymous.with_headers(x_auth_token="gAAAAA" + "x" * 180)
            for route in _routes(service):
                if route.policy == PUBLIC:
                    continue
                path = route.path.replace("{", "").replace(":path", "").replace("}", "")
                for client in (anonymous, bad):
                    reply = await _call(client, service, route.method, path)
                    assert reply == 401, (service, key(route), reply)

    async def _call(client: Client, service: str, method: str, path: str) -> int:
        return (await client.request(method, ("/v2.1" if service == "compute" else "") + path, {})).status

    run(story)
