"""OSSN-0102 and its like, for every route with ids in its path, generated from the route tables.

An object is made in project a. Users of project b (reader, member, manager), a reader of a where the route writes, and the manager of
another domain (identity) call the route: 403 or 404, and not one row of the database changes. Then somebody who may calls it, so that the
refusals were refusals of something that works. Children are tried under parents of one's own, too.
"""

import importlib
import re
from collections.abc import Iterator

import pytest

from kilonova.core.routing import Route
from kilonova.testing.asgi import Response
from tests.security import recipes
from tests.security.conftest import Dump, Run, World
from tests.security.recipes import Recipe, Values, key

SERVICES = ("identity", "image", "placement", "compute", "network")
STRANGERS = ("reader:b", "member:b", "manager:b")
OPEN = {
    "GET /extensions/{alias}": "a word of the API",
    "GET /v2.0/extensions/{alias}": "a word of the API",
    "GET /v2/schemas/{name:path}": "a word of the API",
    "GET /v3/regions/{region_id}": "OpenStack's rule is empty: regions are in every catalog",
    "GET /os-quota-sets/{project_id}/defaults": "the defaults of the cloud, the same for every project",
    "POST /v3/users/{user_id}/password": "who knows the old password proves himself with it; test_row_61_passwords tries without",
}
"""Routes that answer to strangers, each with the reason."""
TO_DOMAIN_MANAGERS = {"GET /v3/roles/{role_id}"}
"""What OpenStack lets managers of any domain read: they grant roles."""
READABLE_HERE = {"POST /servers/{server_id}/action os-getConsoleOutput"}
"""Of the requests that are no GET, those that a reader of the project may send."""
OWNERS_ANSWER = {
    "POST /servers/{server_id}/action os-start": 409,  # it runs
    "GET /servers/{server_id}/os-volume_attachments/{volume_id}": 404,  # it has none
    "DELETE /servers/{server_id}/os-volume_attachments/{volume_id}": 404,
    "GET /os-hypervisors/{hypervisor_id}/uptime": 501,  # of the fake driver
    "GET /os-hosts/{host_name}/reboot": 501,
    "GET /os-hosts/{host_name}/shutdown": 501,
    "GET /os-hosts/{host_name}/startup": 501,
}
"""What somebody who may is told where it is no success."""
GONE = 410


def routes(service: str) -> Iterator[Route]:
    for route in importlib.import_module(f"kilonova.{service}.routes").ROUTES:
        if "{" in route.path:
            yield route


def groups() -> Iterator[tuple[str, str]]:
    """(service, what the paths begin with): one test each."""
    seen: dict[tuple[str, str], None] = {}
    for service in SERVICES:
        for route in routes(service):
            seen[service, _group(route)] = None
    yield from seen


def _group(route: Route) -> str:
    parts = [p for p in route.path.split("{")[0].split("/") if p and not p.startswith("v")]
    return "/".join(parts)


def variables(route: Route) -> list[str]:
    return [v.removesuffix(":path") for v in re.findall(r"\{([^}]+)\}", route.path)]


async def call(w: World, service: str, route: Route, who: str, values: Values) -> Response:
    path = re.sub(r"\{([^}:]+)(:path)?\}", lambda m: values[m.group(1)], route.path)
    given, raw, headers = recipes.body(route, values)
    client = w.client(service, who, recipes.version(service, route))
    return await client.request(route.method, ("/v2.1" if service == "compute" else "") + path, given, headers, raw)


async def somebody_may(w: World, service: str, route: Route, values: Values, *, owner: str) -> None:
    """The project's member may, or else an admin."""
    wanted = 405 if route.handler.__name__ == "clear_too_early" else OWNERS_ANSWER.get(key(route))
    for who in (owner, "admin"):
        reply = await call(w, service, route, who, values)
        if reply.status not in (403, 404) or reply.status == wanted:
            break
    good = reply.status == wanted if wanted else reply.status < 400
    assert good, f"{key(route)}: the request of this test is refused to those who may, too: {reply}"
    await w.quiet()


