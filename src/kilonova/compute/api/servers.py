"""Servers: create, show, update, delete. Lists are in server_list.py, actions in server_actions.py, documents in server_views.py."""

import ipaddress
import re
from typing import Any

import msgspec

from kilonova.compute.api import server_checks as checks
from kilonova.compute.api import server_views as views
from kilonova.compute.api.server_bodies import NetworkRef
from kilonova.compute.api.server_list import host_status
from kilonova.compute.errors import CellSilent, ServerNotFound
from kilonova.compute.model import Flavor, Keypair, NicWish, Scheduling, Server
from kilonova.compute.ops import create as create_op
from kilonova.compute.ops import delete as delete_op
from kilonova.compute.service import ComputeService
from kilonova.compute.store import flavors, keypairs, mappings, servers
from kilonova.core.context import Context
from kilonova.core.db import Transaction
from kilonova.core.errors import BadRequest, Forbidden, NotImplementedHere
from kilonova.core.http import Reply, Request
from kilonova.image.contract import ImageInfo
from kilonova.network.contract import NicRequest

_RESERVATION = "abcdefghijklmnopqrstuvwxyz0123456789"
_UUID = re.compile(r"^[0-9a-fA-F]{8}-?([0-9a-fA-F]{4}-?){3}[0-9a-fA-F]{12}$")


async def find(c: ComputeService, req: Request, server_id: str, rule: str = "") -> Server:
    """The server, when it is the caller's (or he is admin) and the rule allows; 404 otherwise, as if it were not there."""
    server = await c.find(server_id)
    if server is None or not (req.ctx.is_admin or server.project_id == req.ctx.project_id):
        raise ServerNotFound(server=server_id[:64])
    req.authorize(rule or req.route.policy, {"project_id": server.project_id, "user_id": server.user_id})
    return server


async def status_for(c: ComputeService, req: Request, host: str | None) -> str | None:
    """host_status, for those who may see it (admins)."""
    if not req.ctx.is_admin:
        return None
    snapshot = await c.hosts.snapshot()
    at = snapshot.index.get(host or "")
    return "" if at is None else host_status(c, snapshot.hosts[at])


async def show(c: ComputeService, ctx: Context, req: Request, server_id: str) -> Reply:
    known = await _as_before(c, req, server_id)
    if known is not None:
        return Reply(b'{"server":' + known + b"}")
    try:
        server = await find(c, req, server_id)
    except CellSilent:
        if req.version < views.PARTIAL:
            raise
        return Reply({"server": await _partial(c, req, server_id)})
    document = views.rendered(c, req, server, single=True, host_status=await status_for(c, req, server.host))
    return Reply(b'{"server":' + bytes(document) + b"}")


async def _as_before(c: ComputeService, req: Request, server_id: str) -> bytes | None:
    """The document, when it has been made of the row as it is now. Who waits for a server asks again and again."""
    if not c.cells.only:
        return None
    key = views.cache_key(req, server_id, single=True)
    if not views.settled(c, key):
        return None  # one question for all of it
    seen = await servers.outline(c.cells.first.db, server_id)
    if seen is None or seen.deleted or not (req.ctx.is_admin or seen.project_id == req.ctx.project_id):
        return None
    req.authorize(req.route.policy, {"project_id": seen.project_id, "user_id": seen.user_id})
    return views.cached(c, key, seen.revision, await status_for(c, req, seen.host))


async def _partial(c: ComputeService, req: Request, server_id: str) -> dict[str, Any]:
    """A server whose cell does not answer, as far as the api side knows it."""
    mapping = await mappings.get(c.api_db, server_id)
    if mapping is None or not (req.ctx.is_admin or mapping.project_id == req.ctx.project_id):
        raise ServerNotFound(server=server_id[:64])
    outline = await mappings.outline(c.api_db, server_id)
    req.authorize(req.route.policy, {"project_id": mapping.project_id, "user_id": outline.user_id if outline else None})
    return views.partial(req, mapping.server_id, mapping.project_id, mapping.created_at, outline, single=True)


async def delete(c: ComputeService, ctx: Context, req: Request, server_id: str) -> None:
    await delete_op.begin(c, ctx, await find(c, req, server_id))


