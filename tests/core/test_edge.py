"""One request through the edge of a service that does nothing."""

import asyncio
import io
import json
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kilonova.core.context import Context
from kilonova.core.edge import Edge, invalid
from kilonova.core.envelopes import TITLES, shared_401
from kilonova.core.errors import Conflict, Error, NotFound, Unauthorized, Unavailable
from kilonova.core.http import Reply, Request
from kilonova.core.log import Log, Sink
from kilonova.core.microversions import Microversions
from kilonova.core.policy import Policy, Rule
from kilonova.core.routing import ANY_TOKEN, PUBLIC, Route
from kilonova.core.runtime import Runtime
from kilonova.testing.asgi import Client, Response
from kilonova.testing.tokens import FakeTokens, context


class Plain:
    """An envelope that shows what it was given."""

    def error(self, request: Request, error: Error) -> Reply:
        body = {"message": error.message, "code": error.status, "title": TITLES.get(error.status), "kind": error.code}
        return Reply(body, error.status, error.headers)

    def unknown_path(self, request: Request) -> Reply:
        return Reply({"message": "unknown path"}, 404)

    def wrong_method(self, request: Request, allowed: list[str]) -> Reply:
        return Reply({"message": "wrong method"}, 405, {"allow": ", ".join(allowed)})

    def unauthorized(self, request: Request, error: Error, identity_url: str) -> Reply:
        return shared_401(identity_url)


class Busy(Unavailable):
    code = "test.busy"
    title = "Come back later, {name}."

    @property
    def headers(self) -> dict[str, str]:
        return {"retry-after": "7"}


class Made(msgspec.Struct, forbid_unknown_fields=True):
    name: str
    size: int = 0


class Create(msgspec.Struct):
    thing: Made


class CreateNew(Create):
    since_2_5: bool = False


async def show(c: Any, ctx: Context, req: Request) -> Any:
    return {"user": ctx.user_id, "roles": list(ctx.roles), "version": req.version, "prefix": req.prefix, "base": req.base_url}


async def thing(c: Any, ctx: Context, req: Request, thing_id: str) -> Any:
    owner = {"mine": ctx.project_id, "theirs": "other"}.get(thing_id)
    req.authorize("thing:show", {"project_id": owner}, otherwise=NotFound("No such thing."))
    return {"thing": thing_id}


async def forgetful(c: Any, ctx: Context, req: Request) -> Any:
    return {"secret": 1}


async def create(c: Any, ctx: Context, req: Request, body: Create) -> Any:
    return {"name": body.thing.name, "kind": type(body).__name__}


async def act(c: Any, ctx: Context, req: Request, thing_id: str, body: Any) -> Any:
    return {"acted": thing_id, "body": msgspec.to_builtins(body)}


async def newer(c: Any, ctx: Context, req: Request) -> str:
    return "new"


async def explode(c: Any, ctx: Context, req: Request) -> Any:
    raise RuntimeError("the password is hunter2, at /srv/secret/path.py")


async def busy(c: Any, ctx: Context, req: Request) -> Any:
    raise Busy(name="Ann")


async def clash(c: Any, ctx: Context, req: Request) -> Any:
    raise Conflict("It is taken.")


async def headers(c: Any, ctx: Context, req: Request) -> Reply:
    return Reply(None, 204, {"location": "http://x/\r\nset-cookie: a=b", "x-name": "snow\u2603"})


async def pieces(c: Any, ctx: Context, req: Request) -> Reply:
    async def stream() -> AsyncIterator[bytes]:
        yield b"one "
        yield b"two"

    return Reply(stream(), 200, content_type="application/octet-stream")


async def upload(c: Any, ctx: Context, req: Request) -> Any:
    return {"bytes": sum([len(piece) async for piece in req.stream()])}


async def query(c: Any, ctx: Context, req: Request) -> Any:
    return {"all": req.query, "last": req.one("a"), "every": req.every("a")}


class Freeze(msgspec.Struct):
    freeze: int


class Thaw(msgspec.Struct):
    thaw: str | None


