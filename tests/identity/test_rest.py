"""Identity over REST: our own Keystone API as the other side, and sides that fail."""

import asyncio
import io
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest

from kilonova.core import config as config_module
from kilonova.core.context import Context
from kilonova.core.errors import NotFound, Unauthorized, Unavailable
from kilonova.core.log import Log, Sink
from kilonova.core.runtime import Runtime
from kilonova.identity.config import OPTIONS
from kilonova.identity.rest import MAX_TOKEN, RestIdentity
from kilonova.testing.cloud import PASSWORD, WholeCloud


class Clock(Runtime):
    def __init__(self) -> None:
        super().__init__()
        self.ahead_s = 0.0

    def now(self) -> float:
        return super().now() + self.ahead_s


class Wire(httpx.ASGITransport):
    """Counts what is asked; `answer` may stand in for the other side."""

    def __init__(self, app: Any) -> None:
        super().__init__(app)
        self.asked: list[str] = []
        self.answer: Callable[[httpx.Request], httpx.Response | None] = lambda request: None

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        self.asked.append(f"{request.method} {request.url.path}")
        await asyncio.sleep(0)
        return self.answer(request) or await super().handle_async_request(request)


class World:
    def __init__(self, state: Path, **settings: Any) -> None:
        self.clock = Clock()
        self.whole = WholeCloud(self.clock, str(state))
        self.wire = Wire(self.whole.cloud.edges["identity"])
        self.log = io.StringIO()
        given = {"auth_url": "http://keystone/", "username": "admin", "password": PASSWORD, "project_name": "admin", **settings}
        conf = config_module.build([OPTIONS], (), {("keystone_authtoken", name): value for name, value in given.items()})
        values = config_module.settings(conf, OPTIONS, "keystone_authtoken")
        log = Log("test", Sink(self.log))
        self.bound = RestIdentity(runtime=self.clock, log=log, settings=values, transport=self.wire)

    def validations(self) -> int:
        return self.wire.asked.count("GET /v3/auth/tokens")


def run(tmp_path: Path, story: Callable[[World], Awaitable[None]], **settings: Any) -> None:
    async def whole() -> None:
        world = World(tmp_path, **settings)
        await world.whole.start()
        try:
            await story(world)
        finally:
            await world.bound.stop()
            await world.whole.stop()

    asyncio.run(whole())


def test_both_bindings_say_the_same(tmp_path: Path) -> None:
    async def story(w: World) -> None:
        assert w.whole.cloud.identity is not None
        for name, project in (("admin", "admin"), ("demo", "demo")):
            token = await w.whole.token(name, project)
            ours, theirs = await w.whole.cloud.identity.authenticate(token), await w.bound.authenticate(token)
            assert msgspec.structs.replace(ours, roles=()) == msgspec.structs.replace(theirs, roles=())
            assert sorted(ours.roles) == sorted(theirs.roles) and theirs.roles
            assert await w.bound.project_id(project) == theirs.project_id
            assert await w.bound.project_exists(theirs.project_id or "")
        assert not await w.bound.project_exists("0" * 32)
        assert not await w.bound.project_exists("../users")
        with pytest.raises(NotFound):
            await w.bound.project_id("nobody")

    run(tmp_path, story)


def test_an_answer_is_believed_for_its_time_and_no_longer(tmp_path: Path) -> None:
    async def story(w: World) -> None:
        token = await w.whole.token("demo")
        for _ in range(3):
            await w.bound.authenticate(token)
        assert w.validations() == 1
        admin = await w.whole.token()
        gone = await w.whole.client("identity", admin).delete("/v3/auth/tokens", headers={"x-subject-token": token})
        assert gone.status == 204
        assert (await w.bound.authenticate(token)).user_name == "demo"
        w.clock.ahead_s += 10.1
        with pytest.raises(Unauthorized):
            await w.bound.authenticate(token)
        with pytest.raises(Unauthorized):
            await w.bound.authenticate(token)
        assert w.validations() == 2  # that it is bad is believed for a while too

    run(tmp_path, story)


def test_without_a_cache_every_request_asks(tmp_path: Path) -> None:
    async def story(w: World) -> None:
        token = await w.whole.token("demo")
        for _ in range(3):
            await w.bound.authenticate(token)
        assert w.validations() == 3

    run(tmp_path, story, token_cache_time=-1)


