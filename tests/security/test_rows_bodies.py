"""What a body may not say: somebody else's ids, projects, owners; attributes that are for admins or for a network's owner."""

from typing import Any

import pytest

from kilonova.network.rpc import MetadataRequest
from kilonova.testing.cloud import expect
from tests.security import recipes
from tests.security.conftest import Run, World
from tests.security.test_row_65_lists import Marks

NETWORK_BODIES: tuple[tuple[str, str, dict[str, Any]], ...] = (
    ("POST", "subnets", {"subnet": {"network_id": "{network}", "ip_version": 4, "cidr": "10.77.0.0/24"}}),
    ("POST", "ports", {"port": {"network_id": "{network}"}}),
    ("POST", "ports", {"port": {"network_id": "{my_network}", "security_groups": ["{group}"]}}),
    ("POST", "ports", {"port": {"network_id": "{my_network}", "fixed_ips": [{"subnet_id": "{subnet}"}]}}),
    ("POST", "ports", {"port": {"network_id": "{my_network}", "device_id": "{router}", "device_owner": "network:router_interface"}}),
    ("POST", "ports", {"port": {"network_id": "{my_network}", "device_id": "{router}", "device_owner": "network:router_gateway"}}),
    ("PUT", "ports/{my_port}", {"port": {"device_id": "{router}", "device_owner": "network:router_interface"}}),
    ("PUT", "ports/{my_port}", {"port": {"security_groups": ["{group}"]}}),
    ("PUT", "ports/{my_port}", {"port": {"fixed_ips": [{"subnet_id": "{subnet}"}]}}),
    ("POST", "routers", {"router": {"name": "r", "external_gateway_info": {"network_id": "{network}"}}}),
    ("PUT", "routers/{my_router}", {"router": {"external_gateway_info": {"network_id": "{network}"}}}),
    ("PUT", "routers/{my_router}/add_router_interface", {"subnet_id": "{subnet}"}),
    ("PUT", "routers/{my_router}/add_router_interface", {"port_id": "{port}"}),
    ("PUT", "routers/{router}/add_router_interface", {"subnet_id": "{my_subnet}"}),
    ("PUT", "routers/{my_router}/remove_router_interface", {"subnet_id": "{subnet}"}),
    ("PUT", "routers/{my_router}/remove_router_interface", {"port_id": "{port}"}),
    ("POST", "floatingips", {"floatingip": {"floating_network_id": "{network}"}}),
    ("POST", "floatingips", {"floatingip": {"floating_network_id": "{public}", "port_id": "{port}"}}),
    ("PUT", "floatingips/{my_floatingip}", {"floatingip": {"port_id": "{port}"}}),
    ("PUT", "floatingips/{my_floatingip}", {"floatingip": {"port_id": "{server_port}"}}),
    ("POST", "security-group-rules", {"security_group_rule": {"security_group_id": "{group}", "direction": "ingress", "protocol": "tcp"}}),
    (
        "POST",
        "security-group-rules",
        {"security_group_rule": {"security_group_id": "{my_group}", "direction": "ingress", "remote_group_id": "{group}"}},
    ),
    ("POST", "subnets", {"subnet": {"network_id": "{my_network}", "ip_version": 4, "subnetpool_id": "{subnetpool}"}}),
    *(
        ("POST", collection, {kind: {**values, owner: "{a}"}})
        for owner in ("project_id", "tenant_id")
        for collection, kind, values in (
            ("networks", "network", {"name": "x"}),
            ("subnets", "subnet", {"network_id": "{my_network}", "ip_version": 4, "cidr": "10.78.0.0/24"}),
            ("ports", "port", {"network_id": "{my_network}"}),
            ("routers", "router", {"name": "x"}),
            ("floatingips", "floatingip", {"floating_network_id": "{public}"}),
            ("security-groups", "security_group", {"name": "x"}),
            ("security-group-rules", "security_group_rule", {"security_group_id": "{my_group}", "direction": "egress", "protocol": "udp"}),
            ("subnetpools", "subnetpool", {"name": "x", "prefixes": ["10.50.0.0/16"]}),
        )
    ),
    *(
        ("PUT", path, {kind: {owner: "{a}"}})
        for owner in ("project_id", "tenant_id")
        for path, kind in (
            ("networks/{my_network}", "network"),
            ("subnets/{my_subnet}", "subnet"),
            ("ports/{my_port}", "port"),
            ("routers/{my_router}", "router"),
            ("floatingips/{my_floatingip}", "floatingip"),
            ("security-groups/{my_group}", "security_group"),
        )
    ),
)
SERVER_CHANGES: tuple[dict[str, Any], ...] = (
    {"networks": [{"uuid": "{network}"}]},
    {"networks": [{"port": "{port}"}]},
    {"networks": [{"port": "{server_port}"}]},
    {"security_groups": [{"name": "{group}"}]},
    {"imageRef": "{image}"},
    {"flavorRef": "{flavor}"},
    {"key_name": "{keypair}"},
    {"availability_zone": "nova:host-1"},
    {"availability_zone": "nova:host-1:host-1"},
    {"host": "host-1"},
    {"hypervisor_hostname": "host-1"},
    {"project_id": "{a}"},
    {"tenant_id": "{a}"},
    {"user_id": "{user}"},
    {"block_device_mapping_v2": [{"source_type": "volume", "destination_type": "volume", "uuid": recipes.NOWHERE, "boot_index": 0}]},
    {
        "block_device_mapping_v2": [{"source_type": "image", "destination_type": "local", "uuid": "{image}", "boot_index": 0}],
        "imageRef": "",
    },
)


