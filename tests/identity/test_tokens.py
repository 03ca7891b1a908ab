"""Tokens: issue, scope, validate, revoke; what a change elsewhere does to them."""

from collections.abc import Callable
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from kilonova.core.runtime import Runtime
from kilonova.identity.domain.tokens import BadToken, TokenCodec, new_key
from kilonova.identity.model import Token

from .conftest import World

Run = Callable[[Any], None]
DEMO = {"project": {"name": "demo", "domain": {"id": "default"}}}


def test_a_project_token_has_roles_and_catalog(run: Run) -> None:
    async def story(w: World) -> None:
        admin = await w.admin()
        token = admin.headers["x-auth-token"]
        assert len(token) <= 255
        reply = await admin.with_headers(x_subject_token=token).get("/v3/auth/tokens")
        body = reply.json["token"]
        assert [r["name"] for r in body["roles"]] == ["admin", "manager", "member", "reader"]
        assert body["project"]["name"] == "admin"
        assert [s["type"] for s in body["catalog"]] == ["identity"]
        assert reply.headers["x-subject-token"] == token
        assert reply.headers["x-openstack-request-id"].startswith("req-")

    run(story)


def test_wrong_password_unknown_user_and_foreign_project_read_alike(run: Run) -> None:
    async def story(w: World) -> None:
        bodies = []
        for name, password, project in (
            ("admin", "no", "admin"),
            ("nobody", "x", "admin"),
            ("demo", "secret", "admin"),
            ("demo", "secret", "nope"),
        ):
            user = {"name": name, "password": password, "domain": {"id": "default"}}
            scope = {"project": {"name": project, "domain": {"id": "default"}}}
            reply = await w.anonymous.post(
                "/v3/auth/tokens", {"auth": {"identity": {"methods": ["password"], "password": {"user": user}}, "scope": scope}}
            )
            assert reply.status == 401
            assert reply.headers["www-authenticate"] == 'Keystone uri="http://localhost/v3"'
            bodies.append(reply.json)
        assert bodies == [bodies[0]] * 4

    run(story)


def test_revocation_works_on_the_next_call(run: Run) -> None:
    async def story(w: World) -> None:
        admin, demo = await w.admin(), await w.login("demo", "secret", DEMO)
        token = demo.headers["x-auth-token"]
        assert (await demo.get("/v3/auth/catalog")).status == 200
        assert (await admin.with_headers(x_subject_token=token).delete("/v3/auth/tokens")).status == 204
        assert (await demo.get("/v3/auth/catalog")).status == 401
        assert (await admin.with_headers(x_subject_token=token).get("/v3/auth/tokens")).status == 404

    run(story)


def test_a_disabled_user_and_a_changed_password_kill_tokens(run: Run) -> None:
    async def story(w: World) -> None:
        admin, demo = await w.admin(), await w.login("demo", "secret", DEMO)
        user = (await admin.get("/v3/users?name=demo")).json["users"][0]["id"]
        assert (await admin.patch(f"/v3/users/{user}", {"user": {"enabled": False}})).status == 200
        assert (await demo.get("/v3/auth/catalog")).status == 401
        assert (await admin.patch(f"/v3/users/{user}", {"user": {"enabled": True}})).status == 200
        assert (await demo.get("/v3/auth/catalog")).status == 401
        again = await w.login("demo", "secret", DEMO)
        body = {"user": {"password": "new", "original_password": "secret"}}
        assert (await w.anonymous.post(f"/v3/users/{user}/password", body)).status == 204
        assert (await again.get("/v3/auth/catalog")).status == 401
        assert (await w.anonymous.post(f"/v3/users/{user}/password", body)).status == 401
        await w.login("demo", "new", DEMO)

    run(story)


def test_rescoping_keeps_the_end_and_the_chain(run: Run) -> None:
    async def story(w: World) -> None:
        first = await w.login("admin", "secret")
        old = (await first.with_headers(x_subject_token=first.headers["x-auth-token"]).get("/v3/auth/tokens")).json["token"]
        assert "roles" not in old
        assert "catalog" not in old
        body = {
            "auth": {"identity": {"methods": ["token"], "token": {"id": first.headers["x-auth-token"]}}, "scope": {"system": {"all": True}}}
        }
        reply = await w.anonymous.post("/v3/auth/tokens", body)
        assert reply.status == 201
        new = reply.json["token"]
        assert new["expires_at"] == old["expires_at"]
        assert new["audit_ids"][1] == old["audit_ids"][0]
        assert new["system"] == {"all": True}
        assert sorted(new["methods"]) == ["password", "token"]

    run(story)


def test_a_member_sees_only_itself(run: Run) -> None:
    async def story(w: World) -> None:
        admin, demo = await w.admin(), await w.login("demo", "secret", DEMO)
        assert (await demo.get("/v3/users")).status == 403
        ids = {u["name"]: u["id"] for u in (await admin.get("/v3/users")).json["users"]}
        assert (await demo.get(f"/v3/users/{ids['demo']}")).status == 200
        assert (await demo.get(f"/v3/users/{ids['admin']}")).status == 403
        assert (await demo.get("/v3/users/nope")).status == 403
        assert (await demo.post("/v3/users", {"user": {"name": "x"}})).status == 403

    run(story)


def test_bad_bodies_say_which_field(run: Run) -> None:
    async def story(w: World) -> None:
        admin = await w.admin()
        reply = await admin.post("/v3/users", {"user": {"name": ""}})
        assert (reply.status, "field/attribute name" in reply.json["error"]["message"]) == (400, True)
        reply = await admin.post("/v3/users", {"user": {"name": 5}})
        assert (reply.status, "user.name" in reply.json["error"]["message"]) == (400, True)
        assert (await admin.request("POST", "/v3/users", raw=b"{")).status == 400
        assert (await admin.request("POST", "/v3/users", raw=b"[" * 100000)).status == 400
        assert (await admin.get("/v3/nope")).status == 404
        assert (await admin.put("/v3/users", {})).status == 405

    run(story)


tokens = st.builds(
    Token,
    user_id=st.one_of(st.uuids().map(lambda u: u.hex), st.text(min_size=1, max_size=40)),
    methods=st.lists(st.sampled_from(["password", "token"]), unique=True).map(lambda m: tuple(sorted(m))),
    scope=st.sampled_from(["unscoped", "project", "domain", "system"]),
    scope_id=st.text(max_size=40),
    issued_at=st.integers(0, 2**52),
    expires_at=st.integers(0, 2**52),
    audit_ids=st.just(("uWq0q2cuTDu-kj7hztVDtQ",)),
)


@given(tokens)
def test_a_token_says_what_was_sealed_in_it(token: Token) -> None:
    runtime = Runtime()
    keys = [new_key(runtime), new_key(runtime)]
    sealed = TokenCodec(keys[1:], runtime).seal(token)
    assert TokenCodec(keys, runtime).open(sealed) == token


@given(st.data())
def test_row_47_a_changed_token_is_never_accepted(data: st.DataObject) -> None:
    runtime = Runtime()
    codec = TokenCodec([new_key(runtime)], runtime)
    token = Token(user_id="a" * 32, methods=("password",), scope="project", scope_id="b" * 32, issued_at=1, expires_at=2, audit_ids=())
    sealed = bytearray(codec.seal(token).encode())
    at = data.draw(st.integers(0, len(sealed) - 3))
    sealed[at] ^= data.draw(st.integers(1, 127))
    try:
        codec.open(sealed.decode("latin-1"))
    except BadToken:
        return
    raise AssertionError("accepted")
