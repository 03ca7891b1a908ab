"""The Linux driver with real namespaces, taps and traffic."""

import asyncio
import errno
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
import uvloop

from kilonova.network import rpc
from kilonova.network.drivers import DriverError
from kilonova.network.drivers.linux import netns, rtnl
from kilonova.network.drivers.linux.driver import LinuxDriver

from .linux_cloud import Cloud, Guest, allow_all, egress_only, kernel_state, new_id, new_mac, pings, rules, run_in, running_cloud

pytestmark = [pytest.mark.root, pytest.mark.skipif(os.geteuid() != 0, reason="needs root")]
Rule = rpc.SecurityGroupRule


async def away(function: Callable[..., Any], *arguments: Any) -> Any:
    """In a thread, for the driver's loop must go on serving."""
    return await asyncio.to_thread(function, *arguments)


def group(*found: Rule) -> rpc.SecurityGroup:
    return rpc.SecurityGroup(id=new_id(), rules=found)


def tcp(port: int, **more: Any) -> Rule:
    return Rule(direction="ingress", protocol="tcp", port_range_min=port, port_range_max=port, **more)


PING = Rule(direction="ingress", protocol="icmp")


def fetch(guest: Guest, ip: str, port: int = 80, *options: str, timeout_s: int = 2) -> str:
    """What a TCP server answers to one line, empty when there is none."""
    done = guest.run("busybox", "nc", "-w", str(timeout_s), *options, ip, str(port), input="hello\n", timeout_s=timeout_s + 5)
    return done.stdout


_SERVER = """
import socket, sys
s = socket.socket(); s.setsockopt(1, 2, 1); s.bind(("", int(sys.argv[1]))); s.listen(); print("up", flush=True)
while True:
    c, who = s.accept(); c.recv(100); c.sendall(b"got hello from " + who[0].encode()); c.close()
"""


def serve(guest: Guest, port: int) -> Any:
    """A TCP server that says who called, until it is killed."""
    process = guest.start("python3", "-S", "-c", _SERVER, str(port))
    assert process.stdout is not None and process.stdout.readline() == "up\n"
    return process


def run_scenario(scenario: Callable[[Cloud], Any]) -> None:
    async def main() -> None:
        async with running_cloud() as cloud:
            await asyncio.wait_for(scenario(cloud), 60)
            name = cloud.name
        assert netns.names(name) == []

    asyncio.run(main())


def machine_state() -> tuple[str, str]:
    with rtnl.Route() as route:
        return str([link.name for link in route.links()]), str(route.routes())


def test_dhcp_gives_a_real_client_its_lease_and_metadata_knows_the_guest(tmp_path: Path) -> None:
    async def scenario(cloud: Cloud) -> None:
        host = await cloud.host()
        network, subnet = cloud.network(
            dns_nameservers=("198.51.100.53",), host_routes=(rpc.HostRoute(destination="10.9.0.0/16", nexthop="10.0.0.9"),)
        )
        everyone = group(*egress_only())
        port = cloud.port(subnet, "10.0.0.11", everyone)
        await host.plug(port, network, (subnet,), (everyone,))
        guest = Guest(cloud, host, port)
        script = tmp_path / "udhcpc"
        script.write_text(
            "#!/bin/sh\n[ $1 = bound ] && env && ip addr add $ip/$mask dev eth0 && ip route add 169.254.169.254 via 10.0.0.2\nexit 0\n"
        )
        script.chmod(0o755)
        done = await away(guest.run, "busybox", "udhcpc", "-f", "-n", "-q", "-i", "eth0", "-s", str(script), "-O", "121", "-O", "mtu")
        given = dict(line.split("=", 1) for line in done.stdout.splitlines() if "=" in line)
        assert (given["ip"], given["router"], given["dns"], given["mtu"], given["hostname"]) == (
            "10.0.0.11", "10.0.0.1", "198.51.100.53", "1450", "guest",
        )  # fmt: skip
        assert given["staticroutes"] == "169.254.169.254/32 10.0.0.2 10.9.0.0/16 10.0.0.9 0.0.0.0/0 10.0.0.1"
        done = await away(
            guest.run, "busybox", "wget", "-q", "-O", "-", "--header", "X-Forwarded-For: 10.0.0.99", "http://169.254.169.254/latest/"
        )
        assert done.stdout == "GET /latest/ from 10.0.0.11"
        (request,) = cloud.requests
        assert (request.network_id, request.router_id, request.source_ip) == (network.id, None, "10.0.0.11")
        assert ("x-forwarded-for", "10.0.0.99") in request.headers
        counters = (await host.describe()).counters
        assert counters["dhcp_answers"] == 2 and counters["metadata_requests"] == 1

    run_scenario(scenario)


def test_an_unknown_mac_gets_no_lease() -> None:
    async def scenario(cloud: Cloud) -> None:
        host = await cloud.host()
        network, subnet = cloud.network()
        guest = await cloud.guest(host, network, subnet, "10.0.0.11", port_security_enabled=False)
        await away(guest.run, "ip", "link", "set", "eth0", "address", new_mac())
        done = await away(guest.run, "busybox", "udhcpc", "-f", "-n", "-q", "-t", "2", "-T", "1", "-i", "eth0", "-s", "/bin/true")
        assert done.returncode != 0

    run_scenario(scenario)


