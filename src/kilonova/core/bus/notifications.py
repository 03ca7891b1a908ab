"""Versioned notifications, in the envelope of oslo.messaging (messagingv2) and the object form of Nova's.

What is told is told after the transaction that made it true: a process that dies in between tells nothing, and nothing waits for a reader.
A body is JSON: {"oslo.version": "2.0", "oslo.message": "<JSON of the notification>"}; it goes to the queue "<topic>.<priority>".
"""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import msgspec

from kilonova.core import times
from kilonova.core.config import Settings
from kilonova.core.context import Context
from kilonova.core.log import Log
from kilonova.core.runtime import Runtime


class Sender(Protocol):
    def notify(self, exchange: str, queue: str, data: bytes, *, quorum: bool = True) -> None: ...


class Notifier:
    """`wanted` says whether anybody listens: ask it before you gather a payload."""

    def __init__(
        self,
        runtime: Runtime,
        log: Log,
        *,
        sender: Sender | None = None,
        exchange: str = "nova",
        topics: Sequence[str] = ("versioned_notifications",),
        to_log: bool = False,
        quorum: bool = True,
    ) -> None:
        self.wanted = sender is not None or to_log
        self._runtime = runtime
        self._log = log
        self._sender = sender
        self._exchange = exchange
        self._topics = tuple(topics)
        self._quorum = quorum

    def emit(self, ctx: Context, event_type: str, publisher_id: str, payload: dict[str, Any], *, error: bool = False) -> None:
        """Tell it. Never fails and never waits."""
        if not self.wanted:
            return
        priority = "ERROR" if error else "INFO"
        notification = {
            "message_id": self._runtime.uuid(),
            "publisher_id": publisher_id,
            "event_type": event_type,
            "priority": priority,
            "payload": payload,
            "timestamp": times.iso_us(self._runtime.now_us()).replace("T", " "),
            "_unique_id": self._runtime.uuid_hex(),
            "_context_request_id": ctx.request_id,
            "_context_global_request_id": ctx.global_request_id,
            "_context_user_id": ctx.user_id,
            "_context_project_id": ctx.project_id,
            "_context_roles": list(ctx.roles),
            "_context_is_admin": ctx.is_admin,
        }
        if self._sender is None:
            self._log.info("notification", event_type=event_type, publisher=publisher_id, payload=payload)
            return
        text = msgspec.json.encode(notification).decode()
        data = msgspec.json.encode({"oslo.version": "2.0", "oslo.message": text})
        for topic in self._topics:
            self._sender.notify(self._exchange, f"{topic}.{priority.lower()}", data, quorum=self._quorum)


def notifier(settings: Mapping[str, Settings], sender: Sender | None, runtime: Runtime, log: Log) -> Notifier:
    """From the groups DEFAULT, oslo_messaging_notifications and notifications of `config.OPTIONS`. Without a broker nothing is sent."""
    ours, topics = settings["oslo_messaging_notifications"], settings["notifications"].versioned_notifications_topics
    if settings["notifications"].notification_format == "unversioned" or ours.driver == "noop":
        return Notifier(runtime, log)
    if ours.driver == "log":
        return Notifier(runtime, log, to_log=True)
    if sender is None:
        log.warning("notifications want a broker: set [oslo_messaging_notifications] transport_url or [DEFAULT] transport_url")
    return Notifier(runtime, log, sender=sender, topics=topics, quorum=ours.rabbit_quorum_queue)


def versioned(name: str, version: str, data: dict[str, Any]) -> dict[str, Any]:
    """A payload, or a part of one, in the form of Nova's objects."""
    return {"nova_object.name": name, "nova_object.namespace": "nova", "nova_object.version": version, "nova_object.data": data}
