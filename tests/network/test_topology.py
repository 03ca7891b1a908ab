"""Increments and a rebuild from the rows agree, on the service's side and on the hosts."""

import asyncio
import random
from collections.abc import Callable
from typing import Any

import pytest

from kilonova.network import rpc
from kilonova.network.domain import topology
from kilonova.network.service import topology_of

from .conftest import World, allocate

Run = Callable[..., None]
HOSTS = ("h1", "h2", "h3")


class Player:
    """Random requests of an admin's project and of a user's. What is refused is refused: only the agreement counts."""

    def __init__(self, w: World, seed: int) -> None:
        self.w = w
        self.random = random.Random(seed)
        self.user = w.client("admin:p1").client
        self.servers: list[str] = []
        self.count = 0
        self.floated = 0
        self.home = ""

    async def ids(self, collection: str, query: str = "") -> list[str]:
        reply = await self.user.get(f"/v2.0/{collection}{query}")
        return [row["id"] for row in reply.json[collection.replace("-", "_")]]

    async def some(self, collection: str, query: str = "") -> str:
        found = await self.ids(collection, query)
        return self.random.choice(found) if found else "none"

    async def step(self) -> None:
        self.count += 1
        verbs = [
            self.boot, self.boot, self.boot, self.destroy, self.move, self.add_network, self.drop_network, self.add_subnet,
            self.change_subnet, self.drop_subnet, self.add_router, self.drop_router, self.plug_router, self.unplug_router, self.gateway,
            self.route, self.float, self.unfloat, self.add_group, self.drop_group, self.add_rule, self.drop_rule, self.change_port,
            self.bind_port, self.drop_port, self.change_network, self.float, self.float,
        ]  # fmt: skip
        await self.random.choice(verbs)()

    async def boot(self) -> None:
        server = f"s{self.count}"
        home = [self.home] if self.home and self.random.random() < 0.5 else []
        nets = home or [await self.some("networks") for _ in range(self.random.choice((1, 1, 2)))]
        groups = ("default",) if self.random.random() < 0.5 else ()
        try:
            await self.w.service.allocate(self.w.ctx("admin"), allocate(server, self.random.choice(HOSTS), *nets, security_groups=groups))
            self.servers.append(server)
        except Exception as error:
            assert getattr(error, "status", 500) < 500, error

    async def destroy(self) -> None:
        if self.servers:
            server = self.servers.pop(self.random.randrange(len(self.servers)))
            await self.w.service.release(self.w.ctx("admin"), server)

    async def move(self) -> None:
        if self.servers:
            await self.w.service.rebind(self.w.ctx("admin"), self.random.choice(self.servers), self.random.choice(HOSTS))

    async def post(self, collection: str, **values: Any) -> None:
        name = collection.replace("-", "_").removesuffix("s")
        reply = await self.user.post(f"/v2.0/{collection}", {name: values})
        assert reply.status < 500, reply

    async def put(self, path: str, body: Any) -> None:
        reply = await self.user.put(f"/v2.0/{path}", body)
        assert reply.status < 500, reply

    async def drop(self, collection: str, query: str = "") -> None:
        reply = await self.user.delete(f"/v2.0/{collection}/{await self.some(collection, query)}")
        assert reply.status < 500, reply

    async def add_network(self) -> None:
        await self.post("networks", name=f"n{self.count}")
        newest = (await self.ids("networks"))[-1]
        await self.post("subnets", network_id=newest, cidr=f"10.{self.count % 250}.0.0/24", ip_version=4)

    async def drop_network(self) -> None:
        await self.drop("networks", "?router:external=False")

    async def change_network(self) -> None:
        await self.put(f"networks/{await self.some('networks')}", {"network": {"mtu": self.random.choice((1300, 1400))}})

    async def add_subnet(self) -> None:
        six = self.random.random() < 0.5
        cidr = f"fd00:{self.count:x}::/64" if six else f"172.16.{self.count % 250}.0/24"
        await self.post("subnets", network_id=await self.some("networks"), cidr=cidr, ip_version=6 if six else 4)

    async def change_subnet(self) -> None:
        change: Any = self.random.choice(({"enable_dhcp": False}, {"enable_dhcp": True}, {"dns_nameservers": ["9.9.9.9"]}))
        await self.put(f"subnets/{await self.some('subnets')}", {"subnet": change})

    async def drop_subnet(self) -> None:
        await self.drop("subnets")

    async def add_router(self) -> None:
        await self.post("routers", name=f"r{self.count}")

    async def drop_router(self) -> None:
        await self.drop("routers")

    async def plug_router(self) -> None:
        await self.put(f"routers/{await self.some('routers')}/add_router_interface", {"subnet_id": await self.some("subnets")})

    async def unplug_router(self) -> None:
        await self.put(f"routers/{await self.some('routers')}/remove_router_interface", {"subnet_id": await self.some("subnets")})

    async def gateway(self) -> None:
        ext = await self.some("networks", "?router:external=True")
        info: Any = self.random.choice(({"network_id": ext}, {"network_id": ext, "enable_snat": False}, None))
        await self.put(f"routers/{await self.some('routers')}", {"router": {"external_gateway_info": info}})

    async def route(self) -> None:
        router = await self.some("routers")
        routes = [{"destination": "192.168.0.0/16", "nexthop": f"10.{self.random.randrange(1, 250)}.0.99"}]
        await self.put(f"routers/{router}", {"router": {"routes": self.random.choice((routes, []))}})

    async def float(self) -> None:
        ext = await self.some("networks", "?router:external=True")
        ports = [p for s in self.servers for p in await self.ids("ports", f"?device_id={s}")]
        values = {"floating_network_id": ext, "port_id": self.random.choice(ports) if ports else None}
        reply = await self.user.post("/v2.0/floatingips", {"floatingip": values})
        assert reply.status < 500, reply
        self.floated += reply.status == 201 and ports != []

    async def unfloat(self) -> None:
        if self.random.random() < 0.5:
            await self.put(f"floatingips/{await self.some('floatingips')}", {"floatingip": {"port_id": None}})
        else:
            await self.drop("floatingips")

    async def add_group(self) -> None:
        await self.post("security-groups", name=f"g{self.count}")

    async def drop_group(self) -> None:
        await self.drop("security-groups")

    async def add_rule(self) -> None:
        remote: Any = self.random.choice(({"remote_group_id": await self.some("security-groups")}, {"remote_ip_prefix": "10.0.0.0/8"}, {}))
        port = self.random.randrange(1, 60)
        group = await self.some("security-groups")
        values = {"protocol": "tcp", "port_range_min": port, "port_range_max": port, **remote}
        await self.post("security-group-rules", security_group_id=group, direction="ingress", **values)

    async def drop_rule(self) -> None:
        await self.drop("security-group-rules")

    async def change_port(self) -> None:
        groups = list(dict.fromkeys([await self.some("security-groups") for _ in range(2)]))
        change: Any = self.random.choice(
            (
                {"security_groups": groups},
                {"security_groups": groups[:1]},
                {"admin_state_up": False},
                {"admin_state_up": True},
                {"allowed_address_pairs": [{"ip_address": "10.99.0.9"}, {"ip_address": "10.98.0.0/24"}, {"ip_address": "0.0.0.0/0"}]},
                {"allowed_address_pairs": []},
                {"mac_address": f"fa:16:3e:aa:{self.random.randrange(256):02x}:{self.random.randrange(256):02x}"},
                {"fixed_ips": [{"subnet_id": await self.some("subnets")}]},
                {"fixed_ips": []},
            )
        )
        await self.put(f"ports/{await self.some('ports')}", {"port": change})

    async def bind_port(self) -> None:
        values = {"binding:host_id": self.random.choice((*HOSTS, "", "elsewhere"))}
        if self.random.random() < 0.5:
            await self.put(f"ports/{await self.some('ports', '?device_owner=')}", {"port": values})
        else:
            await self.post("ports", network_id=await self.some("networks"), **values)

    async def drop_port(self) -> None:
        await self.drop("ports", "?device_owner=")