def test_default_deny_group_rules_and_remote_groups() -> None:
    async def scenario(cloud: Cloud) -> None:
        host = await cloud.host()
        network, subnet = cloud.network()
        friends = rpc.SecurityGroup(id=new_id(), rules=egress_only(), member_ips=("10.0.0.12",))
        web = group(*egress_only(tcp(80), PING, tcp(9000, remote_group_id=friends.id)))
        server = await cloud.guest(host, network, subnet, "10.0.0.11", web, friends)
        friend = await cloud.guest(host, network, subnet, "10.0.0.12", friends)
        stranger = await cloud.guest(host, network, subnet, "10.0.0.13", group(*egress_only()))
        silent = await cloud.guest(host, network, subnet, "10.0.0.14", group())
        servers = [serve(server, port) for port in (80, 81, 9000)]
        try:
            assert await away(pings, stranger.namespace, server.ip)
            assert await away(fetch, stranger, server.ip, 80) == "got hello from 10.0.0.13"
            assert await away(fetch, stranger, server.ip, 81) == ""
            assert "got hello" in await away(fetch, friend, server.ip, 9000)
            assert await away(fetch, stranger, server.ip, 9000) == ""
            assert not await away(pings, server.namespace, stranger.ip)
            assert not await away(pings, silent.namespace, server.ip)
        finally:
            for process in servers:
                process.kill()
                process.communicate()

    run_scenario(scenario)


def test_forged_sources_are_dropped() -> None:
    """MAC, IP and ARP of others, and answers of a false DHCP server (CVE-2016-5362 and its like)."""

    async def scenario(cloud: Cloud) -> None:
        host = await cloud.host()
        network, subnet = cloud.network()
        everything = group(*allow_all())
        victim = await cloud.guest(host, network, subnet, "10.0.0.11", everything)
        evil = await cloud.guest(host, network, subnet, "10.0.0.12", everything)
        assert await away(pings, evil.namespace, victim.ip)
        evil.address("10.0.0.66/24")
        done = await away(evil.run, "busybox", "ping", "-c", "1", "-W", "1", "-I", "10.0.0.66", victim.ip)
        assert done.returncode != 0
        for forged in ("10.0.0.66", "10.0.0.1"):
            await away(victim.run, "ip", "neigh", "flush", "all")
            await away(evil.run, "busybox", "arping", "-q", "-c", "1", "-w", "1", "-U", "-I", "eth0", "-s", forged, forged)
            assert forged not in (await away(victim.run, "ip", "neigh")).stdout
        await away(evil.run, "ip", "link", "set", "eth0", "address", new_mac())
        assert not await away(pings, evil.namespace, victim.ip)
        dropped = re.findall(r"counter packets (\d+)", _listed(host, "guest_arp") + _listed(host, "guest_ip4") + _listed(host, "guest"))
        assert sum(int(count) > 0 for count in dropped) >= 3

    run_scenario(scenario)


def _listed(host: LinuxDriver, chain: str) -> str:
    return run_in(host._config.host_namespace, "nft", "list", "chain", "bridge", "kn", chain).stdout


def test_false_dhcp_server_and_router_advertisements_are_dropped() -> None:
    async def scenario(cloud: Cloud) -> None:
        host = await cloud.host()
        network, subnet = cloud.network()
        everything = group(*allow_all())
        evil = await cloud.guest(host, network, subnet, "10.0.0.12", everything)
        sent = """
import socket
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.setsockopt(1, 6, 1); s.bind(("", 67)); s.sendto(b"x", ("10.0.0.255", 68))
"""
        await away(evil.run, "python3", "-c", sent)
        advert = """
import socket
socket.socket(socket.AF_INET6, socket.SOCK_RAW, 58).sendto(bytes([134, 0, 0, 0]) + bytes(12), ("ff02::1%eth0", 0))
"""
        await away(evil.run, "python3", "-c", advert)
        for chain in ("guest_ip4", "guest_ip6"):
            first = re.search(r"(nd-router-advert|udp sport 67).*counter packets (\d+)", _listed(host, chain))
            assert first is not None and int(first[2]) > 0, chain

    run_scenario(scenario)


def test_address_pairs_and_ports_without_security() -> None:
    async def scenario(cloud: Cloud) -> None:
        host = await cloud.host()
        network, subnet = cloud.network()
        everything = group(*allow_all())
        pairs = (rpc.AddressPair(ip="10.0.0.100"), rpc.AddressPair(ip="10.0.0.128/28"))
        one = await cloud.guest(host, network, subnet, "10.0.0.11", everything, allowed_address_pairs=pairs)
        free = await cloud.guest(host, network, subnet, "10.0.0.12", port_security_enabled=False)
        for extra in ("10.0.0.100", "10.0.0.130"):
            one.address(f"{extra}/24")
            assert (await away(one.run, "busybox", "ping", "-c", "1", "-W", "1", "-I", extra, free.ip)).returncode == 0
        free.address("10.0.0.77/24")
        assert (await away(free.run, "busybox", "ping", "-c", "1", "-W", "1", "-I", "10.0.0.77", one.ip)).returncode == 0

    run_scenario(scenario)


