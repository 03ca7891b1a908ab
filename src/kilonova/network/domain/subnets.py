"""Subnets, and the pools that their prefixes may come from."""

from typing import Any

import msgspec
from msgspec import UNSET

from kilonova.network import model
from kilonova.network.domain import addresses, dhcp, ipam, networks, ports, quotas, subnet_pools
from kilonova.network.domain.work import Work
from kilonova.network.errors import (
    BadResource,
    IllegalSubnetPoolPrefixUpdate,
    Invalid,
    InvalidInput,
    PrefixLength,
    SubnetAllocationError,
    SubnetInUse,
    SubnetPoolDeleteError,
    SubnetPoolNotFound,
)
from kilonova.network.model import Network, Pool, Subnet, SubnetPool
from kilonova.network.store import addresses as address_store
from kilonova.network.store import rows


async def create(w: Work, network: Network, values: dict[str, Any]) -> Subnet:
    """values: attributes by their API names, decoded."""
    quotas.take(w, values["project_id"], "subnet")
    pool_id = await _pool_id(w, values)
    version = _version(values)
    cidr_text = await _from_pool(w, pool_id, values, version) if pool_id else values.get("cidr")
    if not isinstance(cidr_text, str):
        raise BadResource("a subnetpool must be specified in the absence of a cidr", resource="subnets")
    cidr = ipam.cidr_of(cidr_text)
    if version is not None and cidr.version != version:
        raise InvalidInput(f"ip_version '{version}' does not match the ip_version '{cidr.version}' of cidr '{cidr}'")
    if cidr.is_multicast or cidr.prefixlen == 0:
        raise InvalidInput(f"{cidr} is not a usable subnet prefix")
    siblings = await rows.subnets.where(w.tx, network_id=network.id)
    for other in siblings:
        if ipam.overlap(other.cidr, str(cidr)):
            raise InvalidInput(f"Requested subnet with cidr: {cidr} for network: {network.id} overlaps with another subnet")
    _check_modes(values, cidr.version)
    gateway = _gateway(values, cidr)
    subnet = Subnet(
        id=w.runtime.uuid(), network_id=network.id, project_id=values["project_id"], name=values["name"], description=values["description"],
        ip_version=cidr.version, cidr=str(cidr), gateway_ip=gateway, allocation_pools=_pools(values, cidr, gateway),
        enable_dhcp=values["enable_dhcp"], dns_nameservers=_name_servers(w, values.get("dns_nameservers")),
        host_routes=_routes(w, values.get("host_routes"), cidr.version), ipv6_ra_mode=values.get("ipv6_ra_mode") or None,
        ipv6_address_mode=values.get("ipv6_address_mode") or None, subnetpool_id=pool_id, service_types=values.get("service_types") or (),
        tags=values.get("tags", ()), created_at=w.now, updated_at=w.now, revision=1,
    )  # fmt: skip
    await rows.subnets.insert(w.tx, subnet)
    network = await networks.touch(w, network)
    w.wrote(subnet)
    await dhcp.ensure(w, network, [*siblings, subnet])
    return subnet


def _version(values: dict[str, Any]) -> int | None:
    found = values.get("ip_version", UNSET)
    return found if isinstance(found, int) else None


async def _pool_id(w: Work, values: dict[str, Any]) -> str | None:
    if values.get("use_default_subnetpool"):
        if isinstance(values.get("subnetpool_id", UNSET), str):
            raise BadResource("subnetpool_id and use_default_subnetpool cannot both be specified", resource="subnets")
        version = _version(values) or 4
        for pool in await rows.subnetpools.where(w.tx, is_default=True, ip_version=version):
            if w.elevated or pool.shared or pool.project_id == values["project_id"]:
                return pool.id
        raise BadResource(f"No default subnetpool found for IPv{version}", resource="subnets")
    found = values.get("subnetpool_id", UNSET)
    return found if isinstance(found, str) else None


