"""Subnets and subnet pools over the API."""

from collections.abc import Callable
from typing import Any

from .conftest import World, failed

Run = Callable[..., None]
NOWHERE = "11111111-1111-1111-1111-111111111111"


def test_defaults_and_changes(run: Run) -> None:
    async def story(w: World) -> None:
        user = w.client()
        net = await user.network(None)
        subnet = await user.create("subnets", network_id=net["id"], cidr="10.0.0.77/24", ip_version=4)
        assert (subnet["cidr"], subnet["gateway_ip"], subnet["enable_dhcp"]) == ("10.0.0.0/24", "10.0.0.1", True)
        assert subnet["allocation_pools"] == [{"start": "10.0.0.2", "end": "10.0.0.254"}]
        dhcp = await w.client("admin:admin").list("ports", "?device_owner=network:dhcp")
        assert [p["fixed_ips"] for p in dhcp] == [[{"subnet_id": subnet["id"], "ip_address": "10.0.0.2"}]]
        changes: dict[str, Any] = {
            "name": "s",
            "dns_nameservers": ["8.8.8.8", "1.1.1.1"],
            "host_routes": [{"destination": "10.9.0.0/16", "nexthop": "10.0.0.9"}],
            "enable_dhcp": False,
        }
        changed = await user.put("subnets", subnet["id"], **changes)
        assert {name: changed[name] for name in changes} == changes
        assert await w.client("admin:admin").list("ports") == []
        moved = await user.put(
            "subnets", subnet["id"], gateway_ip="10.0.0.254", allocation_pools=[{"start": "10.0.0.5", "end": "10.0.0.9"}]
        )
        assert (moved["gateway_ip"], moved["allocation_pools"]) == ("10.0.0.254", [{"start": "10.0.0.5", "end": "10.0.0.9"}])
        port = await user.create("ports", network_id=net["id"])
        assert port["fixed_ips"][0]["ip_address"] == "10.0.0.5"
        failed(await user.client.delete(f"/v2.0/subnets/{subnet['id']}"), 409, "SubnetInUse")
        failed(await user.client.put(f"/v2.0/subnets/{subnet['id']}", {"subnet": {"cidr": "10.0.0.0/25"}}), 400)
        await user.delete("ports", port["id"])
        await user.delete("subnets", subnet["id"])

    run(story)


def test_without_a_gateway_and_with_pools(run: Run) -> None:
    async def story(w: World) -> None:
        user = w.client()
        net = await user.network(None)
        one = await user.create("subnets", network_id=net["id"], cidr="10.0.0.0/29", ip_version=4, gateway_ip=None)
        assert (one["gateway_ip"], one["allocation_pools"]) == (None, [{"start": "10.0.0.1", "end": "10.0.0.6"}])
        two = await user.create("subnets", network_id=net["id"], cidr="10.1.0.0/29", ip_version="4", gateway_ip="10.1.0.3")
        assert two["allocation_pools"] == [{"start": "10.1.0.1", "end": "10.1.0.2"}, {"start": "10.1.0.4", "end": "10.1.0.6"}]
        tiny = await user.create("subnets", network_id=net["id"], cidr="10.2.0.0/32", ip_version=4, gateway_ip=None, enable_dhcp=False)
        assert tiny["allocation_pools"] == [{"start": "10.2.0.0", "end": "10.2.0.0"}]
        six = await user.create(
            "subnets", network_id=net["id"], cidr="fd00::/64", ip_version=6, ipv6_ra_mode="slaac", ipv6_address_mode="slaac"
        )
        assert (six["gateway_ip"], six["ipv6_address_mode"]) == ("fd00::1", "slaac")
        port = await user.create("ports", network_id=net["id"], mac_address="fa:16:3e:00:00:01")
        assert {"subnet_id": six["id"], "ip_address": "fd00::f816:3eff:fe00:1"} in port["fixed_ips"]
        assert len(port["fixed_ips"]) == 2
        await user.delete("subnets", six["id"])
        assert len((await user.get("ports", port["id"]))["fixed_ips"]) == 1

    run(story)