RULES = (
    Rule("admin", "role:admin"),
    Rule("thing:show", "rule:admin or project_id:%(project_id)s"),
    Rule("thing:own", "project_id:%(project_id)s"),
)
ROUTES = (
    Route("GET", "/", show, PUBLIC),
    Route("GET", "/me", show, ANY_TOKEN),
    Route("GET", "/admin", show, "admin"),
    Route("GET", "/own", show, "thing:own"),
    Route("GET", "/things/{thing_id}", thing, "thing:show", deferred=True),
    Route("GET", "/forgetful", forgetful, "thing:show", deferred=True),
    Route("POST", "/things", create, ANY_TOKEN, body=[((2, 1), Create), ((2, 5), CreateNew)], status=201),
    Route("POST", "/things/{thing_id}/action", act, ANY_TOKEN, body=Freeze, action="freeze", status=202),
    Route("POST", "/things/{thing_id}/action", act, ANY_TOKEN, body=Thaw, action="thaw", since=(2, 4), status=202),
    Route("GET", "/newer", newer, ANY_TOKEN, since=(2, 3)),
    Route("GET", "/explode", explode, ANY_TOKEN),
    Route("GET", "/busy", busy, ANY_TOKEN),
    Route("GET", "/clash", clash, ANY_TOKEN),
    Route("GET", "/headers", headers, ANY_TOKEN),
    Route("GET", "/pieces", pieces, ANY_TOKEN),
    Route("PUT", "/upload", upload, ANY_TOKEN, stream=True),
    Route("GET", "/query", query, ANY_TOKEN),
)


class Bench:
    def __init__(self, **options: Any) -> None:
        self.text = io.StringIO()
        self.tokens = FakeTokens()
        settings: dict[str, Any] = {
            "name": "test",
            "service": None,
            "routes": ROUTES,
            "envelope": Plain(),
            "runtime": Runtime(),
            "log": Log("test", Sink(self.text)),
            "policy": Policy(RULES),
            "authenticate": self.tokens.authenticate,
            "versions": Microversions("thing", (2, 1), (2, 9), "X-Thing-Version"),
            "identity_url": "http://id/v3",
        }
        self.edge = Edge(**{**settings, **options})
        self.anonymous = Client(self.edge)
        self.member = self.anonymous.with_headers(x_auth_token="member:p1")
        self.admin = self.anonymous.with_headers(x_auth_token="admin:p1")

    def lines(self) -> list[dict[str, Any]]:
        self.edge.log.sink.flush()
        return [json.loads(line) for line in self.text.getvalue().splitlines()]


def run(story: Callable[[Bench], Coroutine[Any, Any, None]], **options: Any) -> None:
    async def main() -> None:
        await story(Bench(**options))

    asyncio.run(main())


def answer(reply: Response) -> tuple[int, str]:
    return reply.status, reply.json["message"]


def test_tokens_come_before_paths_and_paths_before_methods() -> None:
    async def story(b: Bench) -> None:
        assert (await b.anonymous.get("/")).status == 200
        for path in ("/me", "/nope"):
            reply = await b.anonymous.get(path)
            assert (reply.status, reply.headers["www-authenticate"]) == (401, 'Keystone uri="http://id/v3"')
        assert (await b.anonymous.get("/me", headers={"x-auth-token": "forged"})).status == 401
        assert answer(await b.member.get("/nope")) == (404, "unknown path")
        reply = await b.member.delete("/me")
        assert (reply.status, reply.headers["allow"]) == (405, "GET, HEAD")
        assert (await b.anonymous.request("DELETE", "/")).status == 405, "a public path has no token to ask for"

    run(story)


def test_an_edge_may_tell_unknown_paths_to_everybody() -> None:
    async def story(b: Bench) -> None:
        assert (await b.anonymous.get("/nope")).status == 404
        assert (await b.anonymous.get("/me")).status == 401

    run(story, paths_first=True)


def test_what_the_mount_does_not_know_is_no_path() -> None:
    def mount(path: str) -> tuple[str, str] | None:
        return ("/v2.1", path[5:]) if path.startswith("/v2.1/") else None

    async def story(b: Bench) -> None:
        body = (await b.member.get("/v2.1/me")).json
        assert (body["prefix"], body["base"]) == ("/v2.1", "http://localhost")
        assert (await b.member.get("/me")).status == 404

    run(story, mount=mount)


