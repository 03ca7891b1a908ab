"""Networks over the API."""

from collections.abc import Callable

from .conftest import World, failed

Run = Callable[..., None]
NOWHERE = "11111111-1111-1111-1111-111111111111"


def test_life_of_a_network(run: Run) -> None:
    async def story(w: World) -> None:
        user = w.client()
        net = await user.create("networks", name="n")
        assert (net["status"], net["project_id"], net["tenant_id"], net["mtu"], net["subnets"]) == ("ACTIVE", "p1", "p1", 1450, [])
        assert (net["revision_number"], net["shared"], net["router:external"]) == (1, False, False)
        assert "provider:network_type" not in net
        seen = await w.client("admin:admin").get("networks", net["id"])
        assert (seen["provider:network_type"], seen["provider:physical_network"]) == ("vxlan", None)
        assert seen["provider:segmentation_id"] > 0
        changed = await user.put("networks", net["id"], name="m", admin_state_up="false")
        assert (changed["name"], changed["admin_state_up"], changed["revision_number"]) == ("m", False, 2)
        subnet = await user.create("subnets", network_id=net["id"], cidr="10.0.0.0/24", ip_version=4)
        after = await user.get("networks", net["id"])
        assert (after["subnets"], after["revision_number"]) == ([subnet["id"]], 3)
        await user.delete("networks", net["id"])
        failed(await user.client.get(f"/v2.0/networks/{net['id']}"), 404, "NetworkNotFound", net["id"])
        failed(await user.client.get(f"/v2.0/subnets/{subnet['id']}"), 404, "SubnetNotFound")
        assert await w.client("admin:admin").list("ports") == []
        details = await user.get("quotas", "p1/details")
        assert [details[name]["used"] for name in ("network", "subnet", "port")] == [0, 0, 0]

    run(story)


def test_bulk_is_all_or_nothing(run: Run) -> None:
    async def story(w: World) -> None:
        user = w.client()
        reply = await user.client.post("/v2.0/networks", {"networks": [{"name": "a"}, {"name": "b"}]})
        assert (reply.status, [n["name"] for n in reply.json["networks"]]) == (201, ["a", "b"])
        await w.client("admin:admin").put("quotas", "p1", network=3)
        reply = await user.client.post("/v2.0/networks", {"networks": [{"name": "c"}, {"name": "d"}]})
        failed(reply, 409, "OverQuota", "Quota exceeded for resources: ['network'].")
        assert [n["name"] for n in await user.list("networks")] == ["a", "b"]
        failed(await user.client.post("/v2.0/networks", {"networks": []}), 400)

    run(story)


def test_bad_bodies(run: Run) -> None:
    async def story(w: World) -> None:
        client = w.client().client
        post = client.post
        failed(await post("/v2.0/networks", {"network": {"nome": "x"}}), 400, "HTTPBadRequest", "Unrecognized attribute(s) 'nome'")
        failed(
            await post("/v2.0/networks", {"network": {"status": "ACTIVE"}}), 400, "HTTPBadRequest", "Attribute 'status' not allowed in POST"
        )
        failed(
            await post("/v2.0/networks", {"network": {"name": 5}}),
            400,
            "HTTPBadRequest",
            "Invalid input for name. Reason: '5' is not a valid string",
        )
        failed(await post("/v2.0/networks", {"network": {"name": "x" * 256}}), 400, words="exceeds maximum length of 255")
        failed(await post("/v2.0/networks", {"network": {"admin_state_up": "maybe"}}), 400, words="cannot be converted to boolean")
        failed(await post("/v2.0/networks", {"netwerk": {}}), 400, "HTTPBadRequest", "Unable to find 'network' in request body")
        failed(await post("/v2.0/networks", {"network": []}), 400)
        failed(await post("/v2.0/networks", {"network": {"mtu": 1451}}), 400, "InvalidInput", "maximum is 1450")
        failed(await client.request("POST", "/v2.0/networks", raw=b"{"), 400, "HTTPBadRequest")
        reply = await post("/v2.0/networks", {"network": {"project_id": "p2"}})
        failed(reply, 400, words="requires admin privileges")
        net = await w.client().create("networks", name="n")
        failed(
            await client.put(f"/v2.0/networks/{net['id']}", {"network": {"id": NOWHERE}}), 400, words="Cannot update read-only attribute id"
        )
        failed(await client.put(f"/v2.0/networks/{net['id']}", {"network": {"tags": []}}), 400)

    run(story)


