"""Versioned notifications: which are sent, when, and what they look like on the wire."""

import asyncio
import json
from collections.abc import Callable
from typing import Any

from kilonova.compute.domain.notice_payloads import server_payload
from kilonova.compute.store import servers
from kilonova.core.bus.config import OPTIONS
from kilonova.core.bus.notifications import Notifier, notifier
from kilonova.core.config import build, settings
from kilonova.core.context import Context
from kilonova.core.log import Log, Sink
from kilonova.core.runtime import Runtime
from kilonova.testing.compute import ComputeWorld
from kilonova.testing.fakes import IMAGE
from tests.compute.test_flavors import client
from tests.compute.test_servers import boot, until

Run = Callable[..., None]


class Queue:
    """A broker that keeps what it is given."""

    def __init__(self) -> None:
        self.sent: list[tuple[str, str, dict[str, Any]]] = []

    def notify(self, exchange: str, queue: str, data: bytes, *, quorum: bool = True) -> None:
        envelope = json.loads(data)
        assert envelope["oslo.version"] == "2.0"
        self.sent.append((exchange, queue, json.loads(envelope["oslo.message"])))

    def types(self) -> list[str]:
        return [message["event_type"] for _, _, message in self.sent]

    def take(self) -> list[str]:
        found = self.types()
        self.sent.clear()
        return found


def listen(w: ComputeWorld) -> Queue:
    queue = Queue()
    w.compute.notifier = Notifier(w.runtime, w.log, sender=queue)
    return queue


async def told(queue: Queue, event: str) -> None:
    """A server is as its verb leaves it a moment before that is told."""
    async with asyncio.timeout(5):
        while event not in queue.types()[-1:]:  # noqa: ASYNC110
            await asyncio.sleep(0.005)


def test_verbs_are_told(compute: Run) -> None:
    async def story(w: ComputeWorld) -> None:
        queue, c = listen(w), client(w)
        server = await boot(c, metadata={"a": "b"}, tags=["t"])
        await told(queue, "instance.create.end")
        assert queue.types() == ["instance.create.start", "instance.create.end"]
        path = f"/v2.1/servers/{server['id']}/action"
        queue.take()
        for body, status in (({"os-stop": None}, "SHUTOFF"), ({"os-start": None}, "ACTIVE"), ({"reboot": {"type": "HARD"}}, "ACTIVE")):
            assert (await c.post(path, body)).status == 202
            await until(c, server["id"], status)
        assert (await c.post(path, {"rebuild": {"imageRef": IMAGE}})).status == 202
        await until(c, server["id"], "ACTIVE")
        await told(queue, "instance.rebuild.end")
        events = ("power_off", "power_on", "reboot", "rebuild")
        assert queue.take() == [f"instance.{event}.{phase}" for event in events for phase in ("start", "end")]
        await c.delete(f"/v2.1/servers/{server['id']}")
        while "instance.delete.end" not in queue.types():
            await w.runtime.sleep(0.01)
        assert queue.types() == ["instance.delete.start", "instance.delete.end"]
        end = queue.sent[-1][2]["payload"]["nova_object.data"]
        assert (end["state"], end["task_state"], end["ip_addresses"]) == ("deleted", None, [])
        assert end["terminated_at"] and end["deleted_at"]

    compute(story)


def test_a_create_looks_as_nova_tells_it(compute: Run) -> None:
    async def story(w: ComputeWorld) -> None:
        queue, c = listen(w), client(w)
        server = await boot(c, metadata={"a": "b"})
        await told(queue, "instance.create.end")
        exchange, name, message = queue.sent[-1]
        assert (exchange, name) == ("nova", "versioned_notifications.info")
        assert (message["event_type"], message["priority"]) == ("instance.create.end", "INFO")
        assert message["publisher_id"].startswith("nova-compute:")
        assert message["_context_project_id"] == "p1"
        assert not any("token" in key for key in message)
        payload = message["payload"]
        assert set(payload) == {"nova_object.name", "nova_object.namespace", "nova_object.version", "nova_object.data"}
        assert (payload["nova_object.name"], payload["nova_object.version"]) == ("InstanceCreatePayload", "1.12")
        data = payload["nova_object.data"]
        assert (data["uuid"], data["state"], data["power_state"], data["metadata"]) == (server["id"], "active", "running", {"a": "b"})
        assert data["request_id"].startswith("req-")
        assert data["flavor"]["nova_object.name"] == "FlavorPayload"
        addresses = [a["nova_object.data"] for a in data["ip_addresses"]]
        assert [a["address"] for a in addresses] == [n["addr"] for net in server["addresses"].values() for n in net]
        start = queue.sent[0][2]["payload"]["nova_object.data"]
        assert (start["state"], start["host"], start["ip_addresses"]) == ("building", None, [])

    compute(story)


def test_failures_are_told_without_traces(compute: Run) -> None:
    async def story(w: ComputeWorld) -> None:
        queue, c = listen(w), client(w)
        for driver in w.drivers.values():
            driver.fail_next(9, "The disk is full.")
        made = await c.post("/v2.1/servers", {"server": {"name": "s", "imageRef": IMAGE, "flavorRef": "1", "networks": "none"}})
        assert made.status == 202, made
        await until(c, made.json["server"]["id"], "ERROR")
        await told(queue, "instance.create.error")
        _, name, message = queue.sent[-1]
        assert (name, message["event_type"], message["priority"]) == ("versioned_notifications.error", "instance.create.error", "ERROR")
        fault = message["payload"]["nova_object.data"]["fault"]
        assert fault["nova_object.name"] == "ExceptionPayload"
        assert fault["nova_object.data"]["exception_message"]
        assert fault["nova_object.data"]["traceback"] == ""

    compute(story)


def test_services_are_told(compute: Run) -> None:
    async def story(w: ComputeWorld) -> None:
        queue, admin = listen(w), client(w, "admin:p1")
        [service, *_] = [s for s in (await admin.get("/v2.1/os-services")).json["services"] if s["binary"] == "nova-compute"]
        reply = await admin.put(f"/v2.1/os-services/{service['id']}", {"status": "disabled", "disabled_reason": "dust"})
        assert reply.status == 200, reply
        [(_, name, message)] = queue.sent
        assert (name, message["event_type"]) == ("versioned_notifications.info", "service.update")
        data = message["payload"]["nova_object.data"]
        assert (data["host"], data["disabled"], data["disabled_reason"]) == (service["host"], True, "dust")
        queue.sent.clear()
        await w.agents[0].report()
        assert queue.types() == []  # known already

    compute(story)


def test_nobody_listens_by_default(compute: Run) -> None:
    async def story(w: ComputeWorld) -> None:
        assert not w.compute.notifier.wanted
        server = await boot(client(w))
        row = await servers.get(w.compute.cell_db, server["id"])
        assert row is not None
        assert server_payload(Context(), row, "reboot")["nova_object.version"] == "1.8"

    compute(story)


def test_settings() -> None:
    runtime = Runtime()
    log = Log("", Sink(now_us=runtime.now_us))

    def made(**values: str) -> Notifier:
        conf = build([OPTIONS], (), {("oslo_messaging_notifications", name): value for name, value in values.items()})
        return notifier({group: settings(conf, OPTIONS, group) for group in OPTIONS}, Queue(), runtime, log)

    assert not made().wanted
    assert made(driver="messagingv2").wanted
    assert made(driver="log").wanted