def test_one_question_for_all_who_ask_at_one_time(tmp_path: Path) -> None:
    async def story(w: World) -> None:
        token = await w.whole.token("demo")
        await w.bound.start()
        asking = [asyncio.ensure_future(w.bound.authenticate(token)) for _ in range(20)]
        await asyncio.sleep(0)
        asking[0].cancel()  # whoever asked went away: the next asks
        found = await asyncio.gather(*asking, return_exceptions=True)
        assert all(isinstance(ctx, Context) for ctx in found[1:])
        assert w.validations() <= 2

    run(tmp_path, story)


@pytest.mark.parametrize("token", ["", "nonsense", "a b", "a\nb", "ä", "x" * (MAX_TOKEN + 1), "gAAAAABk"])
def test_bad_tokens(tmp_path: Path, token: str) -> None:
    async def story(w: World) -> None:
        with pytest.raises(Unauthorized):
            await w.bound.authenticate(token)
        good = await w.whole.token("demo")
        with pytest.raises(Unauthorized):
            await w.bound.authenticate(good, token)
        assert w.validations() <= 3

    run(tmp_path, story)


def test_an_expired_token_needs_a_service(tmp_path: Path) -> None:
    async def story(w: World) -> None:
        token = await w.whole.token("demo")
        await w.bound.authenticate(token)
        w.clock.ahead_s += 3601
        service = await w.whole.token()
        with pytest.raises(Unauthorized):
            await w.bound.authenticate(token)
        with pytest.raises(Unauthorized):
            await w.bound.authenticate(token, await w.whole.token("demo"))  # of a user who is no service
        ctx = await w.bound.authenticate(token, service)
        assert ctx.user_name == "demo" and "admin" in ctx.service_roles
        with pytest.raises(Unauthorized):
            await w.bound.authenticate(token)  # what a service was told is not told to others

    run(tmp_path, story, service_token_roles=["admin"])


def test_our_own_token_is_renewed_when_it_is_refused(tmp_path: Path) -> None:
    async def story(w: World) -> None:
        token = await w.whole.token("demo")
        await w.bound.start()
        mine = await w.bound.service_token.get()
        admin = await w.whole.token()
        assert (await w.whole.client("identity", admin).delete("/v3/auth/tokens", headers={"x-subject-token": mine})).status == 204
        assert (await w.bound.authenticate(token)).user_name == "demo"
        assert w.wire.asked.count("POST /v3/auth/tokens") == 2

    run(tmp_path, story)


def _away(request: httpx.Request) -> httpx.Response:
    raise httpx.ConnectError("refused", request=request)


@pytest.mark.parametrize("answer", [_away, lambda request: httpx.Response(503, text="no")])
def test_keystone_away(tmp_path: Path, answer: Callable[[httpx.Request], httpx.Response]) -> None:
    """What is in the cache is good until its time is over; nobody is let in or sent away for good."""

    async def story(w: World) -> None:
        known, new = await w.whole.token("demo"), await w.whole.token("demo")
        await w.bound.authenticate(known)
        w.wire.answer = answer
        assert (await w.bound.authenticate(known)).user_name == "demo"
        for token in (new, new):
            with pytest.raises(Unavailable, match="identity service at http://keystone/v3"):
                await w.bound.authenticate(token)
        w.clock.ahead_s += 10.1
        with pytest.raises(Unavailable):
            await w.bound.authenticate(known)
        w.wire.answer = lambda request: None
        assert (await w.bound.authenticate(new)).user_name == "demo"
        assert new not in w.log.getvalue()

    run(tmp_path, story)


def test_a_service_user_without_its_role(tmp_path: Path) -> None:
    """A mistake of the operator: said in the log, and not taken for a bad token."""

    async def story(w: World) -> None:
        token = await w.whole.token()
        with pytest.raises(Unavailable, match="refuses to answer this service"):
            await w.bound.authenticate(token)
        assert "it needs the role service or admin" in w.log.getvalue()

    run(tmp_path, story, username="demo", project_name="demo")


def test_an_answer_that_is_none(tmp_path: Path) -> None:
    async def story(w: World) -> None:
        await w.bound.start()
        for answer in ({"token": {}}, [], {"token": {"user": {"id": "u", "name": "n"}, "expires_at": "soon"}}):
            w.wire.answer = lambda request, answer=answer: httpx.Response(200, json=answer)  # type: ignore[misc]
            with pytest.raises(Unavailable):
                await w.bound.authenticate("token")

    run(tmp_path, story)
