"""What it takes to call every route that has ids in its path: an object to call it on, and a body that it accepts.

A route that no recipe covers fails test_row_61: add its object to RECIPES or its body to BODIES.
"""

import struct
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple

from kilonova.core.http import Version
from kilonova.core.routing import Route
from kilonova.testing.cloud import expect
from tests.security.conftest import World, name

Values = dict[str, str]
Make = Callable[[World, str], Awaitable[Values]]
NOWHERE = "deadbeef-dead-4eef-8ead-deadbeefdead"
NEWEST: dict[str, Version] = {"compute": (2, 100), "placement": (1, 39)}


def key(route: Route) -> str:
    """How the tables below name a route."""
    return f"{route.method} {route.path} {route.action}".strip()


def version(service: str, route: Route) -> str:
    """The newest version that has the route."""
    if service not in NEWEST:
        return ""
    major, minor = min(route.until, NEWEST[service])
    return f"{major}.{minor}"


# ---- objects of a project


async def server(w: World, who: str) -> Values:
    """With a tag, a metadata item, a network of its own, and a security group beside the default one; all by unique names."""
    label, group, spare = name("network"), name("group"), name("spare")
    client = w.client("network", who)
    network = expect(await client.post("/v2.0/networks", {"network": {"name": label}}), 201)["network"]["id"]
    expect(await client.post("/v2.0/subnets", {"subnet": {"network_id": network, "ip_version": 4, "cidr": "10.8.0.0/24"}}), 201)
    for each in (group, spare):
        await w.make("security-groups", who, name=each)
    item, tag = name("item"), name("tag")
    groups = [{"name": group}]
    server_id = await w.server(who, network_id=network, metadata={item: "v"}, tags=[tag], security_groups=groups)
    compute = w.client("compute", who)
    actions = expect(await compute.get(f"/v2.1/servers/{server_id}/os-instance-actions"), 200)["instanceActions"]
    ports = expect(await compute.get(f"/v2.1/servers/{server_id}/os-interface"), 200)["interfaceAttachments"]
    return {
        "server_id": server_id, "key": item, "tag": tag, "network_label": label, "port_id": ports[0]["port_id"],
        "request_id": actions[0]["request_id"], "volume_id": NOWHERE, "group": group, "spare": spare, "console_id": NOWHERE,
        "boot_image": w.ids["image"],
    }  # fmt: skip


async def keypair(w: World, who: str) -> Values:
    made = name("key")
    expect(await w.client("compute", who).post("/v2.1/os-keypairs", {"keypair": {"name": made, "public_key": PUBLIC_KEY}}), 201)
    return {"keypair_name": made}


PUBLIC_KEY = (
    "ssh-rsa AAAAB3NzaC1yc2EAAAADAQABAAAAgQDbMyu8kDZ3LoJ4GCqY7kNWKMnDMBPn2p7L5SG9bx4UpQFRHXQVZpwFFm0Rc4HfBjZ3EGP8wnOPqVh2jZsYUsZ8F0a1qhs"
    "MKLrvTFmJmtWCnK1XrUMiX2wVL4r4e9MRJQkFIQFmS3dxmBuWwkPfLbGXKN0ySa3Ys1QIVZ4oIdP5mw=="
)


async def project(w: World, who: str) -> Values:
    return {"project_id": w.projects[who.partition(":")[2]]}


async def image(w: World, who: str) -> Values:
    """Shared with a third project, tagged, with a property; its bytes are there."""
    tag, item = name("tag"), name("item").replace("-", "_")
    more: dict[str, Any] = {"tags": [tag], item: "v"}
    image_id = await w.image(who, **more)
    third = name("project").replace("-", "")
    expect(await w.client("image", who).post(f"/v2/images/{image_id}/members", {"member": third}), 200)
    return {"image_id": image_id, "tag": tag, "key": item, "member_id": third}