def test_policy_of_the_route_is_asked_with_the_callers_own_project() -> None:
    async def story(b: Bench) -> None:
        assert (await b.admin.get("/admin")).status == 200
        reply = await b.member.get("/admin")
        assert (reply.status, reply.json["kind"]) == (403, "core.policy")
        assert (await b.member.get("/own")).status == 200
        b.tokens.add("unscoped", Context(user_id="u", roles=("member",)))
        assert (await b.anonymous.get("/own", headers={"x-auth-token": "unscoped"})).status == 403, "no project is nobody's project"

    run(story)


def test_deferred_policy_decides_on_the_object_and_may_hide_it() -> None:
    async def story(b: Bench) -> None:
        assert (await b.member.get("/things/mine")).status == 200
        assert answer(await b.member.get("/things/theirs")) == answer(await b.member.get("/things/none")) == (404, "No such thing.")
        assert (await b.admin.get("/things/theirs")).status == 200

    run(story)


def test_a_handler_that_forgets_to_ask_policy_answers_403() -> None:
    async def story(b: Bench) -> None:
        reply = await b.admin.get("/forgetful")
        assert reply.status == 403
        assert b"secret" not in reply.body
        assert any(line.get("message") == "handler did not ask policy" for line in b.lines())

    run(story)


def test_row_62_a_route_with_an_unknown_rule_does_not_start() -> None:
    with pytest.raises(ValueError, match="unknown policy rule 'nope'"):
        Bench(routes=[Route("GET", "/x", show, "nope")])


def test_row_58_identity_headers_mean_nothing() -> None:
    async def story(b: Bench) -> None:
        lies = {
            "X-Roles": "admin",
            "X-User-Id": "root",
            "X-Project-Id": "other",
            "X-Is-Admin-Project": "True",
            "X-Identity-Status": "Confirmed",
        }
        body = (await b.member.get("/me", headers=lies)).json
        assert (body["user"], body["roles"]) == ("member-p1", ["member", "reader"])
        assert (await b.anonymous.get("/me", headers=lies)).status == 401
        assert (await b.member.get("/admin", headers=lies)).status == 403

    run(story)


def test_versions_are_negotiated_and_told() -> None:
    async def story(b: Bench) -> None:
        for asked, got in (
            (None, "2.1"),
            ("thing 2.4", "2.4"),
            ("thing latest", "2.9"),
            ("other 9.9", "2.1"),
            ("other 1.0, thing 2.2", "2.2"),
        ):
            reply = await b.member.get("/me", headers={"OpenStack-API-Version": asked} if asked else {})
            assert (reply.headers["openstack-api-version"], reply.headers["x-thing-version"]) == (f"thing {got}", got)
            assert "OpenStack-API-Version" in reply.headers["vary"]
            assert ".".join(map(str, reply.json["version"])) == got
        assert (await b.member.get("/me", headers={"X-Thing-Version": "2.3"})).headers["x-thing-version"] == "2.3"
        for asked, status in (
            ("thing 2.10", 406),
            ("thing 1.0", 406),
            ("thing 2", 400),
            ("thing 2.01", 400),
            ("thing x", 400),
            ("thing", 400),
        ):
            reply = await b.member.get("/me", headers={"OpenStack-API-Version": asked})
            assert reply.status == status, asked
            assert "openstack-api-version" in reply.headers, "also an error says which version it is in"
        assert (await b.member.get("/newer")).status == 404
        assert (await b.member.get("/newer", headers={"X-Thing-Version": "2.3"})).json == "new"

    run(story)


def test_bodies_are_decoded_for_the_version_and_refused_with_the_field() -> None:
    async def story(b: Bench) -> None:
        good = {"thing": {"name": "n"}}
        reply = await b.member.post("/things", good)
        assert (reply.status, reply.json["kind"]) == (201, "Create")
        assert (await b.member.post("/things", good, headers={"X-Thing-Version": "2.5"})).json["kind"] == "CreateNew"
        for body, words in (
            ({"thing": {"name": 5}}, "field/attribute name"),
            ({"thing": {"name": "n", "color": 1}}, "color"),
            ({"thing": {"size": 1}}, "name"),
            ({}, "thing"),
            ([], "request body"),
        ):
            status, message = answer(await b.member.post("/things", body))
            assert status == 400
            assert words in message, message
        for raw in (b"", b"{", b"\xff\xfe", b'{"thing": {"name": "\xff"}}', b"[" * 200_000, b"null", b'{"thing": NaN}', b"{}{}"):
            reply = await b.member.request("POST", "/things", raw=raw)
            assert reply.status == 400, raw[:20]
        reply = await b.member.post("/things", good, headers={"content-type": "text/xml"})
        assert reply.status == 415
        assert (await b.member.post("/things", good, headers={"content-type": "application/json; charset=utf-8"})).status == 201

    run(story)