def test_removing_a_rule_stops_a_live_connection_and_restoring_resumes_it() -> None:
    async def scenario(cloud: Cloud) -> None:
        host = await cloud.host()
        network, subnet = cloud.network()
        web = group(*egress_only(tcp(80), tcp(81)))
        server = await cloud.guest(host, network, subnet, "10.0.0.11", web)
        client = await cloud.guest(host, network, subnet, "10.0.0.12", group(*egress_only()))
        live = {}
        for port in (80, 81):
            listening = server.start("busybox", "nc", "-l", "-p", str(port), "-e", "/bin/cat")
            await asyncio.sleep(0.15)
            live[port] = (listening, client.start("busybox", "nc", server.ip, str(port)))

        def echo(port: int, word: str, timeout_s: float) -> bool:
            process = live[port][1]
            process.stdin.write(word + "\n")
            process.stdin.flush()
            os.set_blocking(process.stdout.fileno(), False)
            heard = b""
            until = time.monotonic() + timeout_s
            while time.monotonic() < until and word.encode() not in heard:
                try:
                    heard += os.read(process.stdout.fileno(), 4096)
                except BlockingIOError:
                    time.sleep(0.01)
            return word.encode() in heard

        try:
            assert await away(echo, 80, "one", 3.0) and await away(echo, 81, "one", 3.0)
            await host.put_group(msgspec.structs.replace(web, rules=egress_only(tcp(81))))
            assert not await away(echo, 80, "two", 1.0)
            assert await away(echo, 81, "two", 3.0), "a connection that is still allowed goes on"
            await host.put_group(web)
            assert await away(echo, 80, "three", 8.0), "TCP sends again and the rule is back"
        finally:
            for pair in live.values():
                for process in pair:
                    process.kill()
                    process.communicate()

    run_scenario(scenario)


def test_two_hosts_over_vxlan_with_neighbours_answered_locally() -> None:
    async def scenario(cloud: Cloud) -> None:
        one, two = await cloud.host(), await cloud.host()
        network, subnet = cloud.network()
        inner = group(
            *egress_only(Rule(direction="ingress", protocol="icmp"), Rule(direction="ingress", ethertype="IPv6", protocol="icmp"))
        )
        a = await cloud.guest(one, network, subnet, "10.0.0.11", inner)
        b = await cloud.guest(two, network, subnet, "10.0.0.12", inner)
        assert await away(pings, a.namespace, b.ip), "floods find a port nobody told us about"
        for here, there, far in ((one, "192.0.2.2", b), (two, "192.0.2.1", a)):
            await here.put_remote_ports((rpc.RemotePort(network_id=network.id, mac=far.port.mac, ips=(far.ip,), vtep_ip=there),))
        for guest in (a, b):
            await away(guest.run, "ip", "neigh", "flush", "all")
        assert await away(pings, a.namespace, b.ip)
        for size in (1400, 4000):
            done = await away(a.run, "busybox", "ping", "-c", "1", "-W", "2", "-s", str(size), b.ip)
            assert done.returncode == 0, size

    run_scenario(scenario)


def test_dhcp_and_metadata_stay_on_their_host() -> None:
    """Both hosts have the same DHCP address and MAC; each guest must be served by its own."""

    async def scenario(cloud: Cloud) -> None:
        one, two = await cloud.host(), await cloud.host()
        network, subnet = cloud.network()
        everyone = group(*egress_only())
        for host, ip in ((one, "10.0.0.11"), (two, "10.0.0.12")):
            port = cloud.port(subnet, ip, everyone)
            await host.plug(port, network, (subnet,), (everyone,))
            guest = Guest(cloud, host, port)
            done = await away(guest.run, "busybox", "udhcpc", "-f", "-n", "-q", "-i", "eth0", "-s", "/bin/true")
            assert f"lease of {ip} obtained from 10.0.0.2" in done.stderr
            guest.address(f"{ip}/24", "10.0.0.2")
            done = await away(guest.run, "busybox", "wget", "-q", "-O", "-", "http://169.254.169.254/")
            assert done.stdout == f"GET / from {ip}"
        for host in (one, two):
            counters = (await host.describe()).counters
            assert (counters["dhcp_answers"], counters["metadata_requests"]) == (2, 1)
            assert counters["dhcp_unanswered"] == 0, "the other host's guest was heard here"

    run_scenario(scenario)