async def empty_image(w: World, who: str) -> Values:
    return {"image_id": await w.image(who, data=None)}


async def staged_image(w: World, who: str) -> Values:
    image_id = await w.image(who, data=None)
    octets = {"content-type": "application/octet-stream"}
    assert (await w.client("image", who).put(f"/v2/images/{image_id}/stage", raw=b"x" * 64, headers=octets)).status == 204
    return {"image_id": image_id}


async def sleeping_image(w: World, who: str) -> Values:
    image_id = await w.image(who)
    assert (await w.client("image").post(f"/v2/images/{image_id}/actions/deactivate")).status == 204
    return {"image_id": image_id}


async def offered_image(w: World, who: str) -> Values:
    """Shared with the project of the user who asks: its member may answer, nobody else."""
    own = w.projects[who.partition(":")[2]]
    image_id = await w.image("admin")
    expect(await w.client("image").post(f"/v2/images/{image_id}/members", {"member": own}), 200)
    return {"image_id": image_id, "member_id": own}


def _of_network(collection: str, variable: str, **values: Any) -> Make:
    async def make(w: World, who: str) -> Values:
        tag = name("tag")
        row_id = await w.make(collection, who, **{"name": name(collection), **values})
        assert (await w.client("network", who).put(f"/v2.0/{collection}/{row_id}/tags/{tag}")).status == 201
        return {variable: row_id, "tag": tag}

    return make


async def _tagged(w: World, who: str, collection: str, row_id: str) -> str:
    tag = name("tag")
    assert (await w.client("network", who).put(f"/v2.0/{collection}/{row_id}/tags/{tag}")).status == 201
    return tag


async def subnet(w: World, who: str) -> Values:
    _, row_id = await w.network(who)
    return {"subnet_id": row_id, "tag": await _tagged(w, who, "subnets", row_id)}


async def port(w: World, who: str) -> Values:
    network, _ = await w.network(who)
    row_id = await w.make("ports", who, network_id=network, name="p")
    return {"port_id": row_id, "tag": await _tagged(w, who, "ports", row_id)}


async def router(w: World, who: str) -> Values:
    """With two interfaces and an extra route through the first; `new_subnet_id` is free to be added."""
    _, near = await w.network(who, cidr="10.21.0.0/24")
    _, second = await w.network(who, cidr="10.23.0.0/24")
    _, new = await w.network(who, cidr="10.22.0.0/24")
    row_id = await w.make("routers", who, name="r")
    client = w.client("network", who)
    for each in (near, second):
        expect(await client.put(f"/v2.0/routers/{row_id}/add_router_interface", {"subnet_id": each}), 200)
    routes = {"router": {"routes": [{"destination": "10.99.0.0/24", "nexthop": "10.21.0.9"}]}}
    expect(await client.put(f"/v2.0/routers/{row_id}/add_extraroutes", routes), 200)
    return {"router_id": row_id, "subnet_id": second, "new_subnet_id": new, "tag": await _tagged(w, who, "routers", row_id)}


async def bare_router(w: World, who: str) -> Values:
    return {"router_id": await w.make("routers", who, name="r")}


async def empty_network(w: World, who: str) -> Values:
    return await _of_network("networks", "network_id")(w, who)


async def used_network(w: World, who: str) -> Values:
    network, _ = await w.network(who)
    return {"network_id": network}


async def floating_ip(w: World, who: str) -> Values:
    found = expect(await w.client("network").get("/v2.0/networks?name=public"), 200)["networks"]
    row_id = await w.make("floatingips", who, floating_network_id=found[0]["id"])
    return {"floatingip_id": row_id, "tag": await _tagged(w, who, "floatingips", row_id)}


async def rule(w: World, who: str) -> Values:
    group = await w.make("security-groups", who, name=name("group"))
    return {"rule_id": await w.make("security-group-rules", who, security_group_id=group, direction="ingress", protocol="tcp")}