@given(st.binary(max_size=200))
def test_no_body_is_a_mistake_of_ours(raw: bytes) -> None:
    async def story(b: Bench) -> None:
        for path in ("/things", "/things/1/action"):
            assert (await b.member.request("POST", path, raw=raw)).status in (201, 202, 400)

    run(story)


def test_huge_bodies_are_cut_off_but_streams_are_not() -> None:
    async def story(b: Bench) -> None:
        big = {"thing": {"name": "x" * 5000}}
        assert (await b.member.post("/things", big)).status == 413
        assert (await b.member.post("/things/1/action", {"freeze": 1, "pad": "x" * 5000})).status == 413
        assert (await b.member.request("PUT", "/upload", raw=b"x" * 300_000)).json == {"bytes": 300_000}

    run(story, max_body=4096)


def test_actions_are_told_apart_by_their_only_key() -> None:
    async def story(b: Bench) -> None:
        url, new = "/things/7/action", {"X-Thing-Version": "2.4"}
        reply = await b.member.post(url, {"freeze": 3})
        assert (reply.status, reply.json) == (202, {"acted": "7", "body": {"freeze": 3}})
        assert (await b.member.post(url, {"thaw": None})).status == 404, "not in this version"
        assert (await b.member.post(url, {"thaw": None}, headers=new)).status == 202
        wrong: list[Any] = [{"melt": 1}, {}, {"freeze": 1, "thaw": None}, [], {"freeze": "x"}]
        for body in wrong:
            assert (await b.member.post(url, body, headers=new)).status == 400, body

    run(story)


def test_errors_tell_what_is_meant_for_clients_only() -> None:
    async def story(b: Bench) -> None:
        reply = await b.member.get("/explode")
        assert reply.status == 500
        assert b"hunter2" not in reply.body
        assert b"path.py" not in reply.body
        ident = reply.headers["x-openstack-request-id"]
        assert ident in reply.json["message"], "what to quote when asking for help"
        logged = [line for line in b.lines() if line.get("level") == "error"]
        assert [line["request_id"] for line in logged] == [ident]
        assert "RuntimeError" in logged[0]["trace"]
        reply = await b.member.get("/busy")
        assert (reply.status, reply.headers["retry-after"], reply.json["message"]) == (503, "7", "Come back later, Ann.")
        assert answer(await b.member.get("/clash")) == (409, "It is taken.")
        assert "req-" not in (await b.member.get("/clash")).json["message"]

    run(story)


def test_request_ids_are_new_each_time_and_global_ones_are_kept_when_they_are_such() -> None:
    async def story(b: Bench) -> None:
        given = "req-" + "a1b2c3d4-0000-4000-8000-0123456789ab"
        replies = [await b.member.get("/me", headers={"x-openstack-request-id": g}) for g in (given, "req-short", given + "\n", "x" * 40)]
        ids = [r.headers["x-openstack-request-id"] for r in replies]
        assert len({*ids, given}) == 5
        assert all(r.headers["x-other-id"] == i for r, i in zip(replies, ids, strict=True))
        seen = {line["request_id"]: line.get("global_request_id") for line in b.lines()}
        assert [seen[i] for i in ids] == [given, None, None, None]
        line = b.lines()[0]
        assert (line["method"], line["path"], line["status"], line["user_id"], line["project_id"]) == ("GET", "/me", 200, "member-p1", "p1")

    run(story, id_headers=("x-openstack-request-id", "x-other-id"))