async def _from_pool(w: Work, pool_id: str, values: dict[str, Any], version: int | None) -> str:
    pool = await rows.subnetpools.get(w.tx, pool_id)
    if pool is None or not (w.elevated or pool.shared or pool.project_id == values["project_id"]):
        raise SubnetPoolNotFound(id=pool_id)
    if version is not None and version != pool.ip_version:
        raise BadResource("Cannot allocate subnet of another IP version than its subnet pool's", resource="subnets")
    wanted = values.get("cidr", UNSET)
    length = values.get("prefixlen", UNSET)
    if isinstance(wanted, str) and isinstance(length, int):
        raise BadResource("cidr and prefixlen must not be supplied together", resource="subnets")
    if isinstance(values.get("allocation_pools", UNSET), (list, tuple)) and not isinstance(wanted, str):
        raise BadResource("allocation_pools allowed only for specific subnet requests", resource="subnets")
    length = ipam.cidr_of(wanted).prefixlen if isinstance(wanted, str) else length if isinstance(length, int) else pool.default_prefixlen
    if length < pool.min_prefixlen:
        raise PrefixLength(length=length, bound="minimum", limit=pool.min_prefixlen)
    if length > pool.max_prefixlen:
        raise PrefixLength(length=length, bound="maximum", limit=pool.max_prefixlen)
    others = await rows.subnets.where(w.tx, subnetpool_id=pool.id)
    taken = [subnet.cidr for subnet in others]
    _check_pool_quota(pool, [s for s in others if s.project_id == values["project_id"]], length)
    found = wanted if isinstance(wanted, str) and subnet_pools.has(pool.prefixes, taken, wanted) else None
    if isinstance(wanted, str) and found is None:
        raise SubnetAllocationError("Cannot allocate requested subnet from the available set of prefixes")
    found = found or subnet_pools.carve(pool.prefixes, taken, length, pool.ip_version)
    if found is None:
        raise SubnetAllocationError(f"Insufficient prefix space to allocate subnet size /{length}")
    new = msgspec.structs.replace(pool, updated_at=w.now, revision=pool.revision + 1)
    await rows.subnetpools.save(w.tx, pool, new)
    return found


def _check_pool_quota(pool: SubnetPool, own: list[Subnet], length: int) -> None:
    """default_quota counts addresses for IPv4 and /64 prefixes for IPv6."""
    if pool.default_quota is None:
        return
    unit = 32 if pool.ip_version == 4 else 64

    def size(prefixlen: int) -> int:
        return 1 << max(unit - prefixlen, 0)

    if sum(size(ipam.cidr_of(subnet.cidr).prefixlen) for subnet in own) + size(length) > pool.default_quota:
        raise SubnetAllocationError("Per-tenant subnet pool prefix quota exceeded")


def _gateway(values: dict[str, Any], cidr: ipam.Cidr) -> str | None:
    wanted = values.get("gateway_ip", UNSET)
    if wanted is None:
        return None
    if wanted is UNSET:
        return ipam.default_gateway(cidr)
    ipam.check_gateway(cidr, wanted)
    return str(wanted)


def _pools(values: dict[str, Any], cidr: ipam.Cidr, gateway: str | None) -> tuple[Pool, ...]:
    wanted = values.get("allocation_pools", UNSET)
    if wanted is UNSET or wanted is None:
        return ipam.default_pools(cidr, gateway)
    ipam.check_pools(cidr, wanted, gateway)
    return tuple(wanted)


def _check_modes(values: dict[str, Any], version: int) -> None:
    ra, address = values.get("ipv6_ra_mode", UNSET), values.get("ipv6_address_mode", UNSET)
    given = [mode for mode in (ra, address) if isinstance(mode, str)]
    if given and version == 4:
        raise InvalidInput("ipv6_ra_mode and ipv6_address_mode are not valid when ip_version is 4")
    if given and not values["enable_dhcp"]:
        raise InvalidInput("ipv6_ra_mode or ipv6_address_mode cannot be set when enable_dhcp is set to False")
    if len(given) == 2 and ra != address:
        raise InvalidInput(
            f"ipv6_ra_mode set to '{ra}' with ipv6_address_mode set to '{address}' is not valid. If both attributes are set, they must be "
            "the same value"
        )


def _name_servers(w: Work, found: Any) -> tuple[str, ...]:
    servers = () if found is UNSET or found is None else tuple(found)
    if len(servers) > w.default.max_dns_nameservers:
        raise InvalidInput(f"Too many DNS nameservers: at most {w.default.max_dns_nameservers} for one subnet")
    return servers


def _routes(w: Work, found: Any, version: int) -> tuple[model.Route, ...]:
    routes = () if found is UNSET or found is None else tuple(found)
    if len(routes) > w.default.max_subnet_host_routes:
        raise InvalidInput(f"Too many host routes: at most {w.default.max_subnet_host_routes} for one subnet")
    for route in routes:
        if ipam.cidr_of(route.destination).version != version or ipam.version_of(route.nexthop) != version:
            raise InvalidInput(f"host route {route.destination} via {route.nexthop} does not match the subnet's ip_version '{version}'")
    return routes


