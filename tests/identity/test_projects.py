"""Projects, their tree, their tags, and the domains that hold them."""

import asyncio
from collections.abc import Callable
from typing import Any

from kilonova.testing.asgi import Response

from .conftest import DEMO, World, make, role

Run = Callable[[Any], None]


def said(reply: Response) -> tuple[int, str]:
    return reply.status, reply.json["error"]["message"]


def test_a_project_lives_keeps_unknown_attributes_and_dies(run: Run) -> None:
    async def story(w: World) -> None:
        admin = await w.admin()
        project = await make(admin, "project", description="d", color="red", enabled="False")
        assert (project["color"], project["enabled"], project["parent_id"], project["domain_id"]) == ("red", False, "default", "default")
        path = f"/v3/projects/{project['id']}"
        changed = (await admin.patch(path, {"project": {"name": " new ", "size": 3, "enabled": True}})).json["project"]
        assert (changed["name"], changed["extra"], changed["description"]) == ("new", {"color": "red", "size": 3}, "d")
        shown = (await admin.get(path)).json["project"]
        assert (shown["color"], shown["size"], shown["enabled"], "extra" in shown) == ("red", 3, True, False)
        assert (await admin.delete(path)).status == 204
        assert said(await admin.get(path)) == (404, f"Could not find project: {project['id']}.")
        assert (await admin.delete(path)).status == 404

    run(story)


def test_names_are_unique_in_a_domain(run: Run) -> None:
    async def story(w: World) -> None:
        admin = await w.admin()
        domain = await make(admin, "domain")
        one = await make(admin, "project", name="same")
        other = await make(admin, "project", name="same", domain_id=domain["id"])
        assert other["domain_id"] == other["parent_id"] == domain["id"]
        reply = await admin.post("/v3/projects", {"project": {"name": "same"}})
        assert reply.status == 409
        assert "name is same" in reply.json["error"]["message"]
        third = await make(admin, "project")
        assert (await admin.patch(f"/v3/projects/{third['id']}", {"project": {"name": "same"}})).status == 409
        assert (await admin.get(f"/v3/projects/{one['id']}")).json["project"]["name"] == "same"
        assert (await admin.post("/v3/domains", {"domain": {"name": domain["name"]}})).status == 409

    run(story)


def test_what_a_project_may_not_be(run: Run) -> None:
    async def story(w: World) -> None:
        admin = await w.admin()
        domain, project = await make(admin, "domain"), await make(admin, "project")
        for body, status in (
            ({}, 400),
            ({"name": ""}, 400),
            ({"name": "   "}, 400),
            ({"name": "x" * 65}, 400),
            ({"name": 5}, 400),
            ({"name": "x", "enabled": "maybe"}, 400),
            ({"name": "x", "tags": ["a", "a"]}, 400),
            ({"name": "x", "tags": ["a,b"]}, 400),
            ({"name": "x", "options": {"colour": 1}}, 400),
            ({"name": "x", "domain_id": "nope"}, 404),
            ({"name": "x", "parent_id": "nope"}, 404),
            ({"name": "x", "parent_id": project["id"], "domain_id": domain["id"]}, 400),
            ({"name": "x", "is_domain": True, "domain_id": domain["id"]}, 400),
        ):
            reply = await admin.post("/v3/projects", {"project": body})
            assert reply.status == status, (body, reply)
        path = f"/v3/projects/{project['id']}"
        assert (await admin.patch(path, {"project": {"domain_id": domain["id"]}})).status == 400
        assert (await admin.patch(path, {"project": {"is_domain": True}})).status == 400
        assert (await admin.patch(path, {"project": {"parent_id": domain["id"]}})).status == 403

    run(story)