async def project_with_topology(w: World, who: str) -> Values:
    admin = w.client("network")
    public = expect(await admin.get("/v2.0/networks?name=public"), 200)["networks"][0]["id"]
    expect(await admin.put(f"/v2.0/networks/{public}", {"network": {"is_default": True}}), 200)
    pools = expect(await admin.get("/v2.0/subnetpools?is_default=true"), 200)["subnetpools"]
    if not pools:
        await w.make(
            "subnetpools", "admin", name="default", prefixes=["10.128.0.0/9"], is_default=True, shared=True, default_prefixlen=26,
        )  # fmt: skip
    made = await project(w, who)
    expect(await admin.get(f"/v2.0/auto-allocated-topology/{made['project_id']}"), 200)
    return made


async def project_with_quota(w: World, who: str) -> Values:
    made = await project(w, who)
    expect(await w.client("network").put(f"/v2.0/quotas/{made['project_id']}", {"quota": {"port": 499}}), 200)
    return made


# ---- objects of the cloud


async def flavor(w: World, who: str) -> Values:
    """Private, for the project that asks."""
    made = name("flavor")
    body = {"name": made, "ram": 64, "vcpus": 1, "disk": 1, "id": made, "os-flavor-access:is_public": False}
    admin = w.client("compute")
    expect(await admin.post("/v2.1/flavors", {"flavor": body}), 200)
    project_id = w.projects[who.partition(":")[2]]
    expect(await admin.post(f"/v2.1/flavors/{made}/action", {"addTenantAccess": {"tenant": project_id}}), 200)
    expect(await admin.post(f"/v2.1/flavors/{made}/os-extra_specs", {"extra_specs": {"hw:cpu_policy": "shared"}}), 200)
    return {"flavor_id": made, "spec": "hw:cpu_policy", "project_id": project_id, "other_id": w.projects["b"]}


async def compute_host(w: World, who: str) -> Values:
    found = expect(await w.client("compute").get("/v2.1/os-hypervisors/detail"), 200)["hypervisors"]
    last = found[-1]
    return {"hypervisor_id": last["id"], "service_id": last["service"]["id"], "host_name": last["service"]["host"]}


async def old_compute_host(w: World, who: str) -> Values:
    """As versions before 2.53 name it."""
    found = expect(await w.client("compute", version="2.52").get("/v2.1/os-hypervisors/detail"), 200)["hypervisors"]
    return {"hypervisor_id": str(found[0]["id"]), "service_id": "disable", "host_name": found[0]["service"]["host"]}


async def hypervisor_pattern(w: World, who: str) -> Values:
    return {"hypervisor_id": "host"}


async def network_agent(w: World, who: str) -> Values:
    return {"agent_id": expect(await w.client("network").get("/v2.0/agents"), 200)["agents"][0]["id"]}


async def fixed_words(w: World, who: str) -> Values:
    return {"alias": "os-keypairs", "name": "image", "quota_class": "default", "region_id": "RegionOne"}


async def network_extension(w: World, who: str) -> Values:
    return {"alias": "router"}


async def provider(w: World, who: str) -> Values:
    admin = w.client("placement")
    made = expect(await admin.post("/resource_providers", {"name": name("provider")}), 200)["uuid"]
    inventory = {"resource_provider_generation": 0, "inventories": {"VCPU": {"total": 4}, "DISK_GB": {"total": 9}}}
    expect(await admin.put(f"/resource_providers/{made}/inventories", inventory), 200)
    return {"uuid": made, "resource_class": "DISK_GB"}


async def consumer(w: World, who: str) -> Values:
    made = await provider(w, who)
    consumer_id = NOWHERE[:-12] + made["uuid"][-12:]
    owner = {"project_id": w.projects[who.partition(":")[2]], "user_id": w.users[who]}
    held = {
        "allocations": {made["uuid"]: {"resources": {"VCPU": 1}}}, "consumer_generation": None, "consumer_type": "INSTANCE", **owner,
    }  # fmt: skip
    reply = await w.client("placement", version="1.39").put(f"/allocations/{consumer_id}", held)
    assert reply.status == 204, reply
    return {"consumer_uuid": consumer_id, "uuid": made["uuid"], **owner}


