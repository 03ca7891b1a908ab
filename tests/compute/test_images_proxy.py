"""Images through compute, as clients before 2.36 ask."""

from collections.abc import Callable
from pathlib import Path

from kilonova.app import Cloud, Plan
from kilonova.core.log import Sink
from kilonova.core.runtime import Runtime
from kilonova.testing.compute import ComputeWorld
from kilonova.testing.fakes import IMAGE
from tests.compute.test_flavors import client

Run = Callable[..., None]


def test_images(compute: Run) -> None:
    async def story(w: ComputeWorld) -> None:
        c = client(w, version="2.35")
        w.images.put("00000000-0000-4000-9000-0000000000aa", name="snap", status="saving", size=None, properties={"instance_uuid": IMAGE})
        assert [i["name"] for i in (await c.get("/v2.1/images")).json["images"]] == ["cirros", "snap"]
        first, second = (await c.get("/v2.1/images/detail")).json["images"]
        assert (first["status"], first["progress"], first["OS-EXT-IMG-SIZE:size"]) == ("ACTIVE", 100, 1 << 20)
        assert (second["status"], second["progress"], second["server"]["id"]) == ("SAVING", 50, IMAGE)
        assert (await c.get(f"/v2.1/images/{IMAGE}")).json["image"] == first
        assert (await c.get("/v2.1/images/zz")).status == 404
        for bad in ("limit=x", "minDisk=x", "changes-since=zz"):
            assert (await c.get(f"/v2.1/images?{bad}")).status == 400, bad
        assert (await c.at("2.36").get("/v2.1/images")).status == 404
        assert (await c.delete(f"/v2.1/images/{second['id']}")).status == 204
        assert (await c.delete(f"/v2.1/images/{second['id']}")).status == 404

    compute(story)


def test_image_metadata(compute: Run) -> None:
    async def story(w: ComputeWorld) -> None:
        c = client(w, version="2.38")
        path = f"/v2.1/images/{IMAGE}/metadata"
        assert (await c.get(path)).json == {"metadata": {"architecture": "x86_64"}}
        assert (await c.post(path, {"metadata": {"a": "b"}})).json == {"metadata": {"architecture": "x86_64", "a": "b"}}
        assert (await c.put(path, {"metadata": {"c": "d"}})).json == {"metadata": {"c": "d"}}
        assert (await c.put(f"{path}/e", {"meta": {"e": "f"}})).json == {"meta": {"e": "f"}}
        assert (await c.put(f"{path}/e", {"meta": {"x": "f"}})).status == 400
        assert (await c.get(f"{path}/e")).json == {"meta": {"e": "f"}}
        assert (await c.delete(f"{path}/e")).status == 204
        assert (await c.delete(f"{path}/e")).status == 404
        assert (await c.get(path)).json == {"metadata": {"c": "d"}}
        assert (await c.get("/v2.1/images/zz/metadata")).status == 404
        assert (await c.at("2.39").get(path)).status == 404

    compute(story)


def test_links_lead_to_the_clouds_own_image_service(tmp_path: Path) -> None:
    """Unless a file or an override names another address."""
    plain = Plan(state=str(tmp_path), port_offset=1000)
    elsewhere = Plan(state=str(tmp_path), overrides={("glance", "endpoint_override"): "https://images.example"})
    for plan, address in ((plain, "http://127.0.0.1:10292"), (elsewhere, "https://images.example")):
        cloud = Cloud(plan, Runtime(), Sink((tmp_path / "log").open("w")), database=":memory:")
        assert cloud.compute is not None
        assert cloud.compute.settings["glance"].endpoint_override == address
