"""Wire formats: DHCP, metadata's HTTP, router advertisements, nf_tables and netlink messages. No root."""

import ipaddress
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kilonova.network import rpc
from kilonova.network.drivers.linux import conntrack, dhcp, metadata, names, netlink, nft, ra, rtnl, services
from kilonova.network.drivers.linux.security_groups import EGRESS, INGRESS, SPOOF4, SPOOF_NET4, ZONES

MAC = "fa:16:3e:01:02:03"
addresses = st.ip_addresses(v=4).map(str)
macs = st.binary(min_size=6, max_size=6).map(rtnl.mac_text)
packets = st.builds(
    dhcp.Packet,
    op=st.sampled_from((1, 2)),
    xid=st.integers(0, 2**32 - 1),
    seconds=st.integers(0, 65535),
    flags=st.sampled_from((0, 0x8000)),
    client_ip=addresses,
    your_ip=addresses,
    next_server_ip=addresses,
    relay_ip=addresses,
    mac=macs,
    options=st.dictionaries(st.integers(1, 254), st.binary(min_size=1, max_size=600), max_size=6),
)


@given(packets)
def test_dhcp_packets_survive_encoding(packet: dhcp.Packet) -> None:
    assert dhcp.decode(dhcp.encode(packet)) == packet
    assert len(dhcp.encode(packet)) >= 300


@given(st.binary(max_size=400) | st.binary(max_size=80).map(lambda rest: bytes((1, 1, 6, 0)) + bytes(232) + b"\x63\x82\x53\x63" + rest))
def test_dhcp_decoding_of_anything_raises_only_value_error(data: bytes) -> None:
    try:
        packet = dhcp.decode(data)
    except ValueError:
        return
    assert dhcp.reply(packet, {}) is None


@given(st.lists(st.tuples(st.ip_addresses(v=4), st.integers(0, 32), addresses), max_size=8))
def test_classless_routes_survive_encoding(routes: list[tuple[ipaddress.IPv4Address, int, str]]) -> None:
    wanted = [(str(ipaddress.ip_network(f"{address}/{prefix}", strict=False)), via) for address, prefix, via in routes]
    assert dhcp.decode_routes(dhcp.encode_routes(wanted)) == wanted


def test_classless_routes_are_written_as_in_rfc_3442() -> None:
    assert dhcp.encode_routes([("10.17.0.0/16", "10.0.0.1"), ("0.0.0.0/0", "10.0.0.2")]) == bytes.fromhex("10 0a11 0a000001 00 0a000002")


def lease(**more: object) -> dhcp.Lease:
    network = rpc.Network(id="n", mtu=1450, dns_domain="example.org.")
    subnet = rpc.Subnet(
        id="s", network_id="n", cidr="10.0.0.0/24", gateway_ip="10.0.0.1", dhcp_ip="10.0.0.2", dns_nameservers=("192.0.2.53",)
    )
    fields: dict[str, object] = {"hostname": "web-1", "fixed_ips": (rpc.FixedIp(subnet_id="s", ip="10.0.0.9"),), **more}
    port = rpc.Port(id="p", network_id="n", device_name="tap1", mac=MAC, **fields)  # type: ignore[arg-type]
    made = services.lease(port, network, (subnet,))
    assert made is not None
    return made


def ask(kind: int, **more: object) -> dhcp.Packet:
    options: dict[int, bytes] = {dhcp.MESSAGE_TYPE: bytes((kind,)), **more.pop("options", {})}  # type: ignore[dict-item]
    return dhcp.Packet(op=1, xid=7, mac=MAC, options=options, **more)  # type: ignore[arg-type]


def test_dhcp_policy() -> None:
    leases = {MAC: lease()}
    requested = {dhcp.REQUESTED_IP: ipaddress.IPv4Address("10.0.0.9").packed}
    offer = dhcp.reply(ask(dhcp.DISCOVER), leases)
    assert offer is not None and (offer.message_type, offer.your_ip, offer.xid) == (dhcp.OFFER, "10.0.0.9", 7)
    assert offer.options[dhcp.DOMAIN] == b"example.org" and offer.options[dhcp.HOSTNAME] == b"web-1"
    ack = dhcp.reply(ask(dhcp.REQUEST, options=requested), leases)
    assert ack is not None and ack.message_type == dhcp.ACK and struct.unpack(">I", ack.options[dhcp.LEASE_TIME])[0] == 86400
    renewal = dhcp.reply(ask(dhcp.REQUEST, client_ip="10.0.0.9"), leases)
    assert renewal is not None and renewal.message_type == dhcp.ACK
    foreign = dhcp.reply(ask(dhcp.REQUEST, options={dhcp.REQUESTED_IP: bytes(4)}), leases)
    assert foreign is not None and (foreign.message_type, foreign.your_ip, foreign.flags) == (dhcp.NAK, "0.0.0.0", 0x8000)
    inform = dhcp.reply(ask(dhcp.INFORM, client_ip="10.0.0.9"), leases)
    assert inform is not None and inform.your_ip == "0.0.0.0" and dhcp.LEASE_TIME not in inform.options
    assert dhcp.reply(ask(dhcp.RELEASE), leases) is None
    assert dhcp.reply(ask(dhcp.DISCOVER, relay_ip="10.9.9.9"), leases) is None
    assert dhcp.reply(ask(dhcp.REQUEST, options={**requested, dhcp.SERVER_ID: bytes(4)}), leases) is None
    assert dhcp.reply(ask(dhcp.DISCOVER), {}) is None


