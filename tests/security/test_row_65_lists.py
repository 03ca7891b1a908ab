"""OSSN-0103 and its like: whatever a user asks a list for, it shows nothing of another project; and no answer tells a host's name (row 68).

Every GET of every service is asked, from the route tables.
"""

import importlib
import re

from kilonova.core.routing import Route
from kilonova.testing.cloud import expect
from tests.security import recipes
from tests.security.conftest import Run, World
from tests.security.recipes import key

SERVICES = ("identity", "image", "placement", "compute", "network")
QUERIES = (
    "", "project_id={a}", "tenant_id={a}", "tenant={a}", "owner={a}", "all_tenants=1", "all_tenants=True&tenant_id={a}",
    "all_projects=true", "all_projects=true&project_id={a}", "all-tenants=1", "project={a}", "user_id={user}", "user={user}",
    "visibility=all", "visibility=private&owner={a}", "member_status=all", "is_public=None", "is_public=false", "shared=false",
    "id={network}", "id={port}", "id={image}", "uuid={server}", "device_id={server}", "network_id={network}", "marker={server}",
    "marker={image}", "marker={network}", "name={name}", "host=host-1", "deleted=1", "changes-since=2000-01-01T00:00:00Z", "detailed=1",
    "scope.project.id={a}", "effective&include_names=true&scope.project.id={a}", "domain_id=default", "all_tenants=1&project_id={a}",
)  # fmt: skip


def listings(service: str) -> list[Route]:
    found = []
    for route in importlib.import_module(f"kilonova.{service}.routes").ROUTES:
        if route.method == "GET" and "{" not in route.path and route.handler.__name__ != "removed":
            found.append(route)
    return found


class Marks:
    """One of everything in project a; the ids by what they are."""

    def __init__(self, w: World) -> None:
        self.ids: dict[str, str] = {"a": w.projects["a"], "user": w.users["member:a"]}

    async def make(self, w: World) -> "Marks":
        self.ids["server"] = await w.server(name="private-of-a")
        self.ids["image"] = await w.image(visibility="private")
        self.ids["network"], self.ids["subnet"] = await w.network()
        self.ids["port"] = await w.make("ports", network_id=self.ids["network"], name="private-of-a")
        self.ids["router"] = (await recipes.bare_router(w, "member:a"))["router_id"]
        self.ids["floatingip"] = (await recipes.floating_ip(w, "member:a"))["floatingip_id"]
        self.ids["group"] = await w.make("security-groups", name="private-of-a")
        self.ids["rule"] = (await recipes.rule(w, "member:a"))["rule_id"]
        self.ids["subnetpool"] = await w.make("subnetpools", name="private-of-a", prefixes=["10.40.0.0/16"])
        self.ids["keypair"] = (await recipes.keypair(w, "member:a"))["keypair_name"]
        self.ids["flavor"] = (await recipes.flavor(w, "member:a"))["flavor_id"]
        self.ids["name"] = "private-of-a"
        return self

    @property
    def secret(self) -> list[str]:
        """What must never be shown to project b. The ids of the project and of its user are what b asks for: answers may repeat them."""
        return [value for name, value in self.ids.items() if name not in ("a", "user", "name")]


def test_row_65_filters_open_nothing(run: Run) -> None:
    async def story(w: World) -> None:
        marks = await Marks(w).make(w)
        asked = 0
        for who in ("member:b", "manager:b", "reader:b"):
            for service in SERVICES:
                client = w.client(service, who)
                for route in listings(service):
                    path = ("/v2.1" if service == "compute" else "") + route.path
                    old = w.client(service, who, recipes.version(service, route)) if route.until < (2, 100) else client
                    for query in QUERIES:
                        reply = await old.get(f"{path}?{query.format_map(marks.ids)}")
                        asked += 1
                        assert reply.status < 500, (who, key(route), query, reply)
                        if reply.status < 400:
                            text = reply.body.decode()
                            shown = [mark for mark in marks.secret if mark in _without_links(text)]
                            assert not shown, (who, key(route), query, shown)
        assert asked > 3000

    run(story)


