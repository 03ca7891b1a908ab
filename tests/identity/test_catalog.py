"""Services, endpoints and regions, and the catalog that tokens get."""

from collections.abc import Callable
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from kilonova.identity.domain import catalog

from .conftest import DEMO, World

Run = Callable[[Any], None]


async def _service(client: Any, **attributes: Any) -> Any:
    reply = await client.post("/v3/services", {"service": {"type": "dns", **attributes}})
    assert reply.status == 201, reply
    return reply.json["service"]


async def _endpoint(client: Any, service: Any, **attributes: Any) -> Any:
    body = {"service_id": service["id"], "interface": "public", "url": "http://dns/%(project_id)s", **attributes}
    return await client.post("/v3/endpoints", {"endpoint": body})


def test_services(run: Run) -> None:
    async def story(w: World) -> None:
        admin = await w.admin()
        made = await _service(admin, color="red")
        assert (made["name"], made["enabled"], made["color"], "description" in made) == ("", True, "red", False)
        path = f"/v3/services/{made['id']}"
        changed = (await admin.patch(path, {"service": {"name": "designate", "description": "DNS"}})).json["service"]
        assert (changed["name"], changed["description"], changed["type"], changed["color"]) == ("designate", "DNS", "dns", "red")
        assert [s["id"] for s in (await admin.get("/v3/services?type=dns")).json["services"]] == [made["id"]]
        assert (await admin.get("/v3/services?name=nope")).json["services"] == []
        assert (await admin.post("/v3/services", {"service": {"name": "x"}})).status == 400
        assert (await admin.post("/v3/services", {"service": {"type": "x", "enabled": "true"}})).status == 400
        endpoint = (await _endpoint(admin, made)).json["endpoint"]
        assert (await admin.delete(path)).status == 204
        assert (await admin.delete(path)).status == 404
        assert (await admin.patch(path, {"service": {"name": "x"}})).status == 404
        assert (await admin.get(f"/v3/endpoints/{endpoint['id']}")).status == 404, "its endpoints go with it"

    run(story)


def test_endpoints(run: Run) -> None:
    async def story(w: World) -> None:
        admin, demo = await w.admin(), await w.login("demo", "secret", DEMO)
        service = await _service(admin)
        reply = await _endpoint(admin, service, region="Moon", color="red")
        made = reply.json["endpoint"]
        assert (made["region"], made["region_id"], made["color"], made["enabled"]) == ("Moon", "Moon", "red", True)
        assert (await admin.get("/v3/regions/Moon")).status == 200, "the older name makes the region"
        path = f"/v3/endpoints/{made['id']}"
        for wrong in (
            {"service_id": "zz"},
            {"interface": "foo"},
            {"region_id": "nope"},
            {"url": "no url"},
            {"url": "http://x/$(admin_token)s"},
            {"url": "http://x/%(secret)s"},
            {"enabled": "yes"},
        ):
            assert (await _endpoint(admin, service, **wrong)).status == 400, wrong
        assert (await admin.patch(path, {"endpoint": {"url": "http://x/%(admin_token)s"}})).status == 400

        async def urls(client: Any) -> list[str]:
            entries = (await client.get("/v3/auth/catalog")).json["catalog"]
            return [e["url"] for s in entries if s["type"] == "dns" for e in s["endpoints"]]

        own = (await demo.get("/v3/auth/projects")).json["projects"][0]["id"]
        assert await urls(demo) == [f"http://dns/{own}"]
        unscoped = await w.login("demo", "secret")
        assert await urls(unscoped) == []
        assert (await admin.patch(path, {"endpoint": {"url": "http://dns", "region_id": None}})).json["endpoint"]["region"] is None
        assert await urls(demo) == ["http://dns"]
        assert await urls(unscoped) == ["http://dns"]
        assert (await admin.patch(path, {"endpoint": {"enabled": False}})).status == 200
        assert await urls(demo) == []
        listed = (await admin.get(f"/v3/endpoints?service_id={service['id']}&interface=public")).json["endpoints"]
        assert [e["id"] for e in listed] == [made["id"]]
        assert (await admin.get(f"/v3/endpoints?service_id={service['id']}&interface=admin")).json["endpoints"] == []
        assert (await admin.delete(path)).status == 204
        assert (await admin.delete(path)).status == 404
        assert (await demo.get("/v3/endpoints")).status == 403

    run(story)


