"""Security groups and rules over the API, and on the hosts."""

import asyncio
from collections.abc import Callable
from typing import Any

from .conftest import World, allocate, failed

Run = Callable[..., None]
NOWHERE = "11111111-1111-1111-1111-111111111111"


def test_the_default_group(run: Run) -> None:
    async def story(w: World) -> None:
        user = w.client()
        (group,) = await user.list("security-groups")
        assert (group["name"], group["project_id"], group["stateful"], group["shared"]) == ("default", "p1", True, False)
        rules = {(r["direction"], r["ethertype"], r["remote_group_id"]) for r in group["security_group_rules"]}
        assert rules == {
            ("egress", "IPv4", None),
            ("egress", "IPv6", None),
            ("ingress", "IPv4", group["id"]),
            ("ingress", "IPv6", group["id"]),
        }
        assert all(r["belongs_to_default_sg"] for r in group["security_group_rules"])
        path = f"/v2.0/security-groups/{group['id']}"
        failed(await user.client.delete(path), 409, "SecurityGroupCannotRemoveDefault")
        failed(await user.client.put(path, {"security_group": {"name": "x"}}), 409, "SecurityGroupCannotUpdateDefault")
        failed(
            await user.client.post("/v2.0/security-groups", {"security_group": {"name": "default"}}),
            409,
            "SecurityGroupDefaultAlreadyExists",
        )
        replies = await asyncio.gather(*(w.client("member:p5").list("security-groups") for _ in range(5)))
        assert {len(r) for r in replies} == {1}
        details = await user.get("quotas", "p1/details")
        assert (details["security_group"]["used"], details["security_group_rule"]["used"]) == (1, 4)

    run(story)


def test_life_of_a_group(run: Run) -> None:
    async def story(w: World) -> None:
        user, other = w.client(), w.client("member:p2")
        group = await user.create("security-groups", name="web", description="d")
        assert [(r["direction"], r["ethertype"]) for r in group["security_group_rules"]] == [("egress", "IPv4"), ("egress", "IPv6")]
        changed = await user.put("security-groups", group["id"], name="web2", stateful=False)
        assert (changed["name"], changed["stateful"]) == ("web2", False)
        rule = await user.create(
            "security-group-rules", security_group_id=group["id"], direction="ingress", protocol="tcp", port_range_min=22, port_range_max=22
        )
        assert (rule["protocol"], rule["ethertype"], rule["remote_ip_prefix"], rule["normalized_cidr"]) == ("tcp", "IPv4", None, None)
        assert (await user.get("security-groups", group["id"]))["revision_number"] == 3
        path = f"/v2.0/security-group-rules/{rule['id']}"
        failed(await other.client.get(path), 404, "SecurityGroupRuleNotFound")
        failed(await other.client.delete(path), 404)
        failed(await other.client.get(f"/v2.0/security-groups/{group['id']}"), 404, "SecurityGroupNotFound")
        body = {"security_group_rule": {"security_group_id": group["id"], "direction": "ingress"}}
        failed(await other.client.post("/v2.0/security-group-rules", body), 404, "SecurityGroupNotFound")
        failed(await w.client("reader:p1").client.post("/v2.0/security-group-rules", body), 403, "PolicyNotAuthorized")
        assert len(await user.list("security-group-rules", f"?security_group_id={group['id']}")) == 3
        await user.delete("security-group-rules", rule["id"])
        net = await user.network()
        port = await user.create("ports", network_id=net["id"], security_groups=[group["id"]])
        failed(await user.client.delete(f"/v2.0/security-groups/{group['id']}"), 409, "SecurityGroupInUse")
        await user.delete("ports", port["id"])
        await user.delete("security-groups", group["id"])
        assert (await user.get("quotas", "p1/details"))["security_group"]["used"] == 1

    run(story)


