"""Several processes of the network service side by side: who leads, what the others know, what a fallen or sleeping leader does."""

import asyncio
import random
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from kilonova.core import binding
from kilonova.core.errors import Error
from kilonova.core.log import Log, Sink
from kilonova.network import contract, rpc
from kilonova.network.contract import WiringFailed
from kilonova.network.domain import journal
from kilonova.network.model import Port
from kilonova.network.store import changes, rows
from kilonova.testing.databases import open_test_database
from kilonova.testing.simulation import SimRuntime
from kilonova.testing.simulation import run as simulate

from .conftest import World, allocate
from .processes import Cloud
from .test_topology import Player

Story = Callable[[Cloud], Awaitable[None]]
HOSTS = ("h1", "h2", "h3")


def play(tmp_path: Path, story: Story, seed: int = 1, *, joins: bool = True) -> None:
    """On the virtual clock. joins: over a database like PostgreSQL."""

    async def main(runtime: SimRuntime) -> None:
        with (tmp_path / "log").open("a") as stream:
            log = Log("test", Sink(stream, now_us=runtime.now_us))
            cloud = Cloud(runtime, open_test_database(str(tmp_path / "network.db"), runtime, joins=joins), log)
            try:
                await cloud.db.create(rows.ports.table.metadata)
                await story(cloud)
            finally:
                await cloud.stop()

    simulate(main, seed)


async def two(c: Cloud) -> tuple[Any, Any]:
    """Two processes and three hosts. Returns (the one that leads, the other)."""
    await c.process("a")
    await c.process("b")
    lead = await c.leader()
    for host in HOSTS:
        await c.host(host)
    other = next(process for process in c.alive() if process is not lead)
    return lead, other


def test_what_one_process_writes_the_other_one_wires(tmp_path: Path) -> None:
    async def story(c: Cloud) -> None:
        lead, other = await two(c)
        net = await other.client().network()
        began = c.runtime.monotonic()
        (nic,) = await other.service.allocate(other.ctx(), allocate("s1", "h1", net["id"]))
        await other.service.wait_wired(other.ctx(), "s1", 5)
        assert c.runtime.monotonic() - began < 0.5  # by hints: the polls alone would take longer
        assert [port.id for port in c.drivers["h1"].state.ports] == [nic.port_id]
        port = await other.client("admin:p1").get("ports", nic.port_id)
        assert (port["status"], port["binding:vif_type"]) == ("ACTIVE", "bridge")
        await lead.service.allocate(lead.ctx(), allocate("s2", "h2", net["id"]))
        await lead.service.wait_wired(lead.ctx(), "s2", 5)
        await other.service.release(other.ctx(), "s1")
        await c.agree()
        assert not c.drivers["h1"].state.ports
        assert other.service.dispatcher.sent == 0
        assert not other.service.topology._marks  # nobody is told from here: nothing piles up

    play(tmp_path, story)


def test_hints_may_all_be_lost(tmp_path: Path) -> None:
    async def story(c: Cloud) -> None:
        _, other = await two(c)
        for process in c.alive():
            process.bus.topics.clear()
        net = await other.client().network()
        await other.service.allocate(other.ctx(), allocate("s1", "h1", net["id"]))
        await other.service.wait_wired(other.ctx(), "s1", 5)
        await c.agree()

    play(tmp_path, story)


def test_a_leader_that_dies_is_followed_by_another(tmp_path: Path) -> None:
    async def story(c: Cloud) -> None:
        lead, other = await two(c)
        net = await other.client().network()
        for number in range(12):
            await other.service.allocate(other.ctx(), allocate(f"s{number}", HOSTS[number % 3], net["id"]))
        while not lead.service.dispatcher._sending:
            await c.runtime.sleep(0.001)
        await lead.die()
        died = c.runtime.monotonic()
        assert await c.leader() is other
        assert c.runtime.monotonic() - died < 9.0
        for number in range(12):
            await other.service.wait_wired(other.ctx(), f"s{number}", 10)
        assert c.runtime.monotonic() - died < 10.0
        await c.agree()
        assert [len(driver.state.ports) for driver in c.drivers.values()] == [4, 4, 4]
        assert other.service.dispatcher.epoch > lead.service.dispatcher.epoch
        third = await c.process("c")
        await other.service.stop()
        other.alive = False
        stopped = c.runtime.monotonic()
        assert await c.leader() is third
        assert c.runtime.monotonic() - stopped < 1.5  # who says goodbye is followed at once
        await third.service.release(third.ctx(), "s0")
        await c.agree()

    play(tmp_path, story)


