"""Attacks that go through several services: images on their way to a guest (1-4, 10, 11), text that is markup elsewhere (84), lines in
configurations (76), metadata of others (80), tokens that end (48), passwords and methods in bulk (54, 55)."""

import json
import struct
import time
from typing import Any

import pytest

from kilonova.network.rpc import MetadataRequest
from kilonova.testing.cloud import OCTETS, expect
from tests.security import recipes
from tests.security.conftest import Run, World, name

_VMDK = b'# Disk DescriptorFile\nversion=1\nCID=1\nparentCID=ffffffff\ncreateType="monolithicFlat"\nRW 2048 FLAT "/etc/passwd" 0\n'
CRAFTED: tuple[tuple[str, str, bytes], ...] = (
    ("row 1: a backing file", "qcow2", recipes.qcow2(backing=b"/etc/passwd")),
    ("row 1: a backing file as json:", "qcow2", recipes.qcow2(backing=b'json:{"driver":"file","filename":"/etc/passwd"}')),
    ("row 2: an external data file", "qcow2", recipes.qcow2(data_file=b"/etc/passwd")),
    ("row 2: the feature without a name", "qcow2", recipes.qcow2(incompatible=4)),
    ("row 3: qcow2 that says it is raw", "raw", recipes.qcow2(backing=b"/etc/passwd")),
    ("row 3: harmless qcow2 that says it is raw", "raw", recipes.qcow2()),
    ("row 3: vmdk that says it is raw", "raw", _VMDK),
    ("row 3: raw that says it is qcow2", "qcow2", b"x" * 4096),
    ("row 4: a flat extent", "vmdk", _VMDK),
    ("row 10: a table of gigabytes", "qcow2", recipes.qcow2()[:36] + struct.pack(">I", 0x7FFFFFFF) + recipes.qcow2()[40:]),
    ("row 10: a million snapshots", "qcow2", recipes.qcow2()[:60] + struct.pack(">IQ", 1_000_000, 1 << 16) + recipes.qcow2()[72:]),
)


@pytest.mark.parametrize(("what", "disk_format", "data"), CRAFTED, ids=[what.replace(" ", "-") for what, _, _ in CRAFTED])
def test_row_1_2_3_4_10_crafted_images_never_reach_a_guest(run: Run, what: str, disk_format: str, data: bytes) -> None:
    async def story(w: World) -> None:
        client, compute = w.client("image", "member:a"), w.client("compute", "member:a")
        image_id = await w.image(data=None, disk_format=disk_format)
        put = await client.put(f"/v2/images/{image_id}/file", raw=data, headers=OCTETS)
        assert put.status in (400, 415, 403, 409), (what, put)
        assert b"root:" not in put.body
        shown = expect(await client.get(f"/v2/images/{image_id}"), 200)
        assert shown["status"] != "active"
        assert (await client.get(f"/v2/images/{image_id}/file")).status in (204, 403, 404)
        wanted = {"name": "x", "imageRef": image_id, "flavorRef": "nano", "networks": "none"}
        assert (await compute.post("/v2.1/servers", {"server": wanted})).status == 400
        staged = await w.image(data=None, disk_format=disk_format)
        stage = await client.put(f"/v2/images/{staged}/stage", raw=data, headers=OCTETS)
        imported = await client.post(f"/v2/images/{staged}/import", {"method": {"name": "glance-direct"}})
        assert stage.status >= 400 or imported.status >= 400, (what, stage, imported)
        assert expect(await client.get(f"/v2/images/{staged}"), 200)["status"] != "active"

    run(story)


def test_row_11_a_disk_larger_than_its_flavor_is_refused_before_a_host_is_asked(run: Run) -> None:
    async def story(w: World) -> None:
        large = await w.image(disk_format="qcow2", data=recipes.qcow2(virtual=5 << 30))
        assert expect(await w.client("image", "member:a").get(f"/v2/images/{large}"), 200)["virtual_size"] == 5 << 30
        wanted = {"name": "x", "imageRef": large, "flavorRef": "nano", "networks": "none"}
        before = w.dump()
        reply = await w.client("compute", "member:a").post("/v2.1/servers", {"server": wanted})
        assert reply.status == 400, reply
        assert w.dump() == before
        exa = await w.image(data=None, disk_format="qcow2")
        put = await w.client("image", "member:a").put(f"/v2/images/{exa}/file", raw=_exabytes(), headers=OCTETS)
        if put.status < 400:
            assert (await w.client("compute", "member:a").post("/v2.1/servers", {"server": {**wanted, "imageRef": exa}})).status == 400

    run(story)


