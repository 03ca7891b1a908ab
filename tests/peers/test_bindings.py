"""The image binding on the real Glance: bytes both ways, damage, pieces, whose token goes there."""

import asyncio
import io
import os
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from kilonova.core import config as config_module
from kilonova.core.context import Context, service_context
from kilonova.core.errors import Forbidden, NotFound, Unauthorized
from kilonova.core.log import Log, Sink
from kilonova.core.rest import CallerTokens
from kilonova.core.runtime import Runtime
from kilonova.identity import config as identity_config
from kilonova.identity.rest import RestIdentity
from kilonova.image import config as image_config
from kilonova.image.contract import ImageFilters, NewImage
from kilonova.image.errors import Damaged
from kilonova.image.rest import RestImages
from tests.peers.running import ADMIN_PASSWORD, SERVICE_PASSWORD, Glance, Keystone

ADMIN = service_context("compute")
SIZE = (24 << 20) + 12345


class Bound:
    def __init__(self, keystone: Keystone, url: str) -> None:
        self.runtime, self.log = Runtime(), io.StringIO()
        log = Log("test", Sink(self.log))
        given = {"auth_url": keystone.url, "username": "nova", "password": SERVICE_PASSWORD, "project_name": "service"}
        conf = config_module.build(
            [identity_config.OPTIONS, image_config.OPTIONS], (), {("keystone_authtoken", name): value for name, value in given.items()}
        )
        settings = config_module.settings(conf, identity_config.OPTIONS, "keystone_authtoken")
        self.identity = RestIdentity(runtime=self.runtime, log=log, settings=settings)
        self.callers = CallerTokens()
        self.authenticate = self.callers.remembering(self.identity.authenticate, self.runtime)
        self.images = RestImages(
            runtime=self.runtime,
            log=log,
            settings=config_module.settings(conf, image_config.OPTIONS, "glance"),
            url=url,
            service_token=self.identity.service_token,
            callers=self.callers,
        )

    async def stop(self) -> None:
        await self.images.stop()
        await self.identity.stop()
        self.runtime.close()


@pytest.fixture(params=["endpoint_override", "catalog"])
def run(request: pytest.FixtureRequest, keystone: Keystone, glance: Glance) -> Callable[[Callable[[Bound], Awaitable[None]]], None]:
    def runner(story: Callable[[Bound], Awaitable[None]]) -> None:
        async def main() -> None:
            bound = Bound(keystone, glance.url if request.param == "endpoint_override" else "")
            try:
                await story(bound)
            finally:
                await bound.stop()

        asyncio.run(main())

    return runner


