"""A whole cloud with two projects that know nothing of each other, and users of every role in both."""

import asyncio
import sqlite3
import uuid
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from kilonova.core.runtime import Runtime
from kilonova.testing.asgi import Client, Response
from kilonova.testing.cloud import OCTETS, WholeCloud, expect

Story = Callable[["World"], Awaitable[None]]
Run = Callable[..., None]
Dump = dict[str, list[tuple[Any, ...]]]
ROLES = ("reader", "member", "manager")
NETWORK_QUOTAS = ("network", "subnet", "port", "router", "floatingip", "security_group", "security_group_rule", "subnetpool")
UNLIMITED = {
    **{("quota", name): -1 for name in ("instances", "cores", "ram", "key_pairs", "metadata_items")},
    **{("network_quotas", f"quota_{name}"): -1 for name in NETWORK_QUOTAS},
}
MOVING = {"compute_hosts": "seen_at", "compute_daemons": "seen_at", "network_hosts": "heartbeat_at"}
"""Columns that heartbeats write."""


def name(of: str) -> str:
    return f"{of}-{uuid.uuid4().hex[:12]}"


class World:
    """Who is who: "admin", or "<role>:<project>" with the projects a and b ("member:a"); "manager:other" manages a domain of its own."""

    def __init__(self, cloud: WholeCloud) -> None:
        self.cloud = cloud
        self.tokens: dict[str, str] = {}
        self.projects: dict[str, str] = {}
        self.users: dict[str, str] = {}
        self.ids: dict[str, str] = {}

    async def begin(self) -> "World":
        await self.cloud.start()
        self.tokens["admin"] = await self.cloud.token()
        self.ids = await self.cloud.prepare(self.tokens["admin"])
        shared = {"network": {"shared": True}}
        expect(await self.client("network").put(f"/v2.0/networks/{self.ids['network']}", shared), 200)
        admin = self.client("identity")
        roles = {r["name"]: r["id"] for r in expect(await admin.get("/v3/roles"), 200)["roles"]}
        for project in ("a", "b"):
            made = expect(await admin.post("/v3/projects", {"project": {"name": project, "domain_id": "default"}}), 201)["project"]
            self.projects[project] = made["id"]
            for role in ROLES:
                await self._user(f"{role}:{project}", f"/v3/projects/{made['id']}", roles[role], {"project": {"id": made["id"]}})
        other = expect(await admin.post("/v3/domains", {"domain": {"name": "other"}}), 201)["domain"]["id"]
        await self._user("manager:other", f"/v3/domains/{other}", roles["manager"], {"domain": {"id": other}}, domain=other)
        for project in ("a", "b"):
            # Each project's default security group is made when it is first asked for.
            await self.client("network", f"member:{project}").get("/v2.0/security-groups")
            await self.client("network", f"reader:{project}").get("/v2.0/security-groups")
        return self

    async def _user(self, who: str, target: str, role_id: str, scope: dict[str, Any], *, domain: str = "default") -> None:
        admin = self.client("identity")
        user = expect(await admin.post("/v3/users", {"user": {"name": who, "password": "pw", "domain_id": domain}}), 201)["user"]["id"]
        assert (await admin.put(f"{target}/users/{user}/roles/{role_id}")).status == 204
        self.users[who] = user
        identity = {"methods": ["password"], "password": {"user": {"id": user, "password": "pw"}}}
        reply = await self.cloud.anonymous("identity").post("/v3/auth/tokens", {"auth": {"identity": identity, "scope": scope}})
        assert reply.status == 201, reply
        self.tokens[who] = reply.headers["x-subject-token"]

    def client(self, service: str, who: str = "admin", version: str = "") -> Client:
        return self.cloud.client(service, self.tokens[who], version)

    def anonymous(self, service: str) -> Client:
        return self.cloud.anonymous(service)

    @property
    def log(self) -> str:
        self.cloud.cloud.sink.flush()
        return self.cloud.log.getvalue()

    def dump(self) -> Dump:
        """Every row of every table as committed now, but for what heartbeats write."""
        path = Path(self.cloud.cloud.plan.state) / "kilonova.db"
        if not path.exists():
            pytest.skip("looks into SQLite's file, and this cloud stands on a server")
        with sqlite3.connect(path) as connection:
            tables = [t for (t,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY name")]
            out: Dump = {}
            for table in tables:
                cursor = connection.execute(f'SELECT * FROM "{table}"')
                skip = MOVING.get(table)
                keep = [i for i, column in enumerate(cursor.description) if column[0] != skip]
                out[table] = sorted((tuple(row[i] for i in keep) for row in cursor), key=repr)
        connection.close()
        return out

    async def server(self, who: str = "member:a", **changes: Any) -> str:
        """A running server on a network of its own project (`network_id`), or on the shared one."""
        network = changes.pop("network_id", self.ids["network"])
        wanted = {"name": name("server"), "imageRef": self.ids["image"], "flavorRef": "nano", "networks": [{"uuid": network}], **changes}
        compute = self.client("compute", who)
        server_id: str = expect(await compute.post("/v2.1/servers", {"server": wanted}), 202)["server"]["id"]
        await self.until(server_id, "ACTIVE")
        await self.quiet()
        return server_id

    async def until(self, server_id: str, status: str) -> dict[str, Any]:
        admin = self.client("compute")
        for _ in range(1000):
            reply = await admin.get(f"/v2.1/servers/{server_id}")
            server: dict[str, Any] = {} if reply.status == 404 else reply.json["server"]
            if (status == "gone" and not server) or (server and server["status"] == status and server["OS-EXT-STS:task_state"] is None):
                return server
            await asyncio.sleep(0.003)
        raise AssertionError(f"still {server}")

    async def quiet(self) -> None:
        """Nothing is under way any more."""
        for _ in range(1000):
            compute = self.cloud.cloud.compute
            assert compute is not None
            if not compute.api_ops.running and not compute.cell_ops.running:
                return
            await asyncio.sleep(0.003)
        raise AssertionError("operations go on")

    async def image(self, who: str = "member:a", data: bytes | None = b"x" * 512, **changes: Any) -> str:
        wanted = {"name": name("image"), "disk_format": "raw", "container_format": "bare", "visibility": "shared", **changes}
        client = self.client("image", who)
        image_id: str = expect(await client.post("/v2/images", wanted), 201)["id"]
        if data is not None:
            put = await client.put(f"/v2/images/{image_id}/file", raw=data, headers=OCTETS)
            assert put.status == 204, put
        return image_id

    async def network(self, who: str = "member:a", *, cidr: str = "10.9.0.0/24", **changes: Any) -> tuple[str, str]:
        """(network, subnet)"""
        client = self.client("network", who)
        network = expect(await client.post("/v2.0/networks", {"network": {"name": name("network"), **changes}}), 201)["network"]["id"]
        subnet = {"network_id": network, "ip_version": 4, "cidr": cidr}
        return network, expect(await client.post("/v2.0/subnets", {"subnet": subnet}), 201)["subnet"]["id"]

    async def make(self, collection: str, who: str = "member:a", **values: Any) -> str:
        """A resource of the network service."""
        kind = collection.replace("-", "_").removesuffix("s")
        made = expect(await self.client("network", who).post(f"/v2.0/{collection}", {kind: values}), 201)
        return str(made[kind]["id"])


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Run an async story in a fresh cloud; keywords are those of WholeCloud."""

    def runner(story: Story, **options: Any) -> None:
        async def main() -> None:
            options["overrides"] = {**UNLIMITED, **options.get("overrides", {})}
            world = World(WholeCloud(Runtime(), str(tmp_path), **options))
            try:
                await world.begin()
                await story(world)
            finally:
                await world.cloud.stop()

        asyncio.run(main())

    return runner


def refused(reply: Response, *statuses: int) -> Response:
    """The reply is one of these refusals."""
    assert reply.status in (statuses or (403, 404)), reply
    return reply