def test_rules(run: Run) -> None:
    async def story(w: World) -> None:
        user = w.client()
        group = await user.create("security-groups", name="g")

        async def made(**values: Any) -> Any:
            return await user.create("security-group-rules", **{"security_group_id": group["id"], "direction": "ingress", **values})

        async def refused(status: int, kind: str, words: str = "", **values: Any) -> None:
            body = {"security_group_id": group["id"], "direction": "ingress", **values}
            failed(await user.client.post("/v2.0/security-group-rules", {"security_group_rule": body}), status, kind, words)

        assert (await made(protocol=17))["protocol"] == "17"
        assert (await made(protocol="icmp", port_range_min=-1, port_range_max=-1))["port_range_min"] is None
        assert (await made(protocol="icmp", port_range_min=8, port_range_max=0))["port_range_max"] == 0
        assert (await made(protocol="icmp", ethertype="IPv6"))["protocol"] == "ipv6-icmp"
        assert (await made(protocol="any"))["protocol"] is None
        prefixed = await made(protocol="tcp", port_range_min=1, port_range_max=9, remote_ip_prefix="10.0.0.5/24")
        assert (prefixed["remote_ip_prefix"], prefixed["normalized_cidr"]) == ("10.0.0.5/24", "10.0.0.0/24")
        assert (await made(protocol="tcp", remote_ip_prefix="10.0.0.9"))["remote_ip_prefix"] == "10.0.0.9/32"
        assert (await made(remote_group_id=group["id"]))["remote_group_id"] == group["id"]
        await refused(409, "SecurityGroupRuleExists", protocol="tcp", port_range_min=1, port_range_max=9, remote_ip_prefix="10.0.0.0/24")
        await refused(409, "SecurityGroupRuleExists", remote_ip_prefix="0.0.0.0/0")
        await refused(400, "SecurityGroupRuleInvalidProtocol", protocol="nope")
        await refused(400, "SecurityGroupRuleInvalidProtocol", protocol="256")
        await refused(400, "SecurityGroupRuleInvalidEtherType", ethertype="IPX")
        await refused(400, "SecurityGroupInvalidPortRange", protocol="tcp", port_range_min=80, port_range_max=79)
        await refused(400, "SecurityGroupInvalidPortRange", protocol="tcp", port_range_min=80)
        await refused(400, "SecurityGroupInvalidPortValue", protocol="tcp", port_range_min=0, port_range_max=1)
        await refused(400, "SecurityGroupInvalidPortValue", protocol="udp", port_range_min=1, port_range_max=65536)
        await refused(400, "SecurityGroupInvalidIcmpValue", protocol="icmp", port_range_min=256)
        await refused(400, "SecurityGroupMissingIcmpType", protocol="icmp", port_range_max=1)
        await refused(400, "SecurityGroupProtocolRequiredWithPorts", port_range_min=1, port_range_max=2)
        await refused(400, "SecurityGroupInvalidProtocolForPort", protocol="vrrp", port_range_min=1, port_range_max=2)
        await refused(400, "SecurityGroupRemoteGroupAndRemoteIpPrefix", remote_group_id=group["id"], remote_ip_prefix="10.0.0.0/8")
        await refused(400, "SecurityGroupRuleParameterConflict", remote_ip_prefix="fd00::/8")
        await refused(400, "HTTPBadRequest", remote_ip_prefix="10.0.0./24")
        await refused(400, "HTTPBadRequest", direction="sideways")
        await refused(404, "SecurityGroupNotFound", remote_group_id=NOWHERE)
        await refused(404, "SecurityGroupNotFound", security_group_id=NOWHERE)
        theirs = await w.client("member:p2").create("security-groups", name="t")
        await refused(404, "SecurityGroupNotFound", remote_group_id=theirs["id"])
        await w.client("admin:admin").put("quotas", "p1", security_group_rule=1)
        await refused(409, "OverQuota", protocol="sctp")

    run(story)


def test_a_rule_reaches_running_servers(run: Run) -> None:
    async def story(w: World) -> None:
        one, two = await w.host("h1"), await w.host("h2")
        user, ctx = w.client(), w.ctx()
        net = await user.network()
        await w.service.allocate(ctx, allocate("s1", "h1", net["id"]))
        await w.settle()
        (group,) = [g for g in await user.list("security-groups") if g["name"] == "default"]
        await user.create(
            "security-group-rules", security_group_id=group["id"], direction="ingress", protocol="tcp", port_range_min=22, port_range_max=22
        )
        await w.settle()
        assert any(r.port_range_min == 22 for g in one.state.security_groups for r in g.rules)
        assert len(two.state.security_groups) == 0
        (nic,) = await w.service.allocate(ctx, allocate("s2", "h2", net["id"]))
        await w.settle()
        assert list(one.state.security_groups[0].member_ips) == ["10.0.0.3", nic.fixed_ips[0].ip]
        assert list(two.state.security_groups) == list(one.state.security_groups)
        await w.service.release(ctx, "s2")
        await w.settle()
        assert [list(group.member_ips) for group in one.state.security_groups] == [["10.0.0.3"]]
        assert len(two.state.security_groups) == 0

    run(story)
