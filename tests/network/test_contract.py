"""What compute asks for: interfaces of servers, from allocation to release."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
import sqlalchemy as sa

from kilonova.core.errors import Conflict, Error
from kilonova.network.contract import LAST_TURN, InterfacesReleased, NicRequest, WiringFailed
from kilonova.network.errors import AutoNetworkImpossible, IpAddressGenerationFailure, NetworkAmbiguous, NicPortInUse, PortLimitExceeded
from kilonova.network.service import LATE_S
from kilonova.network.store import fences
from kilonova.network.store.tables import server_fences

from .conftest import World, allocate

Run = Callable[..., None]


def test_a_server_gets_a_wired_port_and_gives_it_back(run: Run) -> None:
    async def story(w: World) -> None:
        driver = await w.host("h1")
        user = w.client()
        net = await user.network()
        ctx = w.ctx()
        (nic,) = await w.service.allocate(ctx, allocate("s1", "h1", net["id"]))
        assert nic.fixed_ips[0].ip == "10.0.0.3"  # .1 is the gateway, .2 DHCP's
        assert (nic.network_name, nic.mtu, nic.preserve, nic.device_name) == ("net", 1450, False, f"tap{nic.port_id[:11]}")
        await w.service.wait_wired(ctx, "s1", 5)
        port = await user.get("ports", nic.port_id)
        assert (port["status"], port["device_id"], port["device_owner"]) == ("ACTIVE", "s1", "compute:nova")
        assert [p.id for p in driver.state.ports] == [nic.port_id]
        assert driver.state.ports[0].hostname == "s1"
        (again,) = await w.service.allocate(ctx, allocate("s1", "h1", net["id"]))
        assert again.port_id == nic.port_id
        await w.service.release(ctx, "s1")
        await w.service.release(ctx, "s1")
        assert await w.service.nics(ctx, "s1") == ()
        await w.settle()
        assert driver.state.ports == ()
        assert driver.state.networks == ()
        assert (await user.get("quotas", "p1/details"))["port"]["used"] == 0

    run(story)


def test_who_gives_a_time_gets_ports_that_are_wired(run: Run) -> None:
    async def story(w: World) -> None:
        driver = await w.host("h1")
        net = await w.client().network()
        ctx = w.ctx()
        for server in ("s1", "s1", "s2"):
            (nic,) = await w.service.allocate(ctx, allocate(server, "h1", net["id"]), 5)
            assert nic.status == "ACTIVE"
            assert nic.port_id in [port.id for port in driver.state.ports]
        driver.fail_next_plugs(1000, "no such bridge")
        with pytest.raises(WiringFailed, match="no such bridge"):
            await w.service.allocate(ctx, allocate("s3", "h1", net["id"]), 5)
        (nic,) = await w.service.nics(ctx, "s3")  # its caller releases it
        assert nic.status == "DOWN"

    run(story)


def test_a_users_own_port_outlives_the_server(run: Run) -> None:
    async def story(w: World) -> None:
        await w.host("h1")
        user = w.client()
        net = await user.network()
        port = await user.create("ports", network_id=net["id"], name="mine")
        ctx = w.ctx()
        request = allocate("s1", "h1", networks=(NicRequest(port_id=port["id"], tag="front"),))
        (nic,) = await w.service.allocate(ctx, request)
        assert (nic.port_id, nic.preserve, nic.tag) == (port["id"], True, "front")
        with pytest.raises(NicPortInUse):
            await w.service.validate(ctx, (NicRequest(port_id=port["id"]),), "", (), 1)
        await w.service.wait_wired(ctx, "s1", 5)
        await w.service.release(ctx, "s1")
        after = await user.get("ports", port["id"])
        assert (after["device_id"], after["device_owner"], after["status"]) == ("", "", "DOWN")
        assert after["fixed_ips"] == port["fixed_ips"]
        await w.service.validate(ctx, (NicRequest(port_id=port["id"]),), "", (), 1)

    run(story)


def test_without_a_request_the_only_network_is_taken(run: Run) -> None:
    async def story(w: World) -> None:
        await w.host("h1")
        user, ctx = w.client(), w.ctx()
        await w.service.validate(ctx, (), "", (), 1)
        assert await w.service.allocate(ctx, allocate("s0", "h1")) == ()
        net = await user.network()
        (nic,) = await w.service.allocate(ctx, allocate("s1", "h1"))
        assert nic.network_id == net["id"]
        assert await w.service.allocate(ctx, allocate("s2", "h1", auto="none")) == ()
        await user.network(name="second")
        with pytest.raises(NetworkAmbiguous):
            await w.service.validate(ctx, (), "", (), 1)

    run(story)


def test_two_servers_for_the_last_address(run: Run) -> None:
    async def story(w: World) -> None:
        await w.host("h1")
        user, ctx = w.client(), w.ctx()
        net = await user.network("10.0.0.0/29")  # 6 addresses: gateway, DHCP, 4 left
        for i in range(3):
            await w.service.allocate(ctx, allocate(f"s{i}", "h1", net["id"]))
        results = await asyncio.gather(
            *(w.service.allocate(ctx, allocate(f"last{i}", "h1", net["id"])) for i in range(2)), return_exceptions=True
        )
        good = [r for r in results if not isinstance(r, BaseException)]
        bad = [r for r in results if isinstance(r, BaseException)]
        assert len(good) == 1
        assert isinstance(bad[0], IpAddressGenerationFailure)
        assert (await user.get("quotas", "p1/details"))["port"]["used"] == 4
        await w.service.release(ctx, "s1")
        (nic,) = await w.service.allocate(ctx, allocate("again", "h1", net["id"]))
        assert nic.fixed_ips[0].ip == "10.0.0.4"

    run(story)


def test_failed_wiring_has_a_reason_and_a_rebind_forgets_it(run: Run) -> None:
    async def story(w: World) -> None:
        bad = await w.host("h1")
        await w.host("h2")
        net = await w.client().network()
        ctx = w.ctx()
        bad.fail_next_plugs(1000, "no such bridge")
        await w.service.allocate(ctx, allocate("s1", "h1", net["id"]))
        with pytest.raises(WiringFailed, match="no such bridge"):
            await w.service.wait_wired(ctx, "s1", 5)
        (nic,) = await w.service.rebind(ctx, "s1", "h2")
        assert nic.status == "DOWN"
        await w.service.wait_wired(ctx, "s1", 5)
        await w.settle_hosts("h2")
        assert [p.id for p in w.drivers["h2"].state.ports] == [nic.port_id]
        assert w.drivers["h1"].state.ports == ()

    run(story)


def test_a_host_that_is_away_is_reported_and_catches_up(run: Run) -> None:
    async def story(w: World) -> None:
        driver = await w.host("h1")
        net = await w.client().network()
        ctx = w.ctx()
        await w.service.allocate(ctx, allocate("s1", "h1", net["id"]))
        await w.service.wait_wired(ctx, "s1", 5)
        await w.agents["h1"].stop()
        await w.service.release(ctx, "s1")
        await w.service.allocate(ctx, allocate("s2", "h1", net["id"]))
        with pytest.raises(WiringFailed, match="did not report"):
            await w.service.wait_wired(ctx, "s2", 0.05)
        await w.host("h1")
        await w.service.wait_wired(ctx, "s2", 5)
        assert len(driver.state.ports) == 1
        assert driver.state.ports[0].device_id == "s2"

    run(story)


def test_checks_have_novas_statuses(run: Run) -> None:
    async def story(w: World) -> None:
        await w.host("h1")
        user, ctx = w.client(), w.ctx()
        net = await user.network()
        bare = await user.network(None)
        other = await w.client("member:p2").network()
        ext = await w.client("admin:admin").network("203.0.113.0/24", **{"router:external": True})

        async def refused(status: int, words: str, *nics: NicRequest, **more: Any) -> None:
            with pytest.raises(Error) as caught:
                await w.service.validate(ctx, nics, "", more.get("groups", ()), more.get("count", 1))
            assert (caught.value.status, words in caught.value.message) == (status, True), caught.value.message

        nowhere = "11111111-1111-1111-1111-111111111111"
        await refused(400, f"Network {nowhere} could not be found", NicRequest(network_id=nowhere))
        await refused(400, f"Network {other['id']} could not be found", NicRequest(network_id=other["id"]))
        await refused(400, f"Port id {nowhere} could not be found", NicRequest(port_id=nowhere))
        await refused(400, "requires a subnet", NicRequest(network_id=bare["id"]))
        await refused(403, "It is not allowed to create an interface on external network", NicRequest(network_id=ext["id"]))
        await refused(400, "is not a valid ip address", NicRequest(network_id=net["id"], fixed_ip="10.9.9.9"))
        await refused(400, "is not a valid ip address", NicRequest(network_id=net["id"], fixed_ip="x"))
        await refused(400, "is already in use", NicRequest(network_id=net["id"], fixed_ip="10.0.0.2"))
        await refused(400, "Unable to launch multiple", NicRequest(network_id=net["id"], fixed_ip="10.0.0.9"), count=2)
        await refused(400, "Security group nope not found", NicRequest(network_id=net["id"]), groups=("nope",))
        for _ in range(2):
            await user.create("security-groups", name="twice")
        await refused(409, "Multiple security groups", NicRequest(network_id=net["id"]), groups=("twice",))
        await w.service.validate(ctx, (NicRequest(network_id=net["id"]),), "", ("default",), 10)
        with pytest.raises(AutoNetworkImpossible):
            await w.service.validate(w.ctx(project="p9"), (), "auto", (), 1)

    run(story)


def test_the_port_quota_holds(run: Run) -> None:
    async def story(w: World) -> None:
        await w.host("h1")
        user, ctx = w.client(), w.ctx()
        net = await user.network()
        await w.client("admin:admin").put("quotas", "p1", port=2)
        nic = NicRequest(network_id=net["id"])
        await w.service.validate(ctx, (nic, nic), "", (), 1)
        with pytest.raises(PortLimitExceeded):
            await w.service.validate(ctx, (nic, nic), "", (), 2)
        await w.service.allocate(ctx, allocate("s1", "h1", net["id"], net["id"]))
        with pytest.raises(Conflict):
            await w.service.allocate(ctx, allocate("s2", "h1", net["id"]))
        assert await w.service.nics(ctx, "s2") == ()

    run(story)


def test_security_groups_of_a_server(run: Run) -> None:
    async def story(w: World) -> None:
        driver = await w.host("h1")
        user, ctx = w.client(), w.ctx()
        net = await user.network()
        web = await user.create("security-groups", name="web")
        await w.service.allocate(ctx, allocate("s1", "h1", net["id"], security_groups=("default",)))
        await w.service.add_security_group(ctx, "s1", "web")
        names = [group["name"] for group in await w.service.server_security_groups(ctx, "s1")]
        assert names == ["default", "web"]
        await w.settle()
        assert web["id"] in driver.state.ports[0].security_group_ids
        await w.service.remove_security_group(ctx, "s1", "default")
        await w.settle()
        assert driver.state.ports[0].security_group_ids == (web["id"],)
        assert [group.id for group in driver.state.security_groups] == [web["id"]]
        with pytest.raises(Error) as caught:
            await w.service.remove_security_group(ctx, "s1", "default")
        assert caught.value.status == 404

    run(story)


def test_whose_address_it_is(run: Run) -> None:
    async def story(w: World) -> None:
        await w.host("h1")
        user, ctx = w.client(), w.ctx()
        net = await user.network()
        router = await user.create("routers", name="r")
        await user.client.put(f"/v2.0/routers/{router['id']}/add_router_interface", {"subnet_id": net["subnet"]["id"]})
        (nic,) = await w.service.allocate(ctx, allocate("s1", "h1", net["id"]))
        ip = nic.fixed_ips[0].ip
        found = await w.service.server_of(ctx, ip=ip, network_id=net["id"])
        assert found is not None
        assert (found.server_id, found.project_id) == ("s1", "p1")
        assert await w.service.server_of(ctx, ip=ip, router_id=router["id"]) == found
        assert await w.service.server_of(ctx, ip="10.0.0.1", network_id=net["id"]) is None
        assert await w.service.server_of(ctx, ip="10.0.0.77", network_id=net["id"]) is None
        assert await w.service.server_of(ctx, ip="rubbish", network_id=net["id"]) is None

    run(story)


def test_network_data_of_a_config_drive(run: Run) -> None:
    async def story(w: World) -> None:
        await w.host("h1")
        user, ctx = w.client(), w.ctx()
        served = await user.network()
        plain = await user.network(None, name="plain")
        await user.create(
            "subnets", network_id=plain["id"], cidr="10.1.0.0/24", ip_version=4, enable_dhcp=False, dns_nameservers=["9.9.9.9"]
        )
        nics = await w.service.allocate(ctx, allocate("s1", "h1", served["id"], plain["id"]))
        data = await w.service.network_data(ctx, "s1")
        assert [link["vif_id"] for link in data["links"]] == [nic.port_id for nic in nics]
        assert [link["mtu"] for link in data["links"]] == [None, 1450]
        first, second = data["networks"]
        assert first == {"id": "network0", "type": "ipv4_dhcp", "link": nics[0].device_name, "network_id": served["id"]}
        assert (second["type"], second["ip_address"], second["netmask"]) == ("ipv4", "10.1.0.2", "255.255.255.0")
        assert second["routes"] == [{"network": "0.0.0.0", "netmask": "0.0.0.0", "gateway": "10.1.0.1"}]
        assert data["services"] == [{"type": "dns", "address": "9.9.9.9"}]
        assert await w.service.network_data(ctx, "nobody") == {}

    run(story)


# ---- turns: what comes late


def test_an_allocate_that_comes_after_the_release_of_its_turn_is_refused(run: Run) -> None:
    async def story(w: World) -> None:
        await w.host("h1")
        await w.host("h2")
        ctx, net = w.ctx(), (await w.client().network())["id"]

        async def ports(server_id: str, turn: int, host: str = "h1", *, first: bool = False) -> list[str]:
            return [nic.port_id for nic in await w.service.allocate(ctx, allocate(server_id, host, net, turn=turn, first=first))]

        await w.service.release(ctx, "s1", up_to=7)  # nothing was there
        for first in (True, False):
            with pytest.raises(InterfacesReleased):
                await ports("s1", 7, first=first)
        made = await ports("s1", 8)
        assert await ports("s1", 8) == made, "the same again is no error"
        await w.service.release(ctx, "s1", up_to=8)
        with pytest.raises(InterfacesReleased):
            await ports("s1", 8)
        assert await ports("s1", 9, "h2", first=True) != made, "another host, though somebody says that nothing was there"
        await w.service.release(ctx, "s1", up_to=LAST_TURN)
        for turn in (0, 9, 10, 1 << 40):
            with pytest.raises(InterfacesReleased):
                await ports("s1", turn)
        assert await w.service.nics(ctx, "s1") == ()

    run(story)


def test_a_release_of_an_earlier_turn_leaves_what_a_later_one_has(run: Run) -> None:
    async def story(w: World) -> None:
        await w.host("h1")
        user, ctx = w.client(), w.ctx()
        net = (await user.network())["id"]
        mine = (await user.create("ports", network_id=net, name="mine"))["id"]
        both = (NicRequest(network_id=net), NicRequest(port_id=mine))
        for turn, first in ((3, True), (4, False)):
            have = await w.service.allocate(ctx, allocate("s1", "h1", networks=both, turn=turn, first=first))
        await w.service.release(ctx, "s1", up_to=3)
        assert [nic.port_id for nic in await w.service.nics(ctx, "s1")] == [nic.port_id for nic in have]
        with pytest.raises(InterfacesReleased):
            await w.service.allocate(ctx, allocate("s1", "h2", networks=both, turn=3))
        await w.service.release(ctx, "s1", up_to=4)
        assert await w.service.nics(ctx, "s1") == ()
        assert (await user.get("ports", mine))["device_id"] == ""

    run(story)


def test_who_knows_of_no_turns_allocates_and_releases_as_before(run: Run) -> None:
    """Compute of the release before, whose undo is followed by another host."""

    async def story(w: World) -> None:
        await w.host("h1")
        ctx, net = w.ctx(), (await w.client().network())["id"]
        await w.service.allocate(ctx, allocate("s1", "h1", net, turn=5))
        for _ in range(2):
            await w.service.release(ctx, "s1")
            assert await w.service.nics(ctx, "s1") == ()
            assert len(await w.service.allocate(ctx, allocate("s1", "h1", net))) == 1
        await w.service.release(ctx, "s1", up_to=6)
        assert await w.service.nics(ctx, "s1") == ()

    run(story)


def test_releases_are_forgotten_after_an_hour(run: Run) -> None:
    async def story(w: World) -> None:
        await w.host("h1")
        ctx, net = w.ctx(), (await w.client().network())["id"]
        for server_id in ("kept", "gone", "again"):
            await w.service.allocate(ctx, allocate(server_id, "h1", net, turn=1, first=True))
        for server_id in ("gone", "again", "never"):
            await w.service.release(ctx, server_id, up_to=1)
        await w.service.allocate(ctx, allocate("again", "h1", net, turn=2))
        now = w.service.runtime.now_us()

        async def rows(before: int) -> dict[str, tuple[int, int]]:
            await w.service.db.transact(lambda tx: fences.prune(tx, before))
            found = await w.service.db.all(sa.select(server_fences).order_by(server_fences.c.server_id))
            return {row[0]: (row[1], row[2]) for row in found}

        assert await rows(now - LATE_S * 1_000_000) == {"again": (2, 1), "gone": (1, 1), "kept": (1, 0), "never": (0, 1)}
        assert await rows(now + 1) == {"again": (2, 1), "kept": (1, 0)}

    run(story)


def test_of_an_allocate_and_a_release_at_one_moment_no_port_is_left(run: Run) -> None:
    async def story(w: World) -> None:
        await w.host("h1")
        ctx, net = w.ctx(), (await w.client().network())["id"]
        outcomes = set()

        async def release(server_id: str, after_s: float) -> None:
            if after_s:
                await asyncio.sleep(after_s)
            await w.service.release(ctx, server_id, up_to=LAST_TURN)

        for number in range(70):
            server_id = f"s{number}"
            request = allocate(server_id, "h1", net, turn=1, first=number % 4 < 2)
            both = [w.service.allocate(ctx, request), release(server_id, after_s=number % 7 * 0.001)]
            made, released = await asyncio.gather(*(both if number % 2 else both[::-1]), return_exceptions=True)
            for end in (made, released):
                assert not isinstance(end, BaseException) or isinstance(end, InterfacesReleased), end
            outcomes.add(any(isinstance(end, InterfacesReleased) for end in (made, released)))
            assert await w.service.nics(ctx, server_id) == ()
        assert outcomes == {True, False}, "either may come first"

    run(story)