async def agree(w: World) -> None:
    """The rows' topology, the service's, and what each host has realised are one."""
    await w.settle()
    rebuilt = await topology_of(w.db)
    for host, driver in w.drivers.items():
        wanted = rebuilt.state(host)
        assert w.service.topology.state(host) == wanted, host
        assert sorted_state(driver.state) == sorted_state(wanted), host
        assert w.agents[host].failures == 0


def sorted_state(state: rpc.HostState) -> rpc.HostState:
    return rpc.HostState(
        networks=tuple(sorted(state.networks, key=lambda n: n.id)),
        subnets=tuple(sorted(state.subnets, key=lambda s: s.id)),
        ports=tuple(sorted(state.ports, key=lambda p: p.id)),
        remote_ports=tuple(sorted(state.remote_ports, key=lambda r: (r.network_id, r.mac))),
        peers=state.peers,
        security_groups=tuple(sorted(state.security_groups, key=lambda g: g.id)),
        routers=tuple(sorted(state.routers, key=lambda r: r.id)),
    )


async def counts_agree(w: World) -> None:
    """What quotas count is what there is; each address belongs to the port that says so."""
    admin = w.client("admin:admin")
    for project in ("p1",):
        details = await admin.get("quotas", f"{project}/details")
        for name, collection in (
            ("network", "networks"),
            ("subnet", "subnets"),
            ("router", "routers"),
            ("floatingip", "floatingips"),
            ("security_group", "security-groups"),
            ("security_group_rule", "security-group-rules"),
        ):
            rows = await admin.list(collection, f"?project_id={project}")
            assert details[name]["used"] == len(rows), name
        ports = await admin.list("ports", f"?project_id={project}")
        assert details["port"]["used"] == len([p for p in ports if p["device_owner"] != "network:dhcp"])
    said = {(f["subnet_id"], f["ip_address"]) for p in await admin.list("ports") for f in p["fixed_ips"]}
    found = await admin.list("network-ip-availabilities")
    assert sum(n["used_ips"] for n in found) == len(said)


