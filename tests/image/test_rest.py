"""Image over REST: our own v2 API as the other side, with the caller's token and without it, and sides that fail."""

import io
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest

from kilonova.core import config as config_module
from kilonova.core.context import Context, service_context
from kilonova.core.errors import BadRequest, Conflict, Forbidden, NotFound, Unauthorized, Unavailable
from kilonova.core.log import Log, Sink
from kilonova.core.rest import CallerTokens, Login, Peer, ServiceToken
from kilonova.image.config import OPTIONS
from kilonova.image.contract import ImageFilters, Images, NewImage
from kilonova.image.errors import Damaged
from kilonova.image.rest import RestImages
from kilonova.testing.tokens import context
from tests.image.conftest import World, qcow2

MIB = 1 << 20
ADMIN = service_context("compute")


class Body(httpx.AsyncByteStream):
    def __init__(self, data: bytes, then: Exception | None = None) -> None:
        self.data, self.then = data, then

    async def __aiter__(self) -> Any:
        yield self.data
        if self.then:
            raise self.then


def _login(request: httpx.Request) -> httpx.Response:
    endpoints = [{"interface": "public", "url": "http://glance/", "region_id": "R"}]
    token = {"expires_at": "2999-01-01T00:00:00Z", "catalog": [{"type": "image", "endpoints": endpoints}]}
    return httpx.Response(201, json={"token": token}, headers={"x-subject-token": "admin:service"})


class Wire(httpx.ASGITransport):
    """Remembers headers; `answer` may stand in for the other side."""

    def __init__(self, app: Any) -> None:
        super().__init__(app)
        self.asked: list[httpx.Request] = []
        self.answer: Callable[[httpx.Request], httpx.Response | None] = lambda request: None

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        self.asked.append(request)
        return self.answer(request) or await super().handle_async_request(request)


class Bound:
    """The binding on a world. Tokens are as FakeTokens has them: `role:project`."""

    def __init__(self, w: World) -> None:
        self.w = w
        self.wire = Wire(w.edge)
        self.log = io.StringIO()
        log = Log("test", Sink(self.log))
        self.callers = CallerTokens()
        keystone = Peer("http://keystone", "identity service", log, transport=httpx.MockTransport(_login))
        login = Login(auth_url="http://keystone", username="nova", password="x", project_name="service")
        conf = config_module.build([OPTIONS])
        self.images = RestImages(
            runtime=w.runtime,
            log=log,
            settings=config_module.settings(conf, OPTIONS, "glance"),
            url="",
            service_token=ServiceToken(keystone, login, w.runtime, log),
            callers=self.callers,
            transport=self.wire,
        )

    async def user(self, role: str, project: str, known: bool) -> Context:
        """Someone who asked just now (his token is known), or long ago."""
        ctx = msgspec.structs.replace(context(role, project), audit_ids=(f"audit-{role}-{project}",), expires_at=1 << 60)

        async def authenticate(token: str, service_token: str | None = None) -> Context:
            return ctx

        if known:
            await self.callers.remembering(authenticate, self.w.runtime)(f"{role}:{project}", None)
        return ctx


Story = Callable[[Bound, bool], Awaitable[None]]


@pytest.fixture(params=[True, False], ids=["with the caller's token", "on his behalf"])
def bound(request: pytest.FixtureRequest, run: Callable[..., None]) -> Callable[[Story], None]:
    def runner(story: Story) -> None:
        async def main(w: World) -> None:
            one = Bound(w)
            try:
                await story(one, request.param)
            finally:
                await one.images.stop()

        run(main)

    return runner


