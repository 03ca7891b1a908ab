"""What operators see of hosts: services, hypervisors, zones, and the older /os-hosts."""

from collections.abc import Callable

from kilonova.testing.compute import ComputeWorld
from tests.compute.test_flavors import client
from tests.compute.test_servers import boot, until, wanted

Run = Callable[..., None]


def test_services_at_every_version(compute: Run) -> None:
    async def story(w: ComputeWorld) -> None:
        for version in ("2.1", "2.11", "2.53", "2.69", "2.100"):
            rows = (await client(w, "admin:p9", version).get("/v2.1/os-services")).json["services"]
            assert [r["binary"] for r in rows] == ["nova-conductor", "nova-scheduler", "nova-compute", "nova-compute"]
            assert len({r["id"] for r in rows}) == 4
            assert {r["state"] for r in rows} == {"up"}
        admin = client(w, "admin:p9")
        assert len((await admin.get("/v2.1/os-services?binary=nova-compute&host=host-1")).json["services"]) == 1
        assert (await client(w).get("/v2.1/os-services")).status == 403

    compute(story)


def test_a_disabled_host_gets_no_servers(compute: Run) -> None:
    async def story(w: ComputeWorld) -> None:
        admin, member = client(w, "admin:p9"), client(w)
        rows = (await admin.get("/v2.1/os-services?binary=nova-compute")).json["services"]
        for row in rows:
            reply = await admin.put(f"/v2.1/os-services/{row['id']}", {"status": "disabled", "disabled_reason": "broken"})
            assert reply.json["service"]["disabled_reason"] == "broken"
        made = (await member.post("/v2.1/servers", wanted())).json["server"]
        server = await until(member, made["id"], "ERROR")
        assert "No valid host" in server["fault"]["message"]
        zones = (await member.get("/v2.1/os-availability-zone")).json["availabilityZoneInfo"]
        assert zones == [{"zoneName": "nova", "zoneState": {"available": False}, "hosts": None}]
        detail = (await admin.get("/v2.1/os-availability-zone/detail")).json["availabilityZoneInfo"]
        assert [(z["zoneName"], z["hosts"] is None) for z in detail] == [("internal", False), ("nova", True)]
        enabled = await admin.put(f"/v2.1/os-services/{rows[0]['id']}", {"status": "enabled"})
        assert enabled.json["service"]["disabled_reason"] is None
        await boot(member)

    compute(story)


def test_services_are_switched_in_the_old_way(compute: Run) -> None:
    async def story(w: ComputeWorld) -> None:
        admin, path = client(w, "admin:p9", "2.52"), "/v2.1/os-services"
        which = {"host": "host-1", "binary": "nova-compute"}
        assert (await admin.put(f"{path}/disable", which)).json["service"]["status"] == "disabled"
        reason = await admin.put(f"{path}/disable-log-reason", {**which, "disabled_reason": "r"})
        assert reason.json["service"]["disabled_reason"] == "r"
        assert (await admin.put(f"{path}/disable-log-reason", which)).status == 400
        assert (await admin.put(f"{path}/enable", which)).json["service"]["status"] == "enabled"
        assert (await admin.put(f"{path}/force-down", {**which, "forced_down": True})).json["service"]["forced_down"] is True
        assert (await admin.get(f"{path}?host=host-1")).json["services"][0]["state"] == "down"
        assert (await admin.at("2.10").put(f"{path}/force-down", which)).status == 404
        assert (await admin.put(f"{path}/enable", {**which, "host": "zz"})).status == 404
        assert (await admin.put(f"{path}/frobnicate", which)).status == 404

    compute(story)


def test_service_updates_that_are_refused(compute: Run) -> None:
    async def story(w: ComputeWorld) -> None:
        admin, path = client(w, "admin:p9"), "/v2.1/os-services"
        rows = (await admin.get(path)).json["services"]
        compute_id, scheduler_id = rows[-1]["id"], rows[0]["id"]
        assert (await admin.put(f"{path}/zz", {"status": "enabled"})).status == 400
        assert (await admin.put(f"{path}/11111111-1111-4111-8111-111111111111", {"status": "enabled"})).status == 404
        assert (await admin.put(f"{path}/{scheduler_id}", {"status": "disabled"})).status == 400
        for bad in (
            {},
            {"status": "off"},
            {"disabled_reason": "r"},
            {"status": "enabled", "disabled_reason": "r"},
            {"forced_down": "maybe"},
        ):
            assert (await admin.put(f"{path}/{compute_id}", bad)).status == 400, bad
        assert (await client(w).put(f"{path}/{compute_id}", {"status": "disabled"})).status == 403

    compute(story)


def test_a_host_is_forgotten_when_it_is_empty(compute: Run) -> None:
    async def story(w: ComputeWorld) -> None:
        admin, member = client(w, "admin:p9"), client(w)
        server = await boot(member)
        shown = (await admin.get(f"/v2.1/servers/{server['id']}")).json["server"]["OS-EXT-SRV-ATTR:host"]
        rows = {r["host"]: r["id"] for r in (await admin.get("/v2.1/os-services?binary=nova-compute")).json["services"]}
        refused = await admin.delete(f"/v2.1/os-services/{rows[shown]}")
        assert refused.status == 409
        empty = next(ident for host, ident in rows.items() if host != shown)
        assert (await admin.delete(f"/v2.1/os-services/{empty}")).status == 204
        assert (await admin.delete(f"/v2.1/os-services/{empty}")).status == 404
        assert len((await admin.get("/v2.1/os-hypervisors")).json["hypervisors"]) == 1

    compute(story)


