"""Routers and floating IPs over the API, and on their host."""

from collections.abc import Callable
from typing import Any

from .conftest import Neutron, World, allocate, failed

Run = Callable[..., None]
NOWHERE = "11111111-1111-1111-1111-111111111111"


async def external(w: World) -> Any:
    flat = {"provider:network_type": "flat", "provider:physical_network": "public", "router:external": True}
    net = await w.client("admin:admin").create("networks", name="public", **flat)
    net["subnet"] = await w.client("admin:admin").create(
        "subnets", network_id=net["id"], cidr="203.0.113.0/28", ip_version=4, enable_dhcp=False
    )
    return net


async def interface(user: Neutron, router_id: str, *, remove: bool = False, **what: str) -> Any:
    verb = "remove" if remove else "add"
    return await user.client.put(f"/v2.0/routers/{router_id}/{verb}_router_interface", what)


def test_life_of_a_router(run: Run) -> None:
    async def story(w: World) -> None:
        user, other = w.client(), w.client("member:p2")
        router = await user.create("routers", name="r")
        assert (router["status"], router["external_gateway_info"], router["routes"]) == ("ACTIVE", None, [])
        net = await user.network("10.0.0.0/24")
        two = await user.network("10.1.0.0/24")
        reply = await interface(user, router["id"], subnet_id=net["subnet"]["id"])
        assert reply.status == 200
        assert set(reply.json) >= {"id", "subnet_id", "subnet_ids", "port_id", "network_id", "tenant_id"}
        port = await user.get("ports", reply.json["port_id"])
        assert (port["device_owner"], port["device_id"]) == ("network:router_interface", router["id"])
        assert port["fixed_ips"][0]["ip_address"] == "10.0.0.1"
        failed(await user.client.delete(f"/v2.0/ports/{port['id']}"), 409, "ServicePortInUse")
        failed(await interface(user, router["id"], subnet_id=net["subnet"]["id"]), 400, "BadRequest", "already has a port on subnet")
        own = await user.create("ports", network_id=two["id"])
        assert (await interface(user, router["id"], port_id=own["id"])).json["port_id"] == own["id"]
        second = await user.create("routers", name="r2")
        failed(await interface(user, second["id"], port_id=own["id"]), 409, "PortInUse")
        failed(await user.client.delete(f"/v2.0/routers/{router['id']}"), 409, "RouterInUse", "still has ports")
        failed(await other.client.get(f"/v2.0/routers/{router['id']}"), 404, "RouterNotFound")
        failed(await interface(other, router["id"], subnet_id=net["subnet"]["id"]), 404, "RouterNotFound")
        assert (await interface(user, router["id"], remove=True, subnet_id=net["subnet"]["id"])).status == 200
        failed(await interface(user, router["id"], remove=True, subnet_id=net["subnet"]["id"]), 404, "RouterInterfaceNotFoundForSubnet")
        assert (await interface(user, router["id"], remove=True, port_id=own["id"])).status == 200
        failed(await interface(user, router["id"], remove=True, port_id=own["id"]), 404, "PortNotFound")
        assert (await user.client.get(f"/v2.0/ports/{own['id']}")).status == 404
        await user.delete("routers", router["id"])
        failed(await user.client.put(f"/v2.0/routers/{router['id']}", {"router": {"name": "x"}}), 404, "RouterNotFound")

    run(story)


def test_bad_interfaces(run: Run) -> None:
    async def story(w: World) -> None:
        user = w.client()
        router = await user.create("routers", name="r")
        net = await user.network("10.0.0.0/24")
        inside = await user.network("10.0.0.128/25")
        no_gateway = await user.network(None)
        bare = await user.create("subnets", network_id=no_gateway["id"], cidr="10.9.0.0/24", ip_version=4, gateway_ip=None)
        theirs = await w.client("member:p2").network("10.8.0.0/24")
        await interface(user, router["id"], subnet_id=net["subnet"]["id"])
        failed(await interface(user, router["id"], subnet_id=inside["subnet"]["id"]), 400, "BadRequest", "overlaps with cidr")
        failed(await interface(user, router["id"], subnet_id=bare["id"]), 400, "BadRequest", "must have a gateway IP")
        failed(await interface(user, router["id"], subnet_id=theirs["subnet"]["id"]), 404, "SubnetNotFound")
        failed(await interface(user, router["id"]), 400, "BadRequest")
        failed(await interface(user, router["id"], subnet_id=bare["id"], port_id=NOWHERE), 400, "BadRequest")
        failed(await interface(user, router["id"], port_id=NOWHERE), 404, "PortNotFound")
        failed(await interface(user, router["id"], subnet_id="x"), 400)
        second = await user.create("routers", name="r2")
        failed(await interface(user, second["id"], subnet_id=net["subnet"]["id"]), 409, "IpAddressAlreadyAllocated")

    run(story)


