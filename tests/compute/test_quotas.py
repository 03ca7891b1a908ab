"""Quota sets and classes, limits, usage reports."""

from collections.abc import Callable

import pytest

from kilonova.testing.compute import ComputeWorld
from tests.compute.schema import CheckedClient
from tests.compute.test_flavors import client
from tests.compute.test_servers import boot, wanted

Run = Callable[..., None]
P1 = "/v2.1/os-quota-sets/p1"


def test_shapes_at_every_version(compute: Run) -> None:
    async def story(w: ComputeWorld) -> None:
        before = CheckedClient.seen
        for version in ("2.1", "2.36", "2.39", "2.50", "2.57", "2.75", "2.100"):
            admin = client(w, "admin:p1", version)
            for path in (P1, P1 + "/detail", P1 + "/defaults", "/v2.1/os-quota-class-sets/default", "/v2.1/limits"):
                assert (await admin.get(path)).status == 200
            assert (await admin.put(P1, {"quota_set": {"cores": 30}})).json["quota_set"]["cores"] == 30
            assert (await admin.put("/v2.1/os-quota-class-sets/default", {"quota_class_set": {"ram": 9999}})).status == 200
            assert (await admin.delete(P1)).status == 202
        assert CheckedClient.seen - before == 7 * 8

    compute(story)


def test_limits_hold_in_order_project_class_configuration(compute: Run) -> None:
    async def story(w: ComputeWorld) -> None:
        admin, member = client(w, "admin:p9"), client(w)
        assert (await member.get(P1)).json["quota_set"]["instances"] == 10
        await admin.put("/v2.1/os-quota-class-sets/default", {"quota_class_set": {"instances": "7"}})
        assert (await member.get(P1)).json["quota_set"]["instances"] == 7
        assert (await member.get(P1 + "/defaults")).json["quota_set"]["instances"] == 7
        await admin.put(P1, {"quota_set": {"instances": 1}})
        assert (await member.get(P1)).json["quota_set"]["instances"] == 1
        assert (await member.get("/v2.1/limits")).json["limits"]["absolute"]["maxTotalInstances"] == 1
        await boot(member)
        over = await member.post("/v2.1/servers", wanted())
        assert over.json["forbidden"]["message"] == "Quota exceeded for instances: Requested 1, but already used 1 of 1 instances"
        detail = (await member.get(P1 + "/detail")).json["quota_set"]
        assert detail["instances"] == {"limit": 1, "in_use": 1, "reserved": 0}
        assert detail["ram"]["in_use"] == 512
        below = await admin.put(P1, {"quota_set": {"instances": 0}})
        assert below.status == 400
        assert (await admin.put(P1, {"quota_set": {"instances": 0, "force": True}})).status == 200
        await admin.delete(P1)
        assert (await member.get(P1)).json["quota_set"]["instances"] == 7

    compute(story)


def test_limits_of_single_users(compute: Run) -> None:
    async def story(w: ComputeWorld) -> None:
        admin, member = client(w, "admin:p9"), client(w)
        mine = P1 + "?user_id=member-p1"
        await boot(member)
        assert (await admin.put(mine, {"quota_set": {"cores": 5}})).json["quota_set"]["cores"] == 5
        assert (await admin.get(mine)).json["quota_set"]["cores"] == 5
        assert (await admin.get(P1)).json["quota_set"]["cores"] == 20
        assert (await admin.put(mine, {"quota_set": {"cores": 21}})).status == 400
        used = (await admin.get(P1 + "/detail?user_id=member-p1")).json["quota_set"]["cores"]
        assert used == {"limit": 5, "in_use": 1, "reserved": 0}
        assert (await admin.get(P1 + "/detail?user_id=other")).json["quota_set"]["cores"]["in_use"] == 0
        await admin.delete(P1)
        assert (await admin.get(mine)).json["quota_set"]["cores"] == 20

    compute(story)


def test_who_may(compute: Run) -> None:
    async def story(w: ComputeWorld) -> None:
        member, other, reader = client(w), client(w, "member:p2"), client(w, "reader:p1")
        assert (await reader.get(P1)).status == 200
        assert (await other.get(P1)).status == 403
        assert (await other.get(P1 + "/detail")).status == 403
        assert (await member.put(P1, {"quota_set": {"cores": 1}})).status == 403
        assert (await member.delete(P1)).status == 403
        assert (await member.get("/v2.1/os-quota-class-sets/default")).status == 403
        assert (await other.get("/v2.1/limits?tenant_id=p1")).status == 403
        assert (await client(w, "admin:p9").get("/v2.1/limits?tenant_id=p1")).status == 200

    compute(story)


def test_refused_values(compute: Run) -> None:
    async def story(w: ComputeWorld) -> None:
        admin = client(w, "admin:p9")
        for bad in (
            {"cores": -2},
            {"cores": 2**31},
            {"cores": "x"},
            {"cores": None},
            {"foo": 1},
            {"floating_ips": 1},
            {"force": "perhaps"},
        ):
            reply = await admin.put(P1, {"quota_set": bad})
            assert reply.status == 400, bad
        assert (await admin.at("2.1").put(P1, {"quota_set": {"floating_ips": 1}})).json["quota_set"]["floating_ips"] == -1
        assert (await admin.put("/v2.1/os-quota-class-sets/" + "x" * 61, {"quota_class_set": {"cores": 1}})).status == 400
        assert (await admin.get(P1 + "?foo=1")).status == 400

    compute(story)


def test_usage_report(compute: Run) -> None:
    async def story(w: ComputeWorld) -> None:
        member, admin = client(w), client(w, "admin:p9")
        path = "/v2.1/os-simple-tenant-usage"
        assert (await member.get(f"{path}/p1")).json == {"tenant_usage": {}}
        server = await boot(member)
        for version in ("2.1", "2.40", "2.75", "2.100"):
            report = (await member.at(version).get(f"{path}/p1?start=2020-01-01T00:00:00&end=2100-01-01T00:00:00")).json["tenant_usage"]
            assert [s["instance_id"] for s in report["server_usages"]] == [server["id"]]
            assert 0 < report["total_hours"] < 0.1, "a server is not charged for the future"
            assert report["total_memory_mb_usage"] == pytest.approx(report["total_hours"] * 512)
            brief = (await admin.at(version).get(path)).json["tenant_usages"]
            assert [u["tenant_id"] for u in brief] == ["p1"]
            assert "server_usages" not in brief[0]
            assert "server_usages" in (await admin.at(version).get(f"{path}?detailed=1")).json["tenant_usages"][0]
        page = (await admin.get(f"{path}?limit=1&detailed=1")).json
        assert page["tenant_usages_links"][0]["href"].endswith(f"marker={server['id']}")
        await member.delete(f"/v2.1/servers/{server['id']}")
        assert (await member.get(path)).status == 403
        assert (await client(w, "member:p2").get(f"{path}/p1")).status == 403
        for bad in ("start=zz", "start=2030-01-01T00:00:00&end=2029-01-01T00:00:00", "foo=1"):
            assert (await admin.get(f"{path}?{bad}")).status == 400, bad

    compute(story)
