"""A cloud with identity only, in memory, and a client logged in as its admin."""

import asyncio
import uuid
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from kilonova.app import Cloud, Plan
from kilonova.core.log import Sink
from kilonova.core.runtime import Runtime
from kilonova.testing.asgi import Client, Response
from kilonova.testing.databases import open_test_database

Story = Callable[["World"], Awaitable[None]]
DEMO = {"project": {"name": "demo", "domain": {"id": "default"}}}


class World:
    def __init__(self, cloud: Cloud) -> None:
        self.cloud = cloud
        self.anonymous = Client(cloud.edges["identity"])

    async def try_login(self, name: str, password: str, scope: object = None, *, domain: str = "default") -> Response:
        user = {"name": name, "password": password, "domain": {"id": domain}}
        auth: dict[str, object] = {"identity": {"methods": ["password"], "password": {"user": user}}}
        if scope is not None:
            auth["scope"] = scope
        return await self.anonymous.post("/v3/auth/tokens", {"auth": auth})

    async def login(self, name: str, password: str, scope: object = None, *, domain: str = "default") -> Client:
        reply = await self.try_login(name, password, scope, domain=domain)
        assert reply.status == 201, reply
        return self.anonymous.with_headers(x_auth_token=reply.headers["x-subject-token"])

    async def admin(self) -> Client:
        return await self.login("admin", "secret", {"project": {"name": "admin", "domain": {"id": "default"}}})

    async def rescope(self, token: str, scope: object = None) -> Response:
        auth: dict[str, object] = {"identity": {"methods": ["token"], "token": {"id": token}}}
        if scope is not None:
            auth["scope"] = scope
        return await self.anonymous.post("/v3/auth/tokens", {"auth": auth})


async def make(client: Client, kind: str, **attributes: Any) -> Any:
    """Create a noun ("project", "user", …) and return its document. It gets a name of its own when it is given none."""
    reply = await client.post(f"/v3/{kind}s", {kind: {"name": f"{kind}-{uuid.uuid4().hex[:12]}", **attributes}})
    assert reply.status == 201, reply
    return reply.json[kind]


async def role(client: Client, name: str) -> str:
    """The id of a role."""
    found = (await client.get(f"/v3/roles?name={name}")).json["roles"]
    assert len(found) == 1, found
    return str(found[0]["id"])


async def token_of(client: Client, who: Client) -> Any:
    """The document of a client's own token."""
    reply = await client.with_headers(x_subject_token=who.headers["x-auth-token"]).get("/v3/auth/tokens")
    assert reply.status == 200, reply
    return reply.json["token"]


@pytest.fixture
def run(tmp_path: Path) -> Callable[[Story], None]:
    """Run an async story in a fresh cloud."""

    def runner(story: Story) -> None:
        async def main() -> None:
            plan = Plan(state=str(tmp_path), services=("identity",), overrides={("identity", "password_hash_rounds"): 4})
            with (tmp_path / "log").open("w") as log:
                runtime = Runtime()
                cloud = Cloud(plan, runtime, Sink(log), database=open_test_database(str(tmp_path / "kilonova.db"), runtime))
                await cloud.start({"admin": "secret", "demo": "secret"})
                try:
                    await story(World(cloud))
                finally:
                    await cloud.stop()

        asyncio.run(main())

    return runner
