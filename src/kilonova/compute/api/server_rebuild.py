"""POST /servers/{id}/action, rebuild: a fresh disk of an image for the same server."""

from typing import Any

from msgspec import UNSET

from kilonova.compute.api import server_checks as checks
from kilonova.compute.api import server_views as views
from kilonova.compute.api.servers import find, status_for
from kilonova.compute.api.values import flag
from kilonova.compute.ops import rebuild as rebuild_op
from kilonova.compute.ops.verbs import guard
from kilonova.compute.service import ComputeService
from kilonova.compute.store import keypairs
from kilonova.core.context import Context
from kilonova.core.errors import BadRequest, Forbidden, NotImplementedHere
from kilonova.core.http import Reply, Request


async def rebuild(c: ComputeService, ctx: Context, req: Request, server_id: str, body: Any) -> Reply:
    server = await find(c, req, server_id)
    guard(ctx, server, "rebuild", "rebuild")
    wanted = body.rebuild
    if getattr(wanted, "personality", None):
        raise NotImplementedHere("File injection is not supported; use config_drive or user_data.")
    if wanted.preserve_ephemeral is not None and flag("preserve_ephemeral", wanted.preserve_ephemeral):
        raise BadRequest("Invalid input for field/attribute preserve_ephemeral. The hypervisors of this cloud cannot keep ephemeral disks.")
    if getattr(wanted, "trusted_image_certificates", None):
        req.authorize("os_compute_api:servers:rebuild:trusted_certs", {"project_id": server.project_id, "user_id": server.user_id})
    image = await checks.bootable(c, ctx, wanted.imageRef, "Cannot find image for rebuild")
    checks.fits(server.flavor, image)
    changes = {"image_id": image.id, "image_properties": checks.image_properties(image), **await _changes(c, ctx, wanted)}
    guest_image = checks.guest_image(image)
    assert guest_image is not None
    await rebuild_op.begin(c, ctx, server, guest_image, changes)
    return await _answer(c, req, server_id, wanted)


async def _changes(c: ComputeService, ctx: Context, wanted: Any) -> dict[str, Any]:
    """Columns of the server that the body sets."""
    out: dict[str, Any] = {}
    if wanted.name is not UNSET:
        out["name"] = checks.server_name(wanted.name)
    if wanted.metadata is not UNSET:
        most = (await c.quota_limits(ctx.project_id or ""))["metadata_items"]
        if 0 <= most < len(wanted.metadata):
            raise Forbidden(f"Maximum number of metadata items exceeds {most}")
        out["metadata"] = dict(wanted.metadata)
    for field, column, version in (("accessIPv4", "access_ip_v4", 4), ("accessIPv6", "access_ip_v6", 6)):
        value = getattr(wanted, field)
        if value is not UNSET:
            out[column] = checks.address(field, value, version)
    if wanted.disk_config is not UNSET:
        out["disk_config"] = checks.disk_config(wanted.disk_config)
    for field in ("description", "hostname", "user_data"):
        value = getattr(wanted, field, UNSET)
        if value is not UNSET:
            out[field] = value
    checks.user_data(out.get("user_data"))
    key_name = getattr(wanted, "key_name", UNSET)
    if key_name is not UNSET:
        keypair = None if key_name is None else await keypairs.get(c.api_db, ctx.user_id or "", key_name)
        if key_name is not None and keypair is None:
            raise BadRequest("Invalid key_name provided.")
        out["key_name"], out["public_key"] = (keypair.name, keypair.public_key) if keypair is not None else (None, None)
    return out


async def _answer(c: ComputeService, req: Request, server_id: str, wanted: Any) -> Reply:
    server = await find(c, req, server_id)
    document = views.detail(c, req, server, single=True, host_status=await status_for(c, req, server.host))
    document.pop("OS-EXT-SRV-ATTR:user_data", None)
    if req.version < (2, 75):
        views.trimmed(document, *(("key_name",) if req.version >= (2, 54) else ()))
    if req.version >= (2, 57):
        document["user_data"] = server.user_data
    if c.settings["api"].enable_instance_password:
        document["adminPass"] = wanted.adminPass or c.runtime.password(c.settings["DEFAULT"].password_length)
    return Reply({"server": document}, 202, {"location": document["links"][0]["href"]})