def test_the_tree_has_a_depth_and_guards_its_branches(run: Run) -> None:
    async def story(w: World) -> None:
        admin = await w.admin()
        line = [await make(admin, "project")]
        for _ in range(4):
            line.append(await make(admin, "project", parent_id=line[-1]["id"]))
        reply = await admin.post("/v3/projects", {"project": {"name": "deep", "parent_id": line[-1]["id"]}})
        assert said(reply) == (403, "Max hierarchy depth reached for deep branch.")
        paths = [f"/v3/projects/{p['id']}" for p in line]
        assert (await admin.delete(paths[0])).status == 403, "not a leaf"
        assert (await admin.patch(paths[3], {"project": {"enabled": False}})).status == 403, "a child is enabled"
        assert (await admin.patch(paths[4], {"project": {"enabled": False}})).status == 200
        assert (await admin.patch(paths[3], {"project": {"enabled": False}})).status == 200
        assert (await admin.patch(paths[4], {"project": {"enabled": True}})).status == 403, "the parent is disabled"
        assert (await admin.post("/v3/projects", {"project": {"name": "x", "parent_id": line[3]["id"]}})).status == 400
        up = (await admin.get(f"{paths[2]}?parents_as_ids")).json["project"]["parents"]
        assert up == {line[1]["id"]: {line[0]["id"]: {"default": None}}}
        down = (await admin.get(f"{paths[2]}?subtree_as_ids")).json["project"]["subtree"]
        assert down == {line[3]["id"]: {line[4]["id"]: None}}
        assert (await admin.get(f"{paths[4]}?subtree_as_ids")).json["project"]["subtree"] is None
        assert (await admin.get(f"{paths[2]}?subtree_as_list")).json["project"]["subtree"] == [], "the caller has no role there"
        admin_id = (await admin.get("/v3/users?name=admin")).json["users"][0]["id"]
        await admin.put(f"{paths[4]}/users/{admin_id}/roles/{await role(admin, 'reader')}")
        listed = (await admin.get(f"{paths[2]}?subtree_as_list")).json["project"]["subtree"]
        assert [p["project"]["id"] for p in listed] == [line[4]["id"]]

    run(story)


def test_lists_filter_and_page(run: Run) -> None:
    async def story(w: World) -> None:
        admin = await w.admin()
        for name, tags in (("ab1", ["x"]), ("ab2", ["x", "y"]), ("AB3", ["z"])):
            await make(admin, "project", name=name, tags=tags, enabled=name != "ab2")

        async def names(query: str) -> list[str]:
            return sorted(p["name"] for p in (await admin.get(f"/v3/projects?{query}")).json["projects"])

        assert await names("name__startswith=ab") == ["ab1", "ab2"]
        assert await names("name__istartswith=ab") == ["AB3", "ab1", "ab2"]
        assert await names("name__icontains=b3") == ["AB3"]
        assert await names("name__endswith=2") == ["ab2"]
        assert await names("name__istartswith=ab&enabled=false") == ["ab2"]
        assert await names("name__istartswith=ab&enabled") == ["AB3", "ab1"]
        assert await names("tags=x") == ["ab1", "ab2"]
        assert await names("tags=x,y") == ["ab2"]
        assert await names("tags-any=y,z") == ["AB3", "ab2"]
        assert await names("name__istartswith=ab&not-tags=x,y") == ["AB3", "ab1"]
        assert await names("name__istartswith=ab&not-tags-any=x,y") == ["AB3"]
        assert await names("is_domain=true") == ["Default"]
        seen, url = [], "/v3/projects?limit=2&name__icontains=b"
        while url:
            page = (await admin.get(url)).json
            seen += [p["name"] for p in page["projects"]]
            assert ("truncated" in page) == (page["links"]["next"] is not None)
            url = (page["links"]["next"] or "").removeprefix("http://localhost")
        assert sorted(seen) == ["AB3", "ab1", "ab2"]

    run(story)


def test_tags(run: Run) -> None:
    async def story(w: World) -> None:
        admin = await w.admin()
        path = f"/v3/projects/{(await make(admin, 'project'))['id']}/tags"
        assert (await admin.put(path, {"tags": ["b", "a"]})).json["tags"] == ["a", "b"]
        added = await admin.put(f"{path}/c%20d")
        assert (added.status, added.body) == (201, b"")
        assert added.headers["location"].endswith("/tags/c%20d")
        assert (await admin.put(f"{path}/a")).status == 201
        assert (await admin.get(f"{path}/c%20d")).status == 204
        assert said(await admin.get(f"{path}/zz")) == (404, "Could not find project tag: zz.")
        assert (await admin.put(f"{path}/x%2Cy")).status == 400
        assert (await admin.delete(f"{path}/b")).status == 204
        assert (await admin.delete(f"{path}/b")).status == 404
        assert (await admin.get(path)).json["tags"] == ["a", "c d"]
        await asyncio.gather(*(admin.put(f"{path}/t{i}") for i in range(20)))
        assert len((await admin.get(path)).json["tags"]) == 22, "no writer undoes another"
        assert (await admin.put(path, {"tags": [str(i) for i in range(81)]})).status == 400
        assert (await admin.put(path, {"tags": [], "more": 1})).status == 400
        assert (await admin.delete(path)).status == 204
        assert (await admin.get(path)).json["tags"] == []

    run(story)


