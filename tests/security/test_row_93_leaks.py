"""Canaries in every secret of the cloud, then every kind of failure: none is seen again in a log, fault, action, answer or operation.

CVE-2017-7214, 2017-2592, 2014-7230/7231, 2013-0212, 2014-1948, 2015-8749, 2019-14433, 2015-3646.
"""

import asyncio
import base64
import importlib
from typing import Any

import pytest

from kilonova.compute.drivers import DriverError
from kilonova.network.contract import WiringFailed
from kilonova.testing.asgi import Response
from kilonova.testing.cloud import expect
from tests.security import recipes
from tests.security.conftest import Run, World
from tests.security.recipes import key

PASSWORD = "canary-password-91c4"
ADMIN_PASS = "canary-adminpass-7f20"
USER_DATA = "canary-userdata-55aa"
ENCODED = base64.b64encode(USER_DATA.encode()).decode()
CANARIES = (PASSWORD, ADMIN_PASS, USER_DATA, ENCODED)
INSIDE = ("Traceback", '.py"', "site-packages", "sqlite3", "kilonova.db", "/src/kilonova")
"""What no answer may hold."""


class Seen:
    """Everything that came out."""

    def __init__(self) -> None:
        self.replies: list[tuple[str, Response]] = []

    async def ask(self, client: Any, method: str, path: str, body: Any = None, **options: Any) -> Response:
        reply: Response = await client.request(method, path, body, **options)
        self.replies.append((f"{method} {path}", reply))
        return reply

    def check(self, w: World) -> None:
        tokens = list(w.tokens.values())
        for what, reply in self.replies:
            text = reply.body.decode("latin-1")
            for canary in (*CANARIES, *tokens):
                assert canary not in text, (what, reply.status, canary)
            for inside in (*INSIDE, w.cloud.cloud.plan.state):
                assert inside not in text, (what, reply)
        log = w.log
        for canary in (*CANARIES, *tokens):
            assert canary not in log, (canary, [line for line in log.splitlines() if canary in line][:1])
        for table, rows in w.dump().items():
            for row in rows:
                for canary in (PASSWORD, ADMIN_PASS, *tokens):
                    assert canary not in repr(row), (table, canary)
                if "operations" in table or table.startswith("instance_action"):
                    assert USER_DATA not in repr(row) and ENCODED not in repr(row), table


def _server(w: World, **changes: Any) -> dict[str, Any]:
    base = {
        "name": "s", "imageRef": w.ids["image"], "flavorRef": "nano", "networks": [{"uuid": w.ids["network"]}], "adminPass": ADMIN_PASS,
        "user_data": ENCODED, "config_drive": True,
    }  # fmt: skip
    return {"server": {**base, **changes}}


async def _user(w: World, seen: Seen) -> str:
    """A user with the canary for a password, made and changed and asked for tokens in right and wrong ways."""
    identity, anonymous = w.client("identity"), w.anonymous("identity")
    body = {"user": {"name": "canary", "password": PASSWORD, "domain_id": "default"}}
    made = (await seen.ask(identity, "POST", "/v3/users", body)).json["user"]["id"]
    await seen.ask(identity, "POST", "/v3/users", body)
    for change in ({"password": PASSWORD + "x" * 5000}, {"password": PASSWORD, "enabled": "perhaps"}, {"password": PASSWORD}):
        await seen.ask(identity, "PATCH", f"/v3/users/{made}", {"user": change})
        await seen.ask(w.client("identity", "member:b"), "PATCH", f"/v3/users/{made}", {"user": change})
    right = {"id": made, "password": PASSWORD}
    for user in (right, {**right, "id": "nobody"}, {**right, "password": PASSWORD + "wrong"}, {"password": PASSWORD}, {**right, "name": 7}):
        for scope in (None, {"project": {"id": "nothing"}}, {"project": PASSWORD}):
            auth: dict[str, Any] = {"identity": {"methods": ["password"], "password": {"user": user}}}
            reply = await anonymous.post("/v3/auth/tokens", {"auth": {**auth, **({"scope": scope} if scope else {})}})
            seen.replies.append(("POST /v3/auth/tokens", reply))
            if reply.status == 201:
                w.tokens[f"canary {len(w.tokens)}"] = reply.headers["x-subject-token"]
    changed = {"user": {"original_password": PASSWORD, "password": PASSWORD + "2"}}
    await seen.ask(anonymous, "POST", f"/v3/users/{made}/password", changed)
    await seen.ask(anonymous, "POST", f"/v3/users/{made}/password", changed)
    for token in (w.tokens["member:a"], w.tokens["member:a"][:-3] + "AAA", "gAAAA" + PASSWORD):
        for method in ("GET", "HEAD", "DELETE"):
            if method != "DELETE" or token != w.tokens["member:a"]:
                await seen.ask(identity, method, "/v3/auth/tokens", headers={"x-subject-token": token})
    return str(made)


def test_row_93_secrets_of_users(run: Run) -> None:
    async def story(w: World) -> None:
        seen = Seen()
        await _user(w, seen)
        seen.check(w)

    run(story, level="debug")