async def _everything(w: World) -> dict[str, str]:
    """Marks of project a, and objects of b called my_…"""
    ids = dict((await Marks(w).make(w)).ids)
    ids["my_network"], ids["my_subnet"] = await w.network("member:b", cidr="10.9.0.0/24")
    ids["my_port"] = await w.make("ports", "member:b", network_id=ids["my_network"])
    ids["my_router"] = (await recipes.bare_router(w, "member:b"))["router_id"]
    ids["my_floatingip"] = (await recipes.floating_ip(w, "member:b"))["floatingip_id"]
    ids["my_group"] = await w.make("security-groups", "member:b", name="mine")
    ids["public"] = expect(await w.client("network").get("/v2.0/networks?name=public"), 200)["networks"][0]["id"]
    ports = expect(await w.client("network").get(f"/v2.0/ports?device_id={ids['server']}"), 200)["ports"]
    ids["server_port"] = ports[0]["id"]
    return ids


@pytest.mark.parametrize("who", ["member:b", "manager:b"])
def test_row_61_64_bodies_with_ids_of_others(run: Run, who: str) -> None:
    """CVE-2014-0056 (foreign router), and a reference to any other foreign object: refused, and nothing changes."""

    async def story(w: World) -> None:
        ids = await _everything(w)
        client = w.client("network", who)
        before = w.dump()
        for method, path, body in NETWORK_BODIES:
            reply = await client.request(method, f"/v2.0/{path.format_map(ids)}", recipes.filled(body, ids))
            assert reply.status in (400, 403, 404, 409), (method, path, body, reply)
            assert w.dump() == before, (method, path, body)

    run(story)


@pytest.mark.parametrize("who", ["member:b", "manager:b"])
def test_row_19_66_servers_from_what_is_not_yours(run: Run, who: str) -> None:
    """CVE-2013-0208, CVE-2013-2256 (private flavor by a guessed id), ports, networks, groups, images, key pairs, hosts of others."""

    async def story(w: World) -> None:
        ids = await _everything(w)
        before = w.dump()
        compute = w.client("compute", who)
        base = {"name": "x", "imageRef": w.ids["image"], "flavorRef": "nano", "networks": [{"uuid": w.ids["network"]}]}
        for change in SERVER_CHANGES:
            reply = await compute.post("/v2.1/servers", {"server": {**base, **recipes.filled(change, ids)}})
            assert reply.status in (400, 403, 404, 409), (change, reply)
            assert w.dump() == before, change
        assert (await compute.get(f"/v2.1/flavors/{ids['flavor']}")).status == 404

    run(story)