async def update(c: ComputeService, ctx: Context, req: Request, server_id: str, body: Any) -> Any:
    server = await find(c, req, server_id)
    wanted = body.server
    changes: dict[str, Any] = {}
    if wanted.name is not msgspec.UNSET:
        changes["name"] = checks.server_name(wanted.name)
    for field, column, version in (("accessIPv4", "access_ip_v4", 4), ("accessIPv6", "access_ip_v6", 6)):
        value = getattr(wanted, field)
        if value is not msgspec.UNSET:
            changes[column] = checks.address(field, value, version)
    if wanted.disk_config is not msgspec.UNSET:
        changes["disk_config"] = checks.disk_config(wanted.disk_config)
    for field in ("description", "hostname"):
        value = getattr(wanted, field, msgspec.UNSET)
        if value is not msgspec.UNSET:
            changes[field] = value

    if changes:
        await _write(c, server, changes)
    server = await c.find(server.id) or server
    document = views.detail(c, req, server, single=True, host_status=await status_for(c, req, server.host))
    if req.version < (2, 75):
        views.trimmed(document)
    return {"server": document}


async def _write(c: ComputeService, server: Server, changes: dict[str, Any]) -> None:
    """Into its row, or into its build request; into the row again when a host was found at this moment."""

    async def row(tx: Transaction) -> int:
        return await servers.update(tx, server.id, c.runtime.now_us(), **changes)

    async def written() -> bool:
        cell = await c.cells.of(server.id)
        return any([await one.db.transact(row) for one in ([cell] if cell is not None else c.cells.faces) if not one.why])

    if not await written():
        changed = msgspec.structs.replace(server, **changes)
        await c.api_db.transact(lambda tx: mappings.update_request(tx, changed))
        await written()


def _hostname(name: str) -> str:
    """A host name out of a display name, as Nova makes it."""
    text = re.sub(r"[^\w.\-]+", "", re.sub(r"[ _]", "-", name.encode("ascii", "ignore").decode())).lower().strip(".-")
    return text[:63].rstrip("-.") if text else ""


def _count(field: str, value: Any) -> int:
    text = str(value)
    if not (text.isascii() and text.isdigit()) or len(text) > 6 or int(text) < 1:
        raise BadRequest(f"Invalid input for field/attribute {field}. Value: {text[:50]}. It is a whole number from 1 on.")
    return int(text)


async def create(c: ComputeService, ctx: Context, req: Request, body: Any) -> Reply:
    """Checks in Nova's order; then all of it is accepted in one transaction."""
    s = body.server
    if req.version >= (2, 57) and s.personality:
        raise BadRequest("Invalid input for field/attribute server. Additional properties are not allowed ('personality' was unexpected)")
    if s.personality:
        raise NotImplementedHere("File injection is not supported; use config_drive or user_data.")
    if req.version >= (2, 37) and s.networks is None:
        raise BadRequest("Invalid input for field/attribute server. 'networks' is a required property")
    name = checks.server_name(s.name)
    zone, forced_host, forced_node = _zone(req, s)
    low = _count("min_count", s.min_count)
    high = _count("max_count", s.max_count) if s.max_count is not None else low
    if low > high:
        raise BadRequest("min_count must be <= max_count")
    await _known_zone(c, zone, forced_host, forced_node)
    hints = _hints(body.hints or body.old_hints or {})
    image = await _image(c, ctx, s)
    flavor = await _flavor(c, ctx, str(s.flavorRef))
    checks.fits(flavor, image)
    _block_devices(s, image)
    keypair = None
    if s.key_name is not None:
        keypair = await keypairs.get(c.api_db, ctx.user_id or "", s.key_name)
        if keypair is None:
            raise BadRequest("Invalid key_name provided.")
    checks.user_data(s.user_data)
    limits = await c.quota_limits(ctx.project_id or "")
    if 0 <= limits["metadata_items"] < len(s.metadata):
        raise Forbidden(f"Maximum number of metadata items exceeds {limits['metadata_items']}")
    networks, auto = _networks(req, s.networks)
    if high > 1 and any(n.port_id or n.fixed_ip for n in networks):
        raise BadRequest("Unable to launch multiple instances with a single configured port ID or fixed IP.")
    groups = tuple(dict.fromkeys(g.name for g in s.security_groups))
    wishes = tuple(NicRequest(network_id=n.network_id, port_id=n.port_id, fixed_ip=n.fixed_ip, tag=n.tag) for n in networks)
    await c.network.validate(ctx, wishes, auto, groups, high)
    first = _first(c, ctx, s, name=name, zone=zone, flavor=flavor, image=image, keypair=keypair, groups=groups, hints=hints)
    made = [first if high == 1 else _copy(c, s, first, i) for i in range(high)]
    args = create_op.CreateArgs(
        networks=networks, auto=auto, image=checks.guest_image(image), host=forced_host, hypervisor_hostname=forced_node
    )
    if low < high:
        made = await _as_many_as_fit(c, ctx, made, low, limits)
    accepted = await create_op.begin(c, ctx, made, args, limits)
    if checks.flag("return_reservation_id", s.return_reservation_id):
        return Reply({"reservation_id": first.reservation_id}, 202)
    first = accepted[0]
    links = views.links(req, "servers", first.id)
    document: dict[str, Any] = {
        "id": first.id,
        "links": links,
        "OS-DCF:diskConfig": first.disk_config,
        "security_groups": [{"name": g} for g in groups or ("default",)],
    }
    if c.settings["api"].enable_instance_password:
        document["adminPass"] = s.adminPass or c.runtime.password(c.settings["DEFAULT"].password_length)
    return Reply({"server": document}, 202, {"location": links[0]["href"]})


