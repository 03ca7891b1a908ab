"""Grants on projects, domains and the system, for users and groups, here and inherited."""

from collections.abc import Callable
from typing import Any

import pytest

from kilonova.identity.domain.grants import below

from .conftest import DEMO, World, make, role, token_of

Run = Callable[[Any], None]


@pytest.mark.parametrize("actor", ["user", "group"])
@pytest.mark.parametrize("target", ["projects", "domains", "system"])
@pytest.mark.parametrize("inherited", [False, True])
def test_every_grant_can_be_made_seen_and_taken_back(run: Run, actor: str, target: str, inherited: bool) -> None:
    if inherited and target == "system":
        return

    async def story(w: World) -> None:
        admin = await w.admin()
        who = await make(admin, actor)
        where = "system" if target == "system" else f"{target}/{(await make(admin, target[:-1]))['id']}"
        front, end = ("/v3/OS-INHERIT", "/inherited_to_projects") if inherited else ("/v3", "")
        listing = f"{front}/{where}/{actor}s/{who['id']}/roles"
        ident = await role(admin, "member")
        path = f"{listing}/{ident}{end}"
        other = f"/v3/{where}/{actor}s/{who['id']}/roles/{ident}" if inherited else None
        assert (await admin.get(path)).status == 404
        assert (await admin.delete(path)).status == 404
        for _ in range(2):
            assert (await admin.put(path)).status == 204
        assert (await admin.request("HEAD", path)).status == 204
        if other:
            assert (await admin.get(other)).status == 404, "an inherited grant is another one"
        if not (inherited and target == "projects"):
            assert [r["name"] for r in (await admin.get(listing + end)).json["roles"]] == ["member"]
        found = (await admin.get(f"/v3/role_assignments?{actor}.id={who['id']}")).json["role_assignments"]
        assert [a["links"]["assignment"] for a in found] == [f"http://localhost{path}"]
        assert ("OS-INHERIT:inherited_to" in found[0]["scope"]) == inherited
        assert (await admin.delete(path)).status == 204
        assert (await admin.get(path)).status == 404
        for wrong in (path.replace(ident, "nope"), path.replace(who["id"], "nope")):
            assert (await admin.put(wrong)).status == 404, wrong
        if target != "system":
            assert (await admin.put(path.replace(where.partition("/")[2], "nope"))).status == 404

    run(story)


def test_inherited_roles_reach_what_is_below_and_only_that(run: Run) -> None:
    async def story(w: World) -> None:
        admin = await w.admin()
        domain = await make(admin, "domain")
        top = await make(admin, "project", domain_id=domain["id"])
        child = await make(admin, "project", domain_id=domain["id"], parent_id=top["id"])
        user = await make(admin, "user", password="pw")
        member = await role(admin, "member")
        grant = f"/v3/OS-INHERIT/projects/{top['id']}/users/{user['id']}/roles/{member}/inherited_to_projects"
        assert (await admin.put(grant)).status == 204
        assert (await w.try_login(user["name"], "pw", {"project": {"id": top["id"]}})).status == 401, "not the project itself"
        them = await w.login(user["name"], "pw", {"project": {"id": child["id"]}})
        assert [p["id"] for p in (await them.get("/v3/auth/projects")).json["projects"]] == [child["id"]]
        assert (await admin.delete(grant)).status == 204
        assert (await them.get("/v3/auth/projects")).status == 401
        grant = f"/v3/OS-INHERIT/domains/{domain['id']}/users/{user['id']}/roles/{member}/inherited_to_projects"
        assert (await admin.put(grant)).status == 204
        assert (await w.try_login(user["name"], "pw", {"domain": {"id": domain["id"]}})).status == 401, "not the domain itself"
        for project in (top, child):
            them = await w.login(user["name"], "pw", {"project": {"id": project["id"]}})
            assert sorted(r["name"] for r in (await token_of(admin, them))["roles"]) == ["member", "reader"]
        assert {p["id"] for p in (await them.get("/v3/auth/projects")).json["projects"]} == {top["id"], child["id"]}
        later = await make(admin, "project", domain_id=domain["id"])
        await w.login(user["name"], "pw", {"project": {"id": later["id"]}})

    run(story)


def test_a_member_may_neither_see_nor_make_grants(run: Run) -> None:
    async def story(w: World) -> None:
        admin, demo = await w.admin(), await w.login("demo", "secret", DEMO)
        me = (await admin.get("/v3/users?name=demo")).json["users"][0]["id"]
        own = (await demo.get("/v3/auth/projects")).json["projects"][0]["id"]
        ident = await role(admin, "admin")
        for path in (f"/v3/projects/{own}/users/{me}/roles", f"/v3/domains/default/users/{me}/roles", f"/v3/system/users/{me}/roles"):
            assert (await demo.get(path)).status == 403, path
            for method in ("PUT", "GET", "DELETE"):
                assert (await demo.request(method, f"{path}/{ident}")).status == 403, path
                assert (await demo.request(method, f"{path}/nope")).status == 403, "what exists is not told"

    run(story)


def test_below_follows_parents_and_domains() -> None:
    tree = [("a", "d", "d"), ("b", "a", "d"), ("c", "b", "d"), ("x", "e", "e"), ("odd", "gone", "d")]
    assert below(tree, ["d"]) == ["a", "b", "c", "odd"]
    assert below(tree, ["a"]) == ["b", "c"]
    assert below(tree, ["c", "e"]) == ["x"]
    assert below(tree, []) == []
