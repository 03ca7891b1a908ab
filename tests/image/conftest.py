"""The image service alone: its own edge, tokens without identity, bytes in files or in memory."""

import asyncio
import hashlib
import struct
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from kilonova.core import config as config_module
from kilonova.core.log import Log, Sink
from kilonova.core.policy import Policy
from kilonova.core.runtime import Runtime
from kilonova.image import drivers
from kilonova.image.config import OPTIONS
from kilonova.image.drivers import Store
from kilonova.image.edge import edge
from kilonova.image.policies import RULES
from kilonova.image.service import ImageService
from kilonova.testing.asgi import Client, Response
from kilonova.testing.databases import open_test_database
from kilonova.testing.tokens import FakeTokens

OCTETS = {"content-type": "application/octet-stream"}
PATCH = {"content-type": "application/openstack-images-v2.1-json-patch"}


class World:
    """One life of the service over a state directory. `admin`, `member`, `reader` are of project p1, `other` is a member of p2."""

    def __init__(
        self, state: Path, overrides: Mapping[tuple[str, str], Any] | None = None, store: Store | None = None, exclusive: bool = True
    ) -> None:
        self.state = state
        self.log = (state / "log").open("a")
        self.runtime = Runtime()
        conf = config_module.build([OPTIONS], (), overrides or {})
        settings = {group: config_module.settings(conf, OPTIONS, group) for group in OPTIONS}
        self.db = open_test_database(str(state / "image.db"), self.runtime)
        self.store = store or drivers.load("file", str(state / "images"))
        self.policy = Policy(RULES)
        log = Log("image", Sink(self.log))
        self.service = ImageService(
            db=self.db, runtime=self.runtime, log=log, settings=settings, policy=self.policy, data=self.store, exclusive=exclusive
        )
        self.tokens = FakeTokens()
        self.edge = edge(self.service, authenticate=self.tokens.authenticate)
        self.anonymous = Client(self.edge)
        self.admin = self.client("admin:p1")
        self.member = self.client("member:p1")
        self.reader = self.client("reader:p1")
        self.other = self.client("member:p2")

    def client(self, token: str) -> Client:
        return self.anonymous.with_headers(x_auth_token=token)

    async def start(self) -> "World":
        await self.db.create(self.service.metadata)
        await self.service.start()
        return self

    async def stop(self) -> None:
        await self.service.stop()
        await self.db.stop()
        self.runtime.close()
        self.log.close()

    async def image(self, client: Client | None = None, **body: Any) -> str:
        """A new image's id; raw and bare unless said otherwise."""
        given = {"name": "i", "disk_format": "raw", "container_format": "bare", **body}
        reply = await (client or self.member).post("/v2/images", given)
        assert reply.status == 201, reply
        return str(reply.json["id"])

    async def upload(self, image_id: str, data: bytes, client: Client | None = None, **headers: str) -> Response:
        names = {k.replace("_", "-"): v for k, v in headers.items()}
        return await (client or self.member).put(f"/v2/images/{image_id}/file", raw=data, headers={**OCTETS, **names})

    async def active(self, data: bytes = b"x" * 1000, client: Client | None = None, **body: Any) -> str:
        image_id = await self.image(client, **body)
        reply = await self.upload(image_id, data, client)
        assert reply.status == 204, reply
        return image_id

    async def patch(self, image_id: str, *changes: tuple[str, str, Any], client: Client | None = None) -> Response:
        body = [{"op": op, "path": path, **({} if op == "remove" else {"value": value})} for op, path, value in changes]
        return await (client or self.member).patch(f"/v2/images/{image_id}", body, headers=PATCH)

    async def status(self, image_id: str) -> str:
        return str((await self.admin.get(f"/v2/images/{image_id}")).json["status"])

    async def names_stored(self) -> list[str]:
        return [entry.name for entry in await self.store.entries()]


Story = Callable[[World], Awaitable[None]]


@pytest.fixture
def run(tmp_path: Path) -> Callable[..., None]:
    """Run an async story in a fresh world; keywords are settings as group__name."""

    def runner(story: Story, **settings: Any) -> None:
        async def main() -> None:
            overrides = {(name.partition("__")[0], name.partition("__")[2]): value for name, value in settings.items()}
            world = await World(tmp_path, overrides).start()
            try:
                await story(world)
            finally:
                await world.stop()

        asyncio.run(main())

    return runner


def md5(data: bytes) -> str:
    return hashlib.md5(data, usedforsecurity=False).hexdigest()


def qcow2(virtual: int = 1 << 30, *, backing: bytes = b"", incompatible: int = 0) -> bytes:
    """A small valid qcow2 (version 3, clusters of 64 KiB), or one with a backing file or incompatible features."""
    cluster = 1 << 16
    l1_entries = max(1, -(-virtual // (cluster * cluster // 8)))
    header = struct.pack(
        ">4sIQIIQIIQQIIQQQQII",
        b"QFI\xfb", 3, 512 if backing else 0, len(backing), 16, virtual, 0, l1_entries, cluster * 3, cluster, 1, 0, 0,
        incompatible, 0, 0, 4, 104,
    )  # fmt: skip
    first = header + struct.pack(">II", 0, 0)
    return (first.ljust(512, b"\0") + backing).ljust(cluster, b"\0") + bytes(3 * cluster)
