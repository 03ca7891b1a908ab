"""Placement alone, over a real file, with tokens that are names."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from kilonova.core import config
from kilonova.core.context import service_context
from kilonova.core.edge import Edge
from kilonova.core.log import Log, Sink
from kilonova.core.policy import Policy
from kilonova.core.runtime import Runtime
from kilonova.placement import config as placement_config
from kilonova.placement.api.versions import VERSIONS
from kilonova.placement.envelope import PlacementEnvelope
from kilonova.placement.policies import RULES
from kilonova.placement.routes import ROUTES, check, mount
from kilonova.placement.service import PlacementService
from kilonova.placement.store import allocations, inventories, names, providers
from kilonova.testing.asgi import Client, Response
from kilonova.testing.databases import open_test_database
from kilonova.testing.tokens import FakeTokens

Story = Callable[["World"], Awaitable[None]]
COMPUTE = service_context("compute")


class World:
    def __init__(self, path: Path, overrides: dict[tuple[str, str], Any]) -> None:
        self.runtime = Runtime()
        self.log_file = (path / "log").open("a")
        self.db = open_test_database(str(path / "placement.db"), self.runtime)
        conf = config.build([placement_config.OPTIONS], overrides=overrides)
        settings = {"placement": config.settings(conf, placement_config.OPTIONS, "placement")}
        log = Log("placement", Sink(self.log_file))
        self.service = PlacementService(db=self.db, runtime=self.runtime, log=log, settings=settings)
        self.edge = Edge(
            name="placement",
            service=self.service,
            routes=ROUTES,
            envelope=PlacementEnvelope(),
            runtime=self.runtime,
            log=log,
            policy=Policy(RULES),
            authenticate=FakeTokens().authenticate,
            versions=VERSIONS,
            identity_url="http://localhost:5000/v3",
            mount=mount,
            check=check,
        )
        self.anonymous = Client(self.edge)

    def client(self, version: str = "1.39", token: str = "admin:p1") -> Client:
        return self.anonymous.with_headers(x_auth_token=token, openstack_api_version=f"placement {version}")

    async def provider(
        self, name: str, parent: str | None = None, aggregates: tuple[str, ...] = (), traits: tuple[str, ...] = (), **totals: int
    ) -> str:
        """A provider with an inventory of each class given; its id."""
        client = self.client()
        made = await client.post("/resource_providers", {"name": name, "parent_provider_uuid": parent})
        assert made.status == 200, made
        ident = str(made.json["uuid"])
        generation = 0
        for tail, body in (
            ("inventories", {"inventories": {k: {"total": v} for k, v in totals.items()}} if totals else None),
            ("aggregates", {"aggregates": list(aggregates)} if aggregates else None),
            ("traits", {"traits": list(traits)} if traits else None),
        ):
            if body is not None:
                reply = await client.put(f"/resource_providers/{ident}/{tail}", {**body, "resource_provider_generation": generation})
                assert reply.status == 200, reply
                generation += 1
        return ident

    async def allocate(
        self, consumer: str, resources: dict[str, dict[str, int]], generation: int | None = None, **changes: Any
    ) -> Response:
        body = {
            "allocations": {provider: {"resources": amounts} for provider, amounts in resources.items()},
            "project_id": "p1",
            "user_id": "u1",
            "consumer_generation": generation,
            "consumer_type": "INSTANCE",
        }
        return await self.client().put(f"/allocations/{consumer}", {**body, **changes})

    async def check_books(self) -> None:
        """The invariants: used is the sum of allocations, each consumer holds something, counters of names and children are right."""
        sums: dict[tuple[str, str], int] = {}
        held = await allocations.every(self.db)
        for h in held:
            sums[h.provider_id, h.resource_class] = sums.get((h.provider_id, h.resource_class), 0) + h.amount
        stocks = await inventories.every(self.db)
        assert {(s.provider_id, s.resource_class): s.used for s in stocks if s.used} == sums
        for consumer_id in dict.fromkeys(h.consumer_id for h in held):
            assert await allocations.consumer(self.db, consumer_id) is not None
        everyone = await providers.every(self.db)
        for p in everyone:
            assert p.children == sum(q.parent_id == p.id for q in everyone)
        for name, _, uses in await names.classes.every(self.db):
            assert uses == sum(s.resource_class == name for s in stocks)
        for name, _, uses in await names.traits.every(self.db):
            assert uses == sum(name in p.traits for p in everyone)

    async def stop(self) -> None:
        await self.db.stop()
        self.runtime.close()
        self.log_file.close()


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Callable[..., None]]:
    """Run an async story in a fresh placement; afterwards its books must balance."""

    def runner(story: Story, **settings: Any) -> None:
        async def main() -> None:
            world = World(tmp_path, {("placement", name): value for name, value in settings.items()})
            await world.db.create(world.service.metadata)
            try:
                await story(world)
                await world.check_books()
            finally:
                await world.stop()

        asyncio.run(main())

    yield runner


Run = Callable[..., None]