def test_bad_subnets(run: Run) -> None:
    async def story(w: World) -> None:
        user = w.client()
        net = await user.network("10.0.0.0/24")

        async def refused(status: int, kind: str, words: str = "", **values: Any) -> None:
            body = {"network_id": net["id"], "ip_version": 4, "cidr": "10.5.0.0/24", **values}
            failed(await user.client.post("/v2.0/subnets", {"subnet": {k: v for k, v in body.items() if v != "-"}}), status, kind, words)

        await refused(400, "InvalidInput", "overlaps with another subnet", cidr="10.0.0.128/25")
        await refused(400, "HTTPBadRequest", "is not a valid IP subnet", cidr="10.0.0.0/33")
        await refused(400, "HTTPBadRequest", "is not a valid IP subnet", cidr="10.0.0.0")
        await refused(400, "InvalidInput", "does not match the ip_version", cidr="fd00::/64")
        await refused(400, "BadRequest", "subnetpool must be specified", cidr="-")
        await refused(400, "HTTPBadRequest", "Required attribute 'network_id'", network_id="-")
        await refused(404, "NetworkNotFound", network_id=NOWHERE)
        await refused(400, "InvalidInput", gateway_ip="10.5.0.0")
        await refused(400, "HTTPBadRequest", gateway_ip="x")
        await refused(400, "OutOfBoundsAllocationPool", allocation_pools=[{"start": "10.6.0.1", "end": "10.6.0.2"}])
        await refused(400, "InvalidAllocationPool", allocation_pools=[{"start": "10.5.0.9", "end": "10.5.0.2"}])
        await refused(
            409,
            "OverlappingAllocationPools",
            allocation_pools=[{"start": "10.5.0.2", "end": "10.5.0.5"}, {"start": "10.5.0.5", "end": "10.5.0.9"}],
        )
        await refused(409, "GatewayConflictWithAllocationPools", allocation_pools=[{"start": "10.5.0.1", "end": "10.5.0.5"}])
        await refused(400, "InvalidInput", ipv6_ra_mode="slaac")
        await refused(400, "InvalidInput", dns_nameservers=[f"1.1.1.{i}" for i in range(9)])
        await refused(400, "HTTPBadRequest", dns_nameservers=["a.b.c"])
        await refused(400, "HTTPBadRequest", host_routes=[{"destination": "10.0.0.0/8"}])
        await refused(403, "PolicyNotAuthorized", service_types=["compute:nova"])
        other = await w.client("member:p2").network(None)
        await refused(404, "NetworkNotFound", network_id=other["id"])

    run(story)


def test_shared_networks_are_extended_by_their_owner_only(run: Run) -> None:
    async def story(w: World) -> None:
        admin, user = w.client("admin:admin"), w.client()
        net = await admin.network("10.0.0.0/24", shared=True)
        assert [s["id"] for s in await user.list("subnets")] == [net["subnet"]["id"]]
        body = {"subnet": {"network_id": net["id"], "cidr": "10.1.0.0/24", "ip_version": 4}}
        failed(await user.client.post("/v2.0/subnets", body), 403, "PolicyNotAuthorized")
        failed(await user.client.delete(f"/v2.0/subnets/{net['subnet']['id']}"), 403)
        private = await w.client("member:p2").network("10.2.0.0/24")
        failed(await user.client.get(f"/v2.0/subnets/{private['subnet']['id']}"), 404, "SubnetNotFound")

    run(story)