def _exabytes() -> bytes:
    good = recipes.qcow2()
    return good[:24] + struct.pack(">Q", 8 << 60) + good[32:]


MARKUP = (
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "\x1b[2J\x1b]0;owned\x07",
    "{{7*7}}",
    "</title><svg/onload=x>",
    "\u202egnp.exe",
)


def test_row_84_text_of_users_stays_text(run: Run) -> None:
    """Names, descriptions, metadata and tags come back as JSON, as they were written or refused; no answer is HTML that holds them."""

    async def story(w: World) -> None:
        compute, image, network = w.client("compute", "member:a"), w.client("image", "member:a"), w.client("network", "member:a")
        for text in MARKUP:
            base = {"imageRef": w.ids["image"], "flavorRef": "nano", "networks": "none", "metadata": {"k": text[:200]}, "description": text}
            requests: tuple[tuple[Any, str, Any], ...] = (
                (compute, "/v2.1/servers", {"server": {"name": text, **base}}),
                (compute, "/v2.1/os-keypairs", {"keypair": {"name": text, "public_key": text}}),
                (image, "/v2/images", {"name": text, "container_format": text, "tags": [text], "p": text}),
                (network, "/v2.0/networks", {"network": {"name": text, "description": text}}),
                (network, "/v2.0/security-groups", {"security_group": {"name": text, "description": text}}),
            )
            for client, path, body in requests:
                reply = await client.post(path, body)
                assert reply.status < 500, reply
                _inert(reply)
            for client, path in (
                (compute, f"/v2.1/servers/{_quoted(text)}"), (compute, f"/v2.1/{_quoted(text)}"), (image, f"/v2/images/{_quoted(text)}"),
                (image, f"/v2/{_quoted(text)}"), (network, f"/v2.0/ports/{_quoted(text)}"), (network, f"/v2.0/{_quoted(text)}"),
                (w.client("placement"), f"/resource_providers/{_quoted(text)}"), (w.client("placement"), f"/{_quoted(text)}"),
                (w.client("identity"), f"/v3/users/{_quoted(text)}"), (w.client("identity"), f"/v3/{_quoted(text)}"),
            ):  # fmt: skip
                for accept in ("application/json", "text/html", "*/*", ""):
                    reply = await client.request("GET", path, headers={"accept": accept})
                    assert reply.status < 500, reply
                    _inert(reply)
        for client, path in ((compute, "/v2.1/servers/detail"), (image, "/v2/images"), (network, "/v2.0/networks")):
            _inert(expect_json(await client.get(path)))

    run(story)


def _quoted(text: str) -> str:
    return "".join(f"%{byte:02X}" for byte in text.encode())


def _inert(reply: Any) -> None:
    kind = reply.headers.get("content-type", "")
    text = reply.body.decode()
    if "json" in kind:
        json.loads(text)
        assert "\x1b" not in text
    else:
        assert "\x1b" not in text
        assert "plain" in kind or not any(mark in text for mark in ("<script>", "<img", "<svg")), reply
    assert not any("\n" in value or "\x1b" in value for value in reply.headers.values())


def expect_json(reply: Any) -> Any:
    assert reply.status == 200
    assert reply.headers["content-type"].startswith("application/json")
    return reply


LINES = ("a\nb", "a\r\nb", "a\x00b", "x\ndhcp-script=/bin/sh", "\u2028x", "x\x0bdhcp-option=6,6.6.6.6")