def test_a_leader_whose_database_is_away_steps_down_in_time(tmp_path: Path) -> None:
    async def story(c: Cloud) -> None:
        lead, other = await two(c)
        lead.db.reachable.clear()
        most = 0
        for _ in range(240):
            await c.runtime.sleep(0.05)
            most = max(most, len(c.leaders()))
        assert most == 1
        assert c.leaders() == [other]
        lead.db.reachable.set()
        net = await lead.client().network()
        await lead.service.allocate(lead.ctx(), allocate("s1", "h1", net["id"]))
        await lead.service.wait_wired(lead.ctx(), "s1", 5)
        await c.agree()

    play(tmp_path, story)


@pytest.mark.parametrize("clock_stops", [False, True], ids=["a stopped process", "a paused machine"])
def test_a_leader_that_slept_does_no_harm(tmp_path: Path, clock_stops: bool) -> None:
    """What it had sent before arrives when it wakes up, and what it still believes it sends then."""

    async def story(c: Cloud) -> None:
        lead, other = await two(c)
        net = await other.client().network()
        await other.service.allocate(other.ctx(), allocate("s1", "h1", net["id"]))
        await other.service.wait_wired(other.ctx(), "s1", 5)
        await other.service.allocate(other.ctx(), allocate("s2", "h1", net["id"]))
        lead.bus.open.clear()
        while "h1" not in lead.service.dispatcher._sending:
            await c.runtime.sleep(0.001)
        await c.runtime.sleep(0.01)
        lead.freeze()
        slept = c.runtime.monotonic()
        assert await c.leader() in (lead, other)
        while other not in c.leaders():
            await c.runtime.sleep(0.05)
        assert c.runtime.monotonic() - slept < 9.0
        await other.service.wait_wired(other.ctx(), "s2", 30)
        await other.service.release(other.ctx(), "s2")
        while len(c.drivers["h1"].state.ports) != 1:
            await c.runtime.sleep(0.05)
        lead.runtime.lost_s = c.runtime.monotonic() - slept if clock_stops else 0.0
        refused = sum(end.refusals.count("network.old_epoch") for end in c.ends.values())
        plugged: list[str] = []
        plug = c.drivers["h1"].plug

        async def watched(port: rpc.Port, *more: Any) -> Any:
            plugged.append(port.device_id)
            return await plug(port, *more)

        c.drivers["h1"].plug = watched  # type: ignore[assignment,method-assign]
        lead.bus.open.set()
        lead.thaw()
        await c.runtime.sleep(3.0)
        assert sum(end.refusals.count("network.old_epoch") for end in c.ends.values()) > refused
        assert plugged == []
        await c.agree()
        assert c.leaders() == [other]

    play(tmp_path, story)


def test_a_new_agent_finds_the_leader_though_another_sleeps(tmp_path: Path) -> None:
    """The common address still belongs to a stopped process too: a call there is lost, the next one is not."""

    async def story(c: Cloud) -> None:
        lead, other = await two(c)
        lead.freeze()
        while other not in c.leaders():
            await c.runtime.sleep(0.05)
        await c.runtime.sleep(1.0)
        for host in HOSTS:
            assert c.agents[host]._leader == rpc.leader_address(other.service.life)
        began = c.runtime.monotonic()
        await c.host("h4")
        while "h4" not in other.service.dispatcher.online:
            await c.runtime.sleep(0.05)
        assert c.runtime.monotonic() - began < 40.0
        net = await other.client().network()
        await other.service.allocate(other.ctx(), allocate("s1", "h4", net["id"]))
        await other.service.wait_wired(other.ctx(), "s1", 5)
        lead.thaw()
        await c.agree()

    play(tmp_path, story)


