"""The fake network driver: same verbs, no network."""

import asyncio
from collections.abc import Awaitable
from typing import TypeVar

import msgspec
import pytest

from kilonova.network import rpc
from kilonova.network.drivers import BUILTIN, Driver, DriverError
from kilonova.network.drivers.fake import FakeDriver

T = TypeVar("T")
NETWORK = rpc.Network(id="n1", segmentation_id=1)
SUBNET = rpc.Subnet(id="s1", network_id="n1", cidr="10.0.0.0/24")
GROUP = rpc.SecurityGroup(id="g1")


def port(number: int) -> rpc.Port:
    fixed = (rpc.FixedIp(subnet_id="s1", ip=f"10.0.0.{number}"),)
    mac = f"fa:16:3e:00:00:{number:02x}"
    return rpc.Port(id=f"p{number}", network_id="n1", device_name=f"tap{number}", mac=mac, fixed_ips=fixed, security_group_ids=("g1",))


def run(action: Awaitable[T]) -> T:
    async def main() -> T:
        return await action

    return asyncio.run(main())


async def synced(driver: FakeDriver) -> FakeDriver:
    await driver.start()
    await driver.sync(rpc.HostState())
    return driver


def test_it_is_a_driver_and_in_the_list() -> None:
    driver: Driver = FakeDriver()
    module, _, name = BUILTIN["fake"].partition(":")
    assert (module, name) == (type(driver).__module__, type(driver).__name__)


def test_increments_land_where_sync_lands() -> None:
    async def scenario() -> None:
        one, other = await synced(FakeDriver()), FakeDriver()
        assert await one.plug(port(1), NETWORK, (SUBNET,), (GROUP,)) == rpc.PortWired(port_id="p1")
        await one.plug(port(2), NETWORK, (SUBNET,), (GROUP,))
        assert (await one.unplug("p2")).existed and not (await one.unplug("p2")).existed
        remote = rpc.RemotePort(network_id="n1", mac="fa:16:3e:00:00:99", ips=("10.0.0.99",), vtep_ip="192.0.2.2")
        await one.put_remote_ports((remote, msgspec.structs.replace(remote, mac="fa:16:3e:00:00:98")))
        await one.delete_remote_ports((("n1", "fa:16:3e:00:00:98"), ("n1", "unknown")))
        await one.put_peers((rpc.Peer(vtep_ip="192.0.2.2"),))
        router = rpc.Router(
            id="r1", interfaces=(rpc.RouterInterface(port_id="x", subnet_id="s1", network_id="n1", ip="10.0.0.1", prefix=24, mac="m"),)
        )
        await one.put_router(router)
        done = await other.sync(one.state)
        assert done.wired == ("p1",) and done.routers == ("r1",)
        assert other.encoded_state() == one.encoded_state()
        assert (await other.sync(rpc.HostState())).removed == ("n1", "p1", "r1")
        assert await other.snapshot() == rpc.Snapshot()

    run(scenario())


def test_refusals_match_the_real_driver() -> None:
    async def scenario() -> None:
        fresh = FakeDriver()
        with pytest.raises(DriverError, match="call sync first"):
            await fresh.unplug("p1")
        driver = await synced(fresh)
        await driver.plug(port(1), NETWORK, (SUBNET,), (GROUP,))
        with pytest.raises(DriverError, match="still used here"):
            await driver.delete_network("n1")
        with pytest.raises(DriverError, match="still used here by port p1"):
            await driver.delete_group("g1")
        with pytest.raises(DriverError, match="put it first"):
            await driver.put_router(rpc.Router(id="r", gateway=rpc.RouterGateway(port_id="x", network_id="n9", ips=(), mac="m")))
        with pytest.raises(DriverError, match="put it first"):
            await driver.put_remote_ports((rpc.RemotePort(network_id="n9", mac="m", vtep_ip="192.0.2.2"),))
        await driver.unplug("p1")
        assert await driver.delete_network("n1") and not await driver.delete_network("n1")

    run(scenario())


def test_failures_on_demand_count_down() -> None:
    async def scenario() -> None:
        driver = await synced(FakeDriver())
        driver.fail_next_plugs(2, "No room on the bridge.")
        for _ in range(2):
            with pytest.raises(DriverError, match="No room"):
                await driver.plug(port(1), NETWORK, (SUBNET,), (GROUP,))
        assert (await driver.snapshot()).links == ()
        await driver.plug(port(1), NETWORK, (SUBNET,), (GROUP,))
        driver.fail_next_plugs(1)
        done = await driver.sync(msgspec.structs.replace(driver.state, ports=(port(1), port(2), port(3))))
        assert [fact.port_id for fact in done.failed if isinstance(fact, rpc.PortFailed)] == ["p2"]
        assert done.wired == ("p1", "p3")

    run(scenario())


def test_delays_are_the_callers_sleep() -> None:
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)

    async def scenario() -> None:
        driver = await synced(FakeDriver(sleep=sleep, wire_delay_s=0.25))
        await driver.plug(port(1), NETWORK, (SUBNET,), (GROUP,))
        assert slept == [0.25]

    run(scenario())
    with pytest.raises(ValueError, match="sleep function"):
        FakeDriver(wire_delay_s=1)


def test_what_is_realised_survives_a_stop_but_not_a_teardown() -> None:
    async def scenario() -> None:
        driver = await synced(FakeDriver())
        await driver.plug(port(1), NETWORK, (SUBNET,), (GROUP,))
        await driver.stop()
        await driver.start()
        assert (await driver.snapshot()).links == ("tap1",)
        await driver.teardown()
        await driver.teardown()
        assert await driver.snapshot() == rpc.Snapshot()

    run(scenario())


def test_metadata_is_asked_as_the_guest() -> None:
    async def handler(request: rpc.MetadataRequest) -> rpc.MetadataReply:
        return rpc.MetadataReply(status=200, body=f"{request.network_id} {request.source_ip} {request.path}".encode())

    async def scenario() -> None:
        driver = await synced(FakeDriver(metadata=handler))
        await driver.plug(port(7), NETWORK, (SUBNET,), (GROUP,))
        assert (await driver.ask_metadata("p7", "/latest")).body == b"n1 10.0.0.7 /latest"
        with pytest.raises(DriverError, match="not wired"):
            await driver.ask_metadata("p8", "/")

    run(scenario())


def test_commands_and_facts_cross_the_wire() -> None:
    commands: list[rpc.Command] = [
        rpc.Plug(port=port(1), network=NETWORK, subnets=(SUBNET,), groups=(GROUP,)),
        rpc.Sync(state=rpc.HostState(ports=(port(1),))),
        rpc.DeleteRemotePorts(keys=(("n1", "fa:16:3e:00:00:01"),)),
    ]
    for command in commands:
        assert msgspec.msgpack.decode(msgspec.msgpack.encode(command), type=rpc.Command) == command
        assert msgspec.json.decode(msgspec.json.encode(command), type=rpc.Command) == command
    facts: list[rpc.Fact] = [
        rpc.PortFailed(port_id="p1", reason="x"),
        rpc.HostSynced(failed=(rpc.RouterFailed(router_id="r", reason="y"),)),
    ]
    for fact in facts:
        assert msgspec.json.decode(msgspec.json.encode(fact), type=rpc.Fact) == fact
