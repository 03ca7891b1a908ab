"""What the real Glance answered, replayed in order against ours."""

import asyncio
import re
from pathlib import Path
from typing import Any

import msgspec

from kilonova.image.domain.images import Quotas
from tests.image.conftest import World
from tests.parity.replay import Exchange, Replay, load, routes_of

OURS, THEIRS = "11111111111141118111111111111111", "22222222222242228222222222222222"
TOKENS = {
    "anonymous": None,
    "member": f"member:{OURS}",
    "reader": f"reader:{OURS}",
    "admin": f"admin:{OURS}",
    "other": f"member:{THEIRS}",
    "service": f"service:{OURS}",
}
QUOTAS_FROM = 180
"""From this line on the recording's service had small quotas."""
SMALL = Quotas(properties=1, tags=1, members=0, storage_bytes=10, image_bytes=2000)
NOT_BUILT = re.compile(r"/v2/(tasks|metadefs|cache|stores)\b|/v2/images/[^/]+/locations")
_BYTES = re.compile(r"<bytes (\d+)>")


def sent(exchange: Exchange) -> Any:
    """The recording tells only how many bytes were sent: fill them in. Its service had three stores, ours has one of them. What line 41
    shows is that a content type is not looked at; its two bytes can only have been {}, which line 34 says is refused."""
    body = exchange.body
    if isinstance(body, str) and (found := _BYTES.fullmatch(body)):
        count = int(found[1])
        return ("ABCDE" * 1000)[:count] if exchange.method == "PUT" else '{"name": null}' if count == 2 else "zzzz"
    if isinstance(body, dict) and body.get("stores") == ["store1", "store2"]:
        return {**body, "stores": ["store1"]}
    return body


def headers(exchange: Exchange) -> dict[str, str]:
    """A reply without a body has no content type here."""
    empty = exchange.status in (202, 204, 302)
    return {k: v for k, v in exchange.reply_headers.items() if not (empty and k == "content-type")}


def test_the_recorded_exchanges(tmp_path: Path) -> None:
    async def main() -> None:
        world = await World(tmp_path, {("glance_store", "default_backend"): "store1"}).start()

        def prepare(exchange: Exchange) -> Exchange | None:
            if NOT_BUILT.search(exchange.path):
                return None
            if exchange.number == QUOTAS_FROM:
                world.service.quotas = world.service.uploads.quotas = SMALL
            return msgspec.structs.replace(exchange, body=sent(exchange), reply_headers=headers(exchange))

        try:
            replay = Replay(
                "image",
                world.anonymous,
                token=lambda exchange: TOKENS[exchange.who or "anonymous"],
                served=routes_of(world.edge),
                prepare=prepare,
                loose_lists=(
                    "$.versions",
                    "$.stores",
                    "$.import-methods.value",
                    "$.tasks[].input.import_req.stores",
                    "$.tasks[].input.backend",
                ),
            )
            report = await replay.run(load("image"))
            print(report)
            report.check(at_least=160, not_served_at_most=36)
        finally:
            await world.stop()

    asyncio.run(main())