def test_extra_dhcp_options_are_bytes_and_cannot_smuggle_others() -> None:
    """CVE-2021-40085: a newline in a value stays in that value."""
    made = lease(
        dhcp_options=(
            rpc.DhcpOption(name="bootfile-name", value="pxe\n3,10.0.0.66"),
            rpc.DhcpOption(name="server-ip-address", value="192.0.2.9"),
            rpc.DhcpOption(name="ntp-server", value="192.0.2.1, 192.0.2.2"),
            rpc.DhcpOption(name="domain-search", value="a.example,b.example"),
            rpc.DhcpOption(name="42", value="x", ip_version=6),
        )
    )
    assert made.options[67] == b"pxe\n3,10.0.0.66" and made.options[dhcp.ROUTER] == bytes((10, 0, 0, 1))
    assert made.next_server_ip == "192.0.2.9" and made.options[42] == bytes((192, 0, 2, 1, 192, 0, 2, 2))
    assert made.options[119] == b"\x01a\x07example\0\x01b\x07example\0"
    for name, value in (
        ("no-such-option", "x"),
        ("ntp-server", "not-an-address"),
        ("mtu", "many"),
        ("mtu", "70000"),
        ("domain-search", "a..b"),
        ("999", "x"),
    ):
        with pytest.raises(ValueError):
            dhcp.encode_option(name, value)


def test_dhcp_frame_has_right_checksums_and_receiver() -> None:
    answer = dhcp.reply(ask(dhcp.DISCOVER), {MAC: lease()})
    assert answer is not None
    frame = dhcp.frame("fa:16:3e:00:00:02", "10.0.0.2", answer)
    assert (frame[:6], frame[6:12], frame[12:14]) == (rtnl.mac_bytes(MAC), rtnl.mac_bytes("fa:16:3e:00:00:02"), b"\x08\x00")
    header, datagram = frame[14:34], frame[34:]

    def folded(data: bytes) -> int:
        total = sum(struct.unpack(f">{(len(data) + 1) // 2}H", data + b"\0" * (len(data) % 2)))
        return total % 0xFFFF

    assert folded(header) == 0
    assert folded(header[12:20] + struct.pack(">HH", 17, len(datagram)) + datagram) == 0
    assert dhcp.decode(datagram[8:]) == answer


def test_metadata_request_heads() -> None:
    head = metadata.parse_head(b"POST /openstack/latest/password HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nX-Instance-ID: forged\r\n\r\n")
    assert (head.method, head.path, head.body_bytes, head.keep_alive) == ("POST", "/openstack/latest/password", 5, True)
    assert ("x-instance-id", "forged") in head.headers
    assert not metadata.parse_head(b"GET / HTTP/1.0\r\n\r\n").keep_alive
    assert not metadata.parse_head(b"GET / HTTP/1.1\r\nConnection: Close\r\n\r\n").keep_alive


@pytest.mark.parametrize(
    ("text", "status"),
    [
        ("GET http://x/ HTTP/1.1", 400),
        ("GET /", 400),
        ("GET / HTTP/2.0", 505),
        ("BREW / HTTP/1.1", 501),
        ("GET / HTTP/1.1\r\nTransfer-Encoding: chunked", 501),
        ("GET / HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2", 400),
        ("GET / HTTP/1.1\r\nContent-Length: -1", 400),
        ("GET / HTTP/1.1\r\nContent-Length: 70000", 413),
        ("GET / HTTP/1.1\r\nBad Header", 400),
        ("GET / HTTP/1.1\r\nA : b", 400),
        ("GET / HTTP/1.1\r\nA: b\x00c", 400),
    ],
)
def test_bad_metadata_requests(text: str, status: int) -> None:
    with pytest.raises(metadata.Refused) as caught:
        metadata.parse_head(text.encode() + b"\r\n\r\n")
    assert caught.value.status == status


def test_metadata_replies_carry_no_smuggled_headers() -> None:
    reply = rpc.MetadataReply(status=200, headers=(("Content-Type", "text/plain"), ("X", "a\r\nY: b"), ("Content-Length", "9")), body=b"hi")
    data = metadata.encode_reply(reply, keep_alive=True, without_body=False)
    assert data == b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 2\r\nConnection: keep-alive\r\n\r\nhi"
    assert metadata.encode_reply(reply, keep_alive=False, without_body=True).endswith(b"close\r\n\r\n")