def test_row_64_a_port_that_names_anothers_server_is_none_of_its_ports(run: Run) -> None:
    """CVE-2013-6419 and its like: device_id is the user's word. It must not add an interface to another's server, nor show its metadata."""

    async def story(w: World) -> None:
        victim = await w.server(name="victim")
        network, _ = await w.network("member:b", cidr="10.66.0.0/24")
        for values in ({"device_owner": "compute:nova"}, {"device_owner": ""}):
            port = await w.make("ports", "member:b", network_id=network, device_id=victim, **values)
            await _apart(w, victim, network)
            await w.client("network", "member:b").put(f"/v2.0/ports/{port}", {"port": {"name": "renamed"}})
            await _apart(w, victim, network)
        own = await w.server("member:b", network_id=network)
        ports = expect(await w.client("network", "member:b").get(f"/v2.0/ports?device_id={own}"), 200)["ports"]
        moved = await w.client("network", "member:b").put(f"/v2.0/ports/{ports[0]['id']}", {"port": {"device_id": victim}})
        assert moved.status in (200, 400, 403, 409), moved
        await _apart(w, victim, network)

    run(story)


async def _apart(w: World, victim: str, network: str) -> None:
    """The victim has one interface, before and after a hard reboot, and its metadata is not told to the other network."""
    owner = w.client("compute", "member:a")
    assert (await owner.post(f"/v2.1/servers/{victim}/action", {"reboot": {"type": "HARD"}})).status == 202
    await w.until(victim, "ACTIVE")
    await w.quiet()
    found = expect(await owner.get(f"/v2.1/servers/{victim}/os-interface"), 200)["interfaceAttachments"]
    assert [nic["net_id"] for nic in found] == [w.ids["network"]]
    guests = [guest for host in w.cloud.machines.guests.values() for guest in host.guests.values() if guest.spec.server_id == victim]
    assert [len(guest.spec.nics) for guest in guests] == [1]
    metadata, addresses = w.cloud.cloud.metadata, expect(await w.client("network").get(f"/v2.0/ports?network_id={network}"), 200)["ports"]
    assert metadata is not None
    for port in addresses:
        if port["fixed_ips"] and port["device_id"] == victim:
            request = MetadataRequest(
                method="GET",
                path="/openstack/latest/meta_data.json",
                headers=(),
                source_ip=port["fixed_ips"][0]["ip_address"],
                network_id=network,
            )
            assert (await metadata.handle(request)).status == 404


SHARED_NETWORK = (
    {"device_owner": "network:dhcp"},
    {"device_owner": "network:router_interface"},
    {"mac_address": "fa:16:3e:00:00:99"},
    {"fixed_ips": [{"ip_address": "10.0.0.77"}]},
    {"port_security_enabled": False},
    {"allowed_address_pairs": [{"ip_address": "0.0.0.0/0"}]},
    {"allowed_address_pairs": [{"ip_address": "10.0.0.1", "mac_address": "fa:16:3e:00:00:01"}]},
    {"binding:host_id": "host-1"},
    {"binding:profile": {"x": 1}},
)


@pytest.mark.parametrize("who", ["member:a", "manager:a"])
def test_row_63_73_ports_on_a_network_of_somebody_else(run: Run, who: str) -> None:
    """On a shared network, spoofing rights are its owner's: neither at creation nor right after it (CVE-2015-5240)."""

    async def story(w: World) -> None:
        client = w.client("network", who)
        network = w.ids["network"]
        port = await w.make("ports", who, network_id=network)
        before = w.dump()
        for values in SHARED_NETWORK:
            made = await client.post("/v2.0/ports", {"port": {"network_id": network, **values}})
            assert made.status == 403, (values, made)
            changed = await client.put(f"/v2.0/ports/{port}", {"port": values})
            assert changed.status == 403, (values, changed)
            assert w.dump() == before, values
        own, _ = await w.network(who, cidr="10.5.0.0/24")
        assert (await client.post("/v2.0/ports", {"port": {"network_id": own, "mac_address": "fa:16:3e:00:00:99"}})).status == 201

    run(story)