def test_a_deleted_project_takes_grants_and_defaults_along(run: Run) -> None:
    async def story(w: World) -> None:
        admin = await w.admin()
        project = await make(admin, "project")
        user = await make(admin, "user", password="pw", default_project_id=project["id"])
        path = f"/v3/projects/{project['id']}"
        assert (await admin.put(f"{path}/users/{user['id']}/roles/{await role(admin, 'member')}")).status == 204
        them = await w.login(user["name"], "pw")
        assert (await them.get(path)).status == 200, "the default project is the scope"
        assert (await admin.delete(path)).status == 204
        assert (await them.get("/v3/auth/projects")).status == 401
        assert (await admin.get(f"/v3/role_assignments?user.id={user['id']}")).json["role_assignments"] == []
        assert "default_project_id" not in (await admin.get(f"/v3/users/{user['id']}")).json["user"]

    run(story)


def test_immutable_projects_and_domains(run: Run) -> None:
    async def story(w: World) -> None:
        admin = await w.admin()
        for kind in ("project", "domain"):
            noun = await make(admin, kind, options={"immutable": True})
            path = f"/v3/{kind}s/{noun['id']}"
            assert said(await admin.delete(path))[0] == 403
            assert "immutable" in said(await admin.patch(path, {kind: {"description": "x"}}))[1]
            assert (await admin.patch(path, {kind: {"options": {"immutable": False}, "enabled": False}})).status == 403
            assert (await admin.patch(path, {kind: {"options": {"immutable": False}}})).json[kind]["options"] == {"immutable": False}
            assert (await admin.patch(path, {kind: {"enabled": False, "options": {"immutable": None}}})).json[kind]["options"] == {}
            assert (await admin.delete(path)).status == 204

    run(story)


def test_a_domain_goes_with_all_that_is_in_it(run: Run) -> None:
    async def story(w: World) -> None:
        admin = await w.admin()
        domain = await make(admin, "domain", explicit_domain_id="d" * 32)
        assert domain["id"] == "d" * 32
        inside = {"domain_id": domain["id"]}
        top = await make(admin, "project", **inside)
        below = await make(admin, "project", parent_id=top["id"], **inside)
        user, group = await make(admin, "user", password="pw", **inside), await make(admin, "group", **inside)
        own = await make(admin, "role", **inside)
        outsider = await make(admin, "user")
        member = await role(admin, "member")
        assert (await admin.put(f"/v3/projects/{below['id']}/users/{user['id']}/roles/{member}")).status == 204
        assert (await admin.put(f"/v3/domains/{domain['id']}/users/{outsider['id']}/roles/{member}")).status == 204
        assert (await admin.put(f"/v3/groups/{group['id']}/users/{outsider['id']}")).status == 204
        them = await w.login(user["name"], "pw", {"project": {"id": below["id"]}}, domain=domain["id"])
        path = f"/v3/domains/{domain['id']}"
        assert said(await admin.delete(path)) == (403, "Cannot delete a domain that is enabled, please disable it first.")
        assert (await admin.patch(path, {"domain": {"enabled": False}})).status == 200
        assert (await them.get("/v3/auth/catalog")).status == 401
        assert (await w.try_login(user["name"], "pw", domain=domain["id"])).status == 401
        assert (await admin.delete(path)).status == 204
        gone = (path, f"/v3/projects/{below['id']}", f"/v3/users/{user['id']}", f"/v3/groups/{group['id']}", f"/v3/roles/{own['id']}")
        for where in gone:
            assert (await admin.get(where)).status == 404, where
        assert (await admin.get(f"/v3/role_assignments?user.id={outsider['id']}")).json["role_assignments"] == []
        assert (await admin.get(f"/v3/users/{outsider['id']}/groups")).json["groups"] == []

    run(story)


