"""A server's interfaces: what compute asks for through the contract. Every verb may be repeated."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

import msgspec

from kilonova.core.context import Context
from kilonova.core.db import Reader
from kilonova.network import contract, model
from kilonova.network.contract import LAST_TURN, Allocate, InterfacesReleased, Nic, NicRequest
from kilonova.network.domain import auto_topology, ipam, ports, security_groups
from kilonova.network.domain.topology import Topology, device_name
from kilonova.network.domain.work import Work
from kilonova.network.errors import (
    AutoAllocationFailure,
    AutoNetworkImpossible,
    ExternalNetworkForbidden,
    NetworkAmbiguous,
    NetworkRequiresSubnet,
    NicFixedIpInUse,
    NicFixedIpInvalid,
    NicGroupAmbiguous,
    NicGroupCannotBeApplied,
    NicGroupNotFound,
    NicNetworkNotFound,
    NicPortInUse,
    NicPortNeedsIp,
    NicPortNotFound,
    PortLimitExceeded,
    SinglePortForMany,
)
from kilonova.network.model import Network, Port, SecurityGroup
from kilonova.network.store import addresses, fences, quotas, rows

S = TypeVar("S", bound=msgspec.Struct)

_NONE: Mapping[str, Network] = {}


def may_use(network: Network, project_id: str, *, elevated: bool) -> bool:
    return elevated or network.project_id == project_id or network.shared or network.external


async def of(reader: Reader, *server_ids: str) -> list[Port]:
    """The interfaces of servers. device_id is whatever a port's owner says: an interface is what compute has put on a host, which only it
    (or an admin) can."""
    found = await rows.ports.where(reader, order=("nic_index", "created_at"), device_id=server_ids)
    return [port for port in found if port.is_guest and port.host]


# ---- what a request means


async def default_networks(reader: Reader, project_id: str) -> list[Network]:
    """Networks that a server of this project may be put on without naming one: its own and the shared ones, if they have subnets.
    An external network is only used when it is named."""
    own = await rows.networks.where(reader, project_id=project_id)
    shared = [n for n in await rows.networks.where(reader, shared=True) if n.project_id != project_id]
    found = [n for n in [*own, *shared] if n.admin_state_up and not n.external]
    with_subnets = {s.network_id for s in await rows.subnets.where(reader, network_id=tuple(n.id for n in found[:200]))}
    return [n for n in found if n.id in with_subnets]


async def group_ids(
    reader: Reader, project_id: str, names: Sequence[str], where: Callable[..., Awaitable[list[SecurityGroup]]] = rows.security_groups.where
) -> tuple[str, ...]:
    """Ids of security groups given by name or id. "default" may not exist yet and is left out. where: how they are read."""
    out: list[str] = []
    for name in dict.fromkeys(names):
        found = await where(reader, project_id=project_id, name=name)
        if not found:
            found = [group for group in await where(reader, id=name) if group.project_id == project_id or group.shared]
        if not found and name != "default":
            raise NicGroupNotFound(id=name)
        if len(found) > 1:
            raise NicGroupAmbiguous(name=name)
        out += [group.id for group in found]
    return tuple(out)


async def validate(
    reader: Reader,
    ctx: Context,
    networks: Sequence[NicRequest],
    auto: str,
    groups: Sequence[str],
    count: int,
    port_quota: int,
    topology: Topology | None = None,
) -> None:
    """topology: for what has not changed since this process heard of it, where asking for that is cheaper than reading it all."""
    project_id, elevated = ctx.project_id or "", ctx.is_admin
    if auto == "none":
        return
    heard = await _heard(reader, topology, networks, project_id) if topology is not None else None
    new_ports = 0
    if not networks:
        found = await default_networks(reader, project_id)
        if len(found) > 1:
            raise NetworkAmbiguous
        if not found and auto == "auto":
            try:
                await auto_topology.requirements(reader)
            except AutoAllocationFailure:
                raise AutoNetworkImpossible(project=project_id) from None
        new_ports = 1 if found or auto == "auto" else 0
    for request in networks:
        if count > 1 and (request.port_id or request.fixed_ip):
            raise SinglePortForMany
        if request.port_id:
            await _check_port(reader, request.port_id, project_id, elevated=elevated)
        else:
            network, subnets = heard[:2] if heard is not None else await _with_subnets(reader, request.network_id or "")
            await _check_network(reader, request, project_id, network, subnets, elevated=elevated)
            new_ports += 1
    await group_ids(reader, project_id, groups)
    used, own = heard[2:] if heard is not None else (await quotas.of(reader, project_id)).get("port", (0, None))
    limit = port_quota if own is None else own
    if new_ports and 0 <= limit < used + new_ports * count:
        raise PortLimitExceeded


class _Heard(NamedTuple):
    network: Network
    subnets: list[model.Subnet]
    ports: int
    port_limit: int | None


async def _heard(reader: Reader, topology: Topology, networks: Sequence[NicRequest], project_id: str) -> _Heard | None:
    """The one network that is asked for, if it is as this process has heard of it, and the ports that the project has: by one statement."""
    asked = networks[0].network_id if len(networks) == 1 and not networks[0].port_id else None
    known = topology.networks.get(asked or "")
    if known is None:
        return None
    revision, used, own = await quotas.beside_network(reader, project_id, "port", known.id)
    subnets = list(topology.subnets.get(known.id, {}).values())
    return _Heard(known, subnets, used or 0, own) if known.revision == revision else None


async def _check_port(reader: Reader, port_id: str, project_id: str, *, elevated: bool, server_id: str = "") -> Port:
    port = await rows.ports.get(reader, port_id)
    if port is None or (port.project_id != project_id and not elevated):
        raise NicPortNotFound(id=port_id)
    if port.device_id and port.device_id != server_id:
        raise NicPortInUse(id=port_id)
    if not port.fixed_ips and await rows.subnets.where(reader, network_id=port.network_id):
        raise NicPortNeedsIp(id=port_id)
    return port


async def _with_subnets(reader: Reader, network_id: str) -> tuple[Network | None, list[model.Subnet]]:
    network = await rows.networks.get(reader, network_id)
    return network, await rows.subnets.where(reader, network_id=network_id) if network is not None else []


async def _check_network(
    reader: Reader, request: NicRequest, project_id: str, network: Network | None, subnets: Sequence[model.Subnet], *, elevated: bool
) -> None:
    if network is None or not may_use(network, project_id, elevated=elevated):
        raise NicNetworkNotFound(id=request.network_id)
    if network.external and not network.shared and not elevated:
        raise ExternalNetworkForbidden(id=network.id)
    if not subnets:
        raise NetworkRequiresSubnet(id=network.id)
    if request.fixed_ip:
        if not _is_ip(request.fixed_ip) or not any(ipam.may_have(ipam.cidr_of(s.cidr), request.fixed_ip) for s in subnets):
            raise NicFixedIpInvalid(ip=request.fixed_ip[:64], network=network.id)
        port_id = await addresses.port_at(reader, network.id, ipam.key_of(request.fixed_ip))
        if port_id is not None:
            holder = await rows.ports.get(reader, port_id)
            raise NicFixedIpInUse(ip=request.fixed_ip, server=holder.device_id if holder else "")


def _is_ip(text: str) -> bool:
    try:
        ipam.number(text)
    except ValueError:
        return False
    return "%" not in text


# ---- allocate and release


async def allocate(w: Work, request: Allocate, *, more: bool = False) -> list[Port]:
    """Bind the server's ports to the host, making those that are missing. With `more`, the request adds to the ports there are."""
    if request.auto == "none":
        return []
    await _take_turn(w, request)
    have = [] if request.first else await of(w.tx, request.server_id)
    wanted = request.networks
    if not wanted:
        if have:
            return [await bind(w, port, request.host) for port in have]
        found = await default_networks(w.tx, request.project_id)
        if len(found) > 1:
            raise NetworkAmbiguous
        network_id = found[0].id if found else await auto_topology.ensure(w, request.project_id) if request.auto == "auto" else None
        if network_id is None:
            return []
        wanted = (NicRequest(network_id=network_id),)
    groups = await group_ids(w.tx, request.project_id, request.security_groups, _look(w, rows.security_groups))
    if w.tx.shares and not w.joins:
        w.shared.update(dict.fromkeys(groups))
    if "default" in request.security_groups and len(groups) < len(dict.fromkeys(request.security_groups)):
        groups = (*groups, (await security_groups.default(w, request.project_id)).id)
    first = max((port.nic_index for port in have), default=-1) + 1 if more else 0
    made: list[Port] = []
    for index, nic in enumerate(wanted, first):
        if nic.port_id:
            made.append(await _adopt(w, request, nic, nic.port_id, index))
            continue
        same = None if more else next((port for port in have if port.nic_index == index and port.allocated), None)
        made.append(await bind(w, same, request.host) if same is not None else await _make(w, request, nic, groups, index))
    return made


