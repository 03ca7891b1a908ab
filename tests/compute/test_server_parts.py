"""What hangs on a server: metadata, tags, addresses, ports, groups, locks, the log of actions."""

import asyncio
from collections.abc import Callable
from typing import Any

from kilonova.compute.store import servers as store
from kilonova.core.context import Context
from kilonova.core.errors import NotFound
from kilonova.testing.compute import ComputeWorld
from kilonova.testing.fakes import NETWORK, FakeNetwork
from tests.compute.test_flavors import client
from tests.compute.test_servers import boot, until, wanted

Run = Callable[..., None]
GROUP_ID = "00000000-0000-4000-8000-0000000000"


class GroupsNetwork(FakeNetwork):
    """Knows security groups: default, and `web` with a rule of each kind."""

    @staticmethod
    def rule(number: int, **changes: Any) -> dict[str, Any]:
        ports = {"port_range_min": None, "port_range_max": None}
        remote = {"remote_ip_prefix": None, "remote_group_id": None}
        plain = {"id": GROUP_ID + f"a{number}", "direction": "ingress", "ethertype": "IPv4", "protocol": None}
        return {**plain, **ports, **remote, **changes}

    def __init__(self) -> None:
        super().__init__()
        self.names = ["default"]
        self.rules = (
            self.rule(1, protocol="tcp", port_range_min=22, port_range_max=22, remote_ip_prefix="10.0.0.0/8"),
            self.rule(2, ethertype="IPv6"),
            self.rule(3, protocol="udp", remote_group_id=GROUP_ID + "b1"),
            self.rule(4, direction="egress"),
        )

    async def server_security_groups(self, ctx: Context, server_id: str) -> tuple[dict[str, Any], ...]:
        return tuple(
            {
                "id": GROUP_ID + f"b{i}",
                "name": name,
                "description": "",
                "project_id": "p1",
                "rules": self.rules if name == "default" else (),
            }
            for i, name in enumerate(self.names, 1)
        )

    async def add_security_group(self, ctx: Context, server_id: str, name: str) -> None:
        if name == "nope":
            raise NotFound("Security group nope not found.")
        self.names.append(name)

    async def remove_security_group(self, ctx: Context, server_id: str, name: str) -> None:
        if name not in self.names:
            raise NotFound(f"Security group {name} not associated with the instance {server_id}")
        self.names.remove(name)


def test_metadata(compute: Run) -> None:
    async def story(w: ComputeWorld) -> None:
        c = client(w)
        server = await boot(c, metadata={"a": "b"})
        path = f"/v2.1/servers/{server['id']}/metadata"
        assert (await c.get(path)).json == {"metadata": {"a": "b"}}
        assert (await c.post(path, {"metadata": {"c": "d"}})).json == {"metadata": {"a": "b", "c": "d"}}
        assert (await c.put(path, {"metadata": {"e": "f"}})).json == {"metadata": {"e": "f"}}
        assert (await c.put(f"{path}/g", {"meta": {"g": "h"}})).json == {"meta": {"g": "h"}}
        assert (await c.get(f"{path}/g")).json == {"meta": {"g": "h"}}
        assert (await c.put(f"{path}/g", {"meta": {"x": "h"}})).json["badRequest"]["message"] == "Request body and URI mismatch"
        assert (await c.delete(f"{path}/g")).status == 204
        assert (await c.delete(f"{path}/g")).status == 404
        assert (await c.get(f"{path}/g")).status == 404
        assert (await c.get(f"/v2.1/servers/{server['id']}")).json["server"]["metadata"] == {"e": "f"}
        for bad in ({"": "x"}, {"k" * 256: "x"}, {"k": "v" * 256}, {"a/b": "x"}, {"k": 1}, {"k": None}):
            assert (await c.post(path, {"metadata": bad})).status == 400, bad
        over = await c.post(path, {"metadata": {f"k{i}": "v" for i in range(5)}})
        assert over.json["forbidden"]["message"] == "Maximum number of metadata items exceeds 5"
        assert (await c.put(path, {"metadata": {}})).json == {"metadata": {}}
        assert (await client(w, "member:p2").get(path)).status == 404
        assert (await client(w, "member:p2").post(path, {"metadata": {}})).status == 404
        assert (await client(w, "reader:p1").get(path)).status == 200
        assert (await client(w, "reader:p1").post(path, {"metadata": {}})).status == 403
        assert (await client(w, "admin:p9").get(path)).status == 200

    compute(story, settings={("quota", "metadata_items"): 5})


