"""Ports over the API."""

from collections.abc import Callable
from typing import Any

from .conftest import World, allocate, failed

Run = Callable[..., None]
NOWHERE = "11111111-1111-1111-1111-111111111111"


def test_defaults_and_changes(run: Run) -> None:
    async def story(w: World) -> None:
        user = w.client()
        net = await user.network()
        port = await user.create("ports", network_id=net["id"], name="p")
        groups = await user.list("security-groups")
        assert port["security_groups"] == [g["id"] for g in groups if g["name"] == "default"]
        assert port["mac_address"].startswith("fa:16:3e:")
        assert port["fixed_ips"] == [{"subnet_id": net["subnet"]["id"], "ip_address": "10.0.0.3"}]
        assert (port["status"], port["device_id"], port["binding:vnic_type"], port["ip_allocation"]) == ("DOWN", "", "normal", "immediate")
        assert "binding:host_id" not in port
        assert (await w.client("admin:admin").get("ports", port["id"]))["binding:vif_type"] == "unbound"
        group = await user.create("security-groups", name="g")
        changed = await user.put(
            "ports",
            port["id"],
            name="q",
            admin_state_up=False,
            security_groups=[group["id"]],
            fixed_ips=[{"ip_address": "10.0.0.50"}, {"subnet_id": net["subnet"]["id"]}],
            extra_dhcp_opts=[{"opt_name": "bootfile-name", "opt_value": "x"}],
            allowed_address_pairs=[{"ip_address": "10.0.0.99"}, {"ip_address": "10.7.0.0/24", "mac_address": "fa:16:3e:11:22:33"}],
        )
        assert changed["security_groups"] == [group["id"]]
        assert [f["ip_address"] for f in changed["fixed_ips"]] == ["10.0.0.50", "10.0.0.3"]
        assert changed["allowed_address_pairs"][0] == {"mac_address": port["mac_address"], "ip_address": "10.0.0.99"}
        assert changed["extra_dhcp_opts"] == [{"opt_name": "bootfile-name", "opt_value": "x", "ip_version": 4}]
        assert (changed["revision_number"], changed["admin_state_up"]) == (2, False)
        cleared = await user.put(
            "ports", port["id"], security_groups=[], fixed_ips=[], extra_dhcp_opts=[{"opt_name": "bootfile-name", "opt_value": None}]
        )
        assert (cleared["security_groups"], cleared["fixed_ips"], cleared["extra_dhcp_opts"], cleared["ip_allocation"]) == (
            [],
            [],
            [],
            "none",
        )
        fresh = await user.create("ports", network_id=net["id"], fixed_ips=[{"ip_address": "10.0.0.50"}])
        assert fresh["fixed_ips"][0]["ip_address"] == "10.0.0.50"
        await user.delete("ports", port["id"])
        failed(await user.client.get(f"/v2.0/ports/{port['id']}"), 404, "PortNotFound")

    run(story)


def test_bad_ports(run: Run) -> None:
    async def story(w: World) -> None:
        user = w.client()
        net = await user.network()
        first = await user.create("ports", network_id=net["id"])
        ip, mac = first["fixed_ips"][0]["ip_address"], first["mac_address"]
        other = await w.client("member:p2").network()

        async def refused(status: int, kind: str, words: str = "", **values: Any) -> None:
            failed(await user.client.post("/v2.0/ports", {"port": {"network_id": net["id"], **values}}), status, kind, words)

        await refused(404, "NetworkNotFound", network_id=other["id"])
        await refused(400, "HTTPBadRequest", network_id="x")
        await refused(409, "IpAddressAlreadyAllocated", fixed_ips=[{"ip_address": ip}])
        await refused(409, "MacAddressInUse", mac_address=mac)
        await refused(400, "HTTPBadRequest", mac_address="00:00:00:00:00")
        await refused(400, "HTTPBadRequest", mac_address="01:00:00:00:00:01")
        await refused(400, "InvalidIpForSubnet", fixed_ips=[{"subnet_id": net["subnet"]["id"], "ip_address": "10.0.1.5"}])
        await refused(400, "InvalidIpForSubnet", fixed_ips=[{"subnet_id": net["subnet"]["id"], "ip_address": "10.0.0.255"}])
        await refused(400, "InvalidIpForNetwork", fixed_ips=[{"ip_address": "192.168.0.1"}])
        await refused(400, "InvalidInput", fixed_ips=[{"subnet_id": other["subnet"]["id"]}])
        await refused(400, "HTTPBadRequest", fixed_ips=[{"ip_address": "10.0.0.9"}, {"ip_address": "10.0.0.9"}])
        await refused(400, "HTTPBadRequest", fixed_ips="10.0.0.9")
        await refused(404, "SecurityGroupNotFound", security_groups=[NOWHERE])
        await refused(
            409, "AddressPairAndPortSecurityRequired", port_security_enabled=False, allowed_address_pairs=[{"ip_address": "10.0.0.7"}]
        )
        await refused(
            409, "PortSecurityAndIPRequiredForSecurityGroups", port_security_enabled=False, security_groups=first["security_groups"]
        )
        await refused(400, "HTTPBadRequest", extra_dhcp_opts=[{"opt_name": "a\nb", "opt_value": "c"}])
        await refused(400, "HTTPBadRequest", extra_dhcp_opts=[{"opt_name": "a", "opt_value": "c\nserver=1"}])
        await refused(400, "HTTPBadRequest", name="a\nb")
        await refused(400, "HTTPBadRequest", allowed_address_pairs=[{"ip_address": "10.0.0.0/40"}])
        await refused(400, "HTTPBadRequest", **{"binding:vnic_type": "magic"})
        assert len(await user.list("ports")) == 2  # the first, and DHCP's

    run(story)