def test_router_snat_floating_ips_hairpin_and_metadata() -> None:
    async def scenario(cloud: Cloud) -> None:
        host = await cloud.host()
        public, public_subnet = cloud.network("203.0.113.0/24", kind="flat")
        network, subnet = cloud.network()
        await host.put_network(public, (public_subnet,))
        open_group = group(*egress_only(PING, tcp(80)))
        plain = await cloud.guest(host, network, subnet, "10.0.0.11", open_group)
        floating = await cloud.guest(host, network, subnet, "10.0.0.12", open_group)
        router = cloud.router(network, subnet, public, floating_ips=(rpc.FloatingIp(floating_ip="203.0.113.50", fixed_ip="10.0.0.12"),))
        ready = await host.put_router(router)
        assert ready.floating_ips == ("203.0.113.50",)
        outside = host._config.host_namespace
        assert await away(pings, plain.namespace, "203.0.113.1"), "SNAT"
        assert await away(pings, floating.namespace, "203.0.113.1"), "out by its own floating IP"
        assert await away(pings, outside, "203.0.113.50"), "in by the floating IP"
        server = serve(floating, 80)
        seen = await asyncio.create_subprocess_exec(*netns.command(outside, ["python3", "-c", _WHO_CALLS]), stdout=asyncio.subprocess.PIPE)
        await asyncio.sleep(0.4)
        try:
            assert "got hello" in await away(fetch, plain, "203.0.113.50"), "hairpin from the same subnet"
            assert await away(pings, floating.namespace, "203.0.113.50"), "hairpin to oneself"
            await away(fetch, plain, "203.0.113.1", 8080)
            await away(fetch, floating, "203.0.113.1", 8080)
            assert seen.stdout is not None
            assert (await seen.stdout.read()).decode().split() == ["203.0.113.10", "203.0.113.50"]
        finally:
            server.kill()
            server.communicate()
            if seen.returncode is None:
                seen.kill()
            await seen.wait()
        done = await away(plain.run, "busybox", "wget", "-q", "-O", "-", "http://169.254.169.254/openstack")
        assert done.stdout == "GET /openstack from 10.0.0.11"
        assert (cloud.requests[-1].router_id, cloud.requests[-1].network_id) == (router.id, None)
        await host.put_router(msgspec.structs.replace(router, floating_ips=()))
        assert not await away(pings, outside, "203.0.113.50")
        assert await away(pings, floating.namespace, "203.0.113.1"), "by SNAT now"
        assert router.gateway is not None
        no_snat = msgspec.structs.replace(router, floating_ips=(), gateway=msgspec.structs.replace(router.gateway, enable_snat=False))
        await host.put_router(no_snat)
        assert not await away(pings, plain.namespace, "203.0.113.1")
        assert await host.delete_router(router.id) and not await host.delete_router(router.id)

    run_scenario(scenario)


_WHO_CALLS = """
import socket
s = socket.socket(); s.setsockopt(1, 2, 1); s.bind(("203.0.113.1", 8080)); s.listen(); s.settimeout(15)
for _ in range(2):
    c, who = s.accept(); print(who[0], flush=True); c.close()
"""


def test_moving_a_floating_ip_ends_its_connections_and_reaches_the_new_guest() -> None:
    async def scenario(cloud: Cloud) -> None:
        host = await cloud.host()
        public, public_subnet = cloud.network("203.0.113.0/24", kind="flat")
        network, subnet = cloud.network()
        await host.put_network(public, (public_subnet,))
        opened = group(*egress_only(PING))
        first = await cloud.guest(host, network, subnet, "10.0.0.11", opened)
        second = await cloud.guest(host, network, subnet, "10.0.0.12", opened)
        outside = host._config.host_namespace

        def to(ip: str) -> tuple[rpc.FloatingIp, ...]:
            return (rpc.FloatingIp(floating_ip="203.0.113.50", fixed_ip=ip),)

        router = cloud.router(network, subnet, public, floating_ips=to(first.ip))
        await host.put_router(router)
        endless = await asyncio.create_subprocess_exec(
            *netns.command(outside, ["busybox", "ping", "203.0.113.50"]), stdout=asyncio.subprocess.DEVNULL
        )
        try:
            await asyncio.sleep(0.5)
            assert first.ip in await away(_connections, router, host)
            await host.put_router(msgspec.structs.replace(router, floating_ips=to(second.ip)))
            assert first.ip not in await away(_connections, router, host)
        finally:
            endless.kill()
            await endless.wait()
        assert await away(pings, outside, "203.0.113.50")
        other = cloud.router(network, msgspec.structs.replace(subnet, gateway_ip="10.0.0.254"), public, "203.0.113.11")
        await host.put_router(msgspec.structs.replace(router, floating_ips=()))
        await host.put_router(msgspec.structs.replace(other, floating_ips=to(second.ip)))
        assert other.gateway is not None
        known = (await away(run_in, outside, "ip", "neigh", "show", "203.0.113.50")).stdout
        assert other.gateway.mac in known, "the host's neighbour table follows the announcement at once"
        await away(second.run, "ip", "route", "replace", "default", "via", "10.0.0.254")
        assert await away(pings, outside, "203.0.113.50")

    run_scenario(scenario)


def _connections(router: rpc.Router, host: LinuxDriver) -> str:
    namespace = f"{host._config.host_namespace}-r-{router.id}"
    return run_in(namespace, "cat", "/proc/thread-self/net/nf_conntrack").stdout


