"""The list of assignments: filters, names, and that what it calls effective is what tokens hold."""

from collections.abc import Callable
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from kilonova.identity.domain.grants import RoleTable, below
from kilonova.identity.domain.role_assignments import effective
from kilonova.identity.model import Assignment, Role

from .conftest import DEMO, World, make, role

Run = Callable[[Any], None]


def test_filters_and_names(run: Run) -> None:
    async def story(w: World) -> None:
        admin = await w.admin()
        domain = await make(admin, "domain")
        project = await make(admin, "project", domain_id=domain["id"])
        child = await make(admin, "project", domain_id=domain["id"], parent_id=project["id"])
        user, group = await make(admin, "user"), await make(admin, "group")
        member, reader = await role(admin, "member"), await role(admin, "reader")
        await admin.put(f"/v3/groups/{group['id']}/users/{user['id']}")
        for path in (
            f"projects/{project['id']}/users/{user['id']}/roles/{member}",
            f"projects/{child['id']}/groups/{group['id']}/roles/{reader}",
            f"domains/{domain['id']}/users/{user['id']}/roles/{reader}",
            f"system/users/{user['id']}/roles/{reader}",
            f"OS-INHERIT/projects/{project['id']}/groups/{group['id']}/roles/{member}/inherited_to_projects",
        ):
            assert (await admin.put(f"/v3/{path}")).status == 204

        async def found(query: str) -> list[str]:
            """actor@target:role for each line"""
            nouns = {user["id"]: "user", group["id"]: "group", project["id"]: "project", child["id"]: "child", domain["id"]: "domain"}
            nouns |= {member: "member", reader: "reader"}
            out = []
            for line in (await admin.get(f"/v3/role_assignments?{query}")).json["role_assignments"]:
                actor = line.get("user") or line.get("group")
                scope = line["scope"].get("project") or line["scope"].get("domain") or {"id": "system"}
                out.append(f"{nouns.get(actor['id'], '?')}@{nouns.get(scope['id'], scope['id'])}:{nouns.get(line['role']['id'], '?')}")
            return sorted(out)

        assert await found(f"user.id={user['id']}") == ["user@domain:reader", "user@project:member", "user@system:reader"]
        assert await found(f"group.id={group['id']}") == ["group@child:reader", "group@project:member"]
        assert await found(f"scope.project.id={project['id']}") == ["group@project:member", "user@project:member"]
        assert await found(f"scope.domain.id={domain['id']}") == ["user@domain:reader"]
        assert await found(f"scope.system=all&user.id={user['id']}") == ["user@system:reader"]
        assert await found(f"role.id={member}&user.id={user['id']}") == ["user@project:member"]
        assert await found("scope.OS-INHERIT:inherited_to=projects") == ["group@project:member"]
        both = ["group@child:reader", "group@project:member", "user@project:member"]
        assert await found(f"include_subtree&scope.project.id={project['id']}") == both
        assert await found(f"effective&scope.project.id={child['id']}") == ["user@child:member", "user@child:reader", "user@child:reader"]
        assert await found(f"effective&user.id={user['id']}&scope.system=all") == ["user@system:reader"]
        for wrong in (
            f"user.id={user['id']}&group.id={group['id']}",
            f"scope.project.id={project['id']}&scope.domain.id={domain['id']}",
            "effective&group.id=x",
            "effective&scope.domain.id=x&scope.OS-INHERIT:inherited_to=projects",
            "scope.OS-INHERIT:inherited_to=servers",
            "include_subtree",
        ):
            assert (await admin.get(f"/v3/role_assignments?{wrong}")).status == 400, wrong
        assert (await admin.get("/v3/role_assignments?include_subtree&scope.project.id=nope")).status == 404

        named = (await admin.get(f"/v3/role_assignments?include_names&scope.project.id={project['id']}&user.id={user['id']}")).json
        line = named["role_assignments"][0]
        assert line["user"] == {"id": user["id"], "name": user["name"], "domain": {"id": "default", "name": "Default"}}
        assert line["scope"]["project"]["domain"] == {"id": domain["id"], "name": domain["name"]}
        assert line["role"] == {"id": member, "name": "member"}
        inherited = (await admin.get(f"/v3/role_assignments?effective&scope.project.id={child['id']}")).json["role_assignments"]
        direct = next(a for a in inherited if a["role"]["id"] == member)
        assert direct["links"] == {
            "assignment": f"http://localhost/v3/OS-INHERIT/projects/{project['id']}/groups/{group['id']}/roles/{member}/inherited_to_projects",
            "membership": f"http://localhost/v3/groups/{group['id']}/users/{user['id']}",
        }
        assert "OS-INHERIT:inherited_to" not in direct["scope"]

    run(story)