def test_a_snapshot_from_create_to_delete(bound: Callable[[Story], None], tmp_path: Path) -> None:
    async def story(b: Bound, known: bool) -> None:
        images: Images = b.images
        owner = await b.user("member", "p1", known)
        new = NewImage(
            name="snap", disk_format="qcow2", container_format="bare", visibility="private", properties={"image_type": "snapshot"}
        )
        image = await images.create(owner, new)
        path = tmp_path / "disk"
        path.write_bytes(qcow2())
        info = await images.write(owner, image, str(path))
        assert (info.status, info.size, info.virtual_size, info.owner) == ("active", 1 << 18, 1 << 30, "p1")
        there = await b.w.service.get(owner, image)
        seconds = {name: getattr(there, name) // 1_000_000 * 1_000_000 for name in ("created_at", "updated_at")}
        assert info == msgspec.structs.replace(there, **seconds)
        assert await images.local_path(owner, image) is None
        data = path.read_bytes()
        assert await images.read(owner, image, 0, 4) == data[:4]
        assert await images.read(owner, image, 100, 70000) == data[100:70100]
        assert await images.read(owner, image, (1 << 18) - 3, 10) == data[-3:]
        assert await images.read(owner, image, 1 << 18, 10) == b""
        changed = await images.update(owner, image, {"a": "b"}, remove=("image_type", "never"), min_disk=5)
        assert (changed.properties, changed.min_disk) == ({"a": "b"}, 5)
        assert (await images.update(owner, image, {})).properties == {"a": "b"}
        await images.delete(owner, image)
        for call in (images.get(owner, image), images.delete(owner, image), images.read(owner, image, 0, 1)):
            with pytest.raises(NotFound):
                await call
        own = {r.headers["x-auth-token"] for r in b.wire.asked}
        assert own == ({"member:p1"} if known else {"admin:service"})
        assert {r.headers.get("x-service-token") for r in b.wire.asked} == ({"admin:service"} if known else {None})

    bound(story)


def test_rights_are_those_of_the_caller(bound: Callable[[Story], None], tmp_path: Path) -> None:
    async def story(b: Bound, known: bool) -> None:
        owner, stranger = await b.user("member", "p1", known), await b.user("member", "p2", known)
        reader, images = await b.user("reader", "p1", known), b.images
        path = tmp_path / "disk"
        path.write_bytes(b"x" * 100)
        private = await b.w.active(b"x", visibility="private")
        public = await b.w.active(b"y", client=b.w.admin, visibility="public")
        shared = await b.w.active(b"z", visibility="shared")
        queued = await b.w.image()
        for call in (
            images.get(stranger, private),
            images.read(stranger, private, 0, 1),
            images.download(stranger, private, str(tmp_path / "out")),
            images.delete(stranger, private),
            images.update(stranger, private, {"a": "b"}),
            images.write(stranger, queued, str(path)),
            images.get(stranger, shared),
        ):
            with pytest.raises(NotFound):
                await call
        assert (await images.get(reader, private)).id == private
        assert await images.read(stranger, public, 0, 9) == b"y"
        for call in (
            images.read(reader, private, 0, 1),
            images.update(reader, private, {"a": "b"}),
            images.delete(reader, private),
            images.delete(stranger, public),
            images.update(stranger, public, {"a": "b"}),
            images.update(owner, private, {}, visibility="public"),
            images.create(owner, NewImage(name="n", visibility="public")),
            images.create(owner, NewImage(name="n", owner="p2")),
        ):
            with pytest.raises(Forbidden):
                await call
        assert (await b.w.member.post(f"/v2/images/{shared}/members", {"member": "p2"})).status == 200
        assert (await images.get(stranger, shared)).id == shared
        assert (await images.get(ADMIN, private)).id == private

    bound(story)


def test_lists(bound: Callable[[Story], None]) -> None:
    async def story(b: Bound, known: bool) -> None:
        owner = await b.user("member", "p1", known)
        ids = [await b.w.image(name=f"i{n}", tags=["t"] if n else [], kind="a" if n < 2 else "b") for n in range(3)]
        await b.w.image(b.w.other, visibility="private")

        async def listed(**filters: Any) -> list[str]:
            return [found.id for found in await b.images.list(owner, ImageFilters(**filters))]

        assert sorted(await listed()) == sorted(ids)
        assert await listed(name="i1") == [ids[1]]
        assert sorted(await listed(tags=("t",))) == sorted(ids[1:])
        assert sorted(await listed(properties=(("kind", "a"),))) == sorted(ids[:2])
        assert await listed(status=("active",)) == []
        assert sorted(await listed(status=("active", "queued"), changed_since=0)) == sorted(ids)
        first = await listed(limit=2)
        assert [*first, *await listed(limit=2, marker=first[-1])] == await listed()
        with pytest.raises((NotFound, BadRequest)):
            await listed(marker="0" * 8 + "-0000-4000-8000-" + "0" * 12)

    bound(story)


def one(run: Callable[..., None], story: Callable[[Bound], Awaitable[None]]) -> None:
    async def main(w: World) -> None:
        b = Bound(w)
        try:
            await story(b)
        finally:
            await b.images.stop()

    run(main)


@pytest.mark.parametrize("image_id", ["", "..", "../tasks", "a/b", "x" * 36, "00000000-0000-4000-8000-00000000000/"])
def test_what_is_no_id_becomes_no_path(run: Callable[..., None], image_id: str) -> None:
    async def story(b: Bound) -> None:
        for call in (b.images.get(ADMIN, image_id), b.images.delete(ADMIN, image_id), b.images.read(ADMIN, image_id, 0, 1)):
            with pytest.raises(NotFound):
                await call
        assert b.wire.asked == []

    one(run, story)


@pytest.mark.parametrize("name", ["a/b", "a~b", "", "x" * 256, "owner", "id", "locations"])
def test_properties_are_no_pointers(run: Callable[..., None], name: str) -> None:
    async def story(b: Bound) -> None:
        image = await b.w.image()
        with pytest.raises(BadRequest):
            await b.images.update(ADMIN, image, {name: "x"})

    one(run, story)


@pytest.mark.parametrize("size", [0, 1, MIB, 3 * MIB + 17])
def test_a_download_is_whole(run: Callable[..., None], tmp_path: Path, size: int) -> None:
    async def story(b: Bound) -> None:
        data = bytes(range(251)) * (size // 251 + 1)
        image = await b.w.active(data[:size])
        await b.images.download(ADMIN, image, str(tmp_path / "out"))
        assert (tmp_path / "out").read_bytes() == data[:size]

    one(run, story)


def test_a_download_goes_on_where_it_broke_off(run: Callable[..., None], tmp_path: Path) -> None:
    data = bytes(range(251)) * (3 * MIB // 251)
    answers: list[httpx.Response] = []

    async def story(b: Bound) -> None:
        image = await b.w.active(data)
        b.wire.answer = lambda request: answers.pop() if answers and request.url.path.endswith("/file") else None
        answers.append(httpx.Response(200, stream=Body(data[:MIB], httpx.ReadError("gone"))))
        await b.images.download(ADMIN, image, str(tmp_path / "out"))
        assert (tmp_path / "out").read_bytes() == data
        assert [r.headers.get("range") for r in b.wire.asked if r.url.path.endswith("/file")] == [None, f"bytes={MIB}-"]
        # A store that cannot seek sends everything again.
        answers[:] = [httpx.Response(200, stream=Body(data)), httpx.Response(200, stream=Body(data[:MIB], httpx.ReadError("gone")))]
        await b.images.download(ADMIN, image, str(tmp_path / "again"))
        assert (tmp_path / "again").read_bytes() == data
        answers[:] = [httpx.Response(200, stream=Body(data))]
        assert await b.images.read(ADMIN, image, 1000, 5) == data[1000:1005]

    one(run, story)


@pytest.mark.parametrize(("sent", "what"), [(b"x" * 999, "size"), (b"y" * 1000, "sha512")])
def test_damage_is_noticed(run: Callable[..., None], tmp_path: Path, sent: bytes, what: str) -> None:
    async def story(b: Bound) -> None:
        image = await b.w.active(b"x" * 1000)
        b.wire.answer = lambda request: httpx.Response(200, stream=Body(sent)) if request.url.path.endswith("/file") else None
        with pytest.raises(Damaged, match=what):
            await b.images.download(ADMIN, image, str(tmp_path / "out"))

    one(run, story)


def _away(request: httpx.Request) -> httpx.Response:
    raise httpx.ConnectError("refused", request=request)


def test_glance_away(run: Callable[..., None], tmp_path: Path) -> None:
    async def story(b: Bound) -> None:
        image = await b.w.active()
        b.wire.answer = _away
        for call in (b.images.get(ADMIN, image), b.images.read(ADMIN, image, 0, 1), b.images.download(ADMIN, image, str(tmp_path / "out"))):
            with pytest.raises(Unavailable, match="image service at http://glance"):
                await call

    one(run, story)


def test_sentences_of_glance_are_passed_on(run: Callable[..., None]) -> None:
    async def story(b: Bound) -> None:
        page = "<html><head><title>409 Conflict</title></head><body><h1>409 Conflict</h1>Image in use.<br/></body></html>"
        b.wire.answer = lambda request: httpx.Response(409, text=page)
        with pytest.raises(Conflict, match=r"^Image in use\.$"):
            await b.images.create(ADMIN, NewImage(name="n"))

    one(run, story)


def test_refused_tokens(run: Callable[..., None]) -> None:
    """The user's is his matter (401), ours is not (503)."""

    async def story(b: Bound) -> None:
        image = await b.w.active()
        user = await b.user("member", "p1", True)
        b.wire.answer = lambda request: httpx.Response(401)
        with pytest.raises(Unauthorized):
            await b.images.get(user, image)
        with pytest.raises(Unavailable, match="does not accept this service's own user"):
            await b.images.get(ADMIN, image)

    one(run, story)


def test_an_answer_that_is_no_image(run: Callable[..., None]) -> None:
    async def story(b: Bound) -> None:
        image = await b.w.image()
        for text in ("", "[]", "{}", '{"id": 7}', "<html>"):
            b.wire.answer = lambda request, text=text: httpx.Response(200, text=text)  # type: ignore[misc]
            with pytest.raises(Unavailable, match="cannot be understood"):
                await b.images.get(ADMIN, image)

    one(run, story)