def test_router_between_subnets_reached_from_another_host() -> None:
    async def scenario(cloud: Cloud) -> None:
        one, two = await cloud.host(), await cloud.host()
        public, public_subnet = cloud.network("203.0.113.0/24", kind="flat")
        red, red_subnet = cloud.network("10.0.0.0/24")
        blue, blue_subnet = cloud.network("10.0.1.0/24")
        await one.put_network(public, (public_subnet,))
        await one.put_network(blue, (blue_subnet,))
        opened = group(*egress_only(PING))
        a = await cloud.guest(one, red, red_subnet, "10.0.0.11", opened)
        b = await cloud.guest(two, blue, blue_subnet, "10.0.1.12", opened)
        router = cloud.router(red, red_subnet, public)
        leg = rpc.RouterInterface(port_id=new_id(), subnet_id=blue_subnet.id, network_id=blue.id, ip="10.0.1.1", prefix=24, mac=new_mac())
        await one.put_router(msgspec.structs.replace(router, interfaces=(*router.interfaces, leg)))
        await two.put_remote_ports((rpc.RemotePort(network_id=blue.id, mac=leg.mac, ips=("10.0.1.1",), vtep_ip="192.0.2.1"),))
        assert await away(pings, a.namespace, b.ip)
        assert await away(pings, b.namespace, a.ip)
        assert await away(pings, b.namespace, "203.0.113.1"), "SNAT from the other host"

    run_scenario(scenario)


def test_ipv6_between_guests_and_slaac_from_a_router() -> None:
    async def scenario(cloud: Cloud) -> None:
        host = await cloud.host()
        network, subnet = cloud.network()
        six = rpc.Subnet(id=new_id(), network_id=network.id, cidr="fd00:1::/64", ip_version=6, gateway_ip="fd00:1::1", enable_dhcp=True)
        mac_a, mac_b = new_mac(), new_mac()
        opened = group(*egress_only(Rule(direction="ingress", ethertype="IPv6", protocol="icmp")))
        guests = []
        for number, mac in ((11, mac_a), (12, mac_b)):
            own = f"fd00:1::{rtnl.mac_bytes(mac)[0] ^ 2:02x}{mac[3:5]}:{mac[6:8]}ff:fe{mac[9:11]}:{mac[12:14]}{mac[15:17]}"
            port = cloud.port(subnet, f"10.0.0.{number}", opened, mac=mac)
            port = msgspec.structs.replace(port, fixed_ips=(*port.fixed_ips, rpc.FixedIp(subnet_id=six.id, ip=own)))
            await host.plug(port, network, (subnet, six), (opened,))
            guests.append((Guest(cloud, host, port), own))
        (a, _), (b, own_b) = guests
        router = cloud.router(network, subnet)
        leg = msgspec.structs.replace(router.interfaces[0], subnet_id=six.id, ip="fd00:1::1", prefix=64, ra_mode="slaac")
        await host.put_router(msgspec.structs.replace(router, interfaces=(*router.interfaces, leg)))

        def has_address() -> bool:
            return all("fd00:1:" in guest.run("ip", "-6", "addr", "show", "dev", "eth0").stdout for guest, _ in guests)

        for _ in range(60):
            if await away(has_address):
                break
            await asyncio.sleep(0.1)
        assert await away(has_address), "router advertisements arrive"
        assert await away(pings, a.namespace, own_b), "SLAAC addresses pass anti-spoofing and the rule"
        assert await away(pings, a.namespace, "fd00:1::1")
        a.address("fd00:1::bad/64")
        assert (await away(a.run, "busybox", "ping", "-6", "-c", "1", "-W", "1", "-I", "fd00:1::bad", own_b)).returncode != 0
        await host.put_group(msgspec.structs.replace(opened, rules=egress_only()))
        assert not await away(pings, a.namespace, own_b)
        del b

    run_scenario(scenario)


def test_a_guest_on_the_external_network_is_filtered_towards_the_host_too() -> None:
    async def scenario(cloud: Cloud) -> None:
        host = await cloud.host()
        public, subnet = cloud.network("203.0.113.0/24", kind="flat")
        outside = host._config.host_namespace
        talker = await cloud.guest(host, public, subnet, "203.0.113.20", group(*egress_only()))
        silent = await cloud.guest(host, public, subnet, "203.0.113.21", group(PING))
        assert await away(pings, talker.namespace, "203.0.113.1")
        assert not await away(pings, outside, talker.ip)
        assert not await away(pings, silent.namespace, "203.0.113.1")
        assert await away(pings, outside, silent.ip)

    run_scenario(scenario)