@pytest.mark.parametrize("seed", range(4))
def test_random_changes_leave_increments_and_rebuild_equal(run: Run, seed: int) -> None:
    async def story(w: World) -> None:
        await w.service.bootstrap(project_id="admin")
        for host in HOSTS:
            await w.host(host)
        admin = w.client("admin:admin")
        await admin.put("quotas", "p1", network=-1, subnet=-1, port=-1, router=-1, security_group=-1, security_group_rule=-1, floatingip=-1)
        player = Player(w, seed)
        await player.add_network()
        for _ in range(2):
            await player.add_router()
        public, own = await player.some("networks", "?router:external=True"), await player.some("networks", "?router:external=False")
        for router, net in zip(await player.ids("routers"), (own, "none"), strict=True):
            await admin.put("routers", router, external_gateway_info={"network_id": public})
            for subnet in await player.ids("subnets", f"?network_id={net}"):
                await player.put(f"routers/{router}/add_router_interface", {"subnet_id": subnet})
        player.home = own
        while not player.servers:
            await player.boot()
        for i in range(220):
            await player.step()
            if i % 20 == 0:
                await agree(w)
        await agree(w)
        await counts_agree(w)
        assert player.floated > 0
        for server in player.servers:
            await w.service.release(w.ctx("admin"), server)
        await agree(w)

    run(story, {("network_agent", "batch_window"): 0.002})


