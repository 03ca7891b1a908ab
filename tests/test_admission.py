"""What agents may say is decided for each message and method: in admission.MAY, or here as what only the control plane says."""

import asyncio
import importlib
import inspect
import re
from collections.abc import Awaitable
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kilonova import admission
from kilonova.admission import MAY, Judge, NotYours
from kilonova.compute import rpc
from kilonova.compute.rpc import HostClaim
from kilonova.core.binding import Call, methods
from kilonova.core.bus import agents, wire
from kilonova.core.runtime import Runtime
from kilonova.image.contract import Images
from kilonova.network import rpc as net
from kilonova.network.contract import Network, ServerOfAddress

CONTROL_ONLY = {
    "compute.conductor": ("compute.rpc.OperationReady", "compute.rpc.HostClaim"),
    "compute.<host>": tuple(
        f"compute.rpc.{name}" for name in ("Spawn", "Destroy", "PowerOn", "PowerOff", "Reboot", "Snapshot", "ReadConsole")
    ),
    "network.<host>": tuple(
        f"network.rpc.{name}"
        for name in (
            "Plug", "Unplug", "PutNetwork", "DeleteNetwork", "PutRouter", "DeleteRouter", "PutGroup", "DeleteGroup", "PutRemotePorts",
            "DeleteRemotePorts", "PutPeers", "Resync",
        )
    ),
    "file.<host>.<id>": ("compute.rpc.ReadPiece",),
    "image": ("get", "list", "create", "update", "delete", "local_path", "write"),
    "network": (
        "validate", "allocate", "wait_wired", "release", "rebind", "nics", "nics_of", "attach", "detach", "server_of", "network_data",
        "server_security_groups", "add_security_group", "remove_security_group",
    ),
}  # fmt: skip
"""Agents are refused these: by the judge, or, where agents are the ones who listen, by `from_control`."""
PARTS = {
    "compute.rpc": {"Fence", "GuestNic", "GuestImage", "Guest", "Console", "Done", "HostAccepted", "Piece", "ClaimHolds"},
    "network.rpc": {
        "Network", "HostRoute", "Subnet", "FixedIp", "AddressPair", "DhcpOption", "Port", "RemotePort", "Peer", "SecurityGroupRule",
        "SecurityGroup", "RouterInterface", "RouterGateway", "FloatingIp", "Router", "HostState", "Ordered", "Sync", "PortWired",
        "PortFailed", "PortUnplugged", "NetworkReady", "NetworkFailed", "RouterReady", "RouterFailed", "HostSynced", "MetadataReply",
        "DriverDescription", "Snapshot", "TopologyChanged", "ServersWired",
    },
}  # fmt: skip
"""Parts of messages, replies, and what goes to topics: nobody answers them at an address."""
RUNTIME = Runtime()


class World:
    """One server `s` on host `a`, of image `i`, with the address 10.0.0.1 on network n; host b has its tunnels at 192.0.2.2."""

    def __init__(self) -> None:
        self.asked = 0

    async def holds(self, claim: HostClaim) -> bool:
        self.asked += 1
        return claim.host == "a" and (claim.server_id, claim.image_id, claim.fills_image) in (("s", "", ""), ("", "i", ""), ("", "", "f"))

    async def server_of(self, *, ip: str, network_id: str | None, router_id: str | None) -> ServerOfAddress | None:
        found = (ip, network_id, router_id) == ("10.0.0.1", "n", None)
        return ServerOfAddress(server_id="s", project_id="p") if found else None

    def host_with_tunnels_at(self, vtep_ip: str) -> str:
        return "b" if vtep_ip == "192.0.2.2" else ""

    async def joined_from(self, host: str) -> str | None:
        return {"a": "192.0.2.1", "b": "192.0.2.2"}.get(host)