async def build_by_increments(cloud: Cloud, host: LinuxDriver) -> rpc.HostState:
    """A state reached by many verbs, also by detours, and the same as one struct."""
    public, public_subnet = cloud.network("203.0.113.0/24", kind="flat")
    red, red_subnet = cloud.network("10.0.0.0/24")
    blue, blue_subnet = cloud.network("10.0.1.0/24")
    gone, gone_subnet = cloud.network("10.0.2.0/24")
    peers = (rpc.Peer(vtep_ip="192.0.2.2"), rpc.Peer(vtep_ip="192.0.2.3", network_ids=(red.id,)))
    await host.put_peers((rpc.Peer(vtep_ip="192.0.2.7"),))
    for network, subnet in ((public, public_subnet), (red, red_subnet), (blue, blue_subnet), (gone, gone_subnet)):
        await host.put_network(network, (subnet,))
    await host.put_peers(peers)
    friends = rpc.SecurityGroup(id=new_id(), rules=egress_only(), member_ips=("10.0.0.11", "10.0.7.0/24", "fd00::7"))
    web = group(*egress_only(tcp(80), tcp(443), tcp(22, remote_group_id=friends.id), PING))
    unused = group(PING)
    ports = []
    for number in range(6):
        wearing = ((web, friends), (friends,), ())[number % 3]
        port = cloud.port(red_subnet, f"10.0.0.{10 + number}", *wearing)
        await host.plug(port, red, (red_subnet,), (web, friends))
        ports.append(port)
    doomed = cloud.port(gone_subnet, "10.0.2.10", unused)
    await host.plug(doomed, gone, (gone_subnet,), (unused,))
    await host.unplug(doomed.id)
    await host.delete_group(unused.id)
    await host.delete_network(gone.id)
    ports[0] = msgspec.structs.replace(
        ports[0], security_group_ids=(web.id,), allowed_address_pairs=(rpc.AddressPair(ip="10.0.0.128/25"), rpc.AddressPair(ip="fd00::/64"))
    )
    await host.plug(ports[0], red, (red_subnet,), ())
    ports[1] = msgspec.structs.replace(ports[1], port_security_enabled=False)
    await host.plug(ports[1], red, (red_subnet,), ())
    friends = msgspec.structs.replace(friends, member_ips=("10.0.0.12", "10.0.8.0/24"))
    await host.put_group(friends)
    await host.unplug(ports.pop().id)
    remotes = [
        rpc.RemotePort(network_id=red.id, mac=new_mac(), ips=(f"10.0.0.{n}", f"fd00::{n}"), vtep_ip="192.0.2.2") for n in (50, 51, 52)
    ]
    await host.put_remote_ports(tuple(remotes))
    remotes[0] = msgspec.structs.replace(remotes[0], ips=("10.0.0.60",), vtep_ip="192.0.2.3")
    await host.put_remote_ports((remotes[0],))
    await host.delete_remote_ports(((red.id, remotes.pop().mac),))
    floating = tuple(rpc.FloatingIp(floating_ip=f"203.0.113.{50 + n}", fixed_ip=f"10.0.0.{10 + n}") for n in range(3))
    router = cloud.router(red, red_subnet, public, floating_ips=floating)
    await host.put_router(router)
    leg = rpc.RouterInterface(port_id=new_id(), subnet_id=blue_subnet.id, network_id=blue.id, ip="10.0.1.1", prefix=24, mac=new_mac())
    router = msgspec.structs.replace(
        router,
        interfaces=(*router.interfaces, leg),
        floating_ips=floating[1:],
        routes=(rpc.HostRoute(destination="10.99.0.0/16", nexthop="10.0.1.9"),),
    )
    await host.put_router(router)
    extra = cloud.router(blue, msgspec.structs.replace(blue_subnet, gateway_ip="10.0.1.3"))
    await host.put_router(extra)
    await host.delete_router(extra.id)
    blue_subnet = msgspec.structs.replace(blue_subnet, enable_dhcp=False)
    await host.put_network(blue, (blue_subnet,))
    return rpc.HostState(
        networks=(public, red, blue),
        subnets=(public_subnet, red_subnet, blue_subnet),
        ports=tuple(ports),
        remote_ports=tuple(remotes),
        peers=peers,
        security_groups=(web, friends),
        routers=(router,),
    )


def assert_same(one: dict[str, Any], other: dict[str, Any]) -> None:
    for key in one:
        assert one[key] == other[key], key


def test_increments_land_where_a_full_sync_lands_and_where_a_fresh_host_lands() -> None:
    async def scenario(cloud: Cloud) -> None:
        host = await cloud.host()
        state = await build_by_increments(cloud, host)
        by_increments = kernel_state(host)
        synced = await host.sync(state)
        assert synced.failed == () and synced.removed == ()
        assert len(synced.wired) == 5
        assert_same(by_increments, kernel_state(host))
        await host.stop()
        again = LinuxDriver(cloud.config(1), cloud.metadata)
        cloud.hosts.append(again)
        await again.start()
        with pytest.raises(DriverError, match="call sync first"):
            await again.unplug(new_id())
        assert (await again.sync(state)).removed == ()
        assert_same(by_increments, kernel_state(again))
        await again.teardown()
        fresh = LinuxDriver(cloud.config(1), cloud.metadata)
        cloud.hosts.append(fresh)
        await fresh.start()
        await fresh.sync(state)
        assert_same(by_increments, kernel_state(fresh))
        emptied = await fresh.sync(rpc.HostState())
        assert len(emptied.removed) > 5
        assert (await fresh.snapshot()).links == ("br-ex", "eth0", "ext0")

    run_scenario(scenario)


