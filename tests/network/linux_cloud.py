"""A small cloud for the tests of the Linux driver: hosts that are namespaces, and guests behind real taps.

A guest is a namespace whose `eth0` is a tap of its own; one thread carries frames between it and the port's tap, as QEMU would.
Names are unique per test, so that tests may run side by side.
"""

import contextlib
import fcntl
import os
import re
import select
import socket
import struct
import subprocess
import threading
import uuid
from collections.abc import AsyncIterator

import msgspec

from kilonova.network import rpc
from kilonova.network.drivers.linux import names, netns, rtnl, tap
from kilonova.network.drivers.linux.config import LinuxConfig, PhysicalNetwork, Underlay
from kilonova.network.drivers.linux.driver import LinuxDriver
from kilonova.network.drivers.linux.nft import Nft

EXTERNAL_MTU = 1500


def new_id() -> str:
    return str(uuid.uuid4())


def new_mac() -> str:
    return "fa:16:3e:" + os.urandom(3).hex(":")


class Pump(threading.Thread):
    """Carries frames between pairs of descriptors until it is stopped."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self._epoll = select.epoll()
        self._pairs: dict[int, int] = {}
        self._wake_read, self._wake_write = os.pipe()
        self._epoll.register(self._wake_read, select.EPOLLIN)
        self.start()

    def join_pair(self, one: int, other: int) -> None:
        self._pairs |= {one: other, other: one}
        self._epoll.register(one, select.EPOLLIN)
        self._epoll.register(other, select.EPOLLIN)

    def part_pair(self, one: int) -> None:
        other = self._pairs.pop(one)
        del self._pairs[other]
        for descriptor in (one, other):
            with contextlib.suppress(OSError):
                self._epoll.unregister(descriptor)
            os.close(descriptor)

    def run(self) -> None:
        while True:
            for descriptor, _ in self._epoll.poll():
                if descriptor == self._wake_read:
                    return
                with contextlib.suppress(OSError, KeyError):
                    os.write(self._pairs[descriptor], os.read(descriptor, 70_000))

    def stop(self) -> None:
        os.write(self._wake_write, b"x")
        self.join()
        for descriptor in list(self._pairs):
            if descriptor in self._pairs:
                self.part_pair(descriptor)
        self._epoll.close()
        os.close(self._wake_read)
        os.close(self._wake_write)


def _private_tap(name: str, mac: str) -> int:
    """A tap that ends with its descriptor, with the guest's MAC."""
    descriptor = tap.attach(name)
    fcntl.ioctl(descriptor, 0x8924, struct.pack("16sH6s8x", name.encode(), 1, rtnl.mac_bytes(mac)))
    return descriptor


class Guest:
    def __init__(self, cloud: "Cloud", host: LinuxDriver, port: rpc.Port) -> None:
        self.port = port
        self.host = host
        self.namespace = f"{cloud.name}-g-{port.id[:8]}"
        netns.create(self.namespace)
        with netns.entered(self.namespace), rtnl.Route() as route:
            netns.write_sysctl("net/ipv6/conf/default/accept_dad", 0)
            inner = _private_tap("eth0", port.mac)
            route.do(rtnl.set_link("lo", up=True), rtnl.set_link("eth0", mtu=1450, up=True))
        with netns.entered(host._config.host_namespace):
            outer = tap.attach(port.device_name)
        self._inner = inner
        cloud.pump.join_pair(inner, outer)

    @property
    def ip(self) -> str:
        return self.port.fixed_ips[0].ip

    def address(self, cidr: str, gateway: str | None = None) -> None:
        with netns.entered(self.namespace), rtnl.Route() as route:
            index = route.index("eth0")
            route.do(rtnl.add_address(index, cidr))
            if gateway is not None:
                route.do(rtnl.add_route("::/0" if ":" in gateway else "0.0.0.0/0", via=gateway, index=index))

    def run(self, *argv: str, timeout_s: float = 10, input: str | None = None) -> subprocess.CompletedProcess[str]:
        return run_in(self.namespace, *argv, timeout_s=timeout_s, input=input)

    def start(self, *argv: str) -> "subprocess.Popen[str]":
        return subprocess.Popen(
            netns.command(self.namespace, argv), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )


