"""The harness itself: it must see differences, follow ids, and notice exceptions that are no longer true."""

import asyncio
import json
from typing import Any

import pytest

from kilonova.testing.asgi import Client
from tests.parity import replay as module
from tests.parity.replay import Exception_, Exchange, Replay, Report

THEIRS, OURS = "11111111-1111-4111-8111-111111111111", "22222222-2222-4222-8222-222222222222"


class Echo:
    """Answers each request with what the script says next, and keeps what was asked."""

    def __init__(self, *answers: tuple[int, dict[str, str], Any]) -> None:
        self.answers = list(answers)
        self.asked: list[tuple[str, str, Any]] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        body = (await receive())["body"]
        self.asked.append((scope["method"], scope["path"], json.loads(body) if body else None))
        status, headers, answer = self.answers.pop(0)
        pairs = [(k.encode(), v.encode()) for k, v in {"content-type": "application/json", **headers}.items()]
        await send({"type": "http.response.start", "status": status, "headers": pairs})
        await send({"type": "http.response.body", "body": b"" if answer is None else json.dumps(answer).encode()})


def line(status: int, reply: Any, path: str = "/things", method: str = "GET", body: Any = None, **headers: str) -> Exchange:
    return Exchange(
        number=1, note="n", who=None, method=method, path=path, version=None, headers={}, body=body, status=status,
        reply_headers=headers, reply_body=reply,
    )  # fmt: skip


def ran(echo: Echo, *lines: Exchange, **options: Any) -> Report:
    return asyncio.run(Replay("nobody", Client(echo), **options).run(lines))


def test_ids_are_followed_into_paths_bodies_keys_and_placeholders() -> None:
    echo = Echo((201, {}, {"id": OURS, "secret": "s3"}), (200, {}, {OURS: {"href": f"/x/{OURS}"}}))
    report = ran(
        echo,
        line(201, {"id": THEIRS, "secret": "<SECRET>"}, method="POST"),
        line(200, {THEIRS: {"href": f"/x/{THEIRS}"}}, f"/things/{THEIRS}", "PUT", {"of": THEIRS, "with": "<SECRET>"}),
    )
    report.check(at_least=2, not_served_at_most=0)
    assert echo.asked[1] == ("PUT", f"/things/{OURS}", {"of": OURS, "with": "s3"})


@pytest.mark.parametrize(
    ("recorded", "got", "said"),
    [
        ({"a": 1}, {"a": "1"}, "$.a: recorded number"),
        ({"a": 1}, {}, "missing a"),
        ({}, {"a": 1}, "not in the recording: a"),
        ({"a": [1, 2]}, {"a": [1]}, "2 elements, ours 1"),
        ({"status": "ACTIVE"}, {"status": "ERROR"}, "$.status"),
        ({"a": [{"name": "x", "b": 1}, {"name": "y", "b": None}]}, {"a": [{"name": "y", "b": None}, {"name": "x", "b": None}]}, "$.a[0].b"),
        ("text", {"a": 1}, "recorded string"),
    ],
)
def test_differences_are_seen(recorded: Any, got: Any, said: str) -> None:
    report = ran(Echo((200, {}, got)), line(200, recorded))
    with pytest.raises(AssertionError) as failed:
        report.check(at_least=0)
    assert said in str(failed.value)


def test_status_and_headers_are_compared() -> None:
    assert ran(Echo((404, {}, {})), line(200, {})).failures[0][1][0].startswith("status: recorded 200, ours 404")
    assert "location is missing" in ran(Echo((200, {}, {})), line(200, {}, location="/x")).failures[0][1][0]
    assert ran(Echo((200, {"vary": "B, A"}, {})), line(200, {}, vary="a")).matched
    assert ran(Echo((200, {"allow": "GET"}, {})), line(200, {}, allow="GET, PUT")).failures


def test_routes_that_are_not_served_are_counted() -> None:
    report = ran(Echo(), line(200, {}), served=lambda method, path: False)
    assert len(report.not_served) == 1
    with pytest.raises(AssertionError):
        report.check(at_least=0, not_served_at_most=0)


def test_exceptions_must_be_true(monkeypatch: pytest.MonkeyPatch) -> None:
    excepted = [Exception_("n", "/things", "GET", "because")]
    monkeypatch.setattr(module, "exceptions", lambda service: excepted)
    assert len(ran(Echo((500, {}, {})), line(200, {})).excepted) == 1
    for report in (ran(Echo((200, {}, {})), line(200, {})), ran(Echo((200, {}, {})), line(200, {}, "/others"))):
        with pytest.raises(AssertionError, match="STALE"):
            report.check(at_least=0)