def test_policy_of_attributes(run: Run) -> None:
    async def story(w: World) -> None:
        admin, user, owner = w.client("admin:admin"), w.client(), w.client("member:p2")
        net = await owner.network()
        await admin.put("networks", net["id"], shared=True)

        async def refused(**values: Any) -> None:
            failed(await user.client.post("/v2.0/ports", {"port": {"network_id": net["id"], **values}}), 403, "PolicyNotAuthorized")

        await refused(mac_address="fa:16:3e:00:00:01")
        await refused(fixed_ips=[{"ip_address": "10.0.0.77"}])
        await refused(port_security_enabled=False)
        await refused(allowed_address_pairs=[{"ip_address": "10.0.0.7"}])
        await refused(device_owner="network:dhcp")
        await refused(**{"binding:host_id": "h1"})
        await refused(**{"binding:profile": {"a": 1}})
        mine = await user.create("ports", network_id=net["id"], fixed_ips=[{"subnet_id": net["subnet"]["id"]}])
        for values in (
            {"port_security_enabled": False},
            {"fixed_ips": [{"ip_address": "10.0.0.77"}]},
            {"mac_address": "fa:16:3e:00:00:01"},
        ):
            failed(await user.client.put(f"/v2.0/ports/{mine['id']}", {"port": values}), 403, "PolicyNotAuthorized")
        failed(await user.client.put(f"/v2.0/ports/{mine['id']}", {"port": {"device_owner": "network:router_interface"}}), 403)
        own = await user.network(None)
        body = {"port": {"network_id": own["id"], "device_owner": "network:dhcp"}}
        failed(await user.client.post("/v2.0/ports", body), 403, "PolicyNotAuthorized")
        # the network's owner sees and deletes ports of others on it; a third project sees nothing
        assert mine["id"] in [p["id"] for p in await owner.list("ports")]
        third = w.client("member:p3")
        assert await third.list("ports") == []
        failed(await third.client.get(f"/v2.0/ports/{mine['id']}"), 404, "PortNotFound")
        await owner.delete("ports", mine["id"])

    run(story)


def test_binding_wires_and_unbinding_unplugs(run: Run) -> None:
    async def story(w: World) -> None:
        driver = await w.host("h1")
        admin = w.client("admin:p1")
        net = await admin.network()
        port = await admin.create("ports", network_id=net["id"], device_id="s", device_owner="compute:nova", **{"binding:host_id": "h1"})
        assert (port["binding:vif_type"], port["status"]) == ("bridge", "DOWN")
        await w.settle()
        assert (await admin.get("ports", port["id"]))["status"] == "ACTIVE"
        dhcp = await admin.list("ports", "?device_owner=network:dhcp")
        assert dhcp[0]["status"] == "ACTIVE"
        assert driver.state.subnets[0].dhcp_ip == "10.0.0.2"
        await admin.put("ports", port["id"], admin_state_up=False)
        await w.settle()
        assert driver.state.ports[0].admin_state_up is False
        assert (await admin.get("ports", port["id"]))["status"] == "DOWN"
        back = await admin.put("ports", port["id"], **{"binding:host_id": "", "admin_state_up": True})
        assert (back["binding:vif_type"], back["status"]) == ("unbound", "DOWN")
        await w.settle()
        assert driver.state.ports == ()
        lost = await admin.put("ports", port["id"], **{"binding:host_id": "nowhere"})
        assert lost["binding:vif_type"] == "binding_failed"

    run(story)