def test_regions(run: Run) -> None:
    async def story(w: World) -> None:
        admin, demo = await w.admin(), await w.login("demo", "secret", DEMO)
        made = (await admin.post("/v3/regions", {"region": {"description": "d", "color": "red"}})).json["region"]
        assert (len(made["id"]), made["parent_region_id"], made["color"]) == (32, None, "red")
        for ident, parent in (("a", made["id"]), ("b", "a")):
            assert (await admin.put(f"/v3/regions/{ident}", {"region": {"parent_region_id": parent}})).status == 201
        assert (await admin.put("/v3/regions/a", {"region": {}})).status == 409
        assert (await admin.put("/v3/regions/c", {"region": {"id": "d"}})).status == 400
        assert (await admin.post("/v3/regions", {"region": {"id": "x", "parent_region_id": "nope"}})).status == 404
        assert (await admin.patch("/v3/regions/a", {"region": {"parent_region_id": "b"}})).status == 400, "a circle"
        assert (await admin.patch("/v3/regions/a", {"region": {"parent_region_id": "a"}})).status == 400
        assert (await admin.patch("/v3/regions/b", {"region": {"description": "x"}})).json["region"]["parent_region_id"] == "a"
        assert [r["id"] for r in (await demo.get("/v3/regions?parent_region_id=a")).json["regions"]] == ["b"]
        assert (await demo.get("/v3/regions/a")).status == 200
        assert (await demo.delete("/v3/regions/a")).status == 403
        service = await _service(admin)
        endpoint = (await _endpoint(admin, service, region_id="b")).json["endpoint"]
        reply = await admin.delete("/v3/regions/a")
        assert reply.status == 403
        assert "associated endpoints" in reply.json["error"]["message"]
        assert (await admin.get("/v3/regions/a")).status == 200
        assert (await admin.delete(f"/v3/endpoints/{endpoint['id']}")).status == 204
        assert (await admin.delete("/v3/regions/a")).status == 204
        assert (await admin.get("/v3/regions/b")).status == 404
        assert (await admin.delete("/v3/regions/a")).status == 404

    run(story)


@given(
    st.lists(
        st.sampled_from(["%(project_id)s", "$(tenant_id)s", "%(user_id)s", "%(password)s", "$(admin_token)s", "/", "%", "$(", ")s", "x"])
    )
)
def test_row_57_nothing_but_ids_is_put_into_urls(parts: list[str]) -> None:
    url = "http://h/" + "".join(parts)
    listing = [{"id": "s", "type": "t", "name": "n", "endpoints": [{"id": "e", "url": url}]}]
    filled = catalog.fill(listing, "PROJECT", "USER")
    if catalog.fillable(url):
        text = filled[0]["endpoints"][0]["url"]
        assert text.count("PROJECT") == url.count("(project_id)s") + url.count("$(tenant_id)s")
    else:
        assert filled == [], "left out rather than half filled"
    if "(project_id)s" in url:
        assert catalog.fill(listing, None, "USER") == []


def test_discovery(run: Run) -> None:
    async def story(w: World) -> None:
        root = await w.anonymous.get("/")
        assert (root.status, root.headers["location"]) == (300, "http://localhost/v3/")
        version = (await w.anonymous.get("/v3/")).json["version"]
        assert root.json["versions"]["values"] == [version]
        home = await w.anonymous.get("/v3", headers={"accept": "application/json-home"})
        assert home.headers["content-type"] == "application/json-home"
        resources = home.json["resources"]
        user_role = resources["https://docs.openstack.org/api/openstack-identity/3/rel/domain_user_role"]
        assert user_role["href-template"] == "/domains/{domain_id}/users/{user_id}/roles/{role_id}"
        assert len(resources) > 40

    run(story)