def test_sync_repairs_what_somebody_broke() -> None:
    async def scenario(cloud: Cloud) -> None:
        host = await cloud.host()
        state = await build_by_increments(cloud, host)
        right = kernel_state(host)
        namespace = host._config.host_namespace
        tap = state.ports[0].device_name
        router = f"{namespace}-r-{state.routers[0].id}"
        for argv in (
            ("ip", "link", "del", tap),
            ("ip", "link", "add", "brffffffff-ff", "type", "bridge"),
            ("nft", "flush", "chain", "bridge", "kn", "forward"),
            ("ip", "link", "set", f"vx{state.networks[1].id[:11]}", "down"),
        ):
            assert (await away(run_in, namespace, *argv)).returncode == 0, argv
        for argv in (
            ("ip", "route", "del", "default"),
            ("ip", "addr", "add", "10.77.0.1/24", "dev", f"qg-{state.routers[0].gateway.port_id[:11]}"),  # type: ignore[union-attr]
            ("nft", "flush", "ruleset"),
        ):
            assert (await away(run_in, router, *argv)).returncode == 0, argv
        netns.create(f"{namespace}-s-{new_id()}")
        synced = await host.sync(state)
        assert "brffffffff-ff" in synced.removed and len(synced.removed) == 2
        assert_same(right, kernel_state(host))

    run_scenario(scenario)


def test_a_change_the_kernel_refuses_heals_by_loading_everything() -> None:
    async def scenario(cloud: Cloud) -> None:
        host = await cloud.host()
        network, subnet = cloud.network()
        everything = group(*allow_all())
        guest = await cloud.guest(host, network, subnet, "10.0.0.11", everything)
        await away(run_in, host._config.host_namespace, "nft", "flush", "map", "bridge", "kn", "egress")
        await host.unplug(guest.port.id)
        assert (await host.describe()).counters["rule_reloads"] == 1
        assert not any(guest.port.device_name in line for lines in rules(host._config.host_namespace).values() for line in lines)

    run_scenario(scenario)


def test_what_cannot_be_realised_is_named_and_does_not_hinder_the_rest() -> None:
    async def scenario(cloud: Cloud) -> None:
        host = await cloud.host()
        network, subnet = cloud.network()
        foreign = rpc.Network(id=new_id(), kind="flat", physical_network="nowhere")
        good, bad = group(*allow_all()), group(tcp(80), Rule(direction="ingress", protocol="nonsense"))
        fine = cloud.port(subnet, "10.0.0.11", good)
        sick = cloud.port(subnet, "10.0.0.12", bad)
        odd = cloud.port(subnet, "10.0.0.13", good, device_name="eth0; drop")
        router = cloud.router(network, subnet, foreign)
        synced = await host.sync(
            rpc.HostState(
                networks=(network, foreign), subnets=(subnet,), ports=(fine, sick, odd), security_groups=(good, bad), routers=(router,)
            )
        )
        assert synced.wired == (fine.id,)
        reasons = {getattr(fact, "port_id", None) or getattr(fact, "network_id", None) or router.id: fact.reason for fact in synced.failed}
        assert set(reasons) == {foreign.id, sick.id, odd.id, router.id}
        assert all(text.endswith(".") and "Traceback" not in text for text in reasons.values())
        with pytest.raises(DriverError, match="still used here by port"):
            await host.delete_network(network.id)
        with pytest.raises(DriverError, match="not known on this host"):
            await host.plug(cloud.port(subnet, "10.0.0.14", group()), network, (subnet,), ())

    run_scenario(scenario)


def test_commands_run_inside_by_both_ways() -> None:
    name = f"kn-t{new_id()[:8]}"
    assert netns.create(name) and not netns.create(name)
    try:
        with netns.entered(name):
            inside = os.stat("/proc/thread-self/ns/net").st_ino
        assert inside != os.stat("/proc/thread-self/ns/net").st_ino
        execute = f"from kilonova.network.drivers.linux import netns; netns.execute({name!r}, ['stat', '-Lc', '%i', '/proc/self/ns/net'])"
        for argv in ([sys.executable, "-c", execute], netns.command(name, ["stat", "-Lc", "%i", "/proc/self/ns/net"])):
            assert subprocess.run(argv, capture_output=True, text=True, check=True).stdout == f"{inside}\n"
        with pytest.raises(ValueError, match="not a usable namespace name"):
            netns.create("../escape")
    finally:
        assert netns.remove(name) and not netns.remove(name)


def test_a_full_bridge_is_one_sentence_and_leaves_no_trace() -> None:
    """The kernel's limit is 1024 ports a bridge."""

    async def scenario(cloud: Cloud) -> None:
        host = await cloud.host()
        network, subnet = cloud.network()
        await host.put_network(network, (subnet,))
        await away(_fill, host._config.host_namespace, f"br{network.id[:11]}")
        before = await host.snapshot()
        with pytest.raises(DriverError, match="already has the 1024 ports"):
            everything = group(*allow_all())
            await host.plug(cloud.port(subnet, "10.0.0.11", everything), network, (subnet,), (everything,))
        assert (await host.snapshot()).links == before.links
        assert not any("tap" in line for line in rules(host._config.host_namespace)["table bridge kn { map egress {"])

    run_scenario(scenario)