def test_others_do_not_see_it(run: Run) -> None:
    async def story(w: World) -> None:
        user, other, reader = w.client(), w.client("member:p2"), w.client("reader:p1")
        net = await user.create("networks", name="n")
        path = f"/v2.0/networks/{net['id']}"
        failed(await other.client.get(path), 404, "NetworkNotFound")
        failed(await other.client.put(path, {"network": {"name": "x"}}), 404)
        failed(await other.client.delete(path), 404)
        assert await other.list("networks") == []
        assert await other.list("networks", "?project_id=p1") == []
        assert await other.list("networks", f"?id={net['id']}") == []
        assert (await reader.get("networks", net["id"]))["name"] == "n"
        failed(await reader.client.put(path, {"network": {"name": "x"}}), 403, "PolicyNotAuthorized", "update_network")
        failed(await reader.client.delete(path), 403, "PolicyNotAuthorized")
        failed(await reader.client.post("/v2.0/networks", {"network": {}}), 403, "PolicyNotAuthorized")

    run(story)


def test_shared_external_and_provider_are_for_admins(run: Run) -> None:
    async def story(w: World) -> None:
        user, admin, other = w.client(), w.client("admin:admin"), w.client("member:p2")
        for values in (
            {"shared": True},
            {"router:external": True},
            {"is_default": True},
            {"provider:network_type": "flat", "provider:physical_network": "x"},
            {"provider:segmentation_id": 5},
        ):
            failed(await user.client.post("/v2.0/networks", {"network": values}), 403, "PolicyNotAuthorized")
        mine = await user.create("networks", shared=False)
        failed(await user.client.put(f"/v2.0/networks/{mine['id']}", {"network": {"shared": True}}), 403, "PolicyNotAuthorized")
        await admin.put("networks", mine["id"], shared=True)
        assert [n["id"] for n in await other.list("networks")] == [mine["id"]]
        failed(await other.client.put(f"/v2.0/networks/{mine['id']}", {"network": {"name": "x"}}), 403)
        flat = {"provider:network_type": "flat", "provider:physical_network": "provider"}
        ext = await admin.create("networks", name="ext", **{"router:external": True}, **flat)
        assert (ext["mtu"], ext["provider:physical_network"]) == (1500, "provider")
        failed(await admin.client.post("/v2.0/networks", {"network": flat}), 409, "FlatNetworkInUse")
        assert ext["id"] in [n["id"] for n in await other.list("networks", "?router:external=True")]
        assert "provider:network_type" not in (await other.get("networks", ext["id"]))
        vni = {"provider:network_type": "vxlan", "provider:segmentation_id": 77}
        await admin.create("networks", **vni)
        failed(await admin.client.post("/v2.0/networks", {"network": vni}), 409)
        failed(await admin.client.post("/v2.0/networks", {"network": {"provider:network_type": "gre"}}), 400, "InvalidInput")

    run(story)


def test_revisions_guard_changes(run: Run) -> None:
    async def story(w: World) -> None:
        user = w.client()
        net = await user.create("networks", name="n")
        path = f"/v2.0/networks/{net['id']}"
        guarded = {"If-Match": "revision_number=1"}
        assert (await user.client.put(path, {"network": {"name": "a"}}, headers=guarded)).status == 200
        reply = await user.client.put(path, {"network": {"name": "b"}}, headers=guarded)
        failed(reply, 412, "RevisionNumberConstraintFailed", "Constrained to 1, but current revision is 2")
        failed(await user.client.delete(path, headers=guarded), 412)
        failed(await user.client.delete(path, headers={"If-Match": "revision_number=x"}), 400)
        assert (await user.client.delete(path, headers={"If-Match": "revision_number=2"})).status == 204

    run(story)