def test_commands_out_of_turn_are_refused_and_followed_by_a_whole_state(tmp_path: Path) -> None:
    async def story(c: Cloud) -> None:
        lead, _ = await two(c)
        agent = c.agents["h1"]
        net = await lead.client().network()
        await lead.service.allocate(lead.ctx(), allocate("s1", "h1", net["id"]))
        await lead.service.wait_wired(lead.ctx(), "s1", 5)
        await c.settle()
        syncs = agent.syncs
        lead.service.dispatcher._numbers["h1"] += 1  # as if one had been lost
        await lead.service.allocate(lead.ctx(), allocate("s2", "h1", net["id"]))
        await lead.service.wait_wired(lead.ctx(), "s2", 10)
        assert c.ends["h1"].refusals.count("network.out_of_turn") >= 1
        assert agent.syncs > syncs
        await lead.service.allocate(lead.ctx(), allocate("s3", "h1", net["id"]))
        await lead.service.wait_wired(lead.ctx(), "s3", 10)
        await c.agree()
        syncs = agent.syncs
        lead.service.dispatcher._numbers["h1"] -= 1  # as if one came twice
        await lead.service.release(lead.ctx(), "s2")
        await c.agree()
        assert agent.syncs > syncs
        assert len(c.drivers["h1"].state.ports) == 2

    play(tmp_path, story)