def test_metadata_set_at_once_is_all_kept(compute: Run) -> None:
    async def story(w: ComputeWorld) -> None:
        c = client(w)
        path = f"/v2.1/servers/{(await boot(c))['id']}/metadata"
        replies = await asyncio.gather(*(c.put(f"{path}/k{i}", {"meta": {f"k{i}": "v"}}) for i in range(30)))
        assert {r.status for r in replies} == {200}
        assert len((await c.get(path)).json["metadata"]) == 30

    compute(story)


def test_metadata_and_tags_ask_the_state(compute: Run) -> None:
    async def story(w: ComputeWorld) -> None:
        c, admin = client(w), client(w, "admin:p9")
        server = await boot(c)
        path = f"/v2.1/servers/{server['id']}"
        await admin.post(f"{path}/action", {"os-resetState": {"state": "error"}})
        refused = await c.post(f"{path}/metadata", {"metadata": {"a": "b"}})
        assert refused.status == 409
        assert refused.json["conflictingRequest"]["message"] == (
            f"Cannot 'update metadata' instance {server['id']} while it is in vm_state error"
        )
        assert (await c.put(f"{path}/tags/x")).status == 409
        assert (await admin.post(f"{path}/action", {"os-resetState": {"state": "active"}})).status == 202
        await c.post(f"{path}/action", {"lock": None})
        locked = await c.post(f"{path}/metadata", {"metadata": {"a": "b"}})
        assert locked.json["conflictingRequest"]["message"] == f"Instance {server['id']} is locked"
        assert (await c.put(f"{path}/tags/x")).status == 201

    compute(story)


def test_tags(compute: Run) -> None:
    async def story(w: ComputeWorld) -> None:
        c = client(w)
        path = f"/v2.1/servers/{(await boot(c))['id']}/tags"
        first = await c.put(f"{path}/t1")
        assert (first.status, first.headers["location"]) == (201, f"http://localhost{path}/t1")
        assert (await c.put(f"{path}/t1")).status == 204
        assert (await c.get(f"{path}/t1")).status == 204
        assert (await c.get(f"{path}/t2")).status == 404
        assert (await c.put(path, {"tags": ["b", "a", "b"]})).json == {"tags": ["a", "b"]}
        assert (await c.get(path)).json == {"tags": ["a", "b"]}
        assert (await c.put(f"{path}/a,b")).status == 400
        assert (await c.put(f"{path}/{'x' * 61}")).status == 400
        for bad in (["a,b"], ["x" * 61], [""], [1], [f"t{i}" for i in range(51)]):
            assert (await c.put(path, {"tags": bad})).status == 400, bad
        assert (await c.put(path, {"tags": [f"t{i}" for i in range(50)]})).status == 200
        assert (await c.put(f"{path}/one-more")).status == 400
        assert (await c.delete(f"{path}/t1")).status == 204
        assert (await c.delete(f"{path}/t1")).status == 404
        assert (await c.delete(path)).status == 204
        assert (await c.get(path)).json == {"tags": []}
        assert (await c.at("2.25").get(path)).status == 404
        assert (await client(w, "member:p2").get(path)).status == 404
        assert (await client(w, "reader:p1").delete(path)).status == 403

    compute(story)