def _custom(kind: str) -> Make:
    async def make(w: World, who: str) -> Values:
        made = "CUSTOM_" + name(kind).replace("-", "_").upper()
        assert (await w.client("placement").put(f"/{kind}/{made}")).status == 201
        return {"name": made, "new": made + "_NEW"}

    return make


def _identity(collection: str, **values: Any) -> Make:
    kind = collection.removesuffix("s")

    async def make(w: World, who: str) -> Values:
        admin = w.client("identity")
        made = expect(await admin.post(f"/v3/{collection}", {kind: {"name": name(kind), **values}}), 201)[kind]["id"]
        return {f"{kind}_id": made}

    return make


async def tagged_project(w: World, who: str) -> Values:
    made = await _identity("projects")(w, who)
    assert (await w.client("identity").put(f"/v3/projects/{made['project_id']}/tags/red")).status == 201
    return {**made, "value": "red"}


async def group_with_user(w: World, who: str) -> Values:
    made = {**await _identity("groups")(w, who), **await _identity("users", password="pw")(w, who)}
    assert (await w.client("identity").put(f"/v3/groups/{made['group_id']}/users/{made['user_id']}")).status == 204
    return made


async def disabled_domain(w: World, who: str) -> Values:
    return await _identity("domains", enabled=False)(w, who)


async def implied_role(w: World, who: str) -> Values:
    first, second = await _identity("roles")(w, who), await _identity("roles")(w, who)
    made = {"role_id": first["role_id"], "implied_role_id": second["role_id"]}
    assert (await w.client("identity").put(f"/v3/roles/{made['role_id']}/implies/{made['implied_role_id']}")).status == 201
    return made


def granted(path: str) -> Make:
    """Everything that a grant's path names, with the role granted."""

    async def make(w: World, who: str) -> Values:
        made = await _identity("roles")(w, who)
        for part in ("project", "domain", "user", "group"):
            if f"{{{part}_id}}" in path:
                made |= await _identity(f"{part}s")(w, who)
        one = path if "{role_id}" in path else path.replace("/roles", "/roles/{role_id}", 1)
        reply = await w.client("identity").put(one.format_map(made))
        assert reply.status == 204, reply
        return made

    return make


async def user(w: World, who: str) -> Values:
    return await _identity("users", password="pw")(w, who)


async def service(w: World, who: str) -> Values:
    return await _identity("services", type="x")(w, who)


async def endpoint(w: World, who: str) -> Values:
    owner = await service(w, who)
    body = {"endpoint": {"service_id": owner["service_id"], "interface": "public", "url": "http://x.example", "region_id": "RegionOne"}}
    return {"endpoint_id": expect(await w.client("identity").post("/v3/endpoints", body), 201)["endpoint"]["id"]}


async def region(w: World, who: str) -> Values:
    made = name("region")
    expect(await w.client("identity").post("/v3/regions", {"region": {"id": made}}), 201)
    return {"region_id": made}


async def new_region(w: World, who: str) -> Values:
    return {"region_id": name("region")}


async def nothing(w: World, who: str) -> Values:
    """For URLs that answer 410 whoever asks."""
    return dict.fromkeys(
        ("agent_id", "cell", "certificate_id", "fixed_ip", "domain", "name", "host", "server_id", "network_id", "rule_id"), "x"
    )


class Recipe(NamedTuple):
    """match: the beginning of `key(route)`s path, or a whole key. `shared`: the object is the cloud's, not a project's."""

    service: str
    match: str
    make: Make
    shared: bool = False


