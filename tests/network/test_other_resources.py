"""Quotas, agents, zones, tags, address counts, automatic topologies, bootstrap."""

from collections.abc import Callable

from kilonova.network.api.networks import NETWORKS
from kilonova.network.api.ports import PORTS
from kilonova.network.api.routers import ROUTERS
from kilonova.network.api.subnets import SUBNETS
from kilonova.network.policies import RULES
from kilonova.network.routes import ROUTES

from .conftest import World, allocate, failed

Run = Callable[..., None]


def test_quotas(run: Run) -> None:
    async def story(w: World) -> None:
        admin, user, manager = w.client("admin:admin"), w.client(), w.client("manager:p1")
        assert (await user.get("quotas", "p1"))["network"] == 100
        failed(await user.client.get("/v2.0/quotas/p2"), 403, "PolicyNotAuthorized")
        failed(await manager.client.get("/v2.0/quotas/p2/details"), 403)
        failed(await user.client.put("/v2.0/quotas/p1", {"quota": {"network": 1}}), 403)
        failed(await user.client.get("/v2.0/quotas"), 403)
        changed = await admin.put("quotas", "p1", network=1, port="-1")
        assert (changed["network"], changed["port"], changed["subnet"]) == (1, -1, 100)
        await user.create("networks")
        failed(await user.client.post("/v2.0/networks", {"network": {}}), 409, "OverQuota")
        details = await user.get("quotas", "p1/details.json")
        assert details["network"] == {"limit": 1, "used": 1, "reserved": 0}
        assert (await user.get("quotas", "p1/default"))["network"] == 100
        assert [q["project_id"] for q in await admin.list("quotas")] == ["p1"]
        for bad in ({"network": -2}, {"network": "x"}, {"nope": 1}):
            failed(await admin.client.put("/v2.0/quotas/p1", {"quota": bad}), 400)
        assert (await admin.client.delete("/v2.0/quotas/p1")).status == 204
        failed(await admin.client.delete("/v2.0/quotas/p1"), 404, "TenantQuotaNotFound")
        await user.create("networks")

    run(story)


def test_agents_and_zones(run: Run) -> None:
    async def story(w: World) -> None:
        await w.host("h1")
        await w.host("h2")
        admin, user = w.client("admin:admin"), w.client()
        agents = await admin.list("agents")
        assert [(a["host"], a["agent_type"]) for a in agents[:4]] == [
            ("h1", "DHCP agent"), ("h1", "L3 agent"), ("h1", "Metadata agent"), ("h1", "Open vSwitch agent"),
        ]  # fmt: skip
        assert len(agents) == 8
        assert all(a["alive"] and a["admin_state_up"] for a in agents)
        assert agents[0]["binary"] == "neutron-dhcp-agent"
        assert len(await admin.list("agents", "?agent_type=L3 agent&host=h2")) == 1
        changed = await admin.put("agents", agents[0]["id"], admin_state_up=False, description="x")
        assert (changed["admin_state_up"], changed["description"]) == (False, "x")
        assert await user.list("agents") == []
        failed(await user.client.get(f"/v2.0/agents/{agents[0]['id']}"), 404, "AgentNotFound")
        failed(await user.client.delete(f"/v2.0/agents/{agents[0]['id']}"), 404, "AgentNotFound")
        failed(await admin.client.get("/v2.0/agents/nope"), 404, "AgentNotFound")
        for agent in agents[:4]:
            await admin.delete("agents", agent["id"])
        assert {a["host"] for a in await admin.list("agents")} == {"h2"}
        await w.agents["h1"].resync()
        assert len(await admin.list("agents")) == 8
        zones = await user.list("availability_zones")
        assert zones == [{"name": "nova", "resource": r, "state": "available"} for r in ("network", "router")]
        assert (await user.list("service-providers"))[0]["service_type"] == "L3_ROUTER_NAT"

    run(story)


def test_tags(run: Run) -> None:
    async def story(w: World) -> None:
        user, other, reader = w.client(), w.client("member:p2"), w.client("reader:p1")
        net = await user.create("networks", name="n", tags=["b"])
        assert net["tags"] == ["b"]
        path = f"/v2.0/networks/{net['id']}/tags"
        assert (await user.client.put(f"{path}/a.json")).status == 201
        assert (await user.client.get(path)).json == {"tags": ["a.json", "b"]}
        assert (await user.client.get(f"{path}/b")).status == 204
        failed(await user.client.get(f"{path}/c"), 404, "TagNotFound")
        assert (await user.client.put(path, {"tags": ["x", "x", "y"]})).json == {"tags": ["x", "y"]}
        assert (await user.client.post(path, {"tags": ["z"]})).json == {"tags": ["x", "y", "z"]}
        assert (await user.client.delete(f"{path}/x")).status == 204
        failed(await user.client.delete(f"{path}/x"), 404, "TagNotFound")
        failed(await other.client.get(path), 404, "NetworkNotFound")
        failed(await other.client.put(f"{path}/q"), 404)
        failed(await reader.client.put(f"{path}/q"), 403)
        failed(await reader.client.put(path, {"tags": []}), 403)
        assert (await reader.client.get(path)).status == 200
        failed(await user.client.put(path, {"tags": ["a,b"]}), 400)
        failed(await user.client.put(path, {"tags": ["a" * 61]}), 400)
        failed(await user.client.put(path, {}), 400)
        assert (await user.client.delete(path)).status == 204
        assert (await user.get("networks", net["id"]))["tags"] == []
        shared = await w.client("admin:admin").create("networks", name="s", shared=True)
        failed(await user.client.put(f"/v2.0/networks/{shared['id']}/tags/q"), 403)
        for collection, body in (
            ("routers", {"name": "r"}),
            ("security-groups", {"name": "g"}),
            ("subnetpools", {"name": "p", "prefixes": ["10.0.0.0/8"]}),
        ):
            made = await user.create(collection, **body)
            assert (await user.client.put(f"/v2.0/{collection}/{made['id']}/tags/t")).status == 201

    run(story)