def test_gateway_and_routes(run: Run) -> None:
    async def story(w: World) -> None:
        admin, user = w.client("admin:admin"), w.client()
        ext, net = await external(w), await user.network()
        failed(
            await user.client.post("/v2.0/routers", {"router": {"external_gateway_info": {"network_id": NOWHERE}}}), 404, "NetworkNotFound"
        )
        failed(
            await user.client.post("/v2.0/routers", {"router": {"external_gateway_info": {"network_id": net["id"]}}}),
            400,
            "BadRequest",
            "is not an external network",
        )
        failed(
            await user.client.post("/v2.0/routers", {"router": {"external_gateway_info": {"network_id": ext["id"], "enable_snat": False}}}),
            403,
        )
        router = await user.create("routers", name="r", external_gateway_info={"network_id": ext["id"]})
        info = router["external_gateway_info"]
        assert (info["network_id"], info["enable_snat"], info["external_fixed_ips"][0]["ip_address"]) == (ext["id"], True, "203.0.113.2")
        gateways = await admin.list("ports", f"?device_id={router['id']}&device_owner=network:router_gateway")
        assert [p["project_id"] for p in gateways] == [""]
        snat = await admin.put("routers", router["id"], external_gateway_info={"network_id": ext["id"], "enable_snat": False})
        assert snat["external_gateway_info"]["enable_snat"] is False
        assert snat["external_gateway_info"]["external_fixed_ips"] == info["external_fixed_ips"]
        moved = await admin.put(
            "routers", router["id"], external_gateway_info={"network_id": ext["id"], "external_fixed_ips": [{"ip_address": "203.0.113.9"}]}
        )
        assert moved["external_gateway_info"]["external_fixed_ips"][0]["ip_address"] == "203.0.113.9"
        await interface(user, router["id"], subnet_id=net["subnet"]["id"])
        route = {"destination": "10.9.0.0/16", "nexthop": "10.0.0.7"}
        changed = await user.put("routers", router["id"], routes=[route])
        assert changed["routes"] == [route]
        path = f"/v2.0/routers/{router['id']}"
        failed(
            await user.client.put(path, {"router": {"routes": [{"destination": "10.9.0.0/16", "nexthop": "172.16.0.1"}]}}),
            400,
            "InvalidRoutes",
        )
        failed(
            await user.client.put(path, {"router": {"routes": [{"destination": "10.9.0.0/16", "nexthop": "10.0.0.1"}]}}),
            400,
            "InvalidRoutes",
        )
        failed(await interface(user, router["id"], remove=True, subnet_id=net["subnet"]["id"]), 409, "RouterInterfaceInUseByRoute")
        more = {"destination": "10.8.0.0/16", "nexthop": "10.0.0.8"}
        reply = await user.client.put(f"{path}/add_extraroutes", {"router": {"routes": [more]}})
        assert reply.json["router"]["routes"] == [route, more]
        reply = await user.client.put(f"{path}/remove_extraroutes", {"router": {"routes": [route]}})
        assert reply.json["router"]["routes"] == [more]
        cleared = await user.put("routers", router["id"], external_gateway_info={}, routes=[])
        assert cleared["external_gateway_info"] is None
        assert await admin.list("ports", f"?device_id={router['id']}&device_owner=network:router_gateway") == []

    run(story)