def test_an_agent_that_restarts_in_the_middle_catches_up(run: Run) -> None:
    async def story(w: World) -> None:
        await w.service.bootstrap(project_id="admin")
        for host in HOSTS:
            await w.host(host)
        player = Player(w, 99)
        for i in range(90):
            await player.step()
            if i % 30 == 10:
                await w.agents["h2"].stop()
            if i % 30 == 20:
                await w.host("h2")
        await agree(w)

    run(story, {("network_agent", "batch_window"): 0.002})


def test_only_hosts_on_a_network_are_told_of_it(run: Run) -> None:
    async def story(w: World) -> None:
        one, two, three = [await w.host(host) for host in HOSTS]
        user, ctx = w.client(), w.ctx()
        net = await user.network()
        (a,) = await w.service.allocate(ctx, allocate("s1", "h1", net["id"]))
        (b,) = await w.service.allocate(ctx, allocate("s2", "h2", net["id"]))
        await w.settle()
        assert [(r.mac, r.ips, r.vtep_ip) for r in one.state.remote_ports] == [(b.mac, (b.fixed_ips[0].ip,), "192.0.2.2")]
        assert [(r.mac, r.vtep_ip) for r in two.state.remote_ports] == [(a.mac, "192.0.2.1")]
        assert one.state.peers == (rpc.Peer(vtep_ip="192.0.2.2", network_ids=(net["id"],)),)
        assert three.state == rpc.HostState()
        sent = w.service.dispatcher.sent
        other = await user.network("10.9.0.0/24", name="other")
        await w.service.allocate(ctx, allocate("s3", "h3", other["id"]))
        await w.settle()
        assert three.state.remote_ports == ()
        assert w.service.dispatcher.sent - sent <= 5  # h3's own, and the default group's new member to the two others
        await w.service.release(ctx, "s1")
        await w.settle()
        assert one.state == rpc.HostState()
        assert two.state.peers == ()

    run(story)


def test_a_host_that_missed_too_much_is_synchronised(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    async def story(w: World) -> None:
        monkeypatch.setattr(topology, "JOURNAL", 4)
        one, two = await w.host("h1"), await w.host("h2")
        user, ctx = w.client(), w.ctx()
        net = await user.network()
        await w.service.allocate(ctx, allocate("s0", "h1", net["id"]))
        await w.settle()
        syncs = w.agents["h1"].syncs
        w.service.dispatcher._sending["h1"] = False  # as if a command took long
        for i in range(1, 9):
            await w.service.allocate(ctx, allocate(f"s{i}", "h2", net["id"]))
            await w.service.wait_wired(ctx, f"s{i}", 5)
        del w.service.dispatcher._sending["h1"]
        w.service.topology.has_news = True
        w.service.dispatcher.kick()
        async with asyncio.timeout(5):
            while w.agents["h1"].syncs == syncs:  # noqa: ASYNC110 - it has been asked to, and has not begun
                await asyncio.sleep(0.005)
        await w.settle()
        assert w.agents["h1"].syncs == syncs + 1
        assert len(one.state.remote_ports) == 8
        assert len(two.state.remote_ports) == 1

    run(story)


def test_a_host_that_leaves_a_network_and_comes_back_at_once_forgets_who_has_gone(run: Run) -> None:
    async def story(w: World) -> None:
        one, _ = await w.host("h1"), await w.host("h2")
        user, ctx = w.client(), w.ctx()
        net = await user.network()
        await w.service.allocate(ctx, allocate("s1", "h1", net["id"]))
        await w.service.allocate(ctx, allocate("s2", "h2", net["id"]))
        await w.settle()
        assert len(one.state.remote_ports) == 1
        w.service.dispatcher._sending["h1"] = False  # as if a command took long
        await w.service.release(ctx, "s1")
        await w.service.release(ctx, "s2")
        await w.service.allocate(ctx, allocate("s3", "h1", net["id"]))
        del w.service.dispatcher._sending["h1"]
        w.service.topology.has_news = True
        w.service.dispatcher.kick()
        await agree(w)
        assert one.state.remote_ports == ()  # type: ignore[comparison-overlap]

    run(story)
