"""What the real Nova answered, replayed in order against ours: its resources by `compute.jsonl`, its guard of states by the other file."""

import asyncio
import json
from pathlib import Path

import msgspec

from kilonova.compute.api.versions import MAXIMUM
from kilonova.compute.drivers.fake import FakeHost
from kilonova.compute.model import Flavor
from kilonova.compute.routes import ROUTES
from kilonova.compute.store import flavors, servers
from kilonova.core.log import Sink
from kilonova.core.microversions import parse
from kilonova.core.runtime import Runtime
from kilonova.testing.asgi import Client, Response
from kilonova.testing.compute import ComputeWorld
from kilonova.testing.fakes import IMAGE
from kilonova.testing.tokens import context
from tests.parity.replay import GOLDEN, Exchange, Replay, load, routes_of

PROJECT = "6f70656e737461636b20342065766572"
MORE_FLAVORS = (
    Flavor(id="3", name="m1.medium", vcpus=2, ram_mb=4096, root_gb=40),
    Flavor(id="4", name="m1.large", vcpus=4, ram_mb=8192, root_gb=80),
    Flavor(id="5", name="m1.xlarge", vcpus=8, ram_mb=16384, root_gb=160),
    Flavor(id="6", name="m1.tiny.specs", vcpus=1, ram_mb=512, root_gb=1),
)
UNRECORDED = (60, 84)
"""Lines before which the recorder made a server without writing it down."""
UNRECORDED_SERVER = {"server": {"name": "s1", "imageRef": IMAGE, "flavorRef": "1"}}


async def rest(w: ComputeWorld) -> None:
    """Until every verb has ended. The first moment is for those that have not begun to run."""
    for i in range(5000):
        await asyncio.sleep(0 if i < 5 else 0.001)
        if i >= 5 and not w.compute.api_ops.running and not w.compute.cell_ops.running:
            return
    raise AssertionError("verbs are still running")


class Settled(Replay):
    """Nova's recording waited for nothing, since its fakes were synchronous; ours waits until every verb has ended."""

    world: ComputeWorld

    def differences(self, exchange: Exchange, reply: Response) -> list[str]:
        """Nova gives an answer without a body a content type, too."""
        if exchange.reply_body is None and reply.status == exchange.status and reply.status in (202, 204):
            headers = {k: v for k, v in exchange.reply_headers.items() if k != "content-type"}
            exchange = msgspec.structs.replace(exchange, reply_headers=headers)
        return super().differences(exchange, reply)

    async def send(self, exchange: Exchange) -> Response:
        if exchange.number in UNRECORDED:
            await self.client.post("/v2.1/servers", UNRECORDED_SERVER, headers={"x-auth-token": "member"})
            await rest(self.world)
        reply = await super().send(exchange)
        await rest(self.world)
        return reply


ACTIONS = frozenset(route.action for route in ROUTES if route.action)
OUTSIDE = frozenset({"/", "/v2.1", "/v2.1/", "/v2/", "/foo"})


def prepare(exchange: Exchange) -> Exchange | None:
    """Paths were recorded without their version. Left out: versions that we do not speak yet, and actions that we do not serve."""
    if exchange.version not in (None, "latest", "abc", "1.0", "2.999") and parse(exchange.version or "") > MAXIMUM:
        return None
    if exchange.path in OUTSIDE:
        return exchange
    if exchange.path.endswith("/action") and isinstance(exchange.body, dict) and exchange.note != "unknown action":
        if not ACTIONS & set(exchange.body):
            return None
    return msgspec.structs.replace(exchange, path="/v2.1" + exchange.path)


def token(exchange: Exchange) -> str | None:
    return None if exchange.who in (None, "anonymous") else exchange.who


async def world_of(tmp_path: Path, log: Path) -> ComputeWorld:
    w = ComputeWorld(Runtime(), Sink(log.open("w"), level="warning"), str(tmp_path / "compute.db"), machines={"compute": FakeHost()})
    await w.start()
    for flavor in MORE_FLAVORS:
        await w.db.transact(lambda tx, flavor=flavor: flavors.insert(tx, flavor))  # type: ignore[misc]
    w.tokens.add("member", context("member", PROJECT, "fake"))
    w.tokens.add("admin", context("admin", PROJECT, "admin"))
    return w


def test_the_recorded_exchanges(tmp_path: Path) -> None:
    async def main() -> None:
        w = await world_of(tmp_path, tmp_path / "log")
        try:
            replay = Settled(
                "compute",
                Client(w.edge, host="api.example"),
                token=token,
                version_header="compute",
                served=routes_of(w.edge),
                default_headers={"accept": "*/*"},
                prepare=prepare,
                # The recording had more images, and verbs that are not served yet.
                loose_lists=("$.images", "$.instanceActions"),
            )
            replay.world = w
            report = await replay.run(load("compute"))
            print(report)
            report.check(at_least=158, not_served_at_most=38)
        finally:
            await w.stop()

    asyncio.run(main())


async def put_into(w: ComputeWorld, server_id: str, recorded: str) -> None:
    """A state of the recording: a vm_state, with "+task_state", or after "locked:"."""
    state, _, task = recorded.removeprefix("locked:").partition("+")
    locked = "owner" if recorded.startswith("locked:") else None
    now = w.runtime.now_us()
    await w.db.transact(lambda tx: servers.update(tx, server_id, now, state=state, task=task or None, locked_by=locked, locked_reason=None))


def test_every_action_in_every_state(tmp_path: Path) -> None:
    """Statuses, and the sentences of refusals, of each action that is served: locked servers were asked by a member, others by an admin."""
    cases = [json.loads(line) for line in (GOLDEN / "compute-action-states.jsonl").read_text().splitlines()]
    served = [case for case in cases if case["action"] in ACTIONS]

    async def main() -> None:
        w = await world_of(tmp_path, tmp_path / "log")
        try:
            admin, member = w.client("admin", "2.96"), w.client("member", "2.96")
            made = await member.post("/v2.1/servers", {"server": {"name": "s", "imageRef": IMAGE, "flavorRef": "1", "networks": "none"}})
            ident = made.json["server"]["id"]
            await rest(w)
            differences = []
            for case in served:
                await put_into(w, ident, case["state"])
                asker = member if case["state"].startswith("locked:") else admin
                reply = await asker.post(f"/v2.1/servers/{ident}/action", {case["action"]: case["body"]})
                await rest(w)
                message = None if reply.status < 400 else next(iter(reply.json.values()))["message"]
                expected = (case["status"], case["message"] and case["message"].replace("<uuid>", ident))
                if (reply.status, message) != expected:
                    differences.append(f"{case['action']} {case['body']} in {case['state']}: {expected}, ours {(reply.status, message)}")
            print(len(served), "cases")
            assert not differences, "\n".join(differences)
            assert len(served) >= 112
        finally:
            await w.stop()

    asyncio.run(main())
