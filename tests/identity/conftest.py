"""A cloud with identity only, in memory, and a client logged in as its admin."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from kilonova.app import Cloud, Plan
from kilonova.core.log import Sink
from kilonova.core.runtime import Runtime
from kilonova.testing.asgi import Client

Story = Callable[["World"], Awaitable[None]]


class World:
    def __init__(self, cloud: Cloud) -> None:
        self.cloud = cloud
        self.anonymous = Client(cloud.edges["identity"])

    async def login(self, name: str, password: str, scope: object = None) -> Client:
        user = {"name": name, "password": password, "domain": {"id": "default"}}
        auth: dict[str, object] = {"identity": {"methods": ["password"], "password": {"user": user}}}
        if scope is not None:
            auth["scope"] = scope
        reply = await self.anonymous.post("/v3/auth/tokens", {"auth": auth})
        assert reply.status == 201, reply
        return self.anonymous.with_headers(x_auth_token=reply.headers["x-subject-token"])

    async def admin(self) -> Client:
        return await self.login("admin", "secret", {"project": {"name": "admin", "domain": {"id": "default"}}})


@pytest.fixture
def run(tmp_path: Path) -> Callable[[Story], None]:
    """Run an async story in a fresh cloud."""

    def runner(story: Story) -> None:
        async def main() -> None:
            plan = Plan(state=str(tmp_path), overrides={("identity", "password_hash_rounds"): 4})
            with (tmp_path / "log").open("w") as log:
                cloud = Cloud(plan, Runtime(), Sink(log), synchronous="OFF")
                await cloud.start({"admin": "secret", "demo": "secret"})
                try:
                    await story(World(cloud))
                finally:
                    await cloud.stop()

        asyncio.run(main())

    return runner