def test_row_76_no_line_breaks_where_configurations_are_made(run: Run) -> None:
    """CVE-2021-40085, and every other text that a DHCP server or a guest's network configuration is made from."""

    async def story(w: World) -> None:
        network, compute = w.client("network", "member:a"), w.client("compute", "member:a")
        own, subnet = await w.network()
        port = await w.make("ports", network_id=own)
        before = w.dump()
        for text in LINES:
            bodies: tuple[tuple[str, str, Any], ...] = (
                ("PUT", f"ports/{port}", {"port": {"extra_dhcp_opts": [{"opt_name": "bootfile-name", "opt_value": text}]}}),
                ("PUT", f"ports/{port}", {"port": {"extra_dhcp_opts": [{"opt_name": text, "opt_value": "x"}]}}),
                ("PUT", f"ports/{port}", {"port": {"mac_address": text}}),
                ("PUT", f"ports/{port}", {"port": {"dns_name": text}}),
                ("PUT", f"subnets/{subnet}", {"subnet": {"dns_nameservers": [text]}}),
                ("PUT", f"subnets/{subnet}", {"subnet": {"host_routes": [{"destination": text, "nexthop": "10.9.0.9"}]}}),
                ("PUT", f"networks/{own}", {"network": {"dns_domain": text}}),
                ("PUT", f"networks/{own}", {"network": {"name": text}}),
                ("POST", "security-group-rules", {"security_group_rule": {"direction": "ingress", "protocol": text}}),
            )
            for method, path, body in bodies:
                reply = await network.request(method, f"/v2.0/{path}", body)
                if reply.status < 400:
                    assert "name" in json.dumps(body), (text, body, reply)
                    before = w.dump()
                else:
                    assert reply.status == 400, (text, body, reply)
                    assert w.dump() == before, body
            wanted = {"name": "x", "imageRef": w.ids["image"], "flavorRef": "nano", "networks": "none"}
            assert (await compute.post("/v2.1/servers", {"server": {**wanted, "hostname": text}})).status == 400
            assert (await compute.post("/v2.1/servers", {"server": {**wanted, "name": text}})).status in (202, 400)
            await w.quiet()
            before = w.dump()

    run(story)


def test_row_80_metadata_is_the_askers_own(run: Run) -> None:
    """A guest's address decides; headers and paths that name another server do not."""

    async def story(w: World) -> None:
        secret = "canary-of-the-victim"
        victim = await w.server("member:b", name="victim", metadata={"m": secret})
        own, _ = await w.network()
        attacker = await w.server("member:a", network_id=own)
        ports = expect(await w.client("network", "member:a").get(f"/v2.0/ports?device_id={attacker}"), 200)["ports"]
        source = ports[0]["fixed_ips"][0]["ip_address"]
        metadata = w.cloud.cloud.metadata
        assert metadata is not None
        forged = (
            ("X-Instance-ID", victim),
            ("X-Tenant-ID", w.projects["b"]),
            ("X-Forwarded-For", "10.0.0.2"),
            ("X-Instance-ID-Signature", "0" * 64),
        )
        for path in (
            "/openstack/latest/meta_data.json",
            "/latest/user-data",
            f"/openstack/../{victim}/latest/meta_data.json",
            "//",
            "/" * 9000,
        ):
            request = MetadataRequest(method="GET", path=path, headers=forged, source_ip=source, network_id=own)
            reply = await metadata.handle(request)
            assert secret.encode() not in reply.body
            if path == "/openstack/latest/meta_data.json":
                assert json.loads(reply.body)["uuid"] == attacker
        wrong = MetadataRequest(
            method="GET", path="/openstack/latest/meta_data.json", headers=forged, source_ip=source, network_id=w.ids["network"]
        )
        assert attacker.encode() not in (await metadata.handle(wrong)).body

    run(story)