async def _take_turn(w: Work, request: Allocate) -> None:
    if request.turn:
        fresh = await fences.take(w.tx, request.server_id, request.turn, new=request.first and not w.attempt)
    else:
        fresh = await fences.released(w.tx, request.server_id) < LAST_TURN
    if not fresh:
        raise InterfacesReleased(server=request.server_id)


async def _adopt(w: Work, request: Allocate, nic: NicRequest, port_id: str, index: int) -> Port:
    """The user's own port, on this server."""
    port = await _check_port(w.tx, port_id, request.project_id, elevated=w.elevated, server_id=request.server_id)
    if port.device_id == request.server_id:
        return await bind(w, port, request.host)
    new = msgspec.structs.replace(
        port, device_id=request.server_id, device_owner=f"compute:{request.availability_zone}", host=request.host,
        vif_type=await ports.vif_type(w, request.host), status="DOWN", wiring_error="", nic_index=index, nic_tag=nic.tag,
        hostname=request.hostname, updated_at=w.now, revision=port.revision + 1,
    )  # fmt: skip
    await ports.save(w, port, new)
    return new


def _look(w: Work, table: rows.Rows[S]) -> Callable[..., Awaitable[list[S]]]:
    """How to read rows that a new port will refer to."""
    return table.where_shared if w.tx.shares and not w.joins else table.where


