"""Groups and who is in them."""

from collections.abc import Callable
from typing import Any

from .conftest import DEMO, World, make, role, token_of

Run = Callable[[Any], None]


def test_a_group_lives_and_dies(run: Run) -> None:
    async def story(w: World) -> None:
        admin = await w.admin()
        group = await make(admin, "group", name=" g ", description="d", color="red")
        assert (group["name"], group["description"], group["domain_id"], group["color"]) == ("g", "d", "default", "red")
        path = f"/v3/groups/{group['id']}"
        changed = (await admin.patch(path, {"group": {"name": "h", "size": 1}})).json["group"]
        assert (changed["name"], changed["description"], changed["extra"]) == ("h", "d", {"color": "red", "size": 1})
        assert (await admin.post("/v3/groups", {"group": {"name": "h"}})).status == 409
        other = await make(admin, "group")
        assert (await admin.patch(f"/v3/groups/{other['id']}", {"group": {"name": "h"}})).status == 409
        assert (await admin.patch(path, {"group": {"domain_id": "other"}})).status == 400
        assert (await admin.post("/v3/groups", {"group": {"name": "x", "domain_id": "zz"}})).status == 404
        assert [g["id"] for g in (await admin.get("/v3/groups?name=h")).json["groups"]] == [group["id"]]
        assert (await admin.delete(path)).status == 204
        assert (await admin.get(path)).status == 404

    run(story)


def test_membership(run: Run) -> None:
    async def story(w: World) -> None:
        admin = await w.admin()
        group, one, two = await make(admin, "group"), await make(admin, "user"), await make(admin, "user", enabled=False)
        path = f"/v3/groups/{group['id']}/users"
        assert (await admin.get(f"{path}/{one['id']}")).status == 404
        for user in (one, two, one):
            assert (await admin.put(f"{path}/{user['id']}")).status == 204
        assert (await admin.request("HEAD", f"{path}/{one['id']}")).status == 204
        assert {u["id"] for u in (await admin.get(path)).json["users"]} == {one["id"], two["id"]}
        assert [u["id"] for u in (await admin.get(f"{path}?enabled=false")).json["users"]] == [two["id"]]
        groups = (await admin.get(f"/v3/users/{one['id']}/groups")).json["groups"]
        assert [(g["id"], g["membership_expires_at"]) for g in groups] == [(group["id"], None)]
        assert (await admin.put(f"{path}/nope")).status == 404
        assert (await admin.put(f"/v3/groups/nope/users/{one['id']}")).status == 404
        assert (await admin.delete(f"{path}/{one['id']}")).status == 204
        assert (await admin.delete(f"{path}/{one['id']}")).status == 404
        assert (await admin.delete(f"/v3/users/{two['id']}")).status == 204
        assert (await admin.get(path)).json["users"] == []

    run(story)


def test_roles_come_and_go_with_membership(run: Run) -> None:
    async def story(w: World) -> None:
        admin = await w.admin()
        group, project = await make(admin, "group"), await make(admin, "project")
        user = await make(admin, "user", password="pw")
        scope = {"project": {"id": project["id"]}}
        grant = f"/v3/projects/{project['id']}/groups/{group['id']}/roles/{await role(admin, 'member')}"
        assert (await admin.put(grant)).status == 204
        assert (await w.try_login(user["name"], "pw", scope)).status == 401
        assert (await admin.put(f"/v3/groups/{group['id']}/users/{user['id']}")).status == 204
        them = await w.login(user["name"], "pw", scope)
        assert sorted(r["name"] for r in (await token_of(admin, them))["roles"]) == ["member", "reader"]
        assert (await admin.delete(f"/v3/groups/{group['id']}/users/{user['id']}")).status == 204
        reply = await admin.with_headers(x_subject_token=them.headers["x-auth-token"]).get("/v3/auth/tokens")
        assert reply.status == 404
        assert (await w.try_login(user["name"], "pw", scope)).status == 401
        assert (await admin.put(f"/v3/groups/{group['id']}/users/{user['id']}")).status == 204
        again = await w.login(user["name"], "pw", scope)
        assert (await admin.delete(f"/v3/groups/{group['id']}")).status == 204
        assert (await again.get("/v3/auth/catalog")).status == 401
        assert (await admin.get(f"/v3/role_assignments?scope.project.id={project['id']}")).json["role_assignments"] == []

    run(story)


def test_a_member_sees_his_own_groups_only(run: Run) -> None:
    async def story(w: World) -> None:
        admin, demo = await w.admin(), await w.login("demo", "secret", DEMO)
        ids = {u["name"]: u["id"] for u in (await admin.get("/v3/users")).json["users"]}
        group = await make(admin, "group")
        assert (await demo.get(f"/v3/users/{ids['demo']}/groups")).status == 200
        for path in (
            f"/v3/users/{ids['admin']}/groups",
            "/v3/users/nope/groups",
            "/v3/groups",
            f"/v3/groups/{group['id']}",
            "/v3/groups/nope",
        ):
            assert (await demo.get(path)).status == 403, path
        assert (await demo.put(f"/v3/groups/{group['id']}/users/{ids['demo']}")).status == 403
        assert (await demo.post("/v3/groups", {"group": {"name": "x"}})).status == 403

    run(story)