def test_head_is_get_without_its_body() -> None:
    async def story(b: Bench) -> None:
        get, head = await b.member.get("/me"), await b.member.request("HEAD", "/me")
        assert (head.status, head.body) == (200, b"")
        assert head.headers["content-length"] == get.headers["content-length"] == str(len(get.body))
        for path, status in (("/nope", 404), ("/admin", 403), ("/explode", 500)):
            reply = await b.member.request("HEAD", path)
            assert (reply.status, reply.body) == (status, b"")
        assert (await b.member.request("HEAD", "/upload")).status == 405

    run(story)


def test_headers_cannot_be_split_and_204_has_no_body() -> None:
    async def story(b: Bench) -> None:
        reply = await b.member.get("/headers")
        assert (reply.status, reply.body) == (204, b"")
        assert "content-type" not in reply.headers
        assert "content-length" not in reply.headers
        assert "set-cookie" not in reply.headers
        assert "\n" not in reply.headers["location"]
        assert reply.headers["vary"] == "X-Auth-Token"

    run(story, extra_headers={"vary": "X-Auth-Token"}, versions=None)


def test_a_body_in_pieces() -> None:
    async def story(b: Bench) -> None:
        reply = await b.member.get("/pieces")
        assert (reply.body, reply.headers["content-type"]) == (b"one two", "application/octet-stream")
        assert "content-length" not in reply.headers

    run(story)


def test_queries() -> None:
    async def story(b: Bench) -> None:
        body: dict[str, Any] = (await b.member.get("/query?a=1&b&a=%C3%A9+x")).json
        assert body == {"all": [["a", "1"], ["b", ""], ["a", "é x"]], "last": "é x", "every": ["1", "é x"]}
        assert (await b.member.get("/query?" + "&".join(f"x{i}" for i in range(2000)))).status == 400
        assert (await b.member.get("/query?a=%FF")).status == 200

    run(story)


def test_a_host_header_cannot_put_links_elsewhere_by_tricks() -> None:
    async def story(b: Bench) -> None:
        assert (await b.member.get("/me", headers={"host": "cloud:8774"})).json["base"] == "http://cloud:8774"
        for host in ("a/b", "a?x", "user@evil", 'a"', "<x>"):
            assert (await b.member.get("/me", headers={"host": host})).status == 400

    run(story)


def test_the_public_address_wins_over_the_host_header() -> None:
    async def story(b: Bench) -> None:
        assert (await b.member.get("/me", headers={"host": "evil"})).json["base"] == "https://cloud.example"

    run(story, public_url="https://cloud.example")


def test_health_and_metrics_need_no_token() -> None:
    async def story(b: Bench) -> None:
        await b.member.get("/clash")
        assert (await b.anonymous.get("/healthz")).json == {"service": "test", "status": "ok"}
        text = (await b.anonymous.get("/metrics")).body.decode()
        assert 'kilonova_requests_total{action="",method="GET",path="/clash",service="test",status="409"} ' in text

    run(story)


def test_a_client_that_goes_away_is_no_error() -> None:
    async def story(b: Bench) -> None:
        sent: list[Any] = []

        async def receive() -> dict[str, Any]:
            return {"type": "http.disconnect"}

        async def send(message: Any) -> None:
            sent.append(message)

        scope = {
            "type": "http", "method": "POST", "path": "/things", "query_string": b"", "scheme": "http",
            "headers": [(b"x-auth-token", b"member:p1"), (b"host", b"h")],
        }  # fmt: skip
        await b.edge(scope, receive, send)
        assert sent == []
        assert [line["status"] for line in b.lines()] == [499]

    run(story)


def test_a_service_token_brings_its_roles_and_a_bad_one_is_refused() -> None:
    async def authenticate(token: str, service_token: str | None) -> Context:
        if service_token not in (None, "good"):
            raise Unauthorized
        return msgspec.structs.replace(context("member"), service_roles=("service",) if service_token else ())

    async def story(b: Bench) -> None:
        assert (await b.member.get("/me", headers={"x-service-token": "good"})).status == 200
        assert (await b.member.get("/me", headers={"x-service-token": "bad"})).status == 401

    run(story, authenticate=authenticate)


@given(st.text(max_size=60))
def test_complaints_become_one_sentence(text: str) -> None:
    assert invalid(text).startswith("Invalid input for")
    assert "$" not in invalid("Expected `str`, got `int` - at `$.thing.name`")