RECIPES = (
    # whole keys first
    Recipe("image", "PUT /v2/images/{image_id}/file", empty_image),
    Recipe("image", "PUT /v2/images/{image_id}/stage", empty_image),
    Recipe("image", "POST /v2/images/{image_id}/import", staged_image),
    Recipe("image", "POST /v2/images/{image_id}/actions/reactivate", sleeping_image),
    Recipe("image", "PUT /v2/images/{image_id}/members/{member_id}", offered_image),
    Recipe("network", "DELETE /v2.0/routers/{router_id}", bare_router),
    Recipe("network", "GET /v2.0/quotas/{project_id}", project),
    Recipe("network", "DELETE /v2.0/auto-allocated-topology/{project_id}", project_with_topology),
    Recipe("identity", "DELETE /v3/domains/{domain_id}", disabled_domain, True),
    Recipe("identity", "PUT /v3/regions/{region_id}", new_region, True),
    Recipe("compute", "GET /os-hypervisors/{hypervisor_id}/search", hypervisor_pattern, True),
    Recipe("compute", "GET /os-hypervisors/{hypervisor_id}/servers", hypervisor_pattern, True),
    # then paths
    Recipe("compute", "/servers/{server_id}", server),
    Recipe("compute", "/kilonova/servers/{server_id}", server),
    Recipe("compute", "/os-keypairs/", keypair),
    Recipe("compute", "/os-quota-sets/", project),
    Recipe("compute", "/os-simple-tenant-usage/", project),
    Recipe("compute", "/images/", image),
    Recipe("compute", "/flavors/", flavor, True),
    Recipe("compute", "/os-services/", compute_host, True),
    Recipe("compute", "/os-hypervisors/", compute_host, True),
    Recipe("compute", "/os-hosts/", compute_host, True),
    Recipe("compute", "/os-quota-class-sets/", fixed_words, True),
    Recipe("compute", "/extensions/", fixed_words, True),
    *(Recipe("compute", path, nothing, True) for path in ("/os-agents", "/os-cells", "/os-certificates", "/os-fixed-ips", "/os-networks")),
    *(Recipe("compute", path, nothing, True) for path in ("/os-floating-ip", "/os-fping", "/os-security-group-default", "/os-tenant-net")),
    Recipe("image", "/v2/images/{image_id}", image),
    Recipe("image", "/v2/schemas/", fixed_words, True),
    Recipe("placement", "/resource_providers/", provider, True),
    Recipe("placement", "/allocations/", consumer, True),
    Recipe("placement", "/resource_classes/", _custom("resource_classes"), True),
    Recipe("placement", "/traits/", _custom("traits"), True),
    Recipe("network", "/v2.0/networks/", empty_network),
    Recipe("network", "/v2.0/subnets/", subnet),
    Recipe("network", "/v2.0/ports/", port),
    Recipe("network", "/v2.0/routers/", router),
    Recipe("network", "/v2.0/floatingips/", floating_ip),
    Recipe("network", "/v2.0/security-groups/", _of_network("security-groups", "security_group_id")),
    Recipe("network", "/v2.0/security-group-rules/", rule),
    Recipe("network", "/v2.0/subnetpools/", _of_network("subnetpools", "subnetpool_id", prefixes=["10.40.0.0/16", "10.44.0.0/16"])),
    Recipe("network", "/v2.0/quotas/", project_with_quota),
    Recipe("network", "/v2.0/auto-allocated-topology/", project_with_topology),
    Recipe("network", "/v2.0/network-ip-availabilities/", used_network),
    Recipe("network", "/v2.0/agents/", network_agent, True),
    Recipe("network", "/v2.0/extensions/", network_extension, True),
    Recipe("identity", "/v3/users/", user, True),
    Recipe("identity", "/v3/groups/{group_id}/users", group_with_user, True),
    Recipe("identity", "/v3/groups/", _identity("groups"), True),
    Recipe("identity", "/v3/projects/{project_id}/tags", tagged_project, True),
    Recipe("identity", "/v3/roles/{role_id}/implies", implied_role, True),
    Recipe("identity", "/v3/roles/", _identity("roles"), True),
    Recipe("identity", "/v3/services/", service, True),
    Recipe("identity", "/v3/endpoints/", endpoint, True),
    Recipe("identity", "/v3/regions/", region, True),
)