def test_bytes_there_and_back(run: Callable[[Callable[[Bound], Awaitable[None]]], None], tmp_path: Path, glance: Glance) -> None:
    data = os.urandom(SIZE)
    path, out = tmp_path / "disk", tmp_path / "out"
    path.write_bytes(data)

    async def story(b: Bound) -> None:
        new = NewImage(name="disk", disk_format="raw", container_format="bare", visibility="private", properties={"kind": "a", "root": ""})
        image = await b.images.create(ADMIN, new)
        info = await b.images.write(ADMIN, image, str(path))
        assert (info.status, info.size, info.os_hash_algo) == ("active", SIZE, "sha512")
        assert info.properties == {"kind": "a", "root": ""}
        await b.images.download(ADMIN, image, str(out))
        assert out.read_bytes() == data
        at, pieces = 0, []
        while piece := await b.images.read(ADMIN, image, at, 4 << 20):
            pieces.append(piece)
            at += len(piece)
        assert b"".join(pieces) == data
        assert await b.images.read(ADMIN, image, SIZE - 5, 100) == data[-5:]
        changed = await b.images.update(ADMIN, image, {"kind": "b", "new": "c"}, remove=("root", "never"), min_disk=3, name="renamed")
        assert (changed.properties, changed.min_disk, changed.name) == ({"kind": "b", "new": "c"}, 3, "renamed")
        assert [i.id for i in await b.images.list(ADMIN, ImageFilters(name="renamed", properties=(("kind", "b"),)))] == [image]
        assert await b.images.list(ADMIN, ImageFilters(name="renamed", status=("queued", "saving"))) == []
        stored = glance.folder / "images" / image
        with stored.open("r+b") as file:
            file.seek(SIZE // 2)
            byte = file.read(1)
            file.seek(SIZE // 2)
            file.write(bytes([byte[0] ^ 1]))
        with pytest.raises(Damaged, match="sha512"):
            await b.images.download(ADMIN, image, str(tmp_path / "damaged"))
        await b.images.delete(ADMIN, image)
        with pytest.raises(NotFound):
            await b.images.get(ADMIN, image)

    run(story)


def test_an_empty_and_a_queued_image(run: Callable[[Callable[[Bound], Awaitable[None]]], None], tmp_path: Path) -> None:
    async def story(b: Bound) -> None:
        image = await b.images.create(ADMIN, NewImage(name="queued", disk_format="raw", container_format="bare"))
        assert (await b.images.get(ADMIN, image)).status == "queued"
        assert await b.images.read(ADMIN, image, 0, 10) == b""
        await b.images.delete(ADMIN, image)

    run(story)


def test_both_ways_to_ask_decide_alike(run: Callable[[Callable[[Bound], Awaitable[None]]], None], keystone: Keystone) -> None:
    """With the user's token Glance decides, on his behalf we do."""
    keystone.openstack(
        "project create --or-show --domain Default red",
        "project create --or-show --domain Default blue",
        f"user create --or-show --domain Default --password {SERVICE_PASSWORD} rose",
        f"user create --or-show --domain Default --password {SERVICE_PASSWORD} iris",
        "role add --project red --user rose member",
        "role add --project blue --user iris member",
    )

    async def story(b: Bound) -> None:
        rose = await b.authenticate(keystone.token("rose", SERVICE_PASSWORD, "red"), None)
        iris = await b.authenticate(keystone.token("iris", SERVICE_PASSWORD, "blue"), None)
        admin = await b.authenticate(keystone.token("admin", ADMIN_PASSWORD, "admin"), None)
        for who in (lambda ctx: ctx, lambda ctx: ctx.on_behalf("compute")):

            async def refused(call: Awaitable[object], kind: type[Exception]) -> None:
                with pytest.raises(kind):
                    await call

            images = b.images
            private = await images.create(who(rose), NewImage(name="p", disk_format="raw", container_format="bare", visibility="private"))
            info = await images.get(who(rose), private)
            assert (info.owner, info.visibility) == (rose.project_id, "private")
            await refused(images.get(who(iris), private), NotFound)
            await refused(images.delete(who(iris), private), NotFound)
            await refused(images.update(who(rose), private, {}, visibility="public"), Forbidden)
            await refused(images.create(who(rose), NewImage(name="p", visibility="public")), Forbidden)
            public = await images.create(who(admin), NewImage(name="p", visibility="public", protected=True))
            assert (await images.get(who(iris), public)).id == public
            await refused(images.update(who(iris), public, {"a": "b"}), Forbidden)
            await refused(images.delete(who(iris), public), Forbidden)
            await refused(images.delete(who(admin), public), Forbidden)  # protected
            await images.update(who(admin), public, {}, protected=False)
            await images.delete(who(admin), public)
            await images.delete(who(rose), private)

    run(story)


def test_a_token_that_ended_meanwhile(run: Callable[[Callable[[Bound], Awaitable[None]]], None], keystone: Keystone) -> None:
    async def story(b: Bound) -> None:
        token = keystone.token()
        ctx: Context = await b.authenticate(token, None)
        assert (await b.images.list(ctx, ImageFilters(limit=1))) is not None
        answer = await b.identity.peer.ask("DELETE", "/auth/tokens", {"x-auth-token": token, "x-subject-token": token})
        assert answer.status == 204
        with pytest.raises(Unauthorized):
            await b.images.list(ctx, ImageFilters(limit=1))

    run(story)