def test_addresses_and_ports(compute: Run) -> None:
    async def story(w: ComputeWorld) -> None:
        c = client(w)
        server = await boot(c)
        path = f"/v2.1/servers/{server['id']}"
        assert (await c.get(f"{path}/ips")).json == {"addresses": {"private": [{"version": 4, "addr": "10.0.0.1"}]}}
        assert (await c.get(f"{path}/ips/private")).json == {"private": [{"version": 4, "addr": "10.0.0.1"}]}
        assert (await c.get(f"{path}/ips/zz")).status == 404
        for version in ("2.1", "2.70"):
            ports = (await c.at(version).get(f"{path}/os-interface")).json["interfaceAttachments"]
            assert (ports[0]["net_id"], ports[0]["fixed_ips"][0]["ip_address"]) == (NETWORK, "10.0.0.1")
            one = (await c.at(version).get(f"{path}/os-interface/{ports[0]['port_id']}")).json["interfaceAttachment"]
            assert one == ports[0]
        assert (await c.get(f"{path}/os-interface/zz")).status == 404
        assert (await c.get(f"{path}/os-volume_attachments")).json == {"volumeAttachments": []}
        assert (await c.get(f"{path}/os-volume_attachments/zz")).status == 404
        for part in ("ips", "ips/private", "os-interface", "os-volume_attachments", "os-security-groups", "os-instance-actions"):
            assert (await client(w, "member:p2").get(f"{path}/{part}")).status == 404, part
            assert (await c.get(f"/v2.1/servers/zz/{part}")).status == 404, part

    compute(story)


def test_security_groups(compute: Run) -> None:
    async def story(w: ComputeWorld) -> None:
        c = client(w)
        server = await boot(c)
        path = f"/v2.1/servers/{server['id']}"
        groups = (await c.get(f"{path}/os-security-groups")).json["security_groups"]
        assert [(r["from_port"], r["to_port"], r["ip_range"], r["group"]) for r in groups[0]["rules"]] == [
            (22, 22, {"cidr": "10.0.0.0/8"}, {}),
            (None, None, {"cidr": "::/0"}, {}),
            (1, 65535, {}, {"name": "default", "tenant_id": "p1"}),
        ]
        assert (await c.post(f"{path}/action", {"addSecurityGroup": {"name": "web"}})).status == 202
        shown = (await c.get(path)).json["server"]["security_groups"]
        assert shown == [{"name": "default"}, {"name": "web"}]
        assert (await c.post(f"{path}/action", {"addSecurityGroup": {"name": "nope"}})).status == 404
        assert (await c.post(f"{path}/action", {"removeSecurityGroup": {"name": "web"}})).status == 202
        assert (await c.post(f"{path}/action", {"removeSecurityGroup": {"name": "web"}})).status == 404
        assert (await c.post(f"{path}/action", {"addSecurityGroup": {"name": ""}})).status == 400
        assert (await client(w, "reader:p1").post(f"{path}/action", {"addSecurityGroup": {"name": "web"}})).status == 403

    compute(story, network=GroupsNetwork())


def test_locks(compute: Run) -> None:
    async def story(w: ComputeWorld) -> None:
        c, admin, mine = client(w), client(w, "admin:p9"), client(w, "admin:p1")
        server = await boot(c)
        path = f"/v2.1/servers/{server['id']}"
        assert (await admin.post(f"{path}/action", {"lock": {"locked_reason": "r"}})).status == 202
        shown = (await c.get(path)).json["server"]
        assert (shown["locked"], shown["locked_reason"]) == (True, "r")
        assert (await c.post(f"{path}/action", {"os-stop": None})).status == 409
        assert (await c.post(f"{path}/action", {"unlock": None})).status == 403
        assert (await admin.post(f"{path}/action", {"unlock": None})).status == 202
        # An admin of the same project locks as owner: any member of it may unlock.
        assert (await mine.post(f"{path}/action", {"lock": None})).status == 202
        assert (await c.post(f"{path}/action", {"unlock": None})).status == 202
        assert (await c.get(path)).json["server"]["locked"] is False
        assert (await c.at("2.72").post(f"{path}/action", {"lock": {"locked_reason": "ignored"}})).status == 202
        assert (await c.post(f"{path}/action", {"lock": {"locked_reason": ""}})).status == 400
        assert (await c.post(f"{path}/action", {"lock": {"why": "r"}})).status == 400
        assert (await client(w, "reader:p1").post(f"{path}/action", {"lock": None})).status == 403
        assert (await client(w, "member:p2").post(f"{path}/action", {"lock": None})).status == 404
        assert (await c.post(f"{path}/action", {"os-resetState": {"state": "active"}})).status == 403
        assert (await admin.post(f"{path}/action", {"os-resetState": {"state": "paused"}})).status == 400

    compute(story)