def recipe(of: str, route: Route) -> Recipe | None:
    """How to make what a route is about; None for a route that nobody has thought of."""
    for each in RECIPES:
        if each.service == of and (each.match == key(route) or (each.match.startswith("/") and route.path.startswith(each.match))):
            if each.make is compute_host and route.until < (2, 53):
                return each._replace(make=old_compute_host)
            return each
    if of == "identity" and "/roles" in route.path:
        return Recipe(of, route.path, granted(route.path), True)
    if of == "identity" and route.path.startswith(("/v3/projects/{", "/v3/domains/{")):
        return Recipe(of, route.path, _identity(route.path.split("/")[2]), True)
    return None


# ---- bodies

_PATCH = [{"op": "replace", "path": "/name", "value": "new"}]
_TAGS = {"tags": ["new"]}
_INVENTORY = {"resource_provider_generation": 1, "total": 5}
BODIES: dict[str, Any] = {
    "PUT /servers/{server_id}": {"server": {"name": "new"}},
    "POST /servers/{server_id}/action os-start": {"os-start": None},
    "POST /servers/{server_id}/action os-stop": {"os-stop": None},
    "POST /servers/{server_id}/action reboot": {"reboot": {"type": "HARD"}},
    "POST /servers/{server_id}/action os-getConsoleOutput": {"os-getConsoleOutput": {}},
    "POST /servers/{server_id}/action rebuild": {"rebuild": {"imageRef": "{boot_image}"}},
    "POST /servers/{server_id}/action createImage": {"createImage": {"name": "copy"}},
    "POST /servers/{server_id}/action lock": {"lock": None},
    "POST /servers/{server_id}/action unlock": {"unlock": None},
    "POST /servers/{server_id}/action os-resetState": {"os-resetState": {"state": "error"}},
    "POST /servers/{server_id}/action addSecurityGroup": {"addSecurityGroup": {"name": "{spare}"}},
    "POST /servers/{server_id}/action removeSecurityGroup": {"removeSecurityGroup": {"name": "{group}"}},
    "POST /servers/{server_id}/action resetNetwork": {"resetNetwork": None},
    "POST /servers/{server_id}/action os-getRDPConsole": {"os-getRDPConsole": None},
    "POST /servers/{server_id}/metadata": {"metadata": {"new": "v"}},
    "PUT /servers/{server_id}/metadata": {"metadata": {"new": "v"}},
    "PUT /servers/{server_id}/metadata/{key}": {"meta": {"{key}": "new"}},
    "PUT /servers/{server_id}/tags": _TAGS,
    "POST /images/{image_id}/metadata": {"metadata": {"new": "v"}},
    "PUT /images/{image_id}/metadata": {"metadata": {"new": "v"}},
    "PUT /images/{image_id}/metadata/{key}": {"meta": {"{key}": "new"}},
    "PUT /flavors/{flavor_id}": {"flavor": {"description": "new"}},
    "POST /flavors/{flavor_id}/action addTenantAccess": {"addTenantAccess": {"tenant": "{other_id}"}},
    "POST /flavors/{flavor_id}/action removeTenantAccess": {"removeTenantAccess": {"tenant": "{project_id}"}},
    "POST /flavors/{flavor_id}/os-extra_specs": {"extra_specs": {"hw:cpu_thread_policy": "prefer"}},
    "PUT /flavors/{flavor_id}/os-extra_specs/{spec}": {"{spec}": "dedicated"},
    "PUT /os-quota-sets/{project_id}": {"quota_set": {"cores": 7}},
    "PUT /os-quota-class-sets/{quota_class}": {"quota_class_set": {"cores": 7}},
    "PUT /os-services/{service_id}": {"status": "disabled", "disabled_reason": "x"},
    "PUT /os-hosts/{host_name}": {"status": "disable"},
    "PATCH /v2/images/{image_id}": _PATCH,
    "PUT /v2/images/{image_id}/file": b"bytes",
    "PUT /v2/images/{image_id}/stage": b"bytes",
    "POST /v2/images/{image_id}/import": {"method": {"name": "glance-direct"}},
    "POST /v2/images/{image_id}/members": {"member": "somebody"},
    "PUT /v2/images/{image_id}/members/{member_id}": {"status": "accepted"},
    "PUT /resource_providers/{uuid}": {"name": "new"},
    "POST /resource_providers/{uuid}/inventories": {"resource_class": "MEMORY_MB", **_INVENTORY},
    "PUT /resource_providers/{uuid}/inventories": {"resource_provider_generation": 1, "inventories": {"VCPU": {"total": 1}}},
    "PUT /resource_providers/{uuid}/inventories/{resource_class}": _INVENTORY,
    "PUT /resource_providers/{uuid}/aggregates": {"aggregates": [NOWHERE], "resource_provider_generation": 1},
    "PUT /resource_providers/{uuid}/traits": {"traits": ["HW_CPU_X86_AVX2"], "resource_provider_generation": 1},
    "PUT /allocations/{consumer_uuid}": {
        "allocations": {"{uuid}": {"resources": {"VCPU": 2}}},
        "consumer_generation": 1,
        "consumer_type": "INSTANCE",
        "project_id": "{project_id}",
        "user_id": "{user_id}",
    },
    "PUT /resource_classes/{name}": {"name": "{new}"},
    "PUT /v2.0/networks/{network_id}": {"network": {"name": "new"}},
    "PUT /v2.0/subnets/{subnet_id}": {"subnet": {"name": "new"}},
    "PUT /v2.0/ports/{port_id}": {"port": {"name": "new"}},
    "PUT /v2.0/routers/{router_id}": {"router": {"name": "new"}},
    "PUT /v2.0/routers/{router_id}/add_router_interface": {"subnet_id": "{new_subnet_id}"},
    "PUT /v2.0/routers/{router_id}/remove_router_interface": {"subnet_id": "{subnet_id}"},
    "PUT /v2.0/routers/{router_id}/add_extraroutes": {"router": {"routes": [{"destination": "10.98.0.0/24", "nexthop": "10.21.0.9"}]}},
    "PUT /v2.0/routers/{router_id}/remove_extraroutes": {"router": {"routes": [{"destination": "10.99.0.0/24", "nexthop": "10.21.0.9"}]}},
    "PUT /v2.0/floatingips/{floatingip_id}": {"floatingip": {"description": "new"}},
    "PUT /v2.0/security-groups/{security_group_id}": {"security_group": {"description": "new"}},
    "PUT /v2.0/subnetpools/{subnetpool_id}": {"subnetpool": {"name": "new"}},
    "PUT /v2.0/subnetpools/{subnetpool_id}/add_prefixes": {"prefixes": ["10.42.0.0/16"]},
    "PUT /v2.0/subnetpools/{subnetpool_id}/remove_prefixes": {"prefixes": ["10.44.0.0/16"]},
    "PUT /v2.0/quotas/{project_id}": {"quota": {"port": 7}},
    "PUT /v2.0/agents/{agent_id}": {"agent": {"description": "new"}},
    "PATCH /v3/users/{user_id}": {"user": {"name": "{user_id}n"}},
    "POST /v3/users/{user_id}/password": {"user": {"password": "new", "original_password": "pw"}},
    "PATCH /v3/groups/{group_id}": {"group": {"name": "{group_id}n"}},
    "PATCH /v3/projects/{project_id}": {"project": {"name": "{project_id}n"}},
    "PUT /v3/projects/{project_id}/tags": {"tags": ["new"]},
    "PATCH /v3/domains/{domain_id}": {"domain": {"name": "{domain_id}n"}},
    "PATCH /v3/roles/{role_id}": {"role": {"name": "{role_id}n"}},
    "PATCH /v3/services/{service_id}": {"service": {"name": "new"}},
    "PATCH /v3/endpoints/{endpoint_id}": {"endpoint": {"name": "new"}},
    "PUT /v3/regions/{region_id}": {"region": {}},
    "PATCH /v3/regions/{region_id}": {"region": {"description": "new"}},
}
OLD_BODIES = {"PUT /os-services/{service_id}": {"host": "{host_name}", "binary": "nova-compute"}}
"""Of routes that end with an older version."""
PLAIN = {"DELETE", "GET", "HEAD"}
BODILESS = {
    "POST /v2/images/{image_id}/actions/deactivate", "POST /v2/images/{image_id}/actions/reactivate", "PUT /traits/{name}",
    "PUT /v2/images/{image_id}/tags/{tag}", "PUT /servers/{server_id}/tags/{tag}", "POST /os-fixed-ips/{fixed_ip}/action",
    "POST /os-networks/{network_id}/action", "POST /servers/{server_id}/consoles",
}  # fmt: skip
"""Changes that say everything with their path."""
CONTENT = {"PATCH /v2/images/{image_id}": "application/openstack-images-v2.1-json-patch"}