async def refused(w: World, service: str, route: Route, values: Values, who: str, before: Dump) -> None:
    reply = await call(w, service, route, who, values)
    assert reply.status in (403, 404), f"{who} {key(route)}: {reply}"
    after = w.dump()
    assert after == before, (who, key(route), {t: (before[t], rows) for t, rows in after.items() if rows != before[t]})


async def mixed(w: World, service: str, route: Route, found: Recipe, mine: Values) -> None:
    """Somebody else's child under a parent of one's own: not there; and what is somebody else's stays as it is."""
    theirs = await found.make(w, "member:a")
    first, *rest = variables(route)
    values = {**mine, **{name: theirs[name] for name in rest}}
    foreign = {theirs[first], w.projects["a"]}
    before = _rows_of(w.dump(), foreign)
    reply = await call(w, service, route, "member:b", values)
    if route.method in ("GET", "HEAD", "DELETE"):
        assert reply.status in (403, 404), f"{key(route)} with a child of somebody else: {reply}"
    else:
        assert reply.status < 500, reply
    await w.quiet()
    assert _rows_of(w.dump(), foreign) == before, key(route)


def _rows_of(dump: Dump, marks: set[str]) -> Dump:
    return {table: [row for row in rows if any(mark in repr(row) for mark in marks)] for table, rows in dump.items()}


@pytest.mark.parametrize(("service", "group"), list(groups()))
def test_row_61_objects_of_others(run: Run, service: str, group: str) -> None:
    async def story(w: World) -> None:
        mine: dict[object, Values] = {}
        for route in routes(service):
            if _group(route) != group:
                continue
            found = recipes.recipe(service, route)
            assert found is not None, f"{service} {key(route)} is new: say in recipes.py what it is about"
            values = await found.make(w, "member:a")
            if found.make is recipes.nothing or route.handler.__name__ == "removed":
                for each in (*STRANGERS, "admin"):
                    assert (await call(w, service, route, each, values)).status == GONE, key(route)
                continue
            if key(route) in OPEN:
                assert (await call(w, service, route, "reader:b", values)).status < 400, key(route)
                continue
            before = w.dump()
            who = [*STRANGERS]
            if service == "identity" and key(route) not in TO_DOMAIN_MANAGERS:
                who.append("manager:other")
            if found.shared:
                who += ["reader:a", "member:a", "manager:a"] if not _readable(route) else []
            elif route.method not in ("GET", "HEAD") and key(route) not in READABLE_HERE:
                who.append("reader:a")
            for each in who:
                await refused(w, service, route, values, each, before)
            await somebody_may(w, service, route, values, owner="member:a")
            if len(variables(route)) > 1 and not found.shared:
                if found not in mine:
                    mine[found] = await found.make(w, "member:b")
                await mixed(w, service, route, found, mine[found])

    run(story)


def _readable(route: Route) -> bool:
    """Of the cloud's objects, those whose readers are the projects they were given to."""
    return route.path.startswith("/flavors/") and route.method == "GET"


def test_row_61_an_unknown_route_is_noticed() -> None:
    async def handler() -> None:
        """Nothing."""

    assert recipes.recipe("network", Route("GET", "/v2.0/firewalls/{firewall_id}", handler, "get_firewall")) is None
    with pytest.raises(recipes.NoBody):
        recipes.body(Route("POST", "/v2.0/firewalls/{firewall_id}/insert", handler, "insert", body=dict), {})


def test_row_61_passwords(run: Run) -> None:
    """POST /users/{id}/password needs no token, but the old password."""

    async def story(w: World) -> None:
        values = await recipes.user(w, "member:a")
        path = f"/v3/users/{values['user_id']}/password"
        before = w.dump()
        for wrong in ("", "PW", "pw ", "pw\0", "x" * 5000):
            body = {"user": {"password": "new", "original_password": wrong}}
            for client in (w.anonymous("identity"), w.client("identity", "manager:b"), w.client("identity")):
                assert (await client.post(path, body)).status == 401, wrong
        assert w.dump() == before

    run(story)