def _first(
    c: ComputeService,
    ctx: Context,
    s: Any,
    *,
    name: str,
    zone: str | None,
    flavor: Flavor,
    image: ImageInfo | None,
    keypair: Keypair | None,
    groups: tuple[str, ...],
    hints: dict[str, Any],
) -> Server:
    """The server that a body asks for; the fields that no other check has looked at are looked at here."""
    now = c.runtime.now_us()
    ident = c.runtime.uuid()
    return Server(
        id=ident,
        number=0,
        revision=1,
        generation=create_op.GENERATION,
        project_id=ctx.project_id or "",
        user_id=ctx.user_id or "",
        name=name,
        hostname=getattr(s, "hostname", None) or _hostname(name) or f"server-{ident}",
        description=getattr(s, "description", None),
        created_at=now,
        updated_at=now,
        launched_at=None,
        terminated_at=None,
        deleted=False,
        state="building",
        task="scheduling",
        power_state=0,
        host=None,
        node=None,
        availability_zone=zone,
        pinned_availability_zone=zone,
        flavor=flavor,
        image_id=image.id if image else None,
        image_properties=checks.image_properties(image),
        key_name=keypair.name if keypair else None,
        public_key=keypair.public_key if keypair else None,
        metadata=dict(s.metadata),
        tags=tuple(sorted(set(getattr(s, "tags", ())))),
        access_ip_v4=checks.address("accessIPv4", s.accessIPv4, 4),
        access_ip_v6=checks.address("accessIPv6", s.accessIPv6, 6),
        config_drive=checks.flag("config_drive", s.config_drive),
        user_data=s.user_data,
        security_groups=groups,
        nics=(),
        scheduler_hints=hints,
        scheduling=Scheduling(),
        reservation_id="r-" + "".join(_RESERVATION[byte % 36] for byte in c.runtime.token_bytes(8)),
        launch_index=0,
        disk_config=checks.disk_config(s.disk_config),
        locked_by=None,
        locked_reason=None,
        fault=None,
    )


def _copy(c: ComputeService, s: Any, first: Server, index: int) -> Server:
    """One of several that a request asks for: they are numbered from 1."""
    name = f"{first.name}-{index + 1}"
    ident = c.runtime.uuid()
    hostname = getattr(s, "hostname", None) or _hostname(name) or f"server-{ident}"
    return msgspec.structs.replace(first, id=ident, name=name, hostname=hostname, launch_index=index)