def test_subnet_pools(run: Run) -> None:
    async def story(w: World) -> None:
        user, other = w.client(), w.client("member:p2")
        pool = await user.create("subnetpools", name="p", prefixes=["10.10.0.0/24", "10.10.1.0/24"], default_prefixlen="26")
        assert (pool["prefixes"], pool["ip_version"], pool["min_prefixlen"], pool["max_prefixlen"]) == (["10.10.0.0/23"], 4, 8, 32)
        assert (pool["default_prefixlen"], pool["default_quota"], pool["is_default"]) == (26, None, False)
        net = await user.network(None)
        one = await user.create("subnets", network_id=net["id"], ip_version=4, subnetpool_id=pool["id"])
        assert (one["cidr"], one["subnetpool_id"]) == ("10.10.0.0/26", pool["id"])
        two = await user.create("subnets", network_id=net["id"], ip_version=4, subnetpool_id=pool["id"], prefixlen=25)
        assert two["cidr"] == "10.10.0.128/25"
        exact = {"network_id": net["id"], "ip_version": 4, "subnetpool_id": pool["id"], "cidr": "10.10.1.0/24"}
        await user.create("subnets", **exact)
        failed(await user.client.post("/v2.0/subnets", {"subnet": exact}), 409, "SubnetAllocationError")
        big = {"network_id": net["id"], "ip_version": 4, "subnetpool_id": pool["id"], "prefixlen": 25}
        failed(await user.client.post("/v2.0/subnets", {"subnet": big}), 409, "SubnetAllocationError", "Insufficient prefix space")
        failed(
            await user.client.post("/v2.0/subnets", {"subnet": {**big, "prefixlen": 7}}), 400, "PrefixLength", "minimum allowed prefix is 8"
        )
        failed(await user.client.delete(f"/v2.0/subnetpools/{pool['id']}"), 409, "SubnetPoolDeleteError")
        failed(await other.client.get(f"/v2.0/subnetpools/{pool['id']}"), 404, "SubnetPoolNotFound")
        theirs = await other.network(None)
        foreign = {"network_id": theirs["id"], "ip_version": 4, "subnetpool_id": pool["id"]}
        failed(await other.client.post("/v2.0/subnets", {"subnet": foreign}), 404, "SubnetPoolNotFound")
        changed = await user.put("subnetpools", pool["id"], name="q", default_prefixlen=27)
        assert (changed["name"], changed["default_prefixlen"]) == ("q", 27)
        body = {"subnetpool": {"prefixes": ["10.10.0.0/24"]}}
        failed(await user.client.put(f"/v2.0/subnetpools/{pool['id']}", body), 400, "IllegalSubnetPoolPrefixUpdate")
        reply = await user.client.put(f"/v2.0/subnetpools/{pool['id']}/add_prefixes", {"prefixes": ["10.10.2.0/23"]})
        assert reply.json == {"prefixes": ["10.10.0.0/22"]}
        reply = await user.client.put(f"/v2.0/subnetpools/{pool['id']}/remove_prefixes", {"prefixes": ["10.10.2.0/24"]})
        assert reply.json == {"prefixes": ["10.10.0.0/23", "10.10.3.0/24"]}
        failed(await user.client.put(f"/v2.0/subnetpools/{pool['id']}/remove_prefixes", {"prefixes": ["10.10.0.0/24"]}), 400)
        bad: Any
        for bad in ({"prefixes": []}, {"prefixes": ["10.0.0.0/8", "fd00::/8"]}, {"prefixes": ["x"]}, {"name": ""}, {"min_prefixlen": 33}):
            failed(await user.client.post("/v2.0/subnetpools", {"subnetpool": {"name": "b", "prefixes": ["10.0.0.0/8"], **bad}}), 400)
        failed(await user.client.post("/v2.0/subnetpools", {"subnetpool": {"name": "b", "prefixes": ["10.0.0.0/8"], "shared": True}}), 403)

    run(story)


def test_the_default_pool(run: Run) -> None:
    async def story(w: World) -> None:
        admin, user = w.client("admin:admin"), w.client()
        net = await user.network(None)
        body = {"subnet": {"network_id": net["id"], "ip_version": 4, "use_default_subnetpool": True}}
        failed(await user.client.post("/v2.0/subnets", body), 400, "BadRequest", "No default subnetpool found")
        await admin.create("subnetpools", name="d", prefixes=["10.20.0.0/16"], default_prefixlen=24, shared=True, is_default=True)
        reply = await user.client.post("/v2.0/subnets", body)
        assert reply.json["subnet"]["cidr"] == "10.20.0.0/24"
        second = {"subnetpool": {"name": "e", "prefixes": ["10.30.0.0/16"], "is_default": True}}
        failed(await admin.client.post("/v2.0/subnetpools", second), 400, "InvalidInput")

    run(story)
