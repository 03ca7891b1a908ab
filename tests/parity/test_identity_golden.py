"""What Keystone answered, asked of us again."""

import asyncio
from pathlib import Path
from typing import Any

from kilonova.app import Cloud, Plan
from kilonova.core.log import Sink
from kilonova.core.runtime import Runtime
from kilonova.testing.asgi import Client, Response

from .replay import Exchange, Replay, load, routes_of

TOKENS = {
    "project-scoped password token": "<ADMIN_TOKEN>",
    "system scope": "<SYS>",
    "member token": "<MEMBER_TOKEN>",
    "member token again (group removal revoked the old one)": "<MEMBER_TOKEN2>",
}


class Remembering(Client):
    """Keeps the token of the last answer that had one."""

    last = ""

    async def request(self, method: str, path: str, *rest: Any, **options: Any) -> Response:
        reply = await super().request(method, path, *rest, **options)
        Remembering.last = reply.headers.get("x-subject-token", Remembering.last)
        return reply


async def _like_theirs(cloud: Cloud) -> None:
    """The recorded service knew the project and the user admin only."""
    client = Client(cloud.edges["identity"])
    user = {"name": "admin", "password": "pw", "domain": {"id": "default"}}
    scope = {"project": {"name": "admin", "domain": {"id": "default"}}}
    login = await client.post(
        "/v3/auth/tokens", {"auth": {"identity": {"methods": ["password"], "password": {"user": user}}, "scope": scope}}
    )
    admin = client.with_headers(x_auth_token=login.headers["x-subject-token"])
    for kind in ("projects", "users"):
        for found in (await admin.get(f"/v3/{kind}")).json[kind]:
            if found["name"] != "admin":
                assert (await admin.delete(f"/v3/{kind}/{found['id']}")).status == 204
    for found in (await admin.get("/v3/endpoints")).json["endpoints"]:
        if found["interface"] != "public":
            assert (await admin.delete(f"/v3/endpoints/{found['id']}")).status == 204


def test_answers_have_the_recorded_shape(tmp_path: Path) -> None:
    async def main() -> None:
        plan = Plan(state=str(tmp_path), services=("identity",), overrides={("identity", "password_hash_rounds"): 4})
        with (tmp_path / "log").open("w") as log:
            cloud = Cloud(plan, Runtime(), Sink(log), synchronous="OFF")
            await cloud.start({"admin": "pw"})
            try:
                await _like_theirs(cloud)
                edge = cloud.edges["identity"]
                client = Remembering(edge)
                before = ""

                def prepare(exchange: Exchange) -> Exchange:
                    nonlocal before
                    if before in TOKENS:
                        replay.known[TOKENS[before]] = Remembering.last
                    before = exchange.note
                    return exchange

                replay = Replay(
                    "identity",
                    client,
                    served=routes_of(edge),
                    prepare=prepare,
                    uncompared_headers=["location"],
                    loose_lists=["$.error.identity.methods"],
                )
                report = await replay.run(load("identity"))
                print(report)
                report.check(at_least=119, not_served_at_most=20)
            finally:
                await cloud.stop()

    asyncio.run(main())
