"""POST /servers/{id}/action, createImage: a server's disk as an image."""

from typing import Any

from kilonova.compute.api.server_bodies import CreateImageAction
from kilonova.compute.api.servers import find
from kilonova.compute.api.values import name
from kilonova.compute.model import Server
from kilonova.compute.ops import snapshot as snapshot_op
from kilonova.compute.ops.verbs import guard
from kilonova.compute.service import ComputeService
from kilonova.core.context import Context
from kilonova.core.errors import Forbidden, NotFound
from kilonova.core.http import Reply, Request
from kilonova.image.contract import NewImage

_NOT_INHERITED = ("cache_in_nova", "bittorrent", "img_signature_hash_method", "img_signature", "img_signature_key_type",
                  "img_signature_certificate_uuid", "os_hash_algo", "os_hash_value")  # fmt: skip


async def create_image(c: ComputeService, ctx: Context, req: Request, server_id: str, body: CreateImageAction) -> Any:
    server = await find(c, req, server_id)
    guard(ctx, server, "snapshot", "createImage")
    wanted = body.create_image
    if req.version < (2, 39):
        most = (await c.quota_limits(ctx.project_id or ""))["metadata_items"]
        if 0 <= most < len(wanted.metadata):
            raise Forbidden(f"Maximum number of metadata items exceeds {most}")
    image = NewImage(
        id=c.runtime.uuid(),
        name=name("name", wanted.name),
        disk_format="qcow2",
        container_format="bare",
        visibility="private",
        min_disk=server.flavor.root_gb,
        min_ram=await _min_ram(c, ctx, server),
        properties=_properties(ctx, server, wanted.metadata),
    )
    await snapshot_op.begin(c, ctx, server, image)
    if req.version >= (2, 45):
        return {"image_id": image.id}
    return Reply(None, 202, {"location": f"{c.settings['glance'].endpoint_override.rstrip('/')}/images/{image.id}"})


async def _min_ram(c: ComputeService, ctx: Context, server: Server) -> int:
    """What the server's own image asked for, while it is still there."""
    try:
        return (await c.images.get(ctx, server.image_id)).min_ram if server.image_id else 0
    except NotFound:
        return 0


def _properties(ctx: Context, server: Server, metadata: dict[str, str]) -> dict[str, str]:
    """Those of the server's image, where it comes from, and on top of all what the client says."""
    inherited = {k: v for k, v in server.image_properties.items() if k not in _NOT_INHERITED}
    about = {
        "image_type": "snapshot",
        "instance_uuid": server.id,
        "base_image_ref": server.image_id or "",
        "user_id": ctx.user_id or "",
        "owner_id": server.project_id,
        "boot_roles": ",".join(ctx.roles),
    }
    return {**inherited, **about, **metadata}