async def _network(w: Work, network_id: str) -> tuple[Network | None, list[model.Subnet]]:
    """With its subnets. Where that comes to light at the commit, as this process has heard of it last."""
    if w.joins:
        known = w.topology.networks.get(network_id)
        w.guessed = w.guessed or known is not None
        if known is not None:
            subnets = sorted(w.topology.subnets.get(network_id, {}).values(), key=lambda subnet: (subnet.created_at, subnet.id))
        else:
            known, subnets = await _with_subnets(w.tx, network_id)
        if known is not None:
            w.as_read[network_id] = known.revision
        return known, subnets
    network = next(iter(await _look(w, rows.networks)(w.tx, id=network_id)), None)
    subnets = await _look(w, rows.subnets)(w.tx, network_id=network_id) if network is not None else []
    if w.tx.shares:
        w.shared.update(dict.fromkeys((network_id, *(subnet.id for subnet in subnets))))
    return network, subnets


async def _make(w: Work, request: Allocate, nic: NicRequest, groups: tuple[str, ...], index: int) -> Port:
    network, subnets = await _network(w, nic.network_id or "")
    if network is None or not may_use(network, request.project_id, elevated=w.elevated):
        raise NicNetworkNotFound(id=nic.network_id)
    w.networks[network.id] = network
    if not subnets:
        raise NetworkRequiresSubnet(id=network.id)
    if groups and not network.port_security_enabled:
        raise NicGroupCannotBeApplied
    values: dict[str, Any] = {
        "project_id": request.project_id,
        "device_id": request.server_id,
        "device_owner": f"compute:{request.availability_zone}",
        "binding:host_id": request.host,
        "hostname": request.hostname,
        "allocated": True,
        "nic_index": index,
        "nic_tag": nic.tag,
    }
    if groups:
        values["security_groups"] = groups
    if nic.fixed_ip:
        values["fixed_ips"] = [{"ip_address": nic.fixed_ip}]
    return await ports.create(w, network, subnets, values)