def test_row_48_what_is_taken_away_is_gone_everywhere_at_once(run: Run) -> None:
    """A role removed, a user disabled, a project disabled: the next request to any service fails."""

    async def story(w: World) -> None:
        server = await w.server()
        own = {"identity": "/v3/auth/projects", "image": "/v2/images", "compute": f"/v2.1/servers/{server}", "network": "/v2.0/networks"}
        admin = w.client("identity")
        for service, path in own.items():
            assert (await w.client(service, "member:a").get(path)).status == 200, service
        roles = {r["name"]: r["id"] for r in expect(await admin.get("/v3/roles"), 200)["roles"]}
        grant = f"/v3/projects/{w.projects['a']}/users/{w.users['member:a']}/roles/{roles['member']}"
        assert (await admin.delete(grant)).status == 204
        expect(await admin.patch(f"/v3/users/{w.users['manager:a']}", {"user": {"enabled": False}}), 200)
        for who in ("member:a", "manager:a"):
            for service, path in own.items():
                assert (await w.client(service, who).get(path)).status == 401, (service, who)
        expect(await admin.patch(f"/v3/projects/{w.projects['a']}", {"project": {"enabled": False}}), 200)
        for service, path in own.items():
            assert (await w.client(service, "reader:a").get(path)).status == 401, service

    run(story)


def test_row_54_55_large_requests_for_tokens_are_cheap(run: Run) -> None:
    """CVE-2012-1572, CVE-2014-2828: 10 MB of password, 10,000 methods, and the catalog's URLs (row 57) stay templates."""

    async def story(w: World) -> None:
        anonymous = w.anonymous("identity")
        user = {"id": w.users["member:a"], "password": "x" * 10_000_000}
        started = time.process_time()
        large = await anonymous.post("/v3/auth/tokens", {"auth": {"identity": {"methods": ["password"], "password": {"user": user}}}})
        assert large.status in (400, 401, 413), large
        many = {"methods": ["password", "token"] * 5000, "password": {"user": {**user, "password": "pw"}}}
        assert (await anonymous.post("/v3/auth/tokens", {"auth": {"identity": many}})).status == 400
        assert time.process_time() - started < 1
        made = await recipes.service(w, "member:a")
        for url in ("http://x/$(admin_token)s", "http://x/%(admin_token)s", "http://x/$(password)s", "http://x/%(user_id)s.__class__"):
            body = {"endpoint": {"service_id": made["service_id"], "interface": "public", "url": url, "name": name("e")}}
            reply = await w.client("identity").post("/v3/endpoints", body)
            catalog = (await w.client("identity", "member:a").get("/v3/auth/catalog")).body.decode()
            assert reply.status < 500
            assert w.tokens["member:a"] not in catalog
            assert w.tokens["admin"] not in catalog

    run(story)


async def _rebuilt(w: World) -> tuple[str, int, Any, Any]:
    """A server asked to be rebuilt from an image that its host cannot run: (server, status, claims before, claims after)."""
    server_id = await w.server()
    foreign = await w.image("member:a", hw_architecture="aarch64")
    wanted = {"name": "y", "imageRef": foreign, "flavorRef": "nano", "networks": "none"}
    made = expect(await w.client("compute", "member:a").post("/v2.1/servers", {"server": wanted}), 202)["server"]["id"]
    assert "No valid host" in (await w.until(made, "ERROR"))["fault"]["message"], "a create is refused by the filter"
    before = expect(await w.client("placement").get(f"/allocations/{server_id}"), 200)["allocations"]
    body = {"rebuild": {"imageRef": foreign}}
    reply = await w.client("compute", "member:a").post(f"/v2.1/servers/{server_id}/action", body)
    await w.quiet()
    after = expect(await w.client("placement").get(f"/allocations/{server_id}"), 200)["allocations"]
    return server_id, reply.status, before, after


def _resources(allocations: Any) -> Any:
    return {provider: held["resources"] for provider, held in allocations.items()}


def test_row_28_a_rebuild_claims_nothing_twice(run: Run) -> None:
    """CVE-2017-17051."""

    async def story(w: World) -> None:
        _, _, before, after = await _rebuilt(w)
        assert _resources(after) == _resources(before)

    run(story)


def test_row_28_a_rebuild_asks_the_filters(run: Run) -> None:
    """CVE-2017-16239."""

    async def story(w: World) -> None:
        server_id, status, _, _ = await _rebuilt(w)
        server = expect(await w.client("compute").get(f"/v2.1/servers/{server_id}"), 200)["server"]
        actions = expect(await w.client("compute").get(f"/v2.1/servers/{server_id}/os-instance-actions"), 200)["instanceActions"]
        assert status >= 400 or server["status"] == "ERROR" or actions[0]["message"] == "Error", (status, server["status"])

    run(story)