class NoBody(Exception):
    """A route that reads a body, and nobody has said which."""


def body(route: Route, values: Values) -> tuple[Any, bytes | None, dict[str, str]]:
    """(JSON, bytes, headers) that the route accepts. Raises NoBody."""
    what = key(route)
    given: Any = OLD_BODIES.get(what) if route.until < (2, 53) else None
    if given is None:
        given = BODIES.get(what)
    if route.path.endswith("/tags") and route.path.startswith("/v2.0/") and route.method in ("PUT", "POST"):
        given = _TAGS
    if given is None or (what == "PUT /resource_classes/{name}" and not route.body):
        covered = route.method in PLAIN or what in BODILESS or (not route.body and not route.stream and route.method == "PUT")
        if not covered:
            raise NoBody(what)
        return None, None, {}
    if isinstance(given, bytes):
        return None, given, {"content-type": "application/octet-stream"}
    kind = CONTENT.get(what)
    return filled(given, values), None, {"content-type": kind} if kind else {}


def filled(template: Any, values: Values) -> Any:
    if isinstance(template, str):
        return template.format_map(values)
    if isinstance(template, dict):
        return {filled(k, values): filled(v, values) for k, v in template.items()}
    if isinstance(template, list):
        return [filled(item, values) for item in template]
    return template


def qcow2(*, virtual: int = 1 << 30, backing: bytes = b"", incompatible: int = 0, data_file: bytes = b"") -> bytes:
    """A small qcow2 (version 3, clusters of 64 KiB), optionally with a backing file or the name of an external data file."""
    cluster = 1 << 16
    l1_entries = max(1, -(-virtual // (cluster * cluster // 8)))
    header = struct.pack(
        ">4sIQIIQIIQQIIQQQQII",
        b"QFI\xfb", 3, 1024 if backing else 0, len(backing), 16, virtual, 0, l1_entries, cluster * 3, cluster, 1, 0, 0,
        incompatible | (4 if data_file else 0), 0, 0, 4, 104,
    )  # fmt: skip
    extension = struct.pack(">II", 0x44415441, len(data_file)) + data_file.ljust(-(-len(data_file) // 8) * 8, b"\0") if data_file else b""
    first = header + extension + struct.pack(">II", 0, 0)
    return (first.ljust(1024, b"\0") + backing).ljust(cluster, b"\0") + bytes(3 * cluster)