def test_row_93_failing_drivers_and_wiring(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every verb, with a hypervisor that fails in foreseen and unforeseen ways, and a network that does."""

    async def story(w: World) -> None:
        seen = Seen()
        member, state = w.client("compute", "member:a"), w.cloud.cloud.plan.state
        drivers = [agent.driver for agent in w.cloud.cloud.compute_agents]
        good = (await seen_create(w, seen))["id"]
        await w.until(good, "ACTIVE")
        ended = []
        for error in (
            DriverError("The hypervisor has no room."),
            OSError(28, "No space left on device", f"{state}/instances/x/disk"),
            RuntimeError("qemu+tls://root:canary-password-91c4@10.0.0.9/system refused"),
        ):
            for verb in ("spawn", "power_off", "power_on", "reboot_hard", "reboot_soft", "destroy", "console_output"):

                async def fail(*_: Any, error: Exception = error, **__: Any) -> None:
                    raise error

                for driver in drivers:
                    monkeypatch.setattr(driver, verb, fail)
            ended.append((await seen_create(w, seen))["id"])
            await w.until(ended[-1], "ERROR")
            verbs: tuple[dict[str, Any], ...] = (
                {"os-getConsoleOutput": {}}, {"reboot": {"type": "HARD"}}, {"os-stop": None}, {"os-start": None},
            )  # fmt: skip
            for action in verbs:
                await seen.ask(member, "POST", f"/v2.1/servers/{good}/action", action)
                await asyncio.sleep(0.03)
            monkeypatch.undo()
            admin = w.client("compute")
            await seen.ask(admin, "POST", f"/v2.1/servers/{good}/action", {"os-resetState": {"state": "active"}})
        network = w.cloud.cloud.network
        for failure in (WiringFailed(server="x", reason="no such bridge"), RuntimeError(f"{state}: amqp://nova:{PASSWORD}@bus refused")):

            async def wait(*_: Any, failure: Exception = failure, **__: Any) -> None:
                raise failure

            monkeypatch.setattr(network, "wait_wired", wait)
            made = (await seen_create(w, seen))["id"]
            if isinstance(failure, WiringFailed):
                await w.until(made, "ERROR")
            else:
                await asyncio.sleep(0.1)
            ended.append(made)
        monkeypatch.undo()
        for who in ("admin", "member:a", "reader:a"):
            compute = w.client("compute", who)
            for server_id in (good, *ended):
                for path in ("", "/os-instance-actions", "/os-interface", "/metadata", "/ips"):
                    reply = await seen.ask(compute, "GET", f"/v2.1/servers/{server_id}{path}")
                    if who == "admin" and path == "":
                        seen.replies.pop()  # user_data is shown to admins, as Nova does
                    for action in reply.json.get("instanceActions", []) if reply.status == 200 else []:
                        await seen.ask(compute, "GET", f"/v2.1/servers/{server_id}/os-instance-actions/{action['request_id']}")
                await seen.ask(compute, "GET", f"/v2.1/kilonova/servers/{server_id}/explanation")
        for path in ("/v2.1/servers/detail", "/v2.1/servers"):
            await seen.ask(member, "GET", path)
        # The log says where a disk is full, which answers do not.
        assert "No space left on device" in w.log
        seen.check(w)

    run(story, level="debug")


async def seen_create(w: World, seen: Seen) -> dict[str, Any]:
    reply = await w.client("compute", "member:a").post("/v2.1/servers", _server(w))
    made: dict[str, Any] = expect(reply, 202)["server"]
    # The one answer that tells the administrator's password.
    assert made.pop("adminPass") == ADMIN_PASS
    return made


@pytest.mark.parametrize("service", ["identity", "image", "placement", "compute", "network"])
def test_row_93_a_handler_that_breaks_tells_nothing(run: Run, service: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every route, with a handler whose exception is full of secrets and paths: 500, and a request id to ask for."""

    async def story(w: World) -> None:
        seen = Seen()

        async def broken(*_: Any, **__: Any) -> None:
            raise RuntimeError(f"in /usr/lib/x.py: token {w.tokens['admin']} postgresql://nova:{PASSWORD}@db/nova")

        for route in importlib.import_module(f"kilonova.{service}.routes").ROUTES:
            if "{" in route.path and recipes.recipe(service, route) is None:
                raise AssertionError(key(route))
            with monkeypatch.context() as patch:
                patch.setattr(route, "handler", broken)
                path = route.path.replace("{", "").replace(":path", "").replace("}", "")
                try:
                    given, raw, headers = recipes.body(route, _Words())
                except recipes.NoBody:
                    given, raw, headers = {}, None, {}
                client = w.client(service, "admin", recipes.version(service, route))
                prefix = "/v2.1" if service == "compute" and route.path not in ("/", "/v2", "/v2.1") else ""
                reply = await seen.ask(client, route.method, prefix + path, given, raw=raw, headers=headers)
                assert reply.status >= 400, (key(route), reply)
                if reply.status == 500 and route.method != "HEAD":
                    assert b"req-" in reply.body, reply
        assert sum(reply.status == 500 for _, reply in seen.replies) > 8
        assert "RuntimeError" in w.log
        seen.check(w)

    run(story, level="debug")


class _Words(dict[str, str]):
    def __missing__(self, key: str) -> str:
        return "x"