def test_log_of_actions_outlives_the_server(compute: Run) -> None:
    async def story(w: ComputeWorld) -> None:
        c, admin = client(w), client(w, "admin:p9")
        made = await c.post("/v2.1/servers", wanted())
        ident, asked = made.json["server"]["id"], made.headers["x-openstack-request-id"]
        await until(c, ident, "ACTIVE")
        path = f"/v2.1/servers/{ident}/os-instance-actions"
        for version in ("2.1", "2.51", "2.58", "2.62", "2.84", "2.100"):
            listed = (await c.at(version).get(path)).json["instanceActions"]
            assert [(a["action"], a["request_id"]) for a in listed] == [("create", asked)]
            one = (await c.at(version).get(f"{path}/{asked}")).json["instanceAction"]
            assert ("events" in one) == (version != "2.1")
            seen = (await admin.at(version).get(f"{path}/{asked}")).json["instanceAction"]["events"][0]
            assert (seen["event"], seen["result"]) == ("compute__do_build_and_run_instance", "Success")
            assert ("host" in seen, "details" in seen) == (version in ("2.62", "2.84", "2.100"), version in ("2.84", "2.100"))
        assert (await c.get(f"{path}/req-zz")).status == 404
        await c.post(f"/v2.1/servers/{ident}/action", {"lock": None})
        await c.post(f"/v2.1/servers/{ident}/action", {"unlock": None})
        page = (await c.get(f"{path}?limit=1")).json
        assert [a["action"] for a in page["instanceActions"]] == ["unlock"]
        following = page["links"][0]["href"].removeprefix("http://localhost")
        assert [a["action"] for a in (await c.get(following)).json["instanceActions"]] == ["lock"]
        assert len((await c.get(f"{path}?changes-since=2020-01-01T00:00:00Z")).json["instanceActions"]) == 3
        assert (await c.get(f"{path}?changes-before=2020-01-01T00:00:00Z")).json["instanceActions"] == []
        for bad in ("limit=x", "limit=1&limit=1", "marker=zz", "changes-since=zz", "foo=1"):
            assert (await c.get(f"{path}?{bad}")).status == 400, bad
        await c.delete(f"/v2.1/servers/{ident}")
        await until(c, ident, "gone")
        assert [a["action"] for a in (await c.get(path)).json["instanceActions"]] == ["delete", "unlock", "lock", "create"]
        assert (await c.at("2.20").get(path)).status == 404
        assert (await client(w, "member:p2").get(path)).status == 404
        deleted = await store.get(w.db, ident)
        assert deleted is not None and deleted.deleted

    compute(story)


def test_extensions(compute: Run) -> None:
    async def story(w: ComputeWorld) -> None:
        c = client(w, version="2.1")
        listed = (await c.get("/v2.1/extensions")).json["extensions"]
        assert "os-keypairs" in {e["alias"] for e in listed}
        assert (await c.get("/v2.1/extensions/os-keypairs")).json["extension"] in listed
        assert (await c.get("/v2.1/extensions/zz")).status == 404

    compute(story)