def may(address: str, user: str, message: Any, world: World | None = None) -> bool:
    judge = Judge(world or World(), RUNTIME)
    if not judge.admit(address, user):
        return False

    async def main() -> None:
        verdict: Awaitable[None] | None = judge.judge(address, user, message)
        if verdict is not None:
            await verdict

    try:
        asyncio.run(main())
    except NotYours:
        return False
    return True


def test_every_message_and_method_is_decided() -> None:
    decided = {name for rules in (*MAY.values(), *CONTROL_ONLY.values()) for name in rules}
    for module, parts in PARTS.items():
        loaded = importlib.import_module(f"kilonova.{module}")
        structs = {
            n for n, k in vars(loaded).items() if inspect.isclass(k) and issubclass(k, msgspec.Struct) and k.__module__ == loaded.__name__
        }
        undecided = {f"{module}.{name}" for name in structs - parts} - decided
        assert not undecided, f"say in admission.MAY, or here, who may send {undecided}"
        assert parts <= structs
    for address, contract in (("image", Images), ("network", Network)):
        known = {*MAY.get(address, ()), *CONTROL_ONLY[address]}
        assert set(methods(contract)) == known, address
        assert not set(MAY.get(address, ())) & set(CONTROL_ONLY[address])
    names = {name for rules in MAY.values() for name in rules if "." in name}
    assert all(wire.name_of(wire.type_of(name)) == name for name in names)


def test_what_is_not_in_the_table_is_refused() -> None:
    for address, names in CONTROL_ONLY.items():
        for name in names:
            message: Any = Call(name, b"\x80") if "." not in name else wire.type_of(name)
            if "." in name:
                assert name not in MAY.get(address, {})
                continue
            assert not may(address, "agent.a", message), (address, name)
    for address in (
        "compute.conductor",
        "network",
        "compute.a",
        "network.a",
        "versioned_notifications.info",
        "",
        "network.changed",
        "file.a.0",
    ):
        assert not Judge(World(), RUNTIME).admit(address, "agent.a")
    assert not may("compute.facts", "agent.a", rpc.OperationReady(operation="x"))
    assert not may("image", "agent.a", Call("read", b"\xc1")) and not may("image", "agent.a", Call("read", b"\x93\x01\x02\x03"))


def test_a_sender_nobody_has_checked_is_nobody() -> None:
    for address in (*MAY, *CONTROL_ONLY):
        assert not Judge(World(), RUNTIME).admit(address, "")
        assert Judge(World(), RUNTIME).admit(address, "kilonova")
    assert agents.from_control("compute.a", "kilonova")
    assert not agents.from_control("compute.a", "") and not agents.from_control("compute.a", "agent.b")
    assert not agents.from_control("compute.a", "agent.")
    assert not may("compute.facts", "agent.", rpc.Alive(hosts=("a",)))


IDENT = "0" * 32
HELLO = net.AgentStarted(host="a", vtep_ip="192.0.2.1", description=net.DriverDescription(driver="fake"))
REPORT = rpc.HostReport(host="a", hypervisor_hostname="a", hypervisor_type="f", hypervisor_version=1, vcpus=1, ram_mb=1, disk_gb=1)
METADATA = net.MetadataRequest(network_id="n", source_ip="10.0.0.1", method="GET", path="/")
READ = Call("read", methods(Images)["read"].pack((None, "i", 0, 1), {}))
OWN = [
    ("compute.facts", REPORT),
    ("compute.facts", rpc.Alive(hosts=("a",))),
    ("compute.facts", rpc.GuestChanged(host="a", server_id="s", power_state=4)),
    ("network.facts", HELLO),
    ("network.facts.0123", net.StateWanted(host="a")),
    ("network.facts", net.HostFacts(host="a", facts=())),
    ("network.facts", net.Heartbeat(host="a")),
    ("metadata", METADATA),
    ("image", READ),
    ("image.store", rpc.StoreImage(image_id="f", address=agents.file_address("a", IDENT))),
]