async def _as_many_as_fit(c: ComputeService, ctx: Context, made: list[Server], least: int, limits: dict[str, int]) -> list[Server]:
    """Between min_count and max_count: as many as the quota still allows."""
    used = await mappings.usage(c.api_db, ctx.project_id or "")
    room = len(made)
    flavor = made[0].flavor
    for name, limit, each in (
        ("instances", limits["instances"], 1),
        ("cores", limits["cores"], flavor.vcpus),
        ("ram_mb", limits["ram"], flavor.ram_mb),
    ):
        if limit >= 0 and each:
            room = min(room, (limit - used[name]) // each)
    return made[: max(room, least)]


def _zone(req: Request, s: Any) -> tuple[str | None, str | None, str | None]:
    """(zone, host, hypervisor): zone:host:node and the fields of 2.74 are for admins."""
    target = {"project_id": req.ctx.project_id, "user_id": req.ctx.user_id}
    zone, host, node = s.availability_zone, None, None
    if zone and ":" in zone:
        req.authorize("os_compute_api:servers:create:forced_host", target)
        parts = zone.split(":")
        if len(parts) > 3:
            raise BadRequest("Unable to parse availability_zone: it is zone[:host[:node]].")
        zone, host, node = parts[0] or None, parts[1] or None, parts[2] if len(parts) == 3 and parts[2] else None
    for field in ("host", "hypervisor_hostname"):
        if getattr(s, field, None):
            req.authorize("compute:servers:create:requested_destination", target)
    return zone, getattr(s, "host", None) or host, getattr(s, "hypervisor_hostname", None) or node


async def _known_zone(c: ComputeService, zone: str | None, host: str | None, node: str | None) -> None:
    if zone is None and host is None and node is None:
        return
    hosts = (await c.hosts.snapshot()).hosts
    if zone is not None and zone not in {h.availability_zone for h in hosts}:
        raise BadRequest("The requested availability zone is not available")
    if host is not None and host not in {h.host for h in hosts}:
        raise BadRequest(f"Compute host {host} could not be found.")
    if node is not None and node not in {h.hypervisor_hostname for h in hosts}:
        raise BadRequest(f"Compute node {node} could not be found.")


def _hints(hints: dict[str, Any]) -> dict[str, Any]:
    if len(hints) > 50 or len(msgspec.json.encode(hints)) > 16384:
        raise BadRequest("Invalid input for field/attribute os:scheduler_hints. There are more than 50, or they are longer than 16 KiB.")
    group = hints.get("group")
    if group is not None:
        if not isinstance(group, str) or not _UUID.match(group):
            raise BadRequest(
                f"Invalid input for field/attribute group. Value: {group}. '{group}' is not valid under any of the given schemas"
            )
        raise BadRequest(f"Instance group {group} could not be found.")
    return hints


async def _image(c: ComputeService, ctx: Context, s: Any) -> ImageInfo | None:
    ref = s.imageRef
    if not ref:
        for device in s.block_device_mapping_v2:
            if device.source_type == "image" and device.destination_type == "local" and str(device.boot_index) == "0":
                ref = device.uuid or ""
    if not ref:
        raise BadRequest(
            "Invalid imageRef provided." if not s.block_device_mapping_v2 else "Block Device Mapping is Invalid: no bootable local image."
        )
    return await checks.bootable(c, ctx, ref.rpartition("/")[2])


async def _flavor(c: ComputeService, ctx: Context, ref: str) -> Flavor:
    flavor = await flavors.get(c.api_db, ref.rpartition("/")[2] or ref)
    if (
        flavor is None
        or flavor.disabled
        or not (flavor.is_public or ctx.is_admin or await flavors.may_use(c.api_db, flavor.id, ctx.project_id or ""))
    ):
        raise BadRequest(f"Flavor {ref[:255]} could not be found.")
    return flavor


def _block_devices(s: Any, image: ImageInfo | None) -> None:
    if s.block_device_mapping:
        raise BadRequest("Block Device Mapping is Invalid: volumes are not available in this cloud yet.")
    for device in s.block_device_mapping_v2:
        if device.source_type == "image" and (device.destination_type or "local") == "local" and str(device.boot_index) == "0":
            if image is not None and device.uuid != image.id:
                raise BadRequest("Block Device Mapping is Invalid: the device of boot index 0 names another image than imageRef.")
        elif device.source_type == "blank" and (device.destination_type or "local") == "local":
            raise BadRequest("Block Device Mapping is Invalid: give ephemeral and swap disks by the flavor.")
        else:
            raise BadRequest("Block Device Mapping is Invalid: volumes are not available in this cloud yet.")


def _networks(req: Request, wanted: list[NetworkRef] | str | None) -> tuple[tuple[NicWish, ...], str]:
    """What was asked for, and "auto", "none" or "" for a list (an empty one: whatever the project has)."""
    if isinstance(wanted, str):
        if wanted not in ("auto", "none") or req.version < (2, 37):
            raise BadRequest(f"Invalid input for field/attribute networks. Value: {wanted[:50]}. '{wanted[:50]}' is not of type 'array'")
        return (), wanted
    out = []
    seen: set[str] = set()
    for n in wanted or ():
        if n.port is not None:
            if not _UUID.match(n.port):
                raise BadRequest(f"Invalid input for field/attribute port. Value: {n.port[:64]}. '{n.port[:64]}' is not a 'uuid'")
            if n.port in seen:
                raise BadRequest(f"Port {n.port} is requested more than once.")
            seen.add(n.port)
            out.append(NicWish(port_id=n.port, tag=n.tag))
            continue
        if n.uuid is None:
            raise BadRequest("Invalid input for field/attribute networks. Each needs uuid or port.")
        if not _UUID.match(n.uuid):
            raise BadRequest(f"Bad networks format: network uuid is not in proper format ({n.uuid[:64]})")
        if n.fixed_ip is not None:
            try:
                ipaddress.ip_address(n.fixed_ip)
            except ValueError:
                raise BadRequest(
                    f"Invalid input for field/attribute fixed_ip. Value: {n.fixed_ip[:64]}. '{n.fixed_ip[:64]}' is not an IP address"
                ) from None
        out.append(NicWish(network_id=n.uuid, fixed_ip=n.fixed_ip, tag=n.tag))
    return tuple(out), ""