def run_in(namespace: str, *argv: str, timeout_s: float = 10, input: str | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(netns.command(namespace, argv), capture_output=True, text=True, timeout=timeout_s, input=input, check=False)


def pings(namespace: str, ip: str, *, tries: int = 2, size: int = 56) -> bool:
    """Whether at least one answer comes back."""
    family = ["-6"] if ":" in ip else []
    for _ in range(tries):
        if run_in(namespace, "busybox", "ping", *family, "-c", "1", "-W", "1", "-s", str(size), ip).returncode == 0:
            return True
    return False


def allow_all() -> tuple[rpc.SecurityGroupRule, ...]:
    return tuple(rpc.SecurityGroupRule(direction=way, ethertype=kind) for way in ("ingress", "egress") for kind in ("IPv4", "IPv6"))


def egress_only(*more: rpc.SecurityGroupRule) -> tuple[rpc.SecurityGroupRule, ...]:
    return (*(rpc.SecurityGroupRule(direction="egress", ethertype=kind) for kind in ("IPv4", "IPv6")), *more)


class Cloud:
    """Hosts share an underlay. Wishes are kept per host, so that any increment can be compared with a full sync."""

    def __init__(self) -> None:
        self.name = f"kn-t{uuid.uuid4().hex[:8]}"
        self.pump = Pump()
        self.hosts: list[LinuxDriver] = []
        self.requests: list[rpc.MetadataRequest] = []
        self._vni = int.from_bytes(os.urandom(2), "big") + 1

    async def metadata(self, request: rpc.MetadataRequest) -> rpc.MetadataReply:
        self.requests.append(request)
        body = f"{request.method} {request.path} from {request.source_ip}".encode() + request.body
        return rpc.MetadataReply(status=200, headers=(("Content-Type", "text/plain"),), body=body)

    def config(self, number: int) -> LinuxConfig:
        return LinuxConfig(
            host_namespace=f"{self.name}-h{number}",
            vtep_ip=f"192.0.2.{number}",
            underlay=Underlay(namespace=f"{self.name}-net"),
            physical_networks=(PhysicalNetwork(address="203.0.113.1/24" if number == 1 else None),),
        )

    async def host(self) -> LinuxDriver:
        driver = LinuxDriver(self.config(len(self.hosts) + 1), self.metadata)
        self.hosts.append(driver)
        await driver.start()
        await driver.sync(rpc.HostState(peers=tuple(rpc.Peer(vtep_ip=f"192.0.2.{n}") for n in (1, 2))))
        return driver

    def network(self, cidr: str = "10.0.0.0/24", *, kind: str = "vxlan", **subnet: object) -> tuple[rpc.Network, rpc.Subnet]:
        network_id = new_id()
        self._vni += 1
        network = rpc.Network(
            id=network_id,
            kind=kind,
            segmentation_id=self._vni if kind == "vxlan" else None,
            physical_network="public" if kind == "flat" else None,
            mtu=EXTERNAL_MTU if kind == "flat" else 1450,
            dhcp_mac=new_mac(),
        )
        base = cidr.rsplit(".", 1)[0]
        made = rpc.Subnet(
            id=new_id(), network_id=network_id, cidr=cidr, gateway_ip=f"{base}.1", dhcp_ip=f"{base}.2", enable_dhcp=kind != "flat"
        )
        return network, msgspec.structs.replace(made, **subnet)

    def port(self, subnet: rpc.Subnet, ip: str, *groups: rpc.SecurityGroup, **more: object) -> rpc.Port:
        port_id = new_id()
        port = rpc.Port(
            id=port_id,
            network_id=subnet.network_id,
            device_name=f"tap{port_id[:11]}",
            mac=new_mac(),
            fixed_ips=(rpc.FixedIp(subnet_id=subnet.id, ip=ip),),
            security_group_ids=tuple(group.id for group in groups),
            hostname="guest",
        )
        return msgspec.structs.replace(port, **more)

    async def guest(
        self, host: LinuxDriver, network: rpc.Network, subnet: rpc.Subnet, ip: str, *groups: rpc.SecurityGroup, **more: object
    ) -> Guest:
        """Plugged, with its address set by hand."""
        port = self.port(subnet, ip, *groups, **more)
        await host.plug(port, network, (subnet,), groups)
        guest = Guest(self, host, port)
        guest.address(f"{ip}/24", subnet.gateway_ip)
        return guest

    def router(
        self, network: rpc.Network, subnet: rpc.Subnet, external: rpc.Network | None = None, ip: str = "203.0.113.10", **more: object
    ) -> rpc.Router:
        gateway = None
        if external is not None:
            gateway = rpc.RouterGateway(port_id=new_id(), network_id=external.id, ips=(f"{ip}/24",), mac=new_mac(), next_hop="203.0.113.1")
        interface = rpc.RouterInterface(
            port_id=new_id(), subnet_id=subnet.id, network_id=network.id, ip=str(subnet.gateway_ip), prefix=24, mac=new_mac()
        )
        return msgspec.structs.replace(rpc.Router(id=new_id(), interfaces=(interface,), gateway=gateway), **more)

    async def close(self) -> None:
        self.pump.stop()
        for driver in self.hosts:
            await driver.teardown()
        for name in netns.names(f"{self.name}-g-"):
            netns.remove(name)


@contextlib.asynccontextmanager
async def running_cloud() -> AsyncIterator[Cloud]:
    cloud = Cloud()
    try:
        yield cloud
    finally:
        await cloud.close()


def rules(namespace: str) -> dict[str, list[str]]:
    """The loaded ruleset by table and block, without counters, elements sorted: for comparing."""
    with netns.entered(namespace), Nft() as nft:
        text = nft.run("list ruleset")
    text = re.sub(r"counter packets \d+ bytes \d+", "counter", text)
    text = re.sub(
        r"elements = \{(.*?)\}",
        lambda found: "elements " + " | ".join(sorted(" ".join(e.split()) for e in found[1].split(","))),
        text,
        flags=re.S,
    )
    blocks: dict[str, list[str]] = {}
    table = block = ""
    for line in text.splitlines():
        if line.startswith("table "):
            table = line
        elif re.match(r"\t(chain|set|map) ", line):
            block = f"{table} {line.strip()}"
            blocks[block] = []
        elif line.strip() not in ("", "}"):
            blocks[block].append(line.strip())
    return blocks


def _inner_state(namespace: str) -> dict[str, object]:
    with netns.entered(namespace), rtnl.Route() as route:
        links = {link.index: link for link in route.links()}
        name = {index: link.name for index, link in links.items()}
        return {
            "links": [(link.name, link.mac, link.mtu, link.up) for link in route.links()],
            "addresses": sorted((name[a.index], a.cidr) for a in route.addresses()),
            "routes": sorted((r.destination, r.via or "", name.get(r.index or 0, "")) for r in route.routes()),
            "rules": rules(namespace),
        }


def kernel_state(driver: LinuxDriver) -> dict[str, object]:
    """All that the driver has put into the kernel for one host, in comparable form (no indexes, no random MACs)."""
    host = driver._config.host_namespace
    with netns.entered(host), rtnl.Route() as route:
        name = {link.index: link.name for link in route.links()}
        links = [(link.name, link.kind, name.get(link.master or 0), link.mtu, link.up, link.alias) for link in route.links()]
        tunnels = sorted(
            (name[n.index], n.mac or "", n.ip or "", n.on_device)
            for n in route.neighbours(socket.AF_BRIDGE)
            if name[n.index].startswith("vx") and (n.on_device or n.state == 0x40)
        )
        both = (*route.neighbours(socket.AF_INET), *route.neighbours(socket.AF_INET6))
        neighbours = sorted((name[n.index], n.ip or "", n.mac or "") for n in both if n.state == 0x80)
    inner = {n: _inner_state(n) for n in netns.names(host + "-") if names.owned(host, n)}
    return {"links": links, "tunnels": tunnels, "neighbours": neighbours, "rules": rules(host), "inner": inner}