def test_floating_ips(run: Run) -> None:
    async def story(w: World) -> None:
        driver = await w.host("h1")
        user, other, ctx = w.client(), w.client("member:p2"), w.ctx()
        told: list[str] = []

        async def hear(message: Any) -> None:
            told.append(message.server_id)

        w.bus.subscribe("network.server_changed", hear)
        ext, net = await external(w), await user.network()
        (nic,) = await w.service.allocate(ctx, allocate("s1", "h1", net["id"]))
        body = {"floatingip": {"floating_network_id": ext["id"], "port_id": nic.port_id}}
        failed(await user.client.post("/v2.0/floatingips", body), 404, "ExternalGatewayForFloatingIPNotFound")
        router = await user.create("routers", name="r", external_gateway_info={"network_id": ext["id"]})
        await interface(user, router["id"], subnet_id=net["subnet"]["id"])
        fip = await user.create("floatingips", floating_network_id=ext["id"])
        assert (fip["status"], fip["port_id"], fip["router_id"], fip["port_details"]) == ("DOWN", None, None, None)
        bound = await user.put("floatingips", fip["id"], port_id=nic.port_id)
        assert (bound["fixed_ip_address"], bound["router_id"]) == (nic.fixed_ips[0].ip, router["id"])
        assert bound["port_details"]["device_id"] == "s1"
        await w.settle()
        assert told == ["s1"]
        assert (await user.get("floatingips", fip["id"]))["status"] == "ACTIVE"
        assert [(f.floating_ip, f.fixed_ip) for f in driver.state.routers[0].floating_ips] == [
            (fip["floating_ip_address"], nic.fixed_ips[0].ip)
        ]
        (now,) = await w.service.nics(ctx, "s1")
        assert now.floating_ips[0].floating_ip == fip["floating_ip_address"]
        failed(await user.client.post("/v2.0/floatingips", body), 409, "FloatingIPPortAlreadyAssociated")
        gone = {"router": {"external_gateway_info": None}}
        failed(await user.client.put(f"/v2.0/routers/{router['id']}", gone), 409, "RouterExternalGatewayInUseByFloatingIp")
        failed(await interface(user, router["id"], remove=True, subnet_id=net["subnet"]["id"]), 409, "RouterInterfaceInUseByFloatingIP")
        failed(await other.client.get(f"/v2.0/floatingips/{fip['id']}"), 404, "FloatingIPNotFound")
        theirs = await other.create("floatingips", floating_network_id=ext["id"])
        failed(await other.client.put(f"/v2.0/floatingips/{theirs['id']}", {"floatingip": {"port_id": nic.port_id}}), 404, "PortNotFound")
        freed = await user.put("floatingips", fip["id"], port_id=None)
        assert (freed["port_id"], freed["router_id"], freed["status"], freed["fixed_ip_address"]) == (None, None, "DOWN", None)
        await w.settle()
        assert driver.state.routers[0].floating_ips == ()
        await user.put("floatingips", fip["id"], port_id=nic.port_id)
        await w.service.release(ctx, "s1")
        assert (await user.get("floatingips", fip["id"]))["port_id"] is None
        await user.delete("floatingips", fip["id"])
        assert (await user.get("quotas", "p1/details"))["floatingip"]["used"] == 0
        await w.settle()
        assert told[-1] == "s1"

    run(story)


def test_bad_floating_ips(run: Run) -> None:
    async def story(w: World) -> None:
        user, admin = w.client(), w.client("admin:admin")
        ext, net = await external(w), await user.network()

        async def refused(status: int, kind: str, words: str = "", **values: Any) -> None:
            failed(
                await user.client.post("/v2.0/floatingips", {"floatingip": {"floating_network_id": ext["id"], **values}}),
                status,
                kind,
                words,
            )

        await refused(400, "BadRequest", "is not a valid external network", floating_network_id=net["id"])
        await refused(404, "NetworkNotFound", floating_network_id=NOWHERE)
        await refused(404, "PortNotFound", port_id=NOWHERE)
        await refused(403, "PolicyNotAuthorized", floating_ip_address="203.0.113.7")
        await refused(400, "BadRequest", fixed_ip_address="10.0.0.3")
        await refused(404, "SubnetNotFound", subnet_id=NOWHERE)
        named = await admin.create("floatingips", floating_network_id=ext["id"], floating_ip_address="203.0.113.7", project_id="p1")
        assert (named["floating_ip_address"], named["project_id"]) == ("203.0.113.7", "p1")
        assert named["id"] in [f["id"] for f in await user.list("floatingips")]
        taken = {"floatingip": {"floating_network_id": ext["id"], "floating_ip_address": "203.0.113.7"}}
        failed(await admin.client.post("/v2.0/floatingips", taken), 409, "IpAddressAlreadyAllocated")
        for _ in range(12):
            await user.create("floatingips", floating_network_id=ext["id"])
        await refused(409, "IpAddressGenerationFailure")
        assert len(await user.list("floatingips")) == 13
        await admin.delete("networks", ext["id"])
        assert await user.list("floatingips") == []

    run(story)


def test_routers_made_before_any_host_find_one(run: Run) -> None:
    async def story(w: World) -> None:
        user = w.client()
        ext, net = await external(w), await user.network()
        router = await user.create("routers", name="r", external_gateway_info={"network_id": ext["id"]})
        await interface(user, router["id"], subnet_id=net["subnet"]["id"])
        driver = await w.host("h1")
        await w.settle()
        (realised,) = driver.state.routers
        assert realised.gateway is not None
        assert (realised.gateway.ips, realised.gateway.next_hop, realised.gateway.mtu) == (("203.0.113.2/28",), "203.0.113.1", 1500)
        assert [(i.ip, i.prefix) for i in realised.interfaces] == [("10.0.0.1", 24)]
        assert {n.id for n in driver.state.networks} == {ext["id"], net["id"]}
        ports = await w.client("admin:admin").list("ports", f"?device_id={router['id']}")
        assert {p["status"] for p in ports} == {"ACTIVE"}
        await w.host("h2")
        second = await user.create("routers", name="r2", external_gateway_info={"network_id": ext["id"]})
        await w.settle()
        assert [r.id for r in w.drivers["h2"].state.routers] == [second["id"]]

    run(story)