ADMIN_ONLY: tuple[tuple[str, str, dict[str, Any]], ...] = (
    ("networks/{my_network}", "network", {"shared": True}),
    ("networks/{my_network}", "network", {"router:external": True}),
    ("networks/{my_network}", "network", {"is_default": True}),
    ("routers/{my_router}", "router", {"distributed": True}),
    ("routers/{my_router}", "router", {"ha": True}),
    ("ports/{my_port}", "port", {"binding:host_id": "host-1"}),
    ("ports/{my_port}", "port", {"binding:host_id": None}),
    ("ports/{my_port}", "port", {"binding:profile": {"x": 1}}),
    ("ports/{my_port}", "port", {"binding:profile": None}),
)


def test_row_67_attributes_for_admins_cannot_be_set_or_reset(run: Run) -> None:
    """CVE-2014-6414."""

    async def story(w: World) -> None:
        ids = await _everything(w)
        before = w.dump()
        for who in ("member:b", "manager:b"):
            client = w.client("network", who)
            for path, kind, values in ADMIN_ONLY:
                reply = await client.put(f"/v2.0/{path.format_map(ids)}", {kind: values})
                assert reply.status in (400, 403), (who, path, values, reply)
            for values in (
                {"shared": True},
                {"router:external": True},
                {"provider:network_type": "vxlan"},
                {"provider:segmentation_id": 7},
            ):
                reply = await client.post("/v2.0/networks", {"network": {"name": "x", **values}})
                assert reply.status == 403, (who, values, reply)
        assert w.dump() == before

    run(story)


def test_row_43_images_keep_their_owner(run: Run) -> None:
    """A body's keys are never policy's target: naming the owner that policy asks for opens nothing."""

    async def story(w: World) -> None:
        theirs = await w.image()
        client = w.client("image", "member:b")
        patch = {"content-type": "application/openstack-images-v2.1-json-patch"}
        before = w.dump()
        for body in ({"name": "x", "owner": w.projects["a"]}, {"name": "x", "visibility": "public"}, {"name": "x", "id": theirs}):
            assert (await client.post("/v2/images", body)).status in (403, 409), body
        mine = await w.image("member:b")
        after = w.dump()
        for image_id in (theirs, mine):
            for path, value in (("/owner", w.projects["a"]), ("/visibility", "public"), ("/member_id", w.projects["b"])):
                change = [{"op": "replace", "path": path, "value": value}]
                reply = await client.patch(f"/v2/images/{image_id}", change, headers=patch)
                assert reply.status in (403, 404, 409), (path, value, reply)
        assert w.dump() == after
        assert {t: r for t, r in before.items() if not t.startswith("image")} == {
            t: r for t, r in after.items() if not t.startswith("image")
        }

    run(story)


def test_row_79_ports_of_servers_count(run: Run) -> None:
    """CVE-2013-1838: many interfaces on few servers do not exhaust a network's addresses."""

    async def story(w: World) -> None:
        compute = w.client("compute", "member:a")
        base = {"name": "x", "imageRef": w.ids["image"], "flavorRef": "nano"}
        reply = await compute.post("/v2.1/servers", {"server": {**base, "networks": [{"uuid": w.ids["network"]}] * 6}})
        assert reply.status in (400, 403), reply
        reply = await compute.post("/v2.1/servers", {"server": {**base, "networks": [{"uuid": w.ids["network"]}] * 2, "min_count": 3}})
        assert reply.status in (400, 403), reply
        await w.server()
        ports = expect(await w.client("network", "member:a").get("/v2.0/ports"), 200)["ports"]
        assert len(ports) == 1

    run(story, overrides={("network_quotas", "quota_port"): 5})