def test_filters(run: Run) -> None:
    async def story(w: World) -> None:
        await w.host("h1")
        user = w.client()
        net = await user.network("10.0.0.0/24")
        two = await user.network("10.1.0.0/24", name="two")
        (nic,) = await w.service.allocate(w.ctx(), allocate("s1", "h1", net["id"]))
        port = await user.create("ports", network_id=two["id"], fixed_ips=[{"ip_address": "10.1.0.150"}])

        async def ids(query: str) -> list[str]:
            return [p["id"] for p in await user.list("ports", query)]

        assert await ids("?device_id=s1") == [nic.port_id]
        assert await ids("?device_id=s1&device_id=s2") == [nic.port_id]
        assert await ids("?fixed_ips=ip_address=10.1.0.150") == [port["id"]]
        assert await ids(f"?fixed_ips=subnet_id={two['subnet']['id']}&device_owner=") == [port["id"]]
        assert await ids("?fixed_ips=ip_address=10.1.0.151") == []
        assert await ids("?fixed_ips=ip_address_substr=.150") == [port["id"]]
        both = await user.put("ports", port["id"], fixed_ips=[{"ip_address": "10.1.0.150"}, {"ip_address": "10.1.0.77"}])
        assert await ids("?fixed_ips=ip_address_substr=0.77") == [both["id"]]
        assert await ids(f"?fixed_ips=ip_address_substr={two['subnet']['id'][:4]}") == []
        assert await ids(f"?security_groups={port['security_groups'][0]}&network_id={two['id']}") == [port["id"]]
        assert await ids(f"?mac_address={nic.mac}") == [nic.port_id]
        assert await ids("?status=NOPE") == []
        assert len(await ids("?device_owner=network:dhcp")) == 2
        admin = w.client("admin:admin")
        assert [p["id"] for p in await admin.list("ports", "?binding:host_id=h1")] == [nic.port_id]

    run(story)


def test_a_port_without_subnets_has_no_address(run: Run) -> None:
    async def story(w: World) -> None:
        user = w.client()
        net = await user.network(None)
        port = await user.create("ports", network_id=net["id"])
        assert port["fixed_ips"] == []
        subnet = await user.create("subnets", network_id=net["id"], cidr="10.0.0.0/30", ip_version=4)
        await user.create("ports", network_id=net["id"], fixed_ips=[])
        failed(await user.client.post("/v2.0/ports", {"port": {"network_id": net["id"]}}), 409, "IpAddressGenerationFailure")
        moved = await user.put("subnets", subnet["id"], enable_dhcp=False)
        assert moved["enable_dhcp"] is False
        last = await user.create("ports", network_id=net["id"])
        assert last["fixed_ips"][0]["ip_address"] == "10.0.0.2"

    run(story)


def test_bulk_of_ports_is_atomic(run: Run) -> None:
    async def story(w: World) -> None:
        user = w.client()
        net = await user.network("10.0.0.0/29")
        reply = await user.client.post("/v2.0/ports", {"ports": [{"network_id": net["id"]} for _ in range(4)]})
        assert (reply.status, len({p["fixed_ips"][0]["ip_address"] for p in reply.json["ports"]})) == (201, 4)
        await user.delete("ports", reply.json["ports"][0]["id"])
        failed(await user.client.post("/v2.0/ports", {"ports": [{"network_id": net["id"]} for _ in range(2)]}), 409)
        assert len(await user.list("ports", "?device_owner=")) == 3

    run(story)


def test_no_port_poses_as_a_foreign_routers(run: Run) -> None:
    async def story(w: World) -> None:
        user, other = w.client(), w.client("member:p2")
        router = await other.create("routers", name="theirs")
        net = await user.network()
        body = {"port": {"network_id": net["id"], "device_id": router["id"], "device_owner": "network:router_interface"}}
        failed(await user.client.post("/v2.0/ports", body), 403)
        await user.create("ports", network_id=net["id"], device_id=router["id"])
        assert w.service.topology._ports_of_router(router["id"]) == []

    run(story)