async def update(w: Work, old: Subnet, changes: dict[str, Any]) -> Subnet:
    cidr = ipam.cidr_of(old.cidr)
    simple = ("name", "description", "enable_dhcp", "service_types")
    fields: dict[str, Any] = {name: changes[name] for name in simple if name in changes}
    if "dns_nameservers" in changes:
        fields["dns_nameservers"] = _name_servers(w, changes["dns_nameservers"])
    if "host_routes" in changes:
        fields["host_routes"] = _routes(w, changes["host_routes"], old.ip_version)
    if "gateway_ip" in changes and changes["gateway_ip"] != old.gateway_ip:
        await _check_gateway_free(w, old)
        fields["gateway_ip"] = changes["gateway_ip"]
        if changes["gateway_ip"] is not None:
            ipam.check_gateway(cidr, changes["gateway_ip"])
    gateway = fields.get("gateway_ip", old.gateway_ip)
    pools = changes.get("allocation_pools", old.allocation_pools)
    if "allocation_pools" in changes or "gateway_ip" in fields:
        ipam.check_pools(cidr, pools, gateway)
        fields["allocation_pools"] = tuple(pools)
        w.hints.pop(old.id, None)
    new = msgspec.structs.replace(old, **fields, updated_at=w.now, revision=old.revision + 1)
    await rows.subnets.save(w.tx, old, new)
    w.wrote(new)
    network = await networks.touch(w, await networks.get(w, old.network_id))
    if new.enable_dhcp != old.enable_dhcp:
        siblings = await rows.subnets.where(w.tx, network_id=old.network_id)
        await dhcp.ensure(w, network, siblings)
    return new


async def _check_gateway_free(w: Work, subnet: Subnet) -> None:
    """The gateway of a subnet cannot change under the router that has it."""
    if subnet.gateway_ip is None:
        return
    port_id = await address_store.owner(w.tx, subnet.id, ipam.key_of(subnet.gateway_ip))
    if port_id is not None:
        raise SubnetInUse(
            id=subnet.id, reason=f"Current gateway ip {subnet.gateway_ip} already in use by port {port_id}. Unable to update."
        )


async def delete(w: Work, subnet: Subnet) -> None:
    await rows.networks.hold(w.tx, subnet.network_id)
    await rows.subnets.hold(w.tx, subnet.id)
    network = await networks.get(w, subnet.network_id)
    others = [other for other in await rows.subnets.where(w.tx, network_id=network.id) if other.id != subnet.id]
    await dhcp.ensure(w, network, others)
    if subnet.ipv6_address_mode in ipam.AUTO_ADDRESS_MODES:
        await _forget_auto_addresses(w, subnet)
    users = [port_id for port_id, owner in await address_store.owners_in(w.tx, subnet.id) if owner not in model.AUTO_DELETED]
    if users:
        raise SubnetInUse(id=subnet.id, reason="One or more ports have an IP allocation from this subnet.")
    await networks.remove_subnet(w, subnet)
    await networks.touch(w, network)


async def _forget_auto_addresses(w: Work, subnet: Subnet) -> None:
    """Addresses that guests made themselves do not keep a subnet from going; a router's does."""
    for port in await rows.ports.where(w.tx, network_id=subnet.network_id):
        gone = [fixed for fixed in port.fixed_ips if fixed.subnet_id == subnet.id]
        if gone and port.device_owner != model.ROUTER_INTERFACE:
            await addresses.free(w, gone)
            kept = tuple(fixed for fixed in port.fixed_ips if fixed not in gone)
            await ports.save(w, port, msgspec.structs.replace(port, fixed_ips=kept, updated_at=w.now, revision=port.revision + 1))


# ---- subnet pools


async def create_pool(w: Work, values: dict[str, Any]) -> SubnetPool:
    quotas.take(w, values["project_id"], "subnetpool")
    prefixes = subnet_pools.compact(values["prefixes"])
    if not prefixes:
        raise Invalid("a subnet pool needs at least one prefix", field="prefixes")
    version = _pool_version(prefixes)
    pool = SubnetPool(
        id=w.runtime.uuid(), project_id=values["project_id"], name=values["name"], description=values["description"], ip_version=version,
        prefixes=prefixes, **_lengths(values, version), default_quota=_plain(values.get("default_quota", UNSET), None),
        shared=values["shared"], is_default=values["is_default"], tags=values.get("tags", ()), created_at=w.now, updated_at=w.now,
        revision=1,
    )  # fmt: skip
    await _check_default_pool(w, pool)
    await rows.subnetpools.insert(w.tx, pool)
    return pool