async def bind(w: Work, port: Port, host: str) -> Port:
    """The port on this host. Nothing changes when it is there already."""
    if port.host == host and not port.wiring_error:
        return port
    new = msgspec.structs.replace(
        port,
        host=host,
        vif_type=await ports.vif_type(w, host),
        status="DOWN",
        wiring_error="",
        updated_at=w.now,
        revision=port.revision + 1,
    )
    await ports.save(w, port, new)
    return new


async def release_all(w: Work, server_id: str, up_to: int | None) -> int:
    """Unless they are of a later turn."""
    if up_to is None:
        await fences.ended(w.tx, server_id, w.now)
    elif not await fences.release(w.tx, server_id, up_to, w.now):
        return 0
    return await release(w, server_id)


async def release(w: Work, server_id: str, *, only: str | None = None) -> int:
    """Delete the ports made for the server, free the user's own. `only`: this port alone. Returns how many there were."""
    found = [port for port in await of(w.tx, server_id) if only is None or port.id == only]
    for port in found:
        if port.allocated:
            await ports.remove(w, port)
        else:
            freed = msgspec.structs.replace(
                port, device_id="", device_owner="", host="", vif_type=ports.UNBOUND, status="DOWN", wiring_error="", nic_index=0,
                nic_tag=None, hostname="", updated_at=w.now, revision=port.revision + 1,
            )  # fmt: skip
            await ports.save(w, port, freed)
    return len(found)


# ---- what a server has


async def nics(
    reader: Reader, found: Sequence[Port], *, new: bool = False, known: Mapping[str, Network] = _NONE
) -> dict[str, tuple[Nic, ...]]:
    """Interfaces by server. `new`: the ports were made just now and have no floating IPs. `known`: networks that were read already."""
    networks: dict[str, Network] = {}
    for network_id in dict.fromkeys(port.network_id for port in found):
        network = known.get(network_id) or await rows.networks.get(reader, network_id)
        if network is not None:
            networks[network_id] = network
    floating: dict[str, list[contract.FloatingIp]] = {}
    ids = tuple(port.id for port in found if not (new and port.allocated))
    for at in range(0, len(ids), 500):
        for fip in await rows.floating_ips.where(reader, port_id=ids[at : at + 500]):
            if fip.port_id and fip.fixed_ip_address:
                floating.setdefault(fip.port_id, []).append(
                    contract.FloatingIp(floating_ip=fip.floating_ip_address, fixed_ip=fip.fixed_ip_address)
                )
    out: dict[str, list[Nic]] = {}
    for port in found:
        if port.network_id in networks:
            out.setdefault(port.device_id, []).append(nic(port, networks[port.network_id], tuple(floating.get(port.id, ()))))
    return {server_id: tuple(items) for server_id, items in out.items()}


def nic(port: Port, network: Network, floating: tuple[contract.FloatingIp, ...]) -> Nic:
    return Nic(
        port_id=port.id,
        network_id=network.id,
        network_name=network.name,
        mac=port.mac_address,
        device_name=device_name(port.id),
        mtu=network.mtu,
        fixed_ips=tuple(
            contract.FixedIp(ip=f.ip_address, subnet_id=f.subnet_id, version=ipam.version_of(f.ip_address)) for f in port.fixed_ips
        ),
        floating_ips=floating,
        security_groups=port.security_groups,
        preserve=not port.allocated,
        tag=port.nic_tag,
        status=port.status,
    )