def test_a_project_may_act_as_a_domain(run: Run) -> None:
    async def story(w: World) -> None:
        admin = await w.admin()
        domain = await make(admin, "project", is_domain=True, domain_id=None)
        assert (domain["is_domain"], domain["domain_id"], domain["parent_id"]) == (True, None, None)
        assert (await admin.get(f"/v3/domains/{domain['id']}")).json["domain"]["name"] == domain["name"]
        await make(admin, "user", domain_id=domain["id"])
        assert (await admin.get("/v3/domains/" + (await make(admin, "project"))["id"])).status == 404
        assert (await admin.delete(f"/v3/projects/{domain['id']}")).status == 403
        assert (await admin.patch(f"/v3/projects/{domain['id']}", {"project": {"enabled": False}})).status == 200
        assert (await admin.delete(f"/v3/projects/{domain['id']}")).status == 204
        assert (await admin.post("/v3/domains", {"domain": {"name": "n", "explicit_domain_id": "None"}})).status == 400

    run(story)


def test_a_domain_manager_rules_in_his_domain_only(run: Run) -> None:
    async def story(w: World) -> None:
        admin = await w.admin()
        mine, foreign = await make(admin, "domain"), await make(admin, "domain")
        user = await make(admin, "user", domain_id=mine["id"], password="pw")
        manager, member = await role(admin, "manager"), await role(admin, "member")
        assert (await admin.put(f"/v3/domains/{mine['id']}/users/{user['id']}/roles/{manager}")).status == 204
        boss = await w.login(user["name"], "pw", {"domain": {"id": mine["id"]}}, domain=mine["id"])
        project = await make(boss, "project")
        assert project["domain_id"] == mine["id"], "his domain is the default"
        other = await make(admin, "project", domain_id=foreign["id"])
        somebody, stranger = await make(boss, "user"), await make(admin, "user", domain_id=foreign["id"])
        for kind in ("project", "user", "group"):
            assert (await boss.post(f"/v3/{kind}s", {kind: {"name": "x", "domain_id": foreign["id"]}})).status == 403
        assert (await boss.get(f"/v3/projects/{other['id']}")).status == 403
        assert (await boss.delete(f"/v3/projects/{other['id']}")).status == 403
        assert [p["id"] for p in (await boss.get("/v3/projects")).json["projects"]] == [project["id"]]
        assert {u["domain_id"] for u in (await boss.get("/v3/users")).json["users"]} == {mine["id"]}
        assert (await boss.get(f"/v3/users?domain_id={foreign['id']}")).json["users"] == []
        assert [d["id"] for d in (await boss.get("/v3/domains")).json["domains"]] == [mine["id"]]
        assert (await boss.post("/v3/domains", {"domain": {"name": "x"}})).status == 403
        grants = f"/v3/projects/{project['id']}/users"
        assert (await boss.put(f"{grants}/{somebody['id']}/roles/{member}")).status == 204
        assert (await boss.put(f"{grants}/{somebody['id']}/roles/{await role(admin, 'admin')}")).status == 403, "only up to manager"
        assert (await boss.put(f"{grants}/{stranger['id']}/roles/{member}")).status == 403
        assert (await boss.put(f"/v3/projects/{other['id']}/users/{somebody['id']}/roles/{member}")).status == 403
        assert (await boss.put(f"/v3/system/users/{somebody['id']}/roles/{member}")).status == 403

    run(story)


def test_a_member_sees_his_own_project_only(run: Run) -> None:
    async def story(w: World) -> None:
        admin, demo = await w.admin(), await w.login("demo", "secret", DEMO)
        own = (await demo.get("/v3/auth/projects")).json["projects"]
        assert [p["name"] for p in own] == ["demo"]
        path = f"/v3/projects/{own[0]['id']}"
        assert (await demo.get(path)).status == 200
        assert (await demo.get(f"{path}/tags")).status == 200
        foreign = await make(admin, "project")
        for where in ("/v3/projects", f"/v3/projects/{foreign['id']}", "/v3/projects/nope"):
            assert (await demo.get(where)).status == 403, where
        for method, body in (("PATCH", {"project": {"name": "x"}}), ("DELETE", None)):
            assert (await demo.request(method, path, body)).status == 403
        assert (await demo.put(f"{path}/tags/x")).status == 403

    run(story)