def test_who_may_list(run: Run) -> None:
    async def story(w: World) -> None:
        admin, demo = await w.admin(), await w.login("demo", "secret", DEMO)
        own = (await demo.get("/v3/auth/projects")).json["projects"][0]["id"]
        assert (await demo.get("/v3/role_assignments")).status == 403
        assert (await demo.get(f"/v3/role_assignments?include_subtree&scope.project.id={own}")).status == 403
        domain = await make(admin, "domain")
        project, user = await make(admin, "project", domain_id=domain["id"]), await make(admin, "user", password="pw")
        reader = await role(admin, "reader")
        await admin.put(f"/v3/projects/{project['id']}/users/{user['id']}/roles/{reader}")
        await admin.put(f"/v3/domains/{domain['id']}/users/{user['id']}/roles/{reader}")
        them = await w.login(user["name"], "pw", {"domain": {"id": domain["id"]}})
        scopes = [a["scope"] for a in (await them.get("/v3/role_assignments")).json["role_assignments"]]
        assert sorted(next(iter(s)) for s in scopes) == ["domain", "project"], "of his domain only"
        assert (await them.get(f"/v3/role_assignments?include_subtree&scope.project.id={project['id']}")).status == 200
        assert (await them.get(f"/v3/role_assignments?include_subtree&scope.project.id={own}")).status == 403

    run(story)


ROLES = {
    name: Role(id=name, name=name, domain_id="d" if name == "local" else None, description=None, options={}, extra={})
    for name in ("admin", "member", "reader", "local")
}
TABLE = RoleTable(
    ROLES,
    {"admin": ("admin", "member", "reader"), "member": ("member", "reader"), "reader": ("reader",), "local": ("local", "reader")},
    {"admin": ("member",), "member": ("reader",), "local": ("reader",)},
)
TREE = [("p", "d", "d"), ("q", "p", "d"), ("x", "e", "e")]
MEMBERS = {"g": ["u", "v"], "h": []}
grants = st.builds(
    Assignment,
    actor_type=st.sampled_from(["user", "group"]),
    actor_id=st.sampled_from(["u", "v", "g", "h"]),
    target_type=st.just("project"),
    target_id=st.sampled_from(["p", "q", "x"]),
    role_id=st.sampled_from(sorted(ROLES)),
    inherited=st.booleans(),
)


@given(st.lists(grants, max_size=8))
@settings(max_examples=200)
def test_effective_is_what_a_token_would_hold(found: list[Assignment]) -> None:
    listed = {(h.actor_id, h.target_id, h.role_id) for h in effective(found, MEMBERS, TREE, TABLE)}
    expected = set()
    for user in ("u", "v", "g", "h"):
        mine = {("user", user), *(("group", g) for g, users in MEMBERS.items() if user in users)}
        for project, _, _ in TREE:
            direct = [
                a.role_id
                for a in found
                if (a.actor_type, a.actor_id) in mine and (project in below(TREE, [a.target_id]) if a.inherited else a.target_id == project)
            ]
            expected |= {(user, project, r.id) for r in TABLE.expand(direct)}
    assert listed == expected
