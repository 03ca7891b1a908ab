"""Roles of the cloud and of domains, and implication."""

from collections.abc import Callable
from typing import Any

from .conftest import DEMO, World, make, role, token_of

Run = Callable[[Any], None]


def test_a_role_lives_and_dies(run: Run) -> None:
    async def story(w: World) -> None:
        admin = await w.admin()
        made = await make(admin, "role", description="d")
        path = f"/v3/roles/{made['id']}"
        assert (made["domain_id"], made["options"]) == (None, {})
        changed = (await admin.patch(path, {"role": {"name": "other", "options": {"immutable": True}}})).json["role"]
        assert (changed["name"], changed["description"], changed["options"]) == ("other", "d", {"immutable": True})
        assert (await admin.delete(path)).status == 403
        assert (await admin.patch(path, {"role": {"name": "third"}})).status == 403
        assert (await admin.patch(path, {"role": {"options": {"immutable": False}}})).status == 200
        assert (await admin.post("/v3/roles", {"role": {"name": "other"}})).status == 409
        assert (await admin.post("/v3/roles", {"role": {"name": "x", "options": {"nope": 1}}})).status == 400
        assert (await admin.post("/v3/roles", {"role": {}})).status == 400
        assert (await admin.delete(path)).status == 204
        assert (await admin.get(path)).status == 404
        reply = await admin.delete(f"/v3/roles/{await role(admin, 'admin')}")
        assert (reply.status, 'Set resource option "immutable" to false first.' in reply.json["error"]["message"]) == (403, True)

    run(story)


def test_domain_roles_have_names_of_their_own_and_stay_out_of_tokens(run: Run) -> None:
    async def story(w: World) -> None:
        admin = await w.admin()
        domain, foreign = await make(admin, "domain"), await make(admin, "domain")
        own = await make(admin, "role", name="boss", domain_id=domain["id"])
        await make(admin, "role", name="boss", domain_id=foreign["id"])
        await make(admin, "role", name="boss")
        assert (await admin.post("/v3/roles", {"role": {"name": "boss", "domain_id": domain["id"]}})).status == 409
        assert (await admin.post("/v3/roles", {"role": {"name": "boss", "domain_id": "zz"}})).status == 404
        listed = (await admin.get(f"/v3/roles?domain_id={domain['id']}")).json["roles"]
        assert [r["id"] for r in listed] == [own["id"]]
        assert own["id"] not in [r["id"] for r in (await admin.get("/v3/roles")).json["roles"]]
        assert (await admin.patch(f"/v3/roles/{own['id']}", {"role": {"domain_id": None}})).status == 400
        project = await make(admin, "project", domain_id=domain["id"])
        elsewhere = await make(admin, "project")
        user = await make(admin, "user", password="pw")
        assert (await admin.put(f"/v3/projects/{elsewhere['id']}/users/{user['id']}/roles/{own['id']}")).status == 403
        assert (await admin.put(f"/v3/domains/{foreign['id']}/users/{user['id']}/roles/{own['id']}")).status == 403
        assert (await admin.put(f"/v3/system/users/{user['id']}/roles/{own['id']}")).status == 403
        assert (await admin.put(f"/v3/projects/{project['id']}/users/{user['id']}/roles/{own['id']}")).status == 204
        scope = {"project": {"id": project["id"]}}
        assert (await w.try_login(user["name"], "pw", scope)).status == 401, "the role gives nothing by itself"
        assert (await admin.put(f"/v3/roles/{own['id']}/implies/{await role(admin, 'member')}")).status == 201
        them = await w.login(user["name"], "pw", scope)
        assert sorted(r["name"] for r in (await token_of(admin, them))["roles"]) == ["member", "reader"]
        effective = (await admin.get(f"/v3/role_assignments?effective&user.id={user['id']}")).json["role_assignments"]
        assert own["id"] not in [a["role"]["id"] for a in effective]
        assert len(effective) == 2

    run(story)


def test_implication(run: Run) -> None:
    async def story(w: World) -> None:
        admin = await w.admin()
        one, two = await make(admin, "role"), await make(admin, "role")
        path = f"/v3/roles/{one['id']}/implies"
        made = await admin.put(f"{path}/{two['id']}")
        assert made.status == 201
        assert made.json["role_inference"]["implies"]["name"] == two["name"]
        assert (await admin.put(f"{path}/{two['id']}")).status == 201
        assert (await admin.get(f"{path}/{two['id']}")).json == made.json
        head = await admin.request("HEAD", f"{path}/{two['id']}")
        assert (head.status, head.body) == (204, b"")
        assert [r["id"] for r in (await admin.get(path)).json["role_inference"]["implies"]] == [two["id"]]
        rules = (await admin.get("/v3/role_inferences")).json["role_inferences"]
        assert {r["prior_role"]["name"] for r in rules} == {"admin", "manager", "member", one["name"]}
        assert (await admin.put(f"{path}/{await role(admin, 'admin')}")).status == 403
        assert (await admin.put(f"{path}/nope")).status == 404
        assert (await admin.put(f"/v3/roles/{two['id']}/implies/{one['id']}")).status == 201, "a circle does no harm"
        project, user = await make(admin, "project"), await make(admin, "user", password="pw")
        assert (await admin.put(f"/v3/projects/{project['id']}/users/{user['id']}/roles/{two['id']}")).status == 204
        them = await w.login(user["name"], "pw", {"project": {"id": project["id"]}})
        assert {r["name"] for r in (await token_of(admin, them))["roles"]} == {one["name"], two["name"]}
        assert (await admin.delete(f"/v3/roles/{two['id']}/implies/{one['id']}")).status == 204
        assert (await admin.delete(f"/v3/roles/{two['id']}/implies/{one['id']}")).status == 404
        assert [r["name"] for r in (await token_of(admin, them))["roles"]] == [two["name"]], "at once"
        assert (await admin.delete(f"/v3/roles/{two['id']}")).status == 204
        assert (await admin.get(path)).json["role_inference"]["implies"] == []
        assert (await them.get("/v3/auth/catalog")).status == 401, "the only role is gone"

    run(story)


def test_a_member_may_do_nothing_with_roles(run: Run) -> None:
    async def story(w: World) -> None:
        admin, demo = await w.admin(), await w.login("demo", "secret", DEMO)
        ident = await role(admin, "member")
        for path in ("/v3/roles", f"/v3/roles/{ident}", "/v3/roles/nope", f"/v3/roles/{ident}/implies", "/v3/role_inferences"):
            assert (await demo.get(path)).status == 403, path
        assert (await demo.post("/v3/roles", {"role": {"name": "x"}})).status == 403
        assert (await demo.put(f"/v3/roles/{ident}/implies/{ident}")).status == 403

    run(story)