def test_router_advertisement_bytes() -> None:
    data = ra.encode(ra.Advertisement(prefixes=("fd00::/64",), mtu=1450, mac=MAC, other=True))
    assert data[:8] == bytes((134, 0, 0, 0, 64, 0x40, 0x07, 0x08))
    assert data[16:24] == b"\x01\x01" + rtnl.mac_bytes(MAC)
    assert data[24:32] == bytes((5, 1, 0, 0)) + struct.pack(">I", 1450)
    assert data[32:36] == bytes((3, 4, 64, 0xC0)) and data[48:64] == ipaddress.IPv6Address("fd00::").packed


@given(st.lists(st.tuples(st.integers(1, 100), st.binary(max_size=40)), max_size=6, unique_by=lambda pair: pair[0]))
def test_netlink_attributes_survive_encoding(pairs: list[tuple[int, bytes]]) -> None:
    data = b"".join(netlink.attribute(kind, payload) for kind, payload in pairs)
    assert len(data) % 4 == 0
    assert netlink.attributes(data) == dict(pairs)


@given(st.binary(max_size=200))
def test_reading_attributes_from_anything_ends(data: bytes) -> None:
    netlink.attributes(data)


def test_batch_of_elements_in_bytes() -> None:
    """One removal and one addition between begin and end, keys as the kernel's registers hold them."""
    removed = nft.Element(EGRESS, ("tapA",), "goto x")
    added = nft.Element(SPOOF4, ("tapA", MAC, "10.0.0.9"))
    data, about = nft.encode_batch(10, [removed], [added])
    kinds, at = [], 0
    while at < len(data):
        length, kind, flags, sequence, _ = netlink.HEADER.unpack_from(data, at)
        kinds.append((kind, sequence, bool(flags & netlink.NLM_F_ACK)))
        at += length
    assert kinds == [(0x10, 10, False), (0x0A0E, 11, False), (0x0A0C, 12, True), (0x11, 13, False)]
    assert about == {11: 'delete egress "tapA" : goto x', 12: f'add spoof4 "tapA" . {MAC} . 10.0.0.9'}
    key = b"tapA".ljust(16, b"\0") + rtnl.mac_bytes(MAC) + b"\0\0" + bytes((10, 0, 0, 9))
    assert key in data
    verdict, _ = nft.encode_batch(1, [], [nft.Element(INGRESS, ("tapA",), "goto chain_1")])
    assert struct.pack(">i", -4) in verdict and b"chain_1\0" in verdict


def test_which_elements_can_go_hot() -> None:
    assert nft.Element(EGRESS, ("tapA",), "accept").hot() and nft.Element(SPOOF4, ("tapA", MAC, "10.0.0.1")).hot()
    assert not nft.Element(ZONES, ("br1",), "7").hot() and not nft.Element(SPOOF_NET4, ("tapA", MAC, "10.0.0.0/24")).hot()
    assert SPOOF_NET4.definition() == "add set bridge kn spoof_net4 { type ifname . ether_addr . ipv4_addr; flags interval; }"
    assert EGRESS.definition() == "add map bridge kn egress { type ifname : verdict; }"


def test_connection_entry_from_bytes() -> None:
    def pair(source: str, destination: str, ports: tuple[int, int]) -> bytes:
        ip = netlink.nested(1, netlink.attribute(1, rtnl.ip_bytes(source)), netlink.attribute(2, rtnl.ip_bytes(destination)))
        proto = netlink.nested(2, netlink.u8(1, 6), netlink.u16be(2, ports[0]), netlink.u16be(3, ports[1]))
        return ip + proto

    body = bytes((2, 0, 0, 0))
    body += netlink.nested(1, pair("10.0.0.1", "203.0.113.5", (5000, 80))) + netlink.nested(2, pair("10.0.0.2", "10.0.0.1", (80, 5000)))
    body += netlink.attribute(8, struct.pack(">I", 1)) + netlink.u16be(18, 77)
    entry = conntrack.parse(body)
    assert entry is not None
    assert (entry.source, entry.destination, entry.destination_port, entry.reply_destination) == ("10.0.0.1", "203.0.113.5", 80, "10.0.0.1")
    assert (entry.zone, entry.mark, entry.protocol) == (77, 1, 6)
    assert conntrack.parse(bytes((2, 0, 0, 0))) is None


def test_names_are_exact_and_short() -> None:
    uuid = "0d9f6f6e-1111-4222-8333-444455556666"
    for name in (names.bridge(uuid), names.vxlan(uuid), names.service_link(uuid), names.interface_leg(uuid), names.gateway_link(uuid)):
        assert len(name) <= 15
    assert names.owned("kn-a-h1", names.router_namespace("kn-a-h1", uuid)) and names.owned("kn-a-h1", "kn-a-h1")
    assert not names.owned("kn-a-h1", "kn-a-h1-r-other") and not names.owned("kn-a-h1", "kn-a-h10")
    assert not names.owned("kn-a", f"kn-a-b-s-{uuid}") and not names.is_tap("tap1; drop") and names.is_tap("tap0d9f6f6e-11")
