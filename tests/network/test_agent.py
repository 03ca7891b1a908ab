"""Agents and the service: failures, lateness, restarts, heartbeats."""

from collections.abc import Callable
from typing import Any

import pytest
import sqlalchemy as sa

from kilonova.network import rpc
from kilonova.network.agent.agent import OtherSession
from kilonova.network.store.tables import hosts

from .conftest import World, allocate

Run = Callable[..., None]


def test_a_fact_of_the_wrong_host_changes_nothing(run: Run) -> None:
    async def story(w: World) -> None:
        await w.host("h1")
        await w.host("h2")
        admin, ctx = w.client("admin:p1"), w.ctx()
        net = await admin.network()
        (nic,) = await w.service.allocate(ctx, allocate("s1", "h1", net["id"]))
        await w.service.wait_wired(ctx, "s1", 5)
        failed = rpc.PortFailed(port_id=nic.port_id, reason="late news")
        await w.bus.call(rpc.FACTS, rpc.HostFacts(host="h2", facts=(failed,)))
        assert (await admin.get("ports", nic.port_id))["status"] == "ACTIVE"
        await w.bus.call(rpc.FACTS, rpc.HostFacts(host="h1", facts=(failed, rpc.PortWired(port_id=nic.port_id))))
        assert (await admin.get("ports", nic.port_id))["status"] == "ACTIVE"
        await w.bus.call(rpc.FACTS, rpc.HostFacts(host="h1", facts=(failed,)))
        assert (await admin.get("ports", nic.port_id))["status"] == "DOWN"
        nowhere = rpc.HostFacts(
            host="h9", facts=(rpc.PortWired(port_id="none"), rpc.RouterReady(router_id="none"), rpc.NetworkReady(network_id="x"))
        )
        await w.bus.call(rpc.FACTS, nowhere)

    run(story)


def test_a_failed_command_is_followed_by_a_synchronisation(run: Run) -> None:
    async def story(w: World) -> None:
        driver = await w.host("h1")
        agent = w.agents["h1"]
        net = await w.client().network()
        ctx = w.ctx()
        syncs = agent.syncs
        driver.fail_next_plugs(1, "once")
        await w.service.allocate(ctx, allocate("s1", "h1", net["id"]))
        with pytest.raises(Exception, match="once"):
            await w.service.wait_wired(ctx, "s1", 5)
        assert await agent.resync()
        await w.settle()
        await w.service.wait_wired(ctx, "s1", 5)
        assert agent.syncs > syncs
        assert agent.failures == 0

    run(story)


def test_a_mistake_in_a_driver_does_not_stop_the_agent(run: Run) -> None:
    async def story(w: World) -> None:
        driver = await w.host("h1")
        net = await w.client().network()
        ctx = w.ctx()
        good = driver.plug

        async def bad(*arguments: Any) -> rpc.PortWired:
            raise ZeroDivisionError

        driver.plug = bad  # type: ignore[method-assign,assignment]
        await w.service.allocate(ctx, allocate("s1", "h1", net["id"]))
        with pytest.raises(Exception, match="an error of the network driver"):
            await w.service.wait_wired(ctx, "s1", 5)
        driver.plug = good  # type: ignore[method-assign]
        assert await w.agents["h1"].resync()
        await w.settle()
        await w.service.wait_wired(ctx, "s1", 5)

    run(story)


def test_an_agent_without_a_service_waits_for_it(run: Run) -> None:
    async def story(w: World) -> None:
        await w.service.stop()
        await w.host("h1")
        agent = w.agents["h1"]
        assert (agent.syncs, agent.failures) == (0, 1)
        w.service = w.edge.service = w.make_service()
        await w.service.start()
        assert await agent.resync()
        assert (agent.syncs, agent.failures) == (1, 0)

    run(story)