def _fill(namespace: str, bridge: str) -> None:
    """With veth pairs, both ends on the bridge, until nothing more fits."""
    with netns.entered(namespace), netns.opened(namespace) as here, rtnl.Route() as route:
        master = route.index(bridge)
        for number in range(520):
            route.do(rtnl.add_veth(f"fill{number}a", peer=f"fill{number}b", peer_namespace_fd=here, mtu=1450, up=False))
            for end in "ab":
                try:
                    route.do(rtnl.set_link(f"fill{number}{end}", master=master))
                except OSError as error:
                    assert error.errno == errno.EXFULL
                    return


def test_a_verb_runs_to_its_end_when_its_caller_is_gone() -> None:
    async def scenario(cloud: Cloud) -> None:
        host = await cloud.host()
        network, subnet = cloud.network()
        everything = group(*allow_all())
        ports = [cloud.port(subnet, f"10.0.0.{11 + number}", everything) for number in range(20)]
        plugs = [asyncio.create_task(host.plug(port, network, (subnet,), (everything,))) for port in ports]
        await asyncio.sleep(0)
        for task in plugs[::2]:
            task.cancel()
        await asyncio.gather(*plugs, return_exceptions=True)
        done = await host.sync(rpc.HostState(networks=(network,), subnets=(subnet,), ports=tuple(ports), security_groups=(everything,)))
        assert done.removed == () and len(done.wired) == 20
        assert (await host.describe()).counters["plugs"] >= 10

    run_scenario(scenario)


def test_it_works_under_uvloop() -> None:
    async def main() -> None:
        async with running_cloud() as cloud:
            host = await cloud.host()
            network, subnet = cloud.network()
            everything = group(*allow_all())
            guest = await cloud.guest(host, network, subnet, "10.0.0.11", everything)
            done = await away(guest.run, "busybox", "udhcpc", "-f", "-n", "-q", "-i", "eth0", "-s", "/bin/true")
            assert "lease of 10.0.0.11" in done.stderr
            await away(guest.run, "ip", "route", "add", "169.254.169.254", "via", "10.0.0.2")
            done = await away(guest.run, "busybox", "wget", "-q", "-O", "-", "http://169.254.169.254/")
            assert done.stdout == "GET / from 10.0.0.11"
            await host.delete_router(new_id())
            await host.unplug(guest.port.id)
            assert await host.delete_network(network.id)

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main())


@pytest.mark.guest
def test_qemu_opens_the_tap_by_name_and_its_firmware_gets_a_lease() -> None:
    """No disk: the network boot ROM of QEMU's virtio card asks for an address."""

    async def scenario(cloud: Cloud) -> None:
        host = await cloud.host()
        network, subnet = cloud.network()
        everything = group(*allow_all())
        port = cloud.port(subnet, "10.0.0.11", everything)
        await host.plug(port, network, (subnet,), (everything,))
        namespace = host._config.host_namespace
        card = f"virtio-net-pci,netdev=n,mac={port.mac}"
        tap = f"tap,id=n,ifname={port.device_name},script=no,downscript=no,vhost=off"
        argv = ["qemu-system-x86_64", "-accel", "tcg", "-m", "64", "-display", "none", "-vga", "none"]
        argv += ["-boot", "order=n,reboot-timeout=1000"]
        qemu = await asyncio.create_subprocess_exec(*netns.command(namespace, [*argv, "-netdev", tap, "-device", card]))
        try:
            # It answers pings only until it finds that there is nothing to boot; then it starts again.
            for _ in range(300):
                answers = (await host.describe()).counters["dhcp_answers"]
                if answers >= 2 and await away(pings, f"{namespace}-s-{network.id}", "10.0.0.11"):
                    break
                assert qemu.returncode is None
                await asyncio.sleep(0.2)
            else:
                raise AssertionError(f"no ping; {answers} answers of DHCP")
            before = (await host.snapshot()).links
            await host.sync(rpc.HostState(networks=(network,), subnets=(subnet,), ports=(port,), security_groups=(everything,)))
            assert (await host.snapshot()).links == before, "a running guest's tap is left alone"
        finally:
            qemu.kill()
            await qemu.wait()
        assert port.device_name in (await host.snapshot()).links, "and stays when the guest ends"

    run_scenario(scenario)


def test_teardown_leaves_nothing_and_the_machine_is_untouched() -> None:
    before = machine_state()
    tables = run_tables()

    async def main() -> None:
        async with running_cloud() as cloud, running_cloud() as other:
            host, stays = await cloud.host(), await other.host()
            await build_by_increments(cloud, host)
            await build_by_increments(other, stays)
            assert machine_state() == before and run_tables() == tables
            rest = kernel_state(stays)
            await host.teardown()
            await host.teardown()
            assert await host.snapshot() == rpc.Snapshot()
            assert netns.names(f"{cloud.name}-h") == [] and netns.names(f"{cloud.name}-net") == []
            assert_same(rest, kernel_state(stays))

    asyncio.run(main())
    assert machine_state() == before and run_tables() == tables


def run_tables() -> str:
    from kilonova.network.drivers.linux.nft import Nft

    with Nft() as nft:
        return nft.run("list ruleset")
