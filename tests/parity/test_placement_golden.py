"""What the real Placement answered, replayed in order against ours."""

import asyncio
from pathlib import Path

from tests.parity.replay import Exchange, Replay, load, routes_of
from tests.placement.conftest import World


def token(exchange: Exchange) -> str | None:
    if exchange.note == "root no auth" or exchange.note.startswith("no token"):
        return None
    return "member:p1" if exchange.note == "non-admin" else "admin:p1"


def test_the_recorded_exchanges(tmp_path: Path) -> None:
    async def main() -> None:
        world = World(tmp_path, {})
        await world.db.create(world.service.metadata)
        try:
            replay = Replay("placement", world.anonymous, token=token, version_header="placement", served=routes_of(world.edge))
            report = await replay.run(load("placement"))
            print(report)
            report.check(at_least=105, not_served_at_most=0)
            await world.check_books()
        finally:
            await world.stop()

    asyncio.run(main())