def test_hypervisors_at_every_version(compute: Run) -> None:
    async def story(w: ComputeWorld) -> None:
        server = await boot(client(w))
        for version in ("2.1", "2.28", "2.33", "2.53", "2.75", "2.88", "2.100"):
            admin = client(w, "admin:p9", version)
            rows = (await admin.get("/v2.1/os-hypervisors")).json["hypervisors"]
            assert [r["hypervisor_hostname"] for r in rows] == ["host-1.example", "host-2.example"]
            detail = (await admin.get("/v2.1/os-hypervisors/detail")).json["hypervisors"]
            assert (await admin.get(f"/v2.1/os-hypervisors/{rows[0]['id']}")).json["hypervisor"] == detail[0]
            if version in ("2.1", "2.28", "2.33", "2.53", "2.75"):
                assert sum(h["running_vms"] for h in detail) == 1
                assert sum(h["vcpus_used"] for h in detail) == 1
                totals = (await admin.get("/v2.1/os-hypervisors/statistics")).json["hypervisor_statistics"]
                assert (totals["count"], totals["running_vms"]) == (2, 1)
                assert totals["memory_mb_used"] == sum(h["memory_mb_used"] for h in detail) > 512
                assert (await admin.get(f"/v2.1/os-hypervisors/{rows[0]['id']}/uptime")).status == 501
            else:
                assert (await admin.get("/v2.1/os-hypervisors/statistics")).status == 404
                assert (await admin.get(f"/v2.1/os-hypervisors/{rows[0]['id']}/uptime")).status == 404
        old, new = client(w, "admin:p9", "2.52"), client(w, "admin:p9")
        assert len((await old.get("/v2.1/os-hypervisors/host-2/search")).json["hypervisors"]) == 1
        assert (await old.get("/v2.1/os-hypervisors/zz/search")).status == 404
        names = [s["uuid"] for h in (await old.get("/v2.1/os-hypervisors/host/servers")).json["hypervisors"] for s in h.get("servers", ())]
        assert names == [server["id"]]
        with_servers = (await new.get("/v2.1/os-hypervisors?with_servers=true&hypervisor_hostname_pattern=host")).json["hypervisors"]
        assert sorted(len(h["servers"]) for h in with_servers) == [0, 1]
        page = (await new.get("/v2.1/os-hypervisors?limit=1")).json
        following = page["hypervisors_links"][0]["href"].removeprefix("http://localhost")
        assert [h["hypervisor_hostname"] for h in (await new.get(following)).json["hypervisors"]] == ["host-2.example"]
        for bad in ("limit=x", "limit=1&limit=2", "marker=zz", "with_servers=perhaps", "foo=1", "hypervisor_hostname_pattern=host&limit=1"):
            assert (await new.get(f"/v2.1/os-hypervisors?{bad}")).status == 400, bad
        assert (await new.get("/v2.1/os-hypervisors?hypervisor_hostname_pattern=zz")).status == 404
        assert (await new.get("/v2.1/os-hypervisors/1")).status == 400
        assert (await old.get("/v2.1/os-hypervisors/99")).status == 404
        assert (await client(w).get("/v2.1/os-hypervisors")).status == 403

    compute(story)


def test_zones(compute: Run) -> None:
    async def story(w: ComputeWorld) -> None:
        for version in ("2.1", "2.100"):
            zones = (await client(w, version=version).get("/v2.1/os-availability-zone")).json["availabilityZoneInfo"]
            assert zones == [{"zoneName": "nova", "zoneState": {"available": True}, "hosts": None}]
            detail = (await client(w, "admin:p9", version).get("/v2.1/os-availability-zone/detail")).json["availabilityZoneInfo"]
            assert set(detail[1]["hosts"]) == {"host-1", "host-2"}
            assert detail[1]["hosts"]["host-1"]["nova-compute"]["available"] is True
        assert (await client(w).get("/v2.1/os-availability-zone/detail")).status == 403

    compute(story)


def test_there_are_no_aggregates(compute: Run) -> None:
    async def story(w: ComputeWorld) -> None:
        assert (await client(w, "admin:p9").get("/v2.1/os-aggregates")).json == {"aggregates": []}
        assert (await client(w).get("/v2.1/os-aggregates")).status == 403

    compute(story)


def test_old_hosts(compute: Run) -> None:
    async def story(w: ComputeWorld) -> None:
        await boot(client(w))
        admin = client(w, "admin:p9", "2.42")
        rows = (await admin.get("/v2.1/os-hosts")).json["hosts"]
        assert [(r["service"], r["zone"]) for r in rows[:1] + rows[-1:]] == [("conductor", "internal"), ("compute", "nova")]
        assert len((await admin.get("/v2.1/os-hosts?zone=nova")).json["hosts"]) == 2
        resources = []
        for name in ("host-1", "host-2"):
            resources += [r["resource"] for r in (await admin.get(f"/v2.1/os-hosts/{name}")).json["host"]]
        assert {r["project"] for r in resources} == {"(total)", "(used_now)", "(used_max)", "p1"}
        assert sum(r["memory_mb"] for r in resources if r["project"] == "(used_max)") == 512
        assert (await admin.put("/v2.1/os-hosts/host-1", {"status": "disable"})).json == {"host": "host-1", "status": "disabled"}
        assert (await admin.put("/v2.1/os-hosts/host-1", {"maintenance_mode": "enable"})).status == 501
        assert (await admin.put("/v2.1/os-hosts/host-1", {})).status == 400
        assert (await admin.get("/v2.1/os-hosts/host-1/reboot")).status == 501
        assert (await admin.get("/v2.1/os-hosts/zz")).status == 404
        assert (await admin.at("2.43").get("/v2.1/os-hosts")).status == 404

    compute(story)