def _plain(value: Any, default: Any) -> Any:
    return default if value is UNSET or value is None else value


def _pool_version(prefixes: tuple[str, ...]) -> int:
    versions = sorted({ipam.cidr_of(prefix).version for prefix in prefixes})
    if len(versions) > 1:
        raise Invalid("Cannot mix IPv4 and IPv6 prefixes in a subnet pool", field="prefixes")
    return versions[0]


def _lengths(values: dict[str, Any], version: int) -> dict[str, int]:
    longest = subnet_pools.MAX_LENGTH[version]
    low = _plain(values.get("min_prefixlen", UNSET), subnet_pools.MIN_LENGTH[version])
    high = _plain(values.get("max_prefixlen", UNSET), longest)
    middle = _plain(values.get("default_prefixlen", UNSET), low)
    for name, value in (("min_prefixlen", low), ("max_prefixlen", high), ("default_prefixlen", middle)):
        if value > longest:
            raise Invalid(f"{value} is longer than an IPv{version} address", field=name)
    if low > high:
        raise Invalid(f"Illegal subnetpool prefix bounds: min_prefixlen={low}, max_prefixlen={high}", field="min_prefixlen")
    if not low <= middle <= high:
        raise Invalid(
            f"Illegal subnetpool prefix bounds: default_prefixlen={middle} is not between min_prefixlen={low} and max_prefixlen={high}",
            field="default_prefixlen",
        )
    return {"default_prefixlen": middle, "min_prefixlen": low, "max_prefixlen": high}


async def _check_default_pool(w: Work, pool: SubnetPool) -> None:
    if pool.is_default:
        for other in await rows.subnetpools.where(w.tx, is_default=True, ip_version=pool.ip_version):
            if other.id != pool.id:
                raise InvalidInput(
                    f"A default subnetpool for this IP family has already been set. Only one default may exist per IP family: {other.id}"
                )


async def update_pool(w: Work, old: SubnetPool, changes: dict[str, Any]) -> SubnetPool:
    fields = {name: value for name, value in changes.items() if name in ("name", "description", "is_default", "default_quota", "shared")}
    lengths = {name: changes.get(name, getattr(old, name)) for name in ("default_prefixlen", "min_prefixlen", "max_prefixlen")}
    fields.update(_lengths(lengths, old.ip_version))
    if "prefixes" in changes:
        prefixes = subnet_pools.compact(changes["prefixes"])
        if not subnet_pools.covers(prefixes, old.prefixes):
            raise IllegalSubnetPoolPrefixUpdate("existing prefixes must be a subset of the new prefixes")
        if _pool_version(prefixes) != old.ip_version:
            raise Invalid("Cannot mix IPv4 and IPv6 prefixes in a subnet pool", field="prefixes")
        fields["prefixes"] = prefixes
    new = msgspec.structs.replace(old, **fields, updated_at=w.now, revision=old.revision + 1)
    await _check_default_pool(w, new)
    await rows.subnetpools.save(w.tx, old, new)
    return new


async def change_prefixes(w: Work, old: SubnetPool, *, add: tuple[str, ...] = (), remove: tuple[str, ...] = ()) -> SubnetPool:
    taken = [subnet.cidr for subnet in await rows.subnets.where(w.tx, subnetpool_id=old.id)]
    prefixes = subnet_pools.compact([*old.prefixes, *add])
    if remove:
        left = subnet_pools.free([*old.prefixes], remove)
        prefixes = subnet_pools.from_ranges(left, old.ip_version)
        if not subnet_pools.covers(prefixes, taken) or not prefixes:
            raise IllegalSubnetPoolPrefixUpdate("subnets are allocated from the prefixes to be removed")
    if _pool_version(prefixes) != old.ip_version:
        raise Invalid("Cannot mix IPv4 and IPv6 prefixes in a subnet pool", field="prefixes")
    new = msgspec.structs.replace(old, prefixes=prefixes, updated_at=w.now, revision=old.revision + 1)
    await rows.subnetpools.save(w.tx, old, new)
    return new


async def delete_pool(w: Work, pool: SubnetPool) -> None:
    if await rows.subnets.where(w.tx, subnetpool_id=pool.id):
        raise SubnetPoolDeleteError
    if not await rows.subnetpools.delete(w.tx, pool.id):
        raise SubnetPoolNotFound(id=pool.id)
    quotas.give(w, pool.project_id, "subnetpool")