def test_address_counts(run: Run) -> None:
    async def story(w: World) -> None:
        await w.host("h1")
        admin, user = w.client("admin:admin"), w.client()
        net = await user.network("10.0.0.0/24")
        await w.service.allocate(w.ctx(), allocate("s1", "h1", net["id"]))
        found = await admin.list("network-ip-availabilities", f"?network_id={net['id']}")
        assert [(n["total_ips"], n["used_ips"], n["network_name"]) for n in found] == [(253, 2, "net")]
        reply = await admin.client.get(f"/v2.0/network-ip-availabilities/{net['id']}")
        assert reply.json["network_ip_availability"]["subnet_ip_availability"][0]["cidr"] == "10.0.0.0/24"
        assert await user.list("network-ip-availabilities") == []
        failed(await user.client.get(f"/v2.0/network-ip-availabilities/{net['id']}"), 404)

    run(story)


def test_automatic_topology(run: Run) -> None:
    async def story(w: World) -> None:
        await w.host("h1")
        admin, user, ctx = w.client("admin:admin"), w.client(), w.ctx()
        path = "/v2.0/auto-allocated-topology/p1"
        failed(await user.client.get(path), 409, "AutoAllocationFailure")
        await w.service.bootstrap(project_id="admin")
        await admin.create("subnetpools", name="d", prefixes=["10.20.0.0/16"], default_prefixlen=24, shared=True, is_default=True)
        assert (await user.client.get(f"{path}?fields=dry-run")).json["auto_allocated_topology"]["id"] == "dry-run=pass"
        assert await user.list("routers") == []
        net = (await user.client.get(path)).json["auto_allocated_topology"]["id"]
        assert (await user.client.get(path)).json["auto_allocated_topology"]["id"] == net
        assert len(await user.list("routers")) == 1
        failed(await w.client("member:p2").client.get(path), 404)
        (nic,) = await w.service.allocate(w.ctx(project="p3"), allocate("s3", "h1", project_id="p3", auto="auto"))
        assert nic.fixed_ips[0].ip.startswith("10.20.1.")
        assert (await user.client.delete(path)).status == 204
        assert await user.list("routers") == []
        await w.service.validate(ctx, (), "auto", (), 1)

    run(story)


def test_bootstrap_makes_public_once(run: Run) -> None:
    async def story(w: World) -> None:
        await w.service.bootstrap(project_id="admin")
        await w.service.bootstrap(project_id="admin")
        user = w.client()
        (net,) = await user.list("networks", "?router:external=True")
        assert (net["name"], net["shared"], net["project_id"]) == ("public", True, "admin")
        (subnet,) = await user.list("subnets")
        assert (subnet["cidr"], subnet["gateway_ip"], subnet["enable_dhcp"]) == ("203.0.113.0/24", "203.0.113.1", False)
        (seen,) = await w.client("admin:admin").list("networks")
        assert (seen["provider:network_type"], seen["provider:physical_network"]) == ("flat", "public")

    run(story)


def test_rows_outlive_the_service(run: Run) -> None:
    async def story(w: World) -> None:
        driver = await w.host("h1")
        user, ctx = w.client(), w.ctx()
        net = await user.network()
        await w.service.allocate(ctx, allocate("s1", "h1", net["id"]))
        await w.service.wait_wired(ctx, "s1", 5)
        before = driver.state
        await w.service.stop()
        w.service = w.edge.service = w.make_service()
        await w.service.start()
        await w.settle()
        assert w.service.topology.state("h1") == before
        await w.service.allocate(ctx, allocate("s2", "h1", net["id"]))
        await w.service.wait_wired(ctx, "s2", 15)  # agents that outlive the service are called in after five seconds
        assert len(driver.state.ports) == 2

    run(story)


def test_documents_show_exactly_the_visible_attributes(run: Run) -> None:
    async def story(w: World) -> None:
        admin = w.client("admin:admin")
        net = await admin.network()
        router = await admin.create("routers", name="r")
        port = await admin.create("ports", network_id=net["id"])
        for res, row_id in ((NETWORKS, net["id"]), (SUBNETS, net["subnet"]["id"]), (ROUTERS, router["id"]), (PORTS, port["id"])):
            seen = await admin.get(res.collection, row_id)
            assert set(seen) == set(res.attributes.visible), res.name

    run(story)


def test_every_rule_of_a_route_exists() -> None:
    names = {rule.name for rule in RULES}
    for route in ROUTES:
        assert route.policy.startswith("!") or route.policy in names, route
