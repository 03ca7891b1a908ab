"""A whole cloud in this process for tests: every service, real tokens, the fake drivers; in real or in simulated time."""

import io
from pathlib import Path
from typing import Any

from kilonova.app import Cloud
from kilonova.core.db import Database
from kilonova.core.log import Sink
from kilonova.core.runtime import Runtime
from kilonova.hypervisor import Machines
from kilonova.image.drivers.memory import MemoryStore
from kilonova.plan import Plan
from kilonova.testing.asgi import Client, Response
from kilonova.testing.databases import open_test_database

PASSWORD = "secret"
OCTETS = {"content-type": "application/octet-stream"}


class WholeCloud:
    """`state` is a folder. `machines` and `store` outlive a process: hand them to the next life on the same state."""

    def __init__(
        self,
        runtime: Runtime,
        state: str,
        *,
        hosts: int = 2,
        machines: Machines | None = None,
        store: MemoryStore | None = None,
        overrides: dict[tuple[str, str], Any] | None = None,
        level: str = "warning",
        synchronous: str = "OFF",
        sink: Sink | None = None,
        database: Database | None = None,
    ) -> None:
        self.runtime = runtime
        self.log = io.StringIO()
        self.machines = machines or Machines()
        self.store = store or MemoryStore()
        plan = Plan(state=state, driver="fake", hosts=hosts, overrides={("identity", "password_hash_rounds"): 4, **(overrides or {})})
        self.cloud = Cloud(
            plan,
            runtime,
            sink or Sink(self.log, level=level, now_us=runtime.now_us),
            database=database or open_test_database(str(Path(state) / "kilonova.db"), runtime, synchronous=synchronous),
            machines=self.machines,
            image_store=self.store,
        )

    async def start(self) -> None:
        await self.cloud.start({"admin": PASSWORD, "demo": PASSWORD})

    async def stop(self) -> None:
        await self.cloud.stop()

    def anonymous(self, service: str) -> Client:
        return Client(self.cloud.edges[service], host=f"{service}.example")

    async def token(self, name: str = "admin", project: str = "") -> str:
        user = {"name": name, "password": PASSWORD, "domain": {"id": "default"}}
        scope = {"project": {"name": project or name, "domain": {"id": "default"}}}
        body = {"auth": {"identity": {"methods": ["password"], "password": {"user": user}}, "scope": scope}}
        reply = await self.anonymous("identity").post("/v3/auth/tokens", body)
        assert reply.status == 201, reply
        return reply.headers["x-subject-token"]

    def client(self, service: str, token: str, version: str = "") -> Client:
        headers = {"x-auth-token": token}
        if service == "compute":
            headers["openstack-api-version"] = f"compute {version or '2.100'}"
        elif service == "placement":
            headers["openstack-api-version"] = f"placement {version or '1.36'}"
        return Client(self.cloud.edges[service], headers, host=f"{service}.example")

    async def prepare(self, token: str) -> dict[str, str]:
        """An image, a flavor and a network to boot from; ids by name."""
        image = expect(
            await self.client("image", token).post(
                "/v2/images", {"name": "tiny", "disk_format": "raw", "container_format": "bare", "visibility": "public"}
            ),
            201,
        )["id"]
        put = await self.client("image", token).request("PUT", f"/v2/images/{image}/file", raw=bytes(4096), headers=OCTETS)
        assert put.status == 204, put
        flavor = {"flavor": {"name": "nano", "ram": 64, "vcpus": 1, "disk": 1, "id": "nano"}}
        expect(await self.client("compute", token).post("/v2.1/flavors", flavor), 200)
        network = expect(await self.client("network", token).post("/v2.0/networks", {"network": {"name": "private"}}), 201)["network"]["id"]
        subnet = {"subnet": {"network_id": network, "ip_version": 4, "cidr": "10.0.0.0/16", "name": "private"}}
        expect(await self.client("network", token).post("/v2.0/subnets", subnet), 201)
        return {"image": image, "flavor": "nano", "network": network}


def expect(reply: Response, status: int) -> Any:
    assert reply.status == status, reply
    return reply.json