def test_a_network_with_ports_stays(run: Run) -> None:
    async def story(w: World) -> None:
        user = w.client()
        net = await user.network()
        port = await user.create("ports", network_id=net["id"])
        failed(await user.client.delete(f"/v2.0/networks/{net['id']}"), 409, "NetworkInUse", port["id"])
        await user.delete("ports", port["id"])
        await user.delete("networks", net["id"])

    run(story)


def test_filters_fields_order_and_pages(run: Run) -> None:
    async def story(w: World) -> None:
        user = w.client()
        for name in ("c", "a", "e", "b", "d"):
            await user.create("networks", name=name, admin_state_up=name != "e", tags=["odd"] if name in "ace" else ["even", "x"])

        async def names(query: str) -> list[str]:
            return [n["name"] for n in await user.list("networks", query)]

        assert await names("") == ["c", "a", "e", "b", "d"]
        assert await names("?name=a&name=b") == ["a", "b"]
        assert await names("?admin_state_up=False") == ["e"]
        assert await names("?name=") == []
        assert await names("?sort_key=name&sort_dir=desc") == ["e", "d", "c", "b", "a"]
        assert await names("?tags=odd") == ["c", "a", "e"]
        assert await names("?tags=even,x") == ["b", "d"]
        assert await names("?tags-any=odd,x") == ["c", "a", "e", "b", "d"]
        assert await names("?not-tags=odd") == ["b", "d"]
        assert await names("?not-tags-any=odd,x") == []
        assert await names("?unknown=1&tags=odd&name=a") == ["a"]
        assert await names("?changed_since=2999-01-01T00:00:00") == []
        only = await user.list("networks", "?fields=id&fields=name&name=a")
        assert [sorted(n) for n in only] == [["id", "name"]]
        seen, url = [], "/v2.0/networks?limit=2"
        while url:
            body = (await user.client.get(url)).json
            seen += [n["name"] for n in body["networks"]]
            links = {link["rel"]: link["href"] for link in body.get("networks_links", [])}
            url = links.get("next", "").removeprefix("http://localhost")
        assert seen == ["c", "a", "e", "b", "d"]
        back = (await user.client.get(links["previous"].removeprefix("http://localhost"))).json
        assert [n["name"] for n in back["networks"]] == ["e", "b"]
        body = (await user.client.get("/v2.0/networks?limit=2&sort_key=name")).json
        marker = body["networks"][-1]["id"]
        assert await names(f"?limit=2&sort_key=name&marker={marker}") == ["c", "d"]
        for bad in ("?sort_key=subnets", "?sort_key=name&sort_dir=up", "?sort_key=name&sort_dir=asc&sort_dir=asc", "?limit=x", "?limit=-1"):
            failed(await user.client.get(f"/v2.0/networks{bad}"), 400)
        failed(await user.client.get(f"/v2.0/networks?limit=2&marker={NOWHERE}"), 400)
        failed(await user.client.get("/v2.0/networks?changed_since=soon"), 400)

    run(story)


def test_discovery(run: Run) -> None:
    async def story(w: World) -> None:
        user = w.client()
        anonymous = user.client.with_headers(x_auth_token="")
        reply = await anonymous.get("/")
        assert reply.json["versions"][0] == {
            "id": "v2.0",
            "status": "CURRENT",
            "links": [{"rel": "self", "href": "http://localhost/v2.0/"}],
        }
        assert (await anonymous.get("/v2.0/networks")).status == 401
        assert (await user.client.get("/v2.0")).status == 404
        names = {r["name"] for r in (await user.client.get("/v2.0/")).json["resources"]}
        assert {"network", "subnet", "port"} <= names
        extensions = (await user.client.get("/v2.0/extensions.json")).json["extensions"]
        assert {"alias", "name", "description", "updated", "links"} == set(extensions[0])
        assert {"router", "security-group", "quotas", "binding"} <= {e["alias"] for e in extensions}
        assert (await user.client.get("/v2.0/extensions/router")).json["extension"]["alias"] == "router"
        failed(await user.client.get("/v2.0/extensions/none"), 404)
        assert (await user.client.get("/v2.0/networks.json")).json == {"networks": []}
        assert (await user.client.get("/v2.0/nothing")).status == 404
        assert (await user.client.post("/v2.0/extensions", {})).status == 405

    run(story)