@pytest.mark.parametrize(("address", "message"), OWN, ids=lambda v: v if isinstance(v, str) else type(v).__name__)
def test_each_may_speak_of_itself_only(address: str, message: Any) -> None:
    assert may(address, "agent.a", message)
    assert not may(address, "agent.b", message)
    assert may(address, "kilonova", message)


def test_the_table_is_tried_whole() -> None:
    told = {(admission.family(a), m.method if isinstance(m, Call) else wire.name_of(type(m))) for a, m in OWN}
    assert told == {(address, name) for address, rules in MAY.items() for name in rules}


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("compute.facts", msgspec.structs.replace(REPORT, hypervisor_hostname="b")),
        ("compute.facts", rpc.Alive(hosts=("a", "b"))),
        ("compute.facts", rpc.Alive(hosts=())),
        ("network.facts", msgspec.structs.replace(HELLO, vtep_ip="192.0.2.2")),
        ("network.facts", msgspec.structs.replace(HELLO, vtep_ip="192.0.2.7")),
        ("metadata", msgspec.structs.replace(METADATA, source_ip="10.0.0.2")),
        ("metadata", msgspec.structs.replace(METADATA, router_id="r")),
        ("metadata", msgspec.structs.replace(METADATA, network_id=None)),
        ("image.store", rpc.StoreImage(image_id="f", address=agents.file_address("b", IDENT))),
        ("image.store", rpc.StoreImage(image_id="f", address=agents.file_address("a.b", IDENT))),
        ("image.store", rpc.StoreImage(image_id="f", address=agents.file_address("a", IDENT) + "\n")),
        ("image.store", rpc.StoreImage(image_id="f", address="compute.a")),
        ("image.store", rpc.StoreImage(image_id="i", address=agents.file_address("a", IDENT))),
        ("compute.facts", Call("compute.rpc.Alive", msgspec.msgpack.encode({"hosts": ["a"]}))),
    ],
)
def test_what_a_host_may_not_say_of_itself(address: str, message: Any) -> None:
    assert not may(address, "agent.a", message)


def test_what_held_is_not_asked_again_but_a_refusal_is() -> None:
    world = World()
    judge = Judge(world, RUNTIME)

    async def main() -> None:
        for _ in range(5):
            verdict = judge.judge("image", "agent.a", READ)
            assert verdict is not None
            await verdict
        assert world.asked == 1
        for _ in range(3):
            other = judge.judge("image", "agent.b", READ)
            assert other is not None
            with pytest.raises(NotYours):
                await other
        assert world.asked == 4

    asyncio.run(main())


@given(st.text(max_size=70), st.text(max_size=70))
def test_names_of_hosts_open_no_other_queue(one: str, two: str) -> None:
    if agents.HOST.fullmatch(one) is None or agents.HOST.fullmatch(two) is None or one == two:
        return
    pattern = agents.own_queues(one)
    for queue in (f"compute.{two}", f"network.{two}", agents.file_address(two, "0" * 32)):
        assert re.search(pattern, f"kilonova.{queue}") is None


@pytest.mark.parametrize("one", ["a", "a.b", "a-b", "a_b", "A", "a.0"])
def test_an_agents_own_queues(one: str) -> None:
    pattern = agents.own_queues(one)
    for queue in (f"compute.{one}", f"network.{one}", agents.file_address(one, RUNTIME.uuid_hex())):
        assert re.search(pattern, f"kilonova.{queue}")
    for other in ("a", "a.b", "aXb", "a-b", "ab", "a_b", "A", "a.0", one + ".x", "x." + one):
        for queue in (f"compute.{other}", agents.file_address(other, "1" * 32), "compute.facts", f"x.compute.{one}", f"compute.{one}\nx"):
            assert queue == f"compute.{one}" or other == one or re.search(pattern, f"kilonova.{queue}") is None
    assert not any(agents.RESERVED.fullmatch(name) is None for name in ("facts", "FACTS", "facts.x", "conductor", "changed"))
