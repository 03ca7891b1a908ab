"""Flavors, who may use private ones, and their extra specs."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kilonova.compute.domain import extra_specs
from kilonova.testing.compute import ComputeWorld
from tests.compute.schema import CheckedClient

Run = Callable[..., None]
VERSIONS = ("2.1", "2.55", "2.61", "2.75", "2.100")


def client(w: ComputeWorld, token: str = "member:p1", version: str = "2.100") -> CheckedClient:
    return CheckedClient(w.edge, {"x-auth-token": token, "openstack-api-version": f"compute {version}"})


def wanted(**changes: Any) -> dict[str, Any]:
    return {"flavor": {"name": "big", "ram": 4096, "vcpus": 4, "disk": 40, **changes}}


def test_lists_and_documents_at_every_version(compute: Run) -> None:
    async def story(w: ComputeWorld) -> None:
        for version in VERSIONS:
            c = client(w, version=version)
            assert [f["id"] for f in (await c.get("/v2.1/flavors")).json["flavors"]] == ["1", "2"]
            one = (await c.get("/v2.1/flavors/1")).json["flavor"]
            listed = (await c.get("/v2.1/flavors/detail")).json["flavors"][0]
            assert one == listed
            assert one["swap"] == (0 if version in ("2.75", "2.100") else "")
            assert one["links"][1]["href"] == "http://localhost/flavors/1"

    compute(story)


def test_paging_sorting_and_filters(compute: Run) -> None:
    async def story(w: ComputeWorld) -> None:
        admin, c = client(w, "admin:p9"), client(w)
        for i in range(3):
            assert (await admin.post("/v2.1/flavors", wanted(name=f"f{i}", id=f"x{i}", ram=1000 + i, disk=i))).status == 200
        page = (await c.get("/v2.1/flavors?limit=2&sort_key=name&sort_dir=desc")).json
        assert [f["name"] for f in page["flavors"]] == ["m1.tiny", "m1.small"]
        following = page["flavors_links"][0]["href"].removeprefix("http://localhost")
        assert [f["name"] for f in (await c.get(following)).json["flavors"]] == ["f2", "f1"]
        assert [f["id"] for f in (await c.get("/v2.1/flavors?minRam=1001")).json["flavors"]] == ["2", "x1", "x2"]
        assert [f["id"] for f in (await c.get("/v2.1/flavors?minDisk=2&sort_key=root_gb")).json["flavors"]] == ["x2", "2"]
        for bad in ("limit=-1", "limit=a", "marker=zz", "sort_key=zz", "sort_dir=up", "minRam=x", "foo=1"):
            assert (await c.get(f"/v2.1/flavors?{bad}")).status == 400, bad
        assert (await c.at("2.1").get("/v2.1/flavors?foo=1")).status == 200
        assert (await admin.get("/v2.1/flavors?is_public=zz")).status == 400

    compute(story)


def test_creation_checks_values_and_names(compute: Run) -> None:
    async def story(w: ComputeWorld) -> None:
        admin = client(w, "admin:p9")
        made = (await admin.post("/v2.1/flavors", wanted(ram="512", swap="64", description="d", **{"OS-FLV-EXT-DATA:ephemeral": 3}))).json[
            "flavor"
        ]
        assert (made["ram"], made["swap"], made["OS-FLV-EXT-DATA:ephemeral"], made["extra_specs"]) == (512, 64, 3, {})
        assert (await admin.post("/v2.1/flavors", wanted())).status == 409
        same_id = await admin.post("/v2.1/flavors", wanted(name="other", id=made["id"]))
        assert same_id.json["conflictingRequest"]["message"] == f"Flavor with ID {made['id']} already exists."
        refused: dict[str, list[Any]] = {
            "ram": [0, 2**31, True, "1.5"],
            "vcpus": [0],
            "disk": [-1],
            "name": ["", " x", "a\x00", "n" * 256],
            "id": [" x", "a/b"],
            "rxtx_factor": [0, "inf"],
            "os-flavor-access:is_public": ["perhaps"],
            "colour": ["red"],
            "swap": [-1],
        }
        for bad in ({field: value} for field, values in refused.items() for value in values):
            reply = await admin.post("/v2.1/flavors", wanted(**{"name": "n2", **bad}))
            assert reply.status == 400, (bad, reply)
        assert (await admin.at("2.1").post("/v2.1/flavors", wanted(name="n2", description="d"))).status == 400
        assert (await client(w).post("/v2.1/flavors", wanted(name="n2"))).status == 403
        assert (await admin.put(f"/v2.1/flavors/{made['id']}", {"flavor": {"description": None}})).json["flavor"]["description"] is None
        assert (await admin.at("2.54").put(f"/v2.1/flavors/{made['id']}", {"flavor": {"description": "x"}})).status == 404
        assert (await admin.delete(f"/v2.1/flavors/{made['id']}")).status == 202
        assert (await admin.delete(f"/v2.1/flavors/{made['id']}")).status == 404

    compute(story)


def test_private_flavors_are_seen_by_those_they_were_given_to(compute: Run) -> None:
    async def story(w: ComputeWorld) -> None:
        admin, mine, other = client(w, "admin:p9"), client(w), client(w, "member:p2")
        await admin.post("/v2.1/flavors", wanted(id="secret", **{"os-flavor-access:is_public": False}))
        path = "/v2.1/flavors/secret"
        assert (await mine.get(path)).status == 404
        given = await admin.post(f"{path}/action", {"addTenantAccess": {"tenant": "p1"}})
        assert given.json == {"flavor_access": [{"flavor_id": "secret", "tenant_id": "p1"}]}
        assert (await admin.post(f"{path}/action", {"addTenantAccess": {"tenant": "p1"}})).status == 409
        assert (await mine.get(path)).status == 200
        assert "secret" in [f["id"] for f in (await mine.get("/v2.1/flavors")).json["flavors"]]
        assert (await other.get(path)).status == 404
        assert "secret" not in [f["id"] for f in (await other.get("/v2.1/flavors?is_public=None")).json["flavors"]]
        assert "secret" in [f["id"] for f in (await admin.get("/v2.1/flavors?is_public=false")).json["flavors"]]
        assert "secret" not in [f["id"] for f in (await admin.get("/v2.1/flavors")).json["flavors"]]
        assert (await mine.get(f"{path}/os-flavor-access")).status == 403
        assert len((await admin.get(f"{path}/os-flavor-access")).json["flavor_access"]) == 1
        assert (await admin.get("/v2.1/flavors/1/os-flavor-access")).status == 404
        assert (await admin.post("/v2.1/flavors/1/action", {"addTenantAccess": {"tenant": "p1"}})).status == 409
        assert (await admin.post(f"{path}/action", {"removeTenantAccess": {"tenant": "p1"}})).json == {"flavor_access": []}
        assert (await admin.post(f"{path}/action", {"removeTenantAccess": {"tenant": "p1"}})).status == 404
        assert (await mine.get(path)).status == 404

    compute(story)


def test_extra_specs(compute: Run) -> None:
    async def story(w: ComputeWorld) -> None:
        admin, c = client(w, "admin:p9"), client(w)
        path = "/v2.1/flavors/1/os-extra_specs"
        assert (await admin.post(path, {"extra_specs": {"hw:cpu_policy": "shared", "mine": 3}})).json["extra_specs"]["mine"] == 3
        assert (await c.get(path)).json == {"extra_specs": {"hw:cpu_policy": "shared", "mine": "3"}}
        assert (await c.get(f"{path}/mine")).json == {"mine": "3"}
        assert (await c.get(f"{path}/zz")).status == 404
        assert (await admin.put(f"{path}/mine", {"mine": "4"})).json == {"mine": "4"}
        assert (await admin.put(f"{path}/mine", {"other": "4"})).status == 400
        assert (await admin.put(f"{path}/mine", {"mine": "4", "b": "5"})).status == 400
        bad = await admin.post(path, {"extra_specs": {"hw:cpu_policy": "foo"}})
        assert bad.json["badRequest"]["message"] == "Validation failed; 'foo' is not one of: dedicated, shared, mixed."
        assert (await admin.at("2.85").post(path, {"extra_specs": {"hw:cpu_policy": "foo"}})).status == 200
        assert (await admin.post(path, {"extra_specs": {"a/b": "x"}})).status == 400
        assert (await c.post(path, {"extra_specs": {"a": "x"}})).status == 403
        assert (await admin.delete(f"{path}/mine")).status == 200
        assert (await admin.delete(f"{path}/mine")).status == 404
        assert (await admin.get("/v2.1/flavors/zz/os-extra_specs")).status == 404

    compute(story)


def test_extra_specs_set_at_once_are_all_kept(compute: Run) -> None:
    async def story(w: ComputeWorld) -> None:
        admin = client(w, "admin:p9")
        path = "/v2.1/flavors/1/os-extra_specs"
        replies = await asyncio.gather(*(admin.post(path, {"extra_specs": {f"k{i}": "v"}}) for i in range(20)))
        assert {r.status for r in replies} == {200}
        assert len((await admin.get(path)).json["extra_specs"]) == 20

    compute(story)


@pytest.mark.parametrize(
    ("name", "value", "fine"),
    [
        ("hw:cpu_policy", "dedicated", True),
        ("hw:mem_page_size", "large", True),
        ("hw:mem_page_size", "2MB", True),
        ("hw:mem_page_size", "huge", False),
        ("hw:numa_nodes", "0", False),
        ("hw:numa_cpus.0", "0-3,^2", True),
        ("hw:no_such_thing", "1", False),
        ("trait:HW_CPU_X86_AVX", "required", True),
        ("trait:HW_CPU_X86_AVX", "maybe", False),
        ("resources:VCPU", "1", True),
        ("quota:vif_inbound_average", "32768", True),
        ("quota:cpu_shares", "x", False),
        ("quota:nonsense", "1", False),
        ("anything", "goes", True),
        ("mine:too", "goes", True),
    ],
)
def test_known_extra_specs(name: str, value: str, fine: bool) -> None:
    assert (extra_specs.wrong(name, value) == "") is fine


@given(st.text(max_size=40), st.text(max_size=40))
def test_a_verdict_on_any_extra_spec(name: str, value: str) -> None:
    verdict = extra_specs.wrong(name, value)
    assert verdict == "" or verdict.startswith("Validation failed; ")