async def at_address(reader: Reader, ip: str, network_id: str | None, router_id: str | None) -> Port | None:
    """The guest's port that has an address on a network, or on one of a router's networks."""
    if not _is_ip(ip):
        return None
    key = ipam.key_of(ip)
    network_ids = [network_id] if network_id is not None else []
    if router_id is not None:
        interfaces = await rows.ports.where(reader, device_id=router_id, device_owner=model.ROUTER_INTERFACE)
        network_ids = list(dict.fromkeys(port.network_id for port in interfaces))
    for found_id in network_ids:
        port_id = await addresses.port_at(reader, found_id, key)
        port = await rows.ports.get(reader, port_id) if port_id is not None else None
        if port is not None and port.is_guest and port.device_id:
            return port
    return None


async def network_data(reader: Reader, server_id: str) -> dict[str, Any]:
    """network_data.json: first IPv4 and first IPv6 address of each interface. What DHCP tells is left to DHCP."""
    links: list[dict[str, Any]] = []
    networks: list[dict[str, Any]] = []
    services: list[dict[str, str]] = []
    for port in await of(reader, server_id):
        network = await rows.networks.get(reader, port.network_id)
        subnets = {subnet.id: subnet for subnet in await rows.subnets.where(reader, network_id=port.network_id)}
        link = device_name(port.id)
        served = any(subnets[f.subnet_id].enable_dhcp for f in port.fixed_ips if f.subnet_id in subnets)
        links.append(
            {
                "id": link,
                "vif_id": port.id,
                "type": "bridge",
                "mtu": None if served or network is None else network.mtu,
                "ethernet_mac_address": port.mac_address,
            }
        )
        for version in (4, 6):
            fixed = next((f for f in port.fixed_ips if ipam.version_of(f.ip_address) == version and f.subnet_id in subnets), None)
            if fixed is not None:
                networks.append(_network_entry(len(networks), link, port, fixed, subnets[fixed.subnet_id]))
                for server in subnets[fixed.subnet_id].dns_nameservers:
                    if {"type": "dns", "address": server} not in services:
                        services.append({"type": "dns", "address": server})
    return {"links": links, "networks": networks, "services": services} if links else {}


def _network_entry(index: int, link: str, port: Port, fixed: model.FixedIp, subnet: model.Subnet) -> dict[str, Any]:
    entry: dict[str, Any] = {"id": f"network{index}", "type": f"ipv{subnet.ip_version}", "link": link, "network_id": port.network_id}
    if subnet.ip_version == 6 and subnet.ipv6_address_mode:
        entry["type"] = f"ipv6_{subnet.ipv6_address_mode}"
    elif subnet.enable_dhcp:
        entry["type"] += "_dhcp"
    if entry["type"] not in ("ipv4", "ipv6"):
        return entry
    routes = [(route.destination, route.nexthop) for route in subnet.host_routes]
    if subnet.gateway_ip:
        routes.append(("0.0.0.0/0" if subnet.ip_version == 4 else "::/0", subnet.gateway_ip))
    return {
        **entry,
        "ip_address": fixed.ip_address,
        "netmask": _mask(subnet.cidr),
        "routes": [{"network": str(ipam.cidr_of(to).network_address), "netmask": _mask(to), "gateway": gateway} for to, gateway in routes],
        "services": [{"type": "dns", "address": server} for server in subnet.dns_nameservers],
    }


def _mask(cidr: str) -> str:
    found = ipam.cidr_of(cidr)
    return str(found.netmask)


async def groups_of(reader: Reader, server_id: str) -> list[SecurityGroup]:
    ids = dict.fromkeys(group_id for port in await of(reader, server_id) for group_id in port.security_groups)
    return await rows.security_groups.where(reader, order=("name",), id=tuple(ids))