def test_who_slept_while_the_journal_was_swept_reads_everything(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def story(c: Cloud) -> None:
        lead, other = await two(c)
        net = await lead.client().network()
        other.freeze()
        await c.runtime.sleep(2.0)
        for number in range(5):
            await lead.service.allocate(lead.ctx(), allocate(f"s{number}", "h1", net["id"]))
        await c.runtime.sleep(2.0)
        monkeypatch.setattr(journal, "KEEP_S", 1.0)
        assert await journal.sweep(c.db) > 0
        before = other.service.follower.rebuilds
        other.thaw()
        await c.agree()
        assert other.service.follower.rebuilds == before + 1
        assert lead.service.follower.rebuilds == 1
        other.freeze()
        await c.runtime.sleep(1.5)
        monkeypatch.setattr(journal, "REBUILD_OVER", 3)
        for number in range(5, 10):
            await lead.service.allocate(lead.ctx(), allocate(f"s{number}", "h1", net["id"]))
            await lead.service.follower.caught_up()
        other.thaw()
        await c.agree()
        assert other.service.follower.rebuilds == before + 2

    play(tmp_path, story)


def test_a_leader_that_reads_everything_anew_tells_every_host_anew(tmp_path: Path) -> None:
    async def story(c: Cloud) -> None:
        lead, _ = await two(c)
        net = await lead.client().network()
        await lead.service.allocate(lead.ctx(), allocate("s1", "h1", net["id"]))
        await c.settle()
        lead.service.follower._known = None
        syncs = [agent.syncs for agent in c.agents.values()]
        await lead.service.allocate(lead.ctx(), allocate("s2", "h2", net["id"]))
        await lead.service.wait_wired(lead.ctx(), "s2", 10)
        await c.agree()
        assert [agent.syncs for agent in c.agents.values()] == [n + 1 for n in syncs]

    play(tmp_path, story)


def test_rows_written_before_their_host_was_known_elsewhere_are_mended(tmp_path: Path) -> None:
    async def story(c: Cloud) -> None:
        await c.process("a")
        await c.process("b")
        lead = await c.leader()
        other = next(process for process in c.alive() if process is not lead)
        admin = other.client("admin:p1")
        net = await admin.network()
        router = await admin.create("routers", name="r")
        values = {"device_id": "s", "device_owner": "compute:nova", "binding:host_id": "h1"}
        port = await admin.create("ports", network_id=net["id"], **values)
        assert port["binding:vif_type"] == "binding_failed"
        await c.host("h1")
        other.freeze()  # it does not hear of the host, but finds its row
        other.thaw()
        other.service.topology.vteps.clear()
        second = await admin.create("ports", network_id=net["id"], **values)
        assert second["binding:vif_type"] == "bridge"
        homeless = await admin.create("routers", name="r2")
        other.service.follower._known = None
        await c.agree()
        assert (await admin.get("ports", port["id"]))["binding:vif_type"] == "bridge"
        for found in (router, homeless):
            row = await rows.routers.get(c.db, found["id"])
            assert row is not None
            assert row.host == "h1"

    play(tmp_path, story)


def test_an_agent_that_is_deleted_is_forgotten_everywhere(tmp_path: Path) -> None:
    async def story(c: Cloud) -> None:
        _, other = await two(c)
        await c.agents["h3"].stop()
        del c.agents["h3"], c.drivers["h3"]
        admin = other.client("admin:admin")
        for agent in await admin.list("agents", "?host=h3"):
            await admin.delete("agents", agent["id"])
        await c.agree()
        assert all(list(process.service.topology.vteps) == ["h1", "h2"] for process in c.alive())

    play(tmp_path, story)


def test_two_changes_that_become_one_still_wire_the_port(tmp_path: Path) -> None:
    """There and back within one round: the port looks as before, but its row says that its host must wire it again."""

    async def story(c: Cloud) -> None:
        _, other = await two(c)
        net = await other.client().network()
        await other.service.allocate(other.ctx(), allocate("s1", "h1", net["id"]))
        await other.service.wait_wired(other.ctx(), "s1", 5)
        for _ in range(3):
            for host in ("h2", "h1"):
                await other.service.rebind(other.ctx(), "s1", host)
            await other.service.wait_wired(other.ctx(), "s1", 5)
        await c.agree()

    play(tmp_path, story)


def held_back(process: Any) -> asyncio.Event:
    """The process reads its journal no more until the event is set."""
    go = asyncio.Event()
    real = process.service.follower.round

    async def round_() -> None:
        await go.wait()
        await real()

    process.service.follower.round = round_
    return go


def test_a_floating_ip_that_goes_and_comes_back_at_once_is_active_again(tmp_path: Path) -> None:
    async def story(c: Cloud) -> None:
        lead, other = await two(c)
        await lead.service.bootstrap(project_id="admin")
        admin = other.client("admin:p1")
        net = await admin.network()
        (public,) = await admin.list("networks", "?router:external=True")
        router = await admin.create("routers", name="r", external_gateway_info={"network_id": public["id"]})
        reply = await admin.client.put(f"/v2.0/routers/{router['id']}/add_router_interface", {"subnet_id": net["subnet"]["id"]})
        assert reply.status == 200
        (nic,) = await other.service.allocate(other.ctx(), allocate("s1", "h1", net["id"]))
        floating = await admin.create("floatingips", floating_network_id=public["id"], port_id=nic.port_id)
        await c.agree()
        go = held_back(lead)
        for port_id in (None, nic.port_id):
            await admin.put("floatingips", floating["id"], port_id=port_id)
        assert (await admin.get("floatingips", floating["id"]))["status"] == "DOWN"
        go.set()
        await c.agree()
        assert (await admin.get("floatingips", floating["id"]))["status"] == "ACTIVE"

    play(tmp_path, story)


def test_two_ports_that_exchange_their_macs_at_once(tmp_path: Path) -> None:
    async def story(c: Cloud) -> None:
        lead, other = await two(c)
        admin = other.client("admin:p1")
        net = await admin.network()
        nics = [(await other.service.allocate(other.ctx(), allocate(f"s{n}", host, net["id"])))[0] for n, host in enumerate(HOSTS)]
        await c.agree()
        for first, second in ((0, 1), (1, 0), (2, 1)):
            one, two_ = [await admin.get("ports", nics[n].port_id) for n in (first, second)]
            go = held_back(lead)
            await admin.put("ports", one["id"], mac_address="fa:16:3e:00:00:01")
            await admin.put("ports", two_["id"], mac_address=one["mac_address"])
            await admin.put("ports", one["id"], mac_address=two_["mac_address"])
            go.set()
            await c.agree()

    play(tmp_path, story)


def test_a_network_that_goes_while_its_change_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was on it went first, but that is only read in the next round."""

    async def story(c: Cloud) -> None:
        lead, other = await two(c)
        admin = other.client("admin:p1")
        net = await admin.network()
        await other.service.allocate(other.ctx(), allocate("s1", "h1", net["id"]))
        await other.service.allocate(other.ctx(), allocate("s2", "h2", net["id"]))
        await c.agree()
        real = journal._load

        async def load(reader: Any, read: Any) -> Any:
            if reader is lead.db and any(kind == "Network" for kind, _, _ in read):
                monkeypatch.setattr(journal, "_load", real)
                for server in ("s1", "s2"):
                    await other.service.release(other.ctx(), server)
                await admin.delete("networks", net["id"])
            return await real(reader, read)

        monkeypatch.setattr(journal, "_load", load)
        await admin.put("networks", net["id"], mtu=1300)
        await c.agree()
        assert net["id"] not in lead.service.topology.networks
        assert not lead.service.topology._journals
        assert all(driver.state == rpc.HostState() for driver in c.drivers.values())

    play(tmp_path, story)


def test_a_port_made_while_its_network_was_deleted_goes_too(tmp_path: Path) -> None:
    async def story(c: Cloud) -> None:
        lead, other = await two(c)
        admin = other.client("admin:p1")
        net = await admin.network()
        await other.service.allocate(other.ctx(), allocate("s1", "h1", net["id"]))
        await c.agree()

        async def elsewhere(tx: Any) -> None:
            """As a transaction does that looked for ports before this one was committed."""
            await rows.networks.delete(tx, net["id"])
            await changes.record(tx, 0, c.db.now_us(), [("Network", net["id"], "")])

        await c.db.transact(elsewhere)
        rounds = lead.service.follower.rounds
        await c.runtime.sleep(2.0)
        assert lead.service.follower.rounds - rounds < 20
        assert await rows.ports.where(c.db, device_id="s1") == []
        await c.settle()
        assert c.drivers["h1"].state.ports == ()

    play(tmp_path, story)


def test_what_is_committed_while_everything_is_read_is_read_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def story(c: Cloud) -> None:
        lead, other = await two(c)
        admin = other.client("admin:p1")
        net = await admin.network()
        real = journal.topology_of

        async def reading(db: Any) -> Any:
            found = await real(db)
            if db is lead.db:
                await other.service.allocate(other.ctx(), allocate("s1", "h1", net["id"]))
            return found

        monkeypatch.setattr(journal, "topology_of", reading)
        lead.service.follower._known = None
        await lead.service.follower.caught_up()
        assert [port.device_id for port in lead.service.topology.ports.values() if port.is_guest] == ["s1"]
        await c.agree()

    play(tmp_path, story)


def test_a_leader_that_was_late_takes_office_anew(tmp_path: Path) -> None:
    """Its lease had run out by its own clock, and nobody had taken it: commands may have been held back."""

    async def story(c: Cloud) -> None:
        lead, _ = await two(c)
        await c.settle()
        syncs, life, epoch = [agent.syncs for agent in c.agents.values()], lead.service.dispatcher._life, lead.service.dispatcher.epoch
        lead.runtime.lost_s = -6.0
        assert not lead.service.leading
        await c.runtime.sleep(3.0)
        assert lead.service.leading
        assert lead.service.dispatcher.epoch == epoch
        assert lead.service.dispatcher._life != life
        assert [agent.syncs for agent in c.agents.values()] == [n + 1 for n in syncs]
        await c.agree()

    play(tmp_path, story)


def test_a_state_of_an_older_leader_is_not_believed(tmp_path: Path) -> None:
    async def story(c: Cloud) -> None:
        await two(c)
        agent = c.agents["h1"]
        now = agent._epoch
        agent._epoch = now + 7
        syncs = agent.syncs
        assert not await agent.resync()
        assert agent.syncs == syncs
        await agent.bus.call(rpc.agent_address("h1"), rpc.Resync(epoch=now + 8, facts_address="network.facts.next"))
        assert (agent._epoch, agent._leader) == (now + 8, "network.facts.next")
        with pytest.raises(Exception, match="newer leader"):
            await agent.bus.call(rpc.agent_address("h1"), rpc.Resync(epoch=now + 7, facts_address="x"))
        assert agent._epoch == now + 8
        await agent.bus.call(rpc.agent_address("h1"), rpc.Resync())
        assert (agent._epoch, agent._leader) == (0, "")  # one process only, from now on

    play(tmp_path, story)


@pytest.mark.parametrize("seed", range(4))
def test_both_write_and_a_leader_falls_now_and_then(tmp_path: Path, seed: int) -> None:
    async def story(c: Cloud) -> None:
        lead, other = await two(c)
        await lead.service.bootstrap(project_id="admin")
        await other.service.bootstrap(project_id="admin")
        limits = dict.fromkeys(("network", "subnet", "port", "router", "security_group", "security_group_rule", "floatingip"), -1)
        await lead.client("admin:admin").put("quotas", "p1", **limits)
        chance = random.Random(seed)
        players = [Player(process, seed * 10 + number) for number, process in enumerate(c.alive())]  # type: ignore[arg-type]
        players[1].count = 1000
        await players[0].add_network()
        names = iter("cdefghij")
        for round_number in range(6):
            for player in players:
                for _ in range(12):
                    await player.boot() if chance.random() < 0.2 else None
            tasks = [c.broker.start(steps(player)) for player in players]
            if round_number % 2:
                await c.runtime.sleep(chance.random() * 0.2)
                fallen = (c.leaders() or c.alive())[0]
                at = [player.w for player in players].index(fallen)  # type: ignore[arg-type]
                tasks.pop(at).cancel()  # in the middle of whatever it was doing
                await fallen.die()
                players[at].w = await c.process(next(names))  # type: ignore[assignment]
                players[at].user = players[at].w.client("admin:p1").client
            for task in tasks:
                await task
            if round_number in (0, 2, 5):
                await c.agree()
        assert sum(len(player.servers) for player in players) > 0

    async def steps(player: Player) -> None:
        for _ in range(15):
            await player.step()

    play(tmp_path, story, seed, joins=bool(seed % 2))


def test_the_contract_works_from_another_process(tmp_path: Path) -> None:
    async def story(c: Cloud) -> None:
        lead, _ = await two(c)
        for process in c.alive():
            binding.serve(process.bus, "network", contract.Network, process.service)
        far: contract.Network = binding.stub(contract.Network, c.broker.end("conductor", lead.runtime), "network")
        ctx, admin = lead.ctx(), lead.client("admin:p1")
        net = await admin.network()
        group = await admin.create("security-groups", name="web")
        wanted = (contract.NicRequest(network_id=net["id"]),)
        await far.validate(ctx, wanted, "", ("default",), 1)
        with pytest.raises(Exception, match="could not be found") as caught:
            await far.validate(ctx, (contract.NicRequest(network_id="none"),), "", (), 1)
        assert caught.value.status == 400  # type: ignore[attr-defined]
        (nic,) = await far.allocate(ctx, allocate("s1", "h1", net["id"]))
        await far.wait_wired(ctx, "s1", 5)
        assert await far.nics_of(ctx, ("s1", "s2")) == {"s1": await far.nics(ctx, "s1")}
        assert (await far.nics(ctx, "s1"))[0].status == "ACTIVE"
        ip = nic.fixed_ips[0].ip
        assert await far.server_of(ctx, ip=ip, network_id=net["id"]) == contract.ServerOfAddress(server_id="s1", project_id="p1")
        assert await far.server_of(ctx, ip="10.0.0.250", network_id=net["id"]) is None
        assert (await far.network_data(ctx, "s1"))["links"][0]["vif_id"] == nic.port_id
        await far.add_security_group(ctx, "s1", "web")
        assert [g["name"] for g in await far.server_security_groups(ctx, "s1")] == ["default", "web"]
        await far.remove_security_group(ctx, "s1", "web")
        with pytest.raises(Exception, match="web"):
            await far.remove_security_group(ctx, "s1", "web")
        (more,) = await far.attach(ctx, allocate("s1", "h1", net["id"]))
        assert await far.detach(ctx, "s1", more.port_id)
        assert not await far.detach(ctx, "s1", more.port_id)
        (moved,) = await far.rebind(ctx, "s1", "h2")
        assert moved.port_id == nic.port_id
        await far.wait_wired(ctx, "s1", 5)
        await far.rebind(ctx, "s1", "nowhere")
        with pytest.raises(WiringFailed, match="nowhere did not report"):
            await far.wait_wired(ctx, "s1", 0.5)
        await far.release(ctx, "s1")
        assert await far.nics(ctx, "s1") == ()
        assert group["id"]
        await c.agree()
        named = {name for name, _ in vars(contract.Network).items() if not name.startswith("_")}
        assert named == {
            "validate", "allocate", "attach", "wait_wired", "release", "detach", "rebind", "nics", "nics_of", "server_of", "network_data",
            "server_security_groups", "add_security_group", "remove_security_group",
        }  # fmt: skip

    play(tmp_path, story)


@pytest.mark.parametrize("joins", [False, True])
def test_who_has_not_heard_of_a_change_minds_it_all_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, joins: bool) -> None:
    async def story(c: Cloud) -> None:
        lead, other = await two(c)
        admin, ctx = lead.client("admin:p1"), other.ctx()
        net, doomed, closed = [await admin.network(cidr=f"10.{n}.0.0/24") for n in (1, 2, 3)]
        bare = await admin.network(cidr=None)
        await c.agree()
        first = await other.service.allocate(ctx, allocate("s1", "h1", net["id"]))
        for gone in (doomed, closed):
            await other.service.validate(ctx, (contract.NicRequest(network_id=gone["id"]),), "", (), 1)

        async def deaf() -> None:
            return

        monkeypatch.setattr(other.service.follower, "round", deaf)
        await admin.create("subnets", network_id=net["id"], ip_version=6, cidr="fd00:1::/64")
        subnet_id = first[0].fixed_ips[0].subnet_id
        await admin.put("subnets", subnet_id, allocation_pools=[{"start": "10.1.0.200", "end": "10.1.0.209"}])
        for found in [await admin.list("subnets", f"?network_id={gone['id']}") for gone in (doomed, closed)]:
            await admin.delete("subnets", found[0]["id"])
        await admin.delete("networks", doomed["id"])
        fresh = await admin.network(cidr="10.4.0.0/24")

        (nic,) = await other.service.allocate(ctx, allocate("s2", "h1", net["id"]))
        assert [fixed.ip.partition(":")[0] for fixed in nic.fixed_ips][1:] == ["fd00"], "the new subnet's address, too"
        assert 200 <= int(nic.fixed_ips[0].ip.rpartition(".")[2]) <= 209, "from the pool as it is now"
        for gone, why in ((doomed, "could not be found"), (closed, "requires a subnet")):
            for attempt in (
                other.service.validate(ctx, (contract.NicRequest(network_id=gone["id"]),), "", (), 1),
                other.service.allocate(ctx, allocate("s3", "h1", gone["id"])),
            ):
                with pytest.raises(Error, match=why):
                    await attempt
        await other.service.validate(ctx, (contract.NicRequest(network_id=fresh["id"]),), "", (), 1)
        assert len(await other.service.allocate(ctx, allocate("s4", "h1", fresh["id"]))) == 1
        await admin.create("subnets", network_id=bare["id"], ip_version=4, cidr="10.5.0.0/24")
        assert len(await other.service.allocate(ctx, allocate("s5", "h1", bare["id"]))) == 1

    play(tmp_path, story, joins=joins)


def test_whoever_commits_says_that_a_server_has_changed(tmp_path: Path) -> None:
    async def story(c: Cloud) -> None:
        lead, other = await two(c)
        heard: list[str] = []

        async def hear(told: contract.ServerAddressesChanged) -> None:
            heard.append(told.server_id)

        lead.bus.subscribe(contract.SERVER_CHANGED, hear)
        net = await other.client().network()
        (nic,) = await other.service.allocate(other.ctx(), allocate("s1", "h1", net["id"]))
        await other.client().put("ports", nic.port_id, name="new")
        await c.runtime.sleep(0.5)
        assert heard == ["s1"]

    play(tmp_path, story)


def test_the_journal_of_one_process_alone_stays_empty(tmp_path: Path) -> None:
    async def story(w: World) -> None:
        await w.db.create(w.service.metadata)
        await w.service.start()
        await w.host("h1")
        net = await w.client().network()
        await w.service.allocate(w.ctx(), allocate("s1", "h1", net["id"]))
        assert await changes.clocks(w.db) == {}
        assert isinstance((await rows.ports.where(w.db, device_id="s1"))[0], Port)
        await w.stop()

    asyncio.run(story(World(tmp_path)))
