"""What the configuration binds to REST, and that nothing of it is loaded without it."""

import asyncio
import io
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest

from kilonova.app import Cloud, Plan
from kilonova.core.config import ConfigError
from kilonova.core.context import Context
from kilonova.core.errors import Unavailable
from kilonova.core.log import Sink
from kilonova.core.runtime import Runtime
from kilonova.image.drivers.memory import MemoryStore
from kilonova.testing.asgi import Client
from kilonova.testing.cloud import PASSWORD, WholeCloud, expect

LOGIN = {("keystone_authtoken", "username"): "admin", ("keystone_authtoken", "password"): PASSWORD,
         ("keystone_authtoken", "project_name"): "admin"}  # fmt: skip
ELSEWHERE = {("keystone_authtoken", "auth_url"): "http://keystone"}
NOT_OURS = ("placement", "network", "compute")


def cloud(state: Path, services: tuple[str, ...], overrides: dict[tuple[str, str], Any]) -> Cloud:
    (state / "state").mkdir(exist_ok=True)
    plan = Plan(state=str(state / "state"), driver="fake", hosts=2, services=services, overrides=overrides)
    return Cloud(plan, Runtime(), Sink(io.StringIO()), synchronous="OFF", image_store=MemoryStore())


def run(tmp_path: Path, story: Callable[[Cloud, WholeCloud], Awaitable[None]], services: tuple[str, ...], **more: Any) -> None:
    """A cloud whose Keystone and Glance are another cloud's, over a wire in memory."""

    async def main() -> None:
        (tmp_path / "other").mkdir()
        other = WholeCloud(Runtime(), str(tmp_path / "other"))
        await other.start()
        here = cloud(tmp_path, services, {**LOGIN, **ELSEWHERE, ("glance", "endpoint_override"): "http://glance", **more})
        keystone, glance = (httpx.ASGITransport(other.cloud.edges[name]) for name in ("identity", "image"))
        here.bound_identity.peer._client._transport = keystone  # type: ignore[attr-defined]
        if here._glance is not None:
            here._glance._peer._client._transport = glance
        try:
            await here.start({})
            await story(here, other)
        finally:
            await here.stop()
            await other.stop()

    asyncio.run(main())


def test_a_boot_on_anothers_keystone_and_glance(tmp_path: Path) -> None:
    async def story(here: Cloud, other: WholeCloud) -> None:
        assert list(here.edges) == ["placement", "compute", "network"] and here.identity is None and here.image is None
        token = await other.token()
        prepared = await other.prepare(token)
        headers = {"x-auth-token": token, "openstack-api-version": "compute 2.90"}
        compute, network = Client(here.edges["compute"], headers), Client(here.edges["network"], headers)
        expect(await compute.post("/v2.1/flavors", {"flavor": {"name": "nano", "ram": 64, "vcpus": 1, "disk": 1, "id": "nano"}}), 200)
        made = expect(await network.post("/v2.0/networks", {"network": {"name": "private"}}), 201)["network"]
        await network.post("/v2.0/subnets", {"subnet": {"network_id": made["id"], "ip_version": 4, "cidr": "10.0.0.0/16"}})
        body = {"name": "s", "imageRef": prepared["image"], "flavorRef": "nano", "networks": [{"uuid": made["id"]}]}
        server = expect(await compute.post("/v2.1/servers", {"server": body}), 202)["server"]["id"]
        for _ in range(200):
            shown = expect(await compute.get(f"/v2.1/servers/{server}"), 200)["server"]
            if shown["status"] != "BUILD":
                break
            await asyncio.sleep(0.02)
        assert shown["status"] == "ACTIVE", shown
        alternate = Client(here.edges["compute"], {"x-auth-token": token})
        links = expect(await alternate.get(f"/v2.1/images/{prepared['image']}"), 200)["image"]["links"]
        assert any(link["href"].startswith("http://glance/images/") for link in links)
        await here.hypervisors.reach.fetch(prepared["image"], str(tmp_path / "fetched"))
        assert (tmp_path / "fetched").read_bytes() == bytes(4096)
        nobody = await Client(here.edges["compute"], {"x-auth-token": "nonsense"}).get("/v2.1/servers")
        assert nobody.status == 401 and nobody.headers["www-authenticate"] == 'Keystone uri="http://keystone"'
        for file in (tmp_path / "state").glob("kilonova.db*"):
            assert token.encode() not in file.read_bytes()

    run(tmp_path, story, NOT_OURS)


def test_our_image_on_anothers_keystone(tmp_path: Path) -> None:
    async def story(here: Cloud, other: WholeCloud) -> None:
        assert list(here.edges) == ["image"] and here._glance is None
        image = Client(here.edges["image"], {"x-auth-token": await other.token("demo")})
        made = expect(await image.post("/v2/images", {"name": "i"}), 201)
        assert made["owner"] == await other.cloud.bound_identity.project_id("demo")

    run(tmp_path, story, ("identity", "image"))


def test_a_keystone_that_is_away_ends_the_start(tmp_path: Path) -> None:
    async def main() -> None:
        here = cloud(tmp_path, ("placement",), {**LOGIN, ("keystone_authtoken", "auth_url"): "http://127.0.0.1:9"})
        try:
            with pytest.raises(Unavailable, match=r"The identity service at http://127\.0\.0\.1:9/v3 cannot be reached"):
                await here.start({})
        finally:
            await here.stop()

    asyncio.run(main())


def test_compute_without_image_needs_a_user_of_another_glance(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="keystone_authtoken"):
        cloud(tmp_path, NOT_OURS, {})


def test_without_the_package_a_sentence_says_which(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "kilonova.identity.rest", None)
    with pytest.raises(ConfigError, match=r"pip install 'kilonova\[rest\]'"):
        cloud(tmp_path, NOT_OURS, {**LOGIN, **ELSEWHERE})


def test_a_cloud_by_itself_loads_no_http_client() -> None:
    code = "import sys, kilonova.app, kilonova.cli.process; print([m for m in ('httpx', 'kilonova.core.rest') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout == "[]\n", done


def test_contexts_hold_no_token() -> None:
    assert not [name for name in Context.__struct_fields__ if "token" in name]
    assert msgspec.json.encode(Context(audit_ids=("a",))) == b'{"audit_ids":["a"]}'