def _without_links(text: str) -> str:
    """Links to the next page repeat the query."""
    return re.sub(r'"(href|next|first|self)":\s*"[^"]*"', "", text)


def test_row_65_an_admin_sees_what_the_marks_stand_for(run: Run) -> None:
    """The twin of the test above: the objects are in the lists, for those who may."""

    async def story(w: World) -> None:
        marks = await Marks(w).make(w)
        text = ""
        for service in ("image", "compute", "network"):
            for route in listings(service):
                path = ("/v2.1" if service == "compute" else "") + route.path
                for query in ("", "all_tenants=1", "is_public=None", f"user_id={marks.ids['user']}"):
                    reply = await w.client(service).get(f"{path}?{query}")
                    text += reply.body.decode() if reply.status < 400 else ""
        assert [mark for mark in marks.secret if mark not in text] == []

    run(story)


def test_row_66_a_project_in_the_url_is_that_of_the_token(run: Run) -> None:
    """CVE-2012-0030."""

    async def story(w: World) -> None:
        await w.server()
        member = w.client("compute", "member:b")
        for path in ("servers", "servers/detail", "flavors", "limits"):
            assert (await member.get(f"/v2.1/{w.projects['b']}/{path}")).status == 200
            assert (await member.get(f"/v2.1/{w.projects['a']}/{path}")).status == 400
            assert (await w.client("compute", "manager:b").get(f"/v2.1/{w.projects['a']}/{path}")).status == 400

    run(story)


def test_row_68_host_names_are_for_admins(run: Run) -> None:
    """Hosts have names that occur nowhere else; users of every role read all there is about servers and ports of their own."""

    async def story(w: World) -> None:
        hosts = {h["hypervisor_hostname"] for h in expect(await w.client("compute").get("/v2.1/os-hypervisors"), 200)["hypervisors"]}
        assert hosts == {"host-1", "host-2"}
        values = await recipes.server(w, "member:a")
        broken = await _no_valid_host(w)
        for who in ("reader:a", "member:a", "manager:a"):
            for service in SERVICES:
                for route in importlib.import_module(f"kilonova.{service}.routes").ROUTES:
                    if route.method != "GET" or route.handler.__name__ == "removed":
                        continue
                    for server_id in (values["server_id"], broken):
                        path = _path(route, {**values, "server_id": server_id})
                        client = w.client(service, who, recipes.version(service, route))
                        reply = await client.get(("/v2.1" if service == "compute" else "") + path)
                        found = [host for host in hosts if host in reply.body.decode("latin-1")]
                        assert not found, (who, key(route), reply)

    run(story, hosts=2)


async def _no_valid_host(w: World) -> str:
    """A server that no host can take."""
    flavor = {"flavor": {"name": "huge", "ram": 10_000_000, "vcpus": 1, "disk": 1, "id": "huge"}}
    expect(await w.client("compute").post("/v2.1/flavors", flavor), 200)
    wanted = {"name": "huge", "imageRef": w.ids["image"], "flavorRef": "huge", "networks": "none"}
    server_id: str = expect(await w.client("compute", "member:a").post("/v2.1/servers", {"server": wanted}), 202)["server"]["id"]
    server = await w.until(server_id, "ERROR")
    assert "host-1" in server["fault"]["message"], "an admin reads why each host was refused"
    return server_id


def _path(route: Route, values: dict[str, str]) -> str:
    return re.sub(r"\{([^}:]+)(:path)?\}", lambda m: values.get(m.group(1), "x"), route.path)


def test_row_68_host_ids_differ_by_project(run: Run) -> None:
    async def story(w: World) -> None:
        ids = {}
        for project in ("a", "b"):
            server_id = await w.server(f"member:{project}")
            server = expect(await w.client("compute", f"member:{project}").get(f"/v2.1/servers/{server_id}"), 200)["server"]
            ids[project] = server["hostId"]
            assert re.fullmatch("[0-9a-f]{56}", server["hostId"])
            assert not [field for field in server if field.startswith("OS-EXT-SRV-ATTR:") and field != "OS-EXT-SRV-ATTR:hostname"]
        assert ids["a"] != ids["b"]

    run(story, hosts=1)