def test_a_driver_that_cannot_realise_a_part_says_so(run: Run) -> None:
    async def story(w: World) -> None:
        driver = await w.host("h1")
        net = await w.client().network()
        ctx = w.ctx()
        await w.agents["h1"].stop()
        await w.service.allocate(ctx, allocate("s1", "h1", net["id"]))
        driver.fail_next_plugs(1, "no tap")
        await w.host("h1")
        with pytest.raises(Exception, match="no tap"):
            await w.service.wait_wired(ctx, "s1", 5)
        await w.agents["h1"].resync()
        await w.settle()
        await w.service.wait_wired(ctx, "s1", 5)

    run(story)


def test_heartbeats_keep_agents_alive_and_bring_them_back(run: Run) -> None:
    async def story(w: World) -> None:
        await w.host("h1")
        admin = w.client("admin:admin")
        assert all(a["alive"] for a in await admin.list("agents"))
        past = w.runtime.now_us() - 600_000_000
        await w.db.transact(lambda tx: tx.run(sa.update(hosts).values(heartbeat_at=past)))
        assert not any(a["alive"] for a in await admin.list("agents"))
        w.service.beat_window_s = 0.01
        await w.bus.call(rpc.FACTS, rpc.Heartbeat(host="h1"))
        await w.runtime.sleep(0.05)
        assert all(a["alive"] for a in await admin.list("agents"))
        syncs = w.agents["h1"].syncs
        w.service.dispatcher.online.clear()
        await w.bus.call(rpc.FACTS, rpc.Heartbeat(host="h1"))
        await w.settle()
        assert w.agents["h1"].syncs == syncs + 1
        assert all(a["alive"] for a in await admin.list("agents"))

    run(story)


def test_a_port_bound_before_its_host_was_known_is_bound_after_all(run: Run) -> None:
    async def story(w: World) -> None:
        admin = w.client("admin:p1")
        net = await admin.network()
        values = {"device_id": "s", "device_owner": "compute:nova", "binding:host_id": "h1"}
        port = await admin.create("ports", network_id=net["id"], **values)
        assert port["binding:vif_type"] == "binding_failed"
        await w.host("h1")
        await w.settle()
        now = await admin.get("ports", port["id"])
        assert (now["binding:vif_type"], now["status"]) == ("bridge", "ACTIVE")

    run(story)


def test_a_command_that_overtakes_its_state_waits_for_it(run: Run) -> None:
    """Over a broker the reply with the state and a command sent after it travel on different ways."""

    async def story(w: World) -> None:
        driver = await w.host("h1")
        agent, net, ctx = w.agents["h1"], await w.client().network(), w.ctx()
        (nic,) = await w.service.allocate(ctx, allocate("s1", "h1", net["id"]))
        await w.service.wait_wired(ctx, "s1", 5)
        address = rpc.agent_address("h1")
        async with agent._gate.alone():
            told = w.service.dispatcher.whole("h1")
            early = rpc.Unplug(port_id=nic.port_id, session=told.session)
            late = rpc.Unplug(port_id=nic.port_id, session=agent._session)
            waiting = w.service.tasks.start("a command before its state", w.bus.call(address, early))
            await w.runtime.sleep(0.01)
            agent._generation += 1
            agent._session = told.session
            await driver.sync(told)
        await waiting
        assert not driver.state.ports
        with pytest.raises(OtherSession):
            await w.bus.call(address, late)

    run(story)


def test_commands_that_waited_for_a_whole_state_are_part_of_it(run: Run) -> None:
    """A command that was sent before the state was compiled, and is let in after it, must not bring the past back."""

    async def story(w: World) -> None:
        driver = await w.host("h1")
        agent, net, ctx = w.agents["h1"], await w.client().network(), w.ctx()
        (nic,) = await w.service.allocate(ctx, allocate("s1", "h1", net["id"]))
        await w.service.wait_wired(ctx, "s1", 5)
        old = driver.state
        await w.service.release(ctx, "s1")
        await w.settle()
        stale = rpc.Plug(port=old.ports[0], network=old.networks[0], subnets=old.subnets, groups=old.security_groups)
        async with agent._gate.alone():
            waiting = w.service.tasks.start("a late command", w.bus.call(rpc.agent_address("h1"), stale))
            await w.runtime.sleep(0.01)
            agent._generation += 1
        await waiting
        assert nic.port_id not in [port.id for port in driver.state.ports]

    run(story)
